//! The text of statements to [`Statement`]s: PostgreSQL's dialect and our own statements, on sqlparser's tokens. What
//! is not served is refused here by name, with its place.

mod declare;
mod names;
mod statement;
mod transaction;
mod words;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

pub use datafusion::sql::sqlparser::ast;
pub use words::fold;

use crate::error::{Error, Location, Result};

/// Bytes of one text of statements: what a person may paste, far below what would exhaust the parser.
pub const TEXT_BYTES_MAX: usize = 16 << 20;

/// One statement of the text sent.
#[derive(Clone, Debug)]
pub struct Parsed {
    pub statement: Statement,
    /// The statement's own text, without the semicolon.
    pub text: String,
    /// The whole text it came in; positions of errors count from its start.
    pub source: Arc<str>,
}

/// A name as written: identifiers folded to lower case unless quoted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    /// One to three (or, for topics, more) parts; never empty.
    pub parts: Vec<String>,
    pub location: Option<Location>,
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.parts.join("."))
    }
}

/// A query with the text that its places refer to.
#[derive(Clone, Debug)]
pub struct Query {
    pub ast: Box<ast::Query>,
    /// Its own text.
    pub text: String,
    pub source: Arc<str>,
}

/// `WITH (name = value, …)`: names in lower case, values as text; and where each name stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options(pub BTreeMap<String, String>, pub BTreeMap<String, Location>);

#[derive(Clone, Debug)]
pub struct ColumnDef {
    pub name: String,
    pub sql_type: ast::DataType,
    pub not_null: bool,
    pub location: Option<Location>,
}

#[derive(Clone, Debug)]
pub struct CreateSource {
    pub name: Name,
    pub if_not_exists: bool,
    pub options: Options,
}

#[derive(Clone, Debug)]
pub struct CreateTable {
    pub name: Name,
    pub if_not_exists: bool,
    /// Empty: the columns are the format's own.
    pub columns: Vec<ColumnDef>,
    /// Names of declared columns, in the key's order; empty without a primary key.
    pub primary_key: Vec<String>,
    pub options: Options,
}

#[derive(Clone, Debug)]
pub struct CreateView {
    pub name: Name,
    pub if_not_exists: bool,
    /// `CREATE MATERIALIZED VIEW v (a, b) AS …`: other names for the query's columns; empty when none are given.
    pub columns: Vec<String>,
    pub options: Options,
    pub query: Query,
}

#[derive(Clone, Debug)]
pub struct CreateSink {
    pub name: Name,
    pub if_not_exists: bool,
    pub from: Name,
    pub options: Options,
}

#[derive(Clone, Debug)]
pub struct Insert {
    pub table: Name,
    /// Empty: all columns in order.
    pub columns: Vec<String>,
    pub query: Query,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropKind {
    Source,
    Table,
    /// `DROP MATERIALIZED VIEW` and `DROP VIEW`.
    View,
    Sink,
}

#[derive(Clone, Debug)]
pub struct Drop {
    pub kind: DropKind,
    pub names: Vec<Name>,
    pub if_exists: bool,
}

/// What `SHOW` can list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Show {
    Sources,
    Tables,
    Views,
    Sinks,
    Jobs,
    Topics,
    /// `SHOW ALL`.
    AllSettings,
    /// A setting by its name in lower case; `SHOW TIME ZONE` is `timezone`, `SHOW TRANSACTION ISOLATION LEVEL` is
    /// `transaction_isolation`.
    Setting(String),
}

/// What BEGIN and SET TRANSACTION ask for. There is one isolation level, READ COMMITTED.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Modes {
    /// READ ONLY or READ WRITE, where one is said.
    pub read_only: Option<bool>,
}

/// A statement that only touches the session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Set {
    /// `None` is DEFAULT, as is RESET. `local`: until the transaction ends.
    Setting { name: String, value: Option<String>, local: bool },
    /// `RESET ALL`.
    ResetAll,
    /// `SET TRANSACTION …`: of the transaction that is open.
    Transaction(Modes),
    /// `SET SESSION CHARACTERISTICS AS TRANSACTION …`: of those to come.
    Characteristics(Modes),
}

#[derive(Clone, Debug)]
pub enum Statement {
    CreateSource(CreateSource),
    CreateTable(CreateTable),
    CreateView(CreateView),
    CreateSink(CreateSink),
    Insert(Insert),
    Drop(Drop),
    /// SELECT, VALUES, TABLE, WITH.
    Query(Query),
    /// The plan of a query, or of a CREATE MATERIALIZED VIEW's query as a streaming plan.
    Explain(Box<Parsed>),
    Show(Show),
    Set(Set),
    Begin(Modes),
    Commit,
    Rollback,
    /// Forget the session's state.
    Discard,
    /// A prepared statement by name, or all.
    Deallocate(Option<String>),
    /// Accepted without effect (`UNLISTEN *`, `CLOSE ALL`); the command tag to answer with.
    Nothing(&'static str),
}

impl Options {
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Takes an option out, so that what is left can be refused or handed on.
    pub fn take(&mut self, name: &str) -> Option<String> {
        self.0.remove(name)
    }

    /// Refuses what nobody took.
    pub fn finish(&self, known: &[&str]) -> Result<()> {
        let Some(name) = self.0.keys().next() else { return Ok(()) };
        let mut error =
            Error::new(crate::error::sqlstate::INVALID_PARAMETER_VALUE, format!("unknown option \"{name}\""));
        if let Some(near) = crate::error::nearest(name, known.iter().copied()) {
            error = error.hint(format!("did you mean \"{near}\"?"));
        } else if !known.is_empty() {
            error = error.hint(format!("options here: {}", known.join(", ")));
        }
        Err(error.at(self.place(name)))
    }

    pub fn place(&self, name: &str) -> Option<Location> {
        self.1.get(name).copied()
    }

    /// The place of the first of the options left that `text` names.
    pub fn place_named(&self, text: &str) -> Option<Location> {
        self.0.keys().find(|name| text.contains(name.as_str())).and_then(|name| self.place(name))
    }
}

/// All statements of `text`, in order; empty ones are left out. Any error names its place in `text`.
pub fn parse(text: &str) -> Result<Vec<Parsed>> {
    statement::parse_all(text)
}

/// The one query that `text` is: how stored definitions are read back.
pub fn parse_query(text: &str) -> Result<Query> {
    let mut all = parse(text)?;
    match (all.len(), all.pop().map(|p| p.statement)) {
        (1, Some(Statement::Query(query))) => Ok(query),
        _ => Err(Error::new(crate::error::sqlstate::SYNTAX_ERROR, "one query was expected")),
    }
}

/// A type by its name, as `numeric(10,2)`.
pub fn parse_type(text: &str) -> Result<ast::DataType> {
    statement::parse_type(text)
}
