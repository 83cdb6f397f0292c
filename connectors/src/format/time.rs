//! Dates and times as text and as Arrow's integers. ISO 8601 and PostgreSQL's own form (`2024-05-06 07:08:09.5`) are
//! read; ISO 8601 is written. The calendar is the proleptic Gregorian one, years before 1 count down from 0.

use std::io::Write as _;

const MICROS_A_SECOND: i64 = 1_000_000;
const MICROS_A_DAY: i64 = 86_400 * MICROS_A_SECOND;

/// A point in time as read, before its zone is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Instant {
    /// Microseconds since 1970 of the clock on the wall.
    pub wall_us: i64,
    /// Seconds east of UTC, where the text says so.
    pub offset_s: Option<i32>,
}

/// Days since 1970 of a date, `YYYY-MM-DD`.
pub(crate) fn parse_date(text: &str) -> Option<i32> {
    let mut scan = Scan(text.as_bytes());
    let days = scan.date()?;
    scan.0.is_empty().then_some(i32::try_from(days).ok()?)
}

/// Microseconds since midnight of a time, `HH:MM[:SS[.f]]`; 24:00:00 is the end of the day.
pub(crate) fn parse_time(text: &str) -> Option<i64> {
    let mut scan = Scan(text.as_bytes());
    let micros = scan.time()?;
    scan.0.is_empty().then_some(micros)
}

/// A timestamp, `YYYY-MM-DD(T| )HH:MM[:SS[.f]][Z|±HH[:MM[:SS]]]`, or a date alone.
pub(crate) fn parse_timestamp(text: &str) -> Option<Instant> {
    let mut scan = Scan(text.as_bytes());
    let days = scan.date()?;
    let mut micros = 0;
    if !scan.0.is_empty() {
        if !scan.eat(b'T') && !scan.eat(b't') && !scan.eat(b' ') {
            return None;
        }
        micros = scan.time()?;
    }
    let offset_s = if scan.0.is_empty() { None } else { Some(scan.zone()?) };
    if !scan.0.is_empty() {
        return None;
    }
    Some(Instant { wall_us: days.checked_mul(MICROS_A_DAY)?.checked_add(micros)?, offset_s })
}

/// Appends `YYYY-MM-DD`; years outside of 0..=9999 carry a sign and at least five digits.
pub(crate) fn write_date(out: &mut Vec<u8>, days: i32) {
    write_civil(out, i64::from(days));
}

/// Appends `HH:MM:SS[.ffffff]`.
pub(crate) fn write_time(out: &mut Vec<u8>, micros: i64) {
    let seconds = micros.div_euclid(MICROS_A_SECOND);
    let fraction = micros.rem_euclid(MICROS_A_SECOND);
    push(out, format_args!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60));
    if fraction != 0 {
        push(out, format_args!(".{fraction:06}"));
    }
}

/// Appends `YYYY-MM-DDTHH:MM:SS[.ffffff]`, and `Z` when `utc`.
pub(crate) fn write_timestamp(out: &mut Vec<u8>, micros: i64, utc: bool) {
    write_civil(out, micros.div_euclid(MICROS_A_DAY));
    out.push(b'T');
    write_time(out, micros.rem_euclid(MICROS_A_DAY));
    if utc {
        out.push(b'Z');
    }
}

fn write_civil(out: &mut Vec<u8>, days: i64) {
    let (year, month, day) = civil_from_days(days);
    if (0..=9999).contains(&year) {
        push(out, format_args!("{year:04}-{month:02}-{day:02}"));
    } else {
        let sign = if year < 0 { '-' } else { '+' };
        push(out, format_args!("{sign}{:05}-{month:02}-{day:02}", year.unsigned_abs()));
    }
}

fn push(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("writing to memory does not fail");
}

/// Days since 1970 of a civil date: years are counted from March in eras of 400 (146,097 days).
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// The inverse of [`days_from_civil`].
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if year.rem_euclid(4) == 0 && (year.rem_euclid(100) != 0 || year.rem_euclid(400) == 0) => 29,
        2 => 28,
        _ => 31,
    }
}

/// What is left to read.
struct Scan<'a>(&'a [u8]);

impl Scan<'_> {
    fn eat(&mut self, byte: u8) -> bool {
        let found = self.0.first() == Some(&byte);
        if found {
            self.0 = &self.0[1..];
        }
        found
    }

    /// Between `least` and `most` digits.
    fn digits(&mut self, least: usize, most: usize) -> Option<i64> {
        let count = self.0.iter().take(most).take_while(|b| b.is_ascii_digit()).count();
        if count < least {
            return None;
        }
        let value = self.0[..count].iter().fold(0, |value, b| value * 10 + i64::from(b - b'0'));
        self.0 = &self.0[count..];
        Some(value)
    }

    fn date(&mut self) -> Option<i64> {
        let negative = self.eat(b'-');
        let signed = negative || self.eat(b'+');
        let year = self.digits(4, if signed { 7 } else { 6 })?;
        let year = if negative { -year } else { year };
        if !self.eat(b'-') {
            return None;
        }
        let month = self.digits(2, 2)?;
        if !self.eat(b'-') {
            return None;
        }
        let day = self.digits(2, 2)?;
        let valid = (1..=12).contains(&month) && (1..=days_in_month(year, month)).contains(&day);
        valid.then(|| days_from_civil(year, month, day))
    }

    fn time(&mut self) -> Option<i64> {
        let hour = self.digits(2, 2)?;
        if !self.eat(b':') {
            return None;
        }
        let minute = self.digits(2, 2)?;
        let (mut second, mut fraction) = (0, 0);
        if self.eat(b':') {
            second = self.digits(2, 2)?;
            if self.eat(b'.') || self.eat(b',') {
                fraction = self.fraction()?;
            }
        }
        let micros = ((hour * 60 + minute) * 60 + second) * MICROS_A_SECOND + fraction;
        (minute < 60 && second <= 60 && micros <= MICROS_A_DAY).then_some(micros)
    }

    /// Digits behind the point as microseconds, rounded half up as PostgreSQL does.
    fn fraction(&mut self) -> Option<i64> {
        let count = self.0.iter().take_while(|b| b.is_ascii_digit()).count();
        if count == 0 {
            return None;
        }
        let digit = |at: usize| self.0.get(at).filter(|_| at < count).map_or(0, |b| i64::from(b - b'0'));
        let micros = (0..6).fold(0, |value, at| value * 10 + digit(at)) + i64::from(digit(6) >= 5);
        self.0 = &self.0[count..];
        Some(micros)
    }

    fn zone(&mut self) -> Option<i32> {
        if self.eat(b'Z') || self.eat(b'z') {
            return Some(0);
        }
        let west = self.eat(b'-');
        if !west && !self.eat(b'+') {
            return None;
        }
        let mut seconds = self.digits(2, 2)? * 3600;
        let mut unit = 60;
        while unit > 0 && !self.0.is_empty() {
            self.eat(b':');
            let part = self.digits(2, 2)?;
            if part > 59 {
                return None;
            }
            seconds += part * unit;
            unit /= 60;
        }
        let seconds = i32::try_from(seconds).ok().filter(|s| *s < 16 * 3600)?;
        Some(if west { -seconds } else { seconds })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timestamp(micros: i64) -> String {
        let mut out = Vec::new();
        write_timestamp(&mut out, micros, false);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn reads_what_people_write() {
        let check = |text: &str, wall_us: i64, offset_s: Option<i32>| {
            assert_eq!(parse_timestamp(text), Some(Instant { wall_us, offset_s }), "{text}");
        };
        check("1970-01-01T00:00:00Z", 0, Some(0));
        check("1970-01-02", MICROS_A_DAY, None);
        check("1970-01-01 00:00:01.5", 1_500_000, None);
        check("1970-01-01 00:00:01.0000015", 1_000_002, None);
        check("1969-12-31T23:59:59.999999+02:00", -1, Some(7200));
        check("2024-02-29 12:34+0530", 1_709_210_040_000_000, Some(19_800));
        check("-0043-03-15T00:00:00Z", -63_517_824_000_000_000, Some(0));
        check("+12024-01-01", 317_273_587_200_000_000, None);
    }

    #[test]
    fn refuses_what_is_no_time() {
        for text in [
            "",
            "2024",
            "2024-02-30",
            "2023-02-29",
            "2024-13-01",
            "2024-01-01T24:00:01",
            "2024-01-01T1:00",
            "2024-01-01T00:00:00+",
            "2024-01-01T00:00:00 ",
            "2024-01-01T00:60",
            "infinity",
            "9999999-01-01",
            "2024-01-01T00:00:00.",
            "2024-01-01T00:00:00+99",
        ] {
            assert_eq!(parse_timestamp(text), None, "{text}");
        }
        assert_eq!(parse_time("24:00:00"), Some(MICROS_A_DAY));
        assert_eq!(parse_date("2024-01-01x"), None);
    }

    proptest::proptest! {
        #[test]
        fn writes_what_it_reads(micros in -9_000_000_000_000_000_000i64..9_000_000_000_000_000_000) {
            let text = timestamp(micros);
            proptest::prop_assert_eq!(parse_timestamp(&text), Some(Instant { wall_us: micros, offset_s: None }), "{}", text);
        }

        #[test]
        fn never_panics(text in ".{0,40}", digits in "[-+0-9:. TZ]{0,40}") {
            parse_timestamp(&text);
            parse_timestamp(&digits);
            parse_time(&digits);
        }
    }
}
