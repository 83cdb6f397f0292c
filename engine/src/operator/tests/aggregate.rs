//! The law for aggregates, over every function and type.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use proptest::prelude::*;

use super::model::{Predicate, Relation, Row, Value, column, delta, epochs, schema};
use super::{Case, Workers, law};
use crate::error::Error;
use crate::operator::Factory;
use crate::operator::aggregate::function::{Function, builtin, result_type};
use crate::operator::aggregate::{AggregateCall, AggregateSpec, factory};

/// Function, input, whether only rows with v > 0 count.
type Call = (Function, Option<&'static str>, bool);

const CALLS: &[Call] = &[
    (Function::Count, None, false),
    (Function::Count, None, true),
    (Function::Count, Some("v"), false),
    (Function::Sum, Some("k"), false),
    (Function::Sum, Some("v"), false),
    (Function::Sum, Some("f"), false),
    (Function::Sum, Some("d"), true),
    (Function::Avg, Some("k"), false),
    (Function::Avg, Some("v"), true),
    (Function::Avg, Some("f"), false),
    (Function::Avg, Some("d"), false),
    (Function::Min, Some("v"), false),
    (Function::Max, Some("v"), true),
    (Function::Min, Some("f"), false),
    (Function::Max, Some("f"), false),
    (Function::Min, Some("s"), false),
    (Function::Max, Some("s"), true),
    (Function::Min, Some("d"), false),
    (Function::Max, Some("d"), false),
];

/// v > 0; null where v is.
fn positive(row: &Row) -> Option<bool> {
    match &row[2] {
        Value::Int(int) => Some(*int > 0),
        _ => None,
    }
}

fn aggregate(keys: &[&str], calls: &[Call], append_only: bool) -> (Factory, SchemaRef) {
    let schema = schema();
    let mut fields: Vec<Field> = keys.iter().map(|key| schema.field_with_name(key).unwrap().clone()).collect();
    let calls: Vec<AggregateCall> = calls
        .iter()
        .map(|(function, input, filtered)| {
            let input = input.map(|input| column(&schema, input));
            let function =
                builtin(*function, input.as_ref().map(|input| input.data_type()).as_ref(), append_only).unwrap();
            AggregateCall { function, input, filter: filtered.then(|| Arc::new(Predicate(positive)) as _) }
        })
        .collect();
    fields.extend(
        calls.iter().enumerate().map(|(index, call)| Field::new(format!("c{index}"), call.function.data_type(), true)),
    );
    let out = Arc::new(Schema::new(fields));
    let keys = keys.iter().map(|key| column(&schema, key)).collect();
    (factory(AggregateSpec { keys, calls, schema: Arc::clone(&out) }).unwrap(), out)
}

/// Floats that are equal in SQL become one; NaN is the greatest.
pub fn canonical(value: &Value) -> Value {
    match value {
        Value::Float(bits) => {
            let float = f64::from_bits(*bits);
            Value::Float(if float.is_nan() { f64::NAN.to_bits() } else { (float + 0.0).to_bits() })
        }
        other => other.clone(),
    }
}

fn round_half_away(total: i128, count: i128) -> i128 {
    (2 * total.abs() + count) / (2 * count) * total.signum()
}

pub fn float_of(value: &Value) -> f64 {
    if let Value::Float(bits) = value { f64::from_bits(*bits) } else { panic!("{value:?}") }
}

/// All floats of the tests are multiples of 1/4 far below 2^60, so that this is exact, or not finite.
fn float_sum(values: &[(Value, i64)]) -> f64 {
    let special: f64 = values.iter().map(|(value, _)| float_of(value)).filter(|float| !float.is_finite()).sum();
    let finite = values.iter().map(|(value, weight)| (float_of(value), *weight)).filter(|(float, _)| float.is_finite());
    let quarters: i128 = finite.map(|(float, weight)| (float * 4.0) as i128 * i128::from(weight)).sum();
    if special == 0.0 { quarters as f64 / 4.0 } else { special }
}

fn evaluate(call: &Call, rows: &[(Row, i64)]) -> Value {
    let (function, input, filtered) = call;
    let rows = rows.iter().filter(|(row, _)| !filtered || positive(row) == Some(true));
    let Some(input) = input else {
        return Value::Int(rows.map(|(_, weight)| i128::from(*weight)).sum());
    };
    let index = schema().index_of(input).unwrap();
    let values: Vec<(Value, i64)> = rows
        .map(|(row, weight)| (canonical(&row[index]), *weight))
        .filter(|(value, _)| *value != Value::Null)
        .collect();
    let count: i128 = values.iter().map(|(_, weight)| i128::from(*weight)).sum();
    if *function == Function::Count {
        return Value::Int(count);
    }
    if values.is_empty() {
        return Value::Null;
    }
    let order = |a: &&Value, b: &&Value| match (a, b) {
        (Value::Float(_), _) => float_of(a).total_cmp(&float_of(b)),
        _ => a.cmp(b),
    };
    let plain = values.iter().map(|(value, _)| value);
    match (function, &values[0].0) {
        (Function::Min, _) => plain.min_by(order).unwrap().clone(),
        (Function::Max, _) => plain.max_by(order).unwrap().clone(),
        (Function::Sum, Value::Float(_)) => canonical(&Value::Float(float_sum(&values).to_bits())),
        (_, Value::Float(_)) => canonical(&Value::Float((float_sum(&values) / count as f64).to_bits())),
        (function, _) => {
            let int = |value: &Value| if let Value::Int(int) = value { *int } else { panic!("{value:?}") };
            let total: i128 = values.iter().map(|(value, weight)| int(value) * i128::from(*weight)).sum();
            let digits = if *input == "d" { 12 } else { 16 };
            match function {
                Function::Avg => Value::Int(round_half_away(total * 10i128.pow(digits), count)),
                _ => Value::Int(total),
            }
        }
    }
}

fn model(input: &Relation, keys: &[usize], calls: &[Call]) -> Relation {
    let mut groups: BTreeMap<Row, Vec<(Row, i64)>> = BTreeMap::new();
    if keys.is_empty() {
        groups.insert(Vec::new(), Vec::new());
    }
    for (row, weight) in input {
        let key = keys.iter().map(|key| canonical(&row[*key])).collect();
        groups.entry(key).or_default().push((row.clone(), *weight));
    }
    let results = |rows: &[(Row, i64)]| calls.iter().map(|call| evaluate(call, rows)).collect::<Row>();
    groups.into_iter().map(|(key, rows)| ([key, results(&rows)].concat(), 1)).collect()
}

fn check(names: &[&str], keys: &[usize], epochs: &[Vec<Vec<super::Step>>]) {
    let (factory, _) = aggregate(names, CALLS, false);
    let model = |inputs: &[Relation]| model(&inputs[0], keys, CALLS);
    law(&Case { factory, inputs: vec![schema()], model: &model, consolidated: true }, epochs);
}

proptest! {
    #![proptest_config(super::small::cases())]
    #[test]
    fn by_one_key(epochs in epochs(1)) {
        check(&["k"], &[0], &epochs);
    }

    #[test]
    fn by_two_keys(epochs in epochs(1)) {
        check(&["s", "f"], &[1, 3], &epochs);
    }

    #[test]
    fn without_keys(epochs in epochs(1)) {
        check(&[], &[], &epochs);
    }

    #[test]
    fn distinct_keys_alone(epochs in epochs(1)) {
        let (factory, _) = aggregate(&["k", "d"], &[], false);
        let model = |inputs: &[Relation]| model(&inputs[0], &[0, 4], &[]);
        law(&Case { factory, inputs: vec![schema()], model: &model, consolidated: true }, &epochs);
    }

    #[test]
    fn where_rows_only_come(mut epochs in epochs(1)) {
        epochs.iter_mut().flatten().for_each(|steps| steps.retain(|step| matches!(step, super::Step::Insert(..))));
        let (factory, _) = aggregate(&["k"], CALLS, true);
        let model = |inputs: &[Relation]| model(&inputs[0], &[0], CALLS);
        law(&Case { factory, inputs: vec![schema()], model: &model, consolidated: true }, &epochs);
    }
}

fn row(k: i128, v: i128) -> Row {
    vec![Value::Int(k), Value::Null, Value::Int(v), Value::Null, Value::Null]
}

fn feed(workers: &mut Workers, rows: &[(Row, i64)]) -> Result<Vec<super::Relation>, Error> {
    let out = workers.epoch(if rows.is_empty() { vec![] } else { vec![(0, delta(&schema(), rows))] })?;
    Ok(out.iter().map(super::relation).collect())
}

#[test]
fn a_sum_that_does_not_fit_is_an_error_with_its_value() {
    let schema = Arc::new(Schema::new(vec![Field::new("v", DataType::Int32, true)]));
    let input = column(&schema, "v");
    let call = AggregateCall {
        function: builtin(Function::Sum, Some(&DataType::Int32), false).unwrap(),
        input: Some(input),
        filter: None,
    };
    let out = Arc::new(Schema::new(vec![Field::new("sum", DataType::Int64, true)]));
    let mut workers =
        Workers::new(&factory(AggregateSpec { keys: vec![], calls: vec![call], schema: out }).unwrap(), 1);
    let rows = [(vec![Value::Int(i32::MAX.into())], 1i64 << 33)];
    let error = workers.epoch(vec![(0, delta(&schema, &rows))]).unwrap_err().to_string();
    assert_eq!(error, "18446744065119617024 is out of range for bigint");
}

#[test]
fn what_never_came_cannot_go() {
    for (first, second) in [
        (vec![], vec![(row(1, 5), -1)]),
        // The rows of the group add up, their values do not.
        (vec![(row(1, 5), 1)], vec![(row(1, 6), -1)]),
        (vec![(row(1, 5), 2)], vec![(row(1, 6), -1)]),
    ] {
        let (factory, _) =
            aggregate(&["k"], &[(Function::Sum, Some("v"), false), (Function::Min, Some("v"), false)], false);
        let mut workers = Workers::new(&factory, 1);
        feed(&mut workers, &first).unwrap();
        let error = feed(&mut workers, &second).unwrap_err();
        assert!(matches!(&error, Error::NegativeWeight(group) if group == "of group (1)"), "{error}");
    }
}

#[test]
fn nothing_is_said_where_nothing_changed() {
    let (factory, _) = aggregate(&["k"], &[(Function::Count, None, false)], false);
    let mut workers = Workers::new(&factory, 1);
    assert_eq!(feed(&mut workers, &[(row(1, 5), 1)]).unwrap().len(), 1);
    assert!(feed(&mut workers, &[(row(1, 6), 1), (row(1, 5), -1)]).unwrap().is_empty());
    assert!(feed(&mut workers, &[(row(2, 6), 1), (row(2, 6), -1)]).unwrap().is_empty());
}

#[test]
fn an_aggregate_without_keys_has_one_row_from_the_start() {
    let (factory, _) = aggregate(&[], &[(Function::Count, None, false), (Function::Sum, Some("v"), false)], false);
    let mut workers = Workers::new(&factory, 3);
    let empty = vec![Value::Int(0), Value::Null];
    assert_eq!(feed(&mut workers, &[]).unwrap(), [Relation::from([(empty.clone(), 1)])]);
    assert!(feed(&mut workers, &[]).unwrap().is_empty());
    let mut moved = workers.moved(&factory, 2);
    assert!(feed(&mut moved, &[]).unwrap().is_empty());
    let one = vec![Value::Int(1), Value::Int(7)];
    assert_eq!(feed(&mut moved, &[(row(1, 7), 1)]).unwrap(), [Relation::from([(empty, -1), (one, 1)])]);
}

#[test]
fn types_of_results() {
    use DataType::*;
    for (function, input, result) in [
        (Function::Sum, Int16, Some(Int64)),
        (Function::Sum, Int64, Some(Decimal128(38, 0))),
        (Function::Sum, Decimal128(10, 2), Some(Decimal128(38, 2))),
        (Function::Sum, Float32, Some(Float64)),
        (Function::Avg, Int32, Some(Decimal128(38, 16))),
        (Function::Avg, Decimal128(38, 20), Some(Decimal128(38, 20))),
        (Function::Min, Utf8, Some(Utf8)),
        (Function::Min, Boolean, None),
        (Function::Sum, Utf8, None),
        (Function::Avg, Date32, None),
    ] {
        assert_eq!(result_type(function, Some(&input)).ok(), result, "{function:?} {input}");
    }
    assert_eq!(result_type(Function::Sum, Some(&Utf8)).unwrap_err(), "there is no sum(Utf8)");
}

/// An epoch of one row over a large state costs a row, in many groups or in one.
#[test]
fn one_row_over_many_touches_few() {
    let rows = super::small::rows_of_state();
    for groups in [rows, 1] {
        let (factory, _) =
            aggregate(&["v"], &[(Function::Sum, Some("k"), false), (Function::Max, Some("k"), false)], false);
        let mut workers = Workers::new(&factory, 1);
        for start in (0..rows).step_by(10_000) {
            let many: Vec<_> = (start..start + 10_000).map(|n| (row(n as i128, (n % groups) as i128), 1)).collect();
            feed(&mut workers, &many).unwrap();
        }
        let before = workers.rows_touched;
        let out = feed(&mut workers, &[(row(rows as i128 - 1, ((rows - 1) % groups) as i128), -1)]).unwrap();
        assert_eq!(out.len(), 1);
        assert!(workers.rows_touched - before <= 2, "{} rows touched", workers.rows_touched - before);
    }
}

/// What has gone is not counted as memory any more, however often it comes and goes.
#[test]
fn memory_is_given_back() {
    let (factory, _) = aggregate(&["k"], CALLS, false);
    let mut workers = Workers::new(&factory, 1);
    let rows = |weight| -> Vec<(Row, i64)> {
        let values =
            |n: i128| vec![Value::Int(n), Value::Text(format!("{n:>50}")), Value::Int(n), Value::Null, Value::Int(n)];
        (0..500).map(|n| ([&[Value::Int(n % 10)], &values(n)[1..]].concat(), weight)).collect()
    };
    let mut bytes = Vec::new();
    for _ in 0..4 {
        feed(&mut workers, &rows(1)).unwrap();
        let full = workers.instances[0].state_bytes();
        feed(&mut workers, &rows(-1)).unwrap();
        bytes.push(workers.instances[0].state_bytes());
        assert!(full > bytes[0] + 500 * 50, "{full} {bytes:?}");
    }
    assert_eq!(bytes, [bytes[0]; 4]);
}

/// These bytes will lie on disks. Whoever changes them breaks every saved state.
#[test]
fn fixture() {
    let row = |f: f64| {
        let (text, float) = (Value::Text("a\0".to_owned()), Value::Float(f.to_bits()));
        vec![Value::Int(1), text, Value::Int(-2), float, Value::Int(12_345)]
    };
    let (factory, _) = aggregate(&["k"], CALLS, false);
    let mut workers = Workers::new(&factory, 1);
    feed(&mut workers, &[(row(0.5), 2), (row(f64::INFINITY), 1)]).unwrap();
    let mut saved = super::Saved::default();
    workers.instances[0].save(&mut saved).unwrap();
    let entries: Vec<String> = saved.0.iter().map(super::hex).collect();
    assert_eq!(entries, [FIXTURE.concat()]);
}

/// Shard, table, key; rows; then the states, by call.
const FIXTURE: &[&str] = &[
    "23000180000001",
    "0000000000000003",
    "0000000000000003",
    "0000000000000000",
    "0000000000000003",
    "00000000000000000000000000000000000000000000000000000000000000030000000000000003",
    "fffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffa0000000000000003",
    "0f0300000000000000000004000000000000000000000000000001000000000000000100000000000000000000000000",
    "0000000000000000000003",
    "00000000000000000000000000000000000000000000000000000000000000000000000000000000",
    "00000000000000000000000000000000000000000000000000000000000000030000000000000003",
    "00000000000000000000000000000000000000000000000000000000000000000000000000000000",
    "0f0300000000000000000004000000000000000000000000000001000000000000000100000000000000000000000000",
    "0000000000000000000003",
    "00000000000000000000000000000000000000000000000000000000000090ab0000000000000003",
    "000000000000000100000000000000087ffffffffffffffe0000000000000003",
    "0000000000000000",
    "00000000000000020000000000000008bfe000000000000000000000000000020000000000000008fff0000000000000",
    "0000000000000001",
    "00000000000000020000000000000008bfe000000000000000000000000000020000000000000008fff0000000000000",
    "0000000000000001",
    "000000000000000100000000000000056100ff00010000000000000003",
    "0000000000000000",
    "00000000000000010000000000000010800000000000000000000000000030390000000000000003",
    "00000000000000010000000000000010800000000000000000000000000030390000000000000003",
];
