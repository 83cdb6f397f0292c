//! Kafka's record and record batch v2, as bytes: the ids that name them, what a writer hands in and what a reader gets.

use bytes::Bytes;

/// Place of a record in its partition, from 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct Offset(pub i64);

/// Raised by every start and every change of leader; a position is an offset with the epoch it was written in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct LeaderEpoch(pub i32);

/// Identity of a topic for ever; a recreated topic has a new one. The 16 bytes of Kafka's uuid.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct TopicId(pub [u8; 16]);

/// One partition of one topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct TopicPartition {
    pub topic: TopicId,
    pub partition: i32,
}

/// A record header; keys may repeat, order is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    pub key: Bytes,
    pub value: Option<Bytes>,
}

/// A record on its way into the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewRecord {
    pub key: Option<Bytes>,
    pub value: Option<Bytes>,
    pub headers: Vec<Header>,
    /// Milliseconds since 1970, UTC; `None` takes the log's clock at append.
    pub timestamp_ms: Option<i64>,
}

/// One stored record batch v2, verbatim, base offset and leader epoch patched in. Checked when it entered the log.
#[derive(Clone, Debug)]
pub struct Batch(pub(crate) Bytes);

/// One record of a batch, borrowed from it (or from its decompressed form).
#[derive(Clone, Debug)]
pub struct RecordView {
    pub offset: Offset,
    pub timestamp_ms: i64,
    pub key: Option<Bytes>,
    pub value: Option<Bytes>,
    /// The encoded header section, parsed on demand.
    pub headers: Bytes,
}
