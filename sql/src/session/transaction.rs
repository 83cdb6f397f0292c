//! [`Block`]: where a session stands between BEGIN and COMMIT, or within a text of several statements, and what may be
//! said there.
//!
//! Rows inserted in a transaction are gathered and written when it commits, in one log transaction. What rests on them is
//! not readable before: in a block that is an error; in a text of several statements, which is one transaction without
//! BEGIN, the rows are written first, and a notice says so. A definition takes effect at once and cannot be undone: a
//! block refuses it, in a text it writes the rows before it too.

use std::collections::BTreeSet;

use super::insert::Buffered;
use super::settings::Settings;
use crate::catalog::{Kind, Objects};
use crate::error::{Error, Result, sqlstate};
use crate::parse::{DropKind, Modes, Statement};
use crate::query::relation::{Relation, Rows};

/// Where a session stands with BEGIN and COMMIT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transaction {
    Idle,
    Open,
    /// A statement failed; until ROLLBACK nothing else is done.
    Failed,
}

/// See the module.
pub struct Block {
    pub state: Transaction,
    /// Within a text of several statements, outside of BEGIN and COMMIT.
    pub text: bool,
    /// Rows inserted so far.
    pub buffered: Buffered,
}

impl Default for Block {
    fn default() -> Self {
        Self { state: Transaction::Idle, text: false, buffered: Buffered::default() }
    }
}

/// What a statement changes, by its command tag; `None` for those that change nothing durable.
fn changes(statement: &Statement) -> Option<(&'static str, bool)> {
    let definition = |tag| Some((tag, true));
    match statement {
        Statement::Insert(_) => Some(("INSERT", false)),
        Statement::CreateSource(_) => definition("CREATE SOURCE"),
        Statement::CreateTable(_) => definition("CREATE TABLE"),
        Statement::CreateView(_) => definition("CREATE MATERIALIZED VIEW"),
        Statement::CreateSink(_) => definition("CREATE SINK"),
        Statement::Drop(drop) => definition(match drop.kind {
            DropKind::Source => "DROP SOURCE",
            DropKind::Table => "DROP TABLE",
            DropKind::View => "DROP MATERIALIZED VIEW",
            DropKind::Sink => "DROP SINK",
        }),
        _ => None,
    }
}

impl Block {
    /// Whether inserted rows wait for an end.
    pub fn gathers(&self) -> bool {
        self.state == Transaction::Open || self.text
    }

    /// A statement has failed: what the transaction has gathered is gone.
    pub fn fail(&mut self) {
        if self.state == Transaction::Open {
            self.state = Transaction::Failed;
        }
        self.text = false;
        self.buffered = Buffered::default();
    }

    /// Whether the statement may be carried out here.
    pub fn admit(&self, statement: &Statement, settings: &Settings) -> Result<()> {
        let ends = matches!(statement, Statement::Commit | Statement::Rollback);
        if self.state == Transaction::Failed && !ends {
            let message = "current transaction is aborted, commands ignored until end of transaction block";
            return Err(Error::new(sqlstate::IN_FAILED_SQL_TRANSACTION, message));
        }
        let Some((tag, definition)) = changes(statement) else { return Ok(()) };
        let read_only = match self.state {
            Transaction::Open => "transaction_read_only",
            _ => "default_transaction_read_only",
        };
        if settings.is_on(read_only) {
            let message = format!("cannot execute {tag} in a read-only transaction");
            return Err(Error::new(sqlstate::READ_ONLY_SQL_TRANSACTION, message));
        }
        if definition && self.state == Transaction::Open {
            return Err(Error::new(
                sqlstate::ACTIVE_SQL_TRANSACTION,
                format!("{tag} cannot run inside a transaction block"),
            )
            .hint("a definition takes effect at once and cannot be rolled back: run it outside, or use autocommit"));
        }
        Ok(())
    }

    /// BEGIN. What a text has inserted before belongs to the transaction.
    pub fn begin(&mut self, modes: Modes, settings: &mut Settings) -> Result<()> {
        if self.state == Transaction::Idle {
            let read_only = settings.is_on("default_transaction_read_only");
            set_modes(Modes { read_only: Some(read_only) }, settings)?;
        }
        self.state = Transaction::Open;
        set_modes(modes, settings)
    }

    /// The first of `relations` that rests on rows this transaction has inserted.
    pub fn inserted_among<'a>(
        &self,
        objects: &Objects,
        relations: impl IntoIterator<Item = &'a Relation>,
    ) -> Option<&'a Relation> {
        let topics: BTreeSet<log::TopicId> = self.buffered.topics().collect();
        if topics.is_empty() {
            return None;
        }
        relations.into_iter().find(|relation| match (&relation.rows, relation.id()) {
            (_, Some(id)) => rests_on(objects, id, &topics),
            (Rows::Appended { topic, .. }, None) => topics.contains(&topic.id),
            (Rows::Stored(_), None) => false,
        })
    }
}

/// The modes of the transaction that is open.
pub fn set_modes(modes: Modes, settings: &mut Settings) -> Result<()> {
    match modes.read_only {
        Some(on) => settings.set("transaction_read_only", Some(if on { "on" } else { "off" }), true),
        None => Ok(()),
    }
}

/// Whether the table or view takes rows, over whatever views, from one of the topics.
fn rests_on(objects: &Objects, id: engine::graph::RelationId, topics: &BTreeSet<log::TopicId>) -> bool {
    let (mut open, mut seen) = (vec![id], BTreeSet::new());
    while let Some(id) = open.pop() {
        let Some(object) = objects.get(id).filter(|_| seen.insert(id)) else { continue };
        if matches!(&object.kind, Kind::Table(table) if topics.contains(&table.topic_id)) {
            return true;
        }
        open.extend(object.depends_on.iter().copied());
    }
    false
}

/// Reading what a block has inserted.
pub fn not_yet_written(relation: &str) -> Error {
    Error::unsupported(format!("reading {relation} after inserting into what it rests on, in the same transaction,"))
        .detail("rows inserted in a transaction are written when it commits")
        .hint("COMMIT first, or use autocommit")
}

/// The same in a text of several statements.
pub fn written_early(relation: &str) -> Error {
    Error::new(sqlstate::SUCCESSFUL_COMPLETION, format!("rows inserted so far are committed: {relation} is read next"))
}
