//! The open transaction of one in-process producer, shared between the producer, the shards that take its batches and
//! the coordinator that ends it. Under its lock a batch gets its place or the producer is fenced, never both.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::Error;
use crate::record::{Batch, Offset, TopicPartition};

/// See the module.
pub(crate) struct Session {
    pub transactional_id: String,
    state: Mutex<State>,
    placed: Notify,
}

struct State {
    producer_id: i64,
    epoch: i16,
    fenced: bool,
    /// The markers of the transaction before are not written yet: nothing may get in between.
    ending: bool,
    /// First offset and the one behind the last, by partition.
    ranges: BTreeMap<TopicPartition, (Offset, Offset)>,
    /// Batches that have their place or were refused, in this transaction.
    settled: u64,
    failed: Option<Error>,
}

/// A batch on its way. It is settled when it has its place in the log's queue, by refusal, or by the drop of this, which
/// says that its fate is not known.
pub(crate) struct Ticket(Option<Arc<Session>>);

impl Ticket {
    pub fn new(session: &Arc<Session>) -> Ticket {
        Ticket(Some(Arc::clone(session)))
    }

    /// See [`Session::place`]. The ticket is still to be settled.
    pub fn place(&self, partition: TopicPartition, batch: &Batch, base: Offset) -> Result<(), Error> {
        self.0.as_ref().expect("it is settled once").place(partition, batch, base)
    }

    /// The batch stands in the queue: whatever is queued from now on comes behind it.
    pub fn settle(mut self) {
        self.0.take().expect("it is settled once").settle();
    }

    pub fn refuse(mut self, error: Error) {
        self.0.take().expect("it is settled once").fail(error);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(session) = self.0.take() {
            session.fail(Error::Unknown);
        }
    }
}

/// First offset and the one behind the last, by partition.
pub(crate) type Ranges = BTreeMap<TopicPartition, (Offset, Offset)>;

impl Session {
    pub fn new(transactional_id: String, producer_id: i64, epoch: i16) -> Session {
        let state = State {
            producer_id,
            epoch,
            fenced: false,
            ending: false,
            ranges: BTreeMap::new(),
            settled: 0,
            failed: None,
        };
        Session { transactional_id, state: Mutex::new(state), placed: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fenced(&self) -> Error {
        Error::Fenced(self.transactional_id.clone())
    }

    /// Producer id and epoch of the transaction that is open or comes next.
    pub fn producer(&self) -> (i64, i16) {
        let state = self.lock();
        (state.producer_id, state.epoch)
    }

    pub fn epoch(&self) -> i16 {
        self.lock().epoch
    }

    /// A shard takes a batch at this offset, or must not.
    fn place(&self, partition: TopicPartition, batch: &Batch, base: Offset) -> Result<(), Error> {
        let mut state = self.lock();
        let producer = batch.producer().map(|producer| (producer.id, producer.epoch));
        if state.fenced || producer != Some((state.producer_id, state.epoch)) {
            return Err(self.fenced());
        }
        let end = Offset(base.0 + (batch.last_offset().0 - batch.base_offset().0) + 1);
        state.ranges.entry(partition).or_insert((base, end)).1 = end;
        Ok(())
    }

    fn settle(&self) {
        self.lock().settled += 1;
        self.placed.notify_waiters();
    }

    /// A batch was refused: the transaction can only be aborted.
    fn fail(&self, error: Error) {
        let mut state = self.lock();
        state.settled += 1;
        state.failed.get_or_insert(error);
        drop(state);
        self.placed.notify_waiters();
    }

    /// Waits until `count` batches of this transaction have their place; the first refusal is an error, told once.
    pub async fn settled(&self, count: u64) -> Result<(), Error> {
        loop {
            let notified = self.placed.notified();
            tokio::pin!(notified);
            notified.as_mut().enable();
            {
                let mut state = self.lock();
                if state.fenced {
                    return Err(self.fenced());
                }
                // All of them, also after a refusal: none may arrive in the next transaction.
                if state.settled >= count {
                    return match state.failed.take() {
                        None => Ok(()),
                        Some(error) => {
                            // It stays failed until it is ended.
                            state.failed = Some(Error::Unknown);
                            Err(error)
                        }
                    };
                }
            }
            notified.await;
        }
    }

    pub fn is_fenced(&self) -> bool {
        self.lock().fenced
    }

    /// Whether the open transaction has written nothing.
    pub fn is_empty(&self) -> bool {
        self.lock().ranges.is_empty()
    }

    /// What was refused is forgotten, with a transaction that has written nothing.
    pub fn forget(&self) {
        let mut state = self.lock();
        if state.ranges.is_empty() {
            state.settled = 0;
            state.failed = None;
        }
    }

    /// Nothing more is taken from this producer, and nothing that is on its way.
    pub fn fence(&self) {
        self.lock().fenced = true;
        self.placed.notify_waiters();
    }

    /// Ends the open transaction: returns its producer id, epoch and what it wrote. The next one goes under the next
    /// epoch or a fresh producer id, behind [`Session::ended`].
    pub fn end(&self, fresh: Option<i64>) -> (i64, i16, Ranges) {
        let mut state = self.lock();
        let ended = (state.producer_id, state.epoch, std::mem::take(&mut state.ranges));
        (state.producer_id, state.epoch) = fresh.map_or((ended.0, ended.1 + 1), |fresh| (fresh, 0));
        state.ending = true;
        state.settled = 0;
        state.failed = None;
        ended
    }

    /// The markers are written.
    pub fn ended(&self) {
        self.lock().ending = false;
        self.placed.notify_waiters();
    }

    /// Waits until a transaction may begin; returns the producer id and epoch it has.
    pub async fn begun(&self) -> Result<(i64, i16), Error> {
        loop {
            let notified = self.placed.notified();
            tokio::pin!(notified);
            notified.as_mut().enable();
            {
                let state = self.lock();
                if state.fenced {
                    return Err(self.fenced());
                }
                if !state.ending {
                    return Ok((state.producer_id, state.epoch));
                }
            }
            notified.await;
        }
    }
}
