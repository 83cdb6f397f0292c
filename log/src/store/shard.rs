//! A shard: the one writer of its partitions. It assigns offsets, stamps batches, checks producers and queues for the
//! write-ahead log, with no await in between; when the log says that bytes are safe it makes them visible and answers.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use hashbrown::HashMap;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use super::partition::{Entry, Partition, Place};
use super::producers::{Producers, Verdict};
use super::recovery::PartitionState;
use super::session::Ticket;
use super::wal::Item;
use super::{Closer, Shared};
use crate::env::Env;
use crate::record::{Batch, Offset, TopicPartition};
use crate::{Appended, Error};

/// Messages taken from the mailbox before their entries go to the log together.
const BURST: usize = 256;

/// What is asked of a shard.
pub(super) enum Message {
    Append(Box<Append>),
    /// The partition is this shard's from now on.
    Open(Box<Owned>),
    /// The partition's topic is deleted.
    Close(TopicPartition),
    /// Moves the log start; answered when that is durable.
    Trim {
        partition: TopicPartition,
        start: Offset,
        done: oneshot::Sender<Result<Offset, Error>>,
    },
    /// Writes the partitions' states anew, so that these files can go; answered when they are durable.
    Carry {
        files: Vec<u32>,
        done: oneshot::Sender<Result<(), Error>>,
    },
    /// The files hold nothing of use any more; answered when the log says so.
    Freed {
        files: Vec<u32>,
        done: oneshot::Sender<Result<(), Error>>,
    },
    /// Takes no more messages; ends when everything is durable.
    Stop,
}

/// One batch on its way into a partition.
pub(super) struct Append {
    pub partition: TopicPartition,
    pub batch: Batch,
    pub how: How,
    /// Admission by bytes, given back when the batch is durable.
    pub permit: Option<OwnedSemaphorePermit>,
    /// Gets the offset when it is assigned and the entry queued.
    pub placed: Option<oneshot::Sender<Offset>>,
    pub durable: Option<oneshot::Sender<Result<Appended, Error>>>,
}

/// On which condition a batch is appended.
pub(super) enum How {
    /// Checked against what is known of its producer, where it names one.
    Plain,
    /// As `Plain`, and only when it gets this offset.
    Expect(Offset),
    /// In the session's open transaction, and only while that is not fenced.
    Transactional(Ticket),
    /// A decision or marker: it has its place, and waits for the next group that somebody needs.
    Lazy,
}

/// A partition with what only its writer knows.
pub(super) struct Owned {
    pub partition: Arc<Partition>,
    pub producers: Producers,
    pub end: Offset,
    pub log_append_time: bool,
    /// Files that hold entries of the partition which later ones build on.
    pub touched: std::collections::BTreeSet<u32>,
}

/// What waits for the log, in the order of its queue.
enum Pending {
    Batch {
        partition: Arc<Partition>,
        batch: Batch,
        append_time_ms: Option<i64>,
        permit: Option<OwnedSemaphorePermit>,
        durable: Option<oneshot::Sender<Result<Appended, Error>>>,
    },
    Trim {
        partition: Arc<Partition>,
        start: Offset,
        done: oneshot::Sender<Result<Offset, Error>>,
    },
    State {
        partition: TopicPartition,
    },
    Done(oneshot::Sender<Result<(), Error>>),
}

/// Answers to repeated batches, by how many pending entries they wait for.
struct Repeated {
    after: u64,
    partition: Arc<Partition>,
    base_offset: Offset,
    durable: oneshot::Sender<Result<Appended, Error>>,
}

/// See the module.
pub(super) struct Shard {
    pub env: Env,
    pub number: usize,
    pub shared: Arc<Shared>,
    pub mailbox: mpsc::Receiver<Message>,
    owned: HashMap<TopicPartition, Owned, foldhash::fast::FixedState>,
    pending: VecDeque<Pending>,
    /// Entries queued and entries completed since the start.
    queued: u64,
    completed: u64,
    repeated: VecDeque<Repeated>,
    outgoing: Vec<Item>,
    /// Whether what is outgoing can wait.
    lazy: bool,
    placed: Vec<(oneshot::Sender<Offset>, Offset)>,
    /// Of batches that are outgoing.
    tickets: Vec<Ticket>,
    stopping: bool,
    waiters: Arc<AtomicUsize>,
    _closer: Arc<Closer>,
}

impl Shard {
    pub fn new(
        env: Env,
        number: usize,
        shared: Arc<Shared>,
        mailbox: mpsc::Receiver<Message>,
        waiters: Arc<AtomicUsize>,
        closer: Arc<Closer>,
    ) -> Shard {
        Shard {
            env,
            number,
            shared,
            mailbox,
            owned: HashMap::default(),
            pending: VecDeque::new(),
            queued: 0,
            completed: 0,
            repeated: VecDeque::new(),
            outgoing: Vec::new(),
            lazy: true,
            placed: Vec::new(),
            tickets: Vec::new(),
            stopping: false,
            waiters,
            _closer: closer,
        }
    }

    /// Works until it is stopped and everything is durable, or the log is poisoned. Then whoever waits gets
    /// [`Error::Unknown`] (by the drop of their senders) and later callers [`Error::Closed`].
    pub async fn run(mut self) {
        while !(self.stopping && self.pending.is_empty()) {
            let shared = Arc::clone(&self.shared);
            tokio::select! {
                biased;
                () = shared.wal.stopped() => return,
                places = shared.wal.durable(self.number) => self.complete(places),
                message = self.mailbox.recv(), if !self.stopping => {
                    match message {
                        Some(message) => self.burst(message).await,
                        None => self.stopping = true,
                    }
                    if self.shared.env_steps {
                        self.env.step().await;
                    }
                }
            }
        }
    }

    async fn burst(&mut self, first: Message) {
        let now_ms = self.env.now_ms();
        self.handle(first, now_ms);
        for _ in 1..BURST {
            match self.mailbox.try_recv() {
                Ok(message) => self.handle(message, now_ms),
                Err(_) => break,
            }
        }
        if self.shared.env_steps {
            // Other shards may queue first.
            self.env.step().await;
        }
        if !self.outgoing.is_empty() {
            self.shared.wal.push(self.number, &mut self.outgoing, self.lazy);
            self.lazy = true;
            // Somebody waits for room that these hold. They wake the log too: whoever comes second sees the other.
            if self.waiters.load(Ordering::SeqCst) > 0 {
                self.shared.wal.wake();
            }
        }
        self.tickets.drain(..).for_each(Ticket::settle);
        for (sender, offset) in self.placed.drain(..) {
            // Nobody may be waiting any more: the caller was dropped.
            let _ = sender.send(offset);
        }
    }

    fn queue(&mut self, item: Item, pending: Pending) {
        self.outgoing.push(item);
        self.pending.push_back(pending);
        self.queued += 1;
    }

    fn handle(&mut self, message: Message, now_ms: i64) {
        match message {
            Message::Append(append) => self.append(*append, now_ms),
            Message::Open(owned) => drop(self.owned.insert(owned.partition.id, *owned)),
            Message::Close(partition) => drop(self.owned.remove(&partition)),
            Message::Trim { partition, start, done } => self.trim(partition, start, done),
            Message::Carry { files, done } => self.carry(&files, done),
            Message::Freed { files, done } => {
                self.lazy = false;
                self.queue(Item::Freed { files }, Pending::Done(done));
            }
            Message::Stop => {
                self.stopping = true;
                // What was lazy so far has nobody else to take it along.
                self.lazy = false;
                self.shared.wal.wake();
            }
        }
    }

    fn append(&mut self, append: Append, now_ms: i64) {
        let Append { partition, mut batch, how, permit, placed, durable } = append;
        let Some(owned) = self.owned.get_mut(&partition) else {
            return refuse(how, durable, Error::UnknownPartition(partition));
        };
        match owned.admit(&batch, &how) {
            Ok(Verdict::Append) => {}
            Ok(Verdict::Repeated(base_offset)) => {
                let partition = Arc::clone(&owned.partition);
                if let Some(durable) = durable {
                    self.repeated.push_back(Repeated { after: self.queued, partition, base_offset, durable });
                    self.answer_repeated();
                    self.need_queued();
                }
                return;
            }
            Err(error) => return refuse(how, durable, error),
        }
        let base_offset = owned.end;
        if let How::Transactional(ticket) = &how
            && let Err(error) = ticket.place(partition, &batch, base_offset)
        {
            return refuse(how, durable, error);
        }
        let append_time_ms = (owned.log_append_time && !batch.is_control()).then_some(now_ms);
        if let Some(now_ms) = append_time_ms {
            batch.stamp_log_append_time(now_ms);
        }
        batch.place(base_offset, owned.partition.epoch);
        if let (true, false, Some(producer)) = (batch.is_transactional(), batch.is_control(), batch.producer())
            && owned.producers.open(producer.id).is_none()
        {
            self.shared.stable.begin(partition, producer.id, base_offset);
        }
        owned.producers.apply(&batch);
        owned.end = batch.next_offset();
        owned.partition.set_end(owned.end);
        let partition = Arc::clone(&owned.partition);
        // An open transaction can wait for its end.
        self.lazy &= matches!(how, How::Lazy | How::Transactional(_));
        self.placed.extend(placed.map(|placed| (placed, base_offset)));
        if let How::Transactional(ticket) = how {
            self.tickets.push(ticket);
        }
        let item = Item::Batch { partition: partition.id, batch: batch.clone() };
        self.queue(item, Pending::Batch { partition, batch, append_time_ms, permit, durable });
    }

    fn trim(&mut self, partition: TopicPartition, start: Offset, done: oneshot::Sender<Result<Offset, Error>>) {
        let Some(owned) = self.owned.get(&partition) else {
            return drop(done.send(Err(Error::UnknownPartition(partition))));
        };
        let (limit, _) = owned.partition.trim_limit();
        let now = owned.partition.bounds().start;
        let start = start.min(limit);
        if start <= now {
            return drop(done.send(Ok(now)));
        }
        let partition = Arc::clone(&owned.partition);
        let item = Item::LogStart { partition: partition.id, epoch: partition.epoch, start };
        self.lazy = false;
        self.queue(item, Pending::Trim { partition, start, done });
    }

    /// Every partition with something in these files says where it stands, so that nothing in them is needed.
    fn carry(&mut self, files: &[u32], done: oneshot::Sender<Result<(), Error>>) {
        let mut ids: Vec<TopicPartition> = self.owned.values().map(|owned| owned.partition.id).collect();
        ids.sort_unstable();
        for id in ids {
            let owned = self.owned.get_mut(&id).expect("just listed");
            if !files.iter().any(|file| owned.touched.contains(file)) {
                continue;
            }
            let (state, epoch) = (owned.state(), owned.partition.epoch);
            owned.touched.clear();
            let bytes = Bytes::from(serde_json::to_vec(&state).expect("a state can be written as JSON"));
            self.queue(Item::State { partition: id, epoch, bytes }, Pending::State { partition: id });
        }
        self.lazy = false;
        self.queue(Item::Freed { files: Vec::new() }, Pending::Done(done));
    }

    fn complete(&mut self, places: Vec<Place>) {
        self.completed += places.len() as u64;
        let mut moved: BTreeMap<TopicPartition, Offset> = BTreeMap::new();
        let mut hot = Vec::with_capacity(places.len());
        let mut answers = Vec::new();
        for place in places {
            match self.pending.pop_front().expect("the log completes what was queued") {
                Pending::Batch { partition, batch, append_time_ms, permit, durable } => {
                    if let Some(owned) = self.owned.get_mut(&partition.id) {
                        owned.touched.insert(place.file);
                    }
                    let (base_offset, next) = show(&partition, batch, place, &mut hot);
                    match next {
                        Some(next) => drop(moved.insert(partition.id, next)),
                        None => self.shared.files.live(std::iter::once(place), false),
                    }
                    drop(permit);
                    answers.extend(durable.map(|durable| (durable, partition, base_offset, append_time_ms)));
                }
                Pending::Trim { partition, start, done } => {
                    self.shared.files.live(std::iter::once(place), false);
                    if let Some(owned) = self.owned.get_mut(&partition.id) {
                        owned.touched.insert(place.file);
                    }
                    let mut view = partition.write_view();
                    let gone = view.trim(start);
                    let start = view.start;
                    drop(view);
                    self.shared.files.live(gone.iter().map(|entry| entry.place), false);
                    partition.wake_readers();
                    drop(done.send(Ok(start)));
                }
                Pending::State { partition } => {
                    self.shared.files.live(std::iter::once(place), false);
                    if let Some(owned) = self.owned.get_mut(&partition) {
                        owned.touched.insert(place.file);
                    }
                }
                Pending::Done(done) => {
                    self.shared.files.live(std::iter::once(place), false);
                    drop(done.send(Ok(())));
                }
            }
        }
        let moved: Vec<(TopicPartition, Offset)> = moved.into_iter().collect();
        self.shared.stable.advance(&moved);
        self.shared.tail.added(hot.into_iter());
        for (durable, partition, base_offset, log_append_time_ms) in answers {
            let log_start = partition.read_view().start;
            drop(durable.send(Ok(Appended { base_offset, log_append_time_ms, log_start })));
        }
        self.answer_repeated();
    }

    /// What stands before a repeated batch may all be able to wait: now somebody needs it.
    fn need_queued(&mut self) {
        if self.repeated.is_empty() {
            return;
        }
        if self.outgoing.is_empty() {
            self.shared.wal.wake();
        } else {
            self.lazy = false;
        }
    }

    fn answer_repeated(&mut self) {
        while let Some(repeated) = self.repeated.pop_front_if(|repeated| repeated.after <= self.completed) {
            let log_start = repeated.partition.read_view().start;
            let base_offset = repeated.base_offset;
            drop(repeated.durable.send(Ok(Appended { base_offset, log_append_time_ms: None, log_start })));
        }
    }
}

/// Makes a durable batch visible; returns its offset and the one behind it, none when the partition is gone.
fn show(
    partition: &Arc<Partition>,
    batch: Batch,
    place: Place,
    hot: &mut Vec<(std::sync::Weak<Partition>, usize)>,
) -> (Offset, Option<Offset>) {
    let (base, next) = (batch.base_offset(), batch.next_offset());
    let mut view = partition.write_view();
    if partition.is_closed() {
        // Its topic was deleted meanwhile; whoever closes takes away what is in the view, under this lock.
        return (base, None);
    }
    assert_eq!(view.high_watermark, base, "batches become durable in the order of their offsets");
    hot.push((Arc::downgrade(partition), batch.size()));
    view.index.push_back(Entry::of(&batch, place));
    view.hot.push_back(batch);
    view.high_watermark = next;
    (base, Some(next))
}

impl Owned {
    fn admit(&self, batch: &Batch, how: &How) -> Result<Verdict, Error> {
        if let How::Expect(offset) = how
            && *offset != self.end
        {
            return Err(Error::OutOfRange { offset: *offset, start: self.end, end: self.end });
        }
        match batch.producer() {
            Some(producer) if !batch.is_control() => self.producers.check(producer, batch.record_count()),
            _ => Ok(Verdict::Append),
        }
    }

    fn state(&self) -> PartitionState {
        let view = self.partition.read_view();
        PartitionState {
            start: view.start,
            end: self.end,
            producers: self.producers.clone(),
            aborted: view.aborted.clone(),
        }
    }
}

fn refuse(how: How, durable: Option<oneshot::Sender<Result<Appended, Error>>>, error: Error) {
    match (how, durable) {
        (How::Transactional(ticket), _) => ticket.refuse(error),
        (_, Some(durable)) => drop(durable.send(Err(error))),
        (_, None) => tracing::warn!(%error, "an append that nobody waits for was refused"),
    }
}

/// What callers keep of a shard.
pub(super) struct Mailbox {
    pub send: mpsc::Sender<Message>,
    pub room: Arc<tokio::sync::Semaphore>,
    pub room_bytes: usize,
    /// Callers that wait for room.
    pub waiters: Arc<AtomicUsize>,
}
