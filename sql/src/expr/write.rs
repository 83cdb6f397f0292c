//! Values in PostgreSQL's text forms, as clients, casts to text and `||` show them.

use std::fmt::Write as _;

use bytes::{BufMut, BytesMut};

const DAY_US: i64 = 86_400_000_000;

pub fn print(out: &mut BytesMut, args: std::fmt::Arguments<'_>) {
    out.write_fmt(args).expect("a byte buffer grows as needed");
}

/// `2024-02-29`; years before 1 are written as `0044-03-15 BC`.
pub fn date(days: i64, out: &mut BytesMut) {
    let (year, month, day) = civil(days);
    put_date(year, month, day, out);
    if year <= 0 {
        out.put_slice(b" BC");
    }
}

fn put_date(year: i64, month: u32, day: u32, out: &mut BytesMut) {
    let shown = if year <= 0 { 1 - year } else { year };
    print(out, format_args!("{shown:04}-{month:02}-{day:02}"));
}

/// `13:05:00.25`; microseconds since midnight.
pub fn time(us: i64, out: &mut BytesMut) {
    let (seconds, fraction) = (us / 1_000_000, us % 1_000_000);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    print(out, format_args!("{hour:02}:{minute:02}:{second:02}"));
    if fraction != 0 {
        let digits = format!("{fraction:06}");
        out.put_u8(b'.');
        out.put_slice(digits.trim_end_matches('0').as_bytes());
    }
}

/// `2024-02-29 13:05:00.25`, with `+00` for a timestamptz.
pub fn timestamp(us: i64, utc: bool, out: &mut BytesMut) {
    let (year, month, day) = civil(us.div_euclid(DAY_US));
    put_date(year, month, day, out);
    out.put_u8(b' ');
    time(us.rem_euclid(DAY_US), out);
    if utc {
        out.put_slice(b"+00");
    }
    if year <= 0 {
        out.put_slice(b" BC");
    }
}

/// `1 year 2 mons -3 days +04:05:06`: a part after a negative one has its sign.
pub fn interval(months: i32, days: i32, us: i64, out: &mut BytesMut) {
    let start = out.len();
    let mut negative_before = false;
    for (value, unit) in [(months / 12, "year"), (months % 12, "mon"), (days, "day")] {
        if value == 0 {
            continue;
        }
        let space = if out.len() > start { " " } else { "" };
        let sign = if negative_before && value > 0 { "+" } else { "" };
        let plural = if value == 1 { "" } else { "s" };
        print(out, format_args!("{space}{sign}{value} {unit}{plural}"));
        negative_before = value < 0;
    }
    if us == 0 && out.len() > start {
        return;
    }
    if out.len() > start {
        out.put_u8(b' ');
    }
    match us {
        i64::MIN..0 => out.put_u8(b'-'),
        _ if negative_before => out.put_u8(b'+'),
        _ => {}
    }
    // Half of what 64 bits hold is far beyond the days that an interval keeps apart.
    time(us.checked_abs().unwrap_or(i64::MAX), out);
}

/// Year (0 is 1 BC), month and day of the proleptic Gregorian calendar: eras of 400 years that begin in March.
pub fn civil(days: i64) -> (i64, u32, u32) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = (day_of_year - (153 * month_from_march + 2) / 5 + 1) as u32;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 } as u32;
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

pub fn bytes(bytes: &[u8], out: &mut BytesMut) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    out.reserve(2 + bytes.len() * 2);
    out.put_slice(b"\\x");
    for byte in bytes {
        out.put_u8(HEX[usize::from(byte >> 4)]);
        out.put_u8(HEX[usize::from(byte & 15)]);
    }
}

pub fn uuid(bytes: [u8; 16]) -> String {
    let n = u128::from_be_bytes(bytes);
    let (a, b, c) = (n >> 96, (n >> 80) & 0xffff, (n >> 64) & 0xffff);
    format!("{a:08x}-{b:04x}-{c:04x}-{:04x}-{:012x}", (n >> 48) & 0xffff, n & 0xffff_ffff_ffff)
}

pub fn decimal(value: i128, scale: u8, out: &mut BytesMut) {
    if scale == 0 {
        return print(out, format_args!("{value}"));
    }
    let power = 10u128.pow(u32::from(scale));
    let magnitude = value.unsigned_abs();
    let sign = if value < 0 { "-" } else { "" };
    let width = usize::from(scale);
    print(out, format_args!("{sign}{}.{:0width$}", magnitude / power, magnitude % power));
}

pub enum Float {
    Single(f32),
    Double(f64),
}

/// The shortest digits that read back as the same value, laid out as PostgreSQL does: an exponent from 1e+15 on
/// (1e+06 for `real`) and below 1e-04.
pub fn float(exact: Float, out: &mut BytesMut) {
    let value = match exact {
        Float::Single(v) => f64::from(v),
        Float::Double(v) => v,
    };
    if value.is_nan() {
        return out.put_slice(b"NaN");
    }
    if value.is_infinite() {
        return out.put_slice(if value > 0.0 { b"Infinity" } else { b"-Infinity" });
    }
    let (scientific, digits_max) = match exact {
        Float::Single(v) => (format!("{v:e}"), 6),
        Float::Double(v) => (format!("{v:e}"), 15),
    };
    let (mantissa, exponent) = scientific.split_once('e').expect("the format always has an exponent");
    let exponent: i32 = exponent.parse().expect("the exponent is an integer");
    if value != 0.0 && !(-4..digits_max).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return print(out, format_args!("{mantissa}e{sign}{:02}", exponent.unsigned_abs()));
    }
    match exact {
        Float::Single(v) => print(out, format_args!("{v}")),
        Float::Double(v) => print(out, format_args!("{v}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(write: impl Fn(&mut BytesMut), expect: &str) {
        let mut out = BytesMut::new();
        write(&mut out);
        assert_eq!(std::str::from_utf8(&out).unwrap(), expect);
    }

    #[test]
    fn times() {
        check(|o| date(0, o), "1970-01-01");
        check(|o| date(19_782, o), "2024-02-29");
        check(|o| date(-719_162, o), "0001-01-01");
        check(|o| date(-719_528, o), "0001-01-01 BC");
        check(|o| time(47_100_250_000, o), "13:05:00.25");
        check(|o| timestamp(-1, false, o), "1969-12-31 23:59:59.999999");
        check(|o| timestamp(1_709_211_900_000_000, true, o), "2024-02-29 13:05:00+00");
    }

    #[test]
    fn intervals() {
        check(|o| interval(0, 0, 0, o), "00:00:00");
        check(|o| interval(0, 1, 0, o), "1 day");
        check(|o| interval(14, 3, 14_706_789_000, o), "1 year 2 mons 3 days 04:05:06.789");
        check(|o| interval(0, -1, 3_600_000_000, o), "-1 days +01:00:00");
        check(|o| interval(0, 1, -3_600_000_000, o), "1 day -01:00:00");
        check(|o| interval(0, 0, 129_600_000_000, o), "36:00:00");
        check(|o| interval(-14, 0, 0, o), "-1 years -2 mons");
    }
}
