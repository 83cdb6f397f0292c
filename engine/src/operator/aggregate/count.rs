//! `count(*)` and `count(x)`.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Int64Array};

use super::take;
use crate::error::Error;
use crate::expr::Accumulator;

/// Rows of each group; with an input, those where it is not null.
#[derive(Default)]
pub(super) struct Counts(Vec<i64>);

impl Accumulator for Counts {
    fn grow(&mut self, slots: usize) {
        self.0.resize(slots, 0);
    }

    fn update(&mut self, values: Option<&ArrayRef>, slots: &[u32], weights: &[i64]) -> Result<(), Error> {
        let nulls = values.and_then(|values| values.logical_nulls());
        for (row, (slot, weight)) in slots.iter().zip(weights).enumerate() {
            if nulls.as_ref().is_none_or(|nulls| nulls.is_valid(row)) {
                let count = &mut self.0[*slot as usize];
                *count = add(*count, *weight)?;
            }
        }
        Ok(())
    }

    fn results(&self, slots: &[u32]) -> Result<ArrayRef, Error> {
        Ok(Arc::new(slots.iter().map(|slot| Some(self.0[*slot as usize])).collect::<Int64Array>()))
    }

    fn sound(&self, slot: u32, empty: bool) -> bool {
        let count = self.0[slot as usize];
        count == 0 || (count > 0 && !empty)
    }

    fn clear(&mut self, slot: u32) {
        self.0[slot as usize] = 0;
    }

    fn save(&self, slot: u32, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0[slot as usize].to_be_bytes());
    }

    fn load(&mut self, slot: u32, from: &mut &[u8]) -> Result<(), Error> {
        self.0[slot as usize] = i64::from_be_bytes(take(from)?);
        Ok(())
    }

    fn bytes(&self) -> usize {
        self.0.capacity() * size_of::<i64>()
    }
}

/// A count that went up or down.
pub(super) fn add(count: i64, weight: i64) -> Result<i64, Error> {
    count
        .checked_add(weight)
        .ok_or_else(|| Error::Overflow(format!("the count {count} + {weight}"), "bigint".to_owned()))
}
