//! [`Computed`]: an expression of DataFusion as the engine's.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::DataType;
use datafusion::common::DFSchema;
use datafusion::logical_expr::Expr;
use datafusion::logical_expr::execution_props::ExecutionProps;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::physical_expr::{PhysicalExpr, create_physical_expr};
use engine::expr::{Column, Expr as EngineExpr, ExprRef};

use crate::error::{Error, Result, sqlstate};

/// Evaluates once a batch; an error names the value, where Arrow's does.
#[derive(Debug)]
pub struct Computed {
    expr: Arc<dyn PhysicalExpr>,
    data_type: DataType,
}

impl Computed {
    /// `expr` over rows of `schema`.
    pub fn new(expr: &Expr, schema: &DFSchema) -> Result<(ExprRef, String)> {
        let expr = create_physical_expr(expr, schema, &ExecutionProps::new(), &PhysicalPlanningContext::default())?;
        let data_type = expr.data_type(schema.as_arrow())?;
        let text = expr.to_string();
        if let Some(column) = expr.downcast_ref::<datafusion::physical_expr::expressions::Column>() {
            return Ok((Arc::new(Column { index: column.index(), data_type }), text));
        }
        Ok((Arc::new(Self { expr, data_type }), text))
    }
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
