//! Why a request, or part of one, is refused: the one place where errors become Kafka's codes.

use crate::cluster::access::Error;
use crate::record::BatchError;
use crate::wire::error_code::ErrorCode;
use crate::wire::primitive::Str;

/// Characters of a message: it may repeat what the client sent, and what is told must fit into the oldest versions too.
const MESSAGE_CHARS_MAX: usize = 2_000;

/// A code and, for versions that carry it, words.
#[derive(Clone, Debug)]
pub(super) struct Refusal {
    pub code: ErrorCode,
    pub message: String,
    /// The record of a batch that is at fault, from 0.
    pub record: Option<u32>,
}

impl Refusal {
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Refusal {
        Refusal { code, message: message.into(), record: None }
    }

    pub fn text(&self) -> Option<Str> {
        let end = self.message.char_indices().nth(MESSAGE_CHARS_MAX).map_or(self.message.len(), |(end, _)| end);
        Some(Str::from(&self.message[..end]))
    }
}

impl From<&Error> for Refusal {
    fn from(error: &Error) -> Refusal {
        let code = match error {
            Error::UnknownTopic(_) | Error::UnknownPartition(_) => ErrorCode::UnknownTopicOrPartition,
            Error::TopicExists(_) => ErrorCode::TopicAlreadyExists,
            Error::InvalidTopic { .. } => ErrorCode::InvalidTopic,
            Error::InvalidConfig { .. } | Error::UnknownConfig { .. } => ErrorCode::InvalidConfig,
            Error::InvalidPartitions { .. } => ErrorCode::InvalidPartitions,
            Error::TopicInUse { .. } => ErrorCode::TopicAuthorizationFailed,
            Error::OutOfOrderSequence { .. } => ErrorCode::OutOfOrderSequenceNumber,
            // From the partition's leader it is this code, PRODUCER_FENCED comes from coordinators only.
            Error::ProducerEpoch { .. } | Error::Fenced(_) => ErrorCode::InvalidProducerEpoch,
            Error::NotLeader(_) => ErrorCode::NotLeaderOrFollower,
            Error::OutOfRange { .. } => ErrorCode::OffsetOutOfRange,
            Error::Diverged { .. } => ErrorCode::FencedLeaderEpoch,
            // It may have happened: the client asks again, idempotent producers without harm.
            Error::Unknown | Error::Busy(_) => ErrorCode::RequestTimedOut,
            Error::TooLarge { .. } => ErrorCode::MessageTooLarge,
            Error::Closed(_) | Error::Corrupt { .. } | Error::Io(_) => ErrorCode::KafkaStorageError,
        };
        Refusal::new(code, words(error))
    }
}

/// Options are refused in the words of Kafka's brokers: people look for these.
fn words(error: &Error) -> String {
    match error {
        Error::UnknownConfig { name } => format!("Unknown topic config name: {name}"),
        Error::InvalidConfig { name, value, reason } => {
            format!("Invalid value {value} for configuration {name}: {reason}")
        }
        other => other.to_string(),
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Refusal {
        Refusal::from(&error)
    }
}

impl From<BatchError> for Refusal {
    fn from(error: BatchError) -> Refusal {
        let code = match error {
            BatchError::TooLarge { .. } => ErrorCode::MessageTooLarge,
            BatchError::Timestamp { .. } => ErrorCode::InvalidTimestamp,
            BatchError::Checksum { .. } | BatchError::Decompress(_) => ErrorCode::CorruptMessage,
            BatchError::Codec(_) => ErrorCode::UnsupportedCompressionType,
            BatchError::Magic(_)
            | BatchError::Expands { .. }
            | BatchError::Malformed(_)
            | BatchError::Record { .. } => ErrorCode::InvalidRecord,
        };
        let record = match error {
            BatchError::Record { index, .. } | BatchError::Timestamp { index, .. } => Some(index),
            _ => None,
        };
        Refusal { code, message: error.to_string(), record }
    }
}
