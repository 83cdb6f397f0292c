//! [`Total`]: `sum`, `avg`, `min` and `max` for batch queries, by the engine's own accumulators: the same types and the
//! same digits as in views, sums of floats exact whatever the order, NaN above all other floats.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BinaryBuilder, BooleanArray};
use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::{ScalarValue, not_impl_err, plan_err};
use datafusion::error::{DataFusionError, Result as DfResult};
use datafusion::functions_aggregate::min_max::{max_udaf, min_udaf};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, EmitTo, GroupsAccumulator, Signature, Volatility,
};
use engine::operator::aggregate::function::{Function, builtin, result_type};

use super::casts::plain;
use crate::error::Error;

#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Total {
    function: Function,
    signature: Signature,
}

impl Total {
    pub fn new(function: Function) -> Self {
        Self { function, signature: Signature::user_defined(Volatility::Immutable) }
    }

    fn is_extreme(&self) -> bool {
        matches!(self.function, Function::Min | Function::Max)
    }

    /// Booleans are DataFusion's: queries of the catalog are rewritten to their extremes.
    fn of_booleans(&self) -> Arc<AggregateUDF> {
        if self.function == Function::Min { min_udaf() } else { max_udaf() }
    }

    /// `rows_go`: as in a window that moves on.
    fn aggregate(&self, args: &AccumulatorArgs<'_>, rows_go: bool) -> DfResult<Arc<dyn engine::expr::Aggregate>> {
        let Some(input) = args.expr_fields.first() else { return plan_err!("{} takes one value", self.name()) };
        builtin(self.function, Some(input.data_type()), !rows_go).map_err(DataFusionError::Plan)
    }

    fn one(&self, args: AccumulatorArgs<'_>, rows_go: bool) -> DfResult<Box<dyn Accumulator>> {
        if args.expr_fields.first().is_some_and(|input| *input.data_type() == DataType::Boolean) && self.is_extreme() {
            let own = self.of_booleans();
            return if rows_go { own.create_sliding_accumulator(args) } else { own.accumulator(args) };
        }
        if args.is_distinct && !self.is_extreme() {
            return not_impl_err!("{}(DISTINCT …) beside other aggregates is not supported", self.name());
        }
        let mut states = self.aggregate(&args, rows_go)?.accumulator();
        states.grow(1);
        Ok(Box::new(One { states, rows_go: rows_go || !self.is_extreme() }))
    }
}

impl AggregateUDFImpl for Total {
    fn name(&self) -> &str {
        self.function.name()
    }

    fn aliases(&self) -> &[String] {
        &[]
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> DfResult<Vec<DataType>> {
        let [input] = types else { return plan_err!("{} takes one value", self.name()) };
        let plain = match input {
            DataType::Null if self.is_extreme() => DataType::Utf8,
            DataType::Null => DataType::Float64,
            DataType::Decimal32(digits, scale) | DataType::Decimal64(digits, scale) => {
                DataType::Decimal128(*digits, *scale)
            }
            other => plain(other).unwrap_or_else(|| other.clone()),
        };
        self.return_type(std::slice::from_ref(&plain))?;
        Ok(vec![plain])
    }

    fn return_type(&self, types: &[DataType]) -> DfResult<DataType> {
        if types.first() == Some(&DataType::Boolean) && self.is_extreme() {
            return Ok(DataType::Boolean);
        }
        if let Some(DataType::Interval(_) | DataType::Duration(_) | DataType::List(_)) = types.first()
            && self.is_extreme()
        {
            return Err(Error::unsupported(format!("{} of intervals and arrays", self.name())).into());
        }
        result_type(self.function, types.first()).map_err(|_| {
            let name = types.first().map_or("nothing".to_string(), |t| {
                let column = crate::types::ColumnType { data_type: t.clone(), pg_type: None };
                column.name().unwrap_or(t.to_string())
            });
            let message = format!("function {}({name}) does not exist", self.name());
            Error::new(crate::error::sqlstate::UNDEFINED_FUNCTION, message).hint("add a type cast: column::type").into()
        })
    }

    fn state_fields(&self, args: StateFieldsArgs) -> DfResult<Vec<FieldRef>> {
        if args.input_fields.first().is_some_and(|input| *input.data_type() == DataType::Boolean) {
            return self.of_booleans().state_fields(args);
        }
        Ok(vec![Arc::new(Field::new(format!("{}[state]", args.name), DataType::Binary, true))])
    }

    fn accumulator(&self, args: AccumulatorArgs) -> DfResult<Box<dyn Accumulator>> {
        self.one(args, false)
    }

    fn create_sliding_accumulator(&self, args: AccumulatorArgs) -> DfResult<Box<dyn Accumulator>> {
        self.one(args, true)
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs) -> bool {
        let boolean = args.expr_fields.first().is_some_and(|input| *input.data_type() == DataType::Boolean);
        !boolean && (!args.is_distinct || self.is_extreme())
    }

    fn create_groups_accumulator(&self, args: AccumulatorArgs) -> DfResult<Box<dyn GroupsAccumulator>> {
        let function = self.aggregate(&args, false)?;
        Ok(Box::new(Many { states: function.accumulator(), function, groups: 0 }))
    }
}

fn failed(error: engine::operator::Error) -> DataFusionError {
    Error::from(error).into()
}

fn value_of(values: &[ArrayRef]) -> DfResult<&ArrayRef> {
    values.first().ok_or_else(|| DataFusionError::Internal("an aggregate without a value".to_string()))
}

/// The whole input as one group.
struct One {
    states: Box<dyn engine::expr::Accumulator>,
    rows_go: bool,
}

impl std::fmt::Debug for One {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("One")
    }
}

impl One {
    fn weigh(&mut self, values: &[ArrayRef], weight: i64) -> DfResult<()> {
        let value = value_of(values)?;
        let (slots, weights) = (vec![0; value.len()], vec![weight; value.len()]);
        self.states.update(Some(value), &slots, &weights).map_err(failed)
    }
}

impl Accumulator for One {
    fn update_batch(&mut self, values: &[ArrayRef]) -> DfResult<()> {
        self.weigh(values, 1)
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> DfResult<()> {
        self.weigh(values, -1)
    }

    fn supports_retract_batch(&self) -> bool {
        self.rows_go
    }

    fn evaluate(&mut self) -> DfResult<ScalarValue> {
        ScalarValue::try_from_array(&self.states.results(&[0]).map_err(failed)?, 0)
    }

    fn size(&self) -> usize {
        size_of::<Self>() + self.states.bytes()
    }

    fn state(&mut self) -> DfResult<Vec<ScalarValue>> {
        let mut out = Vec::new();
        self.states.save(0, &mut out);
        Ok(vec![ScalarValue::Binary(Some(out))])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> DfResult<()> {
        let states = value_of(states)?.as_binary::<i32>();
        for mut state in states.iter().flatten() {
            self.states.merge(0, &mut state).map_err(failed)?;
        }
        Ok(())
    }
}

/// All groups of a query, by number.
struct Many {
    function: Arc<dyn engine::expr::Aggregate>,
    states: Box<dyn engine::expr::Accumulator>,
    groups: usize,
}

impl Many {
    fn grow(&mut self, groups: usize) {
        if groups > self.groups {
            self.groups = groups;
            self.states.grow(groups);
        }
    }

    fn saved(&self, groups: std::ops::Range<usize>) -> Vec<Vec<u8>> {
        let save = |group: usize| {
            let mut out = Vec::new();
            self.states.save(group as u32, &mut out);
            out
        };
        groups.map(save).collect()
    }

    /// Forgets the first `count` groups; the rest move down.
    fn forget(&mut self, count: usize) -> DfResult<()> {
        let rest = self.saved(count..self.groups);
        self.states = self.function.accumulator();
        self.groups = 0;
        self.grow(rest.len());
        for (slot, state) in rest.iter().enumerate() {
            self.states.load(slot as u32, &mut state.as_slice()).map_err(failed)?;
        }
        Ok(())
    }

    fn count(&self, emit: EmitTo) -> usize {
        match emit {
            EmitTo::All => self.groups,
            EmitTo::First(count) => count,
        }
    }
}

fn states_array(states: &[Vec<u8>]) -> ArrayRef {
    let mut out = BinaryBuilder::with_capacity(states.len(), states.iter().map(Vec::len).sum());
    states.iter().for_each(|state| out.append_value(state));
    Arc::new(out.finish())
}

fn slots_of(groups: &[usize]) -> Vec<u32> {
    groups.iter().map(|group| *group as u32).collect()
}

/// 1 for the rows that the filter lets through.
fn weights_of(rows: usize, filter: Option<&BooleanArray>) -> Vec<i64> {
    match filter {
        None => vec![1; rows],
        Some(filter) => filter.iter().map(|yes| i64::from(yes == Some(true))).collect(),
    }
}

impl GroupsAccumulator for Many {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        groups: &[usize],
        filter: Option<&BooleanArray>,
        total: usize,
    ) -> DfResult<()> {
        self.grow(total);
        let weights = weights_of(groups.len(), filter);
        self.states.update(Some(value_of(values)?), &slots_of(groups), &weights).map_err(failed)
    }

    fn evaluate(&mut self, emit: EmitTo) -> DfResult<ArrayRef> {
        let count = self.count(emit);
        let slots: Vec<u32> = (0..count as u32).collect();
        let out = self.states.results(&slots).map_err(failed)?;
        self.forget(count)?;
        Ok(out)
    }

    fn state(&mut self, emit: EmitTo) -> DfResult<Vec<ArrayRef>> {
        let count = self.count(emit);
        let out = states_array(&self.saved(0..count));
        self.forget(count)?;
        Ok(vec![out])
    }

    fn merge_batch(&mut self, values: &[ArrayRef], groups: &[usize], total: usize) -> DfResult<()> {
        self.grow(total);
        let states = value_of(values)?.as_binary::<i32>();
        for (group, state) in groups.iter().zip(states) {
            if let Some(mut state) = state {
                self.states.merge(*group as u32, &mut state).map_err(failed)?;
            }
        }
        Ok(())
    }

    fn convert_to_state(&self, values: &[ArrayRef], filter: Option<&BooleanArray>) -> DfResult<Vec<ArrayRef>> {
        let value = value_of(values)?;
        let mut each = Many { function: Arc::clone(&self.function), states: self.function.accumulator(), groups: 0 };
        let groups: Vec<usize> = (0..value.len()).collect();
        each.update_batch(values, &groups, filter, value.len())?;
        Ok(vec![states_array(&each.saved(0..value.len()))])
    }

    fn size(&self) -> usize {
        size_of::<Self>() + self.states.bytes()
    }
}
