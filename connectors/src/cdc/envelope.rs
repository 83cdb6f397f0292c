//! Debezium's envelope as JSON without schema, from templates rendered once a relation: key, value, images.

use crate::cdc::json;
use crate::change::{Op, Value};

/// A relation as its records are written: column names rendered once.
#[derive(Clone, Debug)]
pub struct Relation {
    /// Its place in [`engine::io::Source::relations`].
    pub index: usize,
    /// `schema.table`, for messages and the transaction block.
    pub name: String,
    columns: Vec<Column>,
    /// Indices of the key columns, in key order. Empty: the whole row identifies it.
    key: Vec<usize>,
}

#[derive(Clone, Debug)]
struct Column {
    name: String,
    /// `"name":`
    label: Vec<u8>,
}

/// The part of an envelope that is not the row.
pub struct Frame<'a> {
    pub op: Op,
    /// Microseconds since 1970, UTC: when the change was processed here.
    pub now_us: i64,
    pub transaction: Option<Order<'a>>,
}

/// Place of an event in its transaction, both counted from 1.
pub struct Order<'a> {
    pub id: &'a str,
    pub total: u64,
    pub in_collection: u64,
}

impl Relation {
    pub fn new(index: usize, name: String, columns: impl IntoIterator<Item = String>, key: Vec<usize>) -> Relation {
        let columns: Vec<Column> = columns
            .into_iter()
            .map(|name| {
                let mut label = Vec::with_capacity(name.len() + 3);
                json::string(&mut label, &name);
                label.push(b':');
                Column { name, label }
            })
            .collect();
        assert!(key.iter().all(|&at| at < columns.len()), "key columns are columns");
        Relation { index, name, columns, key }
    }

    pub fn key(&self) -> &[usize] {
        &self.key
    }

    pub fn width(&self) -> usize {
        self.columns.len()
    }

    pub fn column(&self, at: usize) -> &str {
        &self.columns[at].name
    }

    /// Writes the key object, or gives the index of a key column that `row` does not carry.
    pub fn write_key(&self, out: &mut Vec<u8>, row: &[Value<'_>]) -> Result<(), usize> {
        self.object(out, self.key.iter().map(|&at| (at, row.get(at).unwrap_or(&Value::Absent))));
        match self.key.iter().find(|&&at| matches!(row.get(at), None | Some(Value::Absent | Value::Null))) {
            Some(&missing) => Err(missing),
            None => Ok(()),
        }
    }

    /// Writes the whole envelope; `source` writes the source block, an object.
    pub fn write_value(
        &self,
        out: &mut Vec<u8>,
        frame: &Frame<'_>,
        before: Option<&[Value<'_>]>,
        after: Option<&[Value<'_>]>,
        source: impl Fn(&mut Vec<u8>),
    ) {
        out.extend_from_slice(b"{\"before\":");
        self.image(out, before);
        out.extend_from_slice(b",\"after\":");
        self.image(out, after);
        out.extend_from_slice(b",\"source\":");
        source(out);
        out.extend_from_slice(b",\"transaction\":");
        match &frame.transaction {
            None => out.extend_from_slice(b"null"),
            Some(order) => {
                out.extend_from_slice(b"{\"id\":");
                json::string(out, order.id);
                out.extend_from_slice(b",\"total_order\":");
                json::uint(out, order.total);
                out.extend_from_slice(b",\"data_collection_order\":");
                json::uint(out, order.in_collection);
                out.push(b'}');
            }
        }
        out.extend_from_slice(b",\"op\":\"");
        out.extend_from_slice(frame.op.letter().as_bytes());
        out.extend_from_slice(b"\",\"ts_ms\":");
        json::int(out, frame.now_us.div_euclid(1000));
        out.extend_from_slice(b",\"ts_us\":");
        json::int(out, frame.now_us);
        out.extend_from_slice(b",\"ts_ns\":");
        json::int(out, frame.now_us.saturating_mul(1000));
        out.push(b'}');
    }

    fn image(&self, out: &mut Vec<u8>, row: Option<&[Value<'_>]>) {
        match row {
            None => out.extend_from_slice(b"null"),
            Some(row) => self.object(out, row.iter().enumerate()),
        }
    }

    fn object<'v>(&self, out: &mut Vec<u8>, fields: impl Iterator<Item = (usize, &'v Value<'v>)>) {
        out.push(b'{');
        let mut first = true;
        for (at, value) in fields {
            if *value == Value::Absent {
                continue;
            }
            if !first {
                out.push(b',');
            }
            first = false;
            out.extend_from_slice(&self.columns[at].label);
            json::value(out, value);
        }
        out.push(b'}');
    }
}
