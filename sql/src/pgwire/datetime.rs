//! Dates and times in PostgreSQL's text (ISO) and binary forms, from Arrow's microseconds and days since 1970.

use std::fmt::Write as _;

use bytes::{BufMut, BytesMut};

use crate::error::{Error, Result, sqlstate};

const DAY_US: i64 = 86_400_000_000;
/// Days from 1970-01-01 to 2000-01-01, where PostgreSQL counts from.
const EPOCH_DAYS: i32 = 10_957;

/// `2024-02-29`; years before 1 are written as `0044-03-15 BC`.
pub fn date_text(days: i64, out: &mut BytesMut) {
    let (year, month, day) = civil(days);
    put_date(year, month, day, out);
    if year <= 0 {
        out.put_slice(b" BC");
    }
}

fn put_date(year: i64, month: u32, day: u32, out: &mut BytesMut) {
    let shown = if year <= 0 { 1 - year } else { year };
    write!(out, "{shown:04}-{month:02}-{day:02}").expect("a byte buffer grows as needed");
}

/// `13:05:00.25`; microseconds since midnight.
pub fn time_text(us: i64, out: &mut BytesMut) {
    let (seconds, fraction) = (us / 1_000_000, us % 1_000_000);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    write!(out, "{hour:02}:{minute:02}:{second:02}").expect("a byte buffer grows as needed");
    if fraction != 0 {
        let digits = format!("{fraction:06}");
        out.put_u8(b'.');
        out.put_slice(digits.trim_end_matches('0').as_bytes());
    }
}

/// `2024-02-29 13:05:00.25`, with `+00` for a timestamptz.
pub fn timestamp_text(us: i64, utc: bool, out: &mut BytesMut) {
    let (year, month, day) = civil(us.div_euclid(DAY_US));
    put_date(year, month, day, out);
    out.put_u8(b' ');
    time_text(us.rem_euclid(DAY_US), out);
    if utc {
        out.put_slice(b"+00");
    }
    if year <= 0 {
        out.put_slice(b" BC");
    }
}

pub fn date_binary(days: i32) -> Result<i32> {
    days.checked_sub(EPOCH_DAYS).ok_or_else(out_of_range)
}

pub fn timestamp_binary(us: i64) -> Result<i64> {
    us.checked_sub(i64::from(EPOCH_DAYS) * DAY_US).ok_or_else(out_of_range)
}

/// Arrow's days of PostgreSQL's.
pub fn date_from_binary(days: i32) -> Result<i32> {
    days.checked_add(EPOCH_DAYS).ok_or_else(out_of_range)
}

pub fn timestamp_from_binary(us: i64) -> Result<i64> {
    us.checked_add(i64::from(EPOCH_DAYS) * DAY_US).ok_or_else(out_of_range)
}

fn out_of_range() -> Error {
    Error::new(sqlstate::NUMERIC_VALUE_OUT_OF_RANGE, "date or time out of range")
}

/// Year (0 is 1 BC), month and day of the proleptic Gregorian calendar: eras of 400 years that begin in March.
fn civil(days: i64) -> (i64, u32, u32) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_forms() {
        let check = |write: &dyn Fn(&mut BytesMut), expect: &str| {
            let mut out = BytesMut::new();
            write(&mut out);
            assert_eq!(std::str::from_utf8(&out).unwrap(), expect);
        };
        check(&|o| date_text(0, o), "1970-01-01");
        check(&|o| date_text(19_782, o), "2024-02-29");
        check(&|o| date_text(-719_162, o), "0001-01-01");
        check(&|o| date_text(-719_528, o), "0001-01-01 BC");
        check(&|o| time_text(47_100_250_000, o), "13:05:00.25");
        check(&|o| timestamp_text(-1, false, o), "1969-12-31 23:59:59.999999");
        check(&|o| timestamp_text(1_709_211_900_000_000, true, o), "2024-02-29 13:05:00+00");
    }
}
