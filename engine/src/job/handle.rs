//! [`Engine`]: the handle to the driver. Requests go through one bounded queue; reads go to shared, published state.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};

use super::driver::Driver;
use super::status::{EngineMetrics, JobState, JobStatus, Pin};
use super::{EngineConfig, Error, TableDef, ViewDef};
use crate::graph::RelationId;
use crate::state::ViewStore;
use crate::time::Epoch;

/// Requests that may wait for the driver; more are refused by waiting in the caller.
const REQUESTS_MAX: usize = 64;

/// Handle to the engine's driver; cheap to clone.
#[derive(Clone)]
pub struct Engine {
    env: log::Env,
    requests: mpsc::Sender<Request>,
    shared: Arc<Shared>,
}

/// What the driver is asked to do, each with where the answer goes.
pub(super) enum Request {
    AddTable(Box<TableDef>, oneshot::Sender<Result<(), Error>>),
    AddView(Box<ViewDef>, oneshot::Sender<Result<(), Error>>),
    Remove(RelationId, oneshot::Sender<Result<(), Error>>),
    Resume(oneshot::Sender<Result<(), Error>>),
    Shutdown(oneshot::Sender<()>),
}

/// What the driver publishes and readers look at. Locks are held for a few instructions only.
pub(super) struct Shared {
    published: Mutex<Published>,
    /// Counts up with every change of `published`.
    changed: watch::Sender<u64>,
    /// The driver is to end at the next slice.
    stopping: AtomicBool,
}

/// The newest state that readers may see.
pub(super) struct Published {
    pub epoch: Epoch,
    /// Pinned epochs and how many pins each has.
    pub pins: BTreeMap<u64, usize>,
    pub relations: BTreeMap<RelationId, Relation>,
    pub metrics: EngineMetrics,
    /// Set when the driver has ended.
    pub closed: Option<String>,
}

/// One relation as readers see it.
pub(super) struct Relation {
    pub status: JobStatus,
    pub store: Option<Arc<dyn ViewStore>>,
    /// What a table reads; nothing for a view.
    pub partitions: Vec<log::TopicPartition>,
}

impl Published {
    /// Whether the partition is an input that goes on.
    fn follows(&self, partition: &log::TopicPartition) -> bool {
        let mut live = self.relations.values().filter(|it| !matches!(it.status.state, JobState::Failed { .. }));
        live.any(|relation| relation.partitions.contains(partition))
    }
}

impl Shared {
    pub fn new() -> Arc<Self> {
        let published = Published {
            epoch: Epoch { number: 0, cut: Arc::new(log::Cut::default()), now_us: 0 },
            pins: BTreeMap::new(),
            relations: BTreeMap::new(),
            metrics: EngineMetrics::default(),
            closed: None,
        };
        Arc::new(Self {
            published: Mutex::new(published),
            changed: watch::Sender::new(0),
            stopping: AtomicBool::new(false),
        })
    }

    /// Changes what is published and wakes those who wait for it.
    pub fn publish<T>(&self, change: impl FnOnce(&mut Published) -> T) -> T {
        let result = change(&mut self.lock());
        self.changed.send_modify(|n| *n += 1);
        result
    }

    pub fn lock(&self) -> MutexGuard<'_, Published> {
        self.published.lock().expect("no code panics while it holds this lock")
    }

    pub fn unpin(&self, epoch: u64) {
        let mut published = self.lock();
        if let Some(count) = published.pins.get_mut(&epoch) {
            *count -= 1;
            if *count == 0 {
                published.pins.remove(&epoch);
            }
        }
    }

    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// The oldest epoch somebody may still read: state before it can be folded.
    pub fn oldest_readable(&self) -> u64 {
        let published = self.lock();
        published.pins.first_key_value().map_or(published.epoch.number, |(epoch, _)| *epoch)
    }
}

impl Engine {
    /// Starts the driver on a thread of its own and creates the engine's topics where they are missing. Nothing moves
    /// before [`Self::resume`].
    pub async fn start(env: log::Env, cluster: Arc<dyn log::Cluster>, config: EngineConfig) -> Result<Engine, Error> {
        let shared = Shared::new();
        let driver = Driver::open(env.clone(), cluster, config, Arc::clone(&shared)).await?;
        let (requests, receive) = mpsc::channel(REQUESTS_MAX);
        drop(env.place("engine", driver.run(receive)).map_err(log::Error::Io)?);
        Ok(Engine { env, requests, shared })
    }

    /// A base relation over a topic. Returns when the driver has accepted it; it is readable later ([`Self::caught_up`]).
    pub async fn add_table(&self, table: TableDef) -> Result<(), Error> {
        self.ask(|reply| Request::AddTable(Box::new(table), reply)).await?
    }

    /// A view over relations that are known. Accepted; it catches up behind ([`Self::caught_up`]).
    pub async fn add_view(&self, view: ViewDef) -> Result<(), Error> {
        self.ask(|reply| Request::AddView(Box::new(view), reply)).await?
    }

    /// Ends a view's job or forgets a table; refused while views read it. Topics stay.
    pub async fn remove(&self, id: RelationId) -> Result<(), Error> {
        self.ask(|reply| Request::Remove(id, reply)).await?
    }

    /// After a start: everything has been added again, recovery may replay and go on. Returns when replay has begun.
    pub async fn resume(&self) -> Result<(), Error> {
        self.ask(Request::Resume).await?
    }

    /// Waits until all of `ids` are readable; returns the newest epoch then. A stopped job is an error at once; after
    /// `deadline` the error says how far the first lagging one is.
    pub async fn caught_up(&self, ids: &[RelationId], deadline: Duration) -> Result<u64, Error> {
        let lagging = |published: &Published| ids.iter().find_map(|id| waits(published, *id).transpose()).transpose();
        match self.wait_until(deadline, |published| Ok(lagging(published)?.is_none())).await? {
            Some(epoch) => Ok(epoch),
            None => match lagging(&self.shared.lock())? {
                Some((name, progress)) => Err(Error::NotCaughtUp { name, progress }),
                None => Ok(self.shared.lock().epoch.number),
            },
        }
    }

    /// Waits until the newest epoch covers these offsets (read-your-writes). Partitions that are no input of the
    /// engine are not waited for.
    pub async fn wait_for(&self, cut: &log::Cut) -> Result<u64, Error> {
        let covered = |published: &Published| {
            let have = &published.epoch.cut.0;
            let covers = |(partition, end)| have.get(partition).is_some_and(|at| at >= end);
            Ok(cut.0.iter().all(|(partition, end)| covers((partition, end)) || !published.follows(partition)))
        };
        match self.wait_until(WAIT_FOR_MAX, covered).await? {
            Some(epoch) => Ok(epoch),
            None => Err(Error::NotCovered { epoch: self.shared.lock().epoch.number }),
        }
    }

    /// Pins the newest published epoch.
    pub fn pin(&self) -> Pin {
        let mut published = self.shared.lock();
        let epoch = published.epoch.clone();
        *published.pins.entry(epoch.number).or_default() += 1;
        drop(published);
        Pin { epoch, shared: Arc::clone(&self.shared) }
    }

    /// The state of an upsert table or a view. To be read at epochs pinned after it has caught up: at earlier ones it is
    /// empty.
    pub fn store(&self, id: RelationId) -> Result<Arc<dyn ViewStore>, Error> {
        let published = self.shared.lock();
        let relation = published.relations.get(&id).ok_or(Error::UnknownRelation(id))?;
        if let Some((name, progress)) = waits(&published, id)? {
            return Err(Error::NotCaughtUp { name, progress });
        }
        relation.store.clone().ok_or_else(|| Error::NoStore(relation.status.name.clone()))
    }

    /// All tables and views, by id.
    pub fn jobs(&self) -> Vec<JobStatus> {
        self.shared.lock().relations.values().map(|relation| relation.status.clone()).collect()
    }

    /// Returns why the driver has ended, once it has.
    pub async fn ended(&self) -> String {
        let mut changed = self.shared.changed.subscribe();
        loop {
            changed.borrow_and_update();
            if let Some(reason) = self.shared.lock().closed.clone() {
                return reason;
            }
            changed.changed().await.expect("the sender lives as long as this handle");
        }
    }

    pub fn metrics(&self) -> EngineMetrics {
        let mut metrics = self.shared.lock().metrics.clone();
        metrics.jobs = self.jobs();
        metrics
    }

    /// Ends the driver, in the middle of an epoch if need be. Nothing is lost: a start replays.
    pub async fn shutdown(&self) {
        self.shared.stopping.store(true, Ordering::Relaxed);
        let (reply, answer) = oneshot::channel();
        if self.requests.send(Request::Shutdown(reply)).await.is_ok() {
            // A driver that is gone already has nothing left to end.
            let _ = answer.await;
        }
    }

    async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        if self.requests.send(request(reply)).await.is_err() {
            return Err(self.closed());
        }
        answer.await.map_err(|_| self.closed())
    }

    fn closed(&self) -> Error {
        Error::Closed(self.shared.lock().closed.clone().unwrap_or_else(|| "it was shut down".into()))
    }

    /// Waits until `done`; the newest epoch then, `None` when time is up.
    async fn wait_until(
        &self,
        deadline: Duration,
        done: impl Fn(&Published) -> Result<bool, Error>,
    ) -> Result<Option<u64>, Error> {
        let mut changed = self.shared.changed.subscribe();
        let sleep = self.env.sleep(deadline);
        tokio::pin!(sleep);
        loop {
            changed.borrow_and_update();
            {
                let published = self.shared.lock();
                if let Some(reason) = &published.closed {
                    return Err(Error::Closed(reason.clone()));
                }
                if done(&published)? {
                    return Ok(Some(published.epoch.number));
                }
            }
            tokio::select! {
                biased;
                changed = changed.changed() => changed.map_err(|_| self.closed())?,
                () = &mut sleep => return Ok(None),
            }
        }
    }
}

/// Longest wait for read-your-writes, before it is an error.
const WAIT_FOR_MAX: Duration = Duration::from_secs(60);

/// The name and progress of a relation that is not readable yet, `None` when it is; a stopped one is its error.
fn waits(published: &Published, id: RelationId) -> Result<Option<(String, String)>, Error> {
    let status = &published.relations.get(&id).ok_or(Error::UnknownRelation(id))?.status;
    match &status.state {
        JobState::Running => Ok(None),
        JobState::Waiting { progress } => Ok(Some((status.name.clone(), progress.clone()))),
        JobState::Failed { reason } => {
            Err(Error::Stopped { name: status.name.clone(), epoch: status.epoch, reason: reason.clone() })
        }
    }
}
