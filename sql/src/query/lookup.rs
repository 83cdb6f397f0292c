//! [`Lookup`]: a query that is one lookup by key, answered from the store without planning anything.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, SchemaRef};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{BinaryExpr, Expr, LogicalPlan, Operator};
use engine::graph::RelationId;
use engine::job::Engine;

use super::relation::{Relation, Rows};
use crate::error::Result;

/// `SELECT columns FROM relation WHERE key = …`, all key columns bound by equality and nothing else asked.
#[derive(Debug)]
pub struct Lookup {
    id: RelationId,
    keys: Vec<(Value, DataType)>,
    key_schema: SchemaRef,
    /// Columns of the result, in the relation.
    projection: Vec<usize>,
    schema: SchemaRef,
}

#[derive(Clone, Debug)]
enum Value {
    /// Index from 0.
    Parameter(usize),
    Literal(ScalarValue),
}

impl Lookup {
    /// Recognises the form of an analysed plan: a projection of columns over a filter over one relation.
    pub fn of(plan: &LogicalPlan, relations: &[Arc<Relation>], schema: &SchemaRef) -> Option<Self> {
        let [relation] = relations else { return None };
        let Rows::Stored(id) = relation.rows else { return None };
        let LogicalPlan::Projection(projection) = plan else { return None };
        let LogicalPlan::Filter(filter) = projection.input.as_ref() else { return None };
        let mut input = filter.input.as_ref();
        if let LogicalPlan::SubqueryAlias(alias) = input {
            input = alias.input.as_ref();
        }
        let LogicalPlan::TableScan(scan) = input else { return None };
        if scan.projection.is_some() || scan.fetch.is_some() || !scan.filters.is_empty() || relation.key.is_empty() {
            return None;
        }
        let column = |name: &str| relation.schema.index_of(name).ok();
        let mut keys: Vec<Option<Value>> = vec![None; relation.key.len()];
        for part in split_conjunction(&filter.predicate) {
            let (name, value) = equality(part)?;
            let place = relation.key.iter().position(|k| Some(*k) == column(name))?;
            if keys[place].replace(value).is_some() {
                return None;
            }
        }
        let key_schema = Arc::new(relation.schema.project(&relation.key).ok()?);
        let types = key_schema.fields().iter().map(|f| f.data_type().clone());
        let keys = keys.into_iter().collect::<Option<Vec<_>>>()?.into_iter().zip(types).collect();
        let projection = projection.expr.iter().map(|e| column_name(e).and_then(column)).collect::<Option<_>>()?;
        let schema = Arc::clone(schema);
        Some(Self { id, keys, key_schema, projection, schema })
    }

    /// Reads at the newest epoch; `None` when the relation is not readable right now.
    pub fn run(&self, engine: &Engine, parameters: &[ScalarValue]) -> Result<Option<RecordBatch>> {
        let mut columns = Vec::with_capacity(self.keys.len());
        for (value, data_type) in &self.keys {
            let value = match value {
                Value::Parameter(index) => match parameters.get(*index) {
                    Some(value) => value,
                    None => return Ok(None),
                },
                Value::Literal(value) => value,
            };
            if value.is_null() {
                return Ok(Some(RecordBatch::new_empty(Arc::clone(&self.schema))));
            }
            let array = if value.data_type() == *data_type {
                value.to_array()?
            } else {
                value.cast_to(data_type)?.to_array()?
            };
            columns.push(array);
        }
        let store = match engine.store(self.id) {
            Ok(store) => store,
            Err(engine::job::Error::NotCaughtUp { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let keys = RecordBatch::try_new(Arc::clone(&self.key_schema), columns)?;
        let pin = engine.pin();
        let found = store.get(pin.epoch(), &keys)?;
        let columns = self.projection.iter().map(|i| Arc::clone(found.column(*i))).collect();
        let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(found.num_rows()));
        Ok(Some(RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)?))
    }
}

fn column_name(expr: &Expr) -> Option<&str> {
    match expr {
        Expr::Column(column) => Some(&column.name),
        Expr::Alias(alias) => column_name(&alias.expr),
        _ => None,
    }
}

fn equality(expr: &Expr) -> Option<(&str, Value)> {
    let Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq, right }) = expr else { return None };
    match (left.as_ref(), right.as_ref()) {
        (Expr::Column(column), other) | (other, Expr::Column(column)) => Some((&column.name, value(other)?)),
        _ => None,
    }
}

/// A parameter or literal; casts are left out, since values are brought to the key's type anyway.
fn value(expr: &Expr) -> Option<Value> {
    match expr {
        Expr::Cast(cast) => value(&cast.expr),
        Expr::Literal(value, _) => Some(Value::Literal(value.clone())),
        Expr::Placeholder(placeholder) => {
            let index: usize = placeholder.id.strip_prefix('$')?.parse().ok()?;
            index.checked_sub(1).map(Value::Parameter)
        }
        _ => None,
    }
}
