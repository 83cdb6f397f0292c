//! Values from PostgreSQL's text forms, as casts, `INSERT` and parameters read them. What is no value of the type is
//! 22P02 (22007 for times), what is one beyond its bounds 22003 (22008 for times).

use crate::error::{Error, Result, sqlstate};
use crate::types::DIGITS_MAX;

const SECOND_US: i64 = 1_000_000;
const MINUTE_US: i64 = 60 * SECOND_US;
const HOUR_US: i64 = 60 * MINUTE_US;
const DAY_US: i64 = 24 * HOUR_US;
/// The last year that a timestamp of PostgreSQL may have; 64 bits of microseconds from 1970 reach a little less far.
const YEAR_MAX: i64 = 294_000;
/// Zones lie at most this far from UTC.
const ZONE_MAX_US: i64 = 16 * HOUR_US;

fn invalid(type_name: &str, text: &str) -> Error {
    let message = format!("invalid input syntax for type {type_name}: \"{text}\"");
    Error::new(sqlstate::INVALID_TEXT_REPRESENTATION, message)
}

fn invalid_time(type_name: &str, text: &str) -> Error {
    let message = format!("invalid input syntax for type {type_name}: \"{text}\"");
    Error::new(sqlstate::INVALID_DATETIME_FORMAT, message)
        .hint("write it in the ISO form: 2024-02-29, 13:05:00.25, 2024-02-29 13:05:00+00")
}

fn time_out_of_range(text: &str) -> Error {
    Error::new(sqlstate::DATETIME_FIELD_OVERFLOW, format!("date/time field value out of range: \"{text}\""))
}

/// A whole number of at most 64 bits, in the bounds of `T`.
pub fn integer<T: TryFrom<i64>>(text: &str, type_name: &str) -> Result<T> {
    let trimmed = text.trim();
    let digits = trimmed.strip_prefix(['-', '+']).unwrap_or(trimmed);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(invalid(type_name, text));
    }
    trimmed.parse::<i64>().ok().and_then(|n| T::try_from(n).ok()).ok_or_else(|| {
        let message = format!("value \"{text}\" is out of range for type {type_name}");
        Error::new(sqlstate::NUMERIC_VALUE_OUT_OF_RANGE, message)
    })
}

pub fn double(text: &str) -> Result<f64> {
    float(text, "double precision", |value: f64| value.is_finite(), |value| value == 0.0)
}

pub fn real(text: &str) -> Result<f32> {
    float(text, "real", |value: f32| value.is_finite(), |value| value == 0.0)
}

fn float<T: std::str::FromStr + Copy>(
    text: &str,
    type_name: &str,
    finite: impl Fn(T) -> bool,
    zero: impl Fn(T) -> bool,
) -> Result<T> {
    let trimmed = text.trim();
    let value: T = trimmed.parse().map_err(|_| invalid(type_name, text))?;
    let named = trimmed.trim_start_matches(['-', '+']).starts_with(|c: char| c.is_ascii_alphabetic());
    let mantissa = trimmed.split(['e', 'E']).next().unwrap_or_default();
    let vanished = zero(value) && mantissa.bytes().any(|b| matches!(b, b'1'..=b'9'));
    if !named && (!finite(value) || vanished) {
        let message = format!("\"{text}\" is out of range for type {type_name}");
        return Err(Error::new(sqlstate::NUMERIC_VALUE_OUT_OF_RANGE, message));
    }
    Ok(value)
}

/// A decimal as an integer and the digits behind its point, as it is written; the outer `None`: no number, the inner
/// one: a number of more digits than 128 bits hold.
pub fn number(text: &str) -> Option<Option<(i128, i32)>> {
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?),
        None => (text, 0),
    };
    let digits = mantissa.strip_prefix(['-', '+']).unwrap_or(mantissa);
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let all = || whole.bytes().chain(fraction.bytes());
    if all().next().is_none() || !all().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let mut value = Some(0i128);
    for digit in all() {
        value = value.and_then(|v| v.checked_mul(10)?.checked_add(i128::from(digit - b'0')));
    }
    let scale = i32::try_from(fraction.len()).ok().and_then(|n| n.checked_sub(exponent));
    let sign = if mantissa.starts_with('-') { -1 } else { 1 };
    Some(value.zip(scale).map(|(value, scale)| (sign * value, scale)))
}

/// A decimal of `digits` digits, `scale` of them behind the point; further ones are rounded half away from zero.
pub fn decimal(text: &str, digits: u8, scale: i8) -> Result<i128> {
    let trimmed = text.trim();
    let special = trimmed.trim_start_matches(['-', '+']).to_ascii_lowercase();
    if matches!(special.as_str(), "nan" | "inf" | "infinity") {
        return Err(Error::unsupported(format!("{special} as a numeric")).hint("a double precision can hold it"));
    }
    let (value, written) = match number(trimmed) {
        None => return Err(invalid("numeric", text)),
        Some(Some(number)) => number,
        // Digits that no numeric here has anyway, before the point or behind it.
        Some(None) => match shortened(trimmed, scale) {
            Some(number) => number,
            None => return Err(overflow(text, digits, scale)),
        },
    };
    rescaled(value, written, scale)
        .filter(|value| value.unsigned_abs() < 10u128.pow(digits.into()))
        .ok_or_else(|| overflow(text, digits, scale))
}

/// The number without the digits that are too far behind the point to matter.
fn shortened(text: &str, scale: i8) -> Option<(i128, i32)> {
    let point = text.find('.').filter(|_| !text.contains(['e', 'E']))?;
    let kept = text.get(..point + 2 + usize::from(scale.unsigned_abs()))?;
    number(kept).flatten()
}

/// `value / 10^from` as an integer over `10^to`, rounded half away from zero.
fn rescaled(value: i128, from: i32, to: i8) -> Option<i128> {
    let shift = i32::from(to).checked_sub(from)?;
    if shift >= 0 {
        if value == 0 {
            return Some(0);
        }
        return 10i128.checked_pow(shift.unsigned_abs()).and_then(|power| value.checked_mul(power));
    }
    let Some(power) = 10i128.checked_pow(shift.unsigned_abs()) else { return Some(0) };
    let (whole, rest) = (value / power, value % power);
    Some(if rest.abs() >= power - rest.abs() { whole + value.signum() } else { whole })
}

fn overflow(text: &str, digits: u8, scale: i8) -> Error {
    Error::new(sqlstate::NUMERIC_VALUE_OUT_OF_RANGE, "numeric field overflow").detail(format!(
        "{text} does not fit numeric({digits},{scale}); a numeric here has at most {DIGITS_MAX} digits"
    ))
}

pub fn boolean(text: &str) -> Result<bool> {
    let lower = text.trim().to_ascii_lowercase();
    let is = |full: &str, shortest: usize| lower.len() >= shortest && full.starts_with(&lower);
    match () {
        () if is("true", 1) || is("yes", 1) || is("on", 2) || lower == "1" => Ok(true),
        () if is("false", 1) || is("no", 1) || is("off", 2) || lower == "0" => Ok(false),
        () => Err(invalid("boolean", text)),
    }
}

/// `\x00ff`, or characters with escapes: a backslash is doubled or followed by three octal digits.
pub fn bytes(text: &str) -> Result<Vec<u8>> {
    let Some(hex) = text.strip_prefix("\\x") else {
        return escaped(text.as_bytes()).ok_or_else(|| invalid("bytea", text));
    };
    let hex: Vec<u8> = hex.bytes().filter(|b| !b.is_ascii_whitespace()).collect();
    let digit = |byte: u8| {
        char::from(byte).to_digit(16).map(|d| d as u8).ok_or_else(|| {
            let message = format!("invalid hexadecimal digit: \"{}\"", char::from(byte));
            Error::new(sqlstate::INVALID_PARAMETER_VALUE, message)
        })
    };
    let pairs = hex.chunks(2).map(|pair| match pair {
        [high, low] => Ok(digit(*high)? << 4 | digit(*low)?),
        _ => Err(Error::new(sqlstate::INVALID_PARAMETER_VALUE, "invalid hexadecimal data: odd number of digits")),
    });
    pairs.collect()
}

fn escaped(mut text: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    while let Some((first, rest)) = text.split_first() {
        text = rest;
        if *first != b'\\' {
            out.push(*first);
        } else if rest.first() == Some(&b'\\') {
            out.push(b'\\');
            text = &rest[1..];
        } else {
            let octal = std::str::from_utf8(rest.get(..3)?).ok()?;
            out.push(u8::from_str_radix(octal, 8).ok()?);
            text = &rest[3..];
        }
    }
    Some(out)
}

/// The 16 bytes of a uuid; hyphens may stand anywhere, braces around it.
pub fn uuid_bytes(text: &str) -> Option<[u8; 16]> {
    let mut bytes = [0u8; 16];
    let mut digits = 0;
    let inner = text.strip_prefix('{').and_then(|t| t.strip_suffix('}')).unwrap_or(text);
    for c in inner.chars().filter(|c| *c != '-') {
        let digit = c.to_digit(16)? as u8;
        let byte = bytes.get_mut(digits / 2)?;
        *byte = *byte << 4 | digit;
        digits += 1;
    }
    (digits == 32).then_some(bytes)
}

/// The one form of a uuid, in small letters with four hyphens.
pub fn uuid(text: &str) -> Result<String> {
    uuid_bytes(text).map(super::write::uuid).ok_or_else(|| invalid("uuid", text))
}

/// Checks a JSON text; it stays as it is written.
pub fn json(text: &str) -> Result<()> {
    serde_json::from_str::<serde::de::IgnoredAny>(text).map(drop).map_err(|e| {
        Error::new(sqlstate::INVALID_TEXT_REPRESENTATION, "invalid input syntax for type json").detail(e.to_string())
    })
}

/// Days since 1970.
pub fn date(text: &str) -> Result<i32> {
    let parts = Parts::of(text, "date")?;
    let days = parts.days.ok_or_else(|| invalid_time("date", text))?;
    i32::try_from(days).map_err(|_| time_out_of_range(text))
}

/// Microseconds since midnight; a zone is left out, as is a date before it.
pub fn time(text: &str) -> Result<i64> {
    match Parts::of(text, "time")?.time {
        // Midnight at the end of a day is a time in PostgreSQL, and not in Arrow.
        Some(us) if us >= DAY_US => Err(time_out_of_range(text)),
        Some(us) => Ok(us),
        None => Err(invalid_time("time", text)),
    }
}

/// Microseconds since 1970. A zone counts only for a `timestamptz`; without one that is UTC.
pub fn timestamp(text: &str, zoned: bool) -> Result<i64> {
    let name = if zoned { "timestamp with time zone" } else { "timestamp" };
    let parts = Parts::of(text, name)?;
    let days = parts.days.ok_or_else(|| invalid_time(name, text))?;
    let zone = if zoned { parts.zone.unwrap_or(0) } else { 0 };
    let time = parts.time.unwrap_or(0) - zone;
    days.checked_mul(DAY_US).and_then(|us| us.checked_add(time)).ok_or_else(|| time_out_of_range(text))
}

/// What stands in a text of a date, a time, or both.
struct Parts {
    days: Option<i64>,
    time: Option<i64>,
    /// Microseconds east of UTC.
    zone: Option<i64>,
}

impl Parts {
    fn of(text: &str, type_name: &str) -> Result<Self> {
        let fail = || invalid_time(type_name, text);
        let trimmed = text.trim();
        if matches!(
            trimmed.to_ascii_lowercase().as_str(),
            "infinity" | "-infinity" | "now" | "today" | "tomorrow" | "yesterday" | "epoch"
        ) {
            return Err(Error::unsupported(format!("the {type_name} \"{trimmed}\"")));
        }
        let (rest, before_christ) = match trimmed.strip_suffix("BC").or_else(|| trimmed.strip_suffix("bc")) {
            Some(rest) => (rest.trim_end(), true),
            None => (trimmed, false),
        };
        let (date, rest) = split_date(rest);
        let days = match date {
            Some(date) => {
                Some(date_days(date, before_christ).ok_or_else(fail)?.ok_or_else(|| time_out_of_range(text))?)
            }
            None => None,
        };
        let rest = rest.trim_start();
        if rest.is_empty() {
            return Ok(Self { days, time: None, zone: None });
        }
        let end = rest.find(|c: char| !(c.is_ascii_digit() || matches!(c, ':' | '.'))).unwrap_or(rest.len());
        let (clock, mut rest) = (&rest[..end], rest[end..].trim_start());
        let mut half = None;
        for (word, is_pm) in [("AM", false), ("PM", true)] {
            if rest.get(..2).is_some_and(|start| start.eq_ignore_ascii_case(word)) {
                half = Some(is_pm);
                rest = rest[2..].trim_start();
                break;
            }
        }
        let time = clock_us(clock, half).ok_or_else(fail)?.ok_or_else(|| time_out_of_range(text))?;
        let zone = match rest {
            "" => None,
            zone => Some(zone_us(zone).ok_or_else(|| {
                match zone.starts_with(|c: char| c.is_ascii_alphabetic()) {
                    true => {
                        Error::new(sqlstate::INVALID_PARAMETER_VALUE, format!("time zone \"{zone}\" not recognized"))
                            .hint("write it as an offset: +02")
                    }
                    false => fail(),
                }
            })?),
        };
        Ok(Self { days, time: Some(time), zone })
    }
}

/// A date at the start, `2024-02-29` or `20240229`, and what follows it (without the `T` between).
fn split_date(text: &str) -> (Option<&str>, &str) {
    let end = text.find(|c: char| !(c.is_ascii_digit() || c == '-')).unwrap_or(text.len());
    let date = &text[..end];
    let compact = date.len() == 8 && !date.contains('-');
    match compact || date.bytes().filter(|b| *b == b'-').count() == 2 {
        true => (Some(date), text[end..].strip_prefix(['T', 't']).unwrap_or(&text[end..])),
        false => (None, text),
    }
}

/// The outer `None`: no date; the inner one: no day of the calendar.
fn date_days(date: &str, before_christ: bool) -> Option<Option<i64>> {
    let (year, month, day) = match date.split('-').collect::<Vec<_>>().as_slice() {
        [year, month, day] if year.len() >= 3 && month.len() <= 2 && day.len() <= 2 => (*year, *month, *day),
        [all] => (all.get(..4)?, all.get(4..6)?, all.get(6..)?),
        _ => return None,
    };
    let (year, month, day): (i64, u32, u32) = (year.parse().ok()?, month.parse().ok()?, day.parse().ok()?);
    let year = if before_christ { 1 - year } else { year };
    let known = year <= YEAR_MAX && (before_christ || year > 0) && (1..=12).contains(&month) && day > 0;
    Some((known && day <= days_of_month(year, month)).then(|| days_from_civil(year, month, day)))
}

pub fn days_of_month(year: i64, month: u32) -> u32 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since 1970 of a day of the proleptic Gregorian calendar; year 0 is 1 BC.
pub fn days_from_civil(year: i64, month: u32, day: u32) -> i64 {
    let shifted = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (shifted.div_euclid(400), shifted.rem_euclid(400));
    let month_from_march = i64::from((month + 9) % 12);
    let day_of_year = (153 * month_from_march + 2) / 5 + i64::from(day) - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// `13:05`, `13:05:00.25`, `010203`; the outer `None`: no time; the inner one: an hour, minute or second too large.
fn clock_us(clock: &str, half: Option<bool>) -> Option<Option<i64>> {
    let parts: Vec<&str> = clock.split(':').collect();
    let (hour, minute, second) = match parts.as_slice() {
        [hour, minute] => (*hour, *minute, "0"),
        [hour, minute, second] => (*hour, *minute, *second),
        [hour] if half.is_some() => (*hour, "0", "0"),
        [all] if all.len() == 6 => (all.get(..2)?, all.get(2..4)?, all.get(4..)?),
        _ => return None,
    };
    let small = |text: &str| text.parse::<u8>().ok().filter(|_| text.len() <= 2).map(i64::from);
    let (mut hour, minute) = (small(hour)?, small(minute)?);
    let (whole, fraction) = second.split_once('.').unwrap_or((second, ""));
    let (second, fraction) = (small(whole)?, micros(fraction)?);
    if let Some(pm) = half {
        if !(1..=12).contains(&hour) {
            return Some(None);
        }
        hour = hour % 12 + if pm { 12 } else { 0 };
    }
    let us = hour * HOUR_US + minute * MINUTE_US + second * SECOND_US + fraction;
    Some((minute < 60 && second <= 60 && us <= DAY_US).then_some(us))
}

/// Digits behind a point as microseconds, rounded.
fn micros(fraction: &str) -> Option<i64> {
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let digits = |n: usize| fraction.bytes().chain(std::iter::repeat(b'0')).take(n);
    let seven = digits(7).fold(0, |sum, b| sum * 10 + i64::from(b - b'0'));
    Some((seven + 5) / 10)
}

/// `Z`, `UTC`, `+02`, `-05:30`, `+0530`.
fn zone_us(zone: &str) -> Option<i64> {
    if ["z", "utc", "gmt"].iter().any(|name| zone.eq_ignore_ascii_case(name)) {
        return Some(0);
    }
    let (sign, digits) = match zone.split_at_checked(1)? {
        ("+", digits) => (1, digits),
        ("-", digits) => (-1, digits),
        _ => return None,
    };
    let parts: Vec<&str> = match digits.len() {
        4 if !digits.contains(':') => vec![digits.get(..2)?, digits.get(2..)?],
        _ => digits.split(':').collect(),
    };
    let mut us = 0;
    for (part, unit) in parts.iter().zip([HOUR_US, MINUTE_US, SECOND_US]) {
        let value: u8 = part.parse().ok().filter(|n| part.len() <= 2 && (unit == HOUR_US || *n < 60))?;
        us += i64::from(value) * unit;
    }
    (parts.len() <= 3 && us < ZONE_MAX_US).then_some(sign * us)
}

/// Months, days and microseconds: PostgreSQL's words (`1 year 2 days 04:05:06.7`), also with `ago`, and ISO 8601.
pub fn interval(text: &str) -> Result<(i32, i32, i64)> {
    let parsed = match text.trim().strip_prefix('P') {
        Some(iso) => iso_interval(iso),
        None => worded_interval(text.trim()),
    };
    let (months, days, us) = parsed.ok_or_else(|| invalid_time("interval", text))?;
    let out =
        || Error::new(sqlstate::INTERVAL_FIELD_OVERFLOW, format!("interval field value out of range: \"{text}\""));
    let round = |value: f64| if value.abs() < 9e18 { Some(value.round() as i64) } else { None };
    let narrow = |value: f64| round(value).and_then(|n| i32::try_from(n).ok());
    // A part of a month are days of which it has thirty, a part of a day is time.
    let (whole_months, rest) = (months.trunc(), months.fract() * 30.0 + days);
    let (whole_days, rest) = (rest.trunc(), rest.fract() * DAY_US as f64 + us);
    let (Some(months), Some(days), Some(us)) = (narrow(whole_months), narrow(whole_days), round(rest)) else {
        return Err(out());
    };
    Ok((months, days, us))
}

type Amounts = (f64, f64, f64);

fn add(amounts: &mut Amounts, value: f64, unit: &str) -> Option<()> {
    let lower = unit.to_ascii_lowercase();
    let unit = if lower.len() > 2 { lower.strip_suffix('s').unwrap_or(&lower) } else { &lower };
    match unit {
        "millennium" | "millennia" => amounts.0 += value * 12_000.0,
        "century" | "centurie" => amounts.0 += value * 1200.0,
        "decade" => amounts.0 += value * 120.0,
        "year" | "yr" | "y" => amounts.0 += value * 12.0,
        "month" | "mon" => amounts.0 += value,
        "week" | "w" => amounts.1 += value * 7.0,
        "day" | "d" => amounts.1 += value,
        "hour" | "hr" | "h" => amounts.2 += value * HOUR_US as f64,
        "minute" | "min" | "m" => amounts.2 += value * MINUTE_US as f64,
        "second" | "sec" | "s" => amounts.2 += value * SECOND_US as f64,
        "millisecond" | "msec" | "ms" => amounts.2 += value * 1000.0,
        "microsecond" | "usec" | "us" => amounts.2 += value,
        _ => return None,
    }
    Some(())
}

fn worded_interval(text: &str) -> Option<Amounts> {
    let mut amounts = (0.0, 0.0, 0.0);
    let text = text.strip_prefix('@').unwrap_or(text).trim_start();
    let (text, sign) = match text.strip_suffix("ago") {
        Some(before) => (before.trim_end(), -1.0),
        None => (text, 1.0),
    };
    let mut words = text.split_whitespace().peekable();
    words.peek()?;
    while let Some(word) = words.next() {
        if word.contains(':') {
            let (negative, clock) = match word.strip_prefix('-') {
                Some(clock) => (true, clock),
                None => (false, word.strip_prefix('+').unwrap_or(word)),
            };
            let us = long_clock_us(clock)?;
            amounts.2 += if negative { -us } else { us };
            continue;
        }
        let end = word.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(word.len());
        let (digits, glued) = word.split_at(end);
        let value: f64 = digits.parse().ok()?;
        let unit = match glued {
            "" => words.next().unwrap_or("second"),
            unit => unit,
        };
        add(&mut amounts, value, unit)?;
    }
    Some((sign * amounts.0, sign * amounts.1, sign * amounts.2))
}

/// Hours beyond a day are allowed in an interval.
fn long_clock_us(clock: &str) -> Option<f64> {
    let mut parts = clock.split(':');
    let hours: f64 = parts.next()?.parse::<u32>().ok()?.into();
    let minutes: f64 = parts.next()?.parse::<u32>().ok().filter(|n| *n < 60)?.into();
    let seconds: f64 = parts.next().unwrap_or("0").parse().ok().filter(|n| (0.0..60.0).contains(n))?;
    parts.next().is_none().then_some(hours * HOUR_US as f64 + minutes * MINUTE_US as f64 + seconds * SECOND_US as f64)
}

fn iso_interval(text: &str) -> Option<Amounts> {
    let mut amounts = (0.0, 0.0, 0.0);
    let (date, time) = text.split_once('T').unwrap_or((text, ""));
    for (part, of_time) in [(date, false), (time, true)] {
        let mut rest = part;
        while !rest.is_empty() {
            let end = rest.find(|c: char| c.is_ascii_alphabetic())?;
            let value: f64 = rest[..end].parse().ok()?;
            let unit = match (&rest[end..=end], of_time) {
                ("M", false) => "month",
                (unit, _) => unit,
            };
            add(&mut amounts, value, unit)?;
            rest = &rest[end + 1..];
        }
    }
    (!text.is_empty()).then_some(amounts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check<T: std::fmt::Debug + PartialEq>(got: Result<T>, expect: Result<T, &str>) {
        assert_eq!(got.map_err(|e| e.code), expect);
    }

    #[test]
    fn numbers() {
        check(integer::<i32>(" 42 ", "integer"), Ok(42));
        check(integer::<i32>("99999999999", "integer"), Err("22003"));
        check(integer::<i64>("99999999999999999999", "bigint"), Err("22003"));
        check(integer::<i32>("1.5", "integer"), Err("22P02"));
        check(integer::<i32>("", "integer"), Err("22P02"));
        check(double("1e400"), Err("22003"));
        check(double("1e-400"), Err("22003"));
        check(double("-Infinity"), Ok(f64::NEG_INFINITY));
        check(double("0e5"), Ok(0.0));
        check(real("1e40"), Err("22003"));
        check(double("abc"), Err("22P02"));
        check(decimal("12.345", 10, 2), Ok(1235));
        check(decimal("-12.345", 10, 2), Ok(-1235));
        check(decimal("1e3", 38, 10), Ok(10_000_000_000_000));
        check(decimal("-.5", 38, 1), Ok(-5));
        check(decimal("12345.67", 5, 2), Err("22003"));
        check(decimal("1e300", 38, 10), Err("22003"));
        check(decimal("0.00000000000000000000000000000000000000000000001", 38, 10), Ok(0));
        check(decimal("0.99999999999999999999999999999999999999999999999", 38, 10), Ok(10_000_000_000));
        check(decimal("x", 38, 10), Err("22P02"));
    }

    #[test]
    fn bytes_and_names() {
        check(bytes("\\x00ff"), Ok(vec![0, 255]));
        check(bytes("a\\\\\\001"), Ok(vec![b'a', b'\\', 1]));
        check(bytes("\\xZZ"), Err("22023"));
        check(boolean("of"), Ok(false));
        check(boolean("maybe"), Err("22P02"));
        check(uuid("A0EEBC999C0B4EF8BB6D6BB9BD380A11"), Ok("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11".to_string()));
        check(uuid("zzz"), Err("22P02"));
        check(json("{\"a\": 1}"), Ok(()));
        check(json("{nope"), Err("22P02"));
    }

    #[test]
    fn times() {
        check(date("2000-01-02"), Ok(10_958));
        check(date("20000102"), Ok(10_958));
        check(date("2024-1-5 10:00"), Ok(19_727));
        check(date("0001-01-01 BC"), Ok(-719_528));
        check(date("2024-02-30"), Err("22008"));
        check(date("garbage"), Err("22007"));
        check(time("7:08"), Ok(25_680_000_000));
        check(time("10:00 PM"), Ok(79_200_000_000));
        check(time("25:00"), Err("22008"));
        check(timestamp("2000-01-01 00:00:00.5", false), Ok(946_684_800_500_000));
        check(timestamp("2000-01-01T02:00:00.5+02", true), Ok(946_684_800_500_000));
        check(timestamp("2000-01-01 02:00+02", false), Ok(946_692_000_000_000));
        check(timestamp("2000-01-01 00:00:00.1234567 Z", true), Ok(946_684_800_123_457));
        check(timestamp("2000-01-01 00:00 Europe/Paris", true), Err("22023"));
        check(timestamp("infinity", true), Err("0A000"));
    }

    #[test]
    fn intervals() {
        check(interval("1 year 2 months 3 days 04:05:06.789"), Ok((14, 3, 14_706_789_000)));
        check(interval("1:30"), Ok((0, 0, 5_400_000_000)));
        check(interval("-1 day"), Ok((0, -1, 0)));
        check(interval("1.5 days"), Ok((0, 1, 43_200_000_000)));
        check(interval("2 weeks ago"), Ok((0, -14, 0)));
        check(interval("90 minutes"), Ok((0, 0, 5_400_000_000)));
        check(interval("PT1H30M"), Ok((0, 0, 5_400_000_000)));
        check(interval("P1Y2M3D"), Ok((14, 3, 0)));
        check(interval("5"), Ok((0, 0, 5_000_000)));
        check(interval("1 fortnight"), Err("22007"));
        check(interval(""), Err("22007"));
    }
}
