//! The seam for in-process users: [`Cluster`] (topics, cuts, fenced transactions) and [`Log`] (one partition).
//!
//! Everything here is object safe, so that a remote cluster can stand behind the same traits later.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::watch;

use crate::record::{Batch, LeaderEpoch, NewRecord, Offset, TopicId, TopicPartition};

/// What can go wrong between an in-process user and the log. `NotLeader`, `Unknown` and `Busy` may be retried.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("topic {0} does not exist")]
    UnknownTopic(String),
    #[error("{0} does not exist")]
    UnknownPartition(TopicPartition),
    #[error("topic {0} exists already")]
    TopicExists(String),
    #[error("topic name {name:?} is not valid: {reason}")]
    InvalidTopic { name: String, reason: &'static str },
    #[error("this node does not lead {0}")]
    NotLeader(TopicPartition),
    #[error("topic {topic} is read by {user}, which has begun with the partitions there are: drop that first")]
    TopicInUse { topic: String, user: String },
    #[error("there is no topic option {name}")]
    UnknownConfig { name: String },
    #[error("topic option {name}={value:?} is not valid: {reason}")]
    InvalidConfig { name: String, value: String, reason: String },
    #[error("{asked} partitions asked for topic {topic}, possible are {least} to {limit}")]
    InvalidPartitions { topic: String, asked: i32, least: i32, limit: i32 },
    #[error("producer {producer_id} sent sequence {sequence} where {expected} comes next")]
    OutOfOrderSequence { producer_id: i64, sequence: i32, expected: i32 },
    #[error("producer {producer_id} sent epoch {epoch}, its epoch is now {current}")]
    ProducerEpoch { producer_id: i64, epoch: i16, current: i16 },
    #[error("a newer producer with the transactional id {0:?} has taken over")]
    Fenced(String),
    #[error("offset {} is outside of {}..{}", .offset.0, .start.0, .end.0)]
    OutOfRange { offset: Offset, start: Offset, end: Offset },
    #[error("the log has diverged: epoch {epoch:?} ends at {end:?}")]
    Diverged { epoch: LeaderEpoch, end: Offset },
    #[error("the outcome of the write is not known")]
    Unknown,
    #[error("a record of {size} bytes is over the limit of {limit} bytes of topic {topic}")]
    TooLarge { topic: String, size: usize, limit: usize },
    #[error("the log is busy: {0}")]
    Busy(&'static str),
    #[error("the log is closed: {0}")]
    Closed(String),
    #[error("corrupt data in {place}: {detail}")]
    Corrupt { place: String, detail: String },
    #[error("disk: {0}")]
    Io(#[from] std::io::Error),
}

/// What a topic is asked to be. `partitions` 0 is refused.
#[derive(Clone, Debug)]
pub struct NewTopic {
    pub name: String,
    pub partitions: i32,
    pub config: TopicConfig,
}

/// Kafka's topic configuration by Kafka's names (`cleanup.policy`, `retention.ms`, …); only what differs from the default.
pub type TopicConfig = BTreeMap<String, String>;

/// Options to set, and those to take back to their defaults.
pub type ConfigChanges = BTreeMap<String, Option<String>>;

/// A topic as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    pub name: String,
    pub id: TopicId,
    pub partitions: i32,
    pub config: TopicConfig,
}

/// Where one partition stands. `start <= last_stable <= high_watermark <= end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    pub start: Offset,
    pub last_stable: Offset,
    pub high_watermark: Offset,
    pub end: Offset,
    pub epoch: LeaderEpoch,
}

/// End offsets (exclusive) of several partitions that hold every log transaction wholly or not at all.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Cut(pub BTreeMap<TopicPartition, Offset>);

/// Which records a reader sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolation {
    /// Up to the high watermark, open and aborted transactions included.
    Uncommitted,
    /// Up to the last stable offset, without aborted transactions.
    Committed,
}

/// What one read found. Control batches are left out, under [`Isolation::Committed`] aborted ones too, so `next` may be
/// beyond the last record. The first batch may hold records below the offset asked for, the last may hold records at or
/// above `up_to`: the reader skips both.
#[derive(Clone, Debug)]
pub struct Read {
    pub batches: Vec<Batch>,
    /// Where to read on.
    pub next: Offset,
    pub bounds: Bounds,
}

/// What a committed transaction wrote: for each partition its data as a range `first..end` (other producers' records
/// may lie between).
#[derive(Clone, Debug, Default)]
pub struct Committed {
    pub ranges: Vec<(TopicPartition, Offset, Offset)>,
}

/// A claim on the records from `from` on, released by drop: retention and trimming do not pass it.
pub trait Hold: Send + Sync {
    /// Moves the claim forward; never back.
    fn advance(&self, from: Offset);
}

/// The topics of a cluster and what spans partitions.
///
/// Guarantees: what a method acknowledges is durable. A dropped future may have had its effect or not.
#[async_trait]
pub trait Cluster: Send + Sync {
    /// Creates the topic; [`Error::TopicExists`] when there is one of that name.
    async fn create_topic(&self, topic: NewTopic) -> Result<Topic, Error>;
    /// Sets options of a topic (`Some`) or takes them back (`None`), all of them or none; returns the topic as it is when
    /// that is in effect: what is appended afterwards is under it. [`Error::InvalidConfig`] names an option that cannot be
    /// so.
    async fn configure_topic(&self, name: &str, changes: ConfigChanges) -> Result<Topic, Error>;
    /// Deletes a topic and its records.
    async fn delete_topic(&self, name: &str) -> Result<(), Error>;
    fn topic(&self, name: &str) -> Option<Topic>;
    /// All topics by name, internal ones (`__…`) too.
    fn topics(&self) -> Vec<Topic>;
    /// Changes whenever a topic comes, goes or changes.
    fn watch_topics(&self) -> watch::Receiver<u64>;
    /// Changes whenever the last stable offset of any partition has moved.
    fn watch_stable(&self) -> watch::Receiver<u64>;
    fn log(&self, partition: TopicPartition) -> Result<Arc<dyn Log>, Error>;
    /// The newest cut over `partitions`: no entry lies above the last stable offset, and every log transaction that
    /// touches several of them is below all its entries or above all of them. Cuts of the same set never go back.
    fn cut(&self, partitions: &[TopicPartition]) -> Result<Cut, Error>;
    /// Takes over the transactional id: older producers under it are fenced and what they left open is aborted.
    async fn producer(&self, transactional_id: &str) -> Result<Box<dyn Producer>, Error>;
}

/// One fenced writer of transactions. The first `append` after `commit` or `abort` opens the next transaction.
/// Dropping it leaves an open transaction to be aborted by the next holder of the id or by its timeout (none for
/// in-process users of this node: it is aborted on drop).
#[async_trait]
pub trait Producer: Send {
    /// Hands records over in order; returns when they are queued (bounded: waits for room), not when durable.
    async fn append(&mut self, partition: TopicPartition, records: Vec<NewRecord>) -> Result<(), Error>;
    /// Returns when the transaction is durable and visible as a whole. An empty transaction writes nothing.
    async fn commit(&mut self) -> Result<Committed, Error>;
    async fn abort(&mut self) -> Result<(), Error>;
}

/// One partition. Reads and bounds are of this node's view.
#[async_trait]
pub trait Log: Send + Sync {
    fn partition(&self) -> TopicPartition;
    fn bounds(&self) -> Bounds;
    /// Appends records outside of any transaction; returns the first offset when they are durable.
    async fn append(&self, records: Vec<NewRecord>) -> Result<Offset, Error>;
    /// Appends records together, as one batch, and only if the log ends at `at`; returns where it ends then, when they
    /// are durable. [`Error::OutOfRange`] when it ends elsewhere: somebody else has written.
    async fn append_at(&self, at: Offset, records: Vec<NewRecord>) -> Result<Offset, Error>;
    /// Reads from `from` on, records below `up_to`, about `bytes_max` bytes (at least one batch where there is one).
    /// Empty when there is nothing; never waits for more.
    async fn read(&self, from: Offset, up_to: Offset, bytes_max: usize, isolation: Isolation) -> Result<Read, Error>;
    /// Returns when the last stable offset is above `offset`.
    async fn wait(&self, offset: Offset) -> Result<Bounds, Error>;
    fn hold(&self, owner: &str, from: Offset) -> Box<dyn Hold>;
    /// Deletes what lies below `before`, as far as no hold forbids it; returns the new start.
    async fn trim(&self, before: Offset) -> Result<Offset, Error>;
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;
    use std::io;

    use super::Error;

    #[test]
    fn an_error_of_the_disk_says_why() {
        let error = Error::from(io::Error::from_raw_os_error(28));
        assert_eq!(error.to_string(), "disk: No space left on device (os error 28)");
        // Whoever prints what caused it, too, can see that it was said.
        assert!(error.to_string().ends_with(&error.source().unwrap().to_string()));
    }
}
