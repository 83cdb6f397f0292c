//! Encoded rows back to columns; the way back of `encoding`. What is read may have rested on disk, so every step is checked.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, ArrowPrimitiveType, BinaryArray, BooleanArray, PrimitiveArray, StringArray};
use arrow::buffer::{NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Float32Type, Float64Type, Int16Type, Int32Type, Int64Type,
    Time64MicrosecondType, TimeUnit, TimestampMicrosecondType,
};

use super::encoding::{END, ESCAPED, NULL, VALUE, unsupported, width};
use crate::error::Error;

/// The columns of encoded rows, one row each; `projection` picks columns, in any order. All of `types` are the row's.
pub fn decode(types: &[DataType], rows: &[&[u8]], projection: Option<&[usize]>) -> Result<Vec<ArrayRef>, Error> {
    let Some(projection) = projection else {
        let mut cursors = vec![0; rows.len()];
        let columns = types.iter().map(|t| take_column(t, rows, &mut cursors)).collect::<Result<_, _>>()?;
        let whole = rows.iter().zip(&cursors).all(|(row, cursor)| row.len() == *cursor);
        return if whole { Ok(columns) } else { Err(damaged("bytes behind the last column")) };
    };
    let mut cursors = vec![0; rows.len()];
    let mut columns: Vec<Option<ArrayRef>> = vec![None; types.len()];
    let last = projection.iter().max().map_or(0, |last| last + 1);
    for (index, data_type) in types.iter().enumerate().take(last) {
        if projection.contains(&index) {
            columns[index] = Some(take_column(data_type, rows, &mut cursors)?);
        } else {
            for (row, cursor) in rows.iter().zip(&mut cursors) {
                *cursor = skip(data_type, row, *cursor)?;
            }
        }
    }
    let pick = |index: &usize| columns[*index].clone().expect("every projected column was decoded");
    Ok(projection.iter().map(pick).collect())
}

/// The bytes of each column of one row.
pub fn split<'a>(types: &[DataType], row: &'a [u8]) -> Result<Vec<&'a [u8]>, Error> {
    let mut at = 0;
    let mut columns = Vec::with_capacity(types.len());
    for data_type in types {
        let end = skip(data_type, row, at)?;
        columns.push(&row[at..end]);
        at = end;
    }
    if at == row.len() { Ok(columns) } else { Err(damaged("bytes behind the last column")) }
}

/// A row as people read it, cut short when it is long: for errors.
pub fn describe(types: &[DataType], row: &[u8]) -> String {
    const CHARS_MAX: usize = 200;
    let Ok(columns) = decode(types, &[row], None) else {
        return format!("{row:02x?}");
    };
    let mut text = String::from("(");
    for (index, column) in columns.iter().enumerate() {
        let separator = if index == 0 { "" } else { ", " };
        let value = match column.is_null(0) {
            true => Ok("NULL".to_owned()),
            false => arrow::util::display::array_value_to_string(column, 0),
        };
        text += separator;
        text += &value.unwrap_or_else(|_| "?".to_owned());
    }
    text.push(')');
    match text.char_indices().nth(CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

fn damaged(what: &str) -> Error {
    Error::Bug(format!("a row of state is damaged: {what}"))
}

/// Whether a value follows at `at`.
fn present(row: &[u8], at: usize) -> Result<bool, Error> {
    match row.get(at) {
        Some(&VALUE) => Ok(true),
        Some(&NULL) => Ok(false),
        Some(_) => Err(damaged("a column begins with neither value nor null")),
        None => Err(damaged("it ends before its last column")),
    }
}

/// Where the column at `at` ends.
fn skip(data_type: &DataType, row: &[u8], at: usize) -> Result<usize, Error> {
    if !present(row, at)? {
        return Ok(at + 1);
    }
    let end = match width(data_type) {
        Some(width) => at + 1 + width,
        None => at + 1 + string_len(&row[at + 1..])?,
    };
    if end <= row.len() { Ok(end) } else { Err(damaged("it ends inside of a column")) }
}

/// Length of an encoded string with its end.
fn string_len(bytes: &[u8]) -> Result<usize, Error> {
    let mut at = 0;
    loop {
        let Some(zero) = bytes[at..].iter().position(|byte| *byte == 0) else {
            return Err(damaged("a string has no end"));
        };
        match bytes.get(at + zero + 1) {
            Some(&ESCAPED) => at += zero + 2,
            Some(&END) => return Ok(at + zero + 2),
            _ => return Err(damaged("a string holds a bare zero")),
        }
    }
}

fn take_column(data_type: &DataType, rows: &[&[u8]], cursors: &mut [usize]) -> Result<ArrayRef, Error> {
    Ok(match data_type {
        DataType::Boolean => Arc::new(take_booleans(rows, cursors)?),
        DataType::Int16 => take_fixed::<Int16Type, 2>(data_type, rows, cursors, |b| i16::from_be_bytes(b) ^ i16::MIN)?,
        DataType::Int32 => take_fixed::<Int32Type, 4>(data_type, rows, cursors, |b| i32::from_be_bytes(b) ^ i32::MIN)?,
        DataType::Int64 => take_fixed::<Int64Type, 8>(data_type, rows, cursors, |b| i64::from_be_bytes(b) ^ i64::MIN)?,
        DataType::Float32 => take_fixed::<Float32Type, 4>(data_type, rows, cursors, float32)?,
        DataType::Float64 => take_fixed::<Float64Type, 8>(data_type, rows, cursors, float64)?,
        DataType::Decimal128(_, _) => {
            take_fixed::<Decimal128Type, 16>(data_type, rows, cursors, |b| i128::from_be_bytes(b) ^ i128::MIN)?
        }
        DataType::Date32 => {
            take_fixed::<Date32Type, 4>(data_type, rows, cursors, |b| i32::from_be_bytes(b) ^ i32::MIN)?
        }
        DataType::Time64(TimeUnit::Microsecond) => {
            take_fixed::<Time64MicrosecondType, 8>(data_type, rows, cursors, |b| i64::from_be_bytes(b) ^ i64::MIN)?
        }
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            take_fixed::<TimestampMicrosecondType, 8>(data_type, rows, cursors, |b| i64::from_be_bytes(b) ^ i64::MIN)?
        }
        DataType::Utf8 => {
            let (offsets, values, nulls) = take_strings(rows, cursors)?;
            Arc::new(StringArray::try_new(offsets, values.into(), nulls)?)
        }
        DataType::Binary => {
            let (offsets, values, nulls) = take_strings(rows, cursors)?;
            Arc::new(BinaryArray::try_new(offsets, values.into(), nulls)?)
        }
        other => return Err(unsupported(other)),
    })
}

fn take_fixed<T: ArrowPrimitiveType, const N: usize>(
    data_type: &DataType,
    rows: &[&[u8]],
    cursors: &mut [usize],
    decode: impl Fn([u8; N]) -> T::Native,
) -> Result<ArrayRef, Error> {
    let mut values = Vec::with_capacity(rows.len());
    let mut valid = Vec::with_capacity(rows.len());
    for (row, cursor) in rows.iter().zip(cursors) {
        let here = present(row, *cursor)?;
        valid.push(here);
        *cursor += 1;
        if !here {
            values.push(T::default_value());
            continue;
        }
        let Some(bytes) = row[*cursor..].first_chunk::<N>() else {
            return Err(damaged("it ends inside of a column"));
        };
        values.push(decode(*bytes));
        *cursor += N;
    }
    let array = PrimitiveArray::<T>::new(ScalarBuffer::from(values), nulls(valid));
    Ok(Arc::new(array.with_data_type(data_type.clone())))
}

fn take_booleans(rows: &[&[u8]], cursors: &mut [usize]) -> Result<BooleanArray, Error> {
    let mut values = Vec::with_capacity(rows.len());
    for (row, cursor) in rows.iter().zip(cursors) {
        if !present(row, *cursor)? {
            values.push(None);
            *cursor += 1;
            continue;
        }
        match row.get(*cursor + 1) {
            Some(value @ 0..=1) => values.push(Some(*value == 1)),
            _ => return Err(damaged("a boolean is neither true nor false")),
        }
        *cursor += 2;
    }
    Ok(BooleanArray::from(values))
}

type Strings = (OffsetBuffer<i32>, Vec<u8>, Option<NullBuffer>);

fn take_strings(rows: &[&[u8]], cursors: &mut [usize]) -> Result<Strings, Error> {
    let mut values = Vec::new();
    let mut offsets = Vec::with_capacity(rows.len() + 1);
    let mut valid = Vec::with_capacity(rows.len());
    offsets.push(0);
    for (row, cursor) in rows.iter().zip(cursors) {
        let here = present(row, *cursor)?;
        valid.push(here);
        *cursor += 1;
        if here {
            let len = string_len(&row[*cursor..])?;
            unescape(&row[*cursor..*cursor + len - 2], &mut values);
            *cursor += len;
        }
        let end = i32::try_from(values.len());
        offsets.push(end.map_err(|_| Error::Value("strings of one batch take more than 2 GiB".to_owned()))?);
    }
    Ok((OffsetBuffer::new(offsets.into()), values, nulls(valid)))
}

fn unescape(mut bytes: &[u8], out: &mut Vec<u8>) {
    while let Some(zero) = bytes.iter().position(|byte| *byte == 0) {
        out.extend_from_slice(&bytes[..zero + 1]);
        bytes = &bytes[zero + 2..];
    }
    out.extend_from_slice(bytes);
}

fn nulls(valid: Vec<bool>) -> Option<NullBuffer> {
    if valid.iter().all(|valid| *valid) { None } else { Some(NullBuffer::from(valid)) }
}

fn float32(bytes: [u8; 4]) -> f32 {
    let bits = u32::from_be_bytes(bytes);
    f32::from_bits(bits ^ if bits >> 31 == 1 { 1 << 31 } else { u32::MAX })
}

fn float64(bytes: [u8; 8]) -> f64 {
    let bits = u64::from_be_bytes(bytes);
    f64::from_bits(bits ^ if bits >> 63 == 1 { 1 << 63 } else { u64::MAX })
}
