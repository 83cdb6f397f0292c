//! The `.txnindex` file of a segment: the aborted transactions whose marker lies in it. There is no file where there are
//! none.

use bytes::Buf;

use super::{LayoutError, entries};
use crate::record::Offset;

const VERSION: i16 = 0;

/// One entry; the file is nothing but entries, in the order of their markers.
///
/// ```text
///  byte  0  version             i16   0
///        2  producer id         i64
///       10  first offset        i64   of the transaction's first record in the partition, maybe in an earlier segment
///       18  last offset         i64   of its marker
///       26  last stable offset  i64   once it was aborted: no transaction noted later began before this
/// ```
///
/// Big endian. So a search for the aborted transactions below some offset may end with the first entry whose last stable
/// offset has reached it. The format is that of Kafka's `AbortedTxn`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct AbortedTxn {
    pub producer_id: i64,
    pub first_offset: Offset,
    pub last_offset: Offset,
    pub last_stable_offset: Offset,
}

impl entries::Entry for AbortedTxn {
    const SIZE: usize = 34;

    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&VERSION.to_be_bytes());
        out.extend_from_slice(&self.producer_id.to_be_bytes());
        out.extend_from_slice(&self.first_offset.0.to_be_bytes());
        out.extend_from_slice(&self.last_offset.0.to_be_bytes());
        out.extend_from_slice(&self.last_stable_offset.0.to_be_bytes());
    }

    fn get(mut bytes: &[u8]) -> Result<AbortedTxn, LayoutError> {
        match bytes.get_i16() {
            VERSION => {}
            found => return Err(LayoutError::Version { found, known: VERSION }),
        }
        Ok(AbortedTxn {
            producer_id: bytes.get_i64(),
            first_offset: Offset(bytes.get_i64()),
            last_offset: Offset(bytes.get_i64()),
            last_stable_offset: Offset(bytes.get_i64()),
        })
    }

    fn fault(&self, previous: Option<&AbortedTxn>) -> Option<&'static str> {
        if self.producer_id < 0 {
            return Some("the producer id is negative");
        }
        if self.first_offset.0 < 0 || self.first_offset >= self.last_offset {
            return Some("the first offset does not lie before the marker");
        }
        // At most the offset behind the marker.
        if self.last_stable_offset.0 < 0 || self.last_stable_offset.0 - 1 > self.last_offset.0 {
            return Some("the last stable offset lies behind the marker");
        }
        (self.last_offset <= previous?.last_offset).then_some("the marker does not lie behind the one before")
    }
}

pub(in crate::store) fn encode(entries: &[AbortedTxn]) -> Vec<u8> {
    entries::encode(entries)
}

pub(in crate::store) fn decode(bytes: &[u8]) -> Result<Vec<AbortedTxn>, LayoutError> {
    entries::decode(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::{decodes_only_what_it_encodes, survives_damage};
    use super::*;

    fn txn((producer_id, first, last, stable): (i64, i64, i64, i64)) -> AbortedTxn {
        AbortedTxn {
            producer_id,
            first_offset: Offset(first),
            last_offset: Offset(last),
            last_stable_offset: Offset(stable),
        }
    }

    /// What Kafka 4.3 writes for producer 0x0102030405060708 from 16 to 300, stable up to 301.
    const KNOWN: [u8; 34] = [
        0, 0, // version
        1, 2, 3, 4, 5, 6, 7, 8, // producer id
        0, 0, 0, 0, 0, 0, 0, 16, // first offset
        0, 0, 0, 0, 0, 0, 1, 44, // last offset
        0, 0, 0, 0, 0, 0, 1, 45, // last stable offset
    ];

    #[test]
    fn known_bytes() {
        let aborted = txn((0x0102_0304_0506_0708, 16, 300, 301));
        assert_eq!(encode(&[aborted]), KNOWN);
        assert_eq!(decode(&KNOWN), Ok(vec![aborted]));
        assert_eq!(decode(&[]), Ok(vec![]));
    }

    fn check(entries: &[(i64, i64, i64, i64)], expect: (usize, &'static str)) {
        let mut bytes = Vec::new();
        entries.iter().for_each(|&fields| entries::Entry::put(&txn(fields), &mut bytes));
        assert_eq!(decode(&bytes), Err(LayoutError::Entry { at: expect.0, reason: expect.1 }));
    }

    #[test]
    fn faults_are_placed() {
        check(&[(-1, 1, 2, 3)], (0, "the producer id is negative"));
        check(&[(1, 2, 2, 3)], (0, "the first offset does not lie before the marker"));
        check(&[(1, -1, 2, 3)], (0, "the first offset does not lie before the marker"));
        check(&[(1, 1, 2, 3), (1, 3, 4, 6)], (34, "the last stable offset lies behind the marker"));
        check(&[(1, 1, 2, i64::MIN)], (0, "the last stable offset lies behind the marker"));
        check(&[(1, 1, 9, 2), (2, 2, 8, 9)], (34, "the marker does not lie behind the one before"));
        let mut later = KNOWN;
        later[1] = 1;
        assert_eq!(decode(&later), Err(LayoutError::Version { found: 1, known: 0 }));
        assert_eq!(decode(&KNOWN[..33]), Err(LayoutError::Length { len: 33, entry: 34 }));
    }

    #[test]
    fn damage() {
        let two = encode(&[txn((7, 1, 9, 2)), txn((8, 2, 10, 11))]);
        survives_damage(&two, decode, |entries| encode(entries));
    }

    fn ordered() -> impl Strategy<Value = Vec<AbortedTxn>> {
        let step = (0..=i64::MAX, 1i64..1_000, 1i64..1_000, 0i64..1_000);
        prop::collection::vec(step, 0..40).prop_map(|steps| {
            let mut last = 0;
            let place = |(producer_id, gap, length, unstable): (i64, i64, i64, i64)| {
                last += gap;
                txn((producer_id, (last - length).max(0), last, (last + 1 - unstable).max(0)))
            };
            steps.into_iter().map(place).collect()
        })
    }

    proptest! {
        #[test]
        fn round_trip(entries in ordered()) {
            prop_assert_eq!(decode(&encode(&entries)), Ok(entries));
        }

        #[test]
        fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
            decodes_only_what_it_encodes(&bytes, decode, |entries| encode(entries));
        }
    }
}
