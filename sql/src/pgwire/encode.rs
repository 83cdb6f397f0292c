//! Rows of Arrow to DataRow messages, in text or binary, straight into the output buffer.

use std::sync::Arc;

use arrow::array::types::IntervalMonthDayNano;
use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float32Array, Float64Array,
    Int16Array, Int32Array, Int64Array, IntervalMonthDayNanoArray, RecordBatch, StringArray, Time64MicrosecondArray,
    TimestampMicrosecondArray,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType, DurationMicrosecondType, Field, IntervalUnit, Schema, TimeUnit};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use bytes::{BufMut, BytesMut};

use super::{datetime, numeric};
use crate::error::{Error, Result, sqlstate};
use crate::expr::{read, write};
use crate::query::pgtype::{self, oid};

/// One column of a batch, made ready: its array as one of few types, and how its values are written.
struct Column {
    values: Values,
    /// The type the client was told.
    oid: u32,
    binary: bool,
}

enum Values {
    Bool(BooleanArray),
    Int16(Int16Array),
    Int32(Int32Array),
    Int64(Int64Array),
    Float32(Float32Array),
    Float64(Float64Array),
    /// With the scale.
    Decimal(Decimal128Array, u8),
    Text(StringArray),
    Bytes(BinaryArray),
    Date(Date32Array),
    Time(Time64MicrosecondArray),
    Timestamp(TimestampMicrosecondArray, Zone),
    Interval(IntervalMonthDayNanoArray),
    List(ArrayRef),
    /// Types without a form of their own, as Arrow prints them.
    Other(ArrayRef),
    Null,
}

#[derive(Clone, Copy)]
enum Zone {
    None,
    Utc,
}

/// A batch ready to be written row by row.
pub struct Rows {
    columns: Vec<Column>,
    len: usize,
}

impl Rows {
    /// `schema` is what the client was told; the batch may differ from it in metadata alone.
    pub fn new(schema: &Schema, batch: &RecordBatch, formats: &[i16]) -> Result<Self> {
        assert_eq!(schema.fields().len(), batch.num_columns(), "the announced columns are those of the rows");
        let columns = (schema.fields().iter().zip(batch.columns()).enumerate())
            .map(|(i, (field, array))| Column::new(field, array, super::frame::format_at(formats, i)))
            .collect::<Result<_>>()?;
        Ok(Self { columns, len: batch.num_rows() })
    }

    pub fn len(&self) -> usize {
        self.len
    }

    /// Appends the DataRow message of row `row`.
    pub fn write(&self, row: usize, out: &mut BytesMut) -> Result<()> {
        let start = out.len();
        out.put_u8(b'D');
        out.put_u32(0);
        out.put_u16(self.columns.len() as u16);
        for column in &self.columns {
            column.write(row, out)?;
        }
        patch_length(out, start + 1)
    }
}

/// Sets the four bytes at `at` to the bytes from there to the end.
fn patch_length(out: &mut BytesMut, at: usize) -> Result<()> {
    let len = i32::try_from(out.len() - at)
        .map_err(|_| Error::new(sqlstate::PROGRAM_LIMIT_EXCEEDED, "a row is larger than 2 GiB"))?;
    out[at..at + 4].copy_from_slice(&len.to_be_bytes());
    Ok(())
}

impl Column {
    fn new(field: &Field, array: &ArrayRef, binary: bool) -> Result<Self> {
        // The client was told the announced type: a plan that ended in another one must not reach it.
        let array = match array.data_type() == field.data_type() {
            true => Arc::clone(array),
            false => cast(array, field.data_type())?,
        };
        Ok(Self { values: values(&array)?, oid: pgtype::of(field).oid, binary })
    }

    fn write(&self, row: usize, out: &mut BytesMut) -> Result<()> {
        if self.values.is_null(row) {
            out.put_i32(-1);
            return Ok(());
        }
        let start = out.len();
        out.put_i32(0);
        if self.binary {
            self.values.write_binary(row, self.oid, out)?;
        } else {
            self.values.write_text(row, out)?;
        }
        let len = (out.len() - start - 4) as u32;
        out[start..start + 4].copy_from_slice(&len.to_be_bytes());
        Ok(())
    }
}

/// Brings a column to one of the types that are written.
fn values(array: &ArrayRef) -> Result<Values> {
    let to = |t: &DataType| -> Result<ArrayRef> { Ok(cast(array, t)?) };
    Ok(match array.data_type() {
        DataType::Null => Values::Null,
        DataType::Boolean => Values::Bool(array.as_boolean().clone()),
        DataType::Int16 => Values::Int16(array.as_primitive().clone()),
        DataType::Int8 | DataType::UInt8 => Values::Int16(to(&DataType::Int16)?.as_primitive().clone()),
        DataType::Int32 => Values::Int32(array.as_primitive().clone()),
        DataType::UInt16 => Values::Int32(to(&DataType::Int32)?.as_primitive().clone()),
        DataType::Int64 => Values::Int64(array.as_primitive().clone()),
        DataType::UInt32 => Values::Int64(to(&DataType::Int64)?.as_primitive().clone()),
        DataType::UInt64 => {
            let strict = arrow::compute::CastOptions { safe: false, ..Default::default() };
            let array = arrow::compute::cast_with_options(array, &DataType::Int64, &strict)?;
            Values::Int64(array.as_primitive().clone())
        }
        DataType::Float32 => Values::Float32(array.as_primitive().clone()),
        DataType::Float16 => Values::Float32(to(&DataType::Float32)?.as_primitive().clone()),
        DataType::Float64 => Values::Float64(array.as_primitive().clone()),
        DataType::Decimal128(_, scale) if (0..=38).contains(scale) => {
            Values::Decimal(array.as_primitive().clone(), *scale as u8)
        }
        DataType::Utf8 => Values::Text(array.as_string().clone()),
        DataType::LargeUtf8 | DataType::Utf8View => Values::Text(to(&DataType::Utf8)?.as_string().clone()),
        DataType::Binary => Values::Bytes(array.as_binary().clone()),
        DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
            Values::Bytes(to(&DataType::Binary)?.as_binary().clone())
        }
        DataType::Date32 => Values::Date(array.as_primitive().clone()),
        DataType::Date64 => Values::Date(to(&DataType::Date32)?.as_primitive().clone()),
        DataType::Time32(_) | DataType::Time64(_) => {
            Values::Time(to(&DataType::Time64(TimeUnit::Microsecond))?.as_primitive().clone())
        }
        DataType::Timestamp(_, zone) => {
            let kind = if zone.is_some() { Zone::Utc } else { Zone::None };
            let array = to(&DataType::Timestamp(TimeUnit::Microsecond, zone.clone()))?;
            Values::Timestamp(array.as_primitive().clone(), kind)
        }
        DataType::Interval(_) => {
            Values::Interval(to(&DataType::Interval(IntervalUnit::MonthDayNano))?.as_primitive().clone())
        }
        DataType::Duration(_) => Values::Interval(of_duration(&to(&DataType::Duration(TimeUnit::Microsecond))?)),
        DataType::List(_) | DataType::LargeList(_) | DataType::FixedSizeList(..) => Values::List(array.clone()),
        DataType::Dictionary(_, inner) => values(&to(inner)?)?,
        _ => Values::Other(array.clone()),
    })
}

/// What timestamps are apart: days and the rest.
fn of_duration(durations: &ArrayRef) -> IntervalMonthDayNanoArray {
    const DAY_US: i64 = 86_400_000_000;
    let interval =
        |us: i64| IntervalMonthDayNano { months: 0, days: (us / DAY_US) as i32, nanoseconds: us % DAY_US * 1000 };
    durations.as_primitive::<DurationMicrosecondType>().unary(interval)
}

impl Values {
    fn is_null(&self, row: usize) -> bool {
        match self {
            Values::Bool(a) => a.is_null(row),
            Values::Int16(a) => a.is_null(row),
            Values::Int32(a) => a.is_null(row),
            Values::Int64(a) => a.is_null(row),
            Values::Float32(a) => a.is_null(row),
            Values::Float64(a) => a.is_null(row),
            Values::Decimal(a, _) => a.is_null(row),
            Values::Text(a) => a.is_null(row),
            Values::Bytes(a) => a.is_null(row),
            Values::Date(a) => a.is_null(row),
            Values::Time(a) => a.is_null(row),
            Values::Timestamp(a, _) => a.is_null(row),
            Values::Interval(a) => a.is_null(row),
            Values::List(a) | Values::Other(a) => a.is_null(row),
            Values::Null => true,
        }
    }

    fn write_text(&self, row: usize, out: &mut BytesMut) -> Result<()> {
        match self {
            Values::Bool(a) => out.put_u8(if a.value(row) { b't' } else { b'f' }),
            Values::Int16(a) => write::print(out, format_args!("{}", a.value(row))),
            Values::Int32(a) => write::print(out, format_args!("{}", a.value(row))),
            Values::Int64(a) => write::print(out, format_args!("{}", a.value(row))),
            Values::Float32(a) => write::float(write::Float::Single(a.value(row)), out),
            Values::Float64(a) => write::float(write::Float::Double(a.value(row)), out),
            Values::Decimal(a, scale) => write::decimal(a.value(row), *scale, out),
            Values::Text(a) => out.put_slice(a.value(row).as_bytes()),
            Values::Bytes(a) => write::bytes(a.value(row), out),
            Values::Date(a) => write::date(i64::from(a.value(row)), out),
            Values::Time(a) => write::time(a.value(row), out),
            Values::Timestamp(a, zone) => write::timestamp(a.value(row), matches!(zone, Zone::Utc), out),
            Values::Interval(a) => {
                let v = a.value(row);
                write::interval(v.months, v.days, v.nanoseconds / 1000, out);
            }
            Values::List(a) => list_text(a, row, out)?,
            Values::Other(a) => other_text(a, row, out)?,
            Values::Null => {}
        }
        Ok(())
    }

    fn write_binary(&self, row: usize, type_oid: u32, out: &mut BytesMut) -> Result<()> {
        match self {
            Values::Bool(a) => out.put_u8(u8::from(a.value(row))),
            Values::Int16(a) => out.put_i16(a.value(row)),
            Values::Int32(a) => out.put_i32(a.value(row)),
            // Object ids are kept as 64-bit integers and go out as unsigned 32.
            Values::Int64(a) if is_oid(type_oid) => out.put_u32(a.value(row) as u32),
            Values::Int64(a) => out.put_i64(a.value(row)),
            Values::Float32(a) => out.put_f32(a.value(row)),
            Values::Float64(a) => out.put_f64(a.value(row)),
            Values::Decimal(a, scale) => numeric::write(a.value(row), *scale, out),
            Values::Text(a) => text_binary(a.value(row), type_oid, out)?,
            Values::Bytes(a) => out.put_slice(a.value(row)),
            Values::Date(a) => out.put_i32(datetime::date_binary(a.value(row))?),
            Values::Time(a) => out.put_i64(a.value(row)),
            Values::Timestamp(a, _) => out.put_i64(datetime::timestamp_binary(a.value(row))?),
            Values::Interval(a) => {
                let v = a.value(row);
                out.put_i64(v.nanoseconds / 1000);
                out.put_i32(v.days);
                out.put_i32(v.months);
            }
            Values::List(a) => list_binary(a, row, type_oid, out)?,
            Values::Other(a) if type_oid == oid::TEXT => other_text(a, row, out)?,
            Values::Other(a) => {
                let message = format!("no binary form of {} is known here", a.data_type());
                return Err(Error::new(sqlstate::FEATURE_NOT_SUPPORTED, message).hint("ask for the text format"));
            }
            Values::Null => {}
        }
        Ok(())
    }
}

fn is_oid(type_oid: u32) -> bool {
    matches!(type_oid, oid::OID | oid::REGCLASS | oid::REGTYPE | oid::REGPROC | oid::REGNAMESPACE)
}

/// Values that rest as text but have a binary form of their own.
fn text_binary(text: &str, type_oid: u32, out: &mut BytesMut) -> Result<()> {
    match type_oid {
        oid::UUID => {
            let bytes = read::uuid_bytes(text).ok_or_else(|| {
                Error::new(sqlstate::INVALID_TEXT_REPRESENTATION, format!("invalid uuid: \"{text}\""))
            })?;
            out.put_slice(&bytes);
        }
        oid::JSONB => {
            out.put_u8(1);
            out.put_slice(text.as_bytes());
        }
        _ => out.put_slice(text.as_bytes()),
    }
    Ok(())
}

fn list_items(list: &ArrayRef, row: usize) -> ArrayRef {
    match list.data_type() {
        DataType::List(_) => list.as_list::<i32>().value(row),
        DataType::LargeList(_) => list.as_list::<i64>().value(row),
        _ => list.as_fixed_size_list().value(row),
    }
}

/// `{a,"b c",NULL}`: what might be mistaken is quoted.
fn list_text(list: &ArrayRef, row: usize, out: &mut BytesMut) -> Result<()> {
    let items = list_items(list, row);
    let nested = matches!(items.data_type(), DataType::List(_) | DataType::LargeList(_));
    let values = values(&items)?;
    let mut text = BytesMut::new();
    out.put_u8(b'{');
    for i in 0..items.len() {
        if i > 0 {
            out.put_u8(b',');
        }
        if values.is_null(i) {
            out.put_slice(b"NULL");
            continue;
        }
        text.clear();
        values.write_text(i, &mut text)?;
        let special = |b: &u8| matches!(b, b'{' | b'}' | b',' | b'"' | b'\\') || b.is_ascii_whitespace();
        if nested || !(text.is_empty() || text.iter().any(special) || text.eq_ignore_ascii_case(b"null")) {
            out.put_slice(&text);
            continue;
        }
        out.put_u8(b'"');
        for byte in &text {
            if matches!(byte, b'"' | b'\\') {
                out.put_u8(b'\\');
            }
            out.put_u8(*byte);
        }
        out.put_u8(b'"');
    }
    out.put_u8(b'}');
    Ok(())
}

/// One dimension: count of dimensions, "has nulls", element type, length, lower bound 1, then the elements.
fn list_binary(list: &ArrayRef, row: usize, type_oid: u32, out: &mut BytesMut) -> Result<()> {
    let element = pgtype::by_oid(type_oid).map_or(oid::TEXT, |t| t.element);
    let items = list_items(list, row);
    if matches!(items.data_type(), DataType::List(_) | DataType::LargeList(_)) {
        return Err(Error::unsupported("binary form of a nested array").hint("ask for the text format"));
    }
    let values = values(&items)?;
    out.put_i32(i32::from(!items.is_empty()));
    out.put_i32(i32::from(items.null_count() > 0));
    out.put_u32(element);
    if items.is_empty() {
        return Ok(());
    }
    out.put_i32(items.len() as i32);
    out.put_i32(1);
    let column = Column { values, oid: element, binary: true };
    (0..items.len()).try_for_each(|i| column.write(i, out))
}

fn other_text(array: &ArrayRef, row: usize, out: &mut BytesMut) -> Result<()> {
    let options = FormatOptions::default().with_display_error(false);
    let formatter = ArrayFormatter::try_new(array.as_ref(), &options)?;
    write::print(out, format_args!("{}", formatter.value(row)));
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn value(array: ArrayRef, pg_type: Option<&str>, binary: bool) -> Vec<u8> {
        let mut field = Field::new("c", array.data_type().clone(), true);
        if let Some(name) = pg_type {
            field.set_metadata([(pgtype::PG_TYPE.to_owned(), name.to_owned())].into());
        }
        let schema = Schema::new(vec![field]);
        let batch = RecordBatch::try_new(Arc::new(schema.clone()), vec![array]).unwrap();
        let rows = Rows::new(&schema, &batch, &[i16::from(binary)]).unwrap();
        let mut out = BytesMut::new();
        rows.write(0, &mut out).unwrap();
        assert_eq!(u32::from_be_bytes(out[1..5].try_into().unwrap()) as usize, out.len() - 1);
        assert_eq!(u32::from_be_bytes(out[7..11].try_into().unwrap()) as usize, out.len() - 11);
        out[11..].to_vec()
    }

    #[test]
    fn text() {
        let check = |array: ArrayRef, expect: &str| {
            assert_eq!(String::from_utf8(value(array, None, false)).unwrap(), expect);
        };
        check(Arc::new(BooleanArray::from(vec![true])), "t");
        check(Arc::new(Int64Array::from(vec![-7])), "-7");
        check(Arc::new(Decimal128Array::from(vec![-105]).with_precision_and_scale(5, 2).unwrap()), "-1.05");
        check(Arc::new(Decimal128Array::from(vec![-5]).with_precision_and_scale(5, 2).unwrap()), "-0.05");
        check(Arc::new(BinaryArray::from(vec![&[0u8, 255][..]])), "\\x00ff");
        for (float, expect) in [
            (0.0, "0"),
            (-0.0, "-0"),
            (1.5, "1.5"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (123_456_789_012_345.0, "123456789012345"),
            (1e15, "1e+15"),
            (1.5e300, "1.5e+300"),
            (f64::NAN, "NaN"),
            (f64::NEG_INFINITY, "-Infinity"),
        ] {
            check(Arc::new(Float64Array::from(vec![float])), expect);
        }
        check(Arc::new(Float32Array::from(vec![1e6])), "1e+06");
        check(Arc::new(Float32Array::from(vec![0.1])), "0.1");
    }

    #[test]
    fn lists() {
        let mut builder = arrow::array::ListBuilder::new(arrow::array::StringBuilder::new());
        builder.append_value([Some("a"), Some("b c"), None, Some("null"), Some("q\"")]);
        assert_eq!(value(Arc::new(builder.finish()), None, false), br#"{a,"b c",NULL,"null","q\""}"#);
        let mut builder = arrow::array::ListBuilder::new(arrow::array::Int32Builder::new());
        builder.append_value([Some(7)]);
        let expect = [0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 23, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 4, 0, 0, 0, 7];
        assert_eq!(value(Arc::new(builder.finish()), None, true), expect);
    }

    #[test]
    fn binary() {
        let check = |array: ArrayRef, pg_type, expect: &[u8]| assert_eq!(value(array, pg_type, true), expect);
        check(Arc::new(Int32Array::from(vec![1])), None, &[0, 0, 0, 1]);
        check(Arc::new(Int64Array::from(vec![16_384])), Some("oid"), &[0, 0, 0x40, 0]);
        check(Arc::new(Date32Array::from(vec![10_957])), None, &[0, 0, 0, 0]);
        check(Arc::new(TimestampMicrosecondArray::from(vec![946_684_800_000_001])), None, &[0, 0, 0, 0, 0, 0, 0, 1]);
        check(Arc::new(StringArray::from(vec!["{}"])), Some("jsonb"), b"\x01{}");
        let uuid = "00112233-4455-6677-8899-aabbccddeeff";
        let bytes: Vec<u8> = (0..16).map(|i| i * 0x11).collect();
        check(Arc::new(StringArray::from(vec![uuid])), Some("uuid"), &bytes);
    }
}
