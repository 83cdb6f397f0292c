//! The one writer of values as JSON, straight into bytes. What it writes for a [`Value`] is the canonical rendering that
//! `format::debezium` reads back.

use crate::change::Value;

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const DAY_US: i64 = 86_400_000_000;

/// Writes a value; [`Value::Absent`] is the caller's to leave out and is written as nothing.
pub fn value(out: &mut Vec<u8>, value: &Value<'_>) {
    match *value {
        Value::Absent => {}
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(true) => out.extend_from_slice(b"true"),
        Value::Bool(false) => out.extend_from_slice(b"false"),
        Value::Int(n) => int(out, n),
        Value::Number(text) => out.extend_from_slice(text.as_bytes()),
        Value::Text(text) => string(out, text),
        Value::Hex(digits) => {
            base64(out, digits.as_bytes().chunks_exact(2).map(|pair| nibble(pair[0]) << 4 | nibble(pair[1])))
        }
        Value::Bytes(bytes) => base64(out, bytes.iter().copied()),
        Value::Instant(us) => instant(out, us),
    }
}

/// Writes a string with quotes. Only what JSON demands is escaped.
pub fn string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    let bytes = text.as_bytes();
    let mut from = 0;
    for (at, &byte) in bytes.iter().enumerate() {
        if byte >= 0x20 && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.extend_from_slice(&bytes[from..at]);
        from = at + 1;
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            _ => {
                out.extend_from_slice(b"\\u00");
                out.push(b'0' + (byte >> 4));
                out.push(b"0123456789abcdef"[usize::from(byte & 15)]);
            }
        }
    }
    out.extend_from_slice(&bytes[from..]);
    out.push(b'"');
}

/// Writes a decimal integer.
pub fn int(out: &mut Vec<u8>, n: i64) {
    if n < 0 {
        out.push(b'-');
    }
    uint(out, n.unsigned_abs());
}

/// Writes a decimal integer.
pub fn uint(out: &mut Vec<u8>, mut n: u64) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (n % 10) as u8;
        n /= 10;
        if n == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// Writes `"2024-01-31T23:59:59.000001Z"`.
fn instant(out: &mut Vec<u8>, us: i64) {
    let (year, month, day) = civil(us.div_euclid(DAY_US));
    let in_day = us.rem_euclid(DAY_US);
    let (seconds, fraction) = (in_day / 1_000_000, in_day % 1_000_000);
    out.push(b'"');
    padded(out, year, 4);
    out.push(b'-');
    padded(out, month, 2);
    out.push(b'-');
    padded(out, day, 2);
    out.push(b'T');
    padded(out, seconds / 3600, 2);
    out.push(b':');
    padded(out, seconds / 60 % 60, 2);
    out.push(b':');
    padded(out, seconds % 60, 2);
    out.push(b'.');
    padded(out, fraction, 6);
    out.extend_from_slice(b"Z\"");
}

fn padded(out: &mut Vec<u8>, n: i64, width: usize) {
    let from = out.len();
    int(out, n);
    while out.len() - from < width {
        out.insert(from, b'0');
    }
}

/// The proleptic Gregorian date of a day counted from 1970-01-01: the inverse of [`days`]. Eras of 400 years that begin
/// in March make every leap day the last day of its year.
fn civil(day: i64) -> (i64, i64, i64) {
    let shifted = day + 719_468;
    let era = shifted.div_euclid(146_097);
    let of_era = shifted.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day_of_month = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day_of_month)
}

/// Days since 1970-01-01 of a proleptic Gregorian date.
pub fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let of_year = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + of_year - 719_468
}

fn nibble(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        b'a'..=b'f' => digit - b'a' + 10,
        b'A'..=b'F' => digit - b'A' + 10,
        _ => 0,
    }
}

fn base64(out: &mut Vec<u8>, mut bytes: impl Iterator<Item = u8>) {
    let digit = |n: u32| BASE64[(n & 63) as usize];
    out.push(b'"');
    while let Some(first) = bytes.next() {
        let (second, third) = (bytes.next(), bytes.next());
        let group = u32::from(first) << 16 | u32::from(second.unwrap_or(0)) << 8 | u32::from(third.unwrap_or(0));
        out.push(digit(group >> 18));
        out.push(digit(group >> 12));
        out.push(if second.is_some() { digit(group >> 6) } else { b'=' });
        out.push(if third.is_some() { digit(group) } else { b'=' });
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn written(v: Value<'_>) -> String {
        let mut out = Vec::new();
        value(&mut out, &v);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn values_are_written_canonically() {
        for (given, expect) in [
            (Value::Null, "null"),
            (Value::Bool(true), "true"),
            (Value::Int(i64::MIN), "-9223372036854775808"),
            (Value::Number("1e+20"), "1e+20"),
            (Value::Text("a\"b\\c\n\u{1}é"), "\"a\\\"b\\\\c\\n\\u0001é\""),
            (Value::Hex(""), "\"\""),
            (Value::Hex("00ff10"), "\"AP8Q\""),
            (Value::Hex("00ff"), "\"AP8=\""),
            (Value::Bytes(&[0]), "\"AA==\""),
            (Value::Instant(0), "\"1970-01-01T00:00:00.000000Z\""),
            (Value::Instant(-1), "\"1969-12-31T23:59:59.999999Z\""),
            (Value::Instant(951_782_400_000_001), "\"2000-02-29T00:00:00.000001Z\""),
            (Value::Instant(-62_135_596_800_000_000), "\"0001-01-01T00:00:00.000000Z\""),
        ] {
            assert_eq!(written(given), expect);
        }
    }

    proptest! {
        #[test]
        fn strings_read_back(text in "\\PC*|[\\x00-\\x7f]*") {
            prop_assert_eq!(serde_json::from_str::<String>(&written(Value::Text(&text))).unwrap(), text);
        }

        #[test]
        fn dates_read_back(day in -800_000i64..3_000_000) {
            let (y, m, d) = civil(day);
            prop_assert_eq!(days(y, m, d), day);
        }

        #[test]
        fn integers_read_back(n: i64) {
            prop_assert_eq!(written(Value::Int(n)), n.to_string());
        }
    }
}
