//! [`Part`]: `extract` and `date_part`: a field of a date, a time or an interval, with its fraction.

use std::sync::Arc;

use arrow::array::types::{IntervalMonthDayNano, IntervalMonthDayNanoType};
use arrow::array::{Array, ArrayRef, AsArray, Decimal128Array, Float64Array};
use arrow::compute::cast;
use arrow::datatypes::{
    DataType, Date32Type, DurationMicrosecondType, Field, FieldRef, IntervalUnit, Time64MicrosecondType, TimeUnit,
    TimestampMicrosecondType,
};
use datafusion::common::{ScalarValue, exec_err, internal_err};
use datafusion::error::Result as DfResult;
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility,
};

use super::write::civil;
use crate::error::{Error, Result, sqlstate};

const DAY_US: i64 = 86_400_000_000;
/// PostgreSQL's year in an interval's epoch: 365.25 days.
const YEAR_US: i64 = 31_557_600_000_000;
const MONTH_US: i64 = 30 * DAY_US;

#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Part {
    /// `extract` gives a numeric, `date_part` a double.
    exact: bool,
    signature: Signature,
}

impl Part {
    pub fn extract() -> Self {
        Self { exact: true, signature: Signature::user_defined(Volatility::Immutable) }
    }

    pub fn date_part() -> Self {
        Self { exact: false, ..Self::extract() }
    }
}

/// Fields that `extract` does not find in a date; `date_part` takes it for its midnight.
const TIME_FIELDS: &[&str] = &[
    "hour",
    "hours",
    "minute",
    "minutes",
    "second",
    "seconds",
    "millisecond",
    "milliseconds",
    "microsecond",
    "microseconds",
    "timezone",
    "timezone_hour",
    "timezone_minute",
];

/// Digits behind the point of a field of values of this type.
fn scale(field: &str, of: &DataType) -> i8 {
    match field {
        "second" | "seconds" => 6,
        "epoch" if *of != DataType::Date32 => 6,
        "millisecond" | "milliseconds" => 3,
        _ => 0,
    }
}

impl ScalarUDFImpl for Part {
    fn name(&self) -> &str {
        if self.exact { "extract" } else { "date_part" }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> DfResult<Vec<DataType>> {
        let micros = TimeUnit::Microsecond;
        let value = match types {
            [_, DataType::Date32 | DataType::Date64] => DataType::Date32,
            [_, DataType::Timestamp(_, zone)] => DataType::Timestamp(micros, zone.as_ref().map(|_| "UTC".into())),
            [_, DataType::Time32(_) | DataType::Time64(_)] => DataType::Time64(micros),
            [_, DataType::Duration(_)] => DataType::Duration(micros),
            [_, DataType::Interval(_)] => DataType::Interval(IntervalUnit::MonthDayNano),
            [_, DataType::Utf8 | DataType::Null] => DataType::Timestamp(micros, None),
            _ => {
                let message = format!("function {} of these values does not exist", self.name());
                return Err(Error::new(sqlstate::UNDEFINED_FUNCTION, message).into());
            }
        };
        Ok(vec![DataType::Utf8, value])
    }

    fn return_type(&self, _types: &[DataType]) -> DfResult<DataType> {
        internal_err!("the type of {} comes with its field", self.name())
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> DfResult<FieldRef> {
        let (Some(Some(ScalarValue::Utf8(Some(field)))), Some(value)) =
            (args.scalar_arguments.first(), args.arg_fields.get(1))
        else {
            return Err(Error::unsupported(format!("{} of a field that is no literal", self.name())).into());
        };
        let field = &field.to_lowercase();
        if self.exact && *value.data_type() == DataType::Date32 && TIME_FIELDS.contains(&field.as_str()) {
            return Err(Error::unsupported(format!("the unit \"{field}\" of a value of type date")).into());
        }
        let to = match self.exact {
            true => DataType::Decimal128(20, scale(field, value.data_type())),
            false => DataType::Float64,
        };
        Ok(Arc::new(Field::new(self.name(), to, true)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        let [ColumnarValue::Scalar(ScalarValue::Utf8(Some(field))), value] = args.args.as_slice() else {
            return exec_err!("{} takes a field and a value", self.name());
        };
        let scalar = matches!(value, ColumnarValue::Scalar(_));
        let array = value.to_array(args.number_rows.max(1))?;
        let out = self.fields(&field.to_lowercase(), &array)?;
        Ok(match scalar {
            true => ColumnarValue::Scalar(ScalarValue::try_from_array(&out, 0)?),
            false => ColumnarValue::Array(out),
        })
    }
}

impl Part {
    fn fields(&self, field: &str, array: &ArrayRef) -> Result<ArrayRef> {
        let scale = scale(field, array.data_type());
        let values: Vec<Option<i64>> = match array.data_type() {
            DataType::Date32 => of_each(array.as_primitive::<Date32Type>().iter(), |days| {
                of_timestamp(field, i64::from(days) * DAY_US).map(|v| if field == "epoch" { v / 1_000_000 } else { v })
            }),
            DataType::Timestamp(..) => {
                of_each(array.as_primitive::<TimestampMicrosecondType>().iter(), |us| of_timestamp(field, us))
            }
            DataType::Time64(_) => {
                of_each(array.as_primitive::<Time64MicrosecondType>().iter(), |us| of_time(field, us))
            }
            DataType::Duration(_) => of_each(array.as_primitive::<DurationMicrosecondType>().iter(), |us| {
                of_interval(field, 0, us / DAY_US, us % DAY_US)
            }),
            _ => {
                let intervals = cast(array, &DataType::Interval(IntervalUnit::MonthDayNano))?;
                let intervals = intervals.as_primitive::<IntervalMonthDayNanoType>();
                of_each(intervals.iter(), |v: IntervalMonthDayNano| {
                    of_interval(field, v.months.into(), v.days.into(), v.nanoseconds / 1000)
                })
            }
        }?;
        if self.exact {
            let numbers: Decimal128Array = values.into_iter().map(|v| v.map(i128::from)).collect();
            return Ok(Arc::new(numbers.with_precision_and_scale(20, scale)?));
        }
        let unit = 10f64.powi(scale.into());
        Ok(Arc::new(values.into_iter().map(|v| v.map(|v| v as f64 / unit)).collect::<Float64Array>()))
    }
}

fn of_each<V>(values: impl Iterator<Item = Option<V>>, field: impl Fn(V) -> Result<i64>) -> Result<Vec<Option<i64>>> {
    values.map(|value| value.map(&field).transpose()).collect()
}

fn unknown(field: &str, of: &str) -> Error {
    Error::new(sqlstate::INVALID_PARAMETER_VALUE, format!("unit \"{field}\" not recognized for type {of}"))
}

/// In units of the field's last digit.
fn of_timestamp(field: &str, us: i64) -> Result<i64> {
    let (days, in_day) = (us.div_euclid(DAY_US), us.rem_euclid(DAY_US));
    let (year, month, day) = civil(days);
    // 1970-01-01 was a Thursday.
    let day_of_week = (days + 4).rem_euclid(7);
    let shown_year = if year > 0 { year } else { year - 1 };
    let centuries = |years: i64| if year > 0 { (year + years - 1) / years } else { (year - years) / years };
    Ok(match field {
        "year" | "years" => shown_year,
        "month" | "months" => month.into(),
        "day" | "days" => day.into(),
        "quarter" => i64::from(month + 2) / 3,
        "decade" => year.div_euclid(10),
        "century" => centuries(100),
        "millennium" => centuries(1000),
        "dow" => day_of_week,
        "isodow" => {
            if day_of_week == 0 {
                7
            } else {
                day_of_week
            }
        }
        "doy" => days - super::read::days_from_civil(year, 1, 1) + 1,
        "week" => iso_week(days).1,
        "isoyear" => iso_week(days).0,
        "julian" => days + 2_440_588,
        "epoch" => us,
        "timezone" | "timezone_hour" | "timezone_minute" => 0,
        _ => return of_time(field, in_day).map_err(|_| unknown(field, "timestamp")),
    })
}

/// Year and week of ISO 8601: a week belongs to the year of its Thursday.
pub fn iso_week(days: i64) -> (i64, i64) {
    let thursday = days - (days + 3).rem_euclid(7) + 3;
    let (year, _, _) = civil(thursday);
    (year, (thursday - super::read::days_from_civil(year, 1, 1)) / 7 + 1)
}

fn of_time(field: &str, us: i64) -> Result<i64> {
    Ok(match field {
        "hour" | "hours" => us / 3_600_000_000,
        "minute" | "minutes" => us / 60_000_000 % 60,
        "second" | "seconds" | "millisecond" | "milliseconds" | "microsecond" | "microseconds" => us % 60_000_000,
        "epoch" => us,
        _ => return Err(unknown(field, "time")),
    })
}

fn of_interval(field: &str, months: i64, days: i64, us: i64) -> Result<i64> {
    Ok(match field {
        "year" | "years" => months / 12,
        "month" | "months" => months % 12,
        "quarter" => months % 12 / 3 + 1,
        "decade" => months / 120,
        "century" => months / 1200,
        "millennium" => months / 12_000,
        "day" | "days" => days,
        "epoch" => months / 12 * YEAR_US + months % 12 * MONTH_US + days * DAY_US + us,
        _ => return of_time(field, us).map_err(|_| unknown(field, "interval")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields() {
        let us = super::super::read::timestamp("2024-12-30 12:34:56.789", false).expect("a timestamp");
        for (field, expect) in [
            ("year", 2024),
            ("isoyear", 2025),
            ("week", 1),
            ("quarter", 4),
            ("doy", 365),
            ("dow", 1),
            ("isodow", 1),
            ("century", 21),
            ("decade", 202),
            ("millennium", 3),
            ("hour", 12),
            ("second", 56_789_000),
            ("epoch", us),
        ] {
            assert_eq!(of_timestamp(field, us).expect(field), expect, "{field}");
        }
        assert_eq!(of_timestamp("nosuch", us).expect_err("no field").code, "22023");
        assert_eq!(of_interval("minute", 14, 3, 5_400_000_000).expect("minutes"), 30);
        assert_eq!(of_interval("epoch", 0, 1, 3_600_000_000).expect("seconds"), 90_000_000_000);
    }
}
