//! What is remembered of producers, for how long, and what follows from it.

mod expiry;

use super::*;
use crate::LeaderEpoch;
use crate::record::NewRecord;
use crate::record::build::{Frame, Marker};

/// Nobody has expired.
const NEVER: ExpiredTo = ExpiredTo(i64::MIN);

fn batch(epoch: i16, base_sequence: i32, count: usize, offset: i64) -> Batch {
    let producer = Some(Producer { id: 9, epoch, base_sequence });
    let frame = Frame { now_ms: 0, producer, transactional: false, batch_bytes_max: 1 << 20 };
    let mut batch = Batch::build(&vec![NewRecord::default(); count], &frame).unwrap();
    batch.place(Offset(offset), LeaderEpoch(0));
    batch
}

fn check(seen: &[(i16, i32, usize)], next: (i16, i32, u32)) -> Result<Verdict, String> {
    let mut producers = Producers::default();
    let mut offset = 100;
    for &(epoch, sequence, count) in seen {
        producers.apply(&batch(epoch, sequence, count, offset), 0);
        offset += count as i64;
    }
    let producer = Producer { id: 9, epoch: next.0, base_sequence: next.1 };
    producers.check(producer, next.2, NEVER).map_err(|error| error.to_string())
}

#[test]
fn sequences() {
    assert_eq!(check(&[], (0, 7, 1)), Ok(Verdict::Append));
    assert_eq!(check(&[(0, 0, 3)], (0, 3, 1)), Ok(Verdict::Append));
    assert_eq!(check(&[(0, 0, 3), (0, 3, 1)], (0, 0, 3)), Ok(Verdict::Repeated(Offset(100))));
    assert!(check(&[(0, 0, 3)], (0, 4, 1)).is_err());
    assert!(check(&[(0, 0, 3)], (0, 1, 1)).is_err());
    let six = [(0, 0, 1), (0, 1, 1), (0, 2, 1), (0, 3, 1), (0, 4, 1), (0, 5, 1)];
    assert!(check(&six, (0, 0, 1)).is_err());
    assert_eq!(check(&six, (0, 1, 1)), Ok(Verdict::Repeated(Offset(101))));
}

#[test]
fn epochs() {
    assert!(check(&[(3, 0, 1)], (2, 1, 1)).is_err());
    assert_eq!(check(&[(3, 0, 1)], (4, 0, 1)), Ok(Verdict::Append));
    assert!(check(&[(3, 0, 1)], (4, 1, 1)).is_err());
}

#[test]
fn sequences_wrap_to_zero() {
    assert_eq!(check(&[(0, i32::MAX, 1)], (0, 0, 1)), Ok(Verdict::Append));
    assert_eq!(check(&[(0, i32::MAX - 1, 3)], (0, 1, 1)), Ok(Verdict::Append));
}

#[test]
fn a_marker_closes_the_transaction_and_raises_the_epoch() {
    let mut producers = Producers::default();
    let frame = Frame {
        now_ms: 0,
        producer: Some(Producer { id: 9, epoch: 1, base_sequence: 0 }),
        transactional: true,
        batch_bytes_max: 1 << 20,
    };
    let mut data = Batch::build(&[NewRecord::default()], &frame).unwrap();
    data.place(Offset(5), LeaderEpoch(0));
    producers.apply(&data, 0);
    assert_eq!(producers.open_all(), vec![Open { producer_id: 9, epoch: 1, first: Offset(5) }]);
    producers.apply(&Batch::build_marker(9, 2, Marker { commit: true, coordinator_epoch: 0 }, 0), 0);
    assert_eq!(producers.open_all(), vec![]);
    assert_eq!(producers.epochs().collect::<Vec<_>>(), vec![(9, 2)]);
}
