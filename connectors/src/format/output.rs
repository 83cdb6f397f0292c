//! The change of one epoch as records: flat JSON and Debezium's envelope. Records stand in the order in which their keys
//! first appear in the delta.

use std::collections::HashMap;
use std::ops::Range;

use arrow::array::Int64Array;
use arrow::datatypes::Schema;
use bytes::Bytes;
use engine::codec::Encode;
use engine::delta::Delta;
use engine::operator::Error;
use log::{Header, NewRecord};

use super::write::{Rows, Style, write_integer};

/// How the records of an output topic are keyed.
enum Identity {
    /// By these columns, none for the one-row relation.
    Columns(Vec<usize>),
    /// By the whole row, which may come several times.
    Row,
    /// Not at all: rows only come.
    None,
}

/// The flat form: a row is the value, a deleted key has a null value.
pub(crate) struct FlatJson {
    columns: Vec<usize>,
    identity: Identity,
}

impl FlatJson {
    pub(crate) fn new(schema: &Schema, key: Option<&[usize]>, append_only: bool) -> Self {
        let identity = match key {
            Some(key) => Identity::Columns(key.to_vec()),
            None if append_only => Identity::None,
            None => Identity::Row,
        };
        Self { columns: (0..schema.fields().len()).collect(), identity }
    }

    fn counted(&self, delta: &Delta, totals: &Int64Array, records: &mut Records) -> Result<(), Error> {
        let rows = Rows::new(&delta.rows, &self.columns, Style::Iso);
        let mut key = Vec::new();
        for row in 0..delta.len() {
            key.clear();
            rows.write(row, &mut key);
            match totals.value(row) {
                0 => records.tombstone(&key),
                total if total < 0 => return Err(Error::NegativeWeight(String::from_utf8_lossy(&key).into_owned())),
                total => records.push(Some(&key), |out| {
                    rows.write_open(row, out);
                    out.extend_from_slice(if rows.is_empty() { b"\"_count\":" } else { b",\"_count\":" });
                    write_integer(out, total);
                    out.push(b'}');
                }),
            }
        }
        Ok(())
    }
}

impl Encode for FlatJson {
    fn encode(
        &self,
        epoch: u64,
        delta: &Delta,
        totals: Option<&Int64Array>,
        out: &mut Vec<NewRecord>,
    ) -> Result<(), Error> {
        let rows = Rows::new(&delta.rows, &self.columns, Style::Iso);
        let mut records = Records::new(epoch, delta.len());
        match &self.identity {
            Identity::Columns(key) => {
                let keyed = Keyed::new(delta, key, Style::Iso)?;
                for change in &keyed.changes {
                    let key = &keyed.keys[change.key.clone()];
                    match change.after {
                        Some(row) => records.push(Some(key), |out| rows.write(row, out)),
                        None => records.tombstone(key),
                    }
                }
            }
            Identity::Row => {
                let totals = totals.ok_or_else(|| Error::Bug("_count needs the totals of the rows".into()))?;
                self.counted(delta, totals, &mut records)?;
            }
            Identity::None => {
                for row in 0..delta.len() {
                    let times = u64::try_from(delta.weight(row));
                    let times = times.map_err(|_| Error::Bug("an append-only relation lost a row".into()))?;
                    (0..times).for_each(|_| records.push(None, |out| rows.write(row, out)));
                }
            }
        }
        records.finish(out);
        Ok(())
    }

    fn totals(&self) -> bool {
        matches!(self.identity, Identity::Row)
    }
}

/// Debezium's envelope: `c`, `u`, `d`; a `d` is followed by a tombstone where there is a key.
pub(crate) struct DebeziumJson {
    columns: Vec<usize>,
    key: Option<Vec<usize>>,
}

impl DebeziumJson {
    pub(crate) fn new(schema: &Schema, key: Option<&[usize]>) -> Self {
        Self { columns: (0..schema.fields().len()).collect(), key: key.map(<[usize]>::to_vec) }
    }
}

impl Encode for DebeziumJson {
    fn encode(&self, epoch: u64, delta: &Delta, _: Option<&Int64Array>, out: &mut Vec<NewRecord>) -> Result<(), Error> {
        let rows = Rows::new(&delta.rows, &self.columns, Style::Debezium);
        let mut records = Records::new(epoch, delta.len());
        if let Some(key) = &self.key {
            let keyed = Keyed::new(delta, key, Style::Debezium)?;
            for change in &keyed.changes {
                let key = &keyed.keys[change.key.clone()];
                records.push(Some(key), |out| write_envelope(&rows, change.before, change.after, epoch, out));
                if change.after.is_none() {
                    records.tombstone(key);
                }
            }
        } else {
            for row in 0..delta.len() {
                let weight = delta.weight(row);
                let (before, after) = if weight < 0 { (Some(row), None) } else { (None, Some(row)) };
                for _ in 0..weight.unsigned_abs() {
                    records.push(None, |out| write_envelope(&rows, before, after, epoch, out));
                }
            }
        }
        records.finish(out);
        Ok(())
    }
}

fn write_envelope(rows: &Rows<'_>, before: Option<usize>, after: Option<usize>, epoch: u64, out: &mut Vec<u8>) {
    let mut side = |name: &[u8], row: Option<usize>| {
        out.extend_from_slice(name);
        match row {
            Some(row) => rows.write(row, out),
            None => out.extend_from_slice(b"null"),
        }
    };
    side(b"{\"before\":", before);
    side(b",\"after\":", after);
    let op = match (before, after) {
        (None, _) => "c",
        (Some(_), Some(_)) => "u",
        (Some(_), None) => "d",
    };
    let tail = format!(
        r#","source":{{"connector":"riverrun","epoch":{epoch}}},"op":"{op}","ts_ms":null,"transaction":null}}"#
    );
    out.extend_from_slice(tail.as_bytes());
}

/// A delta by key: what was before, what is after.
struct Keyed {
    keys: Vec<u8>,
    changes: Vec<Change>,
}

struct Change {
    /// Place of the key's bytes.
    key: Range<usize>,
    before: Option<usize>,
    after: Option<usize>,
}

impl Keyed {
    fn new(delta: &Delta, key: &[usize], style: Style) -> Result<Self, Error> {
        let rows = Rows::new(&delta.rows, key, style);
        let (mut keys, mut ends) = (Vec::with_capacity(delta.len() * 16), Vec::with_capacity(delta.len()));
        for row in 0..delta.len() {
            rows.write(row, &mut keys);
            ends.push(keys.len());
        }
        let mut places: HashMap<&[u8], usize> = HashMap::with_capacity(delta.len());
        let mut changes: Vec<Change> = Vec::with_capacity(delta.len());
        let mut start = 0;
        for (row, end) in ends.into_iter().enumerate() {
            let range = start..end;
            start = end;
            let place = *places.entry(&keys[range.clone()]).or_insert_with(|| {
                changes.push(Change { key: range.clone(), before: None, after: None });
                changes.len() - 1
            });
            let change = &mut changes[place];
            let (weight, side) = match delta.weight(row) {
                weight if weight > 0 => (weight, &mut change.after),
                weight => (-weight, &mut change.before),
            };
            if weight != 1 || side.replace(row).is_some() {
                let key = String::from_utf8_lossy(&keys[range]);
                return Err(Error::Value(format!(
                    "several rows have the key {key}, which is declared or proved unique"
                )));
            }
        }
        Ok(Self { keys, changes })
    }
}

/// Bytes in a buffer; none for null.
type Span = Option<Range<usize>>;

/// Records on their way into one shared buffer.
struct Records {
    buffer: Vec<u8>,
    /// Key and value of each.
    spans: Vec<(Span, Span)>,
    header: Header,
}

impl Records {
    fn new(epoch: u64, rows: usize) -> Self {
        let header = Header { key: Bytes::from_static(b"epoch"), value: Some(Bytes::from(epoch.to_string())) };
        Self { buffer: Vec::with_capacity(rows * 64), spans: Vec::with_capacity(rows), header }
    }

    fn push(&mut self, key: Option<&[u8]>, write: impl FnOnce(&mut Vec<u8>)) {
        let key = key.map(|key| self.write(|out| out.extend_from_slice(key)));
        let value = self.write(write);
        self.spans.push((key, Some(value)));
    }

    fn tombstone(&mut self, key: &[u8]) {
        let key = self.write(|out| out.extend_from_slice(key));
        self.spans.push((Some(key), None));
    }

    fn write(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> Range<usize> {
        let start = self.buffer.len();
        write(&mut self.buffer);
        start..self.buffer.len()
    }

    fn finish(self, out: &mut Vec<NewRecord>) {
        let buffer = Bytes::from(self.buffer);
        out.extend(self.spans.into_iter().map(|(key, value)| NewRecord {
            key: key.map(|span| buffer.slice(span)),
            value: value.map(|span| buffer.slice(span)),
            headers: vec![self.header.clone()],
            timestamp_ms: None,
        }));
    }
}
