//! `debezium-json`: Debezium's envelope `{before, after, source, op, …}`, bare or in Kafka Connect's wrapper with a schema.
//! `before` is never trusted where there is a key; where there is none it is the identity of the row.
//! Envelope: Debezium 3.6's documentation, "Data change events".

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, SchemaRef};
use engine::codec::{Decode, DecodeError, Decoded, Encode, Format, RowOp};

use super::columns::{Columns, check_types};
use super::json::RowReader;
use super::object::{self, Names, is_null, string};
use super::output::DebeziumJson;
use super::{check_options, check_run, text};

/// The format, under one of its names.
pub(crate) struct Debezium {
    pub name: &'static str,
}

/// What Debezium writes for a value that the database did not send; in base64 where the column holds bytes.
const UNAVAILABLE: &str = r#""__debezium_unavailable_value""#;
const UNAVAILABLE_BYTES: &str = r#""X19kZWJleml1bV91bmF2YWlsYWJsZV92YWx1ZQ==""#;

impl Format for Debezium {
    fn name(&self) -> &'static str {
        self.name
    }

    fn decode(
        &self,
        schema: Option<SchemaRef>,
        key: &[usize],
        options: &BTreeMap<String, String>,
    ) -> Result<Box<dyn Decode>, String> {
        check_options(self.name, options)?;
        let schema = schema.ok_or_else(|| format!("the format {} needs declared columns", self.name))?;
        let rows = RowReader::new(&schema, key)?;
        Ok(Box::new(DebeziumDecode { rows, envelope: Names::new(["before", "after", "op", "payload"]) }))
    }

    fn encode(
        &self,
        schema: SchemaRef,
        key: Option<&[usize]>,
        _append_only: bool,
        options: &BTreeMap<String, String>,
    ) -> Result<Box<dyn Encode>, String> {
        check_options(self.name, options)?;
        check_types(&schema)?;
        Ok(Box::new(DebeziumJson::new(&schema, key)))
    }
}

struct DebeziumDecode {
    rows: RowReader,
    envelope: Names,
}

/// The parts of an envelope that matter here, raw.
struct Envelope<'a> {
    before: Option<&'a str>,
    after: Option<&'a str>,
    op: char,
}

/// The rows of a run so far.
struct Out<'a> {
    columns: Columns,
    ops: Vec<RowOp>,
    unchanged: Vec<(u32, u32)>,
    slots: Vec<Option<&'a str>>,
    before: Vec<Option<&'a str>>,
}

impl<'a> Out<'a> {
    fn push(&mut self, op: RowOp) -> Result<(), String> {
        self.columns.push(&self.slots)?;
        self.ops.push(op);
        Ok(())
    }

    /// Empties the slots of values that the source left unchanged and notes them for the row that comes next; of a
    /// partial row those of columns that are not there at all too.
    fn note_unchanged(&mut self, schema: &SchemaRef, partial: bool) {
        let row = u32::try_from(self.columns.rows()).expect("a run has fewer than 2^32 rows");
        for (column, slot) in (0u32..).zip(&mut self.slots) {
            let unchanged = match slot {
                None => partial,
                Some(raw) => unavailable(raw, schema.field(column as usize).data_type()),
            };
            if unchanged {
                *slot = None;
                self.unchanged.push((row, column));
            }
        }
    }
}

fn unavailable(raw: &str, kind: &DataType) -> bool {
    raw == UNAVAILABLE || (raw == UNAVAILABLE_BYTES && *kind == DataType::Binary)
}

impl DebeziumDecode {
    /// `None` for tombstones and for envelopes that carry no row.
    fn envelope<'a>(&self, value: &'a [u8]) -> Result<Option<Envelope<'a>>, String> {
        let mut json = text(value)?;
        for _wrapped in [true, false] {
            if is_null(json.trim_ascii()) {
                return Ok(None);
            }
            let mut parts = [None; 4];
            object::read(json, &self.envelope, &mut parts)?;
            let [before, after, op, payload] = parts;
            match (op, payload) {
                (Some(op), _) => {
                    let op = string(op).ok_or_else(|| format!("op is {op}"))?;
                    let mut chars = op.chars();
                    return match (chars.next(), chars.next()) {
                        (Some('m'), None) => Ok(None),
                        (Some(op @ ('c' | 'r' | 'u' | 'd' | 't')), None) => {
                            let some = |raw: Option<&'a str>| raw.filter(|raw| !is_null(raw));
                            Ok(Some(Envelope { before: some(before), after: some(after), op }))
                        }
                        _ => Err(format!("op {op:?} is none of c, r, u, d, t, m")),
                    };
                }
                (None, Some(payload)) => json = payload,
                (None, None) => break,
            }
        }
        Err("the value is no Debezium envelope: it has no field \"op\"".into())
    }

    fn read<'a>(&self, record: &'a log::RecordView, out: &mut Out<'a>) -> Result<(), String> {
        let Some(value) = &record.value else { return Ok(()) };
        let Some(envelope) = self.envelope(value)? else { return Ok(()) };
        out.slots.fill(None);
        if envelope.op == 't' {
            return out.push(RowOp::Truncate);
        }
        if self.rows.key.is_empty() {
            self.read_unkeyed(&envelope, out)
        } else {
            self.read_keyed(record, &envelope, out)
        }
    }

    fn read_keyed<'a>(
        &self,
        record: &'a log::RecordView,
        envelope: &Envelope<'a>,
        out: &mut Out<'a>,
    ) -> Result<(), String> {
        let row = if envelope.op == 'd' { None } else { Some(self.after(envelope)?) };
        if let Some(after) = row {
            self.fields(after, "after", &mut out.slots)?;
        }
        let missing = self.rows.key.iter().any(|column| out.slots[*column].is_none());
        if let Some(key) = record.key.as_ref().filter(|_| missing) {
            self.rows.read_key(key, &mut out.slots)?;
        }
        if row.is_some() {
            self.rows.check_key(&out.slots)?;
            // A create that moves a row to another key leaves out what the database did not send, as an update does.
            let partial = envelope.op == 'u'
                || (out.slots.iter().any(Option::is_none) && record.header("__debezium.oldkey").is_some());
            let noted = out.unchanged.len();
            out.note_unchanged(&self.rows.schema, partial);
            self.rows.check_required(&out.slots, &out.unchanged[noted..])?;
            return out.push(RowOp::Upsert);
        }
        if let (None, Some(before)) = (&record.key, envelope.before) {
            self.fields(before, "before", &mut out.slots)?;
            self.rows.keep_key(&mut out.slots);
        }
        self.rows.check_key(&out.slots)?;
        out.push(RowOp::Delete)
    }

    fn read_unkeyed<'a>(&self, envelope: &Envelope<'a>, out: &mut Out<'a>) -> Result<(), String> {
        if matches!(envelope.op, 'u' | 'd') {
            let before = envelope.before.ok_or(
                "before is missing, but without a key it alone says which row is meant: \
                 the table needs REPLICA IDENTITY FULL or a primary key",
            )?;
            self.fields(before, "before", &mut out.slots)?;
            out.push(RowOp::Retract)?;
        }
        if envelope.op == 'd' {
            return Ok(());
        }
        out.before.copy_from_slice(&out.slots);
        out.slots.fill(None);
        self.fields(self.after(envelope)?, "after", &mut out.slots)?;
        if envelope.op == 'u' {
            for (column, (slot, before)) in out.slots.iter_mut().zip(&out.before).enumerate() {
                if slot.is_none_or(|raw| unavailable(raw, self.rows.schema.field(column).data_type())) {
                    *slot = *before;
                }
            }
        }
        self.rows.check_required(&out.slots, &[])?;
        out.push(RowOp::Insert)
    }

    fn after<'a>(&self, envelope: &Envelope<'a>) -> Result<&'a str, String> {
        envelope.after.ok_or_else(|| format!("after is missing, but op is {:?}", envelope.op))
    }

    fn fields<'a>(&self, json: &'a str, which: &str, slots: &mut [Option<&'a str>]) -> Result<(), String> {
        object::read(json, &self.rows.names, slots).map_err(|error| format!("{which}: {error}"))
    }
}

impl Decode for DebeziumDecode {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.rows.schema)
    }

    fn upsert(&self) -> bool {
        true
    }

    fn decode(&self, _: log::TopicPartition, records: &[log::RecordView]) -> Result<Decoded, DecodeError> {
        check_run(records)?;
        let columns = self.rows.names.len();
        let mut out = Out {
            columns: Columns::new(&self.rows.schema, records.len()),
            ops: Vec::with_capacity(records.len()),
            unchanged: Vec::new(),
            slots: vec![None; columns],
            before: vec![None; columns],
        };
        for record in records {
            self.read(record, &mut out).map_err(|reason| DecodeError { offset: record.offset, reason })?;
        }
        Ok(Decoded { rows: out.columns.finish(), ops: out.ops, unchanged: out.unchanged })
    }
}
