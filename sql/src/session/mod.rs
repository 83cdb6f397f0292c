//! [`Session`]: one client's conversation, whatever it comes in by: statements are parsed, prepared and executed.

mod ddl;
mod drop;
mod insert;
mod names;
mod options;
mod server;
mod settings;
mod show;
mod sources;
mod topics;
mod transaction;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::ScalarValue;

use crate::error::{Error, Result, sqlstate};
use crate::parse::{self, Insert, Parsed, Query, Set, Show, Statement};
pub use crate::query::BatchStream;
use crate::query::Planned;
use names::SessionNames;
pub use server::{Server, ServerConfig, SourceReport};
use settings::Settings;
use transaction::Block;
pub use transaction::Transaction;

/// What an executed statement gives.
pub enum Outcome {
    Rows {
        batches: BatchStream,
        /// `SELECT` gets the number of rows behind it.
        tag: &'static str,
    },
    Done {
        tag: String,
        notices: Vec<Error>,
    },
    /// The client's prepared statements are to be forgotten.
    Forget(Forget, &'static str),
    Empty,
}

impl Outcome {
    fn done(tag: impl Into<String>) -> Self {
        Self::Done { tag: tag.into(), notices: Vec::new() }
    }
}

/// Which prepared statements to forget.
pub enum Forget {
    All,
    Statement(String),
}

/// A statement that can be executed, any number of times.
pub struct Prepared {
    parsed: Option<Parsed>,
    planned: Option<Arc<Planned>>,
    /// PostgreSQL oids.
    pub parameters: Vec<u32>,
    /// The parameter types that the client gave.
    declared: Vec<u32>,
    /// Columns of the result, where there is one.
    pub columns: Option<SchemaRef>,
    executed: AtomicBool,
}

impl Prepared {
    /// A text without a statement.
    pub fn empty() -> Self {
        Self {
            parsed: None,
            planned: None,
            parameters: Vec::new(),
            declared: Vec::new(),
            columns: None,
            executed: AtomicBool::new(false),
        }
    }
}

/// One client's conversation.
pub struct Session {
    server: Arc<Server>,
    database: Arc<str>,
    user: Arc<str>,
    settings: Settings,
    block: Block,
    /// What there is to say besides the results.
    notices: Vec<Error>,
}

/// Longest wait for a relation that has not caught up, when the setting says none.
const WAIT_MAX: Duration = Duration::from_secs(3600);

impl Session {
    /// Opens a session by the client's start-up parameters: `user`, `database`, settings.
    pub fn open(server: &Arc<Server>, parameters: &[(String, String)]) -> Result<Self> {
        let get = |name: &str| parameters.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str());
        let user = get("user").ok_or_else(|| {
            Error::new(sqlstate::INVALID_AUTHORIZATION, "no PostgreSQL user name specified in startup packet")
        })?;
        let database = server.database(get("database").filter(|d| !d.is_empty()), user)?;
        let mut settings = Settings::new(user);
        for (name, value) in parameters {
            match name.as_str() {
                "user" | "database" | "replication" => {}
                "options" => start_options(value, &mut settings),
                _ => settings.set_at_start(name, value),
            }
        }
        Ok(Self {
            server: Arc::clone(server),
            database: database.into(),
            user: user.into(),
            settings,
            block: Block::default(),
            notices: Vec::new(),
        })
    }

    pub fn server(&self) -> &Arc<Server> {
        &self.server
    }

    pub fn transaction(&self) -> Transaction {
        self.block.state
    }

    /// What there is to say besides the results, since the last call.
    pub fn take_notices(&mut self) -> Vec<Error> {
        std::mem::take(&mut self.notices)
    }

    /// A text of several statements begins: outside of BEGIN and COMMIT it is one transaction.
    pub fn begin_text(&mut self) {
        self.block.text = true;
    }

    /// All statements of the text are carried out: what they have inserted is written.
    pub async fn end_text(&mut self) -> Result<()> {
        self.block.text = false;
        if self.block.state == Transaction::Idle { self.write_inserted().await } else { Ok(()) }
    }

    /// Settings that a client is told when it starts.
    pub fn reported(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.settings.reported()
    }

    /// Settings that have changed since the last call and that a client is told of.
    pub fn take_changed(&mut self) -> Vec<(&'static str, String)> {
        self.settings.take_changed()
    }

    pub fn statement_timeout(&self) -> Option<Duration> {
        self.settings.time("statement_timeout")
    }

    pub fn parse(&self, text: &str) -> Result<Vec<Parsed>> {
        parse::parse(text)
    }

    /// A statement has failed: an open transaction fails with it.
    pub fn fail(&mut self) {
        self.block.fail();
    }

    /// Makes a statement ready: names resolved, types found. `declared` are the client's parameter types.
    pub async fn prepare(&mut self, mut parsed: Parsed, declared: &[u32]) -> Result<Prepared> {
        if self.block.state == Transaction::Failed {
            self.block.admit(&parsed.statement, &self.settings)?;
        }
        let mut prepared = Prepared::empty();
        match &mut parsed.statement {
            Statement::Query(query) => self.plan_into(&mut prepared, query, declared).await?,
            Statement::Insert(insert) => {
                let declared = insert::declare(&self.server, &self.database, insert, declared)?;
                insert.query =
                    insert::typed(&self.server, &self.database, insert).map_err(|e| e.within(&insert.query.source))?;
                self.plan_into(&mut prepared, &insert.query, &declared).await?;
                prepared.columns = None;
            }
            Statement::Explain(_) => prepared.columns = Some(text_columns(&["QUERY PLAN"])),
            Statement::Show(what) => prepared.columns = Some(show::columns(what)?),
            _ => {}
        }
        prepared.parsed = Some(parsed);
        Ok(prepared)
    }

    async fn plan_into(&self, prepared: &mut Prepared, query: &Query, declared: &[u32]) -> Result<()> {
        let planned = self.server.queries.plan(query, self.names(), declared).await?;
        prepared.parameters = planned.parameters.iter().map(|(oid, _)| *oid).collect();
        prepared.columns = Some(Arc::clone(&planned.schema));
        prepared.declared = declared.to_vec();
        prepared.planned = Some(planned);
        Ok(())
    }

    fn names(&self) -> Arc<SessionNames> {
        let (server, database) = (Arc::clone(&self.server), Arc::clone(&self.database));
        Arc::new(SessionNames { server, database, user: Arc::clone(&self.user), settings: self.settings.clone() })
    }

    /// Executes a prepared statement.
    pub async fn execute(&mut self, prepared: &Prepared, parameters: Vec<ScalarValue>) -> Result<Outcome> {
        let Some(parsed) = &prepared.parsed else { return Ok(Outcome::Empty) };
        self.block.admit(&parsed.statement, &self.settings)?;
        match &parsed.statement {
            Statement::Query(query) => {
                let batches = self.select(prepared, query, parameters).await?;
                Ok(Outcome::Rows { batches, tag: "SELECT" })
            }
            Statement::Explain(inner) => self.explain(inner).await,
            Statement::Show(what) => self.show(what),
            Statement::Insert(insert) => self.insert(insert, prepared, parameters).await,
            Statement::Set(set) => self.set(set),
            Statement::Begin(modes) => {
                let again = self.block.state == Transaction::Open;
                self.block.begin(*modes, &mut self.settings)?;
                let warn =
                    || Error::new(sqlstate::ACTIVE_SQL_TRANSACTION, "there is already a transaction in progress");
                Ok(Outcome::Done { tag: "BEGIN".into(), notices: again.then(warn).into_iter().collect() })
            }
            Statement::Commit => self.commit().await,
            Statement::Rollback => Ok(self.roll_back()),
            Statement::Discard => {
                self.settings.reset_all();
                Ok(Outcome::Forget(Forget::All, "DISCARD ALL"))
            }
            Statement::Deallocate(None) => Ok(Outcome::Forget(Forget::All, "DEALLOCATE ALL")),
            Statement::Deallocate(Some(name)) => Ok(Outcome::Forget(Forget::Statement(name.clone()), "DEALLOCATE")),
            Statement::Nothing(tag) => Ok(Outcome::done(*tag)),
            Statement::CreateSource(_)
            | Statement::CreateTable(_)
            | Statement::CreateView(_)
            | Statement::CreateSink(_)
            | Statement::Drop(_) => {
                // It takes effect at once: what stands before it in a text does too.
                self.write_inserted().await?;
                let (tag, notices) = ddl::change(&self.server, parsed.clone(), &self.database).await?;
                Ok(Outcome::Done { tag: tag.into(), notices })
            }
        }
    }

    async fn select(
        &mut self,
        prepared: &Prepared,
        query: &Query,
        parameters: Vec<ScalarValue>,
    ) -> Result<BatchStream> {
        let Some(planned) = &prepared.planned else { return Err(Error::bug("a query was not planned")) };
        self.settle_inserted(planned).await?;
        if let Some(lookup) = &planned.lookup
            && let Ok(Some(found)) = self.server.queries.look_up(lookup, &parameters)
        {
            return Ok(once(found));
        }
        let wait = self.settings.time("riverrun.wait_timeout").unwrap_or(WAIT_MAX);
        let again = match planned.of_catalog && prepared.executed.swap(true, Ordering::Relaxed) {
            // What the catalog tells may have changed since the statement was prepared.
            true => parameters,
            false => match self.server.queries.run(planned, parameters.clone(), wait).await {
                // A relation was dropped; one of the same name may stand now.
                Err(error) if error.code == sqlstate::UNDEFINED_TABLE => parameters,
                done => return done,
            },
        };
        let planned = self.server.queries.plan(query, self.names(), &prepared.declared).await?;
        if prepared.columns.as_ref().is_some_and(|columns| *columns != planned.schema) {
            return Err(Error::unsupported("cached plan must not change result type: prepare the statement again"));
        }
        self.server.queries.run(&planned, again, wait).await
    }

    async fn insert(&mut self, insert: &Insert, prepared: &Prepared, parameters: Vec<ScalarValue>) -> Result<Outcome> {
        let rows = self.select(prepared, &insert.query, parameters).await?;
        let target = insert::target(&self.server, &self.database, &insert.table)?;
        let batch = insert::encode(&target, &insert.columns, rows).await?;
        let count = batch.rows;
        self.block.buffered.add(batch)?;
        if !self.block.gathers() {
            self.write_inserted().await?;
        }
        Ok(Outcome::done(format!("INSERT 0 {count}")))
    }

    /// What a query reads is to be written before; in a block it is not readable yet.
    async fn settle_inserted(&mut self, planned: &Planned) -> Result<()> {
        if self.block.buffered.is_empty() {
            return Ok(());
        }
        let objects = self.server.catalog.objects();
        let relations = planned.relations().iter().map(Arc::as_ref);
        let Some(read) = self.block.inserted_among(&objects, relations) else { return Ok(()) };
        if self.block.state == Transaction::Open {
            return Err(transaction::not_yet_written(&read.name));
        }
        self.notices.push(transaction::written_early(&read.name));
        self.write_inserted().await
    }

    async fn write_inserted(&mut self) -> Result<()> {
        let buffered = std::mem::take(&mut self.block.buffered);
        insert::write(&self.server, buffered).await
    }

    async fn commit(&mut self) -> Result<Outcome> {
        let was = std::mem::replace(&mut self.block.state, Transaction::Idle);
        self.settings.end_transaction();
        self.write_inserted().await?;
        match was {
            // What it had gathered is gone.
            Transaction::Failed => Ok(Outcome::done("ROLLBACK")),
            Transaction::Open => Ok(Outcome::done("COMMIT")),
            Transaction::Idle => Ok(no_transaction("COMMIT")),
        }
    }

    fn roll_back(&mut self) -> Outcome {
        let was = std::mem::replace(&mut self.block.state, Transaction::Idle);
        self.settings.end_transaction();
        self.block.buffered = insert::Buffered::default();
        if was == Transaction::Idle { no_transaction("ROLLBACK") } else { Outcome::done("ROLLBACK") }
    }

    fn set(&mut self, set: &Set) -> Result<Outcome> {
        match set {
            Set::Setting { name, value, local } => {
                let local = *local && self.block.state == Transaction::Open;
                self.settings.set(name, value.as_deref(), local)?;
            }
            Set::ResetAll => self.settings.reset_all(),
            Set::Transaction(modes) if self.block.state == Transaction::Open => {
                transaction::set_modes(*modes, &mut self.settings)?;
            }
            Set::Transaction(_) => {
                let message = "SET TRANSACTION can only be used in transaction blocks";
                let notices = vec![Error::new(sqlstate::NO_ACTIVE_SQL_TRANSACTION, message)];
                return Ok(Outcome::Done { tag: "SET".into(), notices });
            }
            Set::Characteristics(modes) => {
                if let Some(on) = modes.read_only {
                    let value = if on { "on" } else { "off" };
                    self.settings.set("default_transaction_read_only", Some(value), false)?;
                }
            }
        }
        Ok(Outcome::done("SET"))
    }

    fn show(&self, what: &Show) -> Result<Outcome> {
        let batch = match what {
            Show::Setting(name) => {
                let value: ArrayRef = Arc::new(StringArray::from(vec![self.settings.get(name)?]));
                RecordBatch::try_new(show::columns(what)?, vec![value])?
            }
            Show::AllSettings => show::settings(&self.settings)?,
            other => show::list(&self.server, other)?,
        };
        Ok(Outcome::Rows { batches: once(batch), tag: "SHOW" })
    }

    async fn explain(&self, inner: &Parsed) -> Result<Outcome> {
        let lines = match &inner.statement {
            Statement::Query(query) => {
                let planned = self.server.queries.plan(query, self.names(), &[]).await?;
                self.server.queries.explain(&planned).await?
            }
            Statement::CreateView(view) => ddl::explain_view(&self.server, view, &self.database)?,
            _ => return Err(Error::unsupported("EXPLAIN of this statement")),
        };
        let batch = RecordBatch::try_new(text_columns(&["QUERY PLAN"]), vec![Arc::new(StringArray::from(lines))])?;
        Ok(Outcome::Rows { batches: once(batch), tag: "EXPLAIN" })
    }
}

fn no_transaction(tag: &str) -> Outcome {
    let warning = Error::new(sqlstate::NO_ACTIVE_SQL_TRANSACTION, "there is no transaction in progress");
    Outcome::Done { tag: tag.into(), notices: vec![warning] }
}

/// `-c name=value …` as libpq's `options` hold them.
fn start_options(text: &str, settings: &mut Settings) {
    let mut words = text.split_whitespace().peekable();
    while let Some(word) = words.next() {
        let assignment = match word {
            "-c" => words.next(),
            _ => word.strip_prefix("-c").or_else(|| word.strip_prefix("--")),
        };
        if let Some((name, value)) = assignment.and_then(|a| a.split_once('=')) {
            settings.set_at_start(name, value);
        }
    }
}

fn text_columns(names: &[&str]) -> SchemaRef {
    Arc::new(Schema::new(names.iter().map(|n| Field::new(*n, DataType::Utf8, true)).collect::<Vec<_>>()))
}

/// A result of one batch.
fn once(batch: RecordBatch) -> BatchStream {
    Box::pin(futures::stream::iter([Ok(batch)]))
}
