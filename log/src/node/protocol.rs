//! What the Kafka protocol needs of the node beside [`crate::Cluster`]: raw batches in and out.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use async_trait::async_trait;
use tokio::sync::futures::Notified;

use super::local::visible_end;
use super::{Node, check_not_needed};
use crate::cluster::alter::AlterConfig;
use crate::cluster::backend::{AbortedTransaction, Appending, Backend, EpochEnd, Fetched, Found, TimestampQuery};
use crate::record::{Batch, BatchError, LeaderEpoch, Offset, TopicId, TopicPartition};
use crate::store::Batches;
use crate::store::partition::Partition;
use crate::txn::Surroundings;
use crate::{Bounds, Error, Isolation, Topic};

#[async_trait]
impl Backend for Node {
    fn cluster_id(&self) -> String {
        self.format.cluster_id.clone()
    }

    fn node_id(&self) -> i32 {
        self.config.node_id
    }

    fn topic_by_id(&self, id: TopicId) -> Option<Topic> {
        self.inner.directory.by_id(id).map(|open| open.topic.clone())
    }

    async fn alter_topic(&self, name: &str, alter: AlterConfig) -> Result<Topic, Error> {
        check_not_needed(name)?;
        self.inner.alter_topic(name, alter).await
    }

    async fn add_partitions(&self, name: &str, partitions: i32) -> Result<Topic, Error> {
        check_not_needed(name)?;
        self.inner.add_partitions(name, partitions).await
    }

    async fn append_raw(&self, partition: TopicPartition, batch: Batch) -> Result<Appending, Error> {
        self.inner.directory.partition(partition)?;
        let outcome = self.inner.store.append(partition, batch, None).await?;
        Ok(outcome)
    }

    async fn fetch_raw(
        &self,
        partition: TopicPartition,
        from: Offset,
        bytes_max: usize,
        isolation: Isolation,
    ) -> Result<Fetched, Error> {
        let (_, partition) = self.inner.directory.partition(partition)?;
        // Also where it seems to have nothing: that may be the damage.
        partition.check()?;
        let bounds = partition.bounds();
        let end = visible_end(&bounds, isolation);
        if from < bounds.start || from > bounds.high_watermark {
            return Err(Error::OutOfRange { offset: from, start: bounds.start, end: bounds.high_watermark });
        }
        if from >= end {
            return Ok(Fetched { batches: Vec::new(), bounds, aborted: Vec::new() });
        }
        let Batches { batches, aborted, .. } = self.inner.store.read(&partition, from, end, bytes_max).await?;
        let aborted = match isolation {
            Isolation::Uncommitted => Vec::new(),
            Isolation::Committed => {
                let void = aborted.into_iter();
                void.map(|range| AbortedTransaction { producer_id: range.producer_id, first_offset: range.first })
                    .collect()
            }
        };
        Ok(Fetched { batches, bounds, aborted })
    }

    fn bounds(&self, partition: TopicPartition) -> Result<Bounds, Error> {
        Ok(self.inner.directory.partition(partition)?.1.bounds())
    }

    fn epoch_end(&self, partition: TopicPartition, epoch: LeaderEpoch) -> Result<Option<EpochEnd>, Error> {
        let (_, partition) = self.inner.directory.partition(partition)?;
        Ok(partition.epoch_end(epoch).map(|(epoch, end)| EpochEnd { epoch, end }))
    }

    async fn wait_any(&self, ends: Vec<(TopicPartition, Offset)>, isolation: Isolation) {
        let mut waited: Vec<(Arc<Partition>, Offset)> = Vec::with_capacity(ends.len());
        for (id, offset) in ends {
            match self.inner.directory.partition(id) {
                Ok((_, partition)) => waited.push((partition, offset)),
                Err(_) => return,
            }
        }
        loop {
            let mut moved: Vec<Pin<Box<Notified<'_>>>> =
                waited.iter().map(|(partition, _)| Box::pin(partition.moved().notified())).collect();
            for notified in &mut moved {
                notified.as_mut().enable();
            }
            let ready = |(partition, offset): &(Arc<Partition>, Offset)| {
                partition.is_closed() || visible_end(&partition.bounds(), isolation) > *offset
            };
            if waited.iter().any(ready) {
                return;
            }
            poll_fn(|cx| {
                let any = moved.iter_mut().any(|notified| notified.as_mut().poll(cx).is_ready());
                if any { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
        }
    }

    async fn find_timestamp(
        &self,
        partition: TopicPartition,
        query: TimestampQuery,
        isolation: Isolation,
    ) -> Result<Option<Found>, Error> {
        let (_, partition) = self.inner.directory.partition(partition)?;
        partition.check()?;
        let bounds = partition.bounds();
        let end = visible_end(&bounds, isolation);
        let wanted = match query {
            TimestampQuery::AtOrAfter(timestamp_ms) => Some(timestamp_ms),
            TimestampQuery::Max => self.inner.store.timestamp_max(&partition, end).await?,
        };
        let Some(wanted) = wanted else { return Ok(None) };
        let mut from = bounds.start;
        while let Some(batch) = self.inner.store.find_timestamp(&partition, wanted, from, end).await? {
            if let Some(found) = find_in(&batch, bounds.start, wanted).map_err(|error| Error::Corrupt {
                place: format!("partition {:?} at offset {}", partition.id, batch.base_offset().0),
                detail: error.to_string(),
            })? {
                return Ok(Some(found));
            }
            // Its records with such a timestamp lie below the start.
            from = batch.next_offset();
        }
        Ok(None)
    }

    async fn new_producer_id(&self) -> Result<i64, Error> {
        self.inner.producer_id().await
    }
}

/// The first record of a batch at or behind `start` with a timestamp at or above `wanted`.
fn find_in(batch: &Batch, start: Offset, wanted: i64) -> Result<Option<Found>, BatchError> {
    for record in batch.records()? {
        let record = record?;
        let (offset, timestamp_ms) = (record.offset, record.timestamp_ms);
        if offset >= start && timestamp_ms >= wanted {
            return Ok(Some(Found { offset, timestamp_ms, epoch: batch.leader_epoch() }));
        }
    }
    Ok(None)
}
