//! `json`: the value is one flat JSON object, a field a column; the key of a keyed relation is an object of its key
//! columns, a null value deletes. Unknown fields are passed over, absent ones are null.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, SchemaRef};
use engine::codec::{Decode, DecodeError, Decoded, Encode, Format, RowOp};

use super::columns::{Columns, check_types, nullable};
use super::object::{self, Names, is_null};
use super::output::FlatJson;
use super::{check_options, check_run, text};

/// The format.
pub(crate) struct Json;

impl Format for Json {
    fn name(&self) -> &'static str {
        "json"
    }

    fn decode(
        &self,
        schema: Option<SchemaRef>,
        key: &[usize],
        options: &BTreeMap<String, String>,
    ) -> Result<Box<dyn Decode>, String> {
        check_options(self.name(), options)?;
        let schema = schema.ok_or("the format json needs declared columns")?;
        Ok(Box::new(JsonDecode { rows: RowReader::new(&schema, key)? }))
    }

    fn encode(
        &self,
        schema: SchemaRef,
        key: Option<&[usize]>,
        append_only: bool,
        options: &BTreeMap<String, String>,
    ) -> Result<Box<dyn Encode>, String> {
        check_options(self.name(), options)?;
        check_types(&schema)?;
        Ok(Box::new(FlatJson::new(&schema, key, append_only)))
    }
}

/// What both JSON formats need to know of a relation to read its rows.
pub(crate) struct RowReader {
    pub schema: SchemaRef,
    pub key: Vec<usize>,
    /// Columns declared NOT NULL.
    required: Vec<usize>,
    pub names: Names,
    /// Names of the key columns, in their order, then `schema` and `payload` of Kafka Connect's wrapper.
    key_names: Names,
}

impl RowReader {
    pub(crate) fn new(schema: &SchemaRef, key: &[usize]) -> Result<Self, String> {
        check_types(schema)?;
        if let Some(column) = key.iter().find(|column| **column >= schema.fields().len()) {
            return Err(format!("the key names column {column}, but there are {} columns", schema.fields().len()));
        }
        let names = Names::new(schema.fields().iter().map(|field| field.name().as_str()));
        let wrapper = ["schema", "payload"];
        let key_names = Names::new(key.iter().map(|column| schema.field(*column).name().as_str()).chain(wrapper));
        let required = (0..schema.fields().len()).filter(|column| !schema.field(*column).is_nullable()).collect();
        Ok(Self { schema: nullable(schema), key: key.to_vec(), required, names, key_names })
    }

    /// Puts the key columns that a record's key holds into the `slots` that are still empty. The key is an object
    /// (bare or in Kafka Connect's wrapper) or, for a key of one column, the value alone.
    pub(crate) fn read_key<'a>(&self, key: &'a [u8], slots: &mut [Option<&'a str>]) -> Result<(), String> {
        let mut parts = vec![None; self.key_names.len()];
        let mut json = text(key)?.trim_ascii();
        if !json.starts_with('{') {
            // A bare value; the row's own checks refuse what is no JSON value of the column's type.
            if let [column] = self.key[..] {
                serde_json::from_str::<&serde_json::value::RawValue>(json).map_err(|_| self.bare_key(column, json))?;
                slots[column].get_or_insert(json);
                return Ok(());
            }
        }
        object::read(json, &self.key_names, &mut parts).map_err(|error| format!("the key is not valid: {error}"))?;
        let columns = self.key.len();
        if let (true, [Some(_), Some(payload)]) = (parts[..columns].iter().all(Option::is_none), &parts[columns..]) {
            json = *payload;
            object::read(json, &self.key_names, &mut parts)
                .map_err(|error| format!("the key is not valid: {error}"))?;
        }
        for (column, part) in self.key.iter().zip(parts) {
            if slots[*column].is_none() {
                slots[*column] = part;
            }
        }
        Ok(())
    }

    fn bare_key(&self, column: usize, json: &str) -> String {
        let shown: String = json.chars().take(40).collect();
        let name = self.schema.field(column).name();
        let quotes =
            if self.schema.field(column).data_type() == &DataType::Utf8 { " (text stands in quotes)" } else { "" };
        format!("the key {shown:?} is neither an object nor a JSON value of column {name:?}{quotes}")
    }

    /// Says which key column has no value.
    pub(crate) fn check_key(&self, slots: &[Option<&str>]) -> Result<(), String> {
        match self.key.iter().find(|column| slots[**column].is_none_or(is_null)) {
            Some(column) => Err(format!("the key column {:?} is missing or null", self.schema.field(*column).name())),
            None => Ok(()),
        }
    }

    /// Says which column declared NOT NULL has no value in a row that is there; `unchanged` are those that the record
    /// leaves as they were.
    pub(crate) fn check_required(&self, slots: &[Option<&str>], unchanged: &[(u32, u32)]) -> Result<(), String> {
        let is_unchanged = |column: usize| unchanged.iter().any(|(_, other)| *other as usize == column);
        match self.required.iter().find(|column| slots[**column].is_none_or(is_null) && !is_unchanged(**column)) {
            Some(column) => Err(format!("null in column {:?}, which is NOT NULL", self.schema.field(*column).name())),
            None => Ok(()),
        }
    }

    /// Leaves only the key columns.
    pub(crate) fn keep_key(&self, slots: &mut [Option<&str>]) {
        for (column, slot) in slots.iter_mut().enumerate() {
            if !self.key.contains(&column) {
                *slot = None;
            }
        }
    }
}

struct JsonDecode {
    rows: RowReader,
}

impl JsonDecode {
    /// Fills the slots from one record and says what it does; `None` when it says nothing of any row.
    fn read<'a>(&self, record: &'a log::RecordView, slots: &mut [Option<&'a str>]) -> Result<Option<RowOp>, String> {
        let keyed = !self.rows.key.is_empty();
        let Some(value) = &record.value else {
            let Some(key) = record.key.as_ref().filter(|_| keyed) else { return Ok(None) };
            self.rows.read_key(key, slots)?;
            self.rows.check_key(slots)?;
            return Ok(Some(RowOp::Delete));
        };
        object::read(text(value)?, &self.rows.names, slots)?;
        if !keyed {
            self.rows.check_required(slots, &[])?;
            return Ok(Some(RowOp::Insert));
        }
        if let Some(key) = record.key.as_ref().filter(|_| self.rows.key.iter().any(|column| slots[*column].is_none())) {
            self.rows.read_key(key, slots)?;
        }
        self.rows.check_key(slots)?;
        self.rows.check_required(slots, &[])?;
        Ok(Some(RowOp::Upsert))
    }
}

impl Decode for JsonDecode {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.rows.schema)
    }

    fn upsert(&self) -> bool {
        !self.rows.key.is_empty()
    }

    fn decode(&self, _: log::TopicPartition, records: &[log::RecordView]) -> Result<Decoded, DecodeError> {
        check_run(records)?;
        let mut columns = Columns::new(&self.rows.schema, records.len());
        let mut ops = Vec::with_capacity(records.len());
        let mut slots = vec![None; self.rows.names.len()];
        for record in records {
            slots.fill(None);
            let op = self.read(record, &mut slots).and_then(|op| match op {
                Some(op) => columns.push(&slots).map(|()| Some(op)),
                None => Ok(None),
            });
            match op {
                Ok(op) => ops.extend(op),
                Err(reason) => return Err(DecodeError { offset: record.offset, reason }),
            }
        }
        Ok(Decoded { rows: columns.finish(), ops, unchanged: Vec::new() })
    }
}
