//! Arrow columns filled from raw JSON values, each by its declared type. A value of another type is an error that names
//! column, type and value; nothing is rounded, wrapped or guessed.

use std::fmt::Write as _;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryBuilder, BooleanBuilder, Date32Builder, Decimal128Builder, Float32Builder, Float64Builder,
    Int16Builder, Int32Builder, Int64Builder, RecordBatch, StringBuilder, Time64MicrosecondBuilder,
    TimestampMicrosecondBuilder,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::number::{Misfit, parse_decimal};
use super::object::{is_null, string};
use super::time;

/// What an error shows of a value.
const SHOWN_CHARS_MAX: usize = 80;

/// The columns of a batch on its way.
pub(crate) struct Columns {
    schema: SchemaRef,
    builders: Vec<Builder>,
    rows: usize,
}

impl Columns {
    /// `schema` as checked by [`check_types`], every column nullable.
    pub(crate) fn new(schema: &SchemaRef, rows: usize) -> Self {
        let builders = schema.fields().iter().map(|field| Builder::new(field, rows)).collect();
        Self { schema: Arc::clone(schema), builders, rows: 0 }
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// Adds a row of raw values; an absent one is null.
    pub(crate) fn push(&mut self, values: &[Option<&str>]) -> Result<(), String> {
        assert_eq!(values.len(), self.builders.len(), "a value a column");
        for (column, (builder, value)) in self.builders.iter_mut().zip(values).enumerate() {
            match value {
                Some(raw) if !is_null(raw) => {
                    if let Err(misfit) = builder.push(raw) {
                        return Err(describe(self.schema.field(column), raw, misfit));
                    }
                }
                _ => builder.push_null(),
            }
        }
        self.rows += 1;
        Ok(())
    }

    pub(crate) fn finish(mut self) -> RecordBatch {
        let columns: Vec<ArrayRef> = self.builders.iter_mut().map(Builder::finish).collect();
        let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(self.rows));
        RecordBatch::try_new_with_options(self.schema, columns, &options).expect("builders follow the schema")
    }
}

/// Refuses columns of types that no format carries.
pub(crate) fn check_types(schema: &Schema) -> Result<(), String> {
    for field in schema.fields() {
        match field.data_type() {
            DataType::Boolean
            | DataType::Int16
            | DataType::Int32
            | DataType::Int64
            | DataType::Float32
            | DataType::Float64
            | DataType::Decimal128(..)
            | DataType::Utf8
            | DataType::Binary
            | DataType::Date32
            | DataType::Time64(TimeUnit::Microsecond)
            | DataType::Timestamp(TimeUnit::Microsecond, _) => {}
            other => return Err(format!("column {:?} has the type {other}, which records cannot carry", field.name())),
        }
    }
    Ok(())
}

/// The declared columns, every one nullable.
pub(crate) fn nullable(schema: &Schema) -> SchemaRef {
    let fields: Vec<Field> = schema.fields().iter().map(|f| f.as_ref().clone().with_nullable(true)).collect();
    Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone()))
}

/// The name people know a column's type by.
fn type_name(field: &Field) -> String {
    match field.data_type() {
        DataType::Boolean => "boolean".into(),
        DataType::Int16 => "smallint".into(),
        DataType::Int32 => "integer".into(),
        DataType::Int64 => "bigint".into(),
        DataType::Float32 => "real".into(),
        DataType::Float64 => "double precision".into(),
        DataType::Decimal128(precision, scale) => format!("numeric({precision},{scale})"),
        DataType::Binary => "bytea".into(),
        DataType::Date32 => "date".into(),
        DataType::Time64(_) => "time".into(),
        DataType::Timestamp(_, None) => "timestamp".into(),
        DataType::Timestamp(_, Some(_)) => "timestamp with time zone".into(),
        _ => field.metadata().get("pg_type").cloned().unwrap_or_else(|| "text".into()),
    }
}

fn describe(field: &Field, raw: &str, misfit: Misfit) -> String {
    let kind = type_name(field);
    let mut reason = format!("column {:?}: ", field.name());
    let shown: String = raw.chars().take(SHOWN_CHARS_MAX).collect();
    let dots = if shown.len() < raw.len() { "…" } else { "" };
    let written = match misfit {
        Misfit::NotANumber => write!(reason, "{shown}{dots} is no {kind}"),
        Misfit::NotFinite => write!(reason, "{shown}{dots} cannot be held by {kind}: only finite values can"),
        Misfit::Inexact => write!(reason, "{shown}{dots} has more digits behind the point than {kind} holds"),
        Misfit::TooLarge => write!(reason, "{shown}{dots} is out of the range of {kind}"),
    };
    written.expect("writing to memory does not fail");
    reason
}

enum Builder {
    Boolean(BooleanBuilder),
    Int16(Int16Builder),
    Int32(Int32Builder),
    Int64(Int64Builder),
    Float32(Float32Builder),
    Float64(Float64Builder),
    Decimal(Decimal128Builder, u8, i8),
    Text(StringBuilder),
    /// Text of a type that JSON may render as another value (json itself, arrays, …): any value's text is taken.
    Other(StringBuilder),
    Binary(BinaryBuilder),
    Date(Date32Builder),
    Time(Time64MicrosecondBuilder),
    Timestamp(TimestampMicrosecondBuilder),
    TimestampUtc(TimestampMicrosecondBuilder),
}

impl Builder {
    fn new(field: &Field, rows: usize) -> Self {
        match field.data_type() {
            DataType::Boolean => Self::Boolean(BooleanBuilder::with_capacity(rows)),
            DataType::Int16 => Self::Int16(Int16Builder::with_capacity(rows)),
            DataType::Int32 => Self::Int32(Int32Builder::with_capacity(rows)),
            DataType::Int64 => Self::Int64(Int64Builder::with_capacity(rows)),
            DataType::Float32 => Self::Float32(Float32Builder::with_capacity(rows)),
            DataType::Float64 => Self::Float64(Float64Builder::with_capacity(rows)),
            DataType::Decimal128(precision, scale) => {
                let builder = Decimal128Builder::with_capacity(rows).with_data_type(field.data_type().clone());
                Self::Decimal(builder, *precision, *scale)
            }
            DataType::Utf8 if field.metadata().contains_key("pg_type") => Self::Other(text_builder(rows)),
            DataType::Utf8 => Self::Text(text_builder(rows)),
            DataType::Binary => Self::Binary(BinaryBuilder::with_capacity(rows, rows * 16)),
            DataType::Date32 => Self::Date(Date32Builder::with_capacity(rows)),
            DataType::Time64(_) => Self::Time(Time64MicrosecondBuilder::with_capacity(rows)),
            DataType::Timestamp(_, zone) => {
                let builder =
                    TimestampMicrosecondBuilder::with_capacity(rows).with_data_type(field.data_type().clone());
                if zone.is_none() { Self::Timestamp(builder) } else { Self::TimestampUtc(builder) }
            }
            other => unreachable!("check_types lets no {other} pass"),
        }
    }

    fn push(&mut self, raw: &str) -> Result<(), Misfit> {
        match self {
            Self::Boolean(b) => b.append_value(match raw {
                "true" => true,
                "false" => false,
                _ => return Err(Misfit::NotANumber),
            }),
            Self::Int16(b) => b.append_value(integer(raw)?),
            Self::Int32(b) => b.append_value(integer(raw)?),
            Self::Int64(b) => b.append_value(integer(raw)?),
            Self::Float32(b) => b.append_value(float(raw, f32::is_infinite)?),
            Self::Float64(b) => b.append_value(float(raw, f64::is_infinite)?),
            Self::Decimal(b, precision, scale) => {
                let text = string(raw);
                b.append_value(parse_decimal(text.as_deref().unwrap_or(raw), *precision, *scale)?);
            }
            Self::Text(b) => b.append_value(string(raw).ok_or(Misfit::NotANumber)?),
            Self::Other(b) if raw.starts_with('"') => b.append_value(string(raw).ok_or(Misfit::NotANumber)?),
            Self::Other(b) => b.append_value(raw),
            Self::Binary(b) => {
                let text = string(raw).ok_or(Misfit::NotANumber)?;
                b.append_value(BASE64.decode(text.as_bytes()).map_err(|_| Misfit::NotANumber)?);
            }
            Self::Date(b) => b.append_value(match string(raw) {
                Some(text) => time::parse_date(&text).ok_or_else(|| not_a_time(&text))?,
                None => integer(raw)?,
            }),
            Self::Time(b) => b.append_value(match string(raw) {
                Some(text) => time::parse_time(&text).ok_or(Misfit::NotANumber)?,
                None => integer(raw).ok().filter(|us| (0..=86_400_000_000).contains(us)).ok_or(Misfit::TooLarge)?,
            }),
            Self::Timestamp(b) => b.append_value(timestamp(raw, false)?),
            Self::TimestampUtc(b) => b.append_value(timestamp(raw, true)?),
        }
        Ok(())
    }

    fn push_null(&mut self) {
        match self {
            Self::Boolean(b) => b.append_null(),
            Self::Int16(b) => b.append_null(),
            Self::Int32(b) => b.append_null(),
            Self::Int64(b) => b.append_null(),
            Self::Float32(b) => b.append_null(),
            Self::Float64(b) => b.append_null(),
            Self::Decimal(b, ..) => b.append_null(),
            Self::Text(b) | Self::Other(b) => b.append_null(),
            Self::Binary(b) => b.append_null(),
            Self::Date(b) => b.append_null(),
            Self::Time(b) => b.append_null(),
            Self::Timestamp(b) | Self::TimestampUtc(b) => b.append_null(),
        }
    }

    fn finish(&mut self) -> ArrayRef {
        match self {
            Self::Boolean(b) => Arc::new(b.finish()),
            Self::Int16(b) => Arc::new(b.finish()),
            Self::Int32(b) => Arc::new(b.finish()),
            Self::Int64(b) => Arc::new(b.finish()),
            Self::Float32(b) => Arc::new(b.finish()),
            Self::Float64(b) => Arc::new(b.finish()),
            Self::Decimal(b, ..) => Arc::new(b.finish()),
            Self::Text(b) | Self::Other(b) => Arc::new(b.finish()),
            Self::Binary(b) => Arc::new(b.finish()),
            Self::Date(b) => Arc::new(b.finish()),
            Self::Time(b) => Arc::new(b.finish()),
            Self::Timestamp(b) | Self::TimestampUtc(b) => Arc::new(b.finish()),
        }
    }
}

fn text_builder(rows: usize) -> StringBuilder {
    StringBuilder::with_capacity(rows, rows * 16)
}

fn integer<T: std::str::FromStr<Err = std::num::ParseIntError>>(raw: &str) -> Result<T, Misfit> {
    use std::num::IntErrorKind::{NegOverflow, PosOverflow};
    raw.parse().map_err(|error: std::num::ParseIntError| match error.kind() {
        PosOverflow | NegOverflow => Misfit::TooLarge,
        _ => Misfit::NotANumber,
    })
}

/// A JSON number, or the strings Debezium writes for what JSON has no numbers for.
fn float<T: std::str::FromStr + Copy>(raw: &str, infinite: fn(T) -> bool) -> Result<T, Misfit> {
    if let Some(text) = string(raw) {
        let special = matches!(&*text, "NaN" | "Infinity" | "-Infinity");
        return if special { text.parse().map_err(|_| Misfit::NotANumber) } else { Err(Misfit::NotANumber) };
    }
    match raw.parse::<T>() {
        Ok(value) if infinite(value) => Err(Misfit::TooLarge),
        Ok(value) => Ok(value),
        Err(_) => Err(Misfit::NotANumber),
    }
}

/// ISO 8601 text, or microseconds since 1970. Text without a zone is UTC where the column has one; a column without
/// takes `Z` as no zone and refuses any other.
fn timestamp(raw: &str, utc: bool) -> Result<i64, Misfit> {
    let Some(text) = string(raw) else {
        return integer(raw);
    };
    let instant = time::parse_timestamp(&text).ok_or_else(|| not_a_time(&text))?;
    match instant.offset_s {
        None | Some(0) => Ok(instant.wall_us),
        Some(offset) if utc => instant.wall_us.checked_sub(i64::from(offset) * 1_000_000).ok_or(Misfit::TooLarge),
        Some(_) => Err(Misfit::NotANumber),
    }
}

fn not_a_time(text: &str) -> Misfit {
    if text.trim_start_matches('-').eq_ignore_ascii_case("infinity") { Misfit::NotFinite } else { Misfit::NotANumber }
}
