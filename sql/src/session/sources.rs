//! [`Sources`]: the running sources, each followed by a task that connects, starts the driver and, when the outside is
//! away at the start, tries again.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use engine::io::{Connector, Gate, Options, Source};
use engine::run::ingest::{Ingest, IngestConfig, IngestState, IngestStatus};
use engine::run::positions;
use tokio::sync::{oneshot, watch};

use crate::error::{Error, Result, sqlstate};

/// Waits between attempts to reach a source at the start: doubled from the one to the other.
const RETRY_MIN: Duration = Duration::from_millis(250);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// All running sources by name. The lock is held for a few instructions only.
#[derive(Default)]
pub struct Sources(Mutex<BTreeMap<String, Running>>);

struct Running {
    gate: watch::Receiver<Gate>,
    status: watch::Receiver<IngestStatus>,
    orders: oneshot::Sender<Order>,
}

/// What a source's task is told to do, once.
enum Order {
    Stop(oneshot::Sender<()>),
    Remove(oneshot::Sender<Removed>),
}

/// What could not be removed outside is said; the source is removed here all the same.
pub type Removed = Result<Option<engine::io::Error>, engine::io::Error>;

/// What a source's task needs.
pub struct Start {
    pub env: log::Env,
    pub cluster: Arc<dyn log::Cluster>,
    pub connector: Arc<dyn Connector>,
    pub name: String,
    pub options: Options,
    /// Topics by (schema, table) of the source's relations.
    pub topics: BTreeMap<(String, String), log::Topic>,
    /// Already connected, when the source was just created.
    pub source: Option<Box<dyn Source>>,
    /// Whether the snapshot is in the log: readers need not wait for the source then.
    pub snapshot_done: bool,
}

/// How a source stands, for people.
#[derive(Default)]
pub struct SourceStatus {
    pub state: &'static str,
    pub rows: u64,
    pub lag_ms: i64,
    pub detail: Option<String>,
}

impl Sources {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Running>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts to follow a source; returns the gate of its tables.
    pub fn start(&self, start: Start) -> watch::Receiver<Gate> {
        let first = match start.snapshot_done {
            true => Gate::Open,
            false => Gate::Closed { progress: "the snapshot has not begun".into() },
        };
        let (gate_in, gate) = watch::channel(first);
        let (status_in, status) = watch::channel(IngestStatus::default());
        let (orders, ordered) = oneshot::channel();
        let (name, env) = (start.name.clone(), start.env.clone());
        // The task ends by an order or with the program.
        drop(env.spawn("source", follow(start, gate_in, status_in, ordered)));
        self.lock().insert(name, Running { gate: gate.clone(), status, orders });
        gate
    }

    pub fn is_running(&self, name: &str) -> bool {
        self.lock().contains_key(name)
    }

    pub fn gate(&self, name: &str) -> Option<watch::Receiver<Gate>> {
        self.lock().get(name).map(|running| running.gate.clone())
    }

    pub fn status(&self, name: &str) -> SourceStatus {
        let Some(status) = self.lock().get(name).map(|running| running.status.borrow().clone()) else {
            return SourceStatus { state: "absent", ..SourceStatus::default() };
        };
        let progress = match self.gate(name).map(|gate| gate.borrow().clone()) {
            Some(Gate::Closed { progress }) => Some(progress),
            _ => None,
        };
        let (state, detail) = match status.state {
            IngestState::Starting => ("starting", progress),
            IngestState::Running if progress.is_some() => ("snapshot", progress),
            IngestState::Running => ("running", None),
            IngestState::Retrying { error } => ("retrying", Some(error)),
            IngestState::Failed { message, hint } => (
                "failed",
                Some(match hint {
                    Some(hint) => format!("{message}; {hint}"),
                    None => message,
                }),
            ),
            IngestState::Stopped => ("stopped", None),
        };
        SourceStatus { state, rows: status.rows, lag_ms: status.lag_ms, detail }
    }

    /// Why the source will not go on by itself.
    pub fn failure(&self, name: &str) -> Option<String> {
        let status = self.status(name);
        (status.state == "failed").then(|| format!("source {name} has failed: {}", status.detail.unwrap_or_default()))
    }

    /// Ends a source for good: removes what it left outside and its position. Gives back why something may be left
    /// outside, where it could not be removed.
    pub async fn remove(&self, name: &str) -> Result<Option<Error>> {
        let Some(running) = self.lock().remove(name) else { return Ok(None) };
        let (reply, answer) = oneshot::channel();
        if running.orders.send(Order::Remove(reply)).is_err() {
            return Err(broken_off(name));
        }
        Ok(answer.await.map_err(|_| broken_off(name))??.map(Error::from))
    }

    /// Ends all sources; the next start goes on.
    pub async fn stop(&self) {
        let all: Vec<Running> = std::mem::take(&mut *self.lock()).into_values().collect();
        let mut answers = Vec::new();
        for running in all {
            let (reply, answer) = oneshot::channel();
            if running.orders.send(Order::Stop(reply)).is_ok() {
                answers.push(answer);
            }
        }
        for answer in answers {
            // A task that is gone has stopped.
            let _ = answer.await;
        }
    }
}

fn broken_off(name: &str) -> Error {
    Error::new(sqlstate::OBJECT_NOT_IN_PREREQUISITE_STATE, format!("the driver of source \"{name}\" has broken off"))
        .hint("restart the server and try again")
}

/// Connects, runs the driver and obeys one order.
async fn follow(
    mut start: Start,
    gate: watch::Sender<Gate>,
    status: watch::Sender<IngestStatus>,
    mut orders: oneshot::Receiver<Order>,
) {
    let mut wait = RETRY_MIN;
    let ingest = loop {
        let attempt = tokio::select! {
            biased;
            order = &mut orders => return obey_alone(start, order.ok()).await,
            attempt = connect(&mut start) => attempt,
        };
        match attempt {
            Ok(ingest) => break ingest,
            Err(engine::io::Error::Outside(error)) => {
                tracing::warn!(source = start.name, error, "source not reachable, trying again");
                tell(&gate, || format!("the source cannot be reached: {error}"));
                status.send_modify(|s| {
                    s.state = IngestState::Retrying { error };
                    s.retries += 1;
                });
            }
            Err(error) => {
                tracing::error!(source = start.name, %error, "source failed");
                let hint = match &error {
                    engine::io::Error::User { hint, .. } | engine::io::Error::Lost { hint, .. } => hint.clone(),
                    _ => None,
                };
                tell(&gate, || format!("the source has failed: {error}"));
                status.send_modify(|s| s.state = IngestState::Failed { message: error.to_string(), hint });
                let order = (&mut orders).await.ok();
                return obey_alone(start, order).await;
            }
        }
        tokio::select! {
            biased;
            order = &mut orders => return obey_alone(start, order.ok()).await,
            () = start.env.sleep(wait) => {}
        }
        wait = (wait * 2).min(RETRY_MAX);
    };
    let order = relay(&ingest, gate, status, orders).await;
    ingest.stop().await;
    obey_alone(start, order).await;
}

async fn connect(start: &mut Start) -> Result<Ingest, engine::io::Error> {
    let mut source = match start.source.take() {
        Some(source) => source,
        None => start.connector.source(&start.name, &start.options).await?,
    };
    // Tables that came later match the options too.
    source.keep(&start.topics.keys().cloned().collect())?;
    let topics = source.relations().iter().map(|relation| {
        let key = (relation.schema_name.clone(), relation.name.clone());
        start.topics.get(&key).cloned().ok_or_else(|| engine::io::Error::User {
            message: format!("bug: table {}.{} has no topic", relation.schema_name, relation.name),
            hint: None,
        })
    });
    let topics = topics.collect::<Result<Vec<_>, _>>()?;
    let (env, cluster) = (start.env.clone(), Arc::clone(&start.cluster));
    Ingest::start(env, cluster, &start.name, topics, source, IngestConfig::default())
        .await
        .map_err(|error| engine::io::Error::Outside(error.to_string()))
}

/// Has those who wait for the snapshot know why it does not come.
fn tell(gate: &watch::Sender<Gate>, why: impl Fn() -> String) {
    gate.send_if_modified(|gate| match gate {
        Gate::Open => false,
        Gate::Closed { progress } => {
            *progress = why();
            true
        }
    });
}

/// Passes on what the driver says until an order comes.
async fn relay(
    ingest: &Ingest,
    gate: watch::Sender<Gate>,
    status: watch::Sender<IngestStatus>,
    mut orders: oneshot::Receiver<Order>,
) -> Option<Order> {
    let (mut gates, mut states) = (ingest.gate(), ingest.status());
    let (mut gates_end, mut states_end) = (false, false);
    gates.mark_changed();
    states.mark_changed();
    loop {
        tokio::select! {
            biased;
            order = &mut orders => return order.ok(),
            changed = gates.changed(), if !gates_end => match changed {
                Ok(()) => {
                    let new = gates.borrow_and_update().clone();
                    // A gate opens once: one that is open from an earlier run stays so.
                    gate.send_if_modified(|g| *g != Gate::Open && *g != new && { *g = new; true });
                }
                Err(_) => gates_end = true,
            },
            changed = states.changed(), if !states_end => match changed {
                Ok(()) => {
                    let new = states.borrow_and_update().clone();
                    match &new.state {
                        IngestState::Failed { message, .. } => tell(&gate, || format!("the source has failed: {message}")),
                        IngestState::Retrying { error } => tell(&gate, || format!("the source cannot be reached: {error}")),
                        IngestState::Starting | IngestState::Running | IngestState::Stopped => {}
                    }
                    status.send_replace(new);
                }
                Err(_) => states_end = true,
            },
        }
    }
}

/// An order to a source that does not run.
async fn obey_alone(start: Start, order: Option<Order>) {
    match order {
        Some(Order::Remove(reply)) => {
            let removed = remove_alone(&*start.cluster, &*start.connector, &start.name, &start.options).await;
            drop(reply.send(removed));
        }
        Some(Order::Stop(reply)) => {
            let _ = reply.send(());
        }
        None => {}
    }
}

/// Removes what a source has left outside, and its position, without following it: its tables, or the whole server, may
/// be gone.
pub async fn remove_alone(
    cluster: &dyn log::Cluster,
    connector: &dyn Connector,
    name: &str,
    options: &Options,
) -> Removed {
    let left = connector.remove(name, options).await.err();
    positions::forget(cluster, name).await?;
    Ok(left)
}
