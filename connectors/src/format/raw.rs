//! `raw`: the record itself, bytes untouched. Columns: key, value (bytea, or text where so declared), headers (a JSON
//! array of `{"key", "value"}`), partition, offset, timestamp. With `PRIMARY KEY (key)` a null value deletes.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryBuilder, Int32Builder, Int64Builder, RecordBatch, StringBuilder, TimestampMicrosecondBuilder,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use engine::codec::{Decode, DecodeError, Decoded, Encode, Format, RowOp};

use super::columns::nullable;
use super::write::write_string;
use super::{check_options, check_run, text};

/// The format.
pub(crate) struct Raw;

impl Format for Raw {
    fn name(&self) -> &'static str {
        "raw"
    }

    fn decode(
        &self,
        schema: Option<SchemaRef>,
        key: &[usize],
        options: &BTreeMap<String, String>,
    ) -> Result<Box<dyn Decode>, String> {
        check_options(self.name(), options)?;
        let schema = schema.unwrap_or_else(own_schema);
        let parts = schema.fields().iter().map(|field| Part::of(field)).collect::<Result<Vec<_>, _>>()?;
        let keyed = match key {
            [] => false,
            [column] if parts.get(*column).is_some_and(|part| matches!(part, Part::Key { .. })) => true,
            _ => return Err("the primary key of a raw table can only be the column \"key\"".into()),
        };
        Ok(Box::new(RawDecode { schema: nullable(&schema), parts, keyed }))
    }

    fn encode(
        &self,
        _: SchemaRef,
        _: Option<&[usize]>,
        _: bool,
        _: &BTreeMap<String, String>,
    ) -> Result<Box<dyn Encode>, String> {
        Err("the format raw is for reading; rows are written as json or debezium".into())
    }
}

fn own_schema() -> SchemaRef {
    let timestamp = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let json = BTreeMap::from([("pg_type".to_owned(), "json".to_owned())]).into_iter().collect();
    Arc::new(Schema::new(vec![
        Field::new("key", DataType::Binary, true),
        Field::new("value", DataType::Binary, true),
        Field::new("headers", DataType::Utf8, true).with_metadata(json),
        Field::new("partition", DataType::Int32, true),
        Field::new("offset", DataType::Int64, true),
        Field::new("timestamp", timestamp, true),
    ]))
}

/// What a column shows of a record.
#[derive(Clone, Copy)]
enum Part {
    Key { text: bool },
    Value { text: bool },
    Headers,
    Partition,
    Offset,
    Timestamp,
}

impl Part {
    fn of(field: &Field) -> Result<Self, String> {
        let kind = field.data_type();
        let is_text = *kind == DataType::Utf8;
        match field.name().as_str() {
            "key" if is_text || *kind == DataType::Binary => Ok(Self::Key { text: is_text }),
            "value" if is_text || *kind == DataType::Binary => Ok(Self::Value { text: is_text }),
            "headers" if is_text => Ok(Self::Headers),
            "partition" if *kind == DataType::Int32 => Ok(Self::Partition),
            "offset" if *kind == DataType::Int64 => Ok(Self::Offset),
            "timestamp" if matches!(kind, DataType::Timestamp(TimeUnit::Microsecond, Some(_))) => Ok(Self::Timestamp),
            name => Err(format!(
                "the format raw has no column {name:?} of type {kind}; it has key and value (bytea or text), headers \
                 (json), partition (integer), offset (bigint) and timestamp (timestamptz)"
            )),
        }
    }

    fn column(self, partition: i32, records: &[log::RecordView]) -> Result<ArrayRef, DecodeError> {
        let column = |text: bool, part: fn(&log::RecordView) -> Option<&[u8]>, name: &str| {
            if text { texts(records, part, name) } else { Ok(Arc::new(bytes(records, part)) as ArrayRef) }
        };
        Ok(match self {
            Self::Key { text } => column(text, |record| record.key.as_deref(), "key")?,
            Self::Value { text } => column(text, |record| record.value.as_deref(), "value")?,
            Self::Headers => headers(records)?,
            Self::Partition => {
                let mut builder = Int32Builder::with_capacity(records.len());
                builder.append_value_n(partition, records.len());
                Arc::new(builder.finish())
            }
            Self::Offset => {
                let mut builder = Int64Builder::with_capacity(records.len());
                records.iter().for_each(|record| builder.append_value(record.offset.0));
                Arc::new(builder.finish())
            }
            Self::Timestamp => {
                let mut builder = TimestampMicrosecondBuilder::with_capacity(records.len());
                for record in records {
                    // Kafka's -1 says that there is none.
                    let known = Some(record.timestamp_ms).filter(|ms| *ms >= 0);
                    builder.append_option(known.and_then(|ms| ms.checked_mul(1000)));
                }
                Arc::new(builder.finish().with_timezone("UTC"))
            }
        })
    }
}

fn bytes(records: &[log::RecordView], part: fn(&log::RecordView) -> Option<&[u8]>) -> arrow::array::BinaryArray {
    let mut builder = BinaryBuilder::with_capacity(records.len(), 0);
    records.iter().for_each(|record| builder.append_option(part(record)));
    builder.finish()
}

fn texts(
    records: &[log::RecordView],
    part: fn(&log::RecordView) -> Option<&[u8]>,
    name: &str,
) -> Result<ArrayRef, DecodeError> {
    let mut builder = StringBuilder::with_capacity(records.len(), 0);
    for record in records {
        let value = part(record).map(text).transpose();
        let value =
            value.map_err(|reason| DecodeError { offset: record.offset, reason: format!("{name}: {reason}") })?;
        builder.append_option(value);
    }
    Ok(Arc::new(builder.finish()))
}

/// Values that are no text stand as `"base64"` instead of `"value"`.
fn headers(records: &[log::RecordView]) -> Result<ArrayRef, DecodeError> {
    let mut builder = StringBuilder::with_capacity(records.len(), 0);
    let mut json = Vec::new();
    for record in records {
        json.clear();
        json.push(b'[');
        let fail = |reason: String| DecodeError { offset: record.offset, reason: format!("headers: {reason}") };
        for (place, header) in record.headers().map_err(|error| fail(error.to_string()))?.iter().enumerate() {
            json.extend_from_slice(if place == 0 { b"{\"key\":" } else { b",{\"key\":" });
            write_string(&mut json, &String::from_utf8_lossy(&header.key));
            match header.value.as_deref().map(|value| (value, std::str::from_utf8(value))) {
                None => json.extend_from_slice(b",\"value\":null"),
                Some((_, Ok(value))) => {
                    json.extend_from_slice(b",\"value\":");
                    write_string(&mut json, value);
                }
                Some((value, Err(_))) => {
                    json.extend_from_slice(b",\"base64\":");
                    write_string(&mut json, &BASE64.encode(value));
                }
            }
            json.push(b'}');
        }
        json.push(b']');
        builder.append_value(std::str::from_utf8(&json).expect("JSON is written as UTF-8"));
    }
    Ok(Arc::new(builder.finish()))
}

struct RawDecode {
    schema: SchemaRef,
    parts: Vec<Part>,
    keyed: bool,
}

impl Decode for RawDecode {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn upsert(&self) -> bool {
        self.keyed
    }

    fn decode(&self, partition: log::TopicPartition, records: &[log::RecordView]) -> Result<Decoded, DecodeError> {
        check_run(records)?;
        let mut ops = vec![RowOp::Insert; records.len()];
        for (op, record) in ops.iter_mut().zip(records).filter(|_| self.keyed) {
            if record.key.is_none() {
                return Err(DecodeError { offset: record.offset, reason: "the key is null".into() });
            }
            *op = if record.value.is_some() { RowOp::Upsert } else { RowOp::Delete };
        }
        let columns = self.parts.iter().map(|part| part.column(partition.partition, records));
        let columns = columns.collect::<Result<Vec<_>, _>>()?;
        let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(records.len()));
        let rows = RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options);
        Ok(Decoded { rows: rows.expect("columns follow the schema"), ops, unchanged: Vec::new() })
    }
}
