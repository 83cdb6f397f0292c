//! [`Ingest`]: the driver of a source. `next` → append → at a boundary commit with the position → `durable`.
//!
//! Several small source transactions share a log transaction, one is never split over two. Two tasks: one asks the
//! source, one writes; while a log transaction is being committed the next records are read, so that a source is not
//! bound by the latency of a sync. What is between them is bounded in bytes.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};

use super::{partition, positions};
use crate::io::{Error, Gate, Source, SourceBatch};

use positions::Stored;

/// Limits of one source's driver.
#[derive(Clone, Debug)]
pub struct IngestConfig {
    /// A log transaction ends at the first boundary behind so many bytes, or when there is nothing more to read.
    pub commit_bytes: usize,
    /// … or so much time.
    pub commit_after: Duration,
    /// Bytes read ahead of the log.
    pub ahead_bytes_max: usize,
    /// Waits between attempts to reach the source: doubled from the one to the other, with jitter.
    pub retry_min: Duration,
    pub retry_max: Duration,
}

impl Default for IngestConfig {
    fn default() -> Self {
        Self {
            commit_bytes: 4 << 20,
            commit_after: Duration::from_millis(20),
            ahead_bytes_max: 16 << 20,
            retry_min: Duration::from_millis(250),
            retry_max: Duration::from_secs(30),
        }
    }
}

/// How a source stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum IngestState {
    #[default]
    Starting,
    Running,
    /// Not reachable; tried again.
    Retrying {
        error: String,
    },
    /// Cannot go on by itself.
    Failed {
        message: String,
        hint: Option<String>,
    },
    Stopped,
}

/// State and counts since the start of the process.
#[derive(Clone, Debug, Default)]
pub struct IngestStatus {
    pub state: IngestState,
    /// Records committed to the log.
    pub rows: u64,
    pub bytes: u64,
    /// Log transactions.
    pub commits: u64,
    pub retries: u64,
    /// Age of the newest record when it was committed, milliseconds; 0 where records bear no time, and once the source
    /// has said that it waits for more.
    pub lag_ms: i64,
}

/// A running source.
pub struct Ingest {
    stop: watch::Sender<bool>,
    gate: watch::Receiver<Gate>,
    status: watch::Receiver<IngestStatus>,
    task: log::env::Task<Driver>,
}

/// Batches that may be between source and log, however small.
const BATCHES_AHEAD: usize = 1024;

/// A record's share of memory besides key and value.
const RECORD_OVERHEAD_BYTES: usize = 64;

struct Driver {
    env: log::Env,
    cluster: Arc<dyn log::Cluster>,
    config: IngestConfig,
    name: String,
    /// By index of the source's relations.
    topics: Vec<log::Topic>,
    positions: log::TopicPartition,
    /// Away while its task reads.
    source: Option<Box<dyn Source>>,
    stored: Option<Stored>,
    gate: watch::Sender<Gate>,
    status: watch::Sender<IngestStatus>,
    stop: watch::Receiver<bool>,
}

/// What the reading task hands over, with its claim on the memory.
type Handed = (Result<SourceBatch, Error>, OwnedSemaphorePermit);

impl Ingest {
    /// Starts to follow the source from its stored position. `topics[i]` takes the records of relation `i`.
    pub async fn start(
        env: log::Env,
        cluster: Arc<dyn log::Cluster>,
        name: &str,
        topics: Vec<log::Topic>,
        source: Box<dyn Source>,
        config: IngestConfig,
    ) -> Result<Self, super::Error> {
        let positions = positions::partition(&*cluster).await?;
        let stored = positions::load(&*cluster).await?.remove(name);
        let open = stored.as_ref().is_some_and(|stored| stored.snapshot_done);
        let gate = if open { Gate::Open } else { Gate::Closed { progress: "it has not begun".into() } };
        let (gate_in, gate) = watch::channel(gate);
        let (status_in, status) = watch::channel(IngestStatus::default());
        let (stop, stopped) = watch::channel(false);
        let driver = Driver {
            env: env.clone(),
            cluster,
            config,
            name: name.to_owned(),
            topics,
            positions,
            source: Some(source),
            stored,
            gate: gate_in,
            status: status_in,
            stop: stopped,
        };
        let task = env.spawn("ingest", driver.run());
        Ok(Self { stop, gate, status, task })
    }

    /// Closed until the snapshot is in the log.
    pub fn gate(&self) -> watch::Receiver<Gate> {
        self.gate.clone()
    }

    pub fn status(&self) -> watch::Receiver<IngestStatus> {
        self.status.clone()
    }

    /// Ends it; what is not committed is read again after the next start.
    pub async fn stop(self) {
        self.stop.send_replace(true);
        // A driver that has ended by itself is as good.
        let _ = self.task.await;
    }

    /// Ends it for good: removes what the source left outside and forgets its position. Topics stay.
    pub async fn remove(self) -> Result<(), Error> {
        self.stop.send_replace(true);
        let ended = |_| Error::Outside("the source's driver has broken off; try again after a restart".into());
        let mut driver = self.task.await.map_err(ended)?;
        let source = driver.source.as_mut();
        source
            .ok_or_else(|| Error::Outside("the source has broken off; try again after a restart".into()))?
            .remove()
            .await?;
        Ok(positions::forget(&*driver.cluster, &driver.name).await?)
    }
}

impl Driver {
    async fn run(mut self) -> Self {
        let mut wait = self.config.retry_min;
        let state = loop {
            let commits = self.status.borrow().commits;
            let error = match self.attempt().await {
                Ok(()) => break IngestState::Stopped,
                Err(error) => error,
            };
            if self.status.borrow().commits > commits {
                wait = self.config.retry_min;
            }
            match error {
                Error::Log(log::Error::Busy(_) | log::Error::NotLeader(_) | log::Error::Unknown)
                | Error::Outside(_) => {
                    let error = error.to_string();
                    tracing::warn!(source = self.name, error, "source not reachable, trying again");
                    self.status.send_modify(|status| {
                        status.state = IngestState::Retrying { error };
                        status.retries += 1;
                    });
                    if self.pause(wait).await {
                        break IngestState::Stopped;
                    }
                    wait = (wait * 2).min(self.config.retry_max);
                }
                Error::User { message, hint } | Error::Lost { message, hint } => {
                    break IngestState::Failed { message, hint };
                }
                Error::Log(error) => {
                    let hint = Some("restart riverrun; the source goes on from its stored position".into());
                    break IngestState::Failed { message: format!("the log: {error}"), hint };
                }
            }
        };
        if let IngestState::Failed { message, .. } = &state {
            tracing::error!(source = self.name, message, "source stopped");
        }
        self.status.send_modify(|status| status.state = state);
        self
    }

    /// Waits between half of `wait` and all of it; true when it is to stop.
    async fn pause(&mut self, wait: Duration) -> bool {
        let part = (self.env.random_u64() % 1000) as u32;
        let wait = wait / 2 + wait / 2 * part / 1000;
        let mut stop = self.stop.clone();
        self.env.timeout(wait, stop.wait_for(|stop| *stop)).await.is_some()
    }

    async fn producer(&mut self) -> Result<Box<dyn log::Producer>, log::Error> {
        self.cluster.producer(&positions::producer_id(&self.name)).await
    }

    /// From the stored position until it is told to stop (`Ok`) or something fails.
    async fn attempt(&mut self) -> Result<(), Error> {
        let mut producer = self.producer().await?;
        // Read when others are fenced: the outcome of a commit may not have been known.
        let stored = positions::load(&*self.cluster).await.map_err(|error| match error {
            super::Error::Log(error) => Error::Log(error),
            error => Error::Lost { message: error.to_string(), hint: None },
        })?;
        self.stored = stored.get(&self.name).cloned();
        let mut source = self.source.take().ok_or_else(panicked)?;
        let position = self.stored.as_ref().map(|stored| stored.position.clone());
        let (send, mut batches) = mpsc::channel(BATCHES_AHEAD);
        let (durable, durable_seen) = watch::channel(None);
        let budget = Arc::new(Semaphore::new(self.config.ahead_bytes_max));
        let mut stop = self.stop.clone();
        let budget_bytes = self.config.ahead_bytes_max;
        let reading = self.env.spawn("source", async move {
            let read = read(&mut *source, position, send, durable_seen, budget, budget_bytes);
            tokio::select! {
                biased;
                // Nobody is left to stop it: it is to stop.
                _ = stop.wait_for(|stop| *stop) => {}
                () = read => {}
            }
            source
        });
        let result = self.write(&mut *producer, &mut batches, &durable).await;
        if result.is_err() {
            // Aborted now rather than when the producer is taken over; the error at hand is the one to tell.
            let _ = producer.abort().await;
        }
        // The reading task ends when it cannot hand over any more.
        drop((batches, durable));
        self.source = reading.await.ok();
        if self.source.is_none() && result.is_ok() {
            return Err(panicked());
        }
        result
    }

    /// Writes what is handed over until the reading ends (`Ok`) or something fails.
    async fn write(
        &mut self,
        producer: &mut dyn log::Producer,
        batches: &mut mpsc::Receiver<Handed>,
        durable: &watch::Sender<Option<Vec<u8>>>,
    ) -> Result<(), Error> {
        let mut open = Open::default();
        while let Some((batch, permit)) = batches.recv().await {
            let batch = batch?;
            if *self.stop.borrow() {
                break;
            }
            if open.since.is_none() {
                open.since = Some(self.env.monotonic());
            }
            if self.status.borrow().state != IngestState::Running {
                self.status.send_modify(|status| status.state = IngestState::Running);
            }
            self.append(producer, &mut open, batch).await?;
            drop(permit);
            let age = open.since.map_or(Duration::ZERO, |since| self.env.monotonic() - since);
            let full = open.bytes >= self.config.commit_bytes || age >= self.config.commit_after;
            if open.position.is_some() && (full || batches.is_empty()) {
                self.commit(producer, std::mem::take(&mut open), durable).await?;
            } else if open.position.is_none() && *self.gate.borrow() != Gate::Open {
                let progress = format!("{} rows copied", open.rows);
                self.gate.send_replace(Gate::Closed { progress });
            }
        }
        producer.abort().await?;
        Ok(())
    }

    async fn append(
        &mut self,
        producer: &mut dyn log::Producer,
        open: &mut Open,
        batch: SourceBatch,
    ) -> Result<(), Error> {
        open.position = batch.position;
        open.snapshot_done |= batch.snapshot_done;
        open.rows += batch.records.len() as u64;
        let mut runs: Vec<Vec<log::NewRecord>> = vec![Vec::new(); self.topics.len()];
        for (relation, record) in batch.records {
            open.bytes += record_bytes(&record);
            open.newest_ms = record.timestamp_ms.or(open.newest_ms);
            let run = runs.get_mut(relation);
            let unknown = || Error::Lost {
                message: format!("bug: a record of relation {relation}, which has no topic"),
                hint: None,
            };
            run.ok_or_else(unknown)?.push(record);
        }
        for (topic, records) in self.topics.iter().zip(runs) {
            for (partition, records) in partition::by_key(records, topic.partitions.max(1) as usize) {
                let partition = i32::try_from(partition).expect("a partition's index fits");
                producer.append(log::TopicPartition { topic: topic.id, partition }, records).await?;
            }
        }
        Ok(())
    }

    async fn commit(
        &mut self,
        producer: &mut dyn log::Producer,
        open: Open,
        durable: &watch::Sender<Option<Vec<u8>>>,
    ) -> Result<(), Error> {
        let Some(position) = open.position else { return Ok(()) };
        let done_before = self.stored.as_ref().is_some_and(|stored| stored.snapshot_done);
        let stored = Stored { position, snapshot_done: done_before || open.snapshot_done };
        if open.rows > 0 || self.stored.as_ref() != Some(&stored) {
            producer.append(self.positions, vec![positions::record(&self.name, Some(&stored))]).await?;
            producer.commit().await?;
        }
        durable.send_replace(Some(stored.position.clone()));
        if stored.snapshot_done && *self.gate.borrow() != Gate::Open {
            self.gate.send_replace(Gate::Open);
        }
        self.stored = Some(stored);
        let now_ms = self.env.now_ms();
        self.status.send_modify(|status| {
            status.rows += open.rows;
            status.bytes += open.bytes as u64;
            status.commits += u64::from(open.rows > 0);
            status.lag_ms = open.newest_ms.map_or(0, |newest| (now_ms - newest).max(0));
        });
        Ok(())
    }
}

/// The log transaction at hand.
#[derive(Default)]
struct Open {
    /// The boundary it stands at; none in the middle of a source transaction.
    position: Option<Vec<u8>>,
    snapshot_done: bool,
    rows: u64,
    bytes: usize,
    newest_ms: Option<i64>,
    since: Option<Duration>,
}

/// Asks the source and hands over, until the other side is gone or the source fails: the error is handed over last.
async fn read(
    source: &mut dyn Source,
    position: Option<Vec<u8>>,
    send: mpsc::Sender<Handed>,
    mut durable: watch::Receiver<Option<Vec<u8>>>,
    budget: Arc<Semaphore>,
    budget_bytes: usize,
) {
    let mut started = source.start(position).await;
    loop {
        let batch = match started {
            Ok(()) => next(source, &mut durable).await,
            Err(error) => Err(error),
        };
        started = Ok(());
        let last = batch.is_err();
        let bytes = batch.as_ref().map_or(1, |batch| batch.records.iter().map(|(_, r)| record_bytes(r)).sum());
        let claim = u32::try_from(bytes.clamp(1, budget_bytes)).unwrap_or(u32::MAX);
        let Ok(permit) = Arc::clone(&budget).acquire_many_owned(claim).await else { return };
        if send.send((batch, permit)).await.is_err() || last {
            return;
        }
    }
}

/// The next records. Meanwhile the source hears what has become durable: the outside may wait for that before it says more.
async fn next(source: &mut dyn Source, durable: &mut watch::Receiver<Option<Vec<u8>>>) -> Result<SourceBatch, Error> {
    let mut told = true;
    loop {
        tokio::select! {
            biased;
            changed = durable.changed(), if told => {
                // Without the writer nothing is handed over any more either.
                told = changed.is_ok();
                if told && let Some(position) = &*durable.borrow_and_update() {
                    source.durable(position);
                }
            }
            batch = source.next() => return batch,
        }
    }
}

fn panicked() -> Error {
    Error::Lost {
        message: "bug: the source has panicked".into(),
        hint: Some("restart riverrun; the source goes on from its stored position".into()),
    }
}

fn record_bytes(record: &log::NewRecord) -> usize {
    let length = |bytes: &Option<bytes::Bytes>| bytes.as_ref().map_or(0, |bytes| bytes.len());
    length(&record.key) + length(&record.value) + RECORD_OVERHEAD_BYTES
}
