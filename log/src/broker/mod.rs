//! The Kafka side of a node: a listener, its connections, and the handlers that turn requests into calls of a
//! [`Backend`].
//!
//! A connection is one task that reads ahead, starts requests in order and answers them in order ([`connection`]).
//! Everything a client may make us hold has a bound in [`BrokerConfig`].

pub mod metrics;

mod configs;
mod connection;
mod deletion;
mod discovery;
mod fetch;
mod offsets;
mod produce;
mod refusal;
mod settings;
mod topics;

#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tracing::{debug, info, warn};

use self::connection::Peer;
use self::metrics::Metrics;
use crate::cluster::backend::Backend;
use crate::env::net::{Listener, Stream};
use crate::env::{Env, Task};

/// Limits and choices of the Kafka listener.
#[derive(Clone, Debug)]
pub struct BrokerConfig {
    /// What Metadata says where to connect; `None`: the address the client has connected to.
    pub advertised: Option<(String, u16)>,
    /// Connections beyond this are closed at once.
    pub connections_max: usize,
    /// Bytes of one request. Must let a batch of `max.message.bytes` pass.
    pub request_bytes_max: usize,
    /// Requests of one connection that are read and not answered. Idempotent producers keep five.
    pub requests_in_flight_max: usize,
    /// Bytes of all requests that are read, or being read, and not answered; then connections are not read on.
    pub request_memory_bytes: usize,
    /// Bytes of records in one Fetch answer, however much the client asks for; one batch may pass it.
    pub fetch_bytes_max: usize,
    /// A Fetch waits no longer than this, however long the client asks for.
    pub fetch_wait_max: Duration,
    /// A request that has begun to come must be whole by then: it holds memory others wait for.
    pub request_time_max: Duration,
    /// A connection on which nothing happens for so long is closed. No Fetch waits longer than half of it.
    pub idle_max: Duration,
    /// Creates a topic that a client asks Metadata for, if the client agrees.
    pub auto_create_topics: bool,
    /// Partitions of topics that are created without a number.
    pub partitions_default: i32,
}

impl Default for BrokerConfig {
    fn default() -> BrokerConfig {
        BrokerConfig {
            advertised: None,
            connections_max: 1_000,
            request_bytes_max: 16 << 20,
            requests_in_flight_max: 64,
            request_memory_bytes: 256 << 20,
            fetch_bytes_max: 16 << 20,
            fetch_wait_max: Duration::from_secs(300),
            request_time_max: Duration::from_secs(60),
            idle_max: Duration::from_secs(600),
            auto_create_topics: false,
            partitions_default: 1,
        }
    }
}

/// What all connections share.
pub(super) struct Broker {
    env: Env,
    backend: Arc<dyn Backend>,
    config: BrokerConfig,
    metrics: Arc<Metrics>,
    /// Permits of [`MEMORY_UNIT`] bytes.
    request_memory: Arc<Semaphore>,
}

const MEMORY_UNIT: usize = 1 << 10;

/// A running listener. Dropping it stops it and its connections; [`ServerHandle::shutdown`] also waits for their end.
pub struct ServerHandle {
    address: SocketAddr,
    broker: Arc<Broker>,
    stop: watch::Sender<bool>,
    connections: Arc<Semaphore>,
    accept: Task<()>,
}

/// Serves `backend` to the Kafka clients that come to the listener.
pub fn serve(env: &Env, listener: Listener, backend: Arc<dyn Backend>, config: BrokerConfig) -> ServerHandle {
    assert!(config.request_bytes_max <= config.request_memory_bytes, "one request must fit in the memory for all");
    assert!(config.requests_in_flight_max > 0 && config.connections_max > 0, "a limit of nothing serves nobody");
    let address = listener.address();
    let broker = Arc::new(Broker {
        env: env.clone(),
        backend,
        metrics: Arc::default(),
        request_memory: Arc::new(Semaphore::new(config.request_memory_bytes.div_ceil(MEMORY_UNIT))),
        config,
    });
    let connections = Arc::new(Semaphore::new(broker.config.connections_max));
    let (stop, stopped) = watch::channel(false);
    let accept = env.spawn("kafka listener", accept(listener, Arc::clone(&broker), Arc::clone(&connections), stopped));
    ServerHandle { address, broker, stop, connections, accept }
}

impl ServerHandle {
    /// Where it listens.
    pub fn local_address(&self) -> SocketAddr {
        self.address
    }

    pub fn metrics(&self) -> Arc<Metrics> {
        Arc::clone(&self.broker.metrics)
    }

    /// Accepts and reads no more, answers what was taken in (long polls aside), closes. Connections that are not done by
    /// the deadline are left to end with the runtime.
    pub async fn shutdown(self, deadline: Duration) {
        // No receiver is left when everything has ended already.
        let _ = self.stop.send(true);
        self.accept.abort();
        let all = self.broker.config.connections_max as u32;
        if self.broker.env.timeout(deadline, self.connections.acquire_many(all)).await.is_none() {
            warn!("kafka connections are still open at the end of the time to close them");
        }
    }
}

async fn accept(mut listener: Listener, broker: Arc<Broker>, connections: Arc<Semaphore>, stop: watch::Receiver<bool>) {
    loop {
        let (stream, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file handles, or the client has gone: the next one may come through.
                warn!(%error, "a kafka connection could not be accepted");
                broker.env.sleep(Duration::from_millis(20)).await;
                continue;
            }
        };
        let Ok(permit) = Arc::clone(&connections).try_acquire_owned() else {
            broker.metrics.refused_connection();
            warn!(%from, limit = broker.config.connections_max, "too many kafka connections, this one is closed");
            continue;
        };
        let peer = broker.peer(&stream, from, listener.address());
        let (broker, stop) = (Arc::clone(&broker), stop.clone());
        let env = broker.env.clone();
        env.spawn("kafka connection", async move {
            broker.metrics.connected();
            connection::run(Arc::clone(&broker), stream, peer, stop).await;
            broker.metrics.disconnected();
            drop(permit);
        });
    }
}

/// Bounds of what a client may give as time for its request, in milliseconds.
const TIMEOUT_MS: std::ops::RangeInclusive<i32> = 1_000..=300_000;

/// How long a request may take, by what it says itself.
fn time_of(timeout_ms: i32) -> Duration {
    Duration::from_millis(timeout_ms.clamp(*TIMEOUT_MS.start(), *TIMEOUT_MS.end()) as u64)
}

impl Broker {
    fn peer(&self, stream: &Stream, from: SocketAddr, listener: SocketAddr) -> Peer {
        let reached = stream.local_address().unwrap_or(listener);
        let (host, port) = match &self.config.advertised {
            Some((host, port)) => (host.clone(), *port),
            None => (reached.ip().to_canonical().to_string(), reached.port()),
        };
        debug!(%from, %reached, "kafka connection");
        Peer { from, host, port }
    }
}

impl Drop for ServerHandle {
    fn drop(&mut self) {
        self.accept.abort();
        info!(address = %self.address, "kafka listener closed");
    }
}
