//! What a batch from outside must be before it is stored: [`Batch::check`].

use bytes::Bytes;

use super::codec::Codec;
use super::decode::{RECORD_BYTES_MIN, each_header};
use super::{Batch, BatchError, varint};

/// How closely a batch is looked at (`record.validation`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Validation {
    /// Header, checksum and counts: a plain batch is walked by the lengths of its records, of a packed one no more is
    /// taken than its bytes could hold.
    Header,
    /// And every record: unpacked, its lengths, order and headers. Where SQL reads.
    Full,
}

/// The rules of one topic for batches from outside.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    pub validation: Validation,
    /// `max.message.bytes`: the largest batch.
    pub batch_bytes_max: usize,
    /// A compacted topic takes no record without a key. Seen only by [`Validation::Full`].
    pub key_required: bool,
    /// The timestamps a record may have, where the broker does not set them itself. A record without one may have any
    /// place in time. [`Validation::Header`] sees the first record's and the largest.
    pub timestamps: Timestamps,
}

/// From the first to the last of these, in milliseconds, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timestamps {
    pub least_ms: i64,
    pub most_ms: i64,
}

impl Timestamps {
    pub const ANY: Timestamps = Timestamps { least_ms: i64::MIN, most_ms: i64::MAX };

    fn check(&self, index: u32, timestamp_ms: i64) -> Result<(), BatchError> {
        let Timestamps { least_ms, most_ms } = *self;
        if timestamp_ms == NO_TIMESTAMP || (least_ms..=most_ms).contains(&timestamp_ms) {
            return Ok(());
        }
        Err(BatchError::Timestamp { index, timestamp_ms, least_ms, most_ms })
    }
}

/// What a record bears that has no timestamp.
const NO_TIMESTAMP: i64 = -1;

impl Batch {
    /// `bytes` as exactly one batch of a client, or what is wrong with it. Transactional and control batches pass here:
    /// whoever takes them decides. A maximum timestamp that is not that of the records is put right, as Kafka does.
    pub fn check(bytes: Bytes, rules: &Rules) -> Result<Batch, BatchError> {
        if bytes.len() > rules.batch_bytes_max {
            return Err(BatchError::TooLarge { size: bytes.len(), limit: rules.batch_bytes_max });
        }
        match Self::size_of_first(&bytes)? {
            Some(size) if size == bytes.len() => {}
            Some(size) if size < bytes.len() => return Err(BatchError::Malformed("bytes behind the batch")),
            _ => return Err(BatchError::Malformed("it ends early")),
        }
        let mut batch = Batch::unchecked(bytes);
        batch.check_sum()?;
        batch.check_header()?;
        match rules.validation {
            Validation::Header => {
                batch.check_count()?;
                rules.timestamps.check(0, batch.base_timestamp_ms())?;
                rules.timestamps.check(batch.record_count() - 1, batch.max_timestamp_ms())?;
            }
            Validation::Full => {
                let max_timestamp_ms = batch.check_records(rules)?;
                if batch.max_timestamp_ms() != max_timestamp_ms {
                    batch.set_max_timestamp(max_timestamp_ms);
                }
            }
        }
        Ok(batch)
    }

    fn check_header(&self) -> Result<(), BatchError> {
        let bad = |reason| Err(BatchError::Malformed(reason));
        self.codec()?;
        let count = self.raw_record_count();
        if count <= 0 {
            return bad("it holds no record");
        }
        if self.last_offset_delta() != count - 1 {
            return bad("record count and last offset do not agree");
        }
        if self.is_log_append_time() {
            return bad("only the broker sets log append time");
        }
        if self.attributes() & !0x3f != 0 {
            return bad("unknown attributes");
        }
        let (id, epoch, sequence) = self.producer_fields();
        match (id, epoch, sequence) {
            // Without a producer id the other two mean nothing: kafkajs and sarama leave zeros in them.
            (..0, ..) if !self.is_transactional() => Ok(()),
            (..0, ..) => bad("a transaction without a producer id"),
            (0.., 0.., 0..) => Ok(()),
            (0.., 0.., -1) if self.is_control() => Ok(()),
            _ => bad("a producer id without epoch or sequence"),
        }
    }

    /// A count that is not that of the records would give readers offsets without records, for ever.
    fn check_count(&self) -> Result<(), BatchError> {
        let codec = self.codec()?;
        if codec != Codec::None {
            let most = codec.unpacked_bytes_max(self.body.len()) / RECORD_BYTES_MIN;
            let fits = self.record_count() as usize <= most;
            return if fits { Ok(()) } else { Err(BatchError::Malformed("it claims more records than it can hold")) };
        }
        let (body, mut at) = (&self.body[..], 0);
        for index in 0..self.record_count() {
            let bad = |reason| BatchError::Record { index, reason };
            let length = varint::get_i32(body, &mut at).ok_or(bad("the length cannot be read"))?;
            let length = usize::try_from(length).map_err(|_| bad("negative length"))?;
            if length < RECORD_BYTES_MIN - 1 {
                return Err(bad("it is shorter than a record"));
            }
            if length > body.len() - at {
                return Err(bad("it is longer than what is left of the batch"));
            }
            at += length;
        }
        if at == body.len() { Ok(()) } else { Err(BatchError::Malformed("bytes behind the last record")) }
    }

    /// Walks all records; returns the largest timestamp.
    fn check_records(&self, rules: &Rules) -> Result<i64, BatchError> {
        let mut records = self.records()?;
        let mut max_timestamp_ms = i64::MIN;
        while records.has_more() {
            let index = records.index();
            let bad = |reason| Err(BatchError::Record { index, reason });
            let parts = records.next_parts()?;
            if parts.offset_delta as u32 != index {
                return bad("its offset is not the next one");
            }
            if rules.key_required && parts.key.is_none() {
                return bad("it has no key, which a compacted topic asks for");
            }
            if each_header(records.bytes(parts.headers), |_, _| ()).is_none() {
                return bad("its headers cannot be read");
            }
            let timestamp_ms = records.timestamp_ms(&parts);
            rules.timestamps.check(index, timestamp_ms)?;
            max_timestamp_ms = max_timestamp_ms.max(timestamp_ms);
        }
        if records.at_end() { Ok(max_timestamp_ms) } else { Err(BatchError::Malformed("bytes behind the last record")) }
    }
}
