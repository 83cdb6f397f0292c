//! Where the leader epochs of a partition ended: by that a reader finds out whether what it has read is still what is here.

use crate::record::{LeaderEpoch, Offset};

/// The largest epoch that is not above `asked`, and where it ended. `epochs` are those with records, in order, each with
/// the offset of its first; the log goes from `start` to `end`. An epoch older than all of them is answered with itself
/// and where the oldest begins: what it held is gone.
pub(super) fn end_of(
    epochs: &[(LeaderEpoch, Offset)],
    asked: LeaderEpoch,
    start: Offset,
    end: Offset,
) -> (LeaderEpoch, Offset) {
    let above = epochs.partition_point(|(epoch, _)| *epoch <= asked);
    let ended = epochs.get(above).map_or(end, |(_, begins)| (*begins).max(start));
    let epoch = above.checked_sub(1).map_or(asked, |at| epochs[at].0);
    (epoch, ended)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(epochs: &[(i32, i64)], asked: i32, start: i64, expect: (i32, i64)) {
        let list: Vec<_> = epochs.iter().map(|(epoch, at)| (LeaderEpoch(*epoch), Offset(*at))).collect();
        let (epoch, end) = end_of(&list, LeaderEpoch(asked), Offset(start), Offset(33));
        assert_eq!((epoch.0, end.0), expect, "epoch {asked} of {epochs:?}");
    }

    #[test]
    fn an_epoch_ends_where_the_next_begins() {
        let three = [(2, 0), (4, 10), (6, 20)];
        for (asked, expect) in [(1, (1, 0)), (2, (2, 10)), (3, (2, 10)), (4, (4, 20)), (5, (4, 20)), (6, (6, 33))] {
            check(&three, asked, 0, expect);
        }
        check(&[(4, 10), (6, 20)], 2, 12, (2, 12));
        check(&[], 2, 33, (2, 33));
    }

    proptest! {
        /// Against a log that remembers the epoch of every record.
        #[test]
        fn ends_are_those_of_the_records(runs in prop::collection::vec((1..3i32, 0..4usize), 1..12), trim in 0..20usize) {
            let mut epochs: Vec<(LeaderEpoch, Offset)> = Vec::new();
            let mut records: Vec<i32> = Vec::new();
            let mut epoch = 0;
            for (step, count) in runs {
                epoch += step;
                if count > 0 {
                    epochs.push((LeaderEpoch(epoch), Offset(records.len() as i64)));
                }
                records.extend(std::iter::repeat_n(epoch, count));
            }
            let start = trim.min(records.len());
            epochs.drain(..epochs.partition_point(|(_, begins)| begins.0 <= start as i64).saturating_sub(1));
            for asked in 0..=epoch {
                let (found, found_end) =
                    end_of(&epochs, LeaderEpoch(asked), Offset(start as i64), Offset(records.len() as i64));
                // The first record that is newer, or the end.
                let end = records.iter().skip(start).position(|of| *of > asked).map_or(records.len(), |at| at + start);
                prop_assert_eq!(found_end.0, end as i64, "end of {}", asked);
                if let Some(written) = records[start..].iter().copied().filter(|of| *of <= asked).max() {
                    prop_assert_eq!(found.0, written);
                }
            }
        }
    }
}
