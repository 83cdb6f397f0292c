//! The engine's operators, as the planner makes them.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use engine::expr::{Column, ExprRef};
use engine::graph::{Graph, NodeId};
use engine::operator::filter::{self, FilterSpec};

use crate::error::Result;

/// Columns `places` of the node (none: all), under `to`.
pub fn columns(
    graph: &mut Graph,
    node: NodeId,
    from: &SchemaRef,
    places: Option<&[usize]>,
    to: &SchemaRef,
) -> Result<NodeId> {
    let all: Vec<usize> = (0..from.fields().len()).collect();
    let column = |place: &usize| -> ExprRef {
        Arc::new(Column { index: *place, data_type: from.field(*place).data_type().clone() })
    };
    let exprs = places.unwrap_or(&all).iter().map(column).collect();
    project(graph, node, None, exprs, to)
}

/// `SELECT exprs WHERE predicate` of the node.
pub fn project(
    graph: &mut Graph,
    node: NodeId,
    predicate: Option<ExprRef>,
    exprs: Vec<ExprRef>,
    to: &SchemaRef,
) -> Result<NodeId> {
    let label = if predicate.is_some() { "filter and project" } else { "project" };
    let factory = filter::factory(FilterSpec { predicate, projection: Some(exprs), schema: Arc::clone(to) })?;
    Ok(graph.operator(label, factory, vec![node], Arc::clone(to)))
}
