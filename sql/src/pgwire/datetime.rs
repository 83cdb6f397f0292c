//! Dates and times in PostgreSQL's binary forms, from and to Arrow's microseconds and days since 1970.

use crate::error::{Error, Result, sqlstate};

const DAY_US: i64 = 86_400_000_000;
/// Days from 1970-01-01 to 2000-01-01, where PostgreSQL counts from.
const EPOCH_DAYS: i32 = 10_957;

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
