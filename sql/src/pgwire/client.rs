//! [`Client`]: a started connection: its prepared statements and portals, the simple and the extended protocol.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use tokio::io::AsyncWrite;
use tokio::sync::watch;

use super::connection::IoResult;
use super::encode::Rows;
use super::frame::{Bind, Frontend, Target};
use super::output::{FLUSH_BYTES, Output};
use super::{Registered, params};
use crate::error::{Error, Result, sqlstate};
use crate::session::{BatchStream, Forget, Outcome, Prepared, Server, Session};

/// Prepared statements and portals of one connection.
const STATEMENTS_MAX: usize = 10_000;
const PORTALS_MAX: usize = 1_000;

/// A started connection without its socket.
pub struct Client {
    session: Session,
    interrupts: Interrupts,
    statements: HashMap<String, Arc<Prepared>>,
    portals: HashMap<String, Portal>,
    /// After an error in the extended protocol, until Sync.
    skipping: bool,
    _registered: Registered,
}

/// A bound statement, before, in or after its execution.
struct Portal {
    statement: Arc<Prepared>,
    parameters: Option<Vec<datafusion::common::ScalarValue>>,
    formats: Vec<i16>,
    running: Option<Running>,
    done: bool,
}

/// Rows on their way to the client.
struct Running {
    batches: BatchStream,
    tag: &'static str,
    rows: Option<Rows>,
    /// The next row of `rows`.
    next: usize,
    sent: u64,
}

/// What ends a running statement from outside.
#[derive(Clone)]
pub struct Interrupts {
    /// Changes with every request to cancel.
    pub cancelled: watch::Receiver<u64>,
    /// Turns true when the server stops.
    pub stop: watch::Receiver<bool>,
}

/// Whether an execution came to its end.
enum End {
    Complete(String),
    Suspended,
    Empty,
}

impl Client {
    pub fn new(session: Session, registered: Registered, interrupts: Interrupts) -> Self {
        let (statements, portals) = (HashMap::new(), HashMap::new());
        Self { session, interrupts, statements, portals, skipping: false, _registered: registered }
    }

    /// Carries out one message; only an error of the socket is one. A statement that the server's stop has ended is left
    /// without an answer: the connection says so for all.
    pub async fn handle<S>(&mut self, message: Frontend, output: &mut Output, stream: &mut S) -> IoResult<()>
    where
        S: AsyncWrite + Unpin + Send,
    {
        match message {
            Frontend::Query(text) => {
                self.skipping = false;
                match self.simple(&text, output, stream).await {
                    Ok(()) => {}
                    Err(Failure::Stopping) => return Ok(()),
                    Err(error) => self.fail(error, output)?,
                }
                self.portals.remove("");
                output.ready(self.session.transaction());
            }
            Frontend::Sync => {
                self.skipping = false;
                if self.session.transaction() == crate::session::Transaction::Idle {
                    // Portals end with their transaction.
                    self.portals.clear();
                }
                output.ready(self.session.transaction());
            }
            Frontend::Flush => output.flush(stream).await?,
            Frontend::Terminate | Frontend::Copy | Frontend::Password => {}
            _ if self.skipping => {}
            other => {
                if let Err(error) = self.extended(other, output, stream).await {
                    self.skipping = true;
                    self.fail(error, output)?;
                }
            }
        }
        Ok(())
    }

    /// Tells the client; an error of its socket ends the connection instead.
    fn fail(&mut self, error: Failure, output: &mut Output) -> IoResult<()> {
        match error {
            Failure::Socket(error) => Err(error),
            Failure::Stopping => Ok(()),
            Failure::Statement(error) => {
                self.session.fail();
                output.error(&error, false);
                Ok(())
            }
        }
    }

    /// A text of statements: each is run and answered; the first error ends it.
    async fn simple<S>(&mut self, text: &str, output: &mut Output, stream: &mut S) -> Result<(), Failure>
    where
        S: AsyncWrite + Unpin + Send,
    {
        let statements = self.session.parse(text)?;
        if statements.is_empty() {
            output.empty_query();
        }
        if statements.len() > 1 {
            self.session.begin_text();
        }
        for parsed in statements {
            let interrupts = self.interrupts.clone();
            let server = Arc::clone(self.session.server());
            let timeout = self.session.statement_timeout();
            let run = async {
                let prepared = Arc::new(self.session.prepare(parsed, &[]).await?);
                if !prepared.parameters.is_empty() {
                    return Err(Error::new(sqlstate::UNDEFINED_PARAMETER, "there is no parameter $1").into());
                }
                let mut portal = Portal {
                    statement: prepared,
                    parameters: Some(Vec::new()),
                    formats: Vec::new(),
                    running: None,
                    done: false,
                };
                if let Some(schema) = &portal.statement.columns {
                    output.columns(Some(schema), &[])?;
                }
                let end = self.execute(&mut portal, 0, output, stream).await?;
                self.finish(end, output);
                Ok(())
            };
            guard(&server, interrupts, timeout, run).await?;
        }
        Ok(self.session.end_text().await?)
    }

    async fn extended<S>(&mut self, message: Frontend, output: &mut Output, stream: &mut S) -> Result<(), Failure>
    where
        S: AsyncWrite + Unpin + Send,
    {
        match message {
            Frontend::Parse { name, query, types } => self.parse(name, &query, &types, output).await,
            Frontend::Bind(bind) => Ok(self.bind(bind, output)?),
            Frontend::Describe(Target::Statement, name) => {
                let statement = self.statement(&name)?;
                output.parameters(&statement.parameters);
                Ok(output.columns(statement.columns.as_deref(), &[])?)
            }
            Frontend::Describe(Target::Portal, name) => {
                let portal = self.portals.get(&name).ok_or_else(|| unknown_portal(&name))?;
                Ok(output.columns(portal.statement.columns.as_deref(), &portal.formats)?)
            }
            Frontend::Execute { portal: name, rows_max } => {
                let mut portal = self.portals.remove(&name).ok_or_else(|| unknown_portal(&name))?;
                let server = Arc::clone(self.session.server());
                let (interrupts, timeout) = (self.interrupts.clone(), self.session.statement_timeout());
                let run = self.execute(&mut portal, rows_max, output, stream);
                let end = guard(&server, interrupts, timeout, run).await?;
                self.portals.insert(name, portal);
                self.finish(end, output);
                Ok(())
            }
            Frontend::Close(target, name) => {
                match target {
                    Target::Statement => drop(self.statements.remove(&name)),
                    Target::Portal => drop(self.portals.remove(&name)),
                }
                output.closed();
                Ok(())
            }
            _ => Err(Error::bug("a message of another phase").into()),
        }
    }

    async fn parse(&mut self, name: String, text: &str, types: &[u32], output: &mut Output) -> Result<(), Failure> {
        if !name.is_empty() && self.statements.contains_key(&name) {
            let message = format!("prepared statement \"{name}\" already exists");
            return Err(Error::new(sqlstate::DUPLICATE_PREPARED_STATEMENT, message).into());
        }
        if self.statements.len() >= STATEMENTS_MAX {
            let message = format!("a connection can have at most {STATEMENTS_MAX} prepared statements");
            return Err(Error::new(sqlstate::PROGRAM_LIMIT_EXCEEDED, message).into());
        }
        let mut statements = self.session.parse(text)?;
        let prepared = match (statements.pop(), statements.is_empty()) {
            (None, _) => Prepared::empty(),
            (Some(parsed), true) => {
                let server = Arc::clone(self.session.server());
                let (interrupts, timeout) = (self.interrupts.clone(), self.session.statement_timeout());
                let session = &mut self.session;
                let run = async move { session.prepare(parsed, types).await.map_err(Failure::from) };
                guard(&server, interrupts, timeout, run).await?
            }
            (Some(_), false) => {
                let message = "cannot insert multiple commands into a prepared statement";
                return Err(Error::new(sqlstate::SYNTAX_ERROR, message).into());
            }
        };
        self.statements.insert(name, Arc::new(prepared));
        output.parsed();
        Ok(())
    }

    fn statement(&self, name: &str) -> Result<&Arc<Prepared>> {
        self.statements.get(name).ok_or_else(|| {
            let message = match name {
                "" => "unnamed prepared statement does not exist".to_owned(),
                _ => format!("prepared statement \"{name}\" does not exist"),
            };
            Error::new(sqlstate::INVALID_SQL_STATEMENT_NAME, message)
        })
    }

    fn bind(&mut self, bind: Bind, output: &mut Output) -> Result<()> {
        let statement = Arc::clone(self.statement(&bind.statement)?);
        if bind.parameters.len() != statement.parameters.len() {
            let message = format!(
                "bind message supplies {} parameters, but prepared statement \"{}\" requires {}",
                bind.parameters.len(),
                bind.statement,
                statement.parameters.len()
            );
            return Err(Error::new(sqlstate::PROTOCOL_VIOLATION, message));
        }
        let columns = statement.columns.as_ref().map_or(0, |schema| schema.fields().len());
        if bind.result_formats.len() > 1 && bind.result_formats.len() != columns {
            let message = format!(
                "bind message has {} result formats but query has {columns} columns",
                bind.result_formats.len()
            );
            return Err(Error::new(sqlstate::PROTOCOL_VIOLATION, message));
        }
        if bind.parameter_formats.len() > 1 && bind.parameter_formats.len() != bind.parameters.len() {
            let message = "bind message has another number of parameter formats than parameters";
            return Err(Error::new(sqlstate::PROTOCOL_VIOLATION, message));
        }
        if !bind.portal.is_empty() && self.portals.contains_key(&bind.portal) {
            let message = format!("portal \"{}\" already exists", bind.portal);
            return Err(Error::new(sqlstate::DUPLICATE_CURSOR, message));
        }
        if self.portals.len() >= PORTALS_MAX {
            let message = format!("a connection can have at most {PORTALS_MAX} portals");
            return Err(Error::new(sqlstate::PROGRAM_LIMIT_EXCEEDED, message));
        }
        let read =
            |(i, oid): (usize, &u32)| params::read(i, *oid, bind.parameter_binary(i), bind.parameters[i].as_deref());
        let parameters = statement.parameters.iter().enumerate().map(read).collect::<Result<_>>()?;
        let formats = bind.result_formats;
        self.portals.insert(
            bind.portal,
            Portal { statement, parameters: Some(parameters), formats, running: None, done: false },
        );
        output.bound();
        Ok(())
    }

    /// Runs a portal on: `rows_max` more rows, or all of them for 0.
    async fn execute<S>(
        &mut self,
        portal: &mut Portal,
        rows_max: usize,
        output: &mut Output,
        stream: &mut S,
    ) -> Result<End, Failure>
    where
        S: AsyncWrite + Unpin + Send,
    {
        if portal.done {
            // As PostgreSQL does: a portal that has run to its end gives no more rows.
            return Ok(End::Complete(match portal.statement.columns {
                Some(_) => "SELECT 0".to_owned(),
                None => return Err(already_run().into()),
            }));
        }
        if portal.running.is_none() {
            let parameters = portal.parameters.take().ok_or_else(already_run)?;
            let outcome = self.session.execute(&portal.statement, parameters).await?;
            self.session.take_notices().iter().for_each(|notice| output.notice(notice));
            match outcome {
                Outcome::Rows { batches, tag } => {
                    portal.running = Some(Running { batches, tag, rows: None, next: 0, sent: 0 });
                }
                Outcome::Done { tag, notices } => {
                    portal.done = true;
                    notices.iter().for_each(|notice| output.notice(notice));
                    return Ok(End::Complete(tag));
                }
                Outcome::Forget(forget, tag) => {
                    portal.done = true;
                    self.forget(&forget)?;
                    return Ok(End::Complete(tag.to_owned()));
                }
                Outcome::Empty => {
                    portal.done = true;
                    return Ok(End::Empty);
                }
            }
        }
        let running = portal.running.as_mut().expect("it was just set");
        let schema = portal.statement.columns.as_ref().ok_or_else(|| Error::bug("rows without columns"))?;
        let end = running.send(schema, &portal.formats, rows_max, output, stream).await?;
        if matches!(end, End::Complete(_)) {
            portal.running = None;
            portal.done = true;
        }
        Ok(end)
    }

    fn forget(&mut self, what: &Forget) -> Result<()> {
        match what {
            Forget::All => self.statements.clear(),
            Forget::Statement(name) => {
                self.statement(name)?;
                self.statements.remove(name);
            }
        }
        Ok(())
    }

    fn finish(&mut self, end: End, output: &mut Output) {
        match end {
            End::Complete(tag) => output.complete(&tag),
            End::Suspended => output.suspended(),
            End::Empty => output.empty_query(),
        }
        for (name, value) in self.session.take_changed() {
            output.parameter(name, &value);
        }
    }
}

impl Running {
    async fn send<S>(
        &mut self,
        schema: &arrow::datatypes::Schema,
        formats: &[i16],
        rows_max: usize,
        output: &mut Output,
        stream: &mut S,
    ) -> Result<End, Failure>
    where
        S: AsyncWrite + Unpin + Send,
    {
        let mut left = if rows_max == 0 { usize::MAX } else { rows_max };
        let before = self.sent;
        loop {
            if let Some(rows) = &self.rows {
                while self.next < rows.len() && left > 0 {
                    output.row(rows, self.next)?;
                    self.next += 1;
                    self.sent += 1;
                    left -= 1;
                    if output.len() >= FLUSH_BYTES {
                        output.flush(stream).await.map_err(Failure::Socket)?;
                    }
                }
                if left == 0 {
                    return Ok(End::Suspended);
                }
            }
            match self.batches.next().await {
                Some(batch) => {
                    self.rows = Some(Rows::new(schema, &batch?, formats)?);
                    self.next = 0;
                }
                None if self.tag == "SELECT" => return Ok(End::Complete(format!("SELECT {}", self.sent - before))),
                None => return Ok(End::Complete(self.tag.to_owned())),
            }
        }
    }
}

/// A statement's failure is told to the client; a socket's ends the connection, and so does the server's stop.
enum Failure {
    Statement(Error),
    Socket(std::io::Error),
    Stopping,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Statement(error)
    }
}

fn unknown_portal(name: &str) -> Error {
    Error::new(sqlstate::INVALID_CURSOR_NAME, format!("portal \"{name}\" does not exist"))
}

fn already_run() -> Error {
    Error::new(sqlstate::OBJECT_NOT_IN_PREREQUISITE_STATE, "the portal has been run already")
}

/// Runs a statement until it ends, is cancelled, its time is up, or the server stops.
async fn guard<T>(
    server: &Server,
    Interrupts { mut cancelled, mut stop }: Interrupts,
    timeout: Option<Duration>,
    run: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    cancelled.mark_unchanged();
    let time_is_up = async {
        match timeout {
            Some(time) => server.env.sleep(time).await,
            None => std::future::pending().await,
        }
    };
    let asked = async {
        // The sender lives as long as the connection is registered.
        if cancelled.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        biased;
        // Its sender lives as long as the server, or the server has stopped.
        _ = stop.wait_for(|stop| *stop) => Err(Failure::Stopping),
        () = asked => Err(Error::new(sqlstate::QUERY_CANCELED, "canceling statement due to user request").into()),
        () = time_is_up => Err(Error::new(sqlstate::QUERY_CANCELED, "canceling statement due to statement timeout").into()),
        result = run => result,
    }
}
