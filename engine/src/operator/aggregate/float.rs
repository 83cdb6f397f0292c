//! `sum` and `avg` of floats: exact sums, rounded once, when shown.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Float64Array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type};

use super::count::add;
use super::exact::Exact;
use super::take;
use crate::error::Error;
use crate::expr::Accumulator;

pub(super) struct Floats {
    average: bool,
    states: Vec<State>,
    /// Of the sums' limbs.
    heap_bytes: usize,
}

#[derive(Clone, Default)]
struct State {
    sum: Exact,
    /// Values that are not null.
    count: i64,
}

impl Floats {
    pub(super) fn new(average: bool) -> Self {
        Self { average, states: Vec::new(), heap_bytes: 0 }
    }

    fn result(&self, state: &State) -> Result<Option<f64>, Error> {
        if state.count == 0 {
            return Ok(None);
        }
        let sum = state
            .sum
            .round()
            .map_err(|_| Error::Overflow("a sum of floats beyond 1.8e308".to_owned(), "double precision".to_owned()))?;
        Ok(Some(if self.average { sum / state.count as f64 } else { sum }))
    }
}

impl Accumulator for Floats {
    fn grow(&mut self, slots: usize) {
        self.states.resize(slots, State::default());
    }

    fn update(&mut self, values: Option<&ArrayRef>, slots: &[u32], weights: &[i64]) -> Result<(), Error> {
        let values = values.ok_or_else(|| Error::Bug("a sum of nothing".to_owned()))?;
        // Every single is a double exactly.
        let values = cast(values, &DataType::Float64)?;
        let values = values.as_primitive::<Float64Type>();
        for (row, (slot, weight)) in slots.iter().zip(weights).enumerate() {
            if values.is_valid(row) {
                let state = &mut self.states[*slot as usize];
                self.heap_bytes -= state.sum.heap_bytes();
                state.sum.add(values.value(row), *weight)?;
                self.heap_bytes += state.sum.heap_bytes();
                state.count = add(state.count, *weight)?;
            }
        }
        Ok(())
    }

    fn results(&self, slots: &[u32]) -> Result<ArrayRef, Error> {
        let results = slots.iter().map(|slot| self.result(&self.states[*slot as usize]));
        Ok(Arc::new(Float64Array::from(results.collect::<Result<Vec<_>, _>>()?)))
    }

    fn sound(&self, slot: u32, empty: bool) -> bool {
        let state = &self.states[slot as usize];
        match state.count {
            0 => state.sum.is_zero(),
            count => count > 0 && !empty && !state.sum.negative(),
        }
    }

    fn clear(&mut self, slot: u32) {
        let state = std::mem::take(&mut self.states[slot as usize]);
        self.heap_bytes -= state.sum.heap_bytes();
    }

    fn save(&self, slot: u32, out: &mut Vec<u8>) {
        let state = &self.states[slot as usize];
        state.sum.save(out);
        out.extend_from_slice(&state.count.to_be_bytes());
    }

    fn load(&mut self, slot: u32, from: &mut &[u8]) -> Result<(), Error> {
        let sum = Exact::load(from)?;
        self.heap_bytes += sum.heap_bytes();
        self.states[slot as usize] = State { sum, count: i64::from_be_bytes(take(from)?) };
        Ok(())
    }

    fn merge(&mut self, slot: u32, from: &mut &[u8]) -> Result<(), Error> {
        let more = Exact::load(from)?;
        let state = &mut self.states[slot as usize];
        self.heap_bytes -= state.sum.heap_bytes();
        state.sum.add_all(&more)?;
        self.heap_bytes += state.sum.heap_bytes();
        state.count = add(state.count, i64::from_be_bytes(take(from)?))?;
        Ok(())
    }

    fn bytes(&self) -> usize {
        self.heap_bytes + self.states.capacity() * size_of::<State>()
    }
}
