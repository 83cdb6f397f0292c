//! Minus zero is zero and all NaN are one, above every other float, wherever values are told apart or put in order: in
//! `nullif`, `CASE x WHEN`, sort keys, windows and DISTINCT. DataFusion compares the bits there.

use arrow::datatypes::DataType;
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::logical_expr::expr::{AggregateFunction, Case, ScalarFunction, Sort, WindowFunction};
use datafusion::logical_expr::{BinaryExpr, Expr, ExprSchemable, Operator};

use super::arithmetic::{Op, call};

/// `expr` with its comparisons of floats written out or made on plain values; whether that changed anything.
pub fn told_apart(expr: Expr, schema: &DFSchema) -> (Expr, bool) {
    match expr {
        Expr::ScalarFunction(ScalarFunction { func, args })
            if func.name() == "nullif" && args.len() == 2 && can_repeat(&args[0], schema) =>
        {
            let null = null_of(&args[0], schema);
            let mut args = args.into_iter();
            let (Some(value), Some(other)) = (args.next(), args.next()) else { unreachable!("two arguments") };
            let when = (Box::new(equal(value.clone(), other)), Box::new(Expr::Literal(null, None)));
            let case = Case { expr: None, when_then_expr: vec![when], else_expr: Some(Box::new(value)) };
            (Expr::Case(case), true)
        }
        Expr::Case(Case { expr: Some(value), when_then_expr, else_expr }) if can_repeat(&value, schema) => {
            let written = |(when, then): (Box<Expr>, Box<Expr>)| (Box::new(equal((*value).clone(), *when)), then);
            let when_then_expr = when_then_expr.into_iter().map(written).collect();
            (Expr::Case(Case { expr: None, when_then_expr, else_expr }), true)
        }
        Expr::WindowFunction(mut window) => {
            let changed = window_keys(&mut window, schema);
            (Expr::WindowFunction(window), changed)
        }
        Expr::AggregateFunction(AggregateFunction { func, mut params }) if params.distinct => {
            let changed = params.args.iter_mut().fold(false, |changed, arg| plain(arg, schema) | changed);
            (Expr::AggregateFunction(AggregateFunction { func, params }), changed)
        }
        other => (other, false),
    }
}

/// Makes the keys that are floats plain.
pub fn sort_keys(keys: &mut [Sort], schema: &DFSchema) -> bool {
    keys.iter_mut().fold(false, |changed, key| plain(&mut key.expr, schema) | changed)
}

fn window_keys(window: &mut WindowFunction, schema: &DFSchema) -> bool {
    let parts = window.params.partition_by.iter_mut().fold(false, |changed, part| plain(part, schema) | changed);
    sort_keys(&mut window.params.order_by, schema) || parts
}

/// Adds the zero that makes -0 a 0 and any NaN the one; whether the expression is a float.
fn plain(expr: &mut Expr, schema: &DFSchema) -> bool {
    let zero = match expr.get_type(schema) {
        Ok(DataType::Float64) => ScalarValue::Float64(Some(0.0)),
        Ok(DataType::Float32) => ScalarValue::Float32(Some(0.0)),
        _ => return false,
    };
    *expr = call(Op::Add, std::mem::take(expr), Expr::Literal(zero, None));
    true
}

/// A float whose value is the same however often it is asked for.
fn can_repeat(expr: &Expr, schema: &DFSchema) -> bool {
    expr.get_type(schema).is_ok_and(|t| t.is_floating()) && !expr.is_volatile()
}

fn null_of(expr: &Expr, schema: &DFSchema) -> ScalarValue {
    match expr.get_type(schema) {
        Ok(DataType::Float32) => ScalarValue::Float32(None),
        _ => ScalarValue::Float64(None),
    }
}

fn equal(left: Expr, right: Expr) -> Expr {
    Expr::BinaryExpr(BinaryExpr { left: Box::new(left), op: Operator::Eq, right: Box::new(right) })
}
