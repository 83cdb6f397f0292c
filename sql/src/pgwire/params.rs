//! Parameters of a Bind message to values: text or binary by the type the statement gave them.

use std::sync::Arc;

use arrow::array::{ArrayRef, StringArray};
use arrow::datatypes::{DataType, Field};
use bytes::Buf;
use datafusion::common::ScalarValue;

use super::{datetime, numeric};
use crate::error::{Error, Result, sqlstate};
use crate::expr::{Convert, read, write};
use crate::query::pgtype::{self, oid};

/// Elements an array parameter may have.
const ARRAY_ELEMENTS_MAX: usize = 1 << 16;

/// Reads one parameter (`index` from 0) of the PostgreSQL type `type_oid`.
pub fn read(index: usize, type_oid: u32, binary: bool, bytes: Option<&[u8]>) -> Result<ScalarValue> {
    let data_type = pgtype::parameter(type_oid).unwrap_or(DataType::Utf8);
    let Some(bytes) = bytes else { return Ok(ScalarValue::try_from(&data_type)?) };
    let value = if binary { from_binary(type_oid, bytes) } else { from_text(type_oid, &data_type, bytes) };
    value.map_err(|e| e.detail(format!("parameter ${} of type {}", index + 1, name(type_oid))))
}

fn name(type_oid: u32) -> String {
    pgtype::by_oid(type_oid).map_or_else(|| format!("oid {type_oid}"), |t| t.sql.to_owned())
}

fn from_text(type_oid: u32, data_type: &DataType, bytes: &[u8]) -> Result<ScalarValue> {
    let text = std::str::from_utf8(bytes)
        .map_err(|_| Error::new(sqlstate::INVALID_TEXT_REPRESENTATION, "invalid byte sequence for encoding UTF8"))?;
    let invalid = || {
        let message = format!("invalid input syntax for type {}: \"{text}\"", name(type_oid));
        Error::new(sqlstate::INVALID_TEXT_REPRESENTATION, message)
    };
    Ok(match type_oid {
        oid::NUMERIC => decimal_from_text(text.trim())?,
        _ => match data_type {
            DataType::List(item) => array_from_text(type_oid, item.data_type(), text).ok_or_else(invalid)??,
            _ => {
                let field = pgtype::parameter_field(type_oid).unwrap_or_else(|| Field::new("", DataType::Utf8, true));
                let texts: ArrayRef = Arc::new(StringArray::from(vec![text]));
                ScalarValue::try_from_array(&Convert::of(&field).array(&texts)?, 0)?
            }
        },
    })
}

/// `{1,NULL,"a b"}`, one dimension. The outer `None`: malformed.
fn array_from_text(type_oid: u32, item: &DataType, text: &str) -> Option<Result<ScalarValue>> {
    let element = pgtype::by_oid(type_oid)?.element;
    let mut rest = text.trim().strip_prefix('{')?.strip_suffix('}')?.chars().peekable();
    let mut values = Vec::new();
    while rest.peek().is_some() {
        if values.len() >= ARRAY_ELEMENTS_MAX {
            return None;
        }
        let (value, quoted) = array_element(&mut rest)?;
        let null = !quoted && value.trim().eq_ignore_ascii_case("null");
        let value = match null {
            true => ScalarValue::try_from(item).map_err(Error::from),
            false => from_text(element, item, value.as_bytes()),
        };
        match value {
            Ok(value) => values.push(value),
            Err(error) => return Some(Err(error)),
        }
    }
    Some(Ok(ScalarValue::List(ScalarValue::new_list(&values, item, true))))
}

/// The next element with its comma, and whether it was quoted.
fn array_element(rest: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<(String, bool)> {
    let quoted = rest.next_if_eq(&'"').is_some();
    let mut value = String::new();
    loop {
        match rest.next() {
            Some('\\') => value.push(rest.next()?),
            Some('"') if quoted => match rest.next() {
                None | Some(',') => return Some((value, quoted)),
                Some(_) => return None,
            },
            None if quoted => return None,
            None => return Some((value, quoted)),
            Some(',') if !quoted => return Some((value, quoted)),
            Some('{' | '}' | '"') if !quoted => return None,
            Some(c) => value.push(c),
        }
    }
}

/// Keeps the scale as written.
fn decimal_from_text(text: &str) -> Result<ScalarValue> {
    let Some(Some((value, scale))) = read::number(text) else {
        return Ok(ScalarValue::Decimal128(Some(read::decimal(text, 38, 10)?), 38, 10));
    };
    let whole = |value: i128| 10i128.checked_pow(scale.unsigned_abs()).and_then(|power| value.checked_mul(power));
    let number = match u8::try_from(scale) {
        Ok(scale) => decimal(value, scale),
        Err(_) => whole(value).filter(|_| scale < 0).and_then(|value| decimal(value, 0)),
    };
    number.ok_or_else(|| Error::new(sqlstate::NUMERIC_VALUE_OUT_OF_RANGE, "numeric field overflow"))
}

fn decimal(value: i128, scale: u8) -> Option<ScalarValue> {
    let fits = scale <= 38 && value.unsigned_abs() < 10u128.pow(38);
    fits.then(|| ScalarValue::Decimal128(Some(value), 38, scale as i8))
}

fn from_binary(type_oid: u32, bytes: &[u8]) -> Result<ScalarValue> {
    Ok(match type_oid {
        oid::BOOL => ScalarValue::Boolean(Some(fixed::<1>(bytes)?[0] != 0)),
        oid::INT2 => ScalarValue::Int16(Some(i16::from_be_bytes(fixed(bytes)?))),
        oid::INT4 => ScalarValue::Int32(Some(i32::from_be_bytes(fixed(bytes)?))),
        oid::INT8 => ScalarValue::Int64(Some(i64::from_be_bytes(fixed(bytes)?))),
        oid::OID | oid::REGCLASS | oid::REGTYPE | oid::REGPROC | oid::REGNAMESPACE => {
            ScalarValue::Int64(Some(i64::from(u32::from_be_bytes(fixed(bytes)?))))
        }
        oid::FLOAT4 => ScalarValue::Float32(Some(f32::from_be_bytes(fixed(bytes)?))),
        oid::FLOAT8 => ScalarValue::Float64(Some(f64::from_be_bytes(fixed(bytes)?))),
        oid::NUMERIC => {
            let (value, scale) = numeric::read(bytes).map_err(invalid)?;
            decimal(value, scale).ok_or_else(|| invalid("numeric has more than 38 digits"))?
        }
        oid::BYTEA => ScalarValue::Binary(Some(bytes.to_vec())),
        oid::UUID => ScalarValue::Utf8(Some(write::uuid(fixed(bytes)?))),
        oid::JSONB => match bytes.split_first() {
            Some((1, text)) => ScalarValue::Utf8(Some(utf8(text)?)),
            _ => return Err(invalid("unknown version of jsonb")),
        },
        oid::DATE => ScalarValue::Date32(Some(datetime::date_from_binary(i32::from_be_bytes(fixed(bytes)?))?)),
        oid::TIME => ScalarValue::Time64Microsecond(Some(i64::from_be_bytes(fixed(bytes)?))),
        oid::TIMESTAMP | oid::TIMESTAMPTZ => {
            let us = datetime::timestamp_from_binary(i64::from_be_bytes(fixed(bytes)?))?;
            let zone = (type_oid == oid::TIMESTAMPTZ).then(|| "UTC".into());
            ScalarValue::TimestampMicrosecond(Some(us), zone)
        }
        _ if pgtype::by_oid(type_oid).is_some_and(|t| t.element != 0) => array(bytes)?,
        oid::TEXT | oid::VARCHAR | oid::BPCHAR | oid::NAME | oid::CHAR | oid::JSON | oid::UNKNOWN => {
            ScalarValue::Utf8(Some(utf8(bytes)?))
        }
        _ => return Err(Error::unsupported("a binary parameter of this type")),
    })
}

/// One dimension, as [`super::encode`] writes it.
fn array(mut bytes: &[u8]) -> Result<ScalarValue> {
    let short = || invalid("array ends too early");
    let next = |bytes: &mut &[u8]| -> Result<i32> { if bytes.len() < 4 { Err(short()) } else { Ok(bytes.get_i32()) } };
    let dimensions = next(&mut bytes)?;
    let _has_nulls = next(&mut bytes)?;
    let element = next(&mut bytes)? as u32;
    let item = pgtype::parameter(element).ok_or_else(|| invalid("unknown element type"))?;
    let len = match dimensions {
        0 => 0,
        1 => {
            let len = usize::try_from(next(&mut bytes)?).map_err(|_| short())?;
            let _lower_bound = next(&mut bytes)?;
            len
        }
        _ => return Err(Error::unsupported("an array of several dimensions")),
    };
    if len > ARRAY_ELEMENTS_MAX || len > bytes.len() / 4 {
        return Err(invalid("array has more elements than bytes or than the limit allows"));
    }
    let mut values = Vec::with_capacity(len);
    for _ in 0..len {
        let Ok(size) = usize::try_from(next(&mut bytes)?) else {
            values.push(ScalarValue::try_from(&item)?);
            continue;
        };
        let (value, rest) = bytes.split_at_checked(size).ok_or_else(short)?;
        bytes = rest;
        values.push(from_binary(element, value)?);
    }
    Ok(ScalarValue::List(ScalarValue::new_list(&values, &item, true)))
}

fn invalid(reason: &'static str) -> Error {
    Error::new(sqlstate::INVALID_BINARY_REPRESENTATION, reason)
}

fn fixed<const N: usize>(bytes: &[u8]) -> Result<[u8; N]> {
    bytes.try_into().map_err(|_| invalid("incorrect binary data format: wrong length"))
}

fn utf8(bytes: &[u8]) -> Result<String> {
    std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| invalid("invalid byte sequence for encoding UTF8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_values() {
        let check = |type_oid, text: &str, expect: ScalarValue| {
            assert_eq!(read(0, type_oid, false, Some(text.as_bytes())).unwrap(), expect, "{text}");
        };
        check(oid::INT4, " 42 ", ScalarValue::Int32(Some(42)));
        check(oid::NUMERIC, "-1.50", ScalarValue::Decimal128(Some(-150), 38, 2));
        check(oid::NUMERIC, "1e3", ScalarValue::Decimal128(Some(1000), 38, 0));
        check(oid::BOOL, "of", ScalarValue::Boolean(Some(false)));
        check(oid::BYTEA, "\\x00ff", ScalarValue::Binary(Some(vec![0, 255])));
        check(oid::BYTEA, "a\\\\\\001", ScalarValue::Binary(Some(vec![b'a', b'\\', 1])));
        check(oid::DATE, "2000-01-02", ScalarValue::Date32(Some(10_958)));
        let us = Some(946_684_800_500_000);
        check(oid::TIMESTAMP, "2000-01-01 00:00:00.5", ScalarValue::TimestampMicrosecond(us, None));
        let value = read(0, oid::TIMESTAMPTZ, false, Some(b"2000-01-01 02:00:00.5+02")).unwrap();
        assert_eq!(value, ScalarValue::TimestampMicrosecond(us, Some("UTC".into())));
        assert_eq!(read(0, oid::INT4, false, Some(b"x")).unwrap_err().code, sqlstate::INVALID_TEXT_REPRESENTATION);
        assert_eq!(read(0, oid::INT8, false, None).unwrap(), ScalarValue::Int64(None));
    }

    #[test]
    fn binary_values() {
        let check = |type_oid, bytes: &[u8], expect: ScalarValue| {
            assert_eq!(read(0, type_oid, true, Some(bytes)).unwrap(), expect);
        };
        check(oid::INT8, &[0, 0, 0, 0, 0, 0, 1, 0], ScalarValue::Int64(Some(256)));
        let uuid: Vec<u8> = (0..16).map(|i| i * 0x11).collect();
        check(oid::UUID, &uuid, ScalarValue::Utf8(Some("00112233-4455-6677-8899-aabbccddeeff".into())));
        check(oid::JSONB, b"\x01{}", ScalarValue::Utf8(Some("{}".into())));
        check(oid::DATE, &[0, 0, 0, 1], ScalarValue::Date32(Some(10_958)));
        assert!(read(0, oid::INT4, true, Some(&[1])).is_err());
        assert!(read(0, oid::TEXT, true, Some(&[0xff])).is_err());
    }

    #[test]
    fn arrays_in_text() {
        let check = |text: &str, expect: Option<&[Option<&str>]>| {
            let values = expect.map(|e| e.iter().map(|v| ScalarValue::Utf8(v.map(str::to_owned))).collect::<Vec<_>>());
            let expect = values.map(|v| ScalarValue::List(ScalarValue::new_list(&v, &DataType::Utf8, true)));
            assert_eq!(read(0, oid::TEXT_ARRAY, false, Some(text.as_bytes())).ok(), expect, "{text}");
        };
        check("{}", Some(&[]));
        check(r#"{a,NULL,"b, \"c\"","null"}"#, Some(&[Some("a"), None, Some("b, \"c\""), Some("null")]));
        check("{a", None);
        check(r#"{"a}"#, None);
        check("{{a}}", None);
        let numbers = read(0, oid::INT4_ARRAY, false, Some(b"{1,2}")).unwrap();
        let expect = [ScalarValue::Int32(Some(1)), ScalarValue::Int32(Some(2))];
        assert_eq!(numbers, ScalarValue::List(ScalarValue::new_list(&expect, &DataType::Int32, true)));
    }

    #[test]
    fn arrays_are_bounded_by_their_bytes() {
        let head = [0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 23];
        let one = [&head[..], &[0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 4, 0, 0, 0, 9]].concat();
        let value = read(0, oid::INT4_ARRAY, true, Some(&one)).unwrap();
        assert_eq!(
            value,
            ScalarValue::List(ScalarValue::new_list(&[ScalarValue::Int32(Some(9))], &DataType::Int32, true))
        );
        let huge = [&head[..], &[0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 1]].concat();
        assert!(read(0, oid::INT4_ARRAY, true, Some(&huge)).is_err());
    }
}
