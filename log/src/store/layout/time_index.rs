//! The `.timeindex` file of a segment: from a time to the offset where the search for it begins.

use bytes::Buf;

use super::{LayoutError, entries};

/// Kafka reads the offset as signed.
const RELATIVE_OFFSET_MAX: u32 = i32::MAX as u32;

/// One entry; the file is nothing but entries, their timestamps and offsets strictly rising.
///
/// ```text
///  byte  0  timestamp        i64   milliseconds: the largest in the segment up to the entry's place
///        8  relative offset  u32   of the last record of the batch that brought it, less the segment's base offset
/// ```
///
/// Big endian, the offset below 2^31. Batches before the entry's batch hold only smaller timestamps. A sealed segment's
/// last entry holds the largest timestamp of all. The format is that of Kafka's `TimeIndex`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct Entry {
    pub timestamp_ms: i64,
    pub relative_offset: u32,
}

impl entries::Entry for Entry {
    const SIZE: usize = 12;

    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.timestamp_ms.to_be_bytes());
        out.extend_from_slice(&self.relative_offset.to_be_bytes());
    }

    fn get(mut bytes: &[u8]) -> Result<Entry, LayoutError> {
        Ok(Entry { timestamp_ms: bytes.get_i64(), relative_offset: bytes.get_u32() })
    }

    fn fault(&self, previous: Option<&Entry>) -> Option<&'static str> {
        if self.relative_offset > RELATIVE_OFFSET_MAX {
            return Some("beyond the largest segment");
        }
        let previous = previous?;
        if self.timestamp_ms <= previous.timestamp_ms {
            return Some("the timestamp is not above the one before");
        }
        (self.relative_offset <= previous.relative_offset).then_some("the offset is not above the one before")
    }
}

pub(in crate::store) fn encode(entries: &[Entry]) -> Vec<u8> {
    entries::encode(entries)
}

pub(in crate::store) fn decode(bytes: &[u8]) -> Result<Vec<Entry>, LayoutError> {
    entries::decode(bytes)
}

/// The largest entry that is not above `timestamp_ms`: the first record of that time or later lies in the entry's batch or
/// behind it. `None`: the search begins with the segment's first record.
pub(in crate::store) fn lookup(entries: &[Entry], timestamp_ms: i64) -> Option<Entry> {
    let above = entries.partition_point(|entry| entry.timestamp_ms <= timestamp_ms);
    above.checked_sub(1).map(|index| entries[index])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::{decodes_only_what_it_encodes, survives_damage};
    use super::*;

    fn entry((timestamp_ms, relative_offset): (i64, u32)) -> Entry {
        Entry { timestamp_ms, relative_offset }
    }

    /// What Kafka 4.3 writes for (1,700,000,000,000, 3) and (1,700,000,000,001, 0x01020304).
    const KNOWN: [u8; 24] =
        [0, 0, 1, 0x8b, 0xcf, 0xe5, 0x68, 0, 0, 0, 0, 3, 0, 0, 1, 0x8b, 0xcf, 0xe5, 0x68, 1, 1, 2, 3, 4];

    #[test]
    fn known_bytes() {
        let entries = [(1_700_000_000_000, 3), (1_700_000_000_001, 0x0102_0304)].map(entry);
        assert_eq!(encode(&entries), KNOWN);
        assert_eq!(decode(&KNOWN), Ok(entries.to_vec()));
        assert_eq!(decode(&[]), Ok(vec![]));
    }

    fn check(entries: &[(i64, u32)], expect: (usize, &'static str)) {
        let bytes = |&(time, offset): &(i64, u32)| [&time.to_be_bytes()[..], &offset.to_be_bytes()].concat();
        let bytes: Vec<u8> = entries.iter().flat_map(bytes).collect();
        assert_eq!(decode(&bytes), Err(LayoutError::Entry { at: expect.0, reason: expect.1 }));
    }

    #[test]
    fn faults_are_placed() {
        check(&[(5, 1), (5, 2)], (12, "the timestamp is not above the one before"));
        check(&[(-5, 1), (-4, 2), (-3, 2)], (24, "the offset is not above the one before"));
        check(&[(0, 1 << 31)], (0, "beyond the largest segment"));
        assert_eq!(decode(&KNOWN[..13]), Err(LayoutError::Length { len: 13, entry: 12 }));
    }

    #[test]
    fn damage() {
        survives_damage(&KNOWN, decode, |entries| encode(entries));
    }

    fn rising() -> impl Strategy<Value = Vec<Entry>> {
        (-100_000i64..100_000, prop::collection::vec((1i64..5_000, 1u32..5_000), 0..60)).prop_map(|(first, steps)| {
            let sum = |last: &mut (i64, u32), step: (i64, u32)| {
                *last = (last.0 + step.0, last.1 + step.1);
                Some(entry(*last))
            };
            steps.into_iter().scan((first, 0), sum).collect()
        })
    }

    proptest! {
        #[test]
        fn round_trip(entries in rising()) {
            prop_assert_eq!(decode(&encode(&entries)), Ok(entries));
        }

        #[test]
        fn lookup_is_the_naive_one(entries in rising(), timestamp_ms in -120_000i64..420_000) {
            let naive = entries.iter().rev().find(|entry| entry.timestamp_ms <= timestamp_ms).copied();
            prop_assert_eq!(lookup(&entries, timestamp_ms), naive);
        }

        #[test]
        fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            decodes_only_what_it_encodes(&bytes, decode, |entries| encode(entries));
        }
    }
}
