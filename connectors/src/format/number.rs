//! Decimals as text and as Arrow's scaled integers, exactly: no detour through floats, no rounding.

use std::io::Write as _;

/// Why a text is no decimal of a column's precision and scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Misfit {
    NotANumber,
    /// `NaN` and the infinities, which PostgreSQL's numeric has and ours has not.
    NotFinite,
    /// More digits behind the point than the scale holds.
    Inexact,
    /// More digits before the point than precision and scale leave.
    TooLarge,
}

/// The value of `[+-]digits[.digits][e[+-]digits]` times 10^scale.
pub(crate) fn parse_decimal(text: &str, precision: u8, scale: i8) -> Result<i128, Misfit> {
    let (negative, digits) = match text.as_bytes() {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        rest => (false, rest),
    };
    if matches!(&digits.to_ascii_lowercase()[..], b"nan" | b"infinity" | b"inf") {
        return Err(Misfit::NotFinite);
    }
    let (mantissa, exponent) = split_exponent(digits)?;
    let mut value: i128 = 0;
    // Zeros are taken in only when a digit follows, so that long runs of trailing ones do not overflow.
    let (mut zeros, mut fraction, mut behind_point, mut seen) = (0i64, 0i64, false, false);
    for &byte in mantissa {
        match byte {
            b'0'..=b'9' => {
                seen = true;
                fraction += i64::from(behind_point);
                if byte == b'0' {
                    zeros += 1;
                    continue;
                }
                value = times_ten_to(value, zeros + 1)?;
                value = value.checked_add(i128::from(byte - b'0')).ok_or(Misfit::TooLarge)?;
                zeros = 0;
            }
            b'.' if !behind_point => behind_point = true,
            _ => return Err(Misfit::NotANumber),
        }
    }
    if !seen {
        return Err(Misfit::NotANumber);
    }
    let shift = i64::from(scale) + exponent - fraction + zeros;
    if value != 0 && shift < 0 {
        return Err(Misfit::Inexact);
    }
    let value = times_ten_to(value, shift)?;
    if value.unsigned_abs() >= 10u128.pow(u32::from(precision.min(38))) {
        return Err(Misfit::TooLarge);
    }
    Ok(if negative { -value } else { value })
}

/// Appends a scaled integer as a plain decimal with exactly `scale` digits behind the point.
pub(crate) fn write_decimal(out: &mut Vec<u8>, value: i128, scale: i8) {
    let digits = value.unsigned_abs();
    if value < 0 {
        out.push(b'-');
    }
    let written = match u32::try_from(scale) {
        Ok(0) => write!(out, "{digits}"),
        Ok(scale) => {
            let unit = 10u128.pow(scale.min(38));
            write!(out, "{}.{:0width$}", digits / unit, digits % unit, width = scale as usize)
        }
        Err(_) if digits == 0 => write!(out, "0"),
        Err(_) => write!(out, "{digits}{:0width$}", 0, width = usize::from(scale.unsigned_abs())),
    };
    written.expect("writing to memory does not fail");
}

fn split_exponent(digits: &[u8]) -> Result<(&[u8], i64), Misfit> {
    let Some(at) = digits.iter().position(|b| matches!(b, b'e' | b'E')) else {
        return Ok((digits, 0));
    };
    let text = std::str::from_utf8(&digits[at + 1..]).map_err(|_| Misfit::NotANumber)?;
    let exponent = text.parse::<i32>().map_err(|_| Misfit::NotANumber)?;
    Ok((&digits[..at], i64::from(exponent)))
}

fn times_ten_to(value: i128, power: i64) -> Result<i128, Misfit> {
    if value == 0 {
        return Ok(0);
    }
    let factor = u32::try_from(power).ok().and_then(|power| 10i128.checked_pow(power)).ok_or(Misfit::TooLarge)?;
    value.checked_mul(factor).ok_or(Misfit::TooLarge)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_exactly_or_says_why_not() {
        let check = |text: &str, expect: Result<i128, Misfit>| assert_eq!(parse_decimal(text, 10, 2), expect, "{text}");
        check("12.34", Ok(1234));
        check("-0.5", Ok(-50));
        check("+7", Ok(700));
        check(".5", Ok(50));
        check("5.", Ok(500));
        check("1.2300000000000000000000000000000000000000000000000", Ok(123));
        check("000000000000000000000000000000000000000000000000012", Ok(1200));
        check("1e3", Ok(100_000));
        check("1234E-2", Ok(1234));
        check("0e999999999", Ok(0));
        check("99999999.99", Ok(9_999_999_999));
        check("100000000", Err(Misfit::TooLarge));
        check("1e400", Err(Misfit::TooLarge));
        check("0.001", Err(Misfit::Inexact));
        check("1e-3", Err(Misfit::Inexact));
        check("NaN", Err(Misfit::NotFinite));
        check("-Infinity", Err(Misfit::NotFinite));
        for text in ["", "-", ".", "1.2.3", "1e", "e5", "0x10", "1 ", " 1", "1e99999999999999999999", "--1"] {
            check(text, Err(Misfit::NotANumber));
        }
    }

    #[test]
    fn writes_every_digit_of_the_scale() {
        let check = |value: i128, scale: i8, expect: &str| {
            let mut out = Vec::new();
            write_decimal(&mut out, value, scale);
            assert_eq!(String::from_utf8(out).unwrap(), expect);
        };
        check(1234, 2, "12.34");
        check(-5, 2, "-0.05");
        check(0, 10, "0.0000000000");
        check(12, 0, "12");
        check(12, -2, "1200");
        check(i128::MAX, 38, "1.70141183460469231731687303715884105727");
    }

    proptest::proptest! {
        #[test]
        fn reads_what_it_writes(digits in 1u32..=38, raw in proptest::prelude::any::<i128>(), scale in 0i8..=38) {
            let value = raw % 10i128.pow(digits);
            let mut out = Vec::new();
            write_decimal(&mut out, value, scale);
            let text = String::from_utf8(out).unwrap();
            proptest::prop_assert_eq!(parse_decimal(&text, 38, scale), Ok(value), "{}", text);
        }

        #[test]
        fn never_panics(text in "[-+0-9.eE]{0,60}", scale in proptest::prelude::any::<i8>()) {
            let _ = parse_decimal(&text, 38, scale);
        }
    }
}
