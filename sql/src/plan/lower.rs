//! DataFusion's logical plan to the engine's graph, node by node.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, SchemaRef};
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, JoinType, NullEquality, ScalarValue};
use datafusion::logical_expr::expr::AggregateFunction;
use datafusion::logical_expr::utils::{conjunction, split_conjunction};
use datafusion::logical_expr::{
    Aggregate, BinaryExpr, Expr, Filter, Join, LogicalPlan, Operator, Projection, TableScan, Union, Volatility,
};
use engine::expr::ExprRef;
use engine::graph::{Graph, NodeId, RelationId};
use engine::operator::aggregate::function::{Function, builtin};
use engine::operator::aggregate::{AggregateCall, AggregateSpec};
use engine::operator::join::JoinSpec;
use engine::operator::{aggregate, filter, join, union};

use super::logical::Input;
use super::operators;
use super::properties::Properties;
use crate::error::{Error, Result, sqlstate};
use crate::expr::{Computed, Conjunction, guard_condition, guard_value};
use crate::types::ColumnType;

/// A plan as a graph whose last node is its result.
pub struct Lowered {
    pub graph: Graph,
    pub node: NodeId,
    pub schema: SchemaRef,
    pub properties: Properties,
    pub explain: Vec<String>,
    /// The plan's text for its version: indices and types instead of names.
    pub canonical: Vec<String>,
}

pub fn lower(plan: &LogicalPlan) -> Result<Lowered> {
    let mut lowering = Lowering::default();
    let flow = lowering.plan(plan)?;
    let Flow { node, schema, properties, explain, canonical } = flow;
    Ok(Lowered { graph: lowering.graph, node, schema, properties, explain, canonical })
}

#[derive(Default)]
struct Lowering {
    graph: Graph,
    /// A relation that is read several times comes in once.
    inputs: BTreeMap<RelationId, NodeId>,
}

/// What comes out of a part of the plan.
struct Flow {
    node: NodeId,
    schema: SchemaRef,
    properties: Properties,
    explain: Vec<String>,
    canonical: Vec<String>,
}

impl Flow {
    /// This flow's lines below another operator's.
    fn below(self, explain: String, canonical: String) -> (Vec<String>, Vec<String>) {
        let indent = |line: String| format!("  {line}");
        let explain = std::iter::once(explain).chain(self.explain.into_iter().map(indent)).collect();
        let canonical = std::iter::once(canonical).chain(self.canonical.into_iter().map(indent)).collect();
        (explain, canonical)
    }
}

fn unsupported(what: impl std::fmt::Display) -> Error {
    Error::new(sqlstate::FEATURE_NOT_SUPPORTED, format!("{what} is not supported in a materialized view"))
}

fn arrow(schema: &DFSchema) -> SchemaRef {
    Arc::clone(schema.inner())
}

fn list<T: std::fmt::Display>(items: impl IntoIterator<Item = T>) -> String {
    items.into_iter().map(|item| item.to_string()).collect::<Vec<_>>().join(", ")
}

/// `expr` without the names given to it.
fn bare(expr: &Expr) -> &Expr {
    match expr {
        Expr::Alias(alias) => bare(&alias.expr),
        other => other,
    }
}

fn column_of(expr: &Expr, schema: &DFSchema) -> Option<usize> {
    match bare(expr) {
        Expr::Column(column) => schema.maybe_index_of_column(column),
        _ => None,
    }
}

/// Only what depends on the row alone can be computed again when the row goes.
fn check_expr(expr: &Expr) -> Result<()> {
    expr.apply(|e| match e {
        Expr::ScalarFunction(f) if f.func.signature().volatility != Volatility::Immutable => {
            Err(unsupported(format!("the function {}", f.func.name())).into())
        }
        Expr::ScalarSubquery(_) | Expr::InSubquery(_) | Expr::Exists(_) => {
            Err(unsupported("a subquery in an expression").into())
        }
        Expr::WindowFunction(_) => Err(unsupported("OVER").into()),
        _ => Ok(TreeNodeRecursion::Continue),
    })?;
    Ok(())
}

fn compute(expr: &Expr, schema: &DFSchema) -> Result<(ExprRef, String)> {
    check_expr(expr)?;
    Computed::compile(&guard_value(bare(expr), schema)?, schema)
}

fn condition(predicate: &Expr, schema: &DFSchema) -> Result<(ExprRef, String)> {
    check_expr(predicate)?;
    let parts = split_conjunction(bare(predicate)).into_iter().map(|part| guard_condition(part, schema));
    let guarded = conjunction(parts.collect::<Result<Vec<_>, _>>()?);
    Conjunction::compile(guarded.as_ref().unwrap_or(predicate), schema)
}

impl Lowering {
    fn plan(&mut self, plan: &LogicalPlan) -> Result<Flow> {
        match plan {
            LogicalPlan::TableScan(scan) => self.scan(scan),
            LogicalPlan::Projection(projection) => self.projection(projection),
            LogicalPlan::Filter(filter) => self.filter(filter),
            LogicalPlan::Aggregate(aggregate) => self.aggregate(aggregate),
            LogicalPlan::Join(join) => self.join(join),
            LogicalPlan::Union(union) => self.union(union),
            LogicalPlan::SubqueryAlias(alias) => self.plan(&alias.input),
            LogicalPlan::Distinct(_) => Err(unsupported("DISTINCT ON")),
            LogicalPlan::EmptyRelation(_) => Err(unsupported("a query without rows of a relation")),
            LogicalPlan::Values(_) => Err(unsupported("VALUES")),
            LogicalPlan::Sort(_) => Err(unsupported("ORDER BY")),
            LogicalPlan::Limit(_) => Err(unsupported("LIMIT")),
            LogicalPlan::Window(_) => Err(unsupported("OVER")),
            LogicalPlan::Unnest(_) => Err(unsupported("UNNEST")),
            LogicalPlan::RecursiveQuery(_) => Err(unsupported("WITH RECURSIVE")),
            LogicalPlan::Subquery(_) => Err(unsupported("LATERAL")),
            other => Err(unsupported(format!("the plan {}", other.display()))),
        }
    }

    fn scan(&mut self, scan: &TableScan) -> Result<Flow> {
        let input: &Input = scan.source.downcast_ref().ok_or_else(|| Error::bug("a scan of something else"))?;
        if !scan.filters.is_empty() || scan.fetch.is_some() {
            return Err(Error::bug("a filter or limit was pushed into a relation"));
        }
        let visible: Vec<usize> = match &scan.projection {
            Some(projection) => projection.clone(),
            None => (0..input.schema.fields().len()).collect(),
        };
        let places: Vec<usize> = visible.iter().map(|v| input.places[*v]).collect();
        let graph = &mut self.graph;
        let node = *self.inputs.entry(input.id).or_insert_with(|| graph.input(input.id, Arc::clone(&input.full)));
        let schema = arrow(&scan.projected_schema);
        let whole = places.iter().copied().eq(0..input.full.fields().len());
        let node = match whole {
            true => node,
            false => operators::columns(graph, node, &input.full, Some(&places), &schema)?,
        };
        let all = Properties {
            append_only: input.append_only,
            keys: input.key.clone().into_iter().collect(),
            equal: Vec::new(),
        };
        let sources: Vec<Option<usize>> = visible.iter().map(|v| Some(*v)).collect();
        let names = list(schema.fields().iter().map(|f| f.name()));
        let types = list(schema.fields().iter().map(|f| format!("{}:{}", f.name(), f.data_type())));
        Ok(Flow {
            node,
            properties: all.project(&sources),
            explain: vec![format!("Input {} [{names}]", input.name)],
            canonical: vec![format!("input {} [{types}]", input.id.0)],
            schema,
        })
    }

    /// A filter right below goes into the same operator.
    fn projection(&mut self, projection: &Projection) -> Result<Flow> {
        let (source, predicate) = match projection.input.as_ref() {
            LogicalPlan::Filter(filter) => (filter.input.as_ref(), Some(&filter.predicate)),
            other => (other, None),
        };
        let input = self.plan(source)?;
        let below = source.schema();
        let (exprs, texts): (Vec<ExprRef>, Vec<String>) =
            projection.expr.iter().map(|e| compute(e, below)).collect::<Result<Vec<_>>>()?.into_iter().unzip();
        let predicate_text = predicate.map(ToString::to_string);
        let predicate = predicate.map(|p| condition(p, below)).transpose()?;
        let schema = arrow(&projection.schema);
        let node = operators::project(
            &mut self.graph,
            input.node,
            predicate.as_ref().map(|p| Arc::clone(&p.0)),
            exprs,
            &schema,
        )?;
        let mut properties = input.properties.clone();
        if let LogicalPlan::Filter(filter) = projection.input.as_ref() {
            properties.equal.extend(equal_columns(&filter.predicate, below));
        }
        let sources: Vec<Option<usize>> = projection.expr.iter().map(|e| column_of(e, below)).collect();
        let properties = properties.project(&sources);
        let mut explain = format!("Project [{}]", list(&projection.expr));
        let mut canonical = format!("project [{}]", list(texts));
        if let (Some(shown), Some((_, text))) = (predicate_text, predicate) {
            explain.push_str(&format!(" where {shown}"));
            canonical.push_str(&format!(" where {text}"));
        }
        let (explain, canonical) = input.below(explain, canonical);
        Ok(Flow { node, schema, properties, explain, canonical })
    }

    fn filter(&mut self, filter: &Filter) -> Result<Flow> {
        let input = self.plan(&filter.input)?;
        if matches!(filter.predicate, Expr::Literal(ScalarValue::Boolean(Some(true)), _)) {
            return Ok(input);
        }
        let schema = filter.input.schema();
        let (predicate, text) = condition(&filter.predicate, schema)?;
        let factory = filter::filter_by(predicate, arrow(schema))?;
        let node = self.graph.operator("filter", factory, vec![input.node], arrow(schema));
        let mut properties = input.properties.clone();
        properties.equal.extend(equal_columns(&filter.predicate, schema));
        let (explain, canonical) = input.below(format!("Filter {}", filter.predicate), format!("filter {text}"));
        Ok(Flow { node, schema: arrow(schema), properties, explain, canonical })
    }

    fn aggregate(&mut self, aggregate: &Aggregate) -> Result<Flow> {
        let input = self.plan(&aggregate.input)?;
        let below = aggregate.input.schema();
        if aggregate.group_expr.iter().any(|e| matches!(e, Expr::GroupingSet(_))) {
            return Err(unsupported("GROUPING SETS, ROLLUP or CUBE"));
        }
        let keys = aggregate.group_expr.iter().map(|e| compute(e, below)).collect::<Result<Vec<_>>>()?;
        let (keys, mut texts): (Vec<ExprRef>, Vec<String>) = keys.into_iter().unzip();
        let mut calls = Vec::with_capacity(aggregate.aggr_expr.len());
        for expr in &aggregate.aggr_expr {
            let (call, text) = call(expr, below, input.properties.append_only)?;
            calls.push(call);
            texts.push(text);
        }
        let schema = arrow(&aggregate.schema);
        let groups = keys.len();
        let factory = aggregate::factory(AggregateSpec { keys, calls, schema: Arc::clone(&schema) })?;
        let node = self.graph.operator("aggregate", factory, vec![input.node], Arc::clone(&schema));
        // A group by a column that determines the others (a key) needs no more than that.
        let properties = Properties { append_only: false, keys: vec![(0..groups).collect()], equal: Vec::new() };
        let explain = format!("Aggregate by [{}] of [{}]", list(&aggregate.group_expr), list(&aggregate.aggr_expr));
        let (explain, canonical) = input.below(explain, format!("aggregate {groups} [{}]", texts.join(", ")));
        Ok(Flow { node, schema, properties, explain, canonical })
    }

    fn join(&mut self, plan: &Join) -> Result<Flow> {
        if plan.join_type != JoinType::Inner {
            return Err(unsupported(format!("a join of the kind {}", plan.join_type)));
        }
        if plan.null_equality == NullEquality::NullEqualsNull {
            return Err(unsupported("IS NOT DISTINCT FROM between the sides of a join"));
        }
        if plan.on.is_empty() {
            return Err(unsupported("a join without an equality between its sides")
                .hint("compare a column of one side with a column of the other: ON a.x = b.y"));
        }
        let (left, right) = (self.plan(&plan.left)?, self.plan(&plan.right)?);
        let (left_schema, right_schema) = (plan.left.schema(), plan.right.schema());
        let mut left_keys = Vec::with_capacity(plan.on.len());
        let mut right_keys = Vec::with_capacity(plan.on.len());
        let mut texts = Vec::with_capacity(plan.on.len());
        let mut pairs = Vec::new();
        for (a, b) in &plan.on {
            let ((left_key, left_text), (right_key, right_text)) =
                (compute(a, left_schema)?, compute(b, right_schema)?);
            left_keys.push(left_key);
            right_keys.push(right_key);
            texts.push(format!("{left_text} = {right_text}"));
            pairs.extend(column_of(a, left_schema).zip(column_of(b, right_schema)));
        }
        let residual = plan.filter.as_ref().map(|f| condition(f, &plan.schema)).transpose()?;
        let schema = arrow(&plan.schema);
        let mut explain = format!("Join on {}", list(plan.on.iter().map(|(a, b)| format!("{a} = {b}"))));
        let mut canonical = format!("join [{}]", texts.join(", "));
        if let (Some(filter), Some((_, text))) = (&plan.filter, &residual) {
            explain.push_str(&format!(" and {filter}"));
            canonical.push_str(&format!(" and {text}"));
        }
        let factory = join::factory(JoinSpec {
            left_keys,
            right_keys,
            residual: residual.map(|(expr, _)| expr),
            left: Arc::clone(&left.schema),
            right: Arc::clone(&right.schema),
            schema: Arc::clone(&schema),
        })?;
        let node = self.graph.operator("join", factory, vec![left.node, right.node], Arc::clone(&schema));
        let properties = left.properties.join(&right.properties, &pairs, left.schema.fields().len());
        let (explain, canonical) = join_lines(explain, canonical, vec![left, right]);
        Ok(Flow { node, schema, properties, explain, canonical })
    }

    fn union(&mut self, plan: &Union) -> Result<Flow> {
        let schema = arrow(&plan.schema);
        let flows = plan.inputs.iter().map(|input| self.plan(input)).collect::<Result<Vec<_>>>()?;
        for flow in &flows {
            let types = |schema: &SchemaRef| schema.fields().iter().map(|f| f.data_type().clone()).collect::<Vec<_>>();
            if types(&flow.schema) != types(&schema) {
                return Err(Error::bug("the sides of a union have different types"));
            }
        }
        let nodes = flows.iter().map(|flow| flow.node).collect();
        let node = self.graph.operator("union all", union::factory(Arc::clone(&schema)), nodes, Arc::clone(&schema));
        let append_only = flows.iter().all(|flow| flow.properties.append_only);
        let properties = Properties { append_only, ..Properties::default() };
        let (explain, canonical) = join_lines("Union all".to_string(), "union".to_string(), flows);
        Ok(Flow { node, schema, properties, explain, canonical })
    }
}

fn join_lines(explain: String, canonical: String, flows: Vec<Flow>) -> (Vec<String>, Vec<String>) {
    let (mut shown, mut text) = (vec![explain], vec![canonical]);
    for flow in flows {
        shown.extend(flow.explain.into_iter().map(|line| format!("  {line}")));
        text.extend(flow.canonical.into_iter().map(|line| format!("  {line}")));
    }
    (shown, text)
}

/// The columns that a predicate makes equal in every row it lets through.
fn equal_columns(predicate: &Expr, schema: &DFSchema) -> Vec<(usize, usize)> {
    let pair = |expr: &Expr| match expr {
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq, right }) => {
            column_of(left, schema).zip(column_of(right, schema))
        }
        _ => None,
    };
    split_conjunction(predicate).into_iter().filter_map(pair).collect()
}

/// One call of an aggregate function and its canonical text.
fn call(expr: &Expr, schema: &DFSchema, append_only: bool) -> Result<(AggregateCall, String)> {
    let Expr::AggregateFunction(AggregateFunction { func, params }) = bare(expr) else {
        return Err(unsupported(format!("the aggregate {expr}")));
    };
    let name = func.name();
    let function = match name {
        "count" => Function::Count,
        "sum" => Function::Sum,
        "avg" => Function::Avg,
        "min" => Function::Min,
        "max" => Function::Max,
        _ => {
            return Err(unsupported(format!("the aggregate function {name}"))
                .hint("count, sum, avg, min and max are supported"));
        }
    };
    if params.distinct || !params.order_by.is_empty() || params.null_treatment.is_some() {
        return Err(unsupported(format!("{name} with DISTINCT, ORDER BY or IGNORE NULLS")));
    }
    let counts_rows = |e: &Expr| function == Function::Count && matches!(e, Expr::Literal(v, _) if !v.is_null());
    let input = match params.args.as_slice() {
        [] => None,
        [star] if counts_rows(star) => None,
        [value] => Some(compute(value, schema)?),
        _ => return Err(unsupported(format!("{name} of several values"))),
    };
    let filter = params.filter.as_ref().map(|f| condition(f, schema)).transpose()?;
    let data_type: Option<DataType> = input.as_ref().map(|(e, _)| e.data_type());
    let function = builtin(function, data_type.as_ref(), append_only).map_err(|_| {
        let column = data_type.map(|data_type| ColumnType { data_type, pg_type: None });
        let input = column.and_then(|c| c.name().ok()).unwrap_or_default();
        Error::new(sqlstate::UNDEFINED_FUNCTION, format!("function {name}({input}) does not exist"))
    })?;
    let mut text = format!("{name}({})", input.as_ref().map_or("*", |(_, t)| t.as_str()));
    if let Some((_, filter)) = &filter {
        text.push_str(&format!(" filter {filter}"));
    }
    Ok((AggregateCall { function, input: input.map(|(e, _)| e), filter: filter.map(|(e, _)| e) }, text))
}
