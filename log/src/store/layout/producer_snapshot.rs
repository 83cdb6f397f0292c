//! The `.snapshot` file of a segment: what the partition remembers of its idempotent producers just before the offset that
//! names the file.

use bytes::Buf;

use super::LayoutError;
use crate::record::Offset;

const VERSION: i16 = 1;
/// Version, checksum, count.
const HEADER: usize = 10;
/// Where the checksummed part begins.
const CHECKED: usize = 6;
/// Bytes of an entry.
const ENTRY: usize = 46;
/// Where Kafka writes an absent offset or sequence.
const NONE: i64 = -1;

/// One producer.
///
/// ```text
///  byte  0  version                   i16   1
///        2  checksum                  u32   CRC-32C of everything behind it
///        6  number of entries         i32
///       10  entries                         46 bytes each:
///
///        0  producer id               i64
///        8  epoch                     i16
///       10  last sequence             i32   of its newest data batch; -1: there is none in this epoch
///       14  last offset               i64   of that batch; -1
///       22  offset delta              i32   from that batch's first record to its last; 0
///       26  timestamp                 i64   milliseconds: of the newest batch or marker
///       34  coordinator epoch         i32   of the newest marker; -1: none yet
///       38  first offset of the open  i64   -1: no transaction is open
///           transaction
/// ```
///
/// Big endian. It holds one batch a producer, not the five that a client may repeat. The format is that of Kafka's
/// `ProducerSnapshot` message, version 1; Kafka writes the entries in no particular order, this program by producer id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct ProducerEntry {
    pub producer_id: i64,
    pub epoch: i16,
    pub last_batch: Option<LastBatch>,
    pub timestamp_ms: i64,
    pub coordinator_epoch: i32,
    pub current_txn_first_offset: Option<Offset>,
}

/// The newest data batch of a producer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct LastBatch {
    pub last_sequence: i32,
    pub last_offset: Offset,
    /// From its first record to its last.
    pub offset_delta: i32,
}

impl ProducerEntry {
    fn encode(&self, out: &mut Vec<u8>) {
        let (last_sequence, last_offset, offset_delta) =
            self.last_batch.map_or((NONE as i32, NONE, 0), |b| (b.last_sequence, b.last_offset.0, b.offset_delta));
        out.extend_from_slice(&self.producer_id.to_be_bytes());
        out.extend_from_slice(&self.epoch.to_be_bytes());
        out.extend_from_slice(&last_sequence.to_be_bytes());
        out.extend_from_slice(&last_offset.to_be_bytes());
        out.extend_from_slice(&offset_delta.to_be_bytes());
        out.extend_from_slice(&self.timestamp_ms.to_be_bytes());
        out.extend_from_slice(&self.coordinator_epoch.to_be_bytes());
        out.extend_from_slice(&self.current_txn_first_offset.map_or(NONE, |offset| offset.0).to_be_bytes());
    }

    fn decode(mut bytes: &[u8]) -> Result<ProducerEntry, &'static str> {
        let (producer_id, epoch) = (bytes.get_i64(), bytes.get_i16());
        let last_batch = match (bytes.get_i32(), bytes.get_i64(), bytes.get_i32()) {
            (-1, NONE, 0) => None,
            (last_sequence, last_offset, offset_delta) => {
                Some(LastBatch { last_sequence, last_offset: Offset(last_offset), offset_delta })
            }
        };
        let (timestamp_ms, coordinator_epoch) = (bytes.get_i64(), bytes.get_i32());
        let current_txn_first_offset = Some(bytes.get_i64()).filter(|&offset| offset != NONE).map(Offset);
        let entry =
            ProducerEntry { producer_id, epoch, last_batch, timestamp_ms, coordinator_epoch, current_txn_first_offset };
        entry.fault().map_or(Ok(entry), Err)
    }

    /// What is wrong with this entry.
    fn fault(&self) -> Option<&'static str> {
        if self.producer_id < 0 || self.epoch < 0 {
            return Some("the producer id or epoch is negative");
        }
        if self.last_batch.is_some_and(|b| b.last_sequence < 0 || b.last_offset.0 < 0 || b.offset_delta < 0) {
            return Some("the last batch is neither there nor absent");
        }
        if self.last_batch.is_some_and(|b| i64::from(b.offset_delta) > b.last_offset.0) {
            return Some("the last batch begins before the partition");
        }
        self.current_txn_first_offset.is_some_and(|offset| offset.0 < 0).then_some("the open transaction has no offset")
    }
}

pub(in crate::store) fn encode(entries: &[ProducerEntry]) -> Vec<u8> {
    let count = i32::try_from(entries.len()).expect("producers of a partition are bounded");
    let mut out = Vec::with_capacity(HEADER + entries.len() * ENTRY);
    out.extend_from_slice(&VERSION.to_be_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&count.to_be_bytes());
    for entry in entries {
        assert_eq!(entry.fault(), None, "only what can be read again is written");
        entry.encode(&mut out);
    }
    let crc = crc32c::crc32c(&out[CHECKED..]);
    out[2..CHECKED].copy_from_slice(&crc.to_be_bytes());
    out
}

pub(in crate::store) fn decode(bytes: &[u8]) -> Result<Vec<ProducerEntry>, LayoutError> {
    let Some((mut header, body)) = bytes.split_at_checked(HEADER) else {
        return Err(LayoutError::Entry { at: bytes.len(), reason: "the header ends early" });
    };
    let (version, found, count) = (header.get_i16(), header.get_u32(), header.get_i32());
    if version != VERSION {
        return Err(LayoutError::Version { found: version, known: VERSION });
    }
    let computed = crc32c::crc32c(&bytes[CHECKED..]);
    if found != computed {
        return Err(LayoutError::Checksum { found, computed });
    }
    if usize::try_from(count).ok().and_then(|count| count.checked_mul(ENTRY)) != Some(body.len()) {
        return Err(LayoutError::Entry { at: CHECKED, reason: "the number of entries does not fit the size" });
    }
    let mut entries = Vec::with_capacity(body.len() / ENTRY);
    for (index, chunk) in body.chunks_exact(ENTRY).enumerate() {
        let at = HEADER + index * ENTRY;
        entries.push(ProducerEntry::decode(chunk).map_err(|reason| LayoutError::Entry { at, reason })?);
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::{decodes_only_what_it_encodes, survives_damage};
    use super::*;

    const OPEN: ProducerEntry = ProducerEntry {
        producer_id: 0x0102_0304_0506_0708,
        epoch: 9,
        last_batch: Some(LastBatch { last_sequence: 4, last_offset: Offset(104), offset_delta: 2 }),
        timestamp_ms: 1_700_000_000_000,
        coordinator_epoch: 5,
        current_txn_first_offset: Some(Offset(100)),
    };
    const IDLE: ProducerEntry = ProducerEntry {
        producer_id: 7,
        epoch: 0,
        last_batch: None,
        timestamp_ms: -1,
        coordinator_epoch: -1,
        current_txn_first_offset: None,
    };

    /// What Kafka 4.3 writes for one producer with an open transaction.
    const KNOWN: [u8; 56] = [
        0, 1, // version
        0xe8, 0x9c, 0xbe, 0xef, // checksum
        0, 0, 0, 1, // number of entries
        1, 2, 3, 4, 5, 6, 7, 8, // producer id
        0, 9, // epoch
        0, 0, 0, 4, // last sequence
        0, 0, 0, 0, 0, 0, 0, 104, // last offset
        0, 0, 0, 2, // offset delta
        0, 0, 1, 0x8b, 0xcf, 0xe5, 0x68, 0, // timestamp
        0, 0, 0, 5, // coordinator epoch
        0, 0, 0, 0, 0, 0, 0, 100, // first offset of the open transaction
    ];

    #[test]
    fn known_bytes() {
        assert_eq!(encode(&[OPEN]), KNOWN);
        assert_eq!(decode(&KNOWN), Ok(vec![OPEN]));
        assert_eq!(decode(&encode(&[])), Ok(vec![]));
        let idle = [
            &[0, 1, 0xa4, 0x4d, 0xdb, 0x91, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0][..],
            &[0xff; 12], // last sequence, last offset
            &[0; 4],
            &[0xff; 20],
        ];
        assert_eq!(encode(&[IDLE]), idle.concat());
        assert_eq!(decode(&idle.concat()), Ok(vec![IDLE]));
    }

    /// A file with this body and a checksum that holds.
    fn sealed(body: &[u8]) -> Vec<u8> {
        [&VERSION.to_be_bytes()[..], &crc32c::crc32c(body).to_be_bytes(), body].concat()
    }

    fn check(change: impl Fn(&mut Vec<u8>), expect: LayoutError) {
        let mut body = KNOWN[CHECKED..].to_vec();
        change(&mut body);
        assert_eq!(decode(&sealed(&body)), Err(expect));
    }

    #[test]
    fn faults_are_placed() {
        let entry = |reason| LayoutError::Entry { at: HEADER, reason };
        let size = LayoutError::Entry { at: 6, reason: "the number of entries does not fit the size" };
        check(|body| body[3] = 2, size.clone());
        check(|body| body[0] = 0xff, size.clone());
        check(|body| body.truncate(49), size.clone());
        check(|body| body[4] = 0x80, entry("the producer id or epoch is negative"));
        check(|body| body[12] = 0x80, entry("the producer id or epoch is negative"));
        check(|body| body[14] = 0xff, entry("the last batch is neither there nor absent"));
        check(|body| body[27] = 105, entry("the last batch begins before the partition"));
        check(|body| body[42] = 0xff, entry("the open transaction has no offset"));
        let mut later = KNOWN;
        later[1] = 2;
        assert_eq!(decode(&later), Err(LayoutError::Version { found: 2, known: 1 }));
        assert_eq!(decode(&KNOWN[..9]), Err(LayoutError::Entry { at: 9, reason: "the header ends early" }));
    }

    #[test]
    fn a_flipped_bit_is_seen() {
        let good = encode(&[OPEN, IDLE]);
        survives_damage(&good, decode, |entries| encode(entries));
        for bit in 0..good.len() * 8 {
            let mut bytes = good.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&bytes).is_err(), "bit {bit}");
        }
        for end in 0..good.len() {
            assert!(decode(&good[..end]).is_err(), "the first {end} bytes");
        }
    }

    fn any_entry() -> impl Strategy<Value = ProducerEntry> {
        let batch = (0..=i32::MAX, 0..=i64::MAX, 0..=i32::MAX).prop_map(|(last_sequence, last, delta)| LastBatch {
            last_sequence,
            last_offset: Offset(last),
            offset_delta: i64::from(delta).min(last) as i32,
        });
        let open = prop::option::of((0..=i64::MAX).prop_map(Offset));
        (0..=i64::MAX, 0..=i16::MAX, prop::option::of(batch), any::<i64>(), any::<i32>(), open).prop_map(
            |(producer_id, epoch, last_batch, timestamp_ms, coordinator_epoch, current_txn_first_offset)| {
                ProducerEntry {
                    producer_id,
                    epoch,
                    last_batch,
                    timestamp_ms,
                    coordinator_epoch,
                    current_txn_first_offset,
                }
            },
        )
    }

    proptest! {
        #[test]
        fn round_trip(entries in prop::collection::vec(any_entry(), 0..40)) {
            prop_assert_eq!(decode(&encode(&entries)), Ok(entries));
        }

        #[test]
        fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
            decodes_only_what_it_encodes(&bytes, decode, |entries| encode(entries));
            decodes_only_what_it_encodes(&sealed(&bytes), decode, |entries| encode(entries));
        }

        #[test]
        fn any_entry_behind_a_good_checksum(body: [u8; ENTRY]) {
            let file = sealed(&[&1i32.to_be_bytes()[..], &body].concat());
            decodes_only_what_it_encodes(&file, decode, |entries| encode(entries));
        }
    }
}
