//! Versions: whatever is applied later, a pinned epoch reads as it was; what no pin holds goes.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use proptest::prelude::*;

use crate::Delta;
use crate::error::Error;
use crate::state::versioned::Versioned;
use crate::state::{Reader, ViewStore, Writer};

type Rows = BTreeMap<(i64, i64), i64>;

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("k", DataType::Int64, true), Field::new("v", DataType::Int64, true)]))
}

fn delta(rows: &Rows) -> Delta {
    let column = |pick: fn(&(i64, i64)) -> i64| -> ArrayRef {
        Arc::new(rows.keys().map(|row| Some(pick(row))).collect::<Int64Array>())
    };
    let batch = RecordBatch::try_new(schema(), vec![column(|row| row.0), column(|row| row.1)]).unwrap();
    Delta::weighted(batch, rows.values().map(|weight| Some(*weight)).collect())
}

fn read(store: &Versioned, epoch: u64) -> Rows {
    let mut rows = Rows::new();
    for batch in store.scan(epoch, None).unwrap() {
        let batch = batch.unwrap();
        let columns = [0, 1].map(|index| batch.column(index).as_primitive::<Int64Type>().clone());
        for row in 0..batch.num_rows() {
            *rows.entry((columns[0].value(row), columns[1].value(row))).or_default() += 1;
        }
    }
    rows
}

/// What takes `before` to `after`.
fn change(before: &Rows, after: &Rows) -> Rows {
    let mut change = after.clone();
    before.iter().for_each(|(row, count)| *change.entry(*row).or_default() -= count);
    change.retain(|_, weight| *weight != 0);
    change
}

proptest! {
    #[test]
    fn epochs_read_as_they_were(
        keyed in any::<bool>(),
        states in proptest::collection::vec(proptest::collection::btree_map((0i64..6, 0i64..3), 1i64..4, 0..8), 1..8),
        floors in proptest::collection::vec(0usize..8, 8),
    ) {
        let store = Versioned::new(schema(), keyed.then(|| vec![0]));
        let mut history = vec![Rows::new()];
        let mut floor = 0;
        for (index, state) in states.into_iter().enumerate() {
            let state = match keyed {
                true => state.into_iter().map(|((k, v), _)| (k, v)).collect::<BTreeMap<_, _>>().into_iter().map(|row| (row, 1)).collect(),
                false => state,
            };
            store.apply(index as u64 + 1, &delta(&change(&history[index], &state))).unwrap();
            history.push(state);
            floor = floor.max(floors[index].min(index + 1));
            store.release(floor as u64);
            for (epoch, state) in history.iter().enumerate().skip(floor) {
                prop_assert_eq!(&read(&store, epoch as u64), state);
                if keyed {
                    let keys: ArrayRef = Arc::new(Int64Array::from_iter_values(0..6));
                    let found = store.get(epoch as u64, &RecordBatch::try_from_iter([("k", keys)]).unwrap()).unwrap();
                    prop_assert_eq!(&found, &delta(state).rows);
                } else {
                    let rows = delta(state);
                    prop_assert_eq!(Some(store.totals(epoch as u64, &rows.rows).unwrap()), rows.weights);
                }
            }
            prop_assert!(floor == 0 || store.scan(floor as u64 - 1, None).is_err());
        }
        let last = history.len() as u64 - 1;
        prop_assert_eq!(store.len() as i64, history[last as usize].values().sum::<i64>());
        let gone = change(&history[last as usize], &Rows::new());
        store.apply(last + 1, &delta(&gone)).unwrap();
        store.release(last + 1);
        prop_assert!(store.is_empty() && read(&store, last + 1).is_empty());
        prop_assert_eq!(store.held_rows(), 0, "nothing is held for epochs that nobody reads");
    }
}

#[test]
fn rows_that_cannot_be_are_refused() {
    let keyed = Versioned::new(schema(), Some(vec![0]));
    keyed.apply(1, &delta(&Rows::from([((1, 1), 1)]))).unwrap();
    assert!(keyed.apply(2, &delta(&Rows::from([((1, 2), 1)]))).unwrap_err().to_string().contains("(1, 2)"));
    assert!(keyed.apply(3, &delta(&Rows::from([((1, 5), -1)]))).unwrap_err().to_string().contains("(1, 5)"));
    let multiset = Versioned::new(schema(), None);
    multiset.apply(1, &delta(&Rows::from([((1, 1), 2)]))).unwrap();
    assert!(multiset.apply(2, &delta(&Rows::from([((1, 1), -3)]))).is_err());
}

#[test]
fn a_scan_gives_columns_and_batches_as_asked() {
    let store = Versioned::new(schema(), None);
    store.apply(1, &delta(&(0..100).map(|k| ((k, 0), 300)).collect())).unwrap();
    let batches: Vec<RecordBatch> = store.scan(1, Some(&[1])).unwrap().map(Result::unwrap).collect();
    let sizes: Vec<usize> = batches.iter().map(RecordBatch::num_rows).collect();
    assert_eq!(sizes, [8192, 8192, 8192, 30_000 - 3 * 8192]);
    assert_eq!(batches[0].schema().fields().len(), 1);
    assert_eq!(store.scan(1, Some(&[])).unwrap().map(|b| b.unwrap().num_rows()).sum::<usize>(), 30_000);
    assert_eq!(store.scan(0, None).unwrap().count(), 0);
}

/// A reader sees whole epochs while a writer goes on: every row carries the epoch that wrote it.
#[test]
fn readers_see_whole_epochs_beside_a_writer() {
    const KEYS: i64 = 500;
    let store = Versioned::new(schema(), Some(vec![0]));
    let state = |epoch: i64| -> Rows { (0..KEYS).map(|k| ((k, epoch), 1)).collect() };
    store.apply(1, &delta(&state(1))).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let change = |epoch| delta(&change(&state(epoch - 1), &state(epoch)));
            (2..40).for_each(|epoch| store.apply(epoch as u64, &change(epoch)).unwrap());
        });
        (0..4).for_each(|_| assert_eq!(read(&store, 1), state(1)));
    });
    (1..40).for_each(|epoch| assert_eq!(read(&store, epoch), state(epoch as i64)));
}

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

#[test]
fn what_is_saved_is_the_newest_state() {
    for key in [None, Some(vec![0])] {
        let store = Versioned::new(schema(), key.clone());
        let (first, second) = (Rows::from([((1, 1), 1), ((2, 2), 1)]), Rows::from([((2, 3), 1), ((4, 4), 1)]));
        store.apply(1, &delta(&first)).unwrap();
        store.apply(2, &delta(&change(&first, &second))).unwrap();
        let mut saved = Saved::default();
        store.save(3, &mut saved).unwrap();
        assert!(saved.0.len() == 2 && saved.0.iter().all(|(_, table, _, _)| *table == 3));
        let loaded = Versioned::new(schema(), key);
        loaded.load(2, &mut saved).unwrap();
        assert_eq!(read(&loaded, 2), second);
        loaded.apply(3, &delta(&change(&second, &first))).unwrap();
        assert_eq!((read(&loaded, 3), read(&loaded, 2)), (first, second));
    }
}

/// What has gone is not counted as memory any more, however often it comes and goes.
#[test]
fn memory_is_given_back() {
    let store = Versioned::new(schema(), Some(vec![0]));
    let many: Rows = (0..1000).map(|k| ((k, k), 1)).collect();
    let mut bytes = Vec::new();
    for round in 0..4 {
        store.apply(2 * round + 1, &delta(&many)).unwrap();
        assert!(store.bytes() > 1000 * 40, "rows weigh something");
        store.apply(2 * round + 2, &delta(&change(&many, &Rows::new()))).unwrap();
        store.release(2 * round + 2);
        bytes.push(store.bytes());
    }
    assert_eq!(bytes, [bytes[0]; 4]);
}
