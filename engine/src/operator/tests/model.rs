//! Relations as plain maps, the random changes of them, and the way to and from Arrow.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::*;
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Field, Float32Type, Float64Type, Int16Type, Int32Type, Int64Type, Schema,
    SchemaRef, Time64MicrosecondType, TimeUnit, TimestampMicrosecondType,
};
use proptest::prelude::*;

use crate::Delta;
use crate::error::Error;
use crate::expr::{Column, Expr, ExprRef};

/// Floats by their bits as doubles; integers, decimals (unscaled), days and microseconds alike.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Value {
    Null,
    Bool(bool),
    Int(i128),
    Float(u64),
    Text(String),
    Bytes(Vec<u8>),
}

pub type Row = Vec<Value>;
/// How often each row is there; never 0.
pub type Relation = BTreeMap<Row, i64>;

/// One change of a relation that keeps it a relation: nothing goes that is not there.
#[derive(Clone, Debug)]
pub enum Step {
    Insert(Row, i64),
    /// One of the row that is at this place, modulo their number.
    Delete(usize),
    Update(usize, Row),
    /// A row that goes and comes, in this order.
    Blink(Row),
}

/// The relation after the changes.
pub fn add(mut relation: Relation, changes: impl IntoIterator<Item = (Row, i64)>) -> Relation {
    for (row, weight) in changes {
        *relation.entry(row).or_default() += weight;
    }
    relation.retain(|_, weight| *weight != 0);
    relation
}

/// The weighted rows that the steps mean, last ones first (what takes away comes before what brings).
pub fn play(steps: &[Step], relation: &mut Relation) -> Vec<(Row, i64)> {
    let mut changes = Vec::new();
    for step in steps {
        let at = changes.len();
        let pick = |relation: &Relation, place: &usize| {
            (!relation.is_empty()).then(|| relation.keys().nth(place % relation.len()).unwrap().clone())
        };
        match step {
            Step::Insert(row, weight) => changes.push((row.clone(), *weight)),
            Step::Delete(place) => changes.extend(pick(relation, place).map(|row| (row, -1))),
            Step::Update(place, new) => {
                if let Some(old) = pick(relation, place) {
                    changes.extend([(old, -1), (new.clone(), 1)]);
                }
            }
            Step::Blink(row) => changes.extend([(row.clone(), 1), (row.clone(), -1)]),
        }
        *relation = add(std::mem::take(relation), changes[at..].iter().cloned());
    }
    changes.reverse();
    changes
}

/// The columns that operators are tested over.
pub fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("k", DataType::Int32, true),
        Field::new("s", DataType::Utf8, true),
        Field::new("v", DataType::Int64, true),
        Field::new("f", DataType::Float64, true),
        Field::new("d", DataType::Decimal128(20, 4), true),
    ]))
}

pub fn row() -> impl Strategy<Value = Row> {
    let null_or = |value: BoxedStrategy<Value>| prop_oneof![1 => Just(Value::Null), 6 => value];
    let ints = prop_oneof![4 => -3i128..4, 1 => Just(i64::MAX.into()), 1 => Just(i64::MIN.into())];
    let floats = prop_oneof![
        6 => prop::sample::select(vec![0.0, -0.0, 0.5, -0.75, 3.0, 1e9, -1e9]),
        1 => prop::sample::select(vec![f64::INFINITY, f64::NEG_INFINITY, f64::NAN]),
    ];
    let decimals = prop_oneof![4 => -30_000i128..30_000, 1 => Just(10i128.pow(20) - 1)];
    (
        null_or((0i128..4).prop_map(Value::Int).boxed()),
        null_or(prop::sample::select(vec!["", "a", "a\0", "ü"]).prop_map(|s| Value::Text(s.to_owned())).boxed()),
        null_or(ints.prop_map(Value::Int).boxed()),
        null_or(floats.prop_map(|f: f64| Value::Float(f.to_bits())).boxed()),
        null_or(decimals.prop_map(Value::Int).boxed()),
    )
        .prop_map(|(k, s, v, f, d)| vec![k, s, v, f, d])
}

fn step(row: BoxedStrategy<Row>) -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (row.clone(), 1i64..3).prop_map(|(row, weight)| Step::Insert(row, weight)),
        2 => any::<usize>().prop_map(Step::Delete),
        2 => (any::<usize>(), row.clone()).prop_map(|(place, row)| Step::Update(place, row)),
        1 => row.prop_map(Step::Blink),
    ]
}

/// Steps by epoch and port.
pub fn epochs(ports: usize) -> impl Strategy<Value = Vec<Vec<Vec<Step>>>> {
    epochs_of(row().boxed(), ports)
}

pub fn epochs_of(row: BoxedStrategy<Row>, ports: usize) -> impl Strategy<Value = Vec<Vec<Vec<Step>>>> {
    let steps = prop::collection::vec(step(row), 0..12);
    prop::collection::vec(prop::collection::vec(steps, ports), 1..7)
}

/// Rows without weights when all are 1.
pub fn delta(schema: &SchemaRef, rows: &[(Row, i64)]) -> Delta {
    let columns = (0..schema.fields().len()).map(|index| array(schema.field(index).data_type(), rows, index)).collect();
    let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
    let batch = RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options).unwrap();
    match rows.iter().all(|row| row.1 == 1) {
        true => Delta::appended(batch),
        false => Delta::weighted(batch, rows.iter().map(|row| Some(row.1)).collect()),
    }
}

fn array(data_type: &DataType, rows: &[(Row, i64)], index: usize) -> ArrayRef {
    let values = rows.iter().map(|row| &row.0[index]);
    let ints = values.clone().map(|value| match value {
        Value::Int(int) => Some(*int),
        _ => None,
    });
    let floats = values.clone().map(|v| if let Value::Float(bits) = v { Some(f64::from_bits(*bits)) } else { None });
    match data_type {
        DataType::Int16 => Arc::new(ints.map(|int| int.map(|int| int as i16)).collect::<Int16Array>()),
        DataType::Int32 => Arc::new(ints.map(|int| int.map(|int| int as i32)).collect::<Int32Array>()),
        DataType::Int64 => Arc::new(ints.map(|int| int.map(|int| int as i64)).collect::<Int64Array>()),
        DataType::Date32 => Arc::new(ints.map(|int| int.map(|int| int as i32)).collect::<Date32Array>()),
        DataType::Time64(TimeUnit::Microsecond) => {
            Arc::new(ints.map(|int| int.map(|int| int as i64)).collect::<Time64MicrosecondArray>())
        }
        DataType::Timestamp(TimeUnit::Microsecond, zone) => {
            let times: TimestampMicrosecondArray = ints.map(|int| int.map(|int| int as i64)).collect();
            Arc::new(times.with_timezone_opt(zone.clone()))
        }
        DataType::Decimal128(p, s) => {
            Arc::new(ints.collect::<Decimal128Array>().with_precision_and_scale(*p, *s).unwrap())
        }
        DataType::Boolean => {
            Arc::new(values.map(|v| if let Value::Bool(b) = v { Some(*b) } else { None }).collect::<BooleanArray>())
        }
        DataType::Float32 => Arc::new(floats.map(|float| float.map(|float| float as f32)).collect::<Float32Array>()),
        DataType::Float64 => Arc::new(floats.collect::<Float64Array>()),
        DataType::Binary => {
            let bytes = |value: &'_ Value| if let Value::Bytes(bytes) = value { Some(bytes.clone()) } else { None };
            Arc::new(values.map(bytes).collect::<BinaryArray>())
        }
        DataType::Utf8 => {
            let text = |value: &Value| if let Value::Text(text) = value { Some(text.clone()) } else { None };
            Arc::new(values.map(text).collect::<StringArray>())
        }
        other => panic!("no test over {other}"),
    }
}

/// What a delta adds to a relation.
pub fn relation(delta: &Delta) -> Relation {
    add(Relation::new(), rows(&delta.rows).into_iter().enumerate().map(|(row, values)| (values, delta.weight(row))))
}

/// The rows of a batch.
pub fn rows(batch: &RecordBatch) -> Vec<Row> {
    (0..batch.num_rows()).map(|row| batch.columns().iter().map(|column| value(column, row)).collect()).collect()
}

fn value(column: &ArrayRef, row: usize) -> Value {
    if column.is_null(row) {
        return Value::Null;
    }
    match column.data_type() {
        DataType::Boolean => Value::Bool(column.as_boolean().value(row)),
        DataType::Int16 => Value::Int(column.as_primitive::<Int16Type>().value(row).into()),
        DataType::Date32 => Value::Int(column.as_primitive::<Date32Type>().value(row).into()),
        DataType::Time64(_) => Value::Int(column.as_primitive::<Time64MicrosecondType>().value(row).into()),
        DataType::Timestamp(_, _) => Value::Int(column.as_primitive::<TimestampMicrosecondType>().value(row).into()),
        DataType::Float32 => Value::Float(f64::from(column.as_primitive::<Float32Type>().value(row)).to_bits()),
        DataType::Binary => Value::Bytes(column.as_binary::<i32>().value(row).to_vec()),
        DataType::Int32 => Value::Int(column.as_primitive::<Int32Type>().value(row).into()),
        DataType::Int64 => Value::Int(column.as_primitive::<Int64Type>().value(row).into()),
        DataType::Decimal128(_, _) => Value::Int(column.as_primitive::<Decimal128Type>().value(row)),
        DataType::Float64 => Value::Float(column.as_primitive::<Float64Type>().value(row).to_bits()),
        DataType::Utf8 => Value::Text(column.as_string::<i32>().value(row).to_owned()),
        other => panic!("no test over {other}"),
    }
}

/// A column of a schema.
pub fn column(schema: &SchemaRef, name: &str) -> ExprRef {
    let index = schema.index_of(name).unwrap();
    Arc::new(Column { index, data_type: schema.field(index).data_type().clone() })
}

/// A predicate over rows of plain values.
#[derive(Clone)]
pub struct Predicate(pub fn(&Row) -> Option<bool>);

impl std::fmt::Debug for Predicate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("predicate")
    }
}

impl Expr for Predicate {
    fn data_type(&self) -> DataType {
        DataType::Boolean
    }

    fn evaluate(&self, batch: &RecordBatch) -> Result<ArrayRef, Error> {
        Ok(Arc::new(rows(batch).iter().map(self.0).collect::<BooleanArray>()))
    }
}
