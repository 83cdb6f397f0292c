//! The PostgreSQL wire: a listener, its connections and the requests to cancel them.
//!
//! Messages to clients come from the crate `pgwire`; what clients send is decoded here ([`frame`]), since that crate
//! panics on truncated messages, and driven here ([`connection`]), since it gathers whole results in memory.

mod client;
mod connection;
mod datetime;
mod encode;
mod frame;
mod numeric;
mod output;
mod params;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, watch};

use crate::Boxed;
use crate::session::Server;
use connection::Connection;

/// Bounds of the listener.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at a time; more are refused with 53300.
    pub connections_max: usize,
    /// Bytes of one message from a client.
    pub message_bytes_max: usize,
}

/// A running listener. Dropping it stops it and its connections; [`ServerHandle::shutdown`] also waits for their end.
pub struct ServerHandle {
    env: log::Env,
    stop: watch::Sender<bool>,
    /// One for each connection that is served.
    places: Arc<Semaphore>,
    connections_max: usize,
}

/// Starts to serve whoever comes to the listener.
pub fn serve(server: Arc<Server>, listener: log::env::Listener, limits: Limits) -> ServerHandle {
    let env = server.env.clone();
    let (stop, stopped) = watch::channel(false);
    let places = Arc::new(Semaphore::new(limits.connections_max));
    // The task ends with `stop`; nobody waits for its value.
    drop(env.spawn("pgwire listener", accept(server, listener, limits, Arc::clone(&places), stopped)));
    ServerHandle { env, stop, places, connections_max: limits.connections_max }
}

impl ServerHandle {
    /// Accepts no more, breaks off what runs and tells each client so. Who has not taken that by the deadline is left to
    /// end with the runtime.
    pub fn shutdown(self, deadline: Duration) -> Boxed<()> {
        Box::pin(async move {
            self.stop.send_replace(true);
            let all = u32::try_from(self.connections_max).unwrap_or(u32::MAX);
            if self.env.timeout(deadline, self.places.acquire_many(all)).await.is_none() {
                tracing::warn!("PostgreSQL connections are still open at the end of the time to close them");
            }
        })
    }
}

async fn accept(
    server: Arc<Server>,
    mut listener: log::env::Listener,
    limits: Limits,
    places: Arc<Semaphore>,
    mut stop: watch::Receiver<bool>,
) {
    let registry = Arc::new(Registry::default());
    loop {
        let accepted = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => return,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Mostly too many open files: wait for some to be closed rather than spin.
                tracing::warn!(%error, "a connection could not be accepted");
                server.env.sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let place = Arc::clone(&places).try_acquire_owned().ok();
        let connection =
            Connection::new(stream, Arc::clone(&server), Arc::clone(&registry), limits, stop.clone(), place.is_some());
        drop(server.env.spawn("pgwire connection", async move {
            if let Err(error) = connection.serve().await {
                tracing::debug!(%error, "connection ended");
            }
            drop(place);
        }));
    }
}

/// The running connections by their cancel keys. The lock is held for a few instructions only.
#[derive(Default)]
struct Registry(Mutex<Keys>);

#[derive(Default)]
struct Keys {
    pid_last: i32,
    by_pid: HashMap<i32, (i32, watch::Sender<u64>)>,
}

impl Registry {
    fn lock(&self) -> MutexGuard<'_, Keys> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new connection: its process id, and what changes when it is asked to cancel.
    fn enter(self: &Arc<Self>, key: i32) -> (Registered, watch::Receiver<u64>) {
        let (sender, receiver) = watch::channel(0);
        let mut keys = self.lock();
        while keys.pid_last == 0 || keys.by_pid.contains_key(&keys.pid_last) {
            keys.pid_last = keys.pid_last.checked_add(1).unwrap_or(1);
        }
        let pid = keys.pid_last;
        keys.by_pid.insert(pid, (key, sender));
        (Registered { registry: Arc::clone(self), pid }, receiver)
    }

    fn cancel(&self, pid: i32, key: i32) {
        if let Some((expected, sender)) = self.lock().by_pid.get(&pid)
            && *expected == key
        {
            sender.send_modify(|n| *n += 1);
        }
    }
}

/// Leaves the registry when dropped.
struct Registered {
    registry: Arc<Registry>,
    pid: i32,
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.registry.lock().by_pid.remove(&self.pid);
    }
}
