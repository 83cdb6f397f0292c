//! Where data rests: topics, partitions, transactions and the Kafka protocol. Bytes only; this package knows neither
//! Arrow nor SQL.

pub mod broker;
pub mod cluster;
pub mod env;
#[cfg(any(test, feature = "fuzzing"))]
mod fixtures;
pub mod machine;
mod node;
pub mod quorum;
pub mod record;
mod store;
mod txn;
pub mod wire;

/// The readers of files, for the fuzzers in `log/fuzz`.
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing {
    pub use crate::node::fuzzing::{TARGETS, Target, seeds};
}

pub use cluster::access::{
    Bounds, Cluster, Committed, ConfigChanges, Cut, Error, Hold, Isolation, Log, NewTopic, Producer, Read, Topic,
    TopicConfig,
};
pub use cluster::alter::{AlterConfig, AlterConfigOp, AlterKind};
pub use cluster::backend::{Appended, Backend};
pub use cluster::journal::LogJournal;
pub use env::Env;
pub use machine::{Decision, Effects, Host, Journal, Machine, NoEffects};
pub use node::{Node, NodeConfig, offline};
pub use record::{Batch, Header, LeaderEpoch, NewRecord, Offset, RecordView, TopicId, TopicPartition};
pub use store::StoreMetrics;
pub use store::compact::figures::CompactionMetrics;
