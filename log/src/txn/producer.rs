//! The in-process side of a transaction: builds batches, hands them to the shards, asks the coordinator to end it.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;

use super::Surroundings;
use super::coordinator::Coordinator;
use crate::env::Env;
use crate::record::batch::Producer as Author;
use crate::record::build::Frame;
use crate::record::{BATCH_HEADER, Batch, BatchError, NewRecord, TopicPartition};
use crate::store::Store;
use crate::store::session::{Session, Ticket};
use crate::{Committed, Error, Producer};

/// Batches are cut at this size even where a topic takes larger ones: readers handle whole batches.
const BATCH_BYTES: usize = 512 * 1024;

/// See [`Producer`].
pub(crate) struct LocalProducer {
    env: Env,
    store: Arc<Store>,
    surroundings: Arc<dyn Surroundings>,
    coordinator: Coordinator,
    session: Arc<Session>,
    /// Batches sent in the open transaction, and the next sequence in each partition.
    sent: u64,
    sequences: BTreeMap<TopicPartition, i32>,
}

impl LocalProducer {
    pub fn new(
        env: Env,
        store: Arc<Store>,
        surroundings: Arc<dyn Surroundings>,
        coordinator: Coordinator,
        session: Arc<Session>,
    ) -> LocalProducer {
        LocalProducer { env, store, surroundings, coordinator, session, sent: 0, sequences: BTreeMap::new() }
    }

    fn reset(&mut self) {
        self.sent = 0;
        self.sequences.clear();
    }
}

impl Drop for LocalProducer {
    fn drop(&mut self) {
        self.coordinator.abandon(Arc::clone(&self.session));
    }
}

#[async_trait]
impl Producer for LocalProducer {
    async fn append(&mut self, partition: TopicPartition, records: Vec<NewRecord>) -> Result<(), Error> {
        let (topic, limit) = self.surroundings.topic(partition)?;
        let (id, epoch) = self.session.begun().await?;
        let now_ms = self.env.now_ms();
        for run in runs(&records, limit.min(BATCH_BYTES)) {
            let sequence = self.sequences.entry(partition).or_insert(0);
            let author = Author { id, epoch, base_sequence: *sequence };
            let frame = Frame { now_ms, producer: Some(author), transactional: true, batch_bytes_max: limit };
            let batch = Batch::build(run, &frame).map_err(|error| too_large(error, &topic, limit))?;
            *sequence = ((i64::from(*sequence) + run.len() as i64) & i64::from(i32::MAX)) as i32;
            self.sent += 1;
            self.store.append_in(partition, batch, Ticket::new(&self.session)).await?;
        }
        Ok(())
    }

    async fn commit(&mut self) -> Result<Committed, Error> {
        let settled = self.session.settled(self.sent).await;
        self.reset();
        if let Err(error) = settled {
            // What is there must not stay: the caller learns the reason, not how the abort went.
            drop(self.coordinator.end(&self.session, false).await);
            return Err(error);
        }
        self.coordinator.end(&self.session, true).await
    }

    async fn abort(&mut self) -> Result<(), Error> {
        let settled = self.session.settled(self.sent).await;
        self.reset();
        let ended = self.coordinator.end(&self.session, false).await;
        match settled {
            Err(Error::Fenced(id)) => Err(Error::Fenced(id)),
            _ => ended.map(drop),
        }
    }
}

/// Cuts records into runs that fit batches of `bytes_max`, at least one record each.
pub(crate) fn runs(records: &[NewRecord], bytes_max: usize) -> Vec<&[NewRecord]> {
    let mut runs = Vec::new();
    let (mut from, mut bytes) = (0, BATCH_HEADER);
    for (at, record) in records.iter().enumerate() {
        let size = record.size_max();
        if at > from && bytes + size > bytes_max {
            runs.push(&records[from..at]);
            (from, bytes) = (at, BATCH_HEADER);
        }
        bytes += size;
    }
    if from < records.len() {
        runs.push(&records[from..]);
    }
    runs
}

/// The error of a batch that could not be built.
pub(crate) fn too_large(error: BatchError, topic: &str, limit: usize) -> Error {
    match error {
        BatchError::TooLarge { size, .. } => Error::TooLarge { topic: topic.to_owned(), size, limit },
        other => Error::Corrupt { place: format!("records for topic {topic}"), detail: other.to_string() },
    }
}
