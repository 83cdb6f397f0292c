//! PostgreSQL's types: which Arrow type a column has, and how the text PostgreSQL writes becomes a [`Value`].
//!
//! Both COPY and pgoutput send a value's text form under the same session settings (`DateStyle=ISO`, `TimeZone=UTC`,
//! `extra_float_digits=3`, `bytea_output=hex`), so this one reading serves snapshot and stream.

use std::collections::HashMap;

use arrow::datatypes::{DataType, Field, TimeUnit};

use crate::cdc::json;
use crate::change::Value;

const DAY_US: i64 = 86_400_000_000;

/// How the text of a column is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Bool,
    Integer,
    Float,
    /// Everything that is rendered as a string, verbatim.
    Text,
    Bytea,
    Date,
    Time,
    Timestamp,
    TimestampTz,
}

impl Kind {
    /// The kind of a built-in type; every other is its text form.
    pub fn of(type_oid: u32) -> Kind {
        match type_oid {
            16 => Kind::Bool,
            20 | 21 | 23 => Kind::Integer,
            700 | 701 => Kind::Float,
            17 => Kind::Bytea,
            1082 => Kind::Date,
            1083 => Kind::Time,
            1114 => Kind::Timestamp,
            1184 => Kind::TimestampTz,
            _ => Kind::Text,
        }
    }

    /// Reads a value's text; what PostgreSQL would not have written under our settings is an error.
    pub fn read<'a>(self, bytes: &'a [u8]) -> Result<Value<'a>, &'static str> {
        let text = std::str::from_utf8(bytes).map_err(|_| "is not UTF-8")?;
        let value = match self {
            Kind::Text => return Ok(Value::Text(text)),
            Kind::Integer => return integer(text).ok_or("is no integer"),
            Kind::Bool => return boolean(text).ok_or("is no boolean"),
            Kind::Float => return float(text).ok_or("is no number"),
            Kind::Bytea => return bytea(text).ok_or("is no bytea in hex format"),
            Kind::Date => Scan(bytes).date().and_then(|(days, rest)| rest.is_empty().then_some(Value::Int(days))),
            Kind::Time => Scan(bytes).time().and_then(|(us, rest)| rest.is_empty().then_some(Value::Int(us))),
            Kind::Timestamp => match Scan(bytes).timestamp() {
                Some((us, [])) => Some(us.map_or(Value::Text(text), Value::Int)),
                _ => None,
            },
            Kind::TimestampTz => match Scan(bytes).timestamp() {
                Some((Some(us), b"+00")) if bytes[4] == b'-' => Some(Value::Instant(us)),
                // Years of five and more digits have no place in ISO 8601's plain form.
                Some((_, b"+00")) => Some(Value::Text(text)),
                _ => None,
            },
        };
        match value {
            Some(value) => Ok(value),
            // No instant of our calendar: PostgreSQL's words for it.
            None if matches!(text, "infinity" | "-infinity") || text.ends_with(" BC") => Ok(Value::Text(text)),
            None => Err("is no date or time in ISO format and UTC"),
        }
    }
}

fn boolean(text: &str) -> Option<Value<'_>> {
    match text {
        "t" => Some(Value::Bool(true)),
        "f" => Some(Value::Bool(false)),
        _ => None,
    }
}

fn integer(text: &str) -> Option<Value<'_>> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let valid = !digits.is_empty() && digits.len() <= 19 && digits.bytes().all(|byte| byte.is_ascii_digit());
    (valid && (digits.len() == 1 || !digits.starts_with('0'))).then_some(Value::Number(text))
}

/// PostgreSQL writes `-1.5e-07`, which is JSON as it stands; what JSON cannot say is a string.
fn float(text: &str) -> Option<Value<'_>> {
    if matches!(text, "NaN" | "Infinity" | "-Infinity") {
        return Some(Value::Text(text));
    }
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let (mantissa, exponent) = match text.split_once('e') {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (text, None),
    };
    let mantissa = mantissa.strip_prefix('-').unwrap_or(mantissa);
    let (whole, fraction) = match mantissa.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (mantissa, None),
    };
    let valid = digits(whole)
        && (whole.len() == 1 || !whole.starts_with('0'))
        && fraction.is_none_or(digits)
        && exponent.is_none_or(|exponent| digits(exponent.strip_prefix(['-', '+']).unwrap_or(exponent)));
    valid.then_some(Value::Number(text))
}

fn bytea(text: &str) -> Option<Value<'_>> {
    let digits = text.strip_prefix("\\x")?;
    let valid = digits.len().is_multiple_of(2) && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    valid.then_some(Value::Hex(digits))
}

/// Reads dates and times off the front of a text.
struct Scan<'a>(&'a [u8]);

impl<'a> Scan<'a> {
    /// Days since 1970-01-01, and the rest.
    fn date(self) -> Option<(i64, &'a [u8])> {
        let (year, rest) = number(self.0, 4, 7)?;
        let (month, rest) = number(rest.strip_prefix(b"-")?, 2, 2)?;
        let (day, rest) = number(rest.strip_prefix(b"-")?, 2, 2)?;
        let valid = (1..=12).contains(&month) && (1..=31).contains(&day);
        valid.then(|| (json::days(year, month, day), rest))
    }

    /// Microseconds since midnight, up to and with 24:00:00, and the rest.
    fn time(self) -> Option<(i64, &'a [u8])> {
        let (hour, rest) = number(self.0, 2, 2)?;
        let (minute, rest) = number(rest.strip_prefix(b":")?, 2, 2)?;
        let (second, mut rest) = number(rest.strip_prefix(b":")?, 2, 2)?;
        let mut us = ((hour * 60 + minute) * 60 + second) * 1_000_000;
        if let Some(after) = rest.strip_prefix(b".") {
            let (fraction, left) = number(after, 1, 6)?;
            let missing = 6 - (after.len() - left.len()) as u32;
            us += fraction * 10i64.pow(missing);
            rest = left;
        }
        (us <= DAY_US).then_some((us, rest))
    }

    /// Microseconds since 1970, `None` where they do not fit, and the rest.
    fn timestamp(self) -> Option<(Option<i64>, &'a [u8])> {
        let (days, rest) = self.date()?;
        let (us, rest) = Scan(rest.strip_prefix(b" ")?).time()?;
        Some((days.checked_mul(DAY_US).and_then(|start| start.checked_add(us)), rest))
    }
}

/// A number of `min..=max` digits, and the rest.
fn number(bytes: &[u8], min: usize, max: usize) -> Option<(i64, &[u8])> {
    let mut n = 0;
    let mut count = 0;
    while count < max && count < bytes.len() && bytes[count].is_ascii_digit() {
        n = n * 10 + i64::from(bytes[count] - b'0');
        count += 1;
    }
    (count >= min).then_some((n, &bytes[count..]))
}

/// The Arrow field of a column. `name` of the type goes into the metadata `pg_type` where Arrow's says less. Every field
/// may be null: a truncated relation and a deleted row have rows of which little is known.
pub fn field(column: &str, type_oid: u32, type_mod: i32, type_name: &str) -> Field {
    let data_type = match type_oid {
        16 => DataType::Boolean,
        21 => DataType::Int16,
        23 => DataType::Int32,
        20 => DataType::Int64,
        700 => DataType::Float32,
        701 => DataType::Float64,
        1700 => decimal(type_mod),
        17 => DataType::Binary,
        1082 => DataType::Date32,
        1083 => DataType::Time64(TimeUnit::Microsecond),
        1114 => DataType::Timestamp(TimeUnit::Microsecond, None),
        1184 => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        _ => DataType::Utf8,
    };
    let says_less = data_type == DataType::Utf8 && !matches!(type_oid, 25 | 1043);
    let field = Field::new(column, data_type, true);
    match says_less {
        true => field.with_metadata(HashMap::from([("pg_type".to_owned(), type_name.to_owned())])),
        false => field,
    }
}

/// `numeric(p,s)`; without a scale, Decimal128(38, 10). Precisions beyond 38 digits keep their scale: a value that does
/// not fit is an error where it is read. The modifier is `(precision << 16 | scale in 11 bits with sign) + 4`.
fn decimal(type_mod: i32) -> DataType {
    if type_mod < 4 {
        return DataType::Decimal128(38, 10);
    }
    let precision = (type_mod - 4) >> 16 & 0xffff;
    let scale = (((type_mod - 4) & 0x7ff) ^ 0x400) - 0x400;
    // numeric(3,-2) holds 99900, numeric(2,4) holds 0.0099: the digits on both sides of the point are wanted.
    let digits = if scale < 0 { precision - scale } else { precision.max(scale) };
    let scale = scale.clamp(0, 38) as i8;
    DataType::Decimal128(digits.clamp(1, 38) as u8, scale)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn texts_become_values() {
        for (kind, text, expect) in [
            (Kind::Bool, "t", Ok(Value::Bool(true))),
            (Kind::Bool, "true", Err("is no boolean")),
            (Kind::Integer, "-9223372036854775808", Ok(Value::Number("-9223372036854775808"))),
            (Kind::Integer, "01", Err("is no integer")),
            (Kind::Integer, "", Err("is no integer")),
            (Kind::Float, "1e-07", Ok(Value::Number("1e-07"))),
            (Kind::Float, "-0", Ok(Value::Number("-0"))),
            (Kind::Float, "1.7976931348623157e+308", Ok(Value::Number("1.7976931348623157e+308"))),
            (Kind::Float, "NaN", Ok(Value::Text("NaN"))),
            (Kind::Float, "-Infinity", Ok(Value::Text("-Infinity"))),
            (Kind::Float, "1.", Err("is no number")),
            (Kind::Bytea, "\\x00ff", Ok(Value::Hex("00ff"))),
            (Kind::Bytea, "\\000", Err("is no bytea in hex format")),
            (Kind::Date, "1970-01-02", Ok(Value::Int(1))),
            (Kind::Date, "5874897-12-31", Ok(Value::Int(2_145_042_905))),
            (Kind::Date, "infinity", Ok(Value::Text("infinity"))),
            (Kind::Date, "0044-03-15 BC", Ok(Value::Text("0044-03-15 BC"))),
            (Kind::Date, "03/15/2024", Err("is no date or time in ISO format and UTC")),
            (Kind::Time, "04:05:06.789", Ok(Value::Int(14_706_789_000))),
            (Kind::Time, "24:00:00", Ok(Value::Int(DAY_US))),
            (Kind::Timestamp, "1970-01-01 00:00:00.000001", Ok(Value::Int(1))),
            (Kind::Timestamp, "1969-12-31 23:59:59.9", Ok(Value::Int(-100_000))),
            (Kind::Timestamp, "294276-12-31 23:59:59.999999", Ok(Value::Text("294276-12-31 23:59:59.999999"))),
            (Kind::TimestampTz, "1970-01-01 00:00:01+00", Ok(Value::Instant(1_000_000))),
            (Kind::TimestampTz, "12024-01-01 00:00:00+00", Ok(Value::Text("12024-01-01 00:00:00+00"))),
            (Kind::TimestampTz, "0044-03-15 00:00:00+00 BC", Ok(Value::Text("0044-03-15 00:00:00+00 BC"))),
            (Kind::TimestampTz, "-infinity", Ok(Value::Text("-infinity"))),
            (Kind::TimestampTz, "1970-01-01 00:00:01+02", Err("is no date or time in ISO format and UTC")),
        ] {
            assert_eq!(kind.read(text.as_bytes()), expect, "{kind:?} {text}");
        }
        assert_eq!(Kind::Text.read(b"\xff"), Err("is not UTF-8"));
    }

    #[test]
    fn numerics_become_decimals() {
        let type_mod = |precision: i32, scale: i32| (precision << 16 | (scale & 0x7ff)) + 4;
        for (type_mod, expect) in [
            (-1, (38, 10)),
            (type_mod(10, 2), (10, 2)),
            (type_mod(38, 38), (38, 38)),
            (type_mod(3, -2), (5, 0)),
            (type_mod(2, 4), (4, 4)),
            (type_mod(1000, 5), (38, 5)),
        ] {
            assert_eq!(decimal(type_mod), DataType::Decimal128(expect.0, expect.1));
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(bytes: Vec<u8>, at in 0usize..9) {
            let kinds = [Kind::Bool, Kind::Integer, Kind::Float, Kind::Text, Kind::Bytea, Kind::Date, Kind::Time,
                Kind::Timestamp, Kind::TimestampTz];
            let _ = kinds[at].read(&bytes);
        }

        #[test]
        fn no_near_date_panics(text in "[0-9]{0,8}-[0-9]{0,3}-[0-9]{0,3}[ T]?[0-9:.+]{0,20}( BC)?") {
            for kind in [Kind::Date, Kind::Time, Kind::Timestamp, Kind::TimestampTz] {
                let _ = kind.read(text.as_bytes());
            }
        }
    }
}
