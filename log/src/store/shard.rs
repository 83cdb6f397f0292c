//! A shard: the one writer of its partitions. It assigns offsets, stamps batches, checks producers and queues for the
//! write-ahead log, with no await in between; when the log says that bytes are safe it makes them visible and answers.

mod complete;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hashbrown::HashMap;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use super::checkpoint::{Captured, Changed, Standing};
use super::compact::producers::LastBatches;
use super::config::PartitionConfig;
use super::owned::{Owned, Slot};
use super::partition::Partition;
use super::producers::{ExpiredTo, Verdict};
use super::session::Ticket;
use super::wal::Item;
use super::{Closer, Shared};
use crate::env::Env;
use crate::env::mutant::Mutant;
use crate::record::{Batch, Offset, TopicPartition};
use crate::{Appended, Error};

/// Messages taken from the mailbox before their entries go to the log together.
const BURST: usize = 256;
/// Producers that are forgotten at a look, of all partitions; the next look goes on.
const FORGOTTEN_MAX: usize = 10_000;

/// What is asked of a shard.
pub(super) enum Message {
    Append(Box<Append>),
    /// The partition is this shard's from now on.
    Open(Box<Owned>),
    Configure {
        partition: TopicPartition,
        config: Box<PartitionConfig>,
    },
    /// The partition's topic is deleted.
    Close(TopicPartition),
    /// Moves the log start; answered when that is durable. `again`: where it does not move that is written anew.
    Trim {
        partition: TopicPartition,
        start: Offset,
        again: bool,
        done: oneshot::Sender<Result<Offset, Error>>,
    },
    /// Answered when everything that had become durable before is visible.
    Settle(oneshot::Sender<()>),
    /// Writes batches once more that stand in files of the log which are to be released; answered when they are durable.
    Copy {
        partition: TopicPartition,
        batches: Vec<(Batch, Slot)>,
        done: oneshot::Sender<()>,
    },
    /// Says which batches the partition's producers need.
    Producers {
        partition: TopicPartition,
        done: oneshot::Sender<LastBatches>,
    },
    /// Forgets producers that have expired.
    ForgetProducers,
    /// Says which partitions have changed since they were last captured.
    Changed(oneshot::Sender<VecDeque<Changed>>),
    /// Says where these stand, and which are gone since the last time; answered when all of that is durable. Asked for
    /// again only when it was answered.
    Capture {
        partitions: Vec<TopicPartition>,
        done: oneshot::Sender<Captured>,
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

/// What waits for the log, in the order of its queue.
enum Pending {
    Batch {
        partition: Arc<Partition>,
        batch: Batch,
        slot: Slot,
        append_time_ms: Option<i64>,
        permit: Option<OwnedSemaphorePermit>,
        durable: Option<oneshot::Sender<Result<Appended, Error>>>,
        when: When,
    },
    Trim {
        partition: Arc<Partition>,
        start: Offset,
        done: oneshot::Sender<Result<Offset, Error>>,
    },
    Deleted {
        partition: TopicPartition,
    },
    /// A batch written once more, and who waits for the last of such.
    Copied {
        partition: TopicPartition,
        segment: Offset,
        done: Option<oneshot::Sender<()>>,
    },
}

/// When a batch is shown to readers and acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    Durable,
    /// `flush=os`: as soon as it is written, if all that is in front of it in its partition is shown.
    Written,
    /// That was done.
    Shown,
}

/// A capture on its way: what was assigned to its partitions when it was asked for, until that is durable.
struct Capturing {
    after: u64,
    standing: Vec<Standing>,
    removed: Vec<TopicPartition>,
    done: oneshot::Sender<Captured>,
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
    capturing: VecDeque<Capturing>,
    /// Partitions deleted since the last capture, and how many entries had been queued with the last of them.
    removed: Vec<TopicPartition>,
    removed_queued: u64,
    outgoing: Vec<Item>,
    /// Whether what is outgoing can wait.
    lazy: bool,
    placed: Vec<(oneshot::Sender<Offset>, Offset)>,
    /// Of batches that are outgoing.
    tickets: Vec<Ticket>,
    /// Only what a checkpoint asks is still answered: what is pending may need its room.
    stopping: bool,
    /// Nobody can send any more.
    closed: bool,
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
            capturing: VecDeque::new(),
            removed: Vec::new(),
            removed_queued: 0,
            outgoing: Vec::new(),
            lazy: true,
            placed: Vec::new(),
            tickets: Vec::new(),
            stopping: false,
            closed: false,
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
                runs = shared.wal.durable(self.number) => self.complete(&runs),
                message = self.mailbox.recv(), if !self.closed => {
                    match message {
                        Some(message) => self.burst(message).await,
                        None => (self.stopping, self.closed) = (true, true),
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
            Message::Append(_) | Message::Open(_) | Message::Close(_) | Message::Trim { .. } if self.stopping => {}
            Message::Append(append) => self.append(*append, now_ms),
            Message::Open(owned) => drop(self.owned.insert(owned.partition.id, *owned)),
            Message::Configure { partition, config } => {
                // It may be closed already: its topic was deleted meanwhile.
                if let Some(owned) = self.owned.get_mut(&partition) {
                    owned.config = *config;
                }
            }
            Message::Close(partition) => {
                self.owned.remove(&partition);
                self.lazy = false;
                self.queue(Item::Deleted { partition }, Pending::Deleted { partition });
                self.removed.push(partition);
                self.removed_queued = self.queued;
            }
            Message::Trim { partition, start, again, done } => self.trim(partition, start, again, done),
            Message::Settle(done) => {
                let runs = self.shared.wal.durable_now(self.number);
                self.complete(&runs);
                let _ = done.send(());
            }
            Message::Copy { partition, batches, done } => self.copy(partition, batches, done),
            Message::Producers { partition, done } => {
                if let Some(owned) = self.owned.get(&partition) {
                    let _ = done.send(owned.producers.last_batches(self.expired_to(now_ms)));
                }
            }
            Message::ForgetProducers => self.forget_producers(now_ms),
            // Whoever asked may be gone: the log has stopped.
            Message::Changed(done) => drop(done.send(self.changed())),
            Message::Capture { partitions, done } => self.capture(&partitions, done),
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
        if let Err(error) = owned.partition.check() {
            return refuse(how, durable, error);
        }
        let expired_to = ExpiredTo::new(now_ms, self.shared.producer_expiration_ms);
        match admit(owned, &batch, &how, expired_to) {
            Ok(Verdict::Append) => {}
            Ok(Verdict::Repeated(base_offset)) => {
                let partition = Arc::clone(&owned.partition);
                if let Some(durable) = durable {
                    let after = if Mutant::RepeatAnsweredEarly.is_on() { self.completed } else { self.queued };
                    self.repeated.push_back(Repeated { after, partition, base_offset, durable });
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
        let append_time_ms = (owned.config.log_append_time && !batch.is_control()).then_some(now_ms);
        if let Some(now_ms) = append_time_ms {
            batch.stamp_log_append_time(now_ms);
        }
        batch.place(base_offset, owned.partition.epoch);
        if let (true, false, Some(producer)) = (batch.is_transactional(), batch.is_control(), batch.producer())
            && owned.producers.open(producer.id).is_none()
        {
            self.shared.stable.begin(partition, producer.id, base_offset);
        }
        let slot = owned.take(&batch, now_ms);
        owned.queued = self.queued + 1;
        let flush_os = owned.config.flush_os;
        owned.partition.set_end(owned.end);
        let partition = Arc::clone(&owned.partition);
        // An open transaction can wait for its end.
        self.lazy &= matches!(how, How::Lazy | How::Transactional(_));
        self.placed.extend(placed.map(|placed| (placed, base_offset)));
        if let How::Transactional(ticket) = how {
            self.tickets.push(ticket);
        }
        let (id, segment, position) = (partition.id, slot.segment, slot.position);
        // What transactions wrote is shown as a whole, when their markers are durable.
        let eager = flush_os && !batch.is_transactional() && !batch.is_control();
        let item = Item::Batch { partition: id, batch: batch.clone(), segment, position, eager };
        let when = if eager { When::Written } else { When::Durable };
        self.queue(item, Pending::Batch { partition, batch, slot, append_time_ms, permit, durable, when });
    }

    fn expired_to(&self, now_ms: i64) -> ExpiredTo {
        ExpiredTo::new(now_ms, self.shared.producer_expiration_ms)
    }

    fn forget_producers(&mut self, now_ms: i64) {
        let (expired_to, mut left) = (self.expired_to(now_ms), FORGOTTEN_MAX);
        for owned in self.owned.values_mut() {
            let count = owned.producers.expire(expired_to, left);
            left -= count;
            owned.touched |= count > 0;
        }
    }

    fn trim(
        &mut self,
        partition: TopicPartition,
        start: Offset,
        again: bool,
        done: oneshot::Sender<Result<Offset, Error>>,
    ) {
        let Some(owned) = self.owned.get_mut(&partition) else {
            return drop(done.send(Err(Error::UnknownPartition(partition))));
        };
        let (limit, _) = owned.partition.trim_limit();
        let now = owned.partition.bounds().start;
        let start = start.min(limit).max(now);
        if start == now && !again {
            return drop(done.send(Ok(now)));
        }
        owned.touched = true;
        owned.queued = self.queued + 1;
        if start == owned.end {
            // The whole segment goes.
            owned.active = None;
        }
        let partition = Arc::clone(&owned.partition);
        if Mutant::SegmentsRemovedEarly.is_on() {
            let gone = partition.read_view().segments.clone();
            for segment in gone.iter().filter(|segment| segment.next <= start) {
                let _ = self.shared.handles.remove(&*self.env.disk(), partition.id, segment.base, segment.generation);
            }
        }
        let item = Item::LogStart { partition: partition.id, epoch: partition.epoch, start };
        self.lazy = false;
        self.queue(item, Pending::Trim { partition, start, done });
    }

    fn copy(&mut self, partition: TopicPartition, batches: Vec<(Batch, Slot)>, done: oneshot::Sender<()>) {
        if !self.owned.contains_key(&partition) || batches.is_empty() {
            let _ = done.send(());
            return;
        }
        self.lazy = false;
        let last = batches.len() - 1;
        let mut done = Some(done);
        for (at, (batch, Slot { segment, position, .. })) in batches.into_iter().enumerate() {
            let done = if at == last { done.take() } else { None };
            let item = Item::Batch { partition, batch, segment, position, eager: false };
            self.queue(item, Pending::Copied { partition, segment, done });
        }
    }

    fn changed(&self) -> VecDeque<Changed> {
        let changed = self.owned.values().filter(|owned| owned.is_touched());
        let entries = |owned: &Owned| owned.producers.len() + owned.partition.read_view().index_entries();
        let mut changed: Vec<Changed> =
            changed.map(|owned| Changed { partition: owned.partition.id, entries: entries(owned) + 1 }).collect();
        changed.sort_unstable_by_key(|changed| changed.partition);
        changed.into()
    }

    fn capture(&mut self, partitions: &[TopicPartition], done: oneshot::Sender<Captured>) {
        let mut standing: Vec<Standing> = Vec::with_capacity(partitions.len());
        let mut after = self.removed_queued;
        for partition in partitions {
            // Deleted meanwhile.
            let Some(owned) = self.owned.get_mut(partition) else { continue };
            owned.touched = false;
            owned.partition.forget_touched();
            // Not for others: the log may have no room for them before the checkpoint gives some.
            after = after.max(owned.queued);
            standing.push(owned.standing());
        }
        let removed = std::mem::take(&mut self.removed);
        self.capturing.push_back(Capturing { after, standing, removed, done });
        if after > self.completed {
            // What it waits for may be lazy.
            self.lazy = false;
            self.shared.wal.wake();
        }
        self.answer_captures();
    }
}

fn admit(owned: &Owned, batch: &Batch, how: &How, expired_to: ExpiredTo) -> Result<Verdict, Error> {
    if let How::Expect(offset) = how
        && *offset != owned.end
    {
        return Err(Error::OutOfRange { offset: *offset, start: owned.end, end: owned.end });
    }
    match batch.producer() {
        Some(producer) if !batch.is_control() => owned.producers.check(producer, batch.record_count(), expired_to),
        _ => Ok(Verdict::Append),
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
