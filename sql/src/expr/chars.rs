//! [`ToChar`]: `to_char` of dates and times by PostgreSQL's patterns. Those for numbers are refused by name.

use std::sync::Arc;

use arrow::array::{Array, AsArray, StringArray};
use arrow::datatypes::{DataType, TimeUnit, TimestampMicrosecondType};
use datafusion::common::{ScalarValue, exec_err};
use datafusion::error::Result as DfResult;
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility};

use super::part::iso_week;
use super::read::days_from_civil;
use super::write::civil;
use crate::error::{Error, Result};

const DAY_US: i64 = 86_400_000_000;
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
/// Longer patterns before those that they begin with.
const PATTERNS: &[&str] = &[
    "YYYY", "IYYY", "YYY", "YY", "Y", "MONTH", "Month", "month", "MON", "Mon", "mon", "MM", "MS", "MI", "DDD", "DD",
    "DAY", "Day", "day", "DY", "Dy", "dy", "D", "HH24", "HH12", "HH", "SSSSS", "SSSS", "SS", "US", "AM", "PM", "am",
    "pm", "A.M.", "P.M.", "a.m.", "p.m.", "Q", "WW", "IW", "ID", "J", "CC", "TZ", "tz", "OF", "BC", "AD",
];

#[derive(Debug, PartialEq, Eq, Hash)]
pub struct ToChar {
    signature: Signature,
}

impl Default for ToChar {
    fn default() -> Self {
        Self { signature: Signature::user_defined(Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for ToChar {
    fn name(&self) -> &str {
        "to_char"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> DfResult<Vec<DataType>> {
        match types {
            [DataType::Date32 | DataType::Date64 | DataType::Timestamp(..) | DataType::Null, _] => {
                Ok(vec![DataType::Timestamp(TimeUnit::Microsecond, None), DataType::Utf8])
            }
            [other, _] => {
                let what = if other.is_numeric() { "a number" } else { "this type" };
                Err(Error::unsupported(format!("to_char of {what}")).into())
            }
            _ => exec_err!("to_char takes a time and a pattern"),
        }
    }

    fn return_type(&self, _types: &[DataType]) -> DfResult<DataType> {
        Ok(DataType::Utf8)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        let scalar = args.args.iter().all(|a| matches!(a, ColumnarValue::Scalar(_)));
        let arrays = ColumnarValue::values_to_arrays(&args.args)?;
        let [times, patterns] = arrays.as_slice() else { return exec_err!("to_char takes a time and a pattern") };
        let times = times.as_primitive::<TimestampMicrosecondType>();
        let rows = times.iter().zip(patterns.as_string::<i32>());
        let texts = rows.map(|(us, pattern)| us.zip(pattern).map(|(us, pattern)| shown(us, pattern)).transpose());
        let out = Arc::new(texts.collect::<Result<StringArray>>()?);
        Ok(match scalar {
            true => ColumnarValue::Scalar(ScalarValue::try_from_array(&(out as Arc<dyn Array>), 0)?),
            false => ColumnarValue::Array(out),
        })
    }
}

/// The time by the pattern: what is in quotes, and what is no pattern, stands for itself.
fn shown(us: i64, pattern: &str) -> Result<String> {
    let mut out = String::new();
    let mut rest = pattern;
    while let Some(first) = rest.chars().next() {
        if first == '"' {
            let (inside, after) = rest[1..].split_once('"').unwrap_or((&rest[1..], ""));
            out.push_str(inside);
            rest = after;
            continue;
        }
        let (plain, after) = match rest.strip_prefix("FM").or_else(|| rest.strip_prefix("fm")) {
            Some(after) => (true, after),
            None => (false, rest),
        };
        let find = |text: &str| PATTERNS.iter().find(|p| text.starts_with(**p)).copied();
        // Digits are the same in small letters.
        let found = find(after).or_else(|| {
            let upper: String = after.chars().take(5).collect::<String>().to_ascii_uppercase();
            find(&upper).filter(|p| !p.starts_with(|c: char| "AP".contains(c)))
        });
        let Some(found) = found else {
            out.push(first);
            rest = &rest[first.len_utf8()..];
            continue;
        };
        rest = &after[found.len()..];
        let value = field(us, found)?;
        out.push_str(if plain { without_padding(&value) } else { &value });
        if rest.starts_with("TH") || rest.starts_with("th") {
            return Err(Error::unsupported("the pattern TH in to_char"));
        }
    }
    Ok(out)
}

fn without_padding(value: &str) -> &str {
    let trimmed = value.trim_end();
    match trimmed.trim_start_matches('0') {
        "" if !trimmed.is_empty() => "0",
        digits if trimmed.starts_with('0') && digits.starts_with(|c: char| c.is_ascii_digit()) => digits,
        _ => trimmed,
    }
}

fn field(us: i64, pattern: &str) -> Result<String> {
    let (days, in_day) = (us.div_euclid(DAY_US), us.rem_euclid(DAY_US));
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (in_day / 3_600_000_000, in_day / 60_000_000 % 60, in_day / 1_000_000 % 60);
    let weekday = (days + 4).rem_euclid(7);
    let (month_name, day_name) = (MONTHS[month as usize - 1], DAYS[weekday as usize]);
    let afternoon = hour >= 12;
    let half = |am: &str, pm: &str| if afternoon { pm.to_string() } else { am.to_string() };
    let shown_year = if year > 0 { year } else { 1 - year };
    let day_of_year = days - days_from_civil(year, 1, 1) + 1;
    let (iso_year, week) = iso_week(days);
    Ok(match pattern {
        "YYYY" => format!("{shown_year:04}"),
        "YYY" => format!("{:03}", shown_year % 1000),
        "YY" => format!("{:02}", shown_year % 100),
        "Y" => format!("{}", shown_year % 10),
        "IYYY" => format!("{iso_year:04}"),
        "MONTH" => format!("{:9}", month_name.to_uppercase()),
        "Month" => format!("{month_name:9}"),
        "month" => format!("{:9}", month_name.to_lowercase()),
        "MON" => month_name[..3].to_uppercase(),
        "Mon" => month_name[..3].to_string(),
        "mon" => month_name[..3].to_lowercase(),
        "MM" => format!("{month:02}"),
        "DAY" => format!("{:9}", day_name.to_uppercase()),
        "Day" => format!("{day_name:9}"),
        "day" => format!("{:9}", day_name.to_lowercase()),
        "DY" => day_name[..3].to_uppercase(),
        "Dy" => day_name[..3].to_string(),
        "dy" => day_name[..3].to_lowercase(),
        "DDD" => format!("{day_of_year:03}"),
        "DD" => format!("{day:02}"),
        "D" => format!("{}", weekday + 1),
        "ID" => format!("{}", if weekday == 0 { 7 } else { weekday }),
        "HH24" => format!("{hour:02}"),
        "HH12" | "HH" => format!("{:02}", (hour + 11) % 12 + 1),
        "MI" => format!("{minute:02}"),
        "SS" => format!("{second:02}"),
        "SSSS" | "SSSSS" => format!("{}", in_day / 1_000_000),
        "MS" => format!("{:03}", in_day / 1000 % 1000),
        "US" => format!("{:06}", in_day % 1_000_000),
        "AM" | "PM" => half("AM", "PM"),
        "am" | "pm" => half("am", "pm"),
        "A.M." | "P.M." => half("A.M.", "P.M."),
        "a.m." | "p.m." => half("a.m.", "p.m."),
        "Q" => format!("{}", month.div_ceil(3)),
        "WW" => format!("{:02}", (day_of_year - 1) / 7 + 1),
        "IW" => format!("{week:02}"),
        "J" => format!("{}", days + 2_440_588),
        "CC" => format!("{:02}", (shown_year + 99) / 100),
        "BC" | "AD" => if year > 0 { "AD" } else { "BC" }.to_string(),
        other => return Err(Error::unsupported(format!("the pattern {other} in to_char"))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        let us = super::super::read::timestamp("2024-02-29 00:04:05.6", false).expect("a timestamp");
        for (pattern, expect) in [
            ("YYYY-MM-DD HH24:MI:SS.MS", "2024-02-29 00:04:05.600"),
            ("Mon DD, YYYY", "Feb 29, 2024"),
            ("HH12:MI AM", "12:04 AM"),
            ("FMHH12:FMMI pm", "12:4 am"),
            ("FMMonth FMDD", "February 29"),
            ("Month|", "February |"),
            ("Day, IYYY-IW-ID", "Thursday , 2024-09-4"),
            ("yyyy/mm/dd", "2024/02/29"),
            ("\"Year\" YY Q", "Year 24 1"),
            ("DDD WW J", "060 09 2460370"),
        ] {
            assert_eq!(shown(us, pattern).expect(pattern), expect, "{pattern}");
        }
        assert_eq!(shown(us, "TZ").expect_err("no zone").code, "0A000");
    }
}
