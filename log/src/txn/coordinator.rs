//! The task that runs the transaction states: grants ids, decides, has the markers written, and publishes.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::sync::{Notify, mpsc, oneshot};

use super::Surroundings;
use super::states::{Command, EPOCH_LAST, Granted, States};
use crate::env::Env;
use crate::env::mutant::Mutant;
use crate::machine::Machine;
use crate::record::build::{Frame, Marker};
use crate::record::{Batch, NewRecord, Offset, RecordView};
use crate::store::partition::Partition;
use crate::store::session::{Ranges, Session};
use crate::store::stable::Range;
use crate::store::{LeftOpen, Queued, Store};
use crate::{Committed, Error};

/// Requests that may wait for the coordinator.
const MAILBOX: usize = 1024;
/// Records of the states' topic after which it is written anew and trimmed: a few megabytes to replay. Tests come to it
/// sooner.
const RECORDS_MAX: u64 = if cfg!(test) { 30 } else { 10_000 };
/// The largest batch of states; ids are at most 32 KiB and few.
const BATCH_BYTES_MAX: usize = 64 * 1024 * 1024;

enum Request {
    Grant {
        id: String,
        reply: oneshot::Sender<Result<Arc<Session>, Error>>,
    },
    End {
        session: Arc<Session>,
        commit: bool,
        reply: oneshot::Sender<Result<Committed, Error>>,
    },
    /// The session's producer is gone.
    Abandoned {
        session: Arc<Session>,
    },
    /// What was decided or aborted for this id is durable and published. `fresh`: the producer id under which the
    /// holder goes on, where the epochs of the old one are used up.
    Finished {
        id: String,
        producer_id: i64,
        epoch: i16,
        commit: bool,
        fresh: Option<i64>,
    },
}

/// A handle to the coordinator.
#[derive(Clone)]
pub(crate) struct Coordinator {
    send: mpsc::Sender<Request>,
    abandoned: Arc<Abandoned>,
}

/// Sessions whose producer was dropped; a drop cannot wait for room in a mailbox. As many as there were producers.
#[derive(Default)]
struct Abandoned {
    sessions: Mutex<Vec<Arc<Session>>>,
    some: Notify,
}

impl Coordinator {
    /// Loads the states, ends what a crash left open, and runs. `partition` is that of the states' topic.
    pub async fn start(
        env: &Env,
        store: Arc<Store>,
        surroundings: Arc<dyn Surroundings>,
        partition: Arc<Partition>,
        left: Vec<LeftOpen>,
        epochs: BTreeMap<i64, i16>,
    ) -> Result<Coordinator, Error> {
        let (send, requests) = mpsc::channel(MAILBOX);
        let abandoned = Arc::new(Abandoned::default());
        let handle = Coordinator { send: send.clone(), abandoned: Arc::clone(&abandoned) };
        let mut task = Task {
            env: env.clone(),
            store,
            surroundings,
            partition,
            states: States::default(),
            active: BTreeMap::new(),
            records: 0,
            send: send.downgrade(),
            abandoned,
        };
        task.load().await?;
        task.recover(left, &epochs).await?;
        drop(env.spawn("log-transactions", task.run(requests)));
        Ok(handle)
    }

    async fn ask<T>(&self, request: Request, outcome: oneshot::Receiver<Result<T, Error>>) -> Result<T, Error> {
        let gone = |_| Error::Closed("the transaction coordinator has stopped".to_owned());
        self.send.send(request).await.map_err(gone)?;
        outcome.await.map_err(|_| Error::Unknown)?
    }

    /// Takes over a transactional id.
    pub async fn grant(&self, id: &str) -> Result<Arc<Session>, Error> {
        let (reply, outcome) = oneshot::channel();
        self.ask(Request::Grant { id: id.to_owned(), reply }, outcome).await
    }

    /// Ends the session's transaction; returns when that is durable and visible.
    pub async fn end(&self, session: &Arc<Session>, commit: bool) -> Result<Committed, Error> {
        let (reply, outcome) = oneshot::channel();
        self.ask(Request::End { session: Arc::clone(session), commit, reply }, outcome).await
    }

    /// The producer is gone: what it left open is aborted.
    pub fn abandon(&self, session: Arc<Session>) {
        session.fence();
        self.abandoned.sessions.lock().unwrap_or_else(PoisonError::into_inner).push(session);
        self.abandoned.some.notify_one();
    }
}

/// The holder of a transactional id.
struct Active {
    session: Arc<Session>,
    /// A transaction of it is being ended; what comes meanwhile waits.
    busy: bool,
    waiting: VecDeque<Request>,
}

struct Task {
    env: Env,
    store: Arc<Store>,
    surroundings: Arc<dyn Surroundings>,
    partition: Arc<Partition>,
    states: States,
    active: BTreeMap<String, Active>,
    /// In the states' topic since it was last written anew.
    records: u64,
    send: mpsc::WeakSender<Request>,
    abandoned: Arc<Abandoned>,
}

/// Who waits for a transaction's end, and what to tell them where that went well.
type Answer = (oneshot::Sender<Result<Committed, Error>>, Result<(), Error>);

/// A transaction on its way to its end.
struct Ending {
    id: String,
    producer_id: i64,
    /// Of the markers: one above that of the data.
    epoch: i16,
    /// The producer id of the holder's next transaction, where the epochs of this one are used up.
    fresh: Option<i64>,
    ranges: Ranges,
    decision: Option<Queued>,
}

impl Task {
    async fn load(&mut self) -> Result<(), Error> {
        let mut at = self.partition.bounds().start;
        loop {
            let read = self.store.read(&self.partition, at, Offset(i64::MAX), 1024 * 1024).await?;
            if read.batches.is_empty() {
                return Ok(());
            }
            at = read.next;
            for batch in read.batches {
                let corrupt = |error: crate::record::BatchError| Error::Corrupt {
                    place: format!("{} at offset {}", super::TOPIC, batch.base_offset().0),
                    detail: error.to_string(),
                };
                for record in batch.records().map_err(corrupt)? {
                    self.states.apply(&record.map_err(corrupt)?)?;
                    self.records += 1;
                }
            }
        }
    }

    /// Carries out what was decided, aborts the rest, and publishes both before anybody reads.
    async fn recover(&mut self, left: Vec<LeftOpen>, epochs: &BTreeMap<i64, i16>) -> Result<(), Error> {
        let mut endings: BTreeMap<(i64, i16), Vec<LeftOpen>> = BTreeMap::new();
        for open in left {
            endings.entry((open.producer_id, open.epoch)).or_default().push(open);
        }
        let mut written = Vec::new();
        for ((producer_id, epoch), opens) in endings {
            let commit = self.states.decided(producer_id, epoch);
            for open in opens {
                let marker = self.marker(producer_id, epoch.saturating_add(1), commit);
                written.push((open, commit, self.store.append_lazy(open.partition, marker).await?));
            }
        }
        for (_, _, queued) in &mut written {
            queued.placed().await;
        }
        self.store.wake();
        let mut done: BTreeMap<(i64, bool), Vec<Range>> = BTreeMap::new();
        for (open, commit, queued) in written {
            let marker = queued.durable(&self.store).await?.base_offset;
            let range = Range { partition: open.partition, first: open.first, end: marker, marker };
            done.entry((open.producer_id, commit)).or_default().push(range);
        }
        for ((producer_id, commit), ranges) in done {
            tracing::info!(producer_id, commit, partitions = ranges.len(), "a transaction was ended by recovery");
            self.store.stable().finish(producer_id, ranges, commit);
        }
        // The markers of those that were ended have raised the epochs once more.
        let raised = epochs.iter().map(|(id, epoch)| (*id, epoch.saturating_add(1))).collect();
        for command in self.states.incomplete() {
            self.decide(command).await?.0?;
        }
        self.states.raise(&raised);
        Ok(())
    }

    async fn run(mut self, mut requests: mpsc::Receiver<Request>) {
        let abandoned = Arc::clone(&self.abandoned);
        loop {
            let request = tokio::select! {
                biased;
                () = abandoned.some.notified() => None,
                request = requests.recv() => match request {
                    Some(request) => Some(request),
                    None => return,
                },
            };
            let result = match request {
                Some(request) => self.handle(request).await,
                None => self.sweep().await,
            };
            if let Err(error) = result {
                tracing::error!(%error, "the transaction coordinator has stopped");
                return;
            }
        }
    }

    /// An error here is the coordinator's end; what is the caller's fault goes into the reply.
    async fn handle(&mut self, request: Request) -> Result<(), Error> {
        match request {
            Request::Grant { id, reply } => self.grant(id, reply).await,
            Request::End { session, commit, reply } => self.end(session, commit, reply).await,
            Request::Abandoned { session } => self.abandoned(session).await,
            Request::Finished { id, producer_id, epoch, commit, fresh } => {
                self.finished(&id, Granted { producer_id, epoch }, commit, fresh).await?;
                let Some(active) = self.active.get_mut(&id) else { return Ok(()) };
                active.busy = false;
                let waiting = std::mem::take(&mut active.waiting);
                for request in waiting {
                    Box::pin(self.handle(request)).await?;
                }
                self.maybe_rewrite().await
            }
        }
    }

    /// Notes the end of a transaction, along with whatever is written next: what recovery finds decided and whole it
    /// completes again, without harm.
    async fn finished(&mut self, id: &str, ended: Granted, commit: bool, fresh: Option<i64>) -> Result<(), Error> {
        let Granted { producer_id, epoch } = ended;
        if commit {
            self.decide(Command::Complete { id: id.to_owned(), producer_id, epoch }).await?.0?;
        }
        if let Some(fresh) = fresh {
            self.states.raise(&BTreeMap::from([(producer_id, epoch)]));
            self.decide(Command::Grant { id: id.to_owned(), fresh }).await?.0?;
        }
        Ok(())
    }

    async fn grant(&mut self, id: String, reply: oneshot::Sender<Result<Arc<Session>, Error>>) -> Result<(), Error> {
        if i16::try_from(id.len()).is_err() {
            let (topic, size, limit) = (super::TOPIC.to_owned(), id.len(), i16::MAX as usize);
            return answer(reply, Err(Error::TooLarge { topic, size, limit }));
        }
        if let Some(active) = self.active.get_mut(&id) {
            if active.busy {
                active.waiting.push_back(Request::Grant { id, reply });
                return Ok(());
            }
            active.session.fence();
            let session = Arc::clone(&active.session);
            if !session.is_empty() {
                active.waiting.push_back(Request::Grant { id, reply });
                let ending = self.take(&session).await?;
                return self.finish(&session, ending, None);
            }
            // Transactions under the old holder may have gone further than the states say: an abort leaves no record.
            let (producer_id, epoch) = session.producer();
            self.states.raise(&BTreeMap::from([(producer_id, epoch)]));
        }
        let fresh = if self.states.wants_fresh(&id) { self.surroundings.producer_id().await? } else { 0 };
        let (granted, decision) = self.decide(Command::Grant { id: id.clone(), fresh }).await?;
        let Granted { producer_id, epoch } = granted?;
        let session = Arc::new(Session::new(id.clone(), producer_id, epoch));
        let waiting = self.active.remove(&id).map(|active| active.waiting).unwrap_or_default();
        self.active.insert(id, Active { session: Arc::clone(&session), busy: false, waiting });
        let mut decision = decision.expect("a grant is recorded");
        let store = Arc::clone(&self.store);
        drop(self.env.spawn("log-grant", async move {
            decision.placed().await;
            store.wake();
            let durable = decision.durable(&store).await;
            drop(reply.send(durable.map(|_| session)));
        }));
        Ok(())
    }

    async fn end(
        &mut self,
        session: Arc<Session>,
        commit: bool,
        reply: oneshot::Sender<Result<Committed, Error>>,
    ) -> Result<(), Error> {
        let id = session.transactional_id.clone();
        let current = self.active.get_mut(&id).filter(|active| Arc::ptr_eq(&active.session, &session));
        let Some(active) = current else { return answer(reply, Err(Error::Fenced(id))) };
        if active.busy {
            active.waiting.push_back(Request::End { session, commit, reply });
            return Ok(());
        }
        if session.is_fenced() {
            return answer(reply, Err(Error::Fenced(id)));
        }
        if session.is_empty() {
            session.forget();
            return answer(reply, Ok(Committed::default()));
        }
        let mut ending = self.take(&session).await?;
        let mut verdict = Ok(());
        if commit {
            match self.topics_of(&ending.ranges) {
                Ok(partitions) => {
                    let command = Command::Commit { id, epoch: ending.epoch - 1, partitions };
                    let (granted, decision) = self.decide(command).await?;
                    verdict = granted.map(drop);
                    ending.decision = decision;
                }
                // A topic was deleted under the transaction: it cannot be whole any more.
                Err(error) => verdict = Err(error),
            }
        }
        self.finish(&session, ending, Some((reply, verdict)))
    }

    fn topics_of(&self, ranges: &Ranges) -> Result<Vec<(String, Vec<i32>)>, Error> {
        let mut topics: BTreeMap<String, Vec<i32>> = BTreeMap::new();
        for partition in ranges.keys() {
            let (name, _) = self.surroundings.topic(*partition)?;
            topics.entry(name).or_default().push(partition.partition);
        }
        Ok(topics.into_iter().collect())
    }

    /// Takes the open transaction out of the session; whatever its producer still sends belongs to the next one. The id
    /// is busy until [`Request::Finished`].
    async fn take(&mut self, session: &Session) -> Result<Ending, Error> {
        let id = session.transactional_id.clone();
        let used_up = session.epoch() + 1 >= EPOCH_LAST;
        let fresh = if used_up { Some(self.surroundings.producer_id().await?) } else { None };
        let (producer_id, epoch, ranges) = session.end(fresh);
        if let Some(active) = self.active.get_mut(&id) {
            active.busy = true;
        }
        Ok(Ending { id, producer_id, epoch: epoch + 1, fresh, ranges, decision: None })
    }

    /// Has the markers written beside the coordinator's work: of a commit where there is a decision, else of an abort.
    fn finish(&mut self, session: &Arc<Session>, ending: Ending, reply: Option<Answer>) -> Result<(), Error> {
        let (id, producer_id, epoch, fresh) = (ending.id.clone(), ending.producer_id, ending.epoch, ending.fresh);
        let commit = ending.decision.is_some();
        let finished = Request::Finished { id, producer_id, epoch, commit, fresh };
        let marker = self.marker(producer_id, epoch, commit);
        let (store, send, session) = (Arc::clone(&self.store), self.send.clone(), Arc::clone(session));
        drop(self.env.spawn("log-markers", async move {
            let outcome = carry_out(&store, ending, marker).await;
            session.ended();
            if let Some((reply, verdict)) = reply {
                drop(reply.send(verdict.and(outcome)));
            }
            if let Some(send) = send.upgrade() {
                drop(send.send(finished).await);
            }
        }));
        Ok(())
    }

    /// Sees to what dropped producers left open.
    async fn sweep(&mut self) -> Result<(), Error> {
        let sessions = std::mem::take(&mut *self.abandoned.sessions.lock().unwrap_or_else(PoisonError::into_inner));
        for session in sessions {
            self.abandoned(session).await?;
        }
        Ok(())
    }

    async fn abandoned(&mut self, session: Arc<Session>) -> Result<(), Error> {
        let active = self.active.get_mut(&session.transactional_id);
        let Some(active) = active.filter(|active| Arc::ptr_eq(&active.session, &session)) else { return Ok(()) };
        if active.busy {
            active.waiting.push_back(Request::Abandoned { session });
            return Ok(());
        }
        if session.is_empty() {
            return Ok(());
        }
        let ending = self.take(&session).await?;
        self.finish(&session, ending, None)
    }

    fn marker(&self, producer_id: i64, epoch: i16, commit: bool) -> Batch {
        let marker = Marker { commit, coordinator_epoch: self.partition.epoch.0 };
        Batch::build_marker(producer_id, epoch, marker, self.env.now_ms())
    }

    /// Decides, applies, and queues the record.
    async fn decide(&mut self, command: Command) -> Result<(Result<Granted, Error>, Option<Queued>), Error> {
        let now_ms = self.env.now_ms();
        let (reply, decision) = self.states.decide(now_ms, command);
        if decision.records.is_empty() {
            return Ok((reply, None));
        }
        for record in &decision.records {
            self.states.apply(&view(record))?;
        }
        self.records += decision.records.len() as u64;
        let batch = batch_of(&decision.records, now_ms)?;
        let queued = self.store.append_lazy(self.partition.id, batch).await?;
        Ok((reply, Some(queued)))
    }

    /// Keeps the states' topic short: all states once more, then a new start.
    async fn maybe_rewrite(&mut self) -> Result<(), Error> {
        let records = self.states.snapshot();
        if self.records < RECORDS_MAX.max(2 * records.len() as u64) {
            return Ok(());
        }
        self.records = records.len() as u64;
        let batch = batch_of(&records, self.env.now_ms())?;
        let rewritten = self.store.append_lazy(self.partition.id, batch).await?;
        let (store, partition) = (Arc::clone(&self.store), self.partition.id);
        drop(self.env.spawn("log-transactions-trim", async move {
            if let Ok(appended) = rewritten.durable(&store).await
                && let Err(error) = store.trim(partition, appended.base_offset).await
            {
                tracing::warn!(%error, "the transaction states were not trimmed");
            }
        }));
        Ok(())
    }
}

/// Answers, and goes on. The asker may be gone: then nobody wants to know.
fn answer<T>(reply: oneshot::Sender<Result<T, Error>>, outcome: Result<T, Error>) -> Result<(), Error> {
    drop(reply.send(outcome));
    Ok(())
}

async fn carry_out(store: &Store, ending: Ending, marker: Batch) -> Result<Committed, Error> {
    let Ending { producer_id, ranges, decision, .. } = ending;
    let commit = decision.is_some();
    let mut decided = decision;
    if let Some(decision) = &mut decided
        && !Mutant::MarkersBeforeDecision.is_on()
    {
        // Its place first: then no marker can become durable without it.
        decision.placed().await;
    }
    let mut markers = Vec::with_capacity(ranges.len());
    for (partition, range) in ranges {
        markers.push((partition, range, store.append_lazy(partition, marker.clone()).await?));
    }
    for (_, _, queued) in &mut markers {
        queued.placed().await;
    }
    // Data, decision and markers wait in the queue: one write, one sync.
    store.wake();
    if Mutant::EndAnsweredEarly.is_on() {
        return Ok(Committed::default());
    }
    if let Some(decision) = decided {
        decision.durable(store).await?;
    }
    let mut finished = Vec::with_capacity(markers.len());
    for (partition, (first, end), queued) in markers {
        match queued.durable(store).await {
            Ok(appended) => finished.push(Range { partition, first, end, marker: appended.base_offset }),
            // Its topic was deleted since: nothing is left to end there.
            Err(Error::UnknownPartition(_)) => {}
            Err(error) => return Err(error),
        }
    }
    let ranges = finished.iter().map(|range| (range.partition, range.first, range.end)).collect();
    store.stable().finish(producer_id, finished, commit);
    Ok(Committed { ranges })
}

fn batch_of(records: &[NewRecord], now_ms: i64) -> Result<Batch, Error> {
    let frame = Frame { now_ms, producer: None, transactional: false, batch_bytes_max: BATCH_BYTES_MAX };
    Batch::build(records, &frame)
        .map_err(|error| Error::Corrupt { place: super::TOPIC.to_owned(), detail: error.to_string() })
}

fn view(record: &NewRecord) -> RecordView {
    RecordView {
        offset: Offset(0),
        timestamp_ms: record.timestamp_ms.unwrap_or(0),
        key: record.key.clone(),
        value: record.value.clone(),
        headers: Bytes::from_static(&[0]),
    }
}
