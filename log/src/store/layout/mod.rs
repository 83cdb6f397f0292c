//! Kafka's files of a partition as names and bytes; nothing here touches a disk.
//!
//! ```text
//! topics/<topic id>/<partition>/
//!   partition.metadata              whose files these are                           see partition_metadata
//!   leader-epoch-checkpoint         where each leader epoch began                   see epochs
//!   00000000000000000000.log        record batches, one behind the other            see crate::record::Batch
//!   00000000000000000000.index      offset to byte of the .log, sparse              see offset_index
//!   00000000000000000000.timeindex  timestamp to offset, sparse                     see time_index
//!   00000000000000000000.txnindex   aborted transactions whose marker lies here     see txn_index
//!   00000000000000000000.snapshot   idempotent producers just before this offset    see producer_snapshot
//!   compacted-7/…                   these files of a segment that compaction has written anew; each time under the next number
//! ```
//!
//! The digits are the offset at which the segment begins. Kafka keeps these files for itself and documents none of them: the
//! formats are those that Kafka 4.3 writes, and its dump tool is the judge (`tests/compat/kafka_dump.rs`). Only one form of
//! each file is read, the one that is written: `decode` accepts bytes only if `encode` would give the same ones.

mod entries;
pub(in crate::store) mod epochs;
pub(in crate::store) mod offset_index;
pub(in crate::store) mod partition_metadata;
pub(in crate::store) mod producer_snapshot;
pub(in crate::store) mod time_index;
pub(in crate::store) mod txn_index;

use crate::record::{Offset, TopicId};

/// Digits of the base offset in the name of a file, leading zeros included.
const NAME_DIGITS: usize = 20;
/// The highest generation that a segment may have: so that those that follow can be counted.
pub(in crate::store) const GENERATION_MAX: u32 = u32::MAX >> 1;
/// What the name of a compacted segment's directory begins with.
const COMPACTED: &str = "compacted-";

/// The files of a segment, told apart by the ends of their names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::store) enum Suffix {
    Log,
    Index,
    TimeIndex,
    TxnIndex,
    Snapshot,
}

/// What is wrong with the bytes of one of these files, and where. Its name is added by the one who read it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(in crate::store) enum LayoutError {
    #[error("{len} bytes are no whole number of entries of {entry} bytes")]
    Length { len: usize, entry: usize },
    #[error("version {found}, this program knows {known}")]
    Version { found: i16, known: i16 },
    #[error("checksum {found:#010x}, the bytes give {computed:#010x}")]
    Checksum { found: u32, computed: u32 },
    /// From which byte on.
    #[error("byte {at}: {reason}")]
    Entry { at: usize, reason: &'static str },
    /// Lines count from 1.
    #[error("line {line}: {reason}")]
    Line { line: usize, reason: &'static str },
}

impl Suffix {
    pub(in crate::store) const ALL: [Suffix; 5] =
        [Suffix::Log, Suffix::Index, Suffix::TimeIndex, Suffix::TxnIndex, Suffix::Snapshot];

    fn text(self) -> &'static str {
        match self {
            Suffix::Log => ".log",
            Suffix::Index => ".index",
            Suffix::TimeIndex => ".timeindex",
            Suffix::TxnIndex => ".txnindex",
            Suffix::Snapshot => ".snapshot",
        }
    }
}

/// The name of a file of the segment that begins at `base`.
pub(in crate::store) fn segment_file(base: Offset, suffix: Suffix) -> String {
    assert!(base.0 >= 0, "a segment begins at an offset");
    format!("{:0NAME_DIGITS$}{}", base.0, suffix.text())
}

/// The other way; `None` for a name that [`segment_file`] does not give.
pub(in crate::store) fn parse_segment_file(name: &str) -> Option<(Offset, Suffix)> {
    let (digits, end) = name.split_at_checked(NAME_DIGITS)?;
    let suffix = Suffix::ALL.into_iter().find(|suffix| suffix.text() == end)?;
    let only_digits = digits.bytes().all(|byte| byte.is_ascii_digit());
    // Beyond the largest offset this fails too.
    let base = digits.parse().ok().filter(|_| only_digits)?;
    Some((Offset(base), suffix))
}

/// The directory of a topic: its id as 32 lowercase hexadecimal digits, for Kafka's base64 form tells upper case from
/// lower, which not every file system does, and may begin with a dash, which tools take for an option.
pub(in crate::store) fn topic_dir(topic: TopicId) -> String {
    format!("{:032x}", u128::from_be_bytes(topic.0))
}

/// The other way; `None` for a name that [`topic_dir`] does not give.
pub(in crate::store) fn parse_topic_dir(name: &str) -> Option<TopicId> {
    let digits = name.len() == 32 && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let id = u128::from_str_radix(name, 16).ok().filter(|_| digits)?;
    Some(TopicId(id.to_be_bytes()))
}

/// The directory of a partition below that of its topic: its number.
pub(in crate::store) fn partition_dir(partition: i32) -> String {
    assert!(partition >= 0, "partitions count from 0");
    partition.to_string()
}

/// The other way; `None` for a name that [`partition_dir`] does not give.
pub(in crate::store) fn parse_partition_dir(name: &str) -> Option<i32> {
    parse_number(name).and_then(|number| i32::try_from(number).ok())
}

/// The directory of a segment that compaction has written, below that of its partition.
pub(in crate::store) fn compacted_dir(generation: u32) -> String {
    assert!(generation > 0, "what was not written anew has no directory of its own");
    format!("{COMPACTED}{generation}")
}

/// The other way; `None` for a name that [`compacted_dir`] does not give.
pub(in crate::store) fn parse_compacted_dir(name: &str) -> Option<u32> {
    let number = parse_number(name.strip_prefix(COMPACTED)?)?;
    u32::try_from(number).ok().filter(|generation| (1..=GENERATION_MAX).contains(generation))
}

/// A number as `to_string` writes it: no sign, no leading zeros.
fn parse_number(text: &str) -> Option<i64> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text.len() == 1 || !text.starts_with('0'));
    text.parse().ok().filter(|_| plain)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What every decoder owes whatever the bytes: no panic, and nothing taken that would not be written the same way.
    pub(super) fn decodes_only_what_it_encodes<T>(
        bytes: &[u8],
        decode: impl Fn(&[u8]) -> Result<T, LayoutError>,
        encode: impl Fn(&T) -> Vec<u8>,
    ) {
        if let Ok(decoded) = decode(bytes) {
            assert_eq!(encode(&decoded), bytes, "read as something that is written otherwise");
        }
    }

    /// The same for everything near a good file: each prefix, each flipped bit, a byte too much.
    pub(super) fn survives_damage<T>(
        good: &[u8],
        decode: impl Fn(&[u8]) -> Result<T, LayoutError>,
        encode: impl Fn(&T) -> Vec<u8>,
    ) {
        assert!(decode(good).is_ok(), "the undamaged file");
        for end in 0..good.len() {
            decodes_only_what_it_encodes(&good[..end], &decode, &encode);
        }
        for bit in 0..good.len() * 8 {
            let mut bytes = good.to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            decodes_only_what_it_encodes(&bytes, &decode, &encode);
        }
        assert!(decode(&[good, &[0]].concat()).is_err(), "a byte too much");
    }

    #[test]
    fn names_of_files() {
        assert_eq!(segment_file(Offset(0), Suffix::Log), "00000000000000000000.log");
        assert_eq!(segment_file(Offset(1_234), Suffix::TimeIndex), "00000000000000001234.timeindex");
        assert_eq!(segment_file(Offset(i64::MAX), Suffix::Snapshot), "09223372036854775807.snapshot");
        for name in [
            "",
            ".log",
            "0.log",
            "0000000000000000000.log",
            "000000000000000000000.log",
            "09223372036854775808.log",
            "+0000000000000000000.log",
            "-0000000000000000001.log",
            "00000000000000000000",
            "00000000000000000000.LOG",
            "00000000000000000000.log.deleted",
            "0000000000000000000é.log",
            "partition.metadata",
        ] {
            assert_eq!(parse_segment_file(name), None, "{name}");
        }
    }

    #[test]
    fn names_of_directories() {
        let topic = TopicId([0xab, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 0xff]);
        assert_eq!(topic_dir(topic), "ab0102030405060708090a0b0c0d0eff");
        assert_eq!(topic_dir(TopicId([0; 16])), "0".repeat(32));
        for name in ["", "ab", "AB0102030405060708090a0b0c0d0eff", "+b0102030405060708090a0b0c0d0eff"] {
            assert_eq!(parse_topic_dir(name), None, "{name}");
        }
        assert_eq!(parse_topic_dir(&"0".repeat(33)), None);
        assert_eq!(compacted_dir(7), "compacted-7");
        assert_eq!(parse_compacted_dir("compacted-2147483647"), Some(GENERATION_MAX));
        for name in ["compacted-", "compacted-0", "compacted-07", "compacted-+7", "compacted-2147483648", "7"] {
            assert_eq!(parse_compacted_dir(name), None, "{name}");
        }
        assert_eq!(partition_dir(17), "17");
        assert_eq!(parse_partition_dir("0"), Some(0));
        for name in ["", "-1", "+1", "01", "2147483648", "99999999999999999999", "1a", "wal"] {
            assert_eq!(parse_partition_dir(name), None, "{name}");
        }
    }

    proptest! {
        #[test]
        fn names_round_trip(base in 0..=i64::MAX, topic: [u8; 16], partition in 0..=i32::MAX) {
            for suffix in Suffix::ALL {
                prop_assert_eq!(parse_segment_file(&segment_file(Offset(base), suffix)), Some((Offset(base), suffix)));
            }
            prop_assert_eq!(parse_topic_dir(&topic_dir(TopicId(topic))), Some(TopicId(topic)));
            prop_assert_eq!(parse_partition_dir(&partition_dir(partition)), Some(partition));
        }

        #[test]
        fn any_name_never_panics(name: String) {
            let _ = (parse_segment_file(&name), parse_topic_dir(&name), parse_partition_dir(&name));
        }
    }
}
