//! A record format and a few operators over rows (k, v) of two integers, as plain as they can be.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use bytes::Bytes;

use crate::codec::{Decode, DecodeError, Decoded, Encode, RowOp};
use crate::delta::Delta;
use crate::expr::Expr;
use crate::operator::{Context, Error, Exchange, Operator, Port};
use crate::state::{Reader, Writer};
use crate::time::Epoch;

pub fn schema() -> SchemaRef {
    let field = |name| Field::new(name, DataType::Int64, true);
    Arc::new(Schema::new(vec![field("k"), field("v")]))
}

pub fn batch(rows: &[(i64, i64)]) -> RecordBatch {
    let column =
        |pick: fn(&(i64, i64)) -> i64| Arc::new(Int64Array::from_iter_values(rows.iter().map(pick))) as ArrayRef;
    RecordBatch::try_new(schema(), vec![column(|row| row.0), column(|row| row.1)]).unwrap()
}

/// The rows of a delta or a batch.
pub fn rows(batch: &RecordBatch) -> Vec<(i64, i64)> {
    let column = |at: usize| batch.column(at).as_primitive::<Int64Type>().values().to_vec();
    column(0).into_iter().zip(column(1)).collect()
}

fn weighted(rows: &[(i64, i64, i64)]) -> Delta {
    let plain: Vec<_> = rows.iter().map(|(k, v, _)| (*k, *v)).collect();
    Delta::weighted(batch(&plain), Int64Array::from_iter_values(rows.iter().map(|row| row.2)))
}

/// Key `k`, value `v`, null for a delete, both in decimal digits.
pub struct Pairs {
    pub upsert: bool,
}

pub fn record(k: i64, v: Option<i64>) -> log::NewRecord {
    let text = |number: i64| Bytes::from(number.to_string());
    log::NewRecord { key: Some(text(k)), value: v.map(text), ..log::NewRecord::default() }
}

pub fn parse(bytes: &Option<Bytes>) -> Option<i64> {
    std::str::from_utf8(bytes.as_deref()?).ok()?.parse().ok()
}

impl Decode for Pairs {
    fn schema(&self) -> SchemaRef {
        schema()
    }

    fn upsert(&self) -> bool {
        self.upsert
    }

    fn decode(&self, _: log::TopicPartition, records: &[log::RecordView]) -> Result<Decoded, DecodeError> {
        let mut decoded = (Vec::new(), Vec::new());
        for record in records {
            let bad = || DecodeError { offset: record.offset, reason: "not a pair of numbers".into() };
            let k = parse(&record.key).ok_or_else(bad)?;
            let (v, op) = match &record.value {
                None => (0, RowOp::Delete),
                value if self.upsert => (parse(value).ok_or_else(bad)?, RowOp::Upsert),
                value => (parse(value).ok_or_else(bad)?, RowOp::Insert),
            };
            decoded.0.push((k, v));
            decoded.1.push(op);
        }
        Ok(Decoded { rows: batch(&decoded.0), ops: decoded.1, unchanged: Vec::new() })
    }
}

/// With a key: key `k`, value `v`, null for a delete. Without: key `k,v`, value the total.
pub struct Plain {
    pub keyed: bool,
}

impl Encode for Plain {
    fn encode(
        &self,
        epoch: u64,
        delta: &Delta,
        totals: Option<&Int64Array>,
        out: &mut Vec<log::NewRecord>,
    ) -> Result<(), Error> {
        let header = log::Header { key: Bytes::from_static(b"epoch"), value: Some(Bytes::from(epoch.to_string())) };
        let mut records = BTreeMap::new();
        for (at, (k, v)) in rows(&delta.rows).into_iter().enumerate() {
            if !self.keyed {
                let total = totals.map_or_else(|| delta.weight(at), |totals| totals.value(at));
                records.insert(format!("{k},{v}"), (total > 0).then(|| total.to_string()));
            } else if delta.weight(at) > 0 {
                records.insert(k.to_string(), Some(v.to_string()));
            } else {
                records.entry(k.to_string()).or_insert(None);
            }
        }
        out.extend(records.into_iter().map(|(key, value)| log::NewRecord {
            key: Some(key.into()),
            value: value.map(Bytes::from),
            headers: vec![header.clone()],
            timestamp_ms: None,
        }));
        Ok(())
    }

    fn totals(&self) -> bool {
        !self.keyed
    }
}

/// `k % 10`.
#[derive(Debug)]
struct Mod10;

impl Expr for Mod10 {
    fn data_type(&self) -> DataType {
        DataType::Int64
    }

    fn evaluate(&self, rows: &RecordBatch) -> Result<ArrayRef, Error> {
        let k = rows.column(0).as_primitive::<Int64Type>();
        Ok(Arc::new(k.unary::<_, Int64Type>(|k| k.rem_euclid(10))))
    }
}

/// Rows with an even `v`; an error or a panic at a forbidden one.
#[derive(Default)]
pub struct Even {
    pub error_at: Option<i64>,
    pub panic_at: Option<i64>,
}

impl Operator for Even {
    fn name(&self) -> &'static str {
        "even"
    }

    fn exchange(&self, _: Port) -> Exchange {
        Exchange::Any
    }

    fn on_delta(&mut self, _: Port, delta: Delta, cx: &mut Context<'_>) -> Result<(), Error> {
        let mut kept = Vec::new();
        for (at, (k, v)) in rows(&delta.rows).into_iter().enumerate() {
            if self.error_at == Some(v) {
                return Err(Error::Value(format!("{v} is forbidden")));
            }
            assert_ne!(self.panic_at, Some(v), "a value that must not come");
            if v % 2 == 0 {
                kept.push((k, v, delta.weight(at)));
            }
        }
        cx.emit(weighted(&kept));
        Ok(())
    }

    fn on_flush(&mut self, _: &Epoch, _: &mut Context<'_>) -> Result<(), Error> {
        Ok(())
    }

    fn save(&self, _: &mut dyn Writer) -> Result<(), Error> {
        Ok(())
    }

    fn load(&mut self, _: &mut dyn Reader) -> Result<(), Error> {
        Ok(())
    }
}

/// Everything that comes in by any port.
pub struct Union;

impl Operator for Union {
    fn name(&self) -> &'static str {
        "union"
    }

    fn exchange(&self, _: Port) -> Exchange {
        Exchange::Any
    }

    fn on_delta(&mut self, _: Port, delta: Delta, cx: &mut Context<'_>) -> Result<(), Error> {
        cx.emit(delta);
        Ok(())
    }

    fn on_flush(&mut self, _: &Epoch, _: &mut Context<'_>) -> Result<(), Error> {
        Ok(())
    }

    fn save(&self, _: &mut dyn Writer) -> Result<(), Error> {
        Ok(())
    }

    fn load(&mut self, _: &mut dyn Reader) -> Result<(), Error> {
        Ok(())
    }
}

/// (k % 10, sum of v), or (0, sum of v) over everything, which is 0 over nothing.
pub struct Sum {
    pub grouped: bool,
    groups: BTreeMap<i64, (i64, i64)>,
    /// What was shown of each group that has changed.
    shown: BTreeMap<i64, Option<i64>>,
    fresh: bool,
}

impl Sum {
    pub fn new(grouped: bool) -> Self {
        Self { grouped, groups: BTreeMap::new(), shown: BTreeMap::new(), fresh: true }
    }
}

impl Operator for Sum {
    fn name(&self) -> &'static str {
        "sum"
    }

    fn exchange(&self, _: Port) -> Exchange {
        if self.grouped { Exchange::Hash(vec![Arc::new(Mod10)]) } else { Exchange::Single }
    }

    fn on_delta(&mut self, _: Port, delta: Delta, _: &mut Context<'_>) -> Result<(), Error> {
        for (at, (k, v)) in rows(&delta.rows).into_iter().enumerate() {
            let group = if self.grouped { k.rem_euclid(10) } else { 0 };
            let shows = |(count, sum): (i64, i64)| (count != 0).then_some(sum);
            let (count, sum) = self.groups.entry(group).or_default();
            self.shown.entry(group).or_insert(shows((*count, *sum)));
            *count += delta.weight(at);
            *sum += v * delta.weight(at);
        }
        Ok(())
    }

    fn on_flush(&mut self, _: &Epoch, cx: &mut Context<'_>) -> Result<(), Error> {
        let mut out = Vec::new();
        if std::mem::take(&mut self.fresh) && !self.grouped {
            self.groups.entry(0).or_default();
            out.push((0, 0, 1));
        }
        for (group, shown) in std::mem::take(&mut self.shown) {
            let (count, sum) = self.groups[&group];
            let shown = if self.grouped { shown } else { Some(shown.unwrap_or(0)) };
            let shows = if self.grouped { (count != 0).then_some(sum) } else { Some(sum) };
            out.extend(shown.map(|sum| (group, sum, -1)));
            out.extend(shows.map(|sum| (group, sum, 1)));
        }
        cx.rows_touched += out.len() as u64;
        cx.emit(weighted(&out));
        Ok(())
    }

    fn save(&self, _: &mut dyn Writer) -> Result<(), Error> {
        Ok(())
    }

    fn load(&mut self, _: &mut dyn Reader) -> Result<(), Error> {
        Ok(())
    }
}
