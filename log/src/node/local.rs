//! A partition of this node for in-process users: [`Log`] over the local store.

use std::sync::Arc;

use async_trait::async_trait;

use super::directory::OpenTopic;
use crate::env::Env;
use crate::record::build::Frame;
use crate::record::{Batch, NewRecord, Offset, TopicPartition};
use crate::store::partition::{Aborted, Partition};
use crate::store::{Batches, Store};
use crate::txn::producer::{runs, too_large};
use crate::{Bounds, Error, Hold, Isolation, Log, Read};

/// Records that must be together are one batch, whatever the topic says about batches of clients.
const TOGETHER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// See the module.
pub(super) struct LocalLog {
    env: Env,
    store: Arc<Store>,
    topic: Arc<OpenTopic>,
    partition: Arc<Partition>,
}

impl LocalLog {
    pub fn new(env: Env, store: Arc<Store>, topic: Arc<OpenTopic>, partition: Arc<Partition>) -> LocalLog {
        LocalLog { env, store, topic, partition }
    }
}

/// What readers of this isolation see ends here.
pub(super) fn visible_end(bounds: &Bounds, isolation: Isolation) -> Offset {
    match isolation {
        Isolation::Uncommitted => bounds.high_watermark,
        Isolation::Committed => bounds.last_stable,
    }
}

/// Whether the batch belongs to an aborted transaction.
fn is_void(batch: &Batch, aborted: &[Aborted]) -> bool {
    let Some(producer) = batch.producer().filter(|_| batch.is_transactional()) else { return false };
    let base = batch.base_offset();
    aborted.iter().any(|range| range.producer_id == producer.id && range.first <= base && base <= range.last)
}

#[async_trait]
impl Log for LocalLog {
    fn partition(&self) -> TopicPartition {
        self.partition.id
    }

    fn bounds(&self) -> Bounds {
        self.partition.bounds()
    }

    async fn append(&self, records: Vec<NewRecord>) -> Result<Offset, Error> {
        let limit = self.topic.batch_bytes_max();
        let now_ms = self.env.now_ms();
        let frame = Frame { now_ms, producer: None, transactional: false, batch_bytes_max: limit };
        let mut outcomes = Vec::new();
        for run in runs(&records, limit) {
            let batch = Batch::build(run, &frame).map_err(|error| too_large(error, &self.topic.topic.name, limit))?;
            outcomes.push(self.store.append(self.partition.id, batch, None).await?);
        }
        let mut first = None;
        for outcome in outcomes {
            let appended = outcome.await.map_err(|_| self.store.closed())??;
            first.get_or_insert(appended.base_offset);
        }
        // No records: where the next one would go.
        Ok(first.unwrap_or_else(|| self.partition.bounds().end))
    }

    async fn append_at(&self, at: Offset, records: Vec<NewRecord>) -> Result<Offset, Error> {
        if records.is_empty() {
            return Ok(at);
        }
        let limit = self.topic.batch_bytes_max().max(TOGETHER_BYTES_MAX);
        let now_ms = self.env.now_ms();
        let frame = Frame { now_ms, producer: None, transactional: false, batch_bytes_max: limit };
        let batch = Batch::build(&records, &frame).map_err(|error| too_large(error, &self.topic.topic.name, limit))?;
        let outcome = self.store.append(self.partition.id, batch, Some(at)).await?;
        let appended = outcome.await.map_err(|_| self.store.closed())??;
        assert_eq!(appended.base_offset, at, "it was asked to go there or nowhere");
        Ok(Offset(at.0 + records.len() as i64))
    }

    async fn read(&self, from: Offset, up_to: Offset, bytes_max: usize, isolation: Isolation) -> Result<Read, Error> {
        // Also where it seems to have nothing: that may be the damage.
        self.partition.check()?;
        let bounds = self.partition.bounds();
        let end = visible_end(&bounds, isolation).min(up_to);
        if from >= end {
            if from < bounds.start || from > bounds.high_watermark {
                let (start, end) = (bounds.start, bounds.high_watermark);
                return Err(Error::OutOfRange { offset: from, start, end });
            }
            return Ok(Read { batches: Vec::new(), next: from, bounds });
        }
        let Batches { batches, next, mut aborted } = self.store.read(&self.partition, from, end, bytes_max).await?;
        if isolation == Isolation::Uncommitted {
            aborted.clear();
        }
        let shown = |batch: &Batch| !batch.is_control() && !is_void(batch, &aborted);
        Ok(Read { batches: batches.into_iter().filter(shown).collect(), next, bounds })
    }

    async fn wait(&self, offset: Offset) -> Result<Bounds, Error> {
        loop {
            let moved = self.partition.moved().notified();
            tokio::pin!(moved);
            moved.as_mut().enable();
            if self.partition.is_closed() {
                return Err(Error::UnknownPartition(self.partition.id));
            }
            self.partition.check()?;
            let bounds = self.partition.bounds();
            if bounds.last_stable > offset {
                return Ok(bounds);
            }
            moved.await;
        }
    }

    fn hold(&self, owner: &str, from: Offset) -> Box<dyn Hold> {
        let id = self.partition.hold(owner, from);
        Box::new(LocalHold { partition: Arc::clone(&self.partition), id })
    }

    async fn trim(&self, before: Offset) -> Result<Offset, Error> {
        let (limit, owner) = self.partition.trim_limit();
        if let Some(owner) = owner.filter(|_| before > limit) {
            tracing::debug!(partition = ?self.partition.id, owner, held = limit.0, asked = before.0, "a hold limits a trim");
        }
        self.store.trim(self.partition.id, before).await
    }
}

struct LocalHold {
    partition: Arc<Partition>,
    id: u64,
}

impl Hold for LocalHold {
    fn advance(&self, from: Offset) {
        self.partition.move_hold(self.id, Some(from));
    }
}

impl Drop for LocalHold {
    fn drop(&mut self) {
        self.partition.move_hold(self.id, None);
    }
}
