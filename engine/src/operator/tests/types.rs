//! The law over every type that a column may have: as a key of groups, as a key of joins, as what min and max pick from.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use proptest::prelude::*;

use super::aggregate::{canonical, float_of};
use super::model::{Relation, Row, Value, column, epochs_of};
use super::{Case, join, law};
use crate::operator::Factory;
use crate::operator::aggregate::function::{Function, builtin, result_type};
use crate::operator::aggregate::{AggregateCall, AggregateSpec, factory};

/// Columns by their types; each is named after its place.
const TYPES: usize = 13;

fn schema() -> SchemaRef {
    use DataType::*;
    let types = [
        Boolean,
        Int16,
        Int32,
        Int64,
        Float32,
        Float64,
        Decimal128(38, 10),
        Date32,
        Time64(TimeUnit::Microsecond),
        Timestamp(TimeUnit::Microsecond, None),
        Timestamp(TimeUnit::Microsecond, Some("+00:00".into())),
        Utf8,
        Binary,
    ];
    assert_eq!(types.len(), TYPES);
    Arc::new(Schema::new(
        types
            .into_iter()
            .enumerate()
            .map(|(at, data_type)| Field::new(at.to_string(), data_type, true))
            .collect::<Vec<_>>(),
    ))
}

/// Few values of each type, its least and its greatest among them, so that rows meet.
fn values(data_type: &DataType) -> Vec<Value> {
    use DataType::*;
    let ints = |ints: &[i128]| ints.iter().map(|int| Value::Int(*int)).collect();
    let floats = |least: f64| {
        let special = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, least, -least];
        [0.0, -0.0, 0.5, -2.25].into_iter().chain(special).map(|float| Value::Float(float.to_bits())).collect()
    };
    match data_type {
        Boolean => vec![Value::Bool(false), Value::Bool(true)],
        Int16 => ints(&[i16::MIN.into(), -1, 0, 1, i16::MAX.into()]),
        Int32 | Date32 => ints(&[i32::MIN.into(), -1, 0, 1, i32::MAX.into()]),
        Float32 => floats(f64::from(f32::MIN_POSITIVE)),
        Float64 => floats(f64::MIN_POSITIVE),
        Decimal128(_, _) => ints(&[1 - 10i128.pow(38), -1, 0, 1, 10i128.pow(38) - 1]),
        Time64(_) => ints(&[0, 1, 86_399_999_999]),
        Utf8 => ["", "a", "a\0", "a\0b", "b", "\u{10ffff}"].map(|text| Value::Text(text.to_owned())).to_vec(),
        Binary => {
            [&b""[..], &[0], &[0, 0], &[0, 255], &[255], &[255, 0]].map(|bytes| Value::Bytes(bytes.to_vec())).to_vec()
        }
        _ => ints(&[i64::MIN.into(), -1, 0, 1, i64::MAX.into()]),
    }
}

fn row() -> BoxedStrategy<Row> {
    let columns: Vec<_> = schema()
        .fields()
        .iter()
        .map(|field| prop_oneof![1 => Just(Value::Null), 5 => prop::sample::select(values(field.data_type()))])
        .collect();
    columns.boxed()
}

/// (key, count(*), min(picked), max(picked)); without the last two where the type has no order of its own.
fn aggregate(key: usize, picked: usize) -> (Factory, bool) {
    let schema = schema();
    let input = column(&schema, &picked.to_string());
    let ordered = result_type(Function::Min, Some(&input.data_type())).is_ok();
    let call = |function, input: Option<&crate::expr::ExprRef>| AggregateCall {
        function: builtin(function, input.map(|input| input.data_type()).as_ref(), false).unwrap(),
        input: input.cloned(),
        filter: None,
    };
    let mut calls = vec![call(Function::Count, None)];
    if ordered {
        calls.extend([call(Function::Min, Some(&input)), call(Function::Max, Some(&input))]);
    }
    let mut fields = vec![schema.field(key).clone()];
    let results = calls.iter().enumerate();
    fields.extend(results.map(|(at, call)| Field::new(format!("c{at}"), call.function.data_type(), true)));
    let keys = vec![column(&schema, &key.to_string())];
    (factory(AggregateSpec { keys, calls, schema: Arc::new(Schema::new(fields)) }).unwrap(), ordered)
}

fn model(input: &Relation, key: usize, picked: usize, ordered: bool) -> Relation {
    let mut groups: BTreeMap<Value, (i64, Vec<Value>)> = BTreeMap::new();
    for (row, weight) in input {
        let (count, values) = groups.entry(canonical(&row[key])).or_default();
        *count += weight;
        values.extend(Some(canonical(&row[picked])).filter(|value| *value != Value::Null));
    }
    let order = |a: &Value, b: &Value| match (a, b) {
        (Value::Float(_), Value::Float(_)) => float_of(a).total_cmp(&float_of(b)),
        _ => a.cmp(b),
    };
    let result = |(key, (count, mut values)): (Value, (i64, Vec<Value>))| {
        values.sort_by(order);
        let mut row = vec![key, Value::Int(count.into())];
        if ordered {
            row.extend([values.first(), values.last()].map(|value| value.cloned().unwrap_or(Value::Null)));
        }
        (row, 1)
    };
    groups.into_iter().map(result).collect()
}

proptest! {
    #![proptest_config(super::small::cases())]
    #[test]
    fn groups_and_extremes(epochs in epochs_of(row(), 1), key in 0..TYPES, picked in 0..TYPES) {
        let (factory, ordered) = aggregate(key, picked);
        let model = |inputs: &[Relation]| model(&inputs[0], key, picked, ordered);
        law(&Case { factory, inputs: vec![schema()], model: &model, consolidated: true }, &epochs);
    }

    #[test]
    fn keys_of_joins(epochs in epochs_of(row(), 2), key in 0..TYPES) {
        let factory = join::join_of(schema(), &[&key.to_string()], None);
        let model = |inputs: &[Relation]| join::model(inputs, &[key], false);
        law(&Case { factory, inputs: vec![schema(); 2], model: &model, consolidated: true }, &epochs);
    }
}

/// min and max pick from all types but boolean, as in PostgreSQL.
#[test]
fn what_has_extremes() {
    let without: Vec<_> =
        (0..TYPES).filter(|at| !aggregate(0, *at).1).map(|at| schema().field(at).data_type().clone()).collect();
    assert_eq!(without, [DataType::Boolean]);
}
