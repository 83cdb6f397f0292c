//! Building batches: from the records of in-process writers, and transaction markers.

use bytes::{Buf, Bytes};

use super::batch::{HeaderFields, Producer};
#[cfg(test)]
use super::codec::Codec;
use super::{Batch, BatchError, NewRecord, varint};

/// What is the same for all records of a batch.
#[derive(Clone, Copy, Debug)]
pub struct Frame {
    /// Timestamp of records that bring none.
    pub now_ms: i64,
    pub producer: Option<Producer>,
    /// Part of a transaction of `producer`.
    pub transactional: bool,
    /// The largest batch allowed, in bytes.
    pub batch_bytes_max: usize,
}

/// How a transaction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marker {
    pub commit: bool,
    pub coordinator_epoch: i32,
}

impl Batch {
    /// One plain batch of `records` (at least one), at offset 0 until it is placed.
    pub fn build(records: &[NewRecord], frame: &Frame) -> Result<Batch, BatchError> {
        assert!(!records.is_empty(), "a batch holds at least one record");
        assert!(!frame.transactional || frame.producer.is_some(), "a transaction has a producer");
        let timestamp = |record: &NewRecord| record.timestamp_ms.unwrap_or(frame.now_ms);
        let base_timestamp_ms = timestamp(&records[0]);
        let bytes_max = frame.batch_bytes_max.min(i32::MAX as usize) - super::BATCH_HEADER;
        let mut body = Vec::with_capacity(records.iter().map(NewRecord::size_max).sum::<usize>().min(bytes_max));
        let mut max_timestamp_ms = i64::MIN;
        for (index, record) in records.iter().enumerate() {
            let timestamp_ms = timestamp(record);
            max_timestamp_ms = max_timestamp_ms.max(timestamp_ms);
            record.encode(timestamp_ms.wrapping_sub(base_timestamp_ms), index as i32, &mut body);
            if body.len() > bytes_max {
                let size = super::BATCH_HEADER + records.iter().map(NewRecord::size_max).sum::<usize>();
                return Err(BatchError::TooLarge { size, limit: frame.batch_bytes_max });
            }
        }
        let count = i32::try_from(records.len()).map_err(|_| BatchError::Malformed("too many records"))?;
        let attributes = if frame.transactional { HeaderFields::TRANSACTIONAL } else { 0 };
        let fields = HeaderFields {
            attributes,
            last_offset_delta: count - 1,
            base_timestamp_ms,
            max_timestamp_ms,
            producer: frame.producer,
            record_count: count,
        };
        Ok(fields.seal(Bytes::from(body)))
    }

    /// The control batch that ends a transaction of the producer: one record, key {version i16 0, kind i16}, value
    /// {version i16 0, coordinator epoch i32}.
    pub fn build_marker(producer_id: i64, producer_epoch: i16, marker: Marker, now_ms: i64) -> Batch {
        let kind = i16::from(marker.commit);
        let mut value = vec![0; 2];
        value.extend_from_slice(&marker.coordinator_epoch.to_be_bytes());
        let record = NewRecord {
            key: Some(Bytes::copy_from_slice(&[0, 0, 0, kind as u8])),
            value: Some(Bytes::from(value)),
            ..NewRecord::default()
        };
        let mut body = Vec::new();
        record.encode(0, 0, &mut body);
        let fields = HeaderFields {
            attributes: HeaderFields::TRANSACTIONAL | HeaderFields::CONTROL,
            last_offset_delta: 0,
            base_timestamp_ms: now_ms,
            max_timestamp_ms: now_ms,
            producer: Some(Producer { id: producer_id, epoch: producer_epoch, base_sequence: -1 }),
            record_count: 1,
        };
        fields.seal(Bytes::from(body))
    }

    /// The marker of a control batch; `None` for data.
    pub fn marker(&self) -> Result<Option<Marker>, BatchError> {
        if !self.is_control() {
            return Ok(None);
        }
        let bad = BatchError::Malformed("a control batch without a marker");
        let Some(record) = self.records()?.next().transpose()? else { return Err(bad) };
        match (record.key, record.value) {
            (Some(mut key), Some(mut value)) if key.len() >= 4 && value.len() >= 6 => {
                let (_version, kind) = (key.get_i16(), key.get_i16());
                let (_version, coordinator_epoch) = (value.get_i16(), value.get_i32());
                match kind {
                    0 | 1 => Ok(Some(Marker { commit: kind == 1, coordinator_epoch })),
                    _ => Err(bad),
                }
            }
            _ => Err(bad),
        }
    }
}

#[cfg(test)]
impl Batch {
    /// The same records behind a codec that we never write ourselves.
    pub(crate) fn packed_with_zstd(&self) -> Batch {
        self.packed(Codec::Zstd)
    }

    /// The records of a plain batch behind a codec, at offset 0.
    pub(crate) fn packed(&self, codec: Codec) -> Batch {
        assert_eq!(self.codec().ok(), Some(Codec::None), "a plain batch");
        HeaderFields {
            attributes: self.attributes() | codec as i16,
            last_offset_delta: self.last_offset_delta(),
            base_timestamp_ms: self.base_timestamp_ms(),
            max_timestamp_ms: self.max_timestamp_ms(),
            producer: self.producer(),
            record_count: self.raw_record_count(),
        }
        .seal(codec.pack(&self.body))
    }
}

impl NewRecord {
    /// Bytes the record takes in a plain batch, at most: for cutting a run of records into batches.
    pub fn size_max(&self) -> usize {
        // Length, attributes, timestamp, offset, two lengths, header count: 5 + 1 + 10 + 5 + 5 + 5 + 5.
        let own = 36 + self.key.as_ref().map_or(0, Bytes::len) + self.value.as_ref().map_or(0, Bytes::len);
        let headers = self.headers.iter().map(|h| 10 + h.key.len() + h.value.as_ref().map_or(0, Bytes::len));
        own + headers.sum::<usize>()
    }

    fn encode(&self, timestamp_delta_ms: i64, offset_delta: i32, out: &mut Vec<u8>) {
        let length = self.body_size(timestamp_delta_ms, offset_delta);
        varint::put(out, length as i64);
        let start = out.len();
        out.push(0);
        varint::put(out, timestamp_delta_ms);
        varint::put(out, i64::from(offset_delta));
        put_nullable(out, self.key.as_deref());
        put_nullable(out, self.value.as_deref());
        varint::put(out, self.headers.len() as i64);
        for header in &self.headers {
            put_nullable(out, Some(&header.key));
            put_nullable(out, header.value.as_deref());
        }
        assert_eq!(out.len() - start, length, "the size of a record is known before it is written");
    }

    fn body_size(&self, timestamp_delta_ms: i64, offset_delta: i32) -> usize {
        let headers = self.headers.iter().map(|h| nullable_size(Some(&h.key)) + nullable_size(h.value.as_deref()));
        1 + varint::size(timestamp_delta_ms)
            + varint::size(i64::from(offset_delta))
            + nullable_size(self.key.as_deref())
            + nullable_size(self.value.as_deref())
            + varint::size(self.headers.len() as i64)
            + headers.sum::<usize>()
    }
}

fn put_nullable(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
    varint::put(out, bytes.map_or(-1, |bytes| bytes.len() as i64));
    out.extend_from_slice(bytes.unwrap_or_default());
}

fn nullable_size(bytes: Option<&[u8]>) -> usize {
    bytes.map_or(1, |bytes| varint::size(bytes.len() as i64) + bytes.len())
}
