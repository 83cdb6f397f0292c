//! How people say it: PostgreSQL's dialect over topics and views. The only package that names DataFusion and sqlparser;
//! what it shows outside are boxed futures.

pub mod catalog;
pub mod error;
pub mod expr;
pub mod parse;
pub mod pgwire;
pub mod plan;
pub mod query;
pub mod session;
pub mod stack;
pub mod types;

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use futures::StreamExt;
use tokio::sync::watch;

pub use error::{Error, Result};
pub use pgwire::Limits;
pub use query::QueryLimits;
use session::{Outcome, Server, ServerConfig, Session};

/// A future of another package's caller: boxed, so that none of the code behind it is compiled there.
pub type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Rows that [`SqlServer::execute`] gathers at most; more is an error.
pub const ROWS_GATHERED_MAX: usize = 100_000;

/// What SQL is served from.
pub struct SqlConfig {
    pub env: log::Env,
    pub cluster: Arc<dyn log::Cluster>,
    /// Started and not yet resumed: the catalog's objects are added first.
    pub engine: engine::job::Engine,
    pub connectors: Vec<Arc<dyn engine::io::Connector>>,
    pub formats: Vec<Arc<dyn engine::codec::Format>>,
    /// `host:port`; port 0 takes a free one.
    pub pg_addr: String,
    pub limits: SqlLimits,
}

/// Bounds of the SQL server.
#[derive(Clone, Copy, Debug)]
pub struct SqlLimits {
    /// Connections at a time; more are refused with 53300.
    pub connections_max: usize,
    /// Bytes of one message from a client.
    pub message_bytes_max: usize,
    /// Threads that plan and run ad-hoc queries.
    pub query_threads: usize,
    /// Bytes that all queries together may gather; over it a query fails with 53200.
    pub query_memory_bytes_max: usize,
}

impl Default for SqlLimits {
    fn default() -> Self {
        Self {
            connections_max: 256,
            // The parser takes texts of 16 MiB; a parameter may be about as large.
            message_bytes_max: 32 << 20,
            query_threads: std::thread::available_parallelism().map_or(1, |n| n.get()),
            query_memory_bytes_max: 512 << 20,
        }
    }
}

/// A running SQL server. Dropping it leaves it running; [`SqlServer::shutdown`] ends it.
pub struct SqlServer {
    /// Where it listens: the port taken where 0 was asked for.
    pub pg_addr: SocketAddr,
    server: Arc<Server>,
    stop: watch::Sender<bool>,
}

/// What a statement gave, as text. Cells that are NULL are `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    pub columns: Vec<String>,
    pub rows: Vec<Vec<Option<String>>>,
    /// The command tag: `SELECT 3`, `CREATE TABLE`.
    pub tag: String,
}

/// Makes everything in the catalog stand again, lets the engine go on and serves the PostgreSQL protocol.
pub fn serve(config: SqlConfig) -> Boxed<Result<SqlServer>> {
    Box::pin(async move {
        let limits = config.limits;
        let queries = QueryLimits { threads: limits.query_threads, memory_bytes_max: limits.query_memory_bytes_max };
        let server = Server::start(ServerConfig {
            env: config.env,
            cluster: config.cluster,
            engine: config.engine,
            connectors: config.connectors,
            formats: config.formats,
            queries,
        })
        .await?;
        let (stop, stopped) = watch::channel(false);
        let wire = Limits { connections_max: limits.connections_max, message_bytes_max: limits.message_bytes_max };
        let listener = server.env.listen(&config.pg_addr).await.map_err(|e| {
            Error::new(error::sqlstate::IO_ERROR, format!("cannot listen at {}: {e}", config.pg_addr)).caused_by(e)
        })?;
        let pg_addr = listener.address();
        pgwire::serve(Arc::clone(&server), listener, wire, stopped);
        Ok(SqlServer { pg_addr, server, stop })
    })
}

impl SqlServer {
    /// Runs a text of statements in process, in a session of its own; one answer a statement.
    pub fn execute(&self, text: &str) -> Boxed<Result<Vec<Answer>>> {
        let (server, text) = (Arc::clone(&self.server), text.to_owned());
        Box::pin(async move {
            let user = [("user".to_owned(), "riverrun".to_owned())];
            let mut session = Session::open(&server, &user)?;
            let mut answers = Vec::new();
            session.begin_text();
            for parsed in session.parse(&text)? {
                let prepared = session.prepare(parsed, &[]).await?;
                let outcome = session.execute(&prepared, Vec::new()).await?;
                answers.push(gather(outcome, prepared.columns.as_deref()).await?);
            }
            session.end_text().await?;
            Ok(answers)
        })
    }

    /// How the sources stand.
    pub fn sources(&self) -> Vec<session::SourceReport> {
        self.server.source_reports()
    }

    /// Ends connections and sources. The engine and the log are ended by whoever started them.
    pub fn shutdown(&self) -> Boxed<()> {
        self.stop.send_replace(true);
        let server = Arc::clone(&self.server);
        Box::pin(async move { server.stop().await })
    }
}

async fn gather(outcome: Outcome, columns: Option<&arrow::datatypes::Schema>) -> Result<Answer> {
    let (mut batches, tag) = match outcome {
        Outcome::Rows { batches, tag } => (batches, tag),
        Outcome::Done { tag, .. } => return Ok(Answer { tag, ..Answer::default() }),
        Outcome::Forget(_, tag) => return Ok(Answer { tag: tag.into(), ..Answer::default() }),
        Outcome::Empty => return Ok(Answer::default()),
    };
    let schema = columns.ok_or_else(|| Error::bug("rows without columns"))?;
    let columns = schema.fields().iter().map(|f| f.name().clone()).collect();
    let mut rows = Vec::new();
    while let Some(batch) = batches.next().await {
        rows.extend(pgwire::texts(schema, &batch?)?);
        if rows.len() > ROWS_GATHERED_MAX {
            let message = format!("the result has more than {ROWS_GATHERED_MAX} rows");
            return Err(Error::new(error::sqlstate::PROGRAM_LIMIT_EXCEEDED, message).hint("add a LIMIT"));
        }
    }
    let tag = if tag == "SELECT" { format!("SELECT {}", rows.len()) } else { tag.to_owned() };
    Ok(Answer { columns, rows, tag })
}
