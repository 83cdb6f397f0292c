//! [`guard_plan`], [`guard_condition`], [`guard_value`]: in AND and OR what can fail is evaluated only where the rest has
//! not decided yet, as people write it: `i <> 0 AND 100 / i > 5`, `i = 0 OR 100 / i > 5`.
//!
//! DataFusion evaluates both sides over all rows of a batch; of CASE it evaluates a branch over the rows that come to it.
//! So AND and OR become CASE, after the optimizer, which would turn it back.

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, Result as DfResult, ScalarValue};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::utils::{conjunction, disjunction, merge_schema};
use datafusion::logical_expr::{BinaryExpr, Case, Cast, Expr, Filter, LogicalPlan, Operator, lit};

/// How deep AND and OR may be nested for their value (not as a condition) and still be guarded: a guarded value is
/// evaluated twice, and so doubles with every level. Deeper ones are left as they are.
const VALUE_DEPTH_MAX: usize = 3;

/// What becomes of the value.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    /// Rows are let through where it is true: false and null are one.
    Condition,
    /// All three values count; so many guards are around it.
    Value(usize),
}

/// Guards all expressions of an optimized plan.
pub fn guard_plan(plan: LogicalPlan) -> DfResult<LogicalPlan> {
    let guarded = plan.transform_up_with_subqueries(|node| {
        let schema = match &node {
            // What was pushed into a scan is one comparison each.
            LogicalPlan::TableScan(_) => return Ok(Transformed::no(node)),
            LogicalPlan::Filter(filter) => Arc::clone(filter.input.schema()),
            other => Arc::new(merge_schema(&other.inputs())),
        };
        if let LogicalPlan::Filter(Filter { predicate, input, .. }) = &node {
            if !needs_guard(predicate, &schema) {
                return Ok(Transformed::no(node));
            }
            let predicate = guarded(predicate.clone(), &schema, Use::Condition)?;
            return Ok(Transformed::yes(LogicalPlan::Filter(Filter::try_new(predicate, Arc::clone(input))?)));
        }
        let names = NamePreserver::new(&node);
        let node = node.map_expressions(|expr| {
            if !needs_guard(&expr, &schema) {
                return Ok(Transformed::no(expr));
            }
            let name = names.save(&expr);
            Ok(Transformed::yes(name.restore(guarded(expr, &schema, Use::Value(0))?)))
        })?;
        if node.transformed { node.map_data(LogicalPlan::recompute_schema) } else { Ok(node) }
    })?;
    Ok(guarded.data)
}

/// Guards a condition over rows of `schema`.
pub fn guard_condition(predicate: &Expr, schema: &DFSchema) -> DfResult<Expr> {
    match needs_guard(predicate, schema) {
        true => guarded(predicate.clone(), schema, Use::Condition),
        false => Ok(predicate.clone()),
    }
}

/// Guards an expression over rows of `schema` whose value counts.
pub fn guard_value(expr: &Expr, schema: &DFSchema) -> DfResult<Expr> {
    match needs_guard(expr, schema) {
        true => guarded(expr.clone(), schema, Use::Value(0)),
        false => Ok(expr.clone()),
    }
}

/// Whether there is an AND or OR over what can fail.
fn needs_guard(expr: &Expr, schema: &DFSchema) -> bool {
    let found = expr.exists(|e| {
        let logical = matches!(e, Expr::BinaryExpr(BinaryExpr { op: Operator::And | Operator::Or, .. }));
        Ok(logical && can_fail(e, schema))
    });
    found.unwrap_or(true)
}

fn can_fail(expr: &Expr, schema: &DFSchema) -> bool {
    use Operator::{Divide, Minus, Modulo, Multiply, Plus};
    let found = expr.exists(|e| {
        Ok(match e {
            Expr::ScalarFunction(_) | Expr::HigherOrderFunction(_) | Expr::Negative(_) => true,
            Expr::BinaryExpr(binary) => matches!(binary.op, Plus | Minus | Multiply | Divide | Modulo),
            Expr::Cast(cast) => !is_widening(cast, schema),
            _ => false,
        })
    });
    found.unwrap_or(true)
}

/// Whether every value of the one type is one of the other.
fn is_widening(cast: &Cast, schema: &DFSchema) -> bool {
    use DataType::{Decimal128, Float32, Float64, Int16, Int32, Int64, Null, Utf8};
    use datafusion::logical_expr::ExprSchemable;
    let Ok(from) = cast.expr.get_type(schema) else { return false };
    match (&from, cast.field.data_type()) {
        (from, to) if from == to => true,
        (Null, _) | (_, Utf8) | (Int16, Int32 | Int64) | (Int32, Int64) | (Float32, Float64) => true,
        (Int16 | Int32 | Int64, Float32 | Float64) => true,
        (Int16, Decimal128(digits, scale)) => i16::from(*digits) - i16::from(*scale) >= 5,
        (Int32, Decimal128(digits, scale)) => i16::from(*digits) - i16::from(*scale) >= 10,
        (Int64, Decimal128(digits, scale)) => i16::from(*digits) - i16::from(*scale) >= 19,
        _ => false,
    }
}

fn guarded(expr: Expr, schema: &DFSchema, as_: Use) -> DfResult<Expr> {
    if !needs_guard(&expr, schema) {
        return Ok(expr);
    }
    let op = match &expr {
        Expr::BinaryExpr(BinaryExpr { op: op @ (Operator::And | Operator::Or), .. }) => *op,
        Expr::Alias(_) => {
            return Ok(expr.map_children(|inner| Ok(Transformed::yes(guarded(inner, schema, as_)?)))?.data);
        }
        _ => {
            let depth = if let Use::Value(depth) = as_ { depth } else { 0 };
            let inside = |inner: Expr| Ok(Transformed::yes(guarded(inner, schema, Use::Value(depth))?));
            return Ok(expr.map_children(inside)?.data);
        }
    };
    let below = match as_ {
        Use::Value(depth) if depth >= VALUE_DEPTH_MAX => return Ok(expr),
        Use::Value(depth) => Use::Value(depth + 1),
        Use::Condition => Use::Condition,
    };
    let (failing, safe): (Vec<Expr>, Vec<Expr>) = split(expr, op).into_iter().partition(|part| can_fail(part, schema));
    let join = |parts: Vec<Expr>| if op == Operator::And { conjunction(parts) } else { disjunction(parts) };
    let failing = failing.into_iter().map(|part| guarded(part, schema, below)).collect::<DfResult<Vec<_>>>()?;
    let mut steps: Vec<Expr> = join(safe).into_iter().chain(failing).collect();
    let last = steps.pop().expect("an AND or OR has parts");
    if steps.is_empty() {
        return Ok(last);
    }
    Ok(in_order(steps, last, op, as_))
}

/// The parts of a chain of one operator, as written. Not recursive: chains are as long as people write them.
fn split(expr: Expr, chain: Operator) -> Vec<Expr> {
    let (mut parts, mut open) = (Vec::new(), vec![expr]);
    while let Some(next) = open.pop() {
        match next {
            Expr::BinaryExpr(BinaryExpr { left, op, right }) if op == chain => open.extend([*right, *left]),
            other => parts.push(other),
        }
    }
    parts
}

/// `steps op … op last`, each evaluated only where those before it leave the answer open.
fn in_order(steps: Vec<Expr>, last: Expr, op: Operator, as_: Use) -> Expr {
    let decided = lit(op == Operator::Or);
    let decides = |step: &Expr| match (op, as_) {
        (Operator::Or, _) => step.clone(),
        (_, Use::Condition) => Expr::IsNotTrue(Box::new(step.clone())),
        (_, Use::Value(_)) => Expr::Not(Box::new(step.clone())),
    };
    let when_then = steps.iter().map(|step| (Box::new(decides(step)), Box::new(decided.clone()))).collect();
    let rest = match as_ {
        Use::Condition => last,
        Use::Value(_) => {
            let all = steps.into_iter().chain([last]);
            let value = if op == Operator::And { conjunction(all) } else { disjunction(all) };
            value.unwrap_or(Expr::Literal(ScalarValue::Boolean(None), None))
        }
    };
    Expr::Case(Case { expr: None, when_then_expr: when_then, else_expr: Some(Box::new(rest)) })
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::{Field, Schema};
    use datafusion::logical_expr::{cast, col};

    use super::*;

    fn schema() -> DFSchema {
        let field = |name: &str, data_type| Field::new(name, data_type, true);
        let fields = vec![field("i", DataType::Int32), field("t", DataType::Utf8), field("b", DataType::Boolean)];
        DFSchema::try_from(Schema::new(fields)).expect("a schema")
    }

    #[track_caller]
    fn check(expr: &Expr, condition: &str, value: &str) {
        assert_eq!(guard_condition(expr, &schema()).expect("guarded").to_string(), condition);
        assert_eq!(guard_value(expr, &schema()).expect("guarded").to_string(), value);
    }

    #[test]
    fn what_can_fail_waits_for_what_cannot() {
        let fails = || cast(col("t"), DataType::Int32).gt(lit(5));
        let safe = || col("i").eq(lit(0));
        let text = "CAST(t AS Int32) > Int32(5)";
        check(
            &fails().and(safe()),
            &format!("CASE WHEN i = Int32(0) IS NOT TRUE THEN Boolean(false) ELSE {text} END"),
            &format!("CASE WHEN NOT i = Int32(0) THEN Boolean(false) ELSE i = Int32(0) AND {text} END"),
        );
        check(
            &safe().or(fails()),
            &format!("CASE WHEN i = Int32(0) THEN Boolean(true) ELSE {text} END"),
            &format!("CASE WHEN i = Int32(0) THEN Boolean(true) ELSE i = Int32(0) OR {text} END"),
        );
        let plain = cast(col("i"), DataType::Int64).gt(lit(5_i64)).and(col("b"));
        check(&plain, &plain.to_string(), &plain.to_string());
    }
}
