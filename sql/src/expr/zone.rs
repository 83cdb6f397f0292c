//! [`AtTimeZone`]: a time of a clock on a wall somewhere as an instant, and an instant as what that clock shows.
//!
//! As PostgreSQL has it: a time that a clock shows twice, when summer time ends, is the one of standard time; one that it
//! never shows, when summer time begins, is taken as if it had not begun yet.

use std::sync::Arc;

use arrow::array::timezone::Tz;
use arrow::array::{ArrayRef, AsArray};
use arrow::datatypes::{DataType, Field, FieldRef, TimeUnit, TimestampMicrosecondType};
use chrono::{DateTime, Days, MappedLocalTime, NaiveDateTime, Offset, TimeZone};
use datafusion::common::{ScalarValue, exec_err, internal_err};
use datafusion::error::Result as DfResult;
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility,
};

use crate::error::{Error, Result, sqlstate};
use crate::types::timestamptz;

const SECOND_US: i64 = 1_000_000;

/// `value AT TIME ZONE 'zone'`.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct AtTimeZone {
    zone: String,
    signature: Signature,
}

impl AtTimeZone {
    pub fn new(zone: &str) -> Result<Self> {
        parse(zone)?;
        Ok(Self { zone: zone.to_owned(), signature: Signature::user_defined(Volatility::Immutable) })
    }
}

fn parse(zone: &str) -> Result<Tz> {
    zone.parse().map_err(|_| {
        Error::new(sqlstate::INVALID_PARAMETER_VALUE, format!("time zone \"{zone}\" not recognized"))
            .hint("name it as Europe/Berlin, UTC or +02:00")
    })
}

impl ScalarUDFImpl for AtTimeZone {
    fn name(&self) -> &str {
        "timezone"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> DfResult<Vec<DataType>> {
        Ok(vec![match types {
            [DataType::Timestamp(_, None)] => DataType::Timestamp(TimeUnit::Microsecond, None),
            _ => timestamptz(),
        }])
    }

    fn return_type(&self, _types: &[DataType]) -> DfResult<DataType> {
        internal_err!("the type of {} comes with its field", self.name())
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> DfResult<FieldRef> {
        let [value] = args.arg_fields else { return exec_err!("{} takes one value", self.name()) };
        let to = match value.data_type() {
            DataType::Timestamp(_, Some(_)) => DataType::Timestamp(TimeUnit::Microsecond, None),
            _ => timestamptz(),
        };
        Ok(Arc::new(Field::new(self.name(), to, value.is_nullable())))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        let [value] = args.args.as_slice() else { return exec_err!("{} takes one value", self.name()) };
        let zone = parse(&self.zone)?;
        Ok(match value {
            ColumnarValue::Array(array) => ColumnarValue::Array(moved(zone, array)?),
            ColumnarValue::Scalar(value) => {
                ColumnarValue::Scalar(ScalarValue::try_from_array(&moved(zone, &value.to_array()?)?, 0)?)
            }
        })
    }
}

fn moved(zone: Tz, array: &ArrayRef) -> Result<ArrayRef> {
    let to_local = matches!(array.data_type(), DataType::Timestamp(_, Some(_)));
    let values = array.as_primitive::<TimestampMicrosecondType>();
    let moved = values.try_unary::<_, TimestampMicrosecondType, Error>(|us| {
        let time = DateTime::from_timestamp_micros(us).ok_or_else(out_of_range)?.naive_utc();
        let seconds = if to_local { offset_at(zone, time) } else { -offset_on_the_wall(zone, time) };
        us.checked_add(i64::from(seconds) * SECOND_US).ok_or_else(out_of_range)
    })?;
    Ok(Arc::new(if to_local { moved } else { moved.with_data_type(timestamptz()) }))
}

/// Seconds east of Greenwich at an instant.
fn offset_at(zone: Tz, instant: NaiveDateTime) -> i32 {
    zone.offset_from_utc_datetime(&instant).fix().local_minus_utc()
}

/// Seconds east of Greenwich when a clock there shows this.
fn offset_on_the_wall(zone: Tz, shown: NaiveDateTime) -> i32 {
    match zone.offset_from_local_datetime(&shown) {
        MappedLocalTime::Single(offset) => offset.fix().local_minus_utc(),
        MappedLocalTime::Ambiguous(one, other) => one.fix().local_minus_utc().min(other.fix().local_minus_utc()),
        MappedLocalTime::None => offset_at(zone, shown.checked_sub_days(Days::new(1)).unwrap_or(shown)),
    }
}

fn out_of_range() -> Error {
    Error::new(sqlstate::DATETIME_FIELD_OVERFLOW, "timestamp out of range")
}
