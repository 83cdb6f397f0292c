//! The parts wired together: log, Kafka listener, engine, SQL, HTTP. [`Server::start`] returns when all are ready;
//! [`Server::stop`] stops the intake first and closes the log last.

use std::fmt;
use std::io;
use std::mem;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use engine::job::{Engine, EngineConfig};
use log::broker::{BrokerConfig, ServerHandle};
use log::env::Task;
use log::{Backend, Cluster, Env, Node, NodeConfig};
use sql::pgwire::{self, Limits};
use sql::query::QueryLimits;
use sql::session::{Server as Sql, ServerConfig};
use tokio::sync::watch;

use crate::config::Config;
use crate::http::{self, Phase, Running};

/// What a start does, for people.
const LOG_RECOVERS: &str = "the log is recovering";
const VIEWS_RECOVER: &str = "the views are recovering";

/// What keeps the program from starting, or ends it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot listen for {what} at {addr}")]
    Listen { what: &'static str, addr: String, source: io::Error },
    #[error("cannot open the log in {dir}")]
    Open { dir: String, source: log::Error },
    #[error("cannot start the engine")]
    Engine(#[from] engine::job::Error),
    #[error("cannot start SQL")]
    Sql(#[from] sql::Error),
    #[error("the log cannot be written any more: {0}")]
    Poisoned(String),
    #[error("the engine has stopped: {0}")]
    EngineEnded(String),
    #[error("the clean stop took longer than {0:?} and was broken off")]
    StopTimeout(Duration),
}

impl Error {
    /// What the reader can do about it.
    pub fn hint(&self) -> Option<&str> {
        match self {
            Error::Listen { .. } => Some("another program may have the port: name another, or port 0 for any free one"),
            Error::Open { source: log::Error::Busy(_), .. } => {
                Some("stop the other process, or choose another --data-dir")
            }
            Error::Open { .. } => None,
            Error::Poisoned(_) => {
                Some("nothing acknowledged is lost; mend the disk and start again: the start recovers")
            }
            Error::EngineEnded(_) => Some("nothing acknowledged is lost; a start replays the log"),
            Error::StopTimeout(_) => Some("nothing acknowledged is lost; the next start has more to replay"),
            Error::Sql(error) => error.hint.as_deref(),
            Error::Engine(_) => None,
        }
    }
}

/// An error and what caused it, in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

/// Where the server listens.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    pub kafka: SocketAddr,
    pub postgres: SocketAddr,
    pub http: SocketAddr,
}

impl fmt::Display for Addresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "kafka {}, postgres {}, http {}", self.kafka, self.postgres, self.http)
    }
}

/// A running server. Dropping it is a kill: [`Server::stop`] is the polite way. Neither that nor [`Server::abandon`]
/// frees what the views hold: the process ends, and giving back some gigabytes row by row takes longer than the rest of
/// a clean stop.
pub struct Server {
    env: Env,
    node: Arc<Node>,
    broker: ServerHandle,
    engine: Engine,
    sql: Arc<Sql>,
    wire: pgwire::ServerHandle,
    http: Task<io::Result<()>>,
    phase: watch::Sender<Phase>,
    stop_http: watch::Sender<bool>,
    addresses: Addresses,
    stop_timeout: Duration,
}

impl Server {
    /// Listens, opens the data directory and recovers. HTTP answers from the start and says what is going on; who
    /// connects elsewhere meanwhile is served when all is ready. Nothing is touched before all ports are ours.
    pub async fn start(env: &Env, config: &Config) -> Result<Server, Error> {
        let cannot_listen = |what, addr: &str| {
            let addr = addr.to_owned();
            move |source| Error::Listen { what, addr, source }
        };
        let listen = async |what, addr: &str| env.listen(addr).await.map_err(cannot_listen(what, addr));
        let at_http = listen("HTTP", &config.http.addr).await?;
        let at_kafka = listen("Kafka clients", &config.kafka.addr).await?;
        let at_postgres = listen("PostgreSQL clients", &config.postgres.addr).await?;
        let addresses =
            Addresses { kafka: at_kafka.address(), postgres: at_postgres.address(), http: at_http.address() };
        let (phase, phases) = watch::channel(Phase::Starting(LOG_RECOVERS));
        let (stop_http, stop) = watch::channel(false);
        let http = env.spawn("http", http::serve(env.clone(), phases, at_http, stop));

        tracing::info!(directory = %config.data.dir.display(), "{LOG_RECOVERS}");
        let node = Node::open(env.clone(), &config.data.dir, node_config(config))
            .await
            .map_err(|source| Error::Open { dir: config.data.dir.display().to_string(), source })?;
        let cluster: Arc<dyn Cluster> = Arc::clone(&node) as Arc<dyn Cluster>;
        tracing::info!("{VIEWS_RECOVER}");
        phase.send_replace(Phase::Starting(VIEWS_RECOVER));
        let engine = Engine::start(env.clone(), Arc::clone(&cluster), engine_config(config)).await?;
        let sql = Sql::start(sql_config(env, config, &cluster, &engine)).await?;
        let limits = Limits {
            connections_max: config.postgres.connections_max,
            message_bytes_max: config.postgres.message_bytes_max,
        };
        let wire = pgwire::serve(Arc::clone(&sql), at_postgres, limits);
        let backend: Arc<dyn Backend> = Arc::clone(&node) as Arc<dyn Backend>;
        let broker = log::broker::serve(env, at_kafka, backend, broker_config(config));
        phase.send_replace(Phase::Running(Running {
            node: Arc::clone(&node),
            engine: engine.clone(),
            broker: broker.metrics(),
            sql: Arc::clone(&sql),
        }));
        let stop_timeout = Duration::from_millis(config.stop.timeout_ms_max);
        let env = env.clone();
        Ok(Server { env, node, broker, engine, sql, wire, http, phase, stop_http, addresses, stop_timeout })
    }

    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// Returns when the program cannot go on: the log is poisoned or the engine has ended. Cancel safe.
    pub async fn failed(&self) -> Error {
        let mut fatal = self.node.fatal();
        let error = tokio::select! {
            biased;
            poisoned = fatal.wait_for(Option::is_some) => {
                let reason = poisoned.ok().and_then(|reason| reason.as_deref().map(str::to_owned));
                Error::Poisoned(reason.unwrap_or_else(|| "its writer is gone".into()))
            }
            reason = self.engine.ended() => Error::EngineEnded(reason),
        };
        self.phase.send_replace(Phase::Failed(error.to_string()));
        error
    }

    /// Leaves everything as it lies, for a process that cannot go on and ends now.
    pub fn abandon(self) {
        mem::forget(self);
    }

    /// Stops the intake, lets what was taken finish, makes it durable, closes. The process is to end then.
    pub async fn stop(self) -> Result<(), Error> {
        let Server { env, node, broker, engine, sql, wire, http, phase, stop_http, stop_timeout, .. } = self;
        phase.send_replace(Phase::Failed("it is stopping".into()));
        let intake = stop_timeout / 4;
        let orderly = async {
            tokio::join!(broker.shutdown(intake), wire.shutdown(intake), sql.stop());
            engine.shutdown().await;
            // No receiver is left of what has ended already.
            let _ = stop_http.send(true);
            http.abort();
            node.shutdown().await;
        };
        let stopped = env.timeout(stop_timeout, orderly).await;
        mem::forget((node, engine, sql, phase));
        stopped.ok_or(Error::StopTimeout(stop_timeout))
    }
}

/// What the log gets of the settings.
pub(crate) fn node_config(config: &Config) -> NodeConfig {
    let log = &config.log;
    NodeConfig {
        shards: log.shards,
        wal_file_bytes: log.wal_file_bytes,
        wal_group_bytes: log.wal_group_bytes,
        tail_bytes: log.tail_bytes,
        pending_bytes: log.pending_bytes,
        cold_reads: log.cold_reads.get(),
        cold_read_bytes: log.cold_read_bytes.get(),
        reserve_bytes: log.disk_reserve_bytes,
        dirty_files_max: dirty_files(::log::env::raise_open_files()),
        retention_check_interval_ms: log.retention_check_interval_ms.get(),
        producer_expiration_ms: log.producer_expiration_ms.get(),
        compact_map_bytes: log.compact_map_bytes,
        compact_bytes_per_second: log.compact_bytes_per_second,
        compact_check_interval_ms: log.compact_check_interval_ms.get(),
        ..NodeConfig::default()
    }
}

/// A part of the files that may be open: a checkpoint may hold as many again, and connections, readers and the
/// write-ahead log need some too.
fn dirty_files(open_max: u64) -> usize {
    usize::try_from(open_max / 8).unwrap_or(usize::MAX).clamp(32, 16_384)
}

fn broker_config(config: &Config) -> BrokerConfig {
    let kafka = &config.kafka;
    BrokerConfig {
        connections_max: kafka.connections_max,
        request_bytes_max: kafka.request_bytes_max,
        request_memory_bytes: kafka.request_memory_bytes,
        auto_create_topics: kafka.auto_create_topics,
        ..BrokerConfig::default()
    }
}

fn sql_config(env: &Env, config: &Config, cluster: &Arc<dyn Cluster>, engine: &Engine) -> ServerConfig {
    let threads = match config.sql.threads {
        0 => std::thread::available_parallelism().map_or(1, |n| n.get()),
        threads => threads,
    };
    ServerConfig {
        env: env.clone(),
        cluster: Arc::clone(cluster),
        engine: engine.clone(),
        connectors: connectors::connectors(),
        formats: connectors::formats(),
        queries: QueryLimits { threads, memory_bytes_max: config.sql.memory_bytes_max },
    }
}

fn engine_config(config: &Config) -> EngineConfig {
    let defaults = EngineConfig::default();
    EngineConfig {
        workers: if config.engine.workers == 0 { defaults.workers } else { config.engine.workers },
        epoch_interval_min: Duration::from_millis(config.engine.epoch_interval_ms_min),
        slice_bytes_max: config.engine.slice_bytes_max,
        ..defaults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the views hold is freed by the end of the process, all at once.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_stop_does_not_free_what_the_views_hold() {
        let env = Env::real();
        let data = std::env::temp_dir().join(format!("riverrun-test-stop-{}", std::process::id()));
        let any = || "127.0.0.1:0".to_owned();
        let flags = [
            ("data.dir", data.display().to_string()),
            ("kafka.addr", any()),
            ("postgres.addr", any()),
            ("http.addr", any()),
        ];
        let config = Config::load(env.disk().as_ref(), None, std::iter::empty(), &flags).unwrap();
        let server = Server::start(&env, &config).await.unwrap();
        let url = format!("postgres://someone@{}/riverrun", server.addresses().postgres);
        let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
        let connection = env.spawn("client", connection);
        let set_up = "CREATE TABLE t (a INT) WITH (topic = 't', format = 'json');
                      CREATE MATERIALIZED VIEW v AS SELECT a, count(*) AS n FROM t GROUP BY a;
                      INSERT INTO t VALUES (1), (2)";
        client.batch_execute(set_up).await.unwrap();
        let view = server.engine.jobs().into_iter().find(|job| job.view).unwrap().id;
        server.engine.caught_up(&[view], Duration::from_secs(60)).await.unwrap();
        let state = Arc::downgrade(&server.engine.store(view).unwrap());
        let sql = Arc::downgrade(&server.sql);
        drop(client);
        // However it ended.
        let _ = connection.await;
        server.stop().await.unwrap();
        assert!(state.upgrade().is_some() && sql.upgrade().is_some());
        env.disk().remove_dir(&data).unwrap();
    }
}
