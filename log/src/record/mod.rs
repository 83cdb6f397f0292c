//! Kafka's record and record batch v2, as bytes: the ids that name them, what a writer hands in and what a reader gets.
//!
//! The format is the one of Kafka's documentation, "Record Batch" and "Record"; messages of magic 0 and 1 are refused.

pub mod batch;
pub mod build;
pub mod check;
pub mod codec;
pub mod decode;
mod sift;
mod varint;

use bytes::Bytes;

/// Place of a record in its partition, from 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct Offset(pub i64);

impl Offset {
    /// No log gets here: a billion records a second take 146 years. What is stored beyond is damaged; below, what is
    /// counted from an offset never overflows.
    pub(crate) const LIMIT: Offset = Offset(i64::MAX / 2);

    /// Whether it can be one of a log's.
    pub(crate) fn is_stored(self) -> bool {
        (Offset(0)..=Offset::LIMIT).contains(&self)
    }
}

/// Raised by every start and every change of leader; a position is an offset with the epoch it was written in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct LeaderEpoch(pub i32);

/// Identity of a topic for ever; a recreated topic has a new one. The 16 bytes of Kafka's uuid.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct TopicId(pub [u8; 16]);

impl TopicId {
    /// Kafka keeps these for itself: of no topic, and of the cluster's metadata.
    pub(crate) fn is_reserved(self) -> bool {
        u128::from_be_bytes(self.0) <= 1
    }
}

/// As a uuid is written.
impl std::fmt::Display for TopicId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (place, byte) in self.0.iter().enumerate() {
            let dash = if matches!(place, 4 | 6 | 8 | 10) { "-" } else { "" };
            write!(f, "{dash}{byte:02x}")?;
        }
        Ok(())
    }
}

/// One partition of one topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct TopicPartition {
    pub topic: TopicId,
    pub partition: i32,
}

impl std::fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "partition {} of the topic with the id {}", self.partition, self.topic)
    }
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

/// One record batch v2: the header by value, so that offset, epoch and time are stamped without touching the shared
/// bytes behind it, and the records section as it came.
///
/// ```text
///  byte  0  base offset             i64   outside of the checksum
///        8  length                  i32   of all that follows this field
///       12  partition leader epoch  i32   outside of the checksum
///       16  magic                   i8    2
///       17  checksum                u32   CRC-32C of everything from `attributes` on
///       21  attributes              i16   bits 0-2 codec, 3 log append time, 4 transactional, 5 control, 6 delete horizon
///       23  last offset delta       i32
///       27  base timestamp          i64   milliseconds
///       35  maximum timestamp       i64   milliseconds
///       43  producer id             i64   -1: none
///       51  producer epoch          i16   -1: none
///       53  base sequence           i32   -1: none
///       57  record count            i32
///       61  records                 one stream of the codec, or plain
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Batch {
    pub(crate) header: [u8; BATCH_HEADER],
    pub(crate) body: Bytes,
}

/// Bytes of a batch before its records.
pub const BATCH_HEADER: usize = 61;

/// What is wrong with the bytes of a batch.
#[derive(Debug, thiserror::Error)]
pub enum BatchError {
    #[error("a batch of {size} bytes is over the limit of {limit} bytes")]
    TooLarge { size: usize, limit: usize },
    #[error("magic byte {0}, only 2 is stored")]
    Magic(i8),
    #[error("checksum {found:#010x}, the bytes give {computed:#010x}")]
    Checksum { found: u32, computed: u32 },
    #[error("compression codec {0} does not exist")]
    Codec(i16),
    #[error("compressed records cannot be read")]
    Decompress(#[source] std::io::Error),
    #[error("compressed records grow beyond the limit of {limit} bytes")]
    Expands { limit: usize },
    #[error("batch: {0}")]
    Malformed(&'static str),
    #[error("record {index} of the batch: {reason}")]
    Record { index: u32, reason: &'static str },
    #[error(
        "record {index} of the batch: timestamp {timestamp_ms} is out of range, it should be within [{least_ms}, {most_ms}]"
    )]
    Timestamp { index: u32, timestamp_ms: i64, least_ms: i64, most_ms: i64 },
}

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

#[cfg(test)]
mod tests;
