//! The `partition.metadata` file of a partition: the id of the topic that the files beside it belong to.

use super::LayoutError;
use crate::record::TopicId;

pub(in crate::store) const FILE: &str = "partition.metadata";

/// Digits of base64 with the two that are safe in URLs (RFC 4648, section 5).
const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
/// Digits of a topic id: 128 bits in sixes, and no padding.
const ID_DIGITS: usize = 22;
/// Bits that are zero behind the id.
const ID_UNUSED: usize = ID_DIGITS * 6 - 128;

/// The whole file, no line feed at its end.
///
/// ```text
///  version: 0
///  topic_id: 4Xa3hRNVRp-gbnUfqIHz3Q
/// ```
///
/// The format is that of Kafka's `PartitionMetadataFile`; the id is its `Uuid` as text.
pub(in crate::store) fn encode(topic: TopicId) -> String {
    format!("version: 0\ntopic_id: {}", encode_id(topic))
}

pub(in crate::store) fn decode(bytes: &[u8]) -> Result<TopicId, LayoutError> {
    let fail = |line, reason| LayoutError::Line { line, reason };
    let id = bytes.strip_prefix(b"version: 0\n").ok_or(fail(1, "not version 0"))?;
    let id = id.strip_prefix(b"topic_id: ").ok_or(fail(2, "no topic id"))?;
    decode_id(id).ok_or(fail(2, "not a topic id"))
}

fn encode_id(topic: TopicId) -> String {
    let id = u128::from_be_bytes(topic.0);
    let digit = |index: usize| match 128usize.checked_sub((index + 1) * 6) {
        Some(shift) => id >> shift & 63,
        None => id << ID_UNUSED & 63,
    };
    (0..ID_DIGITS).map(|index| char::from(DIGITS[digit(index) as usize])).collect()
}

fn decode_id(text: &[u8]) -> Option<TopicId> {
    if text.len() != ID_DIGITS {
        return None;
    }
    let mut id = 0u128;
    for (index, byte) in text.iter().enumerate() {
        let digit = DIGITS.iter().position(|digit| digit == byte)?;
        if index + 1 < ID_DIGITS {
            id = id << 6 | digit as u128;
        } else {
            let unused = digit & ((1 << ID_UNUSED) - 1);
            id = (unused == 0).then_some(id << (6 - ID_UNUSED) | (digit >> ID_UNUSED) as u128)?;
        }
    }
    Some(TopicId(id.to_be_bytes()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::{decodes_only_what_it_encodes, survives_damage};
    use super::*;

    fn written(topic: &TopicId) -> Vec<u8> {
        encode(*topic).into_bytes()
    }

    #[test]
    fn known_bytes() {
        let known = "version: 0\ntopic_id: AQIDBAUGBwgJCgsMDQ4PEA";
        let topic = TopicId([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]);
        assert_eq!(encode(topic), known);
        assert_eq!(decode(known.as_bytes()), Ok(topic));
        assert_eq!(encode_id(TopicId([0xff; 16])), "_____________________w");
        assert_eq!(encode_id(TopicId([0xfb; 16])), "-_v7-_v7-_v7-_v7-_v7-w");
        assert_eq!(encode_id(TopicId([0; 16])), "AAAAAAAAAAAAAAAAAAAAAA");
    }

    fn check(text: &str, line: usize, reason: &'static str) {
        assert_eq!(decode(text.as_bytes()), Err(LayoutError::Line { line, reason }), "{text:?}");
    }

    #[test]
    fn faults_are_placed() {
        check("", 1, "not version 0");
        check("version: 1\ntopic_id: AQIDBAUGBwgJCgsMDQ4PEA", 1, "not version 0");
        check("version: 0\n", 2, "no topic id");
        check("version: 0\ntopic_id: ", 2, "not a topic id");
        check("version: 0\ntopic_id: AQIDBAUGBwgJCgsMDQ4PEA\n", 2, "not a topic id");
        check("version: 0\ntopic_id: AQIDBAUGBwgJCgsMDQ4PEA==", 2, "not a topic id");
        check("version: 0\ntopic_id: AQIDBAUGBwgJCgsMDQ4PEB", 2, "not a topic id");
        check("version: 0\ntopic_id: AQIDBAUG+wgJCgsMDQ4PEA", 2, "not a topic id");
    }

    #[test]
    fn damage() {
        survives_damage(b"version: 0\ntopic_id: AQIDBAUGBwgJCgsMDQ4PEA", decode, written);
    }

    proptest! {
        #[test]
        fn round_trip(id: [u8; 16]) {
            prop_assert_eq!(decode(&written(&TopicId(id))), Ok(TopicId(id)));
        }

        #[test]
        fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..50), id in "[A-Za-z0-9_-]{22}") {
            decodes_only_what_it_encodes(&bytes, decode, written);
            decodes_only_what_it_encodes(format!("version: 0\ntopic_id: {id}").as_bytes(), decode, written);
        }
    }
}
