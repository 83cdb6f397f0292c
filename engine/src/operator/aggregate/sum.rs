//! `sum` and `avg` of integers and decimals: added up in 256 bits, checked against the result's type when shown.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Decimal128Array, Int64Array};
use arrow::datatypes::{ArrowPrimitiveType, DataType, Decimal128Type, Int16Type, Int32Type, Int64Type, i256};

use super::count::add;
use super::take;
use crate::error::Error;
use crate::expr::Accumulator;

/// What is shown of a sum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Show {
    /// As a 64-bit integer.
    Int64,
    /// As a decimal of 38 digits at the scale of the input.
    Decimal { scale: i8 },
    /// Divided by the count, as a decimal of 38 digits at `scale`, rounded half away from zero as PostgreSQL does.
    Average { from: i8, scale: i8 },
}

/// The most a decimal of 38 digits holds.
const DECIMAL_MAX: i128 = 10i128.pow(38) - 1;

pub(super) struct Sums {
    show: Show,
    states: Vec<State>,
}

#[derive(Clone, Copy)]
struct State {
    total: i256,
    /// Values that are not null.
    count: i64,
}

const EMPTY: State = State { total: i256::ZERO, count: 0 };

impl Sums {
    pub(super) fn new(show: Show) -> Self {
        Self { show, states: Vec::new() }
    }

    fn add<T: ArrowPrimitiveType>(&mut self, values: &ArrayRef, slots: &[u32], weights: &[i64]) -> Result<(), Error>
    where
        i128: From<T::Native>,
    {
        let values = values.as_primitive::<T>();
        for (row, (slot, weight)) in slots.iter().zip(weights).enumerate() {
            if values.is_null(row) {
                continue;
            }
            let state = &mut self.states[*slot as usize];
            let value = i256::from_i128(values.value(row).into());
            // 128 bits times 64 fit 256.
            let change = if *weight == 1 { value } else { value.wrapping_mul(i256::from_i128((*weight).into())) };
            let total = state.total.checked_add(change);
            state.total = total.ok_or_else(|| overflow(state.total, 0, "a sum of 256 bits"))?;
            state.count = add(state.count, *weight)?;
        }
        Ok(())
    }

    fn decimal(&self, state: &State) -> Result<Option<i128>, Error> {
        if state.count == 0 {
            return Ok(None);
        }
        let (value, scale) = match self.show {
            Show::Int64 | Show::Decimal { scale: 0 } => (state.total, 0),
            Show::Decimal { scale } => (state.total, scale),
            Show::Average { from, scale } => {
                let more = i256::from_i128(10i128.pow((scale - from).unsigned_abs().into()));
                let total = state.total.checked_mul(more);
                let total = total.ok_or_else(|| overflow(state.total, from, "an average"))?;
                (divide(total, state.count), scale)
            }
        };
        let fits = value.to_i128().filter(|value| (-DECIMAL_MAX..=DECIMAL_MAX).contains(value));
        fits.map(Some).ok_or_else(|| overflow(value, scale, &format!("numeric(38,{scale})")))
    }
}

/// Rounded to the nearest, halves away from zero.
fn divide(total: i256, count: i64) -> i256 {
    let count = i256::from_i128(count.into());
    let (whole, rest) = (total.wrapping_div(count), total.wrapping_rem(count));
    let twice = rest.wrapping_abs().wrapping_add(rest.wrapping_abs());
    match twice >= count {
        true if total.is_negative() => whole.wrapping_sub(i256::ONE),
        true => whole.wrapping_add(i256::ONE),
        false => whole,
    }
}

fn overflow(value: i256, scale: i8, what: &str) -> Error {
    let digits = value.wrapping_abs().to_string();
    let scale = usize::from(scale.unsigned_abs());
    let digits = format!("{digits:0>width$}", width = scale + 1);
    let (whole, fraction) = digits.split_at(digits.len() - scale);
    let (sign, point) = (if value.is_negative() { "-" } else { "" }, if fraction.is_empty() { "" } else { "." });
    Error::Overflow(format!("{sign}{whole}{point}{fraction}"), what.to_owned())
}

impl Accumulator for Sums {
    fn grow(&mut self, slots: usize) {
        self.states.resize(slots, EMPTY);
    }

    fn update(&mut self, values: Option<&ArrayRef>, slots: &[u32], weights: &[i64]) -> Result<(), Error> {
        let values = values.ok_or_else(|| Error::Bug("a sum of nothing".to_owned()))?;
        match values.data_type() {
            DataType::Int16 => self.add::<Int16Type>(values, slots, weights),
            DataType::Int32 => self.add::<Int32Type>(values, slots, weights),
            DataType::Int64 => self.add::<Int64Type>(values, slots, weights),
            DataType::Decimal128(_, _) => self.add::<Decimal128Type>(values, slots, weights),
            other => Err(Error::Bug(format!("an exact sum over {other}"))),
        }
    }

    fn results(&self, slots: &[u32]) -> Result<ArrayRef, Error> {
        let states = slots.iter().map(|slot| &self.states[*slot as usize]);
        let scale = match self.show {
            Show::Int64 => {
                let value = |state: &State| match (state.count, state.total.to_i128().map(i64::try_from)) {
                    (0, _) => Ok(None),
                    (_, Some(Ok(total))) => Ok(Some(total)),
                    _ => Err(overflow(state.total, 0, "bigint")),
                };
                return Ok(Arc::new(Int64Array::from(states.map(value).collect::<Result<Vec<_>, _>>()?)));
            }
            Show::Decimal { scale } | Show::Average { scale, .. } => scale,
        };
        let values = states.map(|state| self.decimal(state)).collect::<Result<Vec<_>, _>>()?;
        Ok(Arc::new(Decimal128Array::from(values).with_precision_and_scale(38, scale)?))
    }

    fn sound(&self, slot: u32, empty: bool) -> bool {
        let state = &self.states[slot as usize];
        match state.count {
            0 => state.total == i256::ZERO,
            count => count > 0 && !empty,
        }
    }

    fn clear(&mut self, slot: u32) {
        self.states[slot as usize] = EMPTY;
    }

    fn save(&self, slot: u32, out: &mut Vec<u8>) {
        let state = &self.states[slot as usize];
        out.extend_from_slice(&state.total.to_be_bytes());
        out.extend_from_slice(&state.count.to_be_bytes());
    }

    fn load(&mut self, slot: u32, from: &mut &[u8]) -> Result<(), Error> {
        let total = i256::from_be_bytes(take(from)?);
        self.states[slot as usize] = State { total, count: i64::from_be_bytes(take(from)?) };
        Ok(())
    }

    fn merge(&mut self, slot: u32, from: &mut &[u8]) -> Result<(), Error> {
        let more = i256::from_be_bytes(take(from)?);
        let state = &mut self.states[slot as usize];
        let total = state.total.checked_add(more);
        state.total = total.ok_or_else(|| overflow(state.total, 0, "a sum of 256 bits"))?;
        state.count = add(state.count, i64::from_be_bytes(take(from)?))?;
        Ok(())
    }

    fn bytes(&self) -> usize {
        self.states.capacity() * size_of::<State>()
    }
}
