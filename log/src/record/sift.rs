//! A batch of which records go: what compaction sees of each, and the batch that is left. It keeps its place, its
//! offsets, its producer with its sequences, its kind of timestamp and its codec, so that nobody can tell but by the gap.
//!
//! Kept records are copied as they lie: their deltas count from the batch's base offset and base timestamp, which stay.
//! Only a delete horizon takes the place of the base timestamp, and then every delta is written anew.

use std::ops::ControlFlow;

use bytes::Bytes;

use super::batch::HeaderFields;
use super::codec::Codec;
use super::decode::{Parts, Records};
use super::{BATCH_HEADER, Batch, BatchError, Offset, varint};

/// What compaction looks at in a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Glance<'a> {
    pub offset: Offset,
    pub key: Option<&'a [u8]>,
    /// Whether it has no value.
    pub tombstone: bool,
}

/// What [`Batch::sift`] left of a batch.
#[derive(Debug)]
pub(crate) struct Sifted {
    /// The kept records, not packed.
    plain: Bytes,
    pub kept: u32,
    pub dropped: u32,
    /// Of the kept records; `None` without any.
    max_timestamp_ms: Option<i64>,
}

/// The records of a batch one by one, each at an offset of the batch and behind the one before.
struct Walk {
    records: Records,
    base_offset: i64,
    last_offset_delta: i32,
    offset_delta_min: i32,
}

impl Walk {
    fn new(batch: &Batch) -> Result<Walk, BatchError> {
        Ok(Walk {
            records: batch.records()?,
            base_offset: batch.base_offset().0,
            last_offset_delta: batch.last_offset_delta(),
            offset_delta_min: 0,
        })
    }

    /// An offset that is not the batch's own would make compaction drop records of others, so it is an error here.
    fn next(&mut self) -> Result<Option<Parts>, BatchError> {
        if !self.records.has_more() {
            let over = BatchError::Malformed("bytes behind the last record");
            return if self.records.at_end() { Ok(None) } else { Err(over) };
        }
        let index = self.records.index();
        let parts = self.records.next_parts()?;
        if parts.offset_delta < self.offset_delta_min || parts.offset_delta > self.last_offset_delta {
            return Err(BatchError::Record { index, reason: "its offset is out of order" });
        }
        self.offset_delta_min = parts.offset_delta.saturating_add(1);
        Ok(Some(parts))
    }

    fn glance(&self, parts: &Parts) -> Glance<'_> {
        Glance {
            offset: Offset(self.base_offset.saturating_add(i64::from(parts.offset_delta))),
            key: parts.key.map(|range| self.records.bytes(range)),
            tombstone: parts.value.is_none(),
        }
    }
}

impl Batch {
    /// Shows each record in order, until it is told to stop.
    pub(crate) fn glance(&self, mut each: impl FnMut(Glance<'_>) -> ControlFlow<()>) -> Result<(), BatchError> {
        let mut walk = Walk::new(self)?;
        while let Some(parts) = walk.next()? {
            if each(walk.glance(&parts)).is_break() {
                break;
            }
        }
        Ok(())
    }

    /// Asks for each record in order whether to keep it. Copies only where one goes.
    pub(crate) fn sift(&self, mut keep: impl FnMut(Glance<'_>) -> bool) -> Result<Sifted, BatchError> {
        let mut walk = Walk::new(self)?;
        let mut left: Option<Vec<u8>> = None;
        let mut sifted = Sifted { plain: Bytes::new(), kept: 0, dropped: 0, max_timestamp_ms: None };
        while let Some(parts) = walk.next()? {
            let glance = walk.glance(&parts);
            if keep(glance) {
                sifted.kept += 1;
                sifted.max_timestamp_ms = sifted.max_timestamp_ms.max(Some(walk.records.timestamp_ms(&parts)));
                if let Some(left) = &mut left {
                    left.extend_from_slice(walk.records.bytes((parts.start, parts.headers.1)));
                }
            } else {
                sifted.dropped += 1;
                left.get_or_insert_with(|| walk.records.bytes((0, parts.start)).to_vec());
            }
        }
        sifted.plain = left.map_or_else(|| walk.records.plain().clone(), Bytes::from);
        Ok(sifted)
    }

    /// The batch with the records that [`Batch::sift`] of it left; with `horizon_ms`, its delete horizon is set to that.
    pub(crate) fn rebuild(&self, sifted: Sifted, horizon_ms: Option<i64>) -> Result<Batch, BatchError> {
        let mut codec = self.codec()?;
        let plain = match horizon_ms {
            Some(horizon_ms) => Bytes::from(self.rebase(&sifted, horizon_ms)?),
            None => sifted.plain,
        };
        let mut body = codec.pack(&plain);
        // What was dropped may have been all that kept the batch within what readers unpack.
        if codec != Codec::None && plain.len() > codec.unpacked_bytes_max(body.len()) {
            (codec, body) = (Codec::None, plain);
        }
        let mut attributes = self.attributes();
        if codec == Codec::None {
            attributes &= !HeaderFields::CODEC;
        }
        if horizon_ms.is_some() {
            attributes |= HeaderFields::DELETE_HORIZON;
        }
        let max_timestamp_ms = match sifted.max_timestamp_ms {
            Some(max) if !self.is_log_append_time() => max,
            _ => self.max_timestamp_ms(),
        };
        let mut batch = Batch { header: *self.header(), body };
        let size = batch.size() - super::batch::LENGTH_END;
        let limit = i32::MAX as usize;
        let length = i32::try_from(size).map_err(|_| BatchError::TooLarge { size: batch.size(), limit })?;
        let base_timestamp_ms = horizon_ms.unwrap_or(self.base_timestamp_ms());
        batch.header[8..12].copy_from_slice(&length.to_be_bytes());
        batch.header[21..23].copy_from_slice(&attributes.to_be_bytes());
        batch.header[27..35].copy_from_slice(&base_timestamp_ms.to_be_bytes());
        batch.header[35..43].copy_from_slice(&max_timestamp_ms.to_be_bytes());
        batch.header[57..61].copy_from_slice(&sifted.kept.to_be_bytes());
        batch.seal();
        Ok(batch)
    }

    /// The kept records with timestamps that count from `base_ms`.
    fn rebase(&self, sifted: &Sifted, base_ms: i64) -> Result<Vec<u8>, BatchError> {
        let mut records = Records::of_plain(self, sifted.plain.clone(), sifted.kept);
        let mut out = Vec::with_capacity(sifted.plain.len() + 5 * sifted.kept as usize);
        while records.has_more() {
            let parts = records.next_parts()?;
            let delta_ms = self.base_timestamp_ms().wrapping_add(parts.timestamp_delta_ms).wrapping_sub(base_ms);
            let rest = records.bytes((parts.offset_at, parts.headers.1));
            let attributes = records.bytes((parts.timestamp_at - 1, parts.timestamp_at));
            varint::put(&mut out, (attributes.len() + varint::size(delta_ms) + rest.len()) as i64);
            out.extend_from_slice(attributes);
            varint::put(&mut out, delta_ms);
            out.extend_from_slice(rest);
        }
        Ok(out)
    }

    /// The data batch without any record: what is left to say where its producer stands, and which offsets there were.
    pub(crate) fn emptied(&self) -> Batch {
        assert!(!self.is_control(), "a marker goes or stays, it is never emptied");
        const NO_TIMESTAMP: i64 = -1;
        let attributes = self.attributes() & (HeaderFields::LOG_APPEND_TIME | HeaderFields::TRANSACTIONAL);
        let length = (BATCH_HEADER - super::batch::LENGTH_END) as i32;
        let mut batch = Batch { header: *self.header(), body: Bytes::new() };
        batch.header[8..12].copy_from_slice(&length.to_be_bytes());
        batch.header[21..23].copy_from_slice(&attributes.to_be_bytes());
        batch.header[27..35].copy_from_slice(&NO_TIMESTAMP.to_be_bytes());
        batch.header[57..61].copy_from_slice(&0i32.to_be_bytes());
        batch.seal();
        batch
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::build::Frame;
    use crate::record::{LeaderEpoch, NewRecord};

    const CODECS: [Codec; 5] = [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];

    fn batch(values: &[(i64, Option<Vec<u8>>)], codec: Codec) -> Batch {
        let record = |(timestamp_ms, value): &(i64, Option<Vec<u8>>)| NewRecord {
            key: Some(Bytes::from_static(b"k")),
            value: value.clone().map(Bytes::from),
            timestamp_ms: Some(*timestamp_ms),
            ..NewRecord::default()
        };
        let records: Vec<_> = values.iter().map(record).collect();
        let frame = Frame { now_ms: 0, producer: None, transactional: false, batch_bytes_max: 128 << 20 };
        let mut batch = Batch::build(&records, &frame).unwrap().packed(codec);
        batch.place(Offset(100), LeaderEpoch(4));
        batch
    }

    fn read(batch: &Batch) -> Vec<(i64, i64, Option<Bytes>)> {
        batch.check_sum().unwrap();
        let records = batch.records().unwrap().map(Result::unwrap);
        records.map(|record| (record.offset.0, record.timestamp_ms, record.value)).collect()
    }

    #[test]
    fn what_is_kept_reads_as_before_with_every_codec() {
        let values = [(50, Some(vec![1; 100])), (90, None), (-7, Some(vec![2; 9])), (60, Some(vec![]))];
        for codec in CODECS {
            let batch = batch(&values, codec);
            for keep in 1u32..16 {
                for horizon_ms in [None, Some(i64::MAX), Some(1_000_000)] {
                    let kept = |offset: i64| keep & (1 << (offset - 100)) != 0;
                    let sifted = batch.sift(|glance| kept(glance.offset.0)).unwrap();
                    assert_eq!((sifted.kept, sifted.dropped), (keep.count_ones(), 4 - keep.count_ones()));
                    let rebuilt = batch.rebuild(sifted, horizon_ms).unwrap();
                    let expected: Vec<_> = read(&batch).into_iter().filter(|record| kept(record.0)).collect();
                    assert_eq!(read(&rebuilt), expected);
                    assert_eq!(rebuilt.record_count(), keep.count_ones());
                    assert_eq!(rebuilt.delete_horizon_ms(), horizon_ms);
                    assert_eq!(rebuilt.max_timestamp_ms(), expected.iter().map(|record| record.1).max().unwrap());
                    assert_eq!((rebuilt.codec().unwrap(), rebuilt.last_offset()), (codec, Offset(103)));
                    assert_eq!((rebuilt.base_offset(), rebuilt.leader_epoch()), (Offset(100), LeaderEpoch(4)));
                }
            }
        }
    }

    #[test]
    fn the_brokers_time_stays() {
        let mut batch = batch(&[(50, None), (90, None)], Codec::Zstd);
        batch.stamp_log_append_time(777);
        let rebuilt = batch.rebuild(batch.sift(|glance| glance.offset.0 == 100).unwrap(), Some(9_999)).unwrap();
        assert_eq!(read(&rebuilt), vec![(100, 777, None)]);
        assert_eq!((rebuilt.max_timestamp_ms(), rebuilt.is_log_append_time()), (777, true));
        assert!(rebuilt.emptied().is_log_append_time());
    }

    #[test]
    fn an_emptied_batch_says_where_it_was() {
        let empty = batch(&[(50, None), (90, None)], Codec::Lz4).emptied();
        assert_eq!(read(&empty), vec![]);
        assert_eq!((empty.base_offset(), empty.last_offset(), empty.size()), (Offset(100), Offset(101), BATCH_HEADER));
        assert_eq!((empty.max_timestamp_ms(), empty.codec().unwrap()), (90, Codec::None));
        assert_eq!(empty.emptied(), empty);
    }

    /// Noise went, 30 MB of zeros stay: packed, they would be taken for a bomb.
    #[test]
    fn what_is_left_can_always_be_unpacked() {
        let mut state = 1u64;
        let noise = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        });
        let values = [(1, Some(noise.take(400_000).collect())), (2, Some(vec![0; 30 << 20]))];
        for codec in [Codec::Gzip, Codec::Lz4, Codec::Zstd] {
            let batch = batch(&values, codec);
            let rebuilt = batch.rebuild(batch.sift(|glance| glance.offset.0 == 101).unwrap(), None).unwrap();
            assert_eq!(read(&rebuilt).len(), 1);
            assert_eq!(rebuilt.codec().unwrap(), Codec::None);
        }
    }

    #[test]
    fn offsets_that_are_not_the_batchs_own_are_refused() {
        let mut batch = batch(&[(0, None), (0, None)], Codec::None);
        batch.header[23..27].copy_from_slice(&0i32.to_be_bytes());
        batch.seal();
        assert!(matches!(batch.sift(|_| true), Err(BatchError::Record { index: 1, .. })));
        assert!(batch.glance(|_| ControlFlow::Continue(())).is_err());
        let mut seen = 0;
        let first = batch.glance(|_| {
            seen += 1;
            ControlFlow::Break(())
        });
        assert!(first.is_ok() && seen == 1);
    }
}
