//! The `.index` file of a segment: from an offset to the byte of the `.log` where the search for it begins.

use bytes::Buf;

use super::{LayoutError, entries};

/// Kafka reads both numbers as signed, and no segment grows beyond this.
const NUMBER_MAX: u32 = i32::MAX as u32;

/// One entry; the file is nothing but entries, their offsets and positions strictly rising.
///
/// ```text
///  byte  0  relative offset  u32   of the last record of a batch, less the base offset of the segment
///        4  position         u32   of that batch's first byte in the .log
/// ```
///
/// Big endian, both below 2^31. The batch holding an offset begins at or behind the position of the largest entry that is
/// not above it, whatever lies between the entries. The format is that of Kafka's `OffsetIndex`; that the offset is the
/// batch's last is what its `LogSegment` writes and its dump tool checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct Entry {
    pub relative_offset: u32,
    pub position: u32,
}

impl entries::Entry for Entry {
    const SIZE: usize = 8;

    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.relative_offset.to_be_bytes());
        out.extend_from_slice(&self.position.to_be_bytes());
    }

    fn get(mut bytes: &[u8]) -> Result<Entry, LayoutError> {
        Ok(Entry { relative_offset: bytes.get_u32(), position: bytes.get_u32() })
    }

    fn fault(&self, previous: Option<&Entry>) -> Option<&'static str> {
        if self.relative_offset > NUMBER_MAX || self.position > NUMBER_MAX {
            return Some("beyond the largest segment");
        }
        let previous = previous?;
        if self.relative_offset <= previous.relative_offset {
            return Some("the offset is not above the one before");
        }
        (self.position <= previous.position).then_some("the position is not above the one before")
    }
}

pub(in crate::store) fn encode(entries: &[Entry]) -> Vec<u8> {
    entries::encode(entries)
}

pub(in crate::store) fn decode(bytes: &[u8]) -> Result<Vec<Entry>, LayoutError> {
    entries::decode(bytes)
}

/// The largest entry that is not above `relative_offset`; `None`: the search begins with the segment's first byte.
pub(in crate::store) fn lookup(entries: &[Entry], relative_offset: u32) -> Option<Entry> {
    let above = entries.partition_point(|entry| entry.relative_offset <= relative_offset);
    above.checked_sub(1).map(|index| entries[index])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::{decodes_only_what_it_encodes, survives_damage};
    use super::*;

    fn entry((relative_offset, position): (u32, u32)) -> Entry {
        Entry { relative_offset, position }
    }

    /// What Kafka 4.3 writes for (0, 0), (9, 4,200) and (0x01020304, 0x05060708).
    const KNOWN: [u8; 24] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0x10, 0x68, 1, 2, 3, 4, 5, 6, 7, 8];

    #[test]
    fn known_bytes() {
        let entries = [(0, 0), (9, 4_200), (0x0102_0304, 0x0506_0708)].map(entry);
        assert_eq!(encode(&entries), KNOWN);
        assert_eq!(decode(&KNOWN), Ok(entries.to_vec()));
        assert_eq!(decode(&[]), Ok(vec![]));
    }

    fn check(entries: &[(u32, u32)], expect: (usize, &'static str)) {
        let bytes: Vec<u8> = entries.iter().flat_map(|&(o, p)| [o.to_be_bytes(), p.to_be_bytes()]).flatten().collect();
        assert_eq!(decode(&bytes), Err(LayoutError::Entry { at: expect.0, reason: expect.1 }));
    }

    #[test]
    fn faults_are_placed() {
        check(&[(1, 1), (1, 2)], (8, "the offset is not above the one before"));
        check(&[(1, 1), (2, 3), (3, 3)], (16, "the position is not above the one before"));
        check(&[(1 << 31, 1)], (0, "beyond the largest segment"));
        check(&[(1, 1), (2, u32::MAX)], (8, "beyond the largest segment"));
        // What an active segment of Kafka's has behind its entries.
        check(&[(1, 1), (0, 0)], (8, "the offset is not above the one before"));
        assert_eq!(decode(&KNOWN[..23]), Err(LayoutError::Length { len: 23, entry: 8 }));
    }

    #[test]
    fn damage() {
        survives_damage(&KNOWN, decode, |entries| encode(entries));
    }

    fn rising() -> impl Strategy<Value = Vec<Entry>> {
        prop::collection::vec((1u32..5_000, 1u32..5_000), 0..60).prop_map(|steps| {
            let sum = |last: &mut (u32, u32), step: (u32, u32)| {
                *last = (last.0 + step.0, last.1 + step.1);
                Some(entry(*last))
            };
            steps.into_iter().scan((0, 0), sum).collect()
        })
    }

    proptest! {
        #[test]
        fn round_trip(entries in rising()) {
            prop_assert_eq!(decode(&encode(&entries)), Ok(entries));
        }

        #[test]
        fn lookup_is_the_naive_one(entries in rising(), relative_offset in 0u32..320_000) {
            let naive = entries.iter().rev().find(|entry| entry.relative_offset <= relative_offset).copied();
            prop_assert_eq!(lookup(&entries, relative_offset), naive);
        }

        #[test]
        fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            decodes_only_what_it_encodes(&bytes, decode, |entries| encode(entries));
        }
    }
}
