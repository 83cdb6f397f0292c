//! The seam between the Kafka protocol and the log: [`Backend`] adds to [`Cluster`] what only a broker needs, raw
//! batches in and raw batches out.

use async_trait::async_trait;
use tokio::sync::oneshot;

use super::access::{Bounds, Cluster, Error, Isolation, Topic};
use super::alter::AlterConfig;
use crate::record::{Batch, LeaderEpoch, Offset, TopicId, TopicPartition};

/// What the broker's handlers ask of a node.
///
/// Guarantees: batches come back byte for byte as they were handed in, but for base offset and leader epoch (and, on a
/// topic with `message.timestamp.type=LogAppendTime`, timestamp type, maximum timestamp and checksum). What
/// [`Backend::append_raw`] acknowledges is durable. A dropped future may have had its effect or not.
#[async_trait]
pub trait Backend: Cluster {
    /// The id every client sees as the cluster's.
    fn cluster_id(&self) -> String;
    /// This broker's id in Metadata and as leader of partitions.
    fn node_id(&self) -> i32;
    fn topic_by_id(&self, id: TopicId) -> Option<Topic>;
    /// As [`Cluster::configure_topic`], in every way Kafka's clients have.
    async fn alter_topic(&self, name: &str, alter: AlterConfig) -> Result<Topic, Error>;
    /// Gives a topic more partitions, empty ones behind those it has; never fewer
    /// ([`Error::InvalidPartitions`]). `partitions`: how many in all.
    async fn add_partitions(&self, name: &str, partitions: i32) -> Result<Topic, Error>;

    /// Queues one checked batch of a client and returns as soon as its place in the order is taken (waiting for room
    /// where the queue is full). Calls made one after the other for a partition are appended in that order. The
    /// receiver gets the outcome once it is durable; a receiver whose sender is gone means [`Error::Unknown`].
    ///
    /// A batch with a producer id is appended under Kafka's rules for idempotent producers: a repeated one of the last
    /// five is answered with its first offset and not appended again, a gap is [`Error::OutOfOrderSequence`], an old
    /// epoch [`Error::ProducerEpoch`]. Transactional and control batches do not come this way: the caller refuses them.
    async fn append_raw(&self, partition: TopicPartition, batch: Batch) -> Result<Appending, Error>;

    /// Whole batches from the one that holds `from` on, control batches and those of aborted transactions included, as
    /// far as `isolation` sees; about `bytes_max` bytes, at least one batch where there is one. Empty at the visible
    /// end. [`Error::OutOfRange`] below the start or above the high watermark.
    async fn fetch_raw(
        &self,
        partition: TopicPartition,
        from: Offset,
        bytes_max: usize,
        isolation: Isolation,
    ) -> Result<Fetched, Error>;

    /// Where the partition stands.
    fn bounds(&self, partition: TopicPartition) -> Result<Bounds, Error>;

    /// The largest leader epoch that is not above `epoch`, and where it ended; the present one ends at the high
    /// watermark. An epoch older than all that is kept ended where the oldest of these begins. `None` when there is no
    /// such epoch yet.
    fn epoch_end(&self, partition: TopicPartition, epoch: LeaderEpoch) -> Result<Option<EpochEnd>, Error>;

    /// Returns when one of the partitions has its visible end (high watermark, or last stable offset under
    /// [`Isolation::Committed`]) above the offset beside it, or does not exist any more.
    async fn wait_any(&self, ends: Vec<(TopicPartition, Offset)>, isolation: Isolation);

    /// The record that answers `query` among the visible ones, exact inside of batches; `None` when there is none.
    async fn find_timestamp(
        &self,
        partition: TopicPartition,
        query: TimestampQuery,
        isolation: Isolation,
    ) -> Result<Option<Found>, Error>;

    /// A producer id never given out before, for an idempotent producer; its epoch starts at 0.
    async fn new_producer_id(&self) -> Result<i64, Error>;
}

/// The coming outcome of an append.
pub type Appending = oneshot::Receiver<Result<Appended, Error>>;

/// Where a batch came to rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    pub base_offset: Offset,
    /// The broker's time in milliseconds, where the topic stamps records with it.
    pub log_append_time_ms: Option<i64>,
    pub log_start: Offset,
}

/// A leader epoch, and the offset behind its last record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochEnd {
    pub epoch: LeaderEpoch,
    pub end: Offset,
}

/// What one raw fetch found.
#[derive(Clone, Debug)]
pub struct Fetched {
    pub batches: Vec<Batch>,
    pub bounds: Bounds,
    /// Aborted transactions with records among `batches`, sorted by first offset. Empty under
    /// [`Isolation::Uncommitted`].
    pub aborted: Vec<AbortedTransaction>,
}

/// From `first_offset` on, records of `producer_id` up to its next abort marker are void.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AbortedTransaction {
    pub producer_id: i64,
    pub first_offset: Offset,
}

/// Which record is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimestampQuery {
    /// The first record whose timestamp (milliseconds) is at or above this.
    AtOrAfter(i64),
    /// The first record with the largest timestamp.
    Max,
}

/// A record found by its timestamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    pub offset: Offset,
    pub timestamp_ms: i64,
    pub epoch: LeaderEpoch,
}
