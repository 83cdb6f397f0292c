//! Rows as bytes that compare like the rows: how keys and rows rest in state, in memory and on disk.
//!
//! ```text
//! row     column column …
//! column  01 value | 02                   a null stands after every value, as PostgreSQL sorts it
//! value   boolean                         00 | 01
//!         int16/32/64, date, time, timestamp    big endian, sign bit flipped
//!         decimal128                      16 bytes, big endian, sign bit flipped; the scale is the type's
//!         float32/64                      IEEE 754 bits, big endian: a negative number with all bits flipped,
//!                                         any other with the sign bit flipped (total order)
//!         utf8, binary                    the bytes, 00 written as 00 FF, then 00 01
//! ```
//!
//! Every column ends by itself, so the encodings of two rows can be put one behind the other and taken apart again.
//! The layout is persisted: it never changes (`fixture` in the tests).

use arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, AsArray, BooleanArray, GenericByteArray, PrimitiveArray, types::ByteArrayType,
};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Float32Type, Float64Type, Int16Type, Int32Type, Int64Type,
    Time64MicrosecondType, TimeUnit, TimestampMicrosecondType,
};

use crate::error::Error;

pub(crate) const VALUE: u8 = 1;
pub(crate) const NULL: u8 = 2;
/// What a 00 inside of a string becomes: 00 and this.
pub(super) const ESCAPED: u8 = 0xff;
/// What ends a string: 00 and this.
pub(super) const END: u8 = 1;

/// The encodings of many rows in one buffer.
#[derive(Clone, Debug, Default)]
pub struct Encoded {
    bytes: Vec<u8>,
    /// One more than there are rows.
    offsets: Vec<usize>,
}

impl Encoded {
    /// Keys: columns that are equal in SQL have equal bytes (-0.0 is 0.0, every NaN is the same).
    /// `rows` matters where there are no columns: all rows have the empty key.
    pub fn keys(columns: &[ArrayRef], rows: usize) -> Result<Self, Error> {
        Self::new(columns, rows, Floats::Equal)
    }

    /// Rows: only what is the same, bit for bit, has equal bytes; decoding gives it back.
    pub fn rows(columns: &[ArrayRef], rows: usize) -> Result<Self, Error> {
        Self::new(columns, rows, Floats::Exact)
    }

    fn new(columns: &[ArrayRef], rows: usize, floats: Floats) -> Result<Self, Error> {
        let mut offsets = vec![0; rows + 1];
        for column in columns {
            assert_eq!(column.len(), rows, "columns of one batch have one length");
            add_lengths(column, &mut offsets[1..])?;
        }
        let mut end = 0;
        for offset in &mut offsets {
            end += *offset;
            *offset = end;
        }
        let mut bytes = vec![0; end];
        let mut cursors = offsets[..rows].to_vec();
        for column in columns {
            put_column(column, floats, &mut bytes, &mut cursors)?;
        }
        assert_eq!(cursors, offsets[1..], "as many bytes were written as were counted");
        Ok(Self { bytes, offsets })
    }

    pub fn len(&self) -> usize {
        self.offsets.len().saturating_sub(1)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of all rows.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    pub fn get(&self, row: usize) -> &[u8] {
        &self.bytes[self.offsets[row]..self.offsets[row + 1]]
    }

    /// Adds a row that is encoded already.
    pub fn push(&mut self, row: &[u8]) {
        if self.offsets.is_empty() {
            self.offsets.push(0);
        }
        self.bytes.extend_from_slice(row);
        self.offsets.push(self.bytes.len());
    }

    /// Forgets all rows, keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.offsets.clear();
    }

    pub fn iter(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        (0..self.len()).map(|row| self.get(row))
    }
}

/// Whether the type can stand in a key or a row of state.
pub fn supported(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Utf8 | DataType::Binary) || width(data_type).is_some()
}

/// Rows with a null in one of the columns are not valid in it; `None`: no row has one.
pub fn valid(columns: &[ArrayRef]) -> Option<NullBuffer> {
    columns.iter().fold(None, |valid, column| NullBuffer::union(valid.as_ref(), column.logical_nulls().as_ref()))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Floats {
    Exact,
    Equal,
}

/// Bytes of a value of a type of fixed width.
pub(crate) fn width(data_type: &DataType) -> Option<usize> {
    match data_type {
        DataType::Boolean => Some(1),
        DataType::Int16 => Some(2),
        DataType::Int32 | DataType::Date32 | DataType::Float32 => Some(4),
        DataType::Int64
        | DataType::Float64
        | DataType::Time64(TimeUnit::Microsecond)
        | DataType::Timestamp(TimeUnit::Microsecond, _) => Some(8),
        DataType::Decimal128(_, _) => Some(16),
        _ => None,
    }
}

fn add_lengths(column: &ArrayRef, lengths: &mut [usize]) -> Result<(), Error> {
    match (column.data_type(), width(column.data_type())) {
        (_, Some(width)) => match column.nulls() {
            None => lengths.iter_mut().for_each(|length| *length += 1 + width),
            Some(nulls) => {
                lengths.iter_mut().zip(nulls.iter()).for_each(|(length, valid)| *length += 1 + width * valid as usize)
            }
        },
        (DataType::Utf8, _) => add_string_lengths(column.as_string::<i32>(), lengths),
        (DataType::Binary, _) => add_string_lengths(column.as_binary::<i32>(), lengths),
        (other, _) => return Err(unsupported(other)),
    }
    Ok(())
}

fn add_string_lengths<T: ByteArrayType>(array: &GenericByteArray<T>, lengths: &mut [usize]) {
    for (row, length) in lengths.iter_mut().enumerate() {
        *length += 1;
        if array.is_valid(row) {
            let value: &[u8] = array.value(row).as_ref();
            *length += value.len() + value.iter().filter(|byte| **byte == 0).count() + 2;
        }
    }
}

fn put_column(column: &ArrayRef, floats: Floats, out: &mut [u8], at: &mut [usize]) -> Result<(), Error> {
    match column.data_type() {
        DataType::Boolean => put_booleans(column.as_boolean(), out, at),
        DataType::Int16 => put_fixed(column.as_primitive::<Int16Type>(), out, at, int16),
        DataType::Int32 => put_fixed(column.as_primitive::<Int32Type>(), out, at, int32),
        DataType::Int64 => put_fixed(column.as_primitive::<Int64Type>(), out, at, int64),
        DataType::Float32 => {
            put_fixed(column.as_primitive::<Float32Type>(), out, at, |value| float32(equal_f32(value, floats)))
        }
        DataType::Float64 => {
            put_fixed(column.as_primitive::<Float64Type>(), out, at, |value| float64(equal_f64(value, floats)))
        }
        DataType::Decimal128(_, _) => put_fixed(column.as_primitive::<Decimal128Type>(), out, at, int128),
        DataType::Date32 => put_fixed(column.as_primitive::<Date32Type>(), out, at, int32),
        DataType::Time64(TimeUnit::Microsecond) => {
            put_fixed(column.as_primitive::<Time64MicrosecondType>(), out, at, int64)
        }
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            put_fixed(column.as_primitive::<TimestampMicrosecondType>(), out, at, int64)
        }
        DataType::Utf8 => put_strings(column.as_string::<i32>(), out, at),
        DataType::Binary => put_strings(column.as_binary::<i32>(), out, at),
        other => return Err(unsupported(other)),
    }
    Ok(())
}

fn put_fixed<T: ArrowPrimitiveType, const N: usize>(
    array: &PrimitiveArray<T>,
    out: &mut [u8],
    cursors: &mut [usize],
    encode: impl Fn(T::Native) -> [u8; N],
) {
    let values = array.values();
    for (row, cursor) in cursors.iter_mut().enumerate() {
        if array.is_valid(row) {
            let place = &mut out[*cursor..*cursor + 1 + N];
            place[0] = VALUE;
            place[1..].copy_from_slice(&encode(values[row]));
            *cursor += 1 + N;
        } else {
            out[*cursor] = NULL;
            *cursor += 1;
        }
    }
}

fn put_booleans(array: &BooleanArray, out: &mut [u8], cursors: &mut [usize]) {
    for (row, cursor) in cursors.iter_mut().enumerate() {
        if array.is_valid(row) {
            out[*cursor] = VALUE;
            out[*cursor + 1] = array.value(row) as u8;
            *cursor += 2;
        } else {
            out[*cursor] = NULL;
            *cursor += 1;
        }
    }
}

fn put_strings<T: ByteArrayType>(array: &GenericByteArray<T>, out: &mut [u8], cursors: &mut [usize]) {
    for (row, cursor) in cursors.iter_mut().enumerate() {
        if array.is_null(row) {
            out[*cursor] = NULL;
            *cursor += 1;
            continue;
        }
        out[*cursor] = VALUE;
        *cursor += 1;
        let mut value: &[u8] = array.value(row).as_ref();
        while let Some(zero) = value.iter().position(|byte| *byte == 0) {
            out[*cursor..*cursor + zero + 1].copy_from_slice(&value[..zero + 1]);
            out[*cursor + zero + 1] = ESCAPED;
            *cursor += zero + 2;
            value = &value[zero + 1..];
        }
        out[*cursor..*cursor + value.len()].copy_from_slice(value);
        *cursor += value.len();
        out[*cursor..*cursor + 2].copy_from_slice(&[0, END]);
        *cursor += 2;
    }
}

pub(super) fn int16(value: i16) -> [u8; 2] {
    (value ^ i16::MIN).to_be_bytes()
}

pub(super) fn int32(value: i32) -> [u8; 4] {
    (value ^ i32::MIN).to_be_bytes()
}

pub(super) fn int64(value: i64) -> [u8; 8] {
    (value ^ i64::MIN).to_be_bytes()
}

pub(super) fn int128(value: i128) -> [u8; 16] {
    (value ^ i128::MIN).to_be_bytes()
}

fn float32(value: f32) -> [u8; 4] {
    let bits = value.to_bits();
    let flip = if bits >> 31 == 1 { u32::MAX } else { 1 << 31 };
    (bits ^ flip).to_be_bytes()
}

fn float64(value: f64) -> [u8; 8] {
    let bits = value.to_bits();
    let flip = if bits >> 63 == 1 { u64::MAX } else { 1 << 63 };
    (bits ^ flip).to_be_bytes()
}

fn equal_f32(value: f32, floats: Floats) -> f32 {
    match floats {
        Floats::Equal if value.is_nan() => f32::from_bits(0x7fc0_0000),
        Floats::Equal if value == 0.0 => 0.0,
        _ => value,
    }
}

fn equal_f64(value: f64, floats: Floats) -> f64 {
    match floats {
        Floats::Equal if value.is_nan() => f64::from_bits(0x7ff8_0000_0000_0000),
        Floats::Equal if value == 0.0 => 0.0,
        _ => value,
    }
}

pub(super) fn unsupported(data_type: &DataType) -> Error {
    Error::Bug(format!("the type {data_type} cannot be kept in state"))
}
