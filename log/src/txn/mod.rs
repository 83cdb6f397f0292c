//! Transactions: the coordinator as a [`crate::machine::Machine`] over `__transaction_state`, the task that runs it, and
//! the producer that in-process users hold.
//!
//! A commit is one record here, the decision; the markers are queued right behind it. The write-ahead log is one ordered
//! file, so no marker is durable without its decision, and usually one sync covers them all. An undecided transaction is
//! an aborted one. The epoch goes up with every transaction (as in KIP-890): a late batch or marker can only ever touch
//! the transaction it was meant for.

pub(crate) mod coordinator;
pub(crate) mod format;
pub(crate) mod producer;
pub(crate) mod states;

use async_trait::async_trait;

use crate::Error;
use crate::record::TopicPartition;

/// The name of the topic that holds the states.
pub(crate) const TOPIC: &str = "__transaction_state";

/// What the coordinator and producers need to know of the rest of the node.
#[async_trait]
pub(crate) trait Surroundings: Send + Sync {
    /// A producer id never given out before.
    async fn producer_id(&self) -> Result<i64, Error>;
    /// Name of the partition's topic and the largest batch it takes, in bytes.
    fn topic(&self, partition: TopicPartition) -> Result<(String, usize), Error>;
}
