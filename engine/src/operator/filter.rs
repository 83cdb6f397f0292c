//! [`Filter`]: the rows for which a predicate is true, and what a projection makes of them. Keeps nothing.

use std::sync::Arc;

use arrow::array::{Array, AsArray, BooleanArray, RecordBatch, RecordBatchOptions};
use arrow::compute::{filter, filter_record_batch};
use arrow::datatypes::{DataType, SchemaRef};

use super::{Context, Error, Exchange, Factory, Operator, Port};
use crate::delta::Delta;
use crate::expr::ExprRef;
use crate::state::consolidate::under;
use crate::state::{Reader, Writer};
use crate::time::Epoch;

/// `SELECT projection WHERE predicate`, either of the two or both.
#[derive(Clone, Debug)]
pub struct FilterSpec {
    /// Of type boolean; false and null leave a row out. It is evaluated before the projection.
    pub predicate: Option<ExprRef>,
    /// One expression a column of `schema`; `None`: the columns as they are.
    pub projection: Option<Vec<ExprRef>>,
    pub schema: SchemaRef,
}

/// The operator; the same on every worker.
pub struct Filter(Arc<FilterSpec>);

/// Only the rows for which `predicate` is true.
pub fn filter_by(predicate: ExprRef, schema: SchemaRef) -> Result<Factory, Error> {
    factory(FilterSpec { predicate: Some(predicate), projection: None, schema })
}

/// The rows, computed anew.
pub fn project(projection: Vec<ExprRef>, schema: SchemaRef) -> Result<Factory, Error> {
    factory(FilterSpec { predicate: None, projection: Some(projection), schema })
}

/// An error where the expressions do not fit together.
pub fn factory(spec: FilterSpec) -> Result<Factory, Error> {
    if spec.predicate.as_ref().is_some_and(|predicate| predicate.data_type() != DataType::Boolean) {
        return Err(Error::Bug("the predicate of a filter is not of type boolean".to_owned()));
    }
    let types = spec.schema.fields().iter().map(|field| field.data_type().clone());
    if spec.projection.as_ref().is_some_and(|exprs| !exprs.iter().map(|expr| expr.data_type()).eq(types)) {
        return Err(Error::Bug("the expressions of a projection are not of its schema's types".to_owned()));
    }
    let spec = Arc::new(spec);
    Ok(Arc::new(move || Box::new(Filter(Arc::clone(&spec)))))
}

impl Operator for Filter {
    fn name(&self) -> &'static str {
        match (&self.0.predicate, &self.0.projection) {
            (Some(_), None) => "filter",
            (None, _) => "project",
            (Some(_), Some(_)) => "filter and project",
        }
    }

    fn exchange(&self, _: Port) -> Exchange {
        Exchange::Any
    }

    fn on_delta(&mut self, _: Port, delta: Delta, cx: &mut Context<'_>) -> Result<(), Error> {
        let kept = match &self.0.predicate {
            Some(predicate) => keep(delta, predicate)?,
            None => delta,
        };
        if kept.is_empty() {
            return Ok(());
        }
        let rows = match &self.0.projection {
            Some(projection) => evaluate(projection, &kept.rows, &self.0.schema)?,
            None => under(&self.0.schema, &kept.rows)?,
        };
        cx.emit(Delta { rows, weights: kept.weights });
        Ok(())
    }

    fn on_flush(&mut self, _: &Epoch, _: &mut Context<'_>) -> Result<(), Error> {
        Ok(())
    }

    fn save(&self, _: &mut dyn Writer) -> Result<(), Error> {
        Ok(())
    }

    fn load(&mut self, _: &mut dyn Reader) -> Result<(), Error> {
        Ok(())
    }
}

/// The rows of a delta for which the predicate is true.
pub(super) fn keep(delta: Delta, predicate: &ExprRef) -> Result<Delta, Error> {
    let mask = mask(predicate, &delta.rows)?;
    if mask.true_count() == delta.len() {
        return Ok(delta);
    }
    let weights = delta.weights.map(|weights| filter(&weights, &mask)).transpose()?;
    let weights = weights.map(|weights| weights.as_primitive::<arrow::datatypes::Int64Type>().clone());
    Ok(Delta { rows: filter_record_batch(&delta.rows, &mask)?, weights })
}

/// Where the predicate is true; null counts as false.
pub(super) fn mask(predicate: &ExprRef, rows: &RecordBatch) -> Result<BooleanArray, Error> {
    let values = predicate.evaluate(rows)?;
    let Some(mask) = values.as_boolean_opt() else {
        return Err(Error::Bug(format!("a predicate gave {}", values.data_type())));
    };
    Ok(match mask.nulls() {
        Some(nulls) => BooleanArray::new(mask.values() & nulls.inner(), None),
        None => mask.clone(),
    })
}

fn evaluate(exprs: &[ExprRef], rows: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, Error> {
    let columns = exprs.iter().map(|expr| expr.evaluate(rows)).collect::<Result<_, _>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
    Ok(RecordBatch::try_new_with_options(SchemaRef::clone(schema), columns, &options)?)
}
