//! The law for the inner join.

use std::sync::Arc;

use arrow::datatypes::{FieldRef, Schema, SchemaRef};
use proptest::prelude::*;

use super::model::{Predicate, Relation, Row, Step, Value, add, column, delta, epochs, schema};
use super::{Case, Workers, law};
use crate::error::Error;
use crate::expr::ExprRef;
use crate::operator::Factory;
use crate::operator::join::{JoinSpec, factory};

fn joined(schema: &SchemaRef) -> SchemaRef {
    let side = |side: &'static str| {
        let rename = move |field: &FieldRef| field.as_ref().clone().with_name(format!("{side}{}", field.name()));
        schema.fields().iter().map(rename)
    };
    Arc::new(Schema::new(side("l").chain(side("r")).collect::<Vec<_>>()))
}

fn join(keys: &[&str], residual: Option<ExprRef>) -> Factory {
    join_of(schema(), keys, residual)
}

/// A relation of this schema with another of the same one.
pub fn join_of(sides: SchemaRef, keys: &[&str], residual: Option<ExprRef>) -> Factory {
    let keys: Vec<ExprRef> = keys.iter().map(|key| column(&sides, key)).collect();
    let (left, right, schema) = (Arc::clone(&sides), Arc::clone(&sides), joined(&sides));
    factory(JoinSpec { left_keys: keys.clone(), right_keys: keys, residual, left, right, schema }).unwrap()
}

/// Left v < right v; null where one is.
fn less(row: &Row) -> Option<bool> {
    match (&row[2], &row[7]) {
        (Value::Int(left), Value::Int(right)) => Some(left < right),
        _ => None,
    }
}

/// SQL's equality: -0.0 equals 0.0, NaN equals NaN, a null nothing.
fn equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Null, _) | (_, Value::Null) => false,
        (Value::Float(a), Value::Float(b)) => {
            let (a, b) = (f64::from_bits(*a), f64::from_bits(*b));
            a == b || (a.is_nan() && b.is_nan())
        }
        (a, b) => a == b,
    }
}

pub fn model(inputs: &[Relation], keys: &[usize], residual: bool) -> Relation {
    let mut out = Relation::new();
    for (left, left_weight) in &inputs[0] {
        for (right, right_weight) in &inputs[1] {
            let row = [left.as_slice(), right].concat();
            if keys.iter().all(|key| equal(&left[*key], &right[*key])) && (!residual || less(&row) == Some(true)) {
                out = add(out, [(row, left_weight * right_weight)]);
            }
        }
    }
    out
}

proptest! {
    #![proptest_config(super::small::cases())]
    #[test]
    fn inner_join(epochs in epochs(2), which in 0usize..4, residual in any::<bool>()) {
        let (names, keys): (&[&str], &[usize]) =
            [(&["k"][..], &[0][..]), (&["k", "s"], &[0, 1]), (&["f"], &[3]), (&["s", "d"], &[1, 4])][which];
        let factory = join(names, residual.then(|| Arc::new(Predicate(less)) as _));
        let model = |inputs: &[Relation]| model(inputs, keys, residual);
        law(&Case { factory, inputs: vec![schema(); 2], model: &model, consolidated: true }, &epochs);
    }

    /// Many rows under one key: beyond where a few become many.
    #[test]
    fn one_hot_key(deletes in prop::collection::vec(any::<usize>(), 0..80)) {
        let row = |v: i128| vec![Value::Int(1), Value::Null, Value::Int(v), Value::Null, Value::Null];
        let inserts = |n| (0..n).map(|v| Step::Insert(row(v), 1)).collect::<Vec<_>>();
        let deletes = deletes.into_iter().map(Step::Delete).collect();
        let epochs = vec![vec![inserts(40), inserts(3)], vec![deletes, vec![Step::Delete(1)]], vec![inserts(5), vec![]]];
        let model = |inputs: &[Relation]| model(inputs, &[0], false);
        law(&Case { factory: join(&["k"], None), inputs: vec![schema(); 2], model: &model, consolidated: true }, &epochs);
    }
}

#[test]
fn a_row_that_never_came_cannot_go() {
    let row = vec![Value::Int(1), Value::Null, Value::Int(2), Value::Null, Value::Null];
    let mut workers = Workers::new(&join(&["k"], None), 1);
    let error = workers.epoch(vec![(1, delta(&schema(), &[(row, -1)]))]).unwrap_err();
    assert!(matches!(&error, Error::NegativeWeight(row) if row == "(1, NULL, 2, NULL, NULL)"), "{error}");
}

/// An epoch of one row over a large state costs what it matches, however much there is.
#[test]
fn one_row_over_many_touches_few() {
    let rows = super::small::rows_of_state();
    let row = |k: usize, v: usize| {
        (vec![Value::Int(k as i128), Value::Null, Value::Int(v as i128), Value::Null, Value::Null], 1)
    };
    let mut workers = Workers::new(&join(&["k"], None), 1);
    for start in (0..rows).step_by(10_000) {
        let many: Vec<_> = (start..start + 10_000).map(|k| row(k, 0)).collect();
        workers.epoch(vec![(0, delta(&schema(), &many))]).unwrap();
    }
    let before = workers.rows_touched;
    let out = workers.epoch(vec![(1, delta(&schema(), &[row(5, 1)]))]).unwrap();
    assert_eq!(out.iter().map(|delta| delta.len()).sum::<usize>(), 1);
    assert!(workers.rows_touched - before <= 3, "{} rows touched", workers.rows_touched - before);
}

/// What has gone is not counted as memory any more, however often it comes and goes.
#[test]
fn memory_is_given_back() {
    let mut workers = Workers::new(&join(&["k"], None), 1);
    let rows = |weight| -> Vec<(Row, i64)> {
        let row = |n: i128| vec![Value::Int(n % 10), Value::Null, Value::Int(n), Value::Null, Value::Null];
        (0..500).map(|n| (row(n), weight)).collect()
    };
    let mut bytes = Vec::new();
    for _ in 0..4 {
        workers.epoch(vec![(0, delta(&schema(), &rows(1)))]).unwrap();
        assert!(workers.instances[0].state_bytes() > 500 * 20);
        workers.epoch(vec![(0, delta(&schema(), &rows(-1)))]).unwrap();
        bytes.push(workers.instances[0].state_bytes());
    }
    assert_eq!(bytes, [bytes[0]; 4]);
}

/// These bytes will lie on disks. Whoever changes them breaks every saved state.
#[test]
fn fixture() {
    let row = |v: i128| (vec![Value::Int(1), Value::Null, Value::Int(v), Value::Null, Value::Null], 3);
    let mut workers = Workers::new(&join(&["k"], None), 1);
    workers.epoch(vec![(0, delta(&schema(), &[row(2)])), (1, delta(&schema(), &[row(3)]))]).unwrap();
    let mut saved = super::Saved::default();
    workers.instances[0].save(&mut saved).unwrap();
    let entries: Vec<String> = saved.0.iter().map(super::hex).collect();
    assert_eq!(entries, FIXTURE.map(|entry| entry.concat()));
}

/// Shard, table, key, row; length of the key, count.
const FIXTURE: [&[&str]; 2] = [
    &["2300", "0180000001", "0180000001", "02", "018000000000000002", "02", "02", "00000005", "0000000000000003"],
    &["2301", "0180000001", "0180000001", "02", "018000000000000003", "02", "02", "00000005", "0000000000000003"],
];
