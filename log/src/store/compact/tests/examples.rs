//! One example a rule. A batch is written as its producer and its records, `t7 a=1 b=-`: `t` transactional, `i` idempotent;
//! `-` is a tombstone, `=x` has no key; `commit7` and `abort7` are markers. What is left is written with its offsets:
//! `0..2 t7 a@0=1 b@1=- until 110`.

use std::sync::Arc;

use bytes::Bytes;

use super::readers::recover;
use crate::record::batch::Producer;
use crate::record::build::{Frame, Marker};
use crate::record::{Batch, BatchError, LeaderEpoch, NewRecord, Offset};
use crate::store::compact::Unreadable;
use crate::store::compact::clean::{Cleaner, Outcome, Retain};
use crate::store::compact::map::{OffsetMap, SLOT_BYTES};
use crate::store::compact::mapping::Mapping;
use crate::store::compact::producers::LastBatches;
use crate::store::partition::Aborted;

const RETENTION_MS: i64 = 10;

fn record(text: &str) -> NewRecord {
    let (key, value) = text.split_once('=').unwrap();
    let bytes = |text: &str| Bytes::copy_from_slice(text.as_bytes());
    NewRecord {
        key: (!key.is_empty()).then(|| bytes(key)),
        value: (value != "-").then(|| bytes(value)),
        timestamp_ms: Some(1),
        ..NewRecord::default()
    }
}

fn batch(text: &str, sequence: &mut i32) -> Batch {
    let words: Vec<_> = text.split(' ').collect();
    for (name, commit) in [("commit", true), ("abort", false)] {
        if let Some((id, epoch)) = words[0].strip_prefix(name).map(|id| id.split_once('.').unwrap_or((id, "0"))) {
            let marker = Marker { commit, coordinator_epoch: 0 };
            return Batch::build_marker(id.parse().unwrap(), epoch.parse().unwrap(), marker, 1);
        }
    }
    let id = words[0].get(1..).and_then(|id| id.parse().ok());
    let records: Vec<_> = words.iter().skip(id.is_some().into()).copied().map(record).collect();
    let producer = id.map(|id| Producer { id, epoch: 0, base_sequence: *sequence });
    *sequence += records.len() as i32;
    let transactional = words[0].starts_with('t') && id.is_some();
    Batch::build(&records, &Frame { now_ms: 1, producer, transactional, batch_bytes_max: 1 << 20 }).unwrap()
}

fn show(batch: &Batch) -> String {
    let mut words = vec![format!("{}..{}", batch.base_offset().0, batch.next_offset().0)];
    let id = batch.producer().map_or(0, |producer| producer.id);
    match (batch.marker().unwrap(), batch.producer()) {
        (Some(marker), _) => words.push(format!("{}{id}", if marker.commit { "commit" } else { "abort" })),
        (None, Some(_)) => words.push(format!("{}{id}", if batch.is_transactional() { "t" } else { "i" })),
        (None, None) => {}
    }
    for record in batch.records().unwrap().map(Result::unwrap).filter(|_| !batch.is_control()) {
        let text = |bytes: Option<Bytes>, none: &str| {
            bytes.map_or(none.to_owned(), |bytes| String::from_utf8_lossy(&bytes).into_owned())
        };
        words.push(format!("{}@{}={}", text(record.key, ""), record.offset.0, text(record.value, "-")));
    }
    words.extend(batch.delete_horizon_ms().map(|horizon_ms| format!("until {horizon_ms}")));
    words.join(" ")
}

/// A pass: keys that fit, cleanable end, now.
type Pass = (usize, i64, i64);

struct Log {
    batches: Vec<Batch>,
    aborted: Vec<Aborted>,
    first_dirty: Offset,
}

impl Log {
    fn new(texts: &[&str]) -> Log {
        let (mut at, mut sequence) = (0, 0);
        let place = |text: &&str| {
            let mut batch = batch(text, &mut sequence);
            batch.place(Offset(at), LeaderEpoch(0));
            at = batch.next_offset().0;
            batch
        };
        let batches: Vec<_> = texts.iter().map(place).collect();
        let (_, aborted) = recover(&batches);
        Log { batches, aborted, first_dirty: Offset(0) }
    }

    fn pass(&mut self, (keys, end, now_ms): Pass) -> Result<Outcome, Unreadable> {
        let map = OffsetMap::new((keys * 10).div_ceil(9).max(2) * SLOT_BYTES, 5);
        assert_eq!(map.capacity(), keys);
        let mut mapping = Mapping::new(map, self.first_dirty, Offset(end), &self.aborted);
        let mut last_batches = LastBatches::default();
        for batch in &self.batches {
            last_batches.note(batch);
            let _ = mapping.add(batch)?;
        }
        let mapped = Arc::new(mapping.finish());
        let mut cleaner = Cleaner::new(
            Retain {
                mapped: Arc::clone(&mapped),
                last_batches,
                high_watermark: self.batches.last().unwrap().next_offset(),
                delete_retention_ms: RETENTION_MS,
                now_ms,
            },
            &self.aborted,
        );
        let cleaned: Result<Vec<_>, _> = self.batches.iter().map(|batch| cleaner.clean(batch.clone())).collect();
        let outcome = cleaner.finish();
        self.batches = cleaned?.into_iter().flatten().collect();
        self.aborted = outcome.aborted.clone();
        self.first_dirty = mapped.end;
        Ok(outcome)
    }
}

/// What is left of the batches after each of the passes.
fn check(batches: &[&str], passes: &[(Pass, &[&str])]) {
    let mut log = Log::new(batches);
    for (pass, expect) in passes {
        log.pass(*pass).unwrap();
        assert_eq!(log.batches.iter().map(show).collect::<Vec<_>>(), *expect, "{pass:?}");
    }
}

#[test]
fn the_newest_of_a_key_stays() {
    let log = ["a=1 b=1", "c=1 =x", "a=2 a=3", "d=1", "a=4"];
    let left = ["0..2 b@1=1", "2..4 c@2=1", "4..6 a@5=3", "6..7 d@6=1", "7..8 a@7=4"];
    check(&log, &[((9, 7, 100), &left), ((9, 7, 100), &left)]);
}

#[test]
fn a_tombstone_stays_for_its_time() {
    let log = ["a=1", "b=1 a=-", "z=1"];
    check(
        &log,
        &[
            ((9, 4, 100), &["1..3 b@1=1 a@2=- until 110", "3..4 z@3=1"]),
            ((9, 4, 110), &["1..3 b@1=1 a@2=- until 110", "3..4 z@3=1"]),
            ((9, 4, 111), &["1..3 b@1=1 until 110", "3..4 z@3=1"]),
        ],
    );
}

#[test]
fn an_aborted_transaction_goes_and_its_marker_follows() {
    let log = ["t7 a=1", "t7 b=1", "abort7", "t7 c=1", "commit7", "z=1"];
    check(
        &log,
        &[
            ((9, 6, 100), &["2..3 abort7 until 110", "3..4 t7 c@3=1", "4..5 commit7", "5..6 z@5=1"]),
            ((9, 6, 110), &["2..3 abort7 until 110", "3..4 t7 c@3=1", "4..5 commit7", "5..6 z@5=1"]),
            ((9, 6, 111), &["3..4 t7 c@3=1", "4..5 commit7", "5..6 z@5=1"]),
        ],
    );
    let mut log = Log::new(&log);
    assert_eq!(log.aborted.len(), 1);
    assert_eq!(log.pass((9, 6, 100)).unwrap().aborted, vec![]);
}

#[test]
fn a_marker_waits_for_the_last_of_its_data() {
    let log = ["t7 a=1", "t7 b=1", "commit7", "a=2", "b=2", "t7 c=1", "commit7", "z=1"];
    check(
        &log,
        &[
            (
                (9, 4, 100),
                &[
                    "1..2 t7 b@1=1",
                    "2..3 commit7",
                    "3..4 a@3=2",
                    "4..5 b@4=2",
                    "5..6 t7 c@5=1",
                    "6..7 commit7",
                    "7..8 z@7=1",
                ],
            ),
            (
                (9, 8, 200),
                &["2..3 commit7 until 210", "3..4 a@3=2", "4..5 b@4=2", "5..6 t7 c@5=1", "6..7 commit7", "7..8 z@7=1"],
            ),
            ((9, 8, 211), &["3..4 a@3=2", "4..5 b@4=2", "5..6 t7 c@5=1", "6..7 commit7", "7..8 z@7=1"]),
        ],
    );
}

#[test]
fn the_last_batch_of_a_producer_stays_empty() {
    let log = ["i4 a=1", "i4 a=2 a=3", "a=4"];
    check(&log, &[((9, 4, 100), &["1..3 i4", "3..4 a@3=4"]), ((9, 4, 900), &["1..3 i4", "3..4 a@3=4"])]);
    // In an aborted transaction, too; then the marker is needed, and readers must know.
    let mut aborted = Log::new(&["t7 a=1 b=1", "abort7", "z=1"]);
    assert_eq!(aborted.pass((9, 4, 100)).unwrap().aborted, aborted.aborted);
    assert_eq!(aborted.batches.iter().map(show).collect::<Vec<_>>(), ["0..2 t7", "2..3 abort7", "3..4 z@3=1"]);
    assert_eq!(aborted.aborted.len(), 1);
}

#[test]
fn a_marker_that_alone_tells_of_an_epoch_stays_whole() {
    let left: &[&str] = &["1..2 commit7 until 110", "2..3 a@2=2"];
    check(&["t7 a=1", "commit7.1", "a=2"], &[((9, 3, 100), left), ((9, 3, 500), left)]);
}

#[test]
fn the_batch_at_the_high_watermark_stays() {
    check(&["a=1", "=x"], &[((9, 2, 100), &["0..1 a@0=1", "1..2"])]);
    check(&["a=1", "=x", "=y"], &[((9, 2, 100), &["0..1 a@0=1", "2..3 @2=y"])]);
}

#[test]
fn a_full_map_ends_the_pass_within_a_batch() {
    let log = ["a=1 b=1", "a=2 b=- c=1 a=-", "b=3"];
    check(
        &log,
        &[
            // c does not fit: b@3 is the last one mapped. The second batch has a tombstone that is not cleaned yet.
            ((2, 7, 100), &["2..6 a@2=2 b@3=- c@4=1 a@5=-", "6..7 b@6=3"]),
            ((2, 7, 200), &["2..6 b@3=- c@4=1 a@5=- until 210", "6..7 b@6=3"]),
            ((2, 7, 205), &["2..6 c@4=1 a@5=- until 210", "6..7 b@6=3"]),
            ((2, 7, 211), &["2..6 c@4=1 until 210", "6..7 b@6=3"]),
        ],
    );
}

#[test]
fn the_mapped_end_may_lie_within_transactions() {
    let log = ["t7 a=1", "t8 b=1", "t7 a=2", "t8 c=1", "abort7", "commit8", "z=1"];
    // The marker and the rest of the aborted transaction lie beyond.
    let left = ["1..2 t8 b@1=1", "2..3 t7 a@2=2", "3..4 t8 c@3=1", "4..5 abort7", "5..6 commit8", "6..7 z@6=1"];
    check(&log, &[((9, 2, 100), &left)]);
    let mut log = Log::new(&log);
    assert_eq!(log.pass((9, 2, 100)).unwrap().aborted, log.aborted);
    assert_eq!(log.aborted.len(), 1);
}

#[test]
fn markers_have_no_key() {
    let mut log = Log::new(&["t7 a=1", "commit7", "z=1"]);
    let record = NewRecord { key: Some(Bytes::from_static(&[0, 0, 0, 1])), ..record("k=1") };
    let frame = Frame { now_ms: 1, producer: None, transactional: false, batch_bytes_max: 1 << 20 };
    let mut same = Batch::build(&[record], &frame).unwrap();
    same.place(Offset(3), LeaderEpoch(0));
    log.batches.push(same);
    let before = log.batches.clone();
    log.pass((9, 4, 100)).unwrap();
    assert_eq!(log.batches, before);
}

#[test]
fn what_cannot_be_read_ends_the_pass() {
    let mut log = Log::new(&["a=1", "a=2 b=2", "c=3"]);
    // The second record of the batch claims an offset beyond it.
    log.batches[1].header[23..27].copy_from_slice(&0i32.to_be_bytes());
    let error = log.pass((9, 4, 100)).unwrap_err();
    assert!(matches!(error, Unreadable { offset: 1, source: BatchError::Record { index: 1, .. } }), "{error:?}");
    // The offset of a batch is not in its checksum: one that moved ahead covers those of the next.
    let mut log = Log::new(&["a=1", "a=2 b=2", "c=3"]);
    log.batches[0].place(Offset(9), LeaderEpoch(0));
    let error = log.pass((9, 4, 100)).unwrap_err();
    assert!(matches!(error, Unreadable { offset: 1, source: BatchError::Malformed(_) }), "{error:?}");
}

#[test]
fn stats_say_what_went() {
    let mut log = Log::new(&["a=1 b=- =x", "t7 c=1 d=1", "abort7", "t7 a=2", "commit7"]);
    let stats = log.pass((9, 8, 100)).unwrap().stats;
    assert_eq!((stats.batches_in, stats.batches_out, stats.records_in), (5, 4, 6));
    assert_eq!((stats.superseded, stats.keyless, stats.expired, stats.aborted, stats.markers), (1, 1, 0, 2, 0));
    assert_eq!(stats.next_ms, Some(111));
    let stats = log.pass((9, 8, 111)).unwrap().stats;
    assert_eq!((stats.expired, stats.markers, stats.next_ms), (1, 1, None));
    assert_eq!(log.batches.iter().map(show).collect::<Vec<_>>(), ["6..7 t7 a@6=2", "7..8 commit7"]);
}
