//! The `leader-epoch-checkpoint` file of a partition: the offset at which each of its leader epochs began.

use super::{LayoutError, parse_number};
use crate::record::{LeaderEpoch, Offset};

pub(in crate::store) const FILE: &str = "leader-epoch-checkpoint";

const VERSION: &str = "0";
/// The shortest line of an entry.
const LINE_MIN: usize = "0 0\n".len();

/// One entry.
///
/// ```text
///  0            version
///  2            number of entries
///  0 0          leader epoch, offset of the first record written in it
///  3 1200       both strictly rising
/// ```
///
/// Decimal numbers, each line ended by a line feed. Epochs that wrote nothing are left out. The format is that of
/// Kafka's `LeaderEpochCheckpointFile`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct EpochStart {
    pub epoch: LeaderEpoch,
    pub start: Offset,
}

impl EpochStart {
    fn decode(line: &str) -> Option<EpochStart> {
        let (epoch, start) = line.split_once(' ')?;
        let epoch = i32::try_from(parse_number(epoch)?).ok()?;
        Some(EpochStart { epoch: LeaderEpoch(epoch), start: Offset(parse_number(start)?) })
    }

    /// What is wrong with this entry behind that one.
    fn fault(&self, previous: Option<&EpochStart>) -> Option<&'static str> {
        if self.epoch.0 < 0 || self.start.0 < 0 {
            return Some("the epoch or offset is negative");
        }
        let previous = previous?;
        if self.epoch <= previous.epoch {
            return Some("the epoch is not above the one before");
        }
        (self.start <= previous.start).then_some("the offset is not above the one before")
    }
}

pub(in crate::store) fn encode(entries: &[EpochStart]) -> String {
    let mut out = format!("{VERSION}\n{}\n", entries.len());
    for (index, entry) in entries.iter().enumerate() {
        let previous = index.checked_sub(1).map(|before| &entries[before]);
        assert_eq!(entry.fault(previous), None, "epochs and their offsets rise");
        out += &format!("{} {}\n", entry.epoch.0, entry.start.0);
    }
    out
}

/// Takes no more memory than four times `bytes`, for a line of 4 bytes makes an entry of 16.
pub(in crate::store) fn decode(bytes: &[u8]) -> Result<Vec<EpochStart>, LayoutError> {
    let fail = |line, reason| LayoutError::Line { line, reason };
    let text = str::from_utf8(bytes).map_err(|_| fail(1, "not text"))?;
    let (version, rest) = text.split_once('\n').ok_or(fail(1, "no version"))?;
    if version != VERSION {
        return Err(fail(1, "not version 0"));
    }
    let (count, mut rest) = rest.split_once('\n').ok_or(fail(2, "no number of entries"))?;
    let count = parse_number(count).and_then(|count| usize::try_from(count).ok());
    let count = count.filter(|count| *count <= rest.len() / LINE_MIN).ok_or(fail(2, "not the number of entries"))?;
    let mut entries = Vec::with_capacity(count);
    for line in 3..3 + count {
        let (entry, behind) = rest.split_once('\n').ok_or(fail(line, "fewer entries than were announced"))?;
        let entry = EpochStart::decode(entry).ok_or(fail(line, "not an epoch and an offset"))?;
        if let Some(reason) = entry.fault(entries.last()) {
            return Err(fail(line, reason));
        }
        entries.push(entry);
        rest = behind;
    }
    if rest.is_empty() { Ok(entries) } else { Err(fail(3 + count, "more than was announced")) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::{decodes_only_what_it_encodes, survives_damage};
    use super::*;

    fn epoch((epoch, start): (i32, i64)) -> EpochStart {
        EpochStart { epoch: LeaderEpoch(epoch), start: Offset(start) }
    }

    fn written(entries: &[EpochStart]) -> Vec<u8> {
        encode(entries).into_bytes()
    }

    #[test]
    fn known_bytes() {
        let entries = [(0, 0), (3, 1_200), (i32::MAX, i64::MAX)].map(epoch);
        let known = "0\n3\n0 0\n3 1200\n2147483647 9223372036854775807\n";
        assert_eq!(encode(&entries), known);
        assert_eq!(decode(known.as_bytes()), Ok(entries.to_vec()));
        assert_eq!(decode(b"0\n0\n"), Ok(vec![]));
    }

    fn check(text: &str, line: usize, reason: &'static str) {
        assert_eq!(decode(text.as_bytes()), Err(LayoutError::Line { line, reason }), "{text:?}");
    }

    #[test]
    fn faults_are_placed() {
        check("", 1, "no version");
        check("1\n0\n", 1, "not version 0");
        check("0\n", 2, "no number of entries");
        check("0\n\n", 2, "not the number of entries");
        check("0\n1\n", 2, "not the number of entries");
        check("0\n9223372036854775807\n0 0\n", 2, "not the number of entries");
        check("0\n2\n100 2000\n", 4, "fewer entries than were announced");
        check("0\n1\n0 0\n1 1\n", 4, "more than was announced");
        check("0\n1\n0 0\n\n", 4, "more than was announced");
        check("0\n1\n0  0\n", 3, "not an epoch and an offset");
        check("0\n1\n-1 0\n", 3, "not an epoch and an offset");
        check("0\n1\n0 +1\n", 3, "not an epoch and an offset");
        check("0\n1\n2147483648 0\n", 3, "not an epoch and an offset");
        check("0\n1\n0 9223372036854775808\n", 3, "not an epoch and an offset");
        check("0\n2\n0 0\n0 1\n", 4, "the epoch is not above the one before");
        check("0\n2\n0 1\n1 1\n", 4, "the offset is not above the one before");
        assert_eq!(decode(b"0\n\xff\n"), Err(LayoutError::Line { line: 1, reason: "not text" }));
    }

    #[test]
    fn damage() {
        survives_damage(b"0\n3\n0 0\n3 1200\n10 1201\n", decode, |entries| written(entries));
    }

    proptest! {
        #[test]
        fn round_trip(steps in prop::collection::vec((1i32..1_000, 1i64..1_000_000_000), 0..60)) {
            let sum = |last: &mut (i32, i64), step: (i32, i64)| {
                *last = (last.0 + step.0, last.1 + step.1);
                Some(epoch(*last))
            };
            let entries: Vec<EpochStart> = steps.into_iter().scan((-1, -1), sum).collect();
            prop_assert_eq!(decode(encode(&entries).as_bytes()), Ok(entries));
        }

        #[test]
        fn any_bytes(
            bytes in prop::collection::vec(any::<u8>(), 0..80),
            text in "0\n[0-9]\n([0-9]{1,3} [0-9]{1,3}\n){0,5}",
        ) {
            decodes_only_what_it_encodes(&bytes, decode, |entries| written(entries));
            decodes_only_what_it_encodes(text.as_bytes(), decode, |entries| written(entries));
        }
    }
}
