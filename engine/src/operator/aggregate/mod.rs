//! [`GroupBy`]: aggregate functions over groups, right under inserts, deletes and updates of any row in any order.
//!
//! A delta is folded into the states at once; what a group showed before the epoch is computed when the epoch first
//! touches it. The flush retracts that and gives what the group shows now, where the two differ. A group without rows
//! is gone, but for the one group of an aggregate without keys, which shows its row from the first flush on.

mod count;
mod exact;
mod extreme;
mod float;
pub mod function;
mod sum;

use std::borrow::Cow;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::compute::{filter_record_batch, interleave};
use arrow::datatypes::{DataType, SchemaRef};

use super::{Context, Error, Exchange, Factory, Operator, Port, filter};
use crate::delta::Delta;
use crate::expr::{Accumulator, Aggregate, ExprRef};
use crate::state::consolidate::{types, with_weights};
use crate::state::decoding::{decode, describe};
use crate::state::digest::{hash, shard};
use crate::state::encoding::{Encoded, supported};
use crate::state::groups::Groups;
use crate::state::{Reader, Writer};
use crate::time::Epoch;

/// `SELECT keys, calls GROUP BY keys`.
#[derive(Clone, Debug)]
pub struct AggregateSpec {
    /// None: one group, which is there even when nothing else is.
    pub keys: Vec<ExprRef>,
    pub calls: Vec<AggregateCall>,
    /// The columns of the keys, then those of the calls.
    pub schema: SchemaRef,
}

/// `function(input) FILTER (WHERE filter)`.
#[derive(Clone, Debug)]
pub struct AggregateCall {
    pub function: Arc<dyn Aggregate>,
    pub input: Option<ExprRef>,
    /// Of type boolean; the input is only evaluated on rows for which it is true.
    pub filter: Option<ExprRef>,
}

/// The operator's instance on one worker.
pub struct GroupBy {
    spec: Arc<AggregateSpec>,
    key_types: Vec<DataType>,
    groups: Groups,
    /// By slot: rows of the group.
    rows: Vec<i64>,
    /// One a call.
    accumulators: Vec<Box<dyn Accumulator>>,
    /// By slot: whether the epoch has touched it.
    is_touched: Vec<bool>,
    touched: Vec<Touched>,
    /// Whether the group of an aggregate without keys has shown its row.
    started: bool,
}

/// Groups that one delta was the first of the epoch to touch, and what they showed before.
struct Touched {
    slots: Vec<u32>,
    shown: Vec<bool>,
    /// One a call; empty when no group showed anything.
    before: Vec<ArrayRef>,
}

/// An error where the parts do not fit together.
pub fn factory(spec: AggregateSpec) -> Result<Factory, Error> {
    let keys = spec.keys.iter().map(|key| key.data_type());
    let given: Vec<DataType> = keys.chain(spec.calls.iter().map(|call| call.function.data_type())).collect();
    if given != types(&spec.schema) {
        return Err(Error::Bug(format!("an aggregate of {given:?} under the schema {:?}", spec.schema)));
    }
    if let Some(other) = given.iter().find(|data_type| !supported(data_type)) {
        return Err(Error::Bug(format!("the type {other} cannot be kept in state")));
    }
    let spec = Arc::new(spec);
    Ok(Arc::new(move || Box::new(GroupBy::new(Arc::clone(&spec)))))
}

impl GroupBy {
    fn new(spec: Arc<AggregateSpec>) -> Self {
        Self {
            key_types: spec.keys.iter().map(|key| key.data_type()).collect(),
            accumulators: spec.calls.iter().map(|call| call.function.accumulator()).collect(),
            spec,
            groups: Groups::default(),
            rows: Vec::new(),
            is_touched: Vec::new(),
            touched: Vec::new(),
            started: false,
        }
    }

    fn is_global(&self) -> bool {
        self.spec.keys.is_empty()
    }

    fn insert(&mut self, key: &[u8]) -> u32 {
        let (slot, new) = self.groups.insert(hash(key), key);
        if new && self.rows.len() < self.groups.slots() {
            self.rows.push(0);
            self.is_touched.push(false);
        }
        slot
    }

    fn grow(&mut self) {
        let slots = self.groups.slots();
        self.accumulators.iter_mut().for_each(|accumulator| accumulator.grow(slots));
    }

    /// The slot of each key; remembers what the groups show that the epoch has not touched yet.
    fn touch(&mut self, keys: &Encoded) -> Result<Vec<u32>, Error> {
        let mut slots = Vec::with_capacity(keys.len());
        let mut fresh = Vec::new();
        for key in keys.iter() {
            let slot = self.insert(key);
            slots.push(slot);
            if !std::mem::replace(&mut self.is_touched[slot as usize], true) {
                fresh.push(slot);
            }
        }
        self.grow();
        if !fresh.is_empty() {
            let global = self.is_global();
            let shows = |slot: &u32| if global { self.started } else { self.rows[*slot as usize] > 0 };
            let shown: Vec<bool> = fresh.iter().map(shows).collect();
            let before = if shown.contains(&true) { self.results(&fresh)? } else { Vec::new() };
            self.touched.push(Touched { slots: fresh, shown, before });
        }
        Ok(slots)
    }

    fn results(&self, slots: &[u32]) -> Result<Vec<ArrayRef>, Error> {
        self.accumulators.iter().map(|accumulator| accumulator.results(slots)).collect()
    }

    /// Folds a delta into the states of one call.
    fn update(&mut self, call: usize, rows: &RecordBatch, slots: &[u32], weights: &[i64]) -> Result<(), Error> {
        let AggregateCall { input, filter, .. } = &self.spec.calls[call];
        let accumulator = &mut self.accumulators[call];
        let values = |rows: &RecordBatch| input.as_ref().map(|input| input.evaluate(rows)).transpose();
        let Some(filter) = filter else {
            return accumulator.update(values(rows)?.as_ref(), slots, weights);
        };
        let mask = filter::mask(filter, rows)?;
        let kept = filter_record_batch(rows, &mask)?;
        let slots: Vec<u32> = mask.values().set_indices().map(|row| slots[row]).collect();
        let weights: Vec<i64> = mask.values().set_indices().map(|row| weights[row]).collect();
        accumulator.update(values(&kept)?.as_ref(), &slots, &weights)
    }

    /// What the touched groups showed and do not show any more, and what they show now.
    fn change(&mut self, touched: &Touched) -> Result<Option<Delta>, Error> {
        let Touched { slots, shown, before } = touched;
        self.check(slots)?;
        let global = self.is_global();
        let shows: Vec<bool> = slots.iter().map(|slot| global || self.rows[*slot as usize] > 0).collect();
        let after = self.results(slots)?;
        let same = self.same(before, &after, slots.len())?;
        let changed = |row: &usize| !(shown[*row] && shows[*row] && same(*row));
        let gone = (0..slots.len()).filter(|row| shown[*row]).filter(changed);
        let come = (0..slots.len()).filter(|row| shows[*row]).filter(changed);
        let (after_at, indices_cap) = (usize::from(!before.is_empty()), slots.len());
        let mut indices = Vec::with_capacity(indices_cap);
        indices.extend(gone.map(|row| (0, row)));
        let gone = indices.len();
        indices.extend(come.map(|row| (after_at, row)));
        if indices.is_empty() {
            return Ok(None);
        }
        let keys: Vec<&[u8]> = indices.iter().map(|(_, row)| self.groups.key(slots[*row])).collect();
        let mut columns = decode(&self.key_types, &keys, None)?;
        for (call, after) in after.iter().enumerate() {
            let versions: Vec<&dyn Array> = before.get(call).into_iter().chain([after]).map(|array| &**array).collect();
            columns.push(interleave(&versions, &indices)?);
        }
        let options = RecordBatchOptions::new().with_row_count(Some(indices.len()));
        let rows = RecordBatch::try_new_with_options(SchemaRef::clone(&self.spec.schema), columns, &options)?;
        let weights = (0..indices.len()).map(|index| if index < gone { -1 } else { 1 }).collect();
        Ok(Some(with_weights(rows, weights)))
    }

    /// Whether a row of the results is the same before and after.
    fn same(&self, before: &[ArrayRef], after: &[ArrayRef], rows: usize) -> Result<impl Fn(usize) -> bool, Error> {
        let comparable = !before.is_empty() || after.is_empty();
        let (before, after) = match comparable {
            true => (Encoded::rows(before, rows)?, Encoded::rows(after, rows)?),
            false => Default::default(),
        };
        Ok(move |row| comparable && before.get(row) == after.get(row))
    }

    /// No group may hold less than nothing.
    fn check(&self, slots: &[u32]) -> Result<(), Error> {
        for slot in slots {
            let rows = self.rows[*slot as usize];
            if rows < 0 || !self.accumulators.iter().all(|accumulator| accumulator.sound(*slot, rows == 0)) {
                return Err(Error::NegativeWeight(format!(
                    "of group {}",
                    describe(&self.key_types, self.groups.key(*slot))
                )));
            }
        }
        Ok(())
    }

    /// Forgets the groups that have no rows left.
    fn forget(&mut self, slots: &[u32]) {
        for slot in slots {
            self.is_touched[*slot as usize] = false;
            if self.rows[*slot as usize] == 0 && !self.is_global() {
                self.accumulators.iter_mut().for_each(|accumulator| accumulator.clear(*slot));
                self.groups.remove(*slot);
            }
        }
    }
}

impl Operator for GroupBy {
    fn name(&self) -> &'static str {
        "aggregate"
    }

    fn exchange(&self, _: Port) -> Exchange {
        if self.is_global() { Exchange::Single } else { Exchange::Hash(self.spec.keys.clone()) }
    }

    fn on_delta(&mut self, _: Port, delta: Delta, cx: &mut Context<'_>) -> Result<(), Error> {
        let keys = self.spec.keys.iter().map(|key| key.evaluate(&delta.rows)).collect::<Result<Vec<_>, _>>()?;
        let slots = self.touch(&Encoded::keys(&keys, delta.len())?)?;
        let weights = match &delta.weights {
            Some(weights) => Cow::Borrowed(&**weights.values()),
            None => Cow::Owned(vec![1; delta.len()]),
        };
        for (slot, weight) in slots.iter().zip(weights.iter()) {
            let rows = &mut self.rows[*slot as usize];
            *rows = count::add(*rows, *weight)?;
        }
        for call in 0..self.spec.calls.len() {
            self.update(call, &delta.rows, &slots, &weights)?;
        }
        cx.rows_touched += slots.len() as u64;
        Ok(())
    }

    fn on_flush(&mut self, _: &Epoch, cx: &mut Context<'_>) -> Result<(), Error> {
        if self.is_global() && !self.started {
            self.touch(&Encoded::keys(&[], 1)?)?;
        }
        for touched in std::mem::take(&mut self.touched) {
            if let Some(change) = self.change(&touched)? {
                cx.emit(change);
            }
            self.forget(&touched.slots);
            cx.rows_touched += touched.slots.len() as u64;
        }
        self.started = true;
        Ok(())
    }

    /// An entry a group: key, then rows and the states of the calls, integers big endian.
    fn save(&self, out: &mut dyn Writer) -> Result<(), Error> {
        assert!(self.touched.is_empty(), "state is saved between epochs");
        let mut value = Vec::new();
        for slot in self.groups.sorted() {
            value.clear();
            value.extend_from_slice(&self.rows[slot as usize].to_be_bytes());
            self.accumulators.iter().for_each(|accumulator| accumulator.save(slot, &mut value));
            // Where all rows are on worker 0, so is the state: shard 0 is always its.
            let shard = if self.is_global() { 0 } else { shard(self.groups.hash(slot)) };
            out.put(shard, 0, self.groups.key(slot), &value)?;
        }
        Ok(())
    }

    fn load(&mut self, from: &mut dyn Reader) -> Result<(), Error> {
        while let Some((_, _, key, value)) = from.next()? {
            let slot = self.insert(&key);
            self.grow();
            let mut value = value.as_slice();
            self.rows[slot as usize] = i64::from_be_bytes(take(&mut value)?);
            self.accumulators.iter_mut().try_for_each(|accumulator| accumulator.load(slot, &mut value))?;
            if !value.is_empty() {
                return Err(Error::Bug("the saved state of a group is longer than it should be".to_owned()));
            }
            self.started = true;
        }
        Ok(())
    }

    fn state_bytes(&self) -> usize {
        let states: usize = self.accumulators.iter().map(|accumulator| accumulator.bytes()).sum();
        self.groups.bytes() + states + self.rows.capacity() * (size_of::<i64>() + 1)
    }
}

/// The next `N` bytes of a saved state.
fn take<const N: usize>(from: &mut &[u8]) -> Result<[u8; N], Error> {
    let (bytes, rest) =
        from.split_first_chunk::<N>().ok_or_else(|| Error::Bug("a saved state is cut off".to_owned()))?;
    *from = rest;
    Ok(*bytes)
}
