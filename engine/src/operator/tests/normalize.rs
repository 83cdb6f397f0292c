//! Normalize: the last record of a key wins, whatever records say, in whatever chunks.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use proptest::prelude::*;

use super::model::{Relation, Row, Value, add, delta, relation, rows};
use crate::Delta;
use crate::codec::{Decoded, RowOp};
use crate::error::Error;
use crate::operator::normalize::Normalize;
use crate::state::digest::Digest;
use crate::state::{Reader, ViewStore, Writer};

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("k", DataType::Int32, true),
        Field::new("a", DataType::Utf8, true),
        Field::new("b", DataType::Int64, true),
    ]))
}

/// Op, key, a, b, whether b is left unchanged.
type Record = (RowOp, i128, &'static str, i128, bool);

fn decoded(records: &[Record]) -> Decoded {
    let known =
        |op: RowOp, value: Value| if matches!(op, RowOp::Delete | RowOp::Truncate) { Value::Null } else { value };
    let rows: Vec<(Row, i64)> = records
        .iter()
        .map(|(op, k, a, b, unchanged)| {
            let b = if *unchanged { Value::Null } else { Value::Int(*b) };
            let k = if *op == RowOp::Truncate { Value::Null } else { Value::Int(*k) };
            (vec![k, known(*op, Value::Text((*a).to_owned())), known(*op, b)], 1)
        })
        .collect();
    let unchanged = records.iter().enumerate().filter(|(_, record)| record.4).map(|(row, _)| (row as u32, 2)).collect();
    Decoded { rows: delta(&schema(), &rows).rows, ops: records.iter().map(|record| record.0).collect(), unchanged }
}

fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

fn total(deltas: &[Delta]) -> Relation {
    deltas.iter().fold(Relation::new(), |sum, delta| add(sum, relation(delta)))
}

fn read(normalize: &Normalize, epoch: u64) -> Relation {
    let store = normalize.store().unwrap();
    let batches: Vec<_> = store.scan(epoch, None).unwrap().map(Result::unwrap).collect();
    add(Relation::new(), batches.iter().flat_map(rows).map(|row| (row, 1)))
}

fn record() -> impl Strategy<Value = Record> {
    let op = prop_oneof![
        12 => Just(RowOp::Upsert), 2 => Just(RowOp::Insert), 6 => Just(RowOp::Delete), 1 => Just(RowOp::Truncate),
    ];
    (op, 0i128..5, prop::sample::select(vec!["x", "y", "z\0"]), 0i128..3, any::<bool>())
}

proptest! {
    #![proptest_config(super::small::cases())]
    #[test]
    fn the_last_record_of_a_key_wins(epochs in prop::collection::vec(prop::collection::vec(record(), 0..15), 1..6)) {
        let mut normalize = Normalize::upsert(schema(), vec![0]);
        let mut table: BTreeMap<i128, Row> = BTreeMap::new();
        let mut output = Relation::new();
        let as_relation = |table: &BTreeMap<i128, Row>| -> Relation { table.values().map(|row| (row.clone(), 1)).collect() };
        for (number, mut records) in epochs.into_iter().enumerate() {
            let before = as_relation(&table);
            for record in &mut records {
                let (op, key, a, b, unchanged) = record;
                *unchanged &= matches!(op, RowOp::Upsert | RowOp::Insert) && table.contains_key(key);
                match op {
                    RowOp::Truncate => table.clear(),
                    RowOp::Delete => drop(table.remove(key)),
                    _ => {
                        let b = if *unchanged { table[key][2].clone() } else { Value::Int(*b) };
                        table.insert(*key, vec![Value::Int(*key), text(a), b]);
                    }
                }
            }
            records.chunks(4).for_each(|chunk| normalize.apply(&decoded(chunk)).unwrap());
            let epoch = number as u64 + 1;
            let deltas = normalize.flush(epoch).unwrap();
            let change = total(&deltas);
            prop_assert_eq!(deltas.iter().map(Delta::len).sum::<usize>(), change.len());
            output = add(output, change);
            prop_assert_eq!(&output, &as_relation(&table));
            prop_assert_eq!(&read(&normalize, epoch), &output);
            prop_assert_eq!(&read(&normalize, epoch - 1), &before);
        }
    }

    #[test]
    fn without_a_key_rows_are_counted(epochs in prop::collection::vec(prop::collection::vec(record(), 0..15), 1..6)) {
        let mut normalize = Normalize::upsert(schema(), vec![]);
        let (mut table, mut output) = (Relation::new(), Relation::new());
        for (number, mut records) in epochs.into_iter().enumerate() {
            for record in &mut records {
                record.4 = false;
                let row = vec![Value::Int(record.1), text(record.2), Value::Int(record.3)];
                match record.0 {
                    RowOp::Truncate => table.clear(),
                    RowOp::Delete if table.contains_key(&row) => {
                        record.0 = RowOp::Retract;
                        table = add(table, [(row, -1)]);
                    }
                    _ => {
                        record.0 = RowOp::Insert;
                        table = add(table, [(row, 1)]);
                    }
                }
            }
            records.chunks(4).for_each(|chunk| normalize.apply(&decoded(chunk)).unwrap());
            output = add(output, total(&normalize.flush(number as u64 + 1).unwrap()));
            prop_assert_eq!(&output, &table);
            prop_assert_eq!(&read(&normalize, number as u64 + 1), &table);
        }
    }
}

/// Entries by virtual shard, as workers divide them among themselves.
#[derive(Default)]
struct Saved(Vec<(u8, u8, Vec<u8>, Vec<u8>)>);

impl Writer for Saved {
    fn put(&mut self, shard: u8, table: u8, key: &[u8], value: &[u8]) -> Result<(), Error> {
        self.0.push((shard, table, key.to_vec(), value.to_vec()));
        Ok(())
    }
}

impl Reader for Saved {
    fn next(&mut self) -> Result<Option<(u8, u8, Vec<u8>, Vec<u8>)>, Error> {
        Ok(self.0.pop())
    }
}

/// The relation saved as of `epoch` and loaded by so many workers, each with its shards.
fn moved(normalize: &Normalize, key: &[usize], epoch: u64, workers: usize) -> Normalize {
    let mut saved = Saved::default();
    normalize.store().unwrap().save(0, &mut saved).unwrap();
    let loaded = Normalize::upsert(schema(), key.to_vec());
    for worker in 0..workers {
        let own = saved.0.iter().filter(|(shard, ..)| usize::from(*shard) % workers == worker).cloned().collect();
        loaded.store().unwrap().load(epoch, &mut Saved(own)).unwrap();
    }
    loaded
}

fn digest(deltas: &[Delta]) -> Digest {
    let mut digest = Digest::default();
    deltas.iter().for_each(|delta| digest.add(delta).unwrap());
    digest
}

proptest! {
    #![proptest_config(super::small::cases())]
    /// Saved after any epoch and loaded at another worker count it goes on as the uninterrupted one, to the digest.
    #[test]
    fn what_is_loaded_goes_on_as_what_was_saved(
        keyed in any::<bool>(),
        workers in 1usize..4,
        stop in 1usize..6,
        epochs in prop::collection::vec(prop::collection::vec(record(), 0..15), 2..7),
    ) {
        let key: &[usize] = if keyed { &[0] } else { &[] };
        let mut straight = Normalize::upsert(schema(), key.to_vec());
        let mut resumed: Option<Normalize> = None;
        let mut there = Relation::new();
        for (number, mut records) in epochs.into_iter().enumerate() {
            for record in &mut records {
                // What a relation without a key can take back is what it holds.
                let row = row(record.1, record.2, record.3);
                record.4 = false;
                record.0 = match (keyed, record.0) {
                    (true, op) => op,
                    (false, RowOp::Delete | RowOp::Retract) if there.contains_key(&row) => RowOp::Retract,
                    (false, RowOp::Truncate) => RowOp::Truncate,
                    (false, _) => RowOp::Insert,
                };
                match record.0 {
                    RowOp::Truncate => there.clear(),
                    RowOp::Retract => there = add(std::mem::take(&mut there), [(row, -1)]),
                    _ => there = add(std::mem::take(&mut there), [(row, 1)]),
                }
            }
            let epoch = number as u64 + 1;
            let records = decoded(&records);
            straight.apply(&records).unwrap();
            let expect = straight.flush(epoch).unwrap();
            if let Some(resumed) = &mut resumed {
                resumed.apply(&records).unwrap();
                let got = resumed.flush(epoch).unwrap();
                prop_assert_eq!(total(&got), total(&expect));
                prop_assert_eq!(digest(&got), digest(&expect));
                prop_assert_eq!(read(resumed, epoch), read(&straight, epoch));
            }
            if number + 1 == stop {
                resumed = Some(moved(&straight, key, epoch, workers));
            }
        }
    }
}

/// One record among a million rows reads and writes one row, whatever is there.
#[test]
fn a_record_touches_its_own_row_only() {
    let mut normalize = Normalize::upsert(schema(), vec![0]);
    let rows = 1_000_000;
    for start in (0..rows).step_by(10_000) {
        let records: Vec<Record> = (start..start + 10_000).map(|k| (RowOp::Upsert, k as i128, "x", 1, false)).collect();
        normalize.apply(&decoded(&records)).unwrap();
    }
    let load: usize = normalize.flush(1).unwrap().iter().map(Delta::len).sum();
    let before = normalize.store().unwrap().held_rows();
    normalize.apply(&decoded(&[(RowOp::Upsert, 77, "y", 2, false), (RowOp::Delete, 78, "", 0, false)])).unwrap();
    let change: usize = normalize.flush(2).unwrap().iter().map(Delta::len).sum();
    assert_eq!((load, change), (rows as usize, 3), "an update is two rows, a delete one");
    // What is held beside the newest state are the versions of those two rows.
    assert!(normalize.store().unwrap().held_rows() <= before + 2);
}

fn row(k: i128, a: &str, b: i128) -> Row {
    vec![Value::Int(k), text(a), Value::Int(b)]
}

/// A key update comes as a delete and a create; what it left unchanged is under the old key, in this epoch or before.
#[test]
fn unchanged_values_follow_a_row_to_its_new_key() {
    let mut normalize = Normalize::upsert(schema(), vec![0]);
    normalize.apply(&decoded(&[(RowOp::Upsert, 1, "x", 7, false)])).unwrap();
    normalize.flush(1).unwrap();
    normalize.apply(&decoded(&[(RowOp::Delete, 1, "", 0, false)])).unwrap();
    normalize.apply(&decoded(&[(RowOp::Upsert, 2, "y", 0, true)])).unwrap();
    normalize.apply(&decoded(&[(RowOp::Delete, 2, "", 0, false), (RowOp::Upsert, 3, "z", 0, true)])).unwrap();
    let change = total(&normalize.flush(2).unwrap());
    assert_eq!(change, Relation::from([(row(1, "x", 7), -1), (row(3, "z", 7), 1)]));
    let unknown = normalize.apply(&decoded(&[(RowOp::Upsert, 9, "q", 0, true)])).unwrap_err().to_string();
    assert_eq!(unknown, "(9, q, NULL) leaves values unchanged, but no row with its key has come before");
}

#[test]
fn what_only_comes_passes_through() {
    let mut normalize = Normalize::append_only(schema());
    normalize.apply(&decoded(&[(RowOp::Insert, 1, "x", 7, false), (RowOp::Insert, 1, "x", 7, false)])).unwrap();
    let out = normalize.flush(1).unwrap();
    assert!(out[0].weights.is_none() && out[0].len() == 2 && normalize.store().is_none());
    assert!(normalize.apply(&decoded(&[(RowOp::Upsert, 1, "x", 7, false)])).is_err());
}

#[test]
fn a_row_without_a_key_that_never_came_cannot_go() {
    let mut normalize = Normalize::upsert(schema(), vec![]);
    normalize.apply(&decoded(&[(RowOp::Retract, 1, "x", 7, false)])).unwrap();
    assert!(normalize.flush(1).unwrap_err().to_string().contains("(1, x, 7)"));
}
