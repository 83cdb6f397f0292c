//! [`Computed`]: an expression of DataFusion as the engine's.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch};
use arrow::compute::{and_kleene, filter_record_batch};
use arrow::datatypes::DataType;
use datafusion::common::DFSchema;
use datafusion::logical_expr::Expr;
use datafusion::logical_expr::execution_props::ExecutionProps;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::physical_expr::expressions::{CastExpr, Column as PhysicalColumn};
use datafusion::physical_expr::{PhysicalExpr, ScalarFunctionExpr, create_physical_expr};
use engine::expr::{Column, Expr as EngineExpr, ExprRef};

use crate::error::{Error, Result, sqlstate};

/// Evaluates once a batch; an error names the value, where Arrow's does.
#[derive(Debug)]
pub struct Computed {
    expr: Arc<dyn PhysicalExpr>,
    data_type: DataType,
}

impl Computed {
    /// `expr` over rows of `schema`, and its text by the places of columns.
    pub fn compile(expr: &Expr, schema: &DFSchema) -> Result<(ExprRef, String)> {
        let expr = create_physical_expr(expr, schema, &ExecutionProps::new(), &PhysicalPlanningContext::default())?;
        let data_type = expr.data_type(schema.as_arrow())?;
        let text = expr.to_string();
        if let Some(column) = expr.downcast_ref::<PhysicalColumn>() {
            return Ok((Arc::new(Column { index: column.index(), data_type }), text));
        }
        Ok((Arc::new(Self { expr, data_type }), text))
    }
}

/// A predicate whose parts are all to be true: what cannot fail is evaluated first, and what can only where the rest
/// has not said no yet. So `qty <> 0 AND amount / qty > 5` divides by no zero, in whatever order it is written.
#[derive(Debug)]
pub struct Conjunction(Vec<Computed>);

impl Conjunction {
    /// As [`Computed::compile`].
    pub fn compile(predicate: &Expr, schema: &DFSchema) -> Result<(ExprRef, String)> {
        let mut parts = Vec::new();
        for part in split_conjunction(predicate) {
            let expr = create_physical_expr(part, schema, &ExecutionProps::new(), &PhysicalPlanningContext::default())?;
            parts.push(Computed { data_type: expr.data_type(schema.as_arrow())?, expr });
        }
        if parts.iter().any(|part| part.data_type != DataType::Boolean) {
            return Err(Error::new(sqlstate::DATATYPE_MISMATCH, format!("{predicate} is not of type boolean")));
        }
        parts.sort_by_key(|part| can_fail(&part.expr));
        let text = parts.iter().map(|part| part.expr.to_string()).collect::<Vec<_>>().join(" AND ");
        Ok((Arc::new(Self(parts)), text))
    }
}

fn can_fail(expr: &Arc<dyn PhysicalExpr>) -> bool {
    let fails = expr.downcast_ref::<ScalarFunctionExpr>().is_some() || expr.downcast_ref::<CastExpr>().is_some();
    fails || expr.children().into_iter().any(can_fail)
}

impl EngineExpr for Conjunction {
    fn data_type(&self) -> DataType {
        DataType::Boolean
    }

    /// False and null are one here: both leave the row out.
    fn evaluate(&self, rows: &RecordBatch) -> Result<ArrayRef, engine::operator::Error> {
        let Some((first, rest)) = self.0.split_first() else {
            return Ok(Arc::new(BooleanArray::from(vec![true; rows.num_rows()])));
        };
        let mut left = first.evaluate(rows)?.as_boolean().clone();
        for part in rest {
            let true_count = left.true_count();
            if true_count == 0 {
                break;
            }
            left = if true_count == rows.num_rows() || !can_fail(&part.expr) {
                and_kleene(&left, part.evaluate(rows)?.as_boolean())?
            } else {
                narrowed(&left, part, rows)?
            };
        }
        Ok(Arc::new(left))
    }
}

/// `left AND part`, where `part` is evaluated only on the rows that `left` lets through.
fn narrowed(left: &BooleanArray, part: &Computed, rows: &RecordBatch) -> Result<BooleanArray, engine::operator::Error> {
    let answers = part.evaluate(&filter_record_batch(rows, left)?)?;
    let mut answers = answers.as_boolean().iter();
    let next = left.iter().map(|yes| yes == Some(true) && answers.next().flatten() == Some(true));
    Ok(BooleanArray::from(next.collect::<Vec<bool>>()))
}

impl EngineExpr for Computed {
    fn data_type(&self) -> DataType {
        self.data_type.clone()
    }

    fn evaluate(&self, rows: &RecordBatch) -> Result<ArrayRef, engine::operator::Error> {
        let value = self.expr.evaluate(rows).and_then(|value| value.into_array(rows.num_rows()));
        let array = value.map_err(|error| to_engine(error.into()))?;
        if array.data_type() != &self.data_type {
            let message = format!("{} gives {} instead of {}", self.expr, array.data_type(), self.data_type);
            return Err(engine::operator::Error::Bug(message));
        }
        Ok(array)
    }
}

/// The data's fault is told in full, anything else is ours.
fn to_engine(error: Error) -> engine::operator::Error {
    let text = match &error.detail {
        Some(detail) => format!("{}: {detail}", error.message),
        None => error.message.clone(),
    };
    match error.code {
        sqlstate::INTERNAL_ERROR => engine::operator::Error::Bug(text),
        _ => engine::operator::Error::Value(text),
    }
}
