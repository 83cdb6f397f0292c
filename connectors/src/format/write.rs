//! Rows as JSON objects, fields in the order of the columns, every field written: equal rows give equal bytes.

use std::io::Write as _;

use arrow::array::{
    Array, AsArray, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float32Array, Float64Array, Int16Array,
    Int32Array, Int64Array, RecordBatch, StringArray, Time64MicrosecondArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Float32Type, Float64Type, Int16Type, Int32Type, Int64Type,
    Time64MicrosecondType, TimestampMicrosecondType,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::{number, time};

/// How times are written; all else is the same in both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    /// ISO 8601.
    Iso,
    /// As Debezium does: dates in days, times and timestamps without zone in microseconds, timestamps with zone as text.
    Debezium,
}

/// Some columns of one batch, ready to be written row by row.
pub(crate) struct Rows<'a> {
    columns: Vec<(Vec<u8>, Column<'a>)>,
    style: Style,
}

impl<'a> Rows<'a> {
    /// The columns `which` of `batch`, of types that `check_types` lets pass.
    pub(crate) fn new(batch: &'a RecordBatch, which: &[usize], style: Style) -> Self {
        let schema = batch.schema_ref();
        let columns = which.iter().enumerate().map(|(place, &column)| {
            let mut name = if place == 0 { Vec::new() } else { vec![b','] };
            write_string(&mut name, schema.field(column).name());
            name.push(b':');
            (name, Column::of(batch.column(column).as_ref()))
        });
        Self { columns: columns.collect(), style }
    }

    /// Appends the row as an object.
    pub(crate) fn write(&self, row: usize, out: &mut Vec<u8>) {
        self.write_open(row, out);
        out.push(b'}');
    }

    /// Appends the row as an object without its closing brace.
    pub(crate) fn write_open(&self, row: usize, out: &mut Vec<u8>) {
        out.push(b'{');
        for (name, column) in &self.columns {
            out.extend_from_slice(name);
            column.write(row, self.style, out);
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.columns.is_empty()
    }
}

/// Appends a JSON string.
pub(crate) fn write_string(out: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(out, text).expect("writing to memory does not fail");
}

enum Column<'a> {
    Boolean(&'a BooleanArray),
    Int16(&'a Int16Array),
    Int32(&'a Int32Array),
    Int64(&'a Int64Array),
    Float32(&'a Float32Array),
    Float64(&'a Float64Array),
    Decimal(&'a Decimal128Array),
    Text(&'a StringArray),
    Binary(&'a BinaryArray),
    Date(&'a Date32Array),
    Time(&'a Time64MicrosecondArray),
    Timestamp(&'a TimestampMicrosecondArray),
    TimestampUtc(&'a TimestampMicrosecondArray),
}

impl<'a> Column<'a> {
    fn of(array: &'a dyn Array) -> Self {
        match array.data_type() {
            DataType::Boolean => Self::Boolean(array.as_boolean()),
            DataType::Int16 => Self::Int16(array.as_primitive::<Int16Type>()),
            DataType::Int32 => Self::Int32(array.as_primitive::<Int32Type>()),
            DataType::Int64 => Self::Int64(array.as_primitive::<Int64Type>()),
            DataType::Float32 => Self::Float32(array.as_primitive::<Float32Type>()),
            DataType::Float64 => Self::Float64(array.as_primitive::<Float64Type>()),
            DataType::Decimal128(..) => Self::Decimal(array.as_primitive::<Decimal128Type>()),
            DataType::Utf8 => Self::Text(array.as_string()),
            DataType::Binary => Self::Binary(array.as_binary()),
            DataType::Date32 => Self::Date(array.as_primitive::<Date32Type>()),
            DataType::Time64(_) => Self::Time(array.as_primitive::<Time64MicrosecondType>()),
            DataType::Timestamp(_, None) => Self::Timestamp(array.as_primitive::<TimestampMicrosecondType>()),
            DataType::Timestamp(_, Some(_)) => Self::TimestampUtc(array.as_primitive::<TimestampMicrosecondType>()),
            other => unreachable!("check_types lets no {other} pass"),
        }
    }

    fn is_null(&self, row: usize) -> bool {
        match self {
            Self::Boolean(a) => a.is_null(row),
            Self::Int16(a) => a.is_null(row),
            Self::Int32(a) => a.is_null(row),
            Self::Int64(a) => a.is_null(row),
            Self::Float32(a) => a.is_null(row),
            Self::Float64(a) => a.is_null(row),
            Self::Decimal(a) => a.is_null(row),
            Self::Text(a) => a.is_null(row),
            Self::Binary(a) => a.is_null(row),
            Self::Date(a) => a.is_null(row),
            Self::Time(a) => a.is_null(row),
            Self::Timestamp(a) | Self::TimestampUtc(a) => a.is_null(row),
        }
    }

    fn write(&self, row: usize, style: Style, out: &mut Vec<u8>) {
        if self.is_null(row) {
            out.extend_from_slice(b"null");
            return;
        }
        match self {
            Self::Boolean(a) => out.extend_from_slice(if a.value(row) { b"true" } else { b"false" }),
            Self::Int16(a) => write_integer(out, a.value(row).into()),
            Self::Int32(a) => write_integer(out, a.value(row).into()),
            Self::Int64(a) => write_integer(out, a.value(row)),
            Self::Float32(a) => write_float(out, a.value(row), f64::from(a.value(row))),
            Self::Float64(a) => write_float(out, a.value(row), a.value(row)),
            Self::Decimal(a) => quoted(out, |out| number::write_decimal(out, a.value(row), a.scale())),
            Self::Text(a) => write_string(out, a.value(row)),
            Self::Binary(a) => quoted(out, |out| out.extend_from_slice(BASE64.encode(a.value(row)).as_bytes())),
            Self::Date(a) if style == Style::Debezium => write_integer(out, a.value(row).into()),
            Self::Date(a) => quoted(out, |out| time::write_date(out, a.value(row))),
            Self::Time(a) if style == Style::Debezium => write_integer(out, a.value(row)),
            Self::Time(a) => quoted(out, |out| time::write_time(out, a.value(row))),
            Self::Timestamp(a) if style == Style::Debezium => write_integer(out, a.value(row)),
            Self::Timestamp(a) => quoted(out, |out| time::write_timestamp(out, a.value(row), false)),
            Self::TimestampUtc(a) => quoted(out, |out| time::write_timestamp(out, a.value(row), true)),
        }
    }
}

/// Appends an integer in decimal digits.
pub(crate) fn write_integer(out: &mut Vec<u8>, value: i64) {
    write!(out, "{value}").expect("writing to memory does not fail");
}

/// The shortest digits that read back as the same float; what JSON has no number for is a string.
fn write_float(out: &mut Vec<u8>, value: impl serde::Serialize, wide: f64) {
    if wide.is_finite() {
        serde_json::to_writer(out, &value).expect("writing to memory does not fail");
    } else if wide.is_nan() {
        out.extend_from_slice(b"\"NaN\"");
    } else {
        out.extend_from_slice(if wide > 0.0 { b"\"Infinity\"".as_slice() } else { b"\"-Infinity\"" });
    }
}

fn quoted(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    out.push(b'"');
    write(out);
    out.push(b'"');
}
