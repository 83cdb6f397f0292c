//! Where data rests: topics, partitions, transactions and the Kafka protocol. Bytes only; this package knows neither
//! Arrow nor SQL.

pub mod broker;
pub mod cluster;
pub mod env;
pub mod record;
pub mod wire;

pub use cluster::access::{
    Bounds, Cluster, Committed, Cut, Error, Hold, Isolation, Log, NewTopic, Producer, Read, Topic, TopicConfig,
};
pub use cluster::backend::Backend;
pub use env::Env;
pub use record::{Batch, Header, LeaderEpoch, NewRecord, Offset, RecordView, TopicId, TopicPartition};
