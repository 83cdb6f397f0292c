//! The header of a [`Batch`]: reading it, stamping it, and cutting batches out of a run of stored bytes.

use std::fmt;

use bytes::{Buf, Bytes};

use super::codec::Codec;
use super::{BATCH_HEADER, Batch, BatchError, LeaderEpoch, Offset};

/// Where the checksummed part begins.
const CHECKED: usize = 21;
/// Bytes up to and with the length field, which the length does not count.
pub(super) const LENGTH_END: usize = 12;

const LOG_APPEND_TIME: i16 = 1 << 3;
const TRANSACTIONAL: i16 = 1 << 4;
const CONTROL: i16 = 1 << 5;
const DELETE_HORIZON: i16 = 1 << 6;

/// Who wrote a batch, where its producer is idempotent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Producer {
    pub id: i64,
    pub epoch: i16,
    /// Sequence of the first record, from 0, wrapping behind `i32::MAX` to 0; -1 in control batches.
    pub base_sequence: i32,
}

impl Batch {
    /// Cuts the first batch off `bytes`; `None` when they end within it. Header and checksum are checked, the records are
    /// not looked at: for batches that were checked when they came in.
    pub fn split_from(bytes: &mut Bytes) -> Result<Option<Batch>, BatchError> {
        let Some(size) = Self::size_of_first(bytes)? else { return Ok(None) };
        if bytes.len() < size {
            return Ok(None);
        }
        let batch = Self::unchecked(bytes.split_to(size));
        batch.check_sum()?;
        batch.check_place()?;
        Ok(Some(batch))
    }

    /// What no batch of a log is without, and others count on: offsets that it can have, the first of which no checksum
    /// protects, and a producer that is there or not.
    fn check_place(&self) -> Result<(), BatchError> {
        if self.last_offset_delta() < 0 || !self.base_offset().is_stored() || !self.next_offset().is_stored() {
            return Err(BatchError::Malformed("its offsets are none that a log has"));
        }
        let producer = self.producer();
        if producer.is_some_and(|p| p.epoch < 0 || (p.base_sequence < 0 && !self.is_control())) {
            return Err(BatchError::Malformed("a producer id without epoch or sequence"));
        }
        Ok(())
    }

    /// Bytes of the batch at the front of `bytes`, by its header alone; `None` when there is less than a header.
    pub fn size_of_first(bytes: &[u8]) -> Result<Option<usize>, BatchError> {
        if bytes.len() < BATCH_HEADER {
            return Ok(None);
        }
        let mut at = &bytes[8..];
        let length = at.get_i32();
        match bytes[16] as i8 {
            2 => {}
            magic => return Err(BatchError::Magic(magic)),
        }
        let size = usize::try_from(length).map_err(|_| BatchError::Malformed("negative length"))? + LENGTH_END;
        if size < BATCH_HEADER {
            return Err(BatchError::Malformed("the length is less than a header"));
        }
        Ok(Some(size))
    }

    /// `bytes` hold exactly one batch.
    pub(super) fn unchecked(mut bytes: Bytes) -> Batch {
        let mut header = [0; BATCH_HEADER];
        bytes.copy_to_slice(&mut header);
        Batch { header, body: bytes }
    }

    pub(super) fn check_sum(&self) -> Result<(), BatchError> {
        let (found, computed) = (self.checksum(), self.computed_checksum());
        if found == computed { Ok(()) } else { Err(BatchError::Checksum { found, computed }) }
    }

    fn computed_checksum(&self) -> u32 {
        crc32c::crc32c_append(crc32c::crc32c(&self.header[CHECKED..]), &self.body)
    }

    fn i16_at(&self, at: usize) -> i16 {
        (&self.header[at..]).get_i16()
    }

    fn i32_at(&self, at: usize) -> i32 {
        (&self.header[at..]).get_i32()
    }

    fn i64_at(&self, at: usize) -> i64 {
        (&self.header[at..]).get_i64()
    }

    /// The batch as stored is this, followed by [`Batch::body`].
    pub fn header(&self) -> &[u8; BATCH_HEADER] {
        &self.header
    }

    /// The records section, compressed as it came.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// Bytes of the whole batch.
    pub fn size(&self) -> usize {
        BATCH_HEADER + self.body.len()
    }

    /// Appends the whole batch to `out`.
    pub fn write_to(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.header);
        out.extend_from_slice(&self.body);
    }

    pub fn base_offset(&self) -> Offset {
        Self::base_offset_of(&self.header)
    }

    /// Offset of the last record. Records may be missing in between (compaction), the last offset stays.
    pub fn last_offset(&self) -> Offset {
        Self::last_offset_of(&self.header)
    }

    /// The offset behind the last record.
    pub fn next_offset(&self) -> Offset {
        Offset(self.last_offset().0.saturating_add(1))
    }

    pub fn leader_epoch(&self) -> LeaderEpoch {
        Self::leader_epoch_of(&self.header)
    }

    /// As [`Batch::base_offset`], of a header alone, which may hold anything.
    pub fn base_offset_of(header: &[u8; BATCH_HEADER]) -> Offset {
        Offset((&header[..]).get_i64())
    }

    /// As [`Batch::last_offset`], of a header alone, which may hold anything.
    pub fn last_offset_of(header: &[u8; BATCH_HEADER]) -> Offset {
        let delta = (&header[23..]).get_i32();
        Offset(Self::base_offset_of(header).0.saturating_add(i64::from(delta)))
    }

    /// As [`Batch::leader_epoch`], of a header alone, which may hold anything.
    pub fn leader_epoch_of(header: &[u8; BATCH_HEADER]) -> LeaderEpoch {
        LeaderEpoch((&header[12..]).get_i32())
    }

    pub(super) fn checksum(&self) -> u32 {
        self.i32_at(17) as u32
    }

    pub(super) fn attributes(&self) -> i16 {
        self.i16_at(21)
    }

    pub(super) fn last_offset_delta(&self) -> i32 {
        self.i32_at(23)
    }

    pub fn codec(&self) -> Result<Codec, BatchError> {
        Codec::from_attributes(self.attributes())
    }

    /// Whether the broker's time stands for every record's own.
    pub fn is_log_append_time(&self) -> bool {
        self.attributes() & LOG_APPEND_TIME != 0
    }

    pub fn is_transactional(&self) -> bool {
        self.attributes() & TRANSACTIONAL != 0
    }

    /// Whether it holds a transaction marker ([`Batch::marker`]) rather than data.
    pub fn is_control(&self) -> bool {
        self.attributes() & CONTROL != 0
    }

    /// What the records' timestamps count from: once a delete horizon is set, that.
    pub fn base_timestamp_ms(&self) -> i64 {
        self.i64_at(27)
    }

    /// Until when compaction keeps the tombstones or the marker of this batch, where it has found any (KIP-534).
    pub fn delete_horizon_ms(&self) -> Option<i64> {
        (self.attributes() & DELETE_HORIZON != 0).then(|| self.base_timestamp_ms())
    }

    pub fn max_timestamp_ms(&self) -> i64 {
        self.i64_at(35)
    }

    /// The idempotent or transactional producer, where there is one.
    pub fn producer(&self) -> Option<Producer> {
        let producer = Producer { id: self.i64_at(43), epoch: self.i16_at(51), base_sequence: self.i32_at(53) };
        (producer.id >= 0).then_some(producer)
    }

    pub(super) fn producer_fields(&self) -> (i64, i16, i32) {
        (self.i64_at(43), self.i16_at(51), self.i32_at(53))
    }

    pub fn record_count(&self) -> u32 {
        self.i32_at(57).max(0) as u32
    }

    pub(super) fn raw_record_count(&self) -> i32 {
        self.i32_at(57)
    }

    /// Gives the batch its place. Both fields lie outside of the checksum.
    pub fn place(&mut self, base_offset: Offset, epoch: LeaderEpoch) {
        assert!(base_offset.0 >= 0, "offsets count from 0");
        self.header[..8].copy_from_slice(&base_offset.0.to_be_bytes());
        self.header[12..16].copy_from_slice(&epoch.0.to_be_bytes());
    }

    /// Sets the broker's time for all records (`message.timestamp.type=LogAppendTime`) and the checksum anew.
    pub fn stamp_log_append_time(&mut self, now_ms: i64) {
        let attributes = self.attributes() | LOG_APPEND_TIME;
        self.header[21..23].copy_from_slice(&attributes.to_be_bytes());
        self.set_max_timestamp(now_ms);
    }

    pub(super) fn set_max_timestamp(&mut self, timestamp_ms: i64) {
        self.header[35..43].copy_from_slice(&timestamp_ms.to_be_bytes());
        self.seal();
    }

    /// Makes the checksum that of the bytes.
    pub(super) fn seal(&mut self) {
        let checksum = self.computed_checksum();
        self.header[17..21].copy_from_slice(&checksum.to_be_bytes());
    }
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch")
            .field("base_offset", &self.base_offset().0)
            .field("records", &self.record_count())
            .field("epoch", &self.leader_epoch().0)
            .field("attributes", &self.attributes())
            .field("producer", &self.producer())
            .field("size", &self.size())
            .finish()
    }
}

/// Header fields while a batch is put together.
pub(super) struct HeaderFields {
    pub attributes: i16,
    pub last_offset_delta: i32,
    pub base_timestamp_ms: i64,
    pub max_timestamp_ms: i64,
    pub producer: Option<Producer>,
    pub record_count: i32,
}

impl HeaderFields {
    pub(super) const TRANSACTIONAL: i16 = TRANSACTIONAL;
    pub(super) const CONTROL: i16 = CONTROL;
    pub(super) const CODEC: i16 = 7;
    pub(super) const LOG_APPEND_TIME: i16 = LOG_APPEND_TIME;
    pub(super) const DELETE_HORIZON: i16 = DELETE_HORIZON;

    /// The batch around `body`, at offset 0 of epoch 0, sealed.
    pub(super) fn seal(&self, body: Bytes) -> Batch {
        let length = i32::try_from(BATCH_HEADER - LENGTH_END + body.len()).expect("the builder bounds its body");
        let producer = self.producer.unwrap_or(Producer { id: -1, epoch: -1, base_sequence: -1 });
        let mut header = [0; BATCH_HEADER];
        header[8..12].copy_from_slice(&length.to_be_bytes());
        header[16] = 2;
        header[21..23].copy_from_slice(&self.attributes.to_be_bytes());
        header[23..27].copy_from_slice(&self.last_offset_delta.to_be_bytes());
        header[27..35].copy_from_slice(&self.base_timestamp_ms.to_be_bytes());
        header[35..43].copy_from_slice(&self.max_timestamp_ms.to_be_bytes());
        header[43..51].copy_from_slice(&producer.id.to_be_bytes());
        header[51..53].copy_from_slice(&producer.epoch.to_be_bytes());
        header[53..57].copy_from_slice(&producer.base_sequence.to_be_bytes());
        header[57..61].copy_from_slice(&self.record_count.to_be_bytes());
        let mut batch = Batch { header, body };
        batch.seal();
        batch
    }
}
