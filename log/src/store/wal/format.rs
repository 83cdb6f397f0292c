//! The bytes of the write-ahead log, version 1.
//!
//! ```text
//! wal/0000000001.wal = file header, then groups one behind the other, each written and synced before the next begins;
//!                      behind the last group whatever the blocks held before
//!
//! file header, 64 bytes              group header, 48 bytes            entry header, 56 bytes
//!   0  magic "RRWAL001"                0  magic "RRG1"                   0  kind u8, 3 zeros
//!   8  number of the file u64          4  length of the body u32         4  length of the payload u32
//!  16  generation u64                  8  sequence u64                   8  topic id
//!  24  sequence of its first group    16  end of the group before u64   24  partition i32
//!  32  zeros                          24  generation u64                28  leader epoch i32
//!  60  CRC-32C of 0..60               32  entries u32                   32  base offset i64
//!                                     36  CRC-32C of the body u32       40  segment i64
//!                                     40  zeros                         48  position u32
//!                                     44  CRC-32C of 0..44              52  CRC-32C of 0..52
//!                                                                       56  payload
//! ```
//!
//! Files are used again, so the generation is random for each use: bytes of an earlier one are not taken for groups.
//! The end of the group before is its position behind the last byte; for the first group of a file that of the last group
//! of the file before. A file is begun by its header and its first group in one write. All numbers are little endian,
//! except inside of payloads that are Kafka's.
//!
//! | kind | payload |
//! |---|---|
//! | 1 batch | the batch as Kafka lays it out; it belongs to `position` of the file of `segment` (its base offset) |
//! | 2 log start | none; base offset is the new start of the partition |
//! | 3 deleted | none; the partition is gone |
//!
//! A header whose numbers cannot be is as good as one whose checksum is wrong: sequences stay below 2^63, numbers of files
//! below 2^32 - 2^20, so that those that follow can be counted; partitions, epochs and offsets are those a log can have.

use crate::env::mutant::Mutant;
use crate::record::{LeaderEpoch, Offset, TopicId, TopicPartition};

pub(in crate::store) const FILE_HEADER: usize = 64;
pub(in crate::store) const GROUP_HEADER: usize = 48;
pub(in crate::store) const ENTRY_HEADER: usize = 56;
/// The highest number that a file may have, see above. At a gibibyte a second it is reached after eight years.
pub(in crate::store) const FILE_NUMBER_MAX: u32 = u32::MAX - (1 << 20);
/// The same for groups.
const SEQUENCE_MAX: u64 = u64::MAX >> 1;
/// No group is larger: one batch may be as large as Kafka's largest request, and a group ends with the batch that fills it.
pub(in crate::store) const GROUP_BODY_MAX: usize = 256 * 1024 * 1024;

const FILE_MAGIC: [u8; 8] = *b"RRWAL001";
const GROUP_MAGIC: [u8; 4] = *b"RRG1";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct FileHeader {
    pub number: u32,
    pub generation: u64,
    pub first_sequence: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct GroupHeader {
    pub body_len: u32,
    pub sequence: u64,
    pub previous_end: u64,
    pub generation: u64,
    pub entries: u32,
    pub body_crc: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct EntryHeader {
    pub kind: Kind,
    pub len: u32,
    pub partition: TopicPartition,
    pub epoch: LeaderEpoch,
    pub base_offset: Offset,
    /// Base offset of the segment that the payload belongs to, and where in its file; zeros where there is none.
    pub segment: Offset,
    pub position: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum Kind {
    Batch = 1,
    LogStart = 2,
    Deleted = 3,
}

impl FileHeader {
    pub fn encode(&self) -> [u8; FILE_HEADER] {
        let mut out = [0; FILE_HEADER];
        out[..8].copy_from_slice(&FILE_MAGIC);
        out[8..16].copy_from_slice(&u64::from(self.number).to_le_bytes());
        out[16..24].copy_from_slice(&self.generation.to_le_bytes());
        out[24..32].copy_from_slice(&self.first_sequence.to_le_bytes());
        let crc = crc32c::crc32c(&out[..60]);
        out[60..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// `None` when these bytes are no intact header.
    pub fn decode(bytes: &[u8; FILE_HEADER]) -> Option<FileHeader> {
        if bytes[..8] != FILE_MAGIC || u32_at(bytes, 60) != crc32c::crc32c(&bytes[..60]) {
            return None;
        }
        let number = u32::try_from(u64_at(bytes, 8)).ok().filter(|number| *number <= FILE_NUMBER_MAX)?;
        let first_sequence = Some(u64_at(bytes, 24)).filter(|sequence| *sequence <= SEQUENCE_MAX)?;
        Some(FileHeader { number, generation: u64_at(bytes, 16), first_sequence })
    }
}

impl GroupHeader {
    pub fn encode(&self) -> [u8; GROUP_HEADER] {
        let mut out = [0; GROUP_HEADER];
        out[..4].copy_from_slice(&GROUP_MAGIC);
        out[4..8].copy_from_slice(&self.body_len.to_le_bytes());
        out[8..16].copy_from_slice(&self.sequence.to_le_bytes());
        out[16..24].copy_from_slice(&self.previous_end.to_le_bytes());
        out[24..32].copy_from_slice(&self.generation.to_le_bytes());
        out[32..36].copy_from_slice(&self.entries.to_le_bytes());
        out[36..40].copy_from_slice(&self.body_crc.to_le_bytes());
        let crc = crc32c::crc32c(&out[..44]);
        out[44..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// `None` when these bytes are no intact header.
    pub fn decode(bytes: &[u8]) -> Option<GroupHeader> {
        if bytes.len() < GROUP_HEADER || bytes[..4] != GROUP_MAGIC || u32_at(bytes, 44) != crc32c::crc32c(&bytes[..44])
        {
            return None;
        }
        let (body_len, sequence) = (u32_at(bytes, 4), u64_at(bytes, 8));
        (body_len as usize <= GROUP_BODY_MAX && sequence <= SEQUENCE_MAX).then_some(GroupHeader {
            body_len,
            sequence,
            previous_end: u64_at(bytes, 16),
            generation: u64_at(bytes, 24),
            entries: u32_at(bytes, 32),
            body_crc: u32_at(bytes, 36),
        })
    }

    /// The first position in `bytes` where an intact header with a sequence of at least `sequence` stands; of this
    /// generation, where one is given (bytes of clients cannot know it).
    pub fn find_successor(bytes: &[u8], generation: Option<u64>, sequence: u64) -> Option<usize> {
        if Mutant::DamageTakenForTheEnd.is_on() {
            return None;
        }
        let starts = memchr::memmem::find_iter(bytes, &GROUP_MAGIC);
        let mut headers = starts.filter_map(|at| Some((at, GroupHeader::decode(&bytes[at..])?)));
        let own = |header: &GroupHeader| generation.is_none_or(|generation| header.generation == generation);
        headers.find(|(_, header)| own(header) && header.sequence >= sequence).map(|(at, _)| at)
    }
}

impl EntryHeader {
    pub fn encode(&self) -> [u8; ENTRY_HEADER] {
        let mut out = [0; ENTRY_HEADER];
        out[0] = self.kind as u8;
        out[4..8].copy_from_slice(&self.len.to_le_bytes());
        out[8..24].copy_from_slice(&self.partition.topic.0);
        out[24..28].copy_from_slice(&self.partition.partition.to_le_bytes());
        out[28..32].copy_from_slice(&self.epoch.0.to_le_bytes());
        out[32..40].copy_from_slice(&self.base_offset.0.to_le_bytes());
        out[40..48].copy_from_slice(&self.segment.0.to_le_bytes());
        out[48..52].copy_from_slice(&self.position.to_le_bytes());
        let crc = crc32c::crc32c(&out[..52]);
        out[52..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// `None` when these bytes are no intact header, or of a kind or with numbers that this version does not know.
    pub fn decode(bytes: &[u8]) -> Option<EntryHeader> {
        if bytes.len() < ENTRY_HEADER || u32_at(bytes, 52) != crc32c::crc32c(&bytes[..52]) {
            return None;
        }
        let kind = [Kind::Batch, Kind::LogStart, Kind::Deleted].into_iter().find(|kind| *kind as u8 == bytes[0])?;
        let mut topic = [0; 16];
        topic.copy_from_slice(&bytes[8..24]);
        let header = EntryHeader {
            kind,
            len: u32_at(bytes, 4),
            partition: TopicPartition { topic: TopicId(topic), partition: u32_at(bytes, 24) as i32 },
            epoch: LeaderEpoch(u32_at(bytes, 28) as i32),
            base_offset: Offset(u64_at(bytes, 32) as i64),
            segment: Offset(u64_at(bytes, 40) as i64),
            position: u32_at(bytes, 48),
        };
        header.is_possible().then_some(header)
    }

    fn is_possible(&self) -> bool {
        self.partition.partition >= 0
            && self.epoch.0 >= 0
            && self.base_offset.is_stored()
            && self.segment.is_stored()
            && self.segment <= self.base_offset
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_round_trip_and_a_flipped_bit_is_seen() {
        let file = FileHeader { number: 7, generation: 99, first_sequence: 3 };
        assert_eq!(FileHeader::decode(&file.encode()), Some(file));
        let group =
            GroupHeader { body_len: 5, sequence: 4, previous_end: 64, generation: 99, entries: 1, body_crc: 0xdead };
        assert_eq!(GroupHeader::decode(&group.encode()), Some(group));
        for bit in 0..GROUP_HEADER * 8 {
            let mut bytes = group.encode();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(GroupHeader::decode(&bytes), None);
        }
        let entry = EntryHeader {
            kind: Kind::Batch,
            len: 61,
            partition: TopicPartition { topic: TopicId([7; 16]), partition: 3 },
            epoch: LeaderEpoch(2),
            base_offset: Offset(1 << 41),
            segment: Offset(1 << 40),
            position: u32::MAX,
        };
        assert_eq!(EntryHeader::decode(&entry.encode()), Some(entry));
        let partition = TopicPartition { partition: -1, ..entry.partition };
        for forged in [
            EntryHeader { partition, ..entry },
            EntryHeader { epoch: LeaderEpoch(-1), ..entry },
            EntryHeader { base_offset: Offset(-1), segment: Offset(-1), ..entry },
            EntryHeader { base_offset: Offset(i64::MAX), ..entry },
            EntryHeader { segment: Offset(-1), ..entry },
            EntryHeader { segment: Offset((1 << 41) + 1), ..entry },
        ] {
            assert_eq!(EntryHeader::decode(&forged.encode()), None, "{forged:?}");
        }
        for forged in [FileHeader { number: u32::MAX, ..file }, FileHeader { first_sequence: u64::MAX, ..file }] {
            assert_eq!(FileHeader::decode(&forged.encode()), None, "{forged:?}");
        }
        let forged = GroupHeader { sequence: u64::MAX, ..group };
        assert_eq!(GroupHeader::decode(&forged.encode()), None);
    }

    #[test]
    fn a_successor_is_found_behind_damage_and_only_of_the_same_life() {
        let header =
            GroupHeader { body_len: 5, sequence: 4, previous_end: 64, generation: 99, entries: 1, body_crc: 0xdead };
        let mut bytes = vec![0x52; 100];
        bytes.extend(header.encode());
        assert_eq!(GroupHeader::find_successor(&bytes, Some(99), 4), Some(100));
        assert_eq!(GroupHeader::find_successor(&bytes, None, 4), Some(100));
        assert_eq!(GroupHeader::find_successor(&bytes, Some(99), 5), None);
        assert_eq!(GroupHeader::find_successor(&bytes, Some(98), 4), None);
    }
}
