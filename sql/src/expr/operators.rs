//! [`Operators`]: what operators mean between the types of their operands, where DataFusion and PostgreSQL differ.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, IntervalUnit, TimeUnit};
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::error::Result as DfResult;
use datafusion::logical_expr::expr::{Cast, Placeholder};
use datafusion::logical_expr::planner::{ExprPlanner, PlannerResult, RawBinaryExpr};
use datafusion::logical_expr::{BinaryExpr, Expr, ExprSchemable, Operator};
use datafusion::sql::sqlparser::ast::BinaryOperator;

use super::arithmetic::{Op, call, common};
use super::json::{Comparable, Member};
use super::span::span;
use crate::error::{Error, Location, sqlstate};
use crate::types::{DIGITS_MAX, PG_TYPE};

#[derive(Debug)]
pub struct Operators;

impl ExprPlanner for Operators {
    fn plan_binary_op(&self, raw: RawBinaryExpr, schema: &DFSchema) -> DfResult<PlannerResult<RawBinaryExpr>> {
        let RawBinaryExpr { op, left, right } = raw;
        if let BinaryOperator::Arrow | BinaryOperator::LongArrow = op {
            let as_text = op == BinaryOperator::LongArrow;
            return Ok(PlannerResult::Planned(member(as_text, left, right, schema)?));
        }
        let comparison = is_comparison(&op);
        let arithmetic = arithmetic(&op);
        if arithmetic.is_none() && !comparison {
            return Ok(PlannerResult::Original(RawBinaryExpr { op, left, right }));
        }
        let (left, right) = (narrow(left), narrow(right));
        let (left_type, right_type) = (type_of(&left, schema)?, type_of(&right, schema)?);
        let (left, left_type) = adopt(left, left_type, &right, &right_type);
        let (right, right_type) = adopt(right, right_type, &left, &left_type);
        let (right, right_type) = beside_time(arithmetic, right, right_type, &left_type);
        check_text(&op, &left, &left_type, &right, &right_type)?;
        if comparison {
            let left = canonical(left, &right, schema)?;
            let right = canonical(right, &left, schema)?;
            let (left, right) = json_operands(&op, left, right, schema)?;
            let (left, right) = match (&left_type, &right_type) {
                (Some(DataType::Interval(_) | DataType::Duration(_)), Some(_))
                | (Some(_), Some(DataType::Interval(_) | DataType::Duration(_))) => (span(left), span(right)),
                _ => (left, right),
            };
            return Ok(PlannerResult::Original(RawBinaryExpr { op, left, right }));
        }
        let Some(arithmetic) = arithmetic else {
            return Ok(PlannerResult::Original(RawBinaryExpr { op, left, right }));
        };
        let planned = match (left_type, right_type) {
            (Some(lt), Some(rt)) => {
                dates(arithmetic, &left, &lt, &right, &rt).or_else(|| numbers(arithmetic, &left, &lt, &right, &rt))
            }
            _ => None,
        };
        Ok(match planned {
            Some(expr) => PlannerResult::Planned(expr),
            None => PlannerResult::Original(RawBinaryExpr { op, left, right }),
        })
    }
}

fn arithmetic(op: &BinaryOperator) -> Option<Op> {
    Some(match op {
        BinaryOperator::Plus => Op::Add,
        BinaryOperator::Minus => Op::Subtract,
        BinaryOperator::Multiply => Op::Multiply,
        BinaryOperator::Divide => Op::Divide,
        BinaryOperator::Modulo => Op::Modulo,
        _ => return None,
    })
}

fn is_comparison(op: &BinaryOperator) -> bool {
    use BinaryOperator::{Eq, Gt, GtEq, Lt, LtEq, NotEq};
    matches!(op, Eq | NotEq | Lt | LtEq | Gt | GtEq)
}

/// A whole number that fits is `integer`, as in PostgreSQL.
fn narrow(expr: Expr) -> Expr {
    match expr {
        Expr::Literal(ScalarValue::Int64(Some(n)), metadata) => match i32::try_from(n) {
            Ok(n) => Expr::Literal(ScalarValue::Int32(Some(n)), metadata),
            Err(_) => Expr::Literal(ScalarValue::Int64(Some(n)), metadata),
        },
        other => other,
    }
}

/// `None`: a parameter whose type is still open.
fn type_of(expr: &Expr, schema: &DFSchema) -> DfResult<Option<DataType>> {
    match expr {
        Expr::Placeholder(Placeholder { field: None, .. }) => Ok(None),
        other => Ok(Some(other.get_type(schema)?)),
    }
}

/// A quoted literal, and a parameter without a type, take the type of the other operand.
fn adopt(expr: Expr, own: Option<DataType>, other: &Expr, other_type: &Option<DataType>) -> (Expr, Option<DataType>) {
    let Some(target) = other_type else { return (expr, own) };
    match expr {
        Expr::Placeholder(Placeholder { id, field: None }) if !target.is_null() => {
            let field = Some(Arc::new(Field::new("", target.clone(), true)));
            (Expr::Placeholder(Placeholder { id, field }), Some(target.clone()))
        }
        Expr::Literal(ScalarValue::Utf8(Some(ref text)), _) if is_plain(target) && !is_quoted(other) => {
            let to = quoted_type(text, target);
            (cast(expr, &to), Some(to))
        }
        Expr::Literal(ScalarValue::Utf8(None), _) if is_plain(target) && !is_quoted(other) => {
            (cast(expr, target), Some(target.clone()))
        }
        _ => (expr, own),
    }
}

/// A quoted literal added to a time is an interval; subtracted from one, a time of the same type.
fn beside_time(op: Option<Op>, expr: Expr, own: Option<DataType>, time: &Option<DataType>) -> (Expr, Option<DataType>) {
    let (Some(time @ DataType::Timestamp(..)), true) = (time, is_quoted(&expr)) else { return (expr, own) };
    let to = match op {
        Some(Op::Add) => DataType::Interval(IntervalUnit::MonthDayNano),
        Some(Op::Subtract) => time.clone(),
        _ => return (expr, own),
    };
    (cast(expr, &to), Some(to))
}

/// The type of a quoted literal beside a value of the type `target`: a decimal keeps all digits that are written.
pub fn quoted_type(text: &str, target: &DataType) -> DataType {
    match (target, super::read::number(text.trim())) {
        (DataType::Decimal128(..), Some(Some((value, scale)))) => {
            let scale = scale.clamp(0, i32::from(DIGITS_MAX)) as u8;
            let digits = value.unsigned_abs().checked_ilog10().map_or(1, |n| n as u8 + 1);
            DataType::Decimal128(digits.max(scale).clamp(1, DIGITS_MAX), scale as i8)
        }
        _ => target.clone(),
    }
}

/// A quoted literal beside a uuid in the one form that uuids have.
fn canonical(expr: Expr, other: &Expr, schema: &DFSchema) -> DfResult<Expr> {
    let Expr::Literal(ScalarValue::Utf8(Some(text)), metadata) = &expr else { return Ok(expr) };
    let is_uuid = |field: Arc<Field>| field.metadata().get(PG_TYPE).is_some_and(|name| name == "uuid");
    match other.to_field(schema) {
        Ok((_, field)) if is_uuid(Arc::clone(&field)) => {
            Ok(Expr::Literal(ScalarValue::Utf8(Some(super::read::uuid(text)?)), metadata.clone()))
        }
        _ => Ok(expr),
    }
}

/// `json` or `jsonb`, where the expression is of that type.
fn json_type(expr: &Expr, schema: &DFSchema) -> Option<String> {
    let name = expr.to_field(schema).ok()?.1.metadata().get(PG_TYPE).cloned();
    name.filter(|name| name == "json" || name == "jsonb")
}

fn member(as_text: bool, json: Expr, key: Expr, schema: &DFSchema) -> DfResult<Expr> {
    let key = match key {
        Expr::Placeholder(Placeholder { id, field: None }) => {
            Expr::Placeholder(Placeholder { id, field: Some(Arc::new(Field::new("", DataType::Utf8, true))) })
        }
        other => other,
    };
    let key_type = key.get_type(schema)?;
    match json_type(&json, schema) {
        Some(_) if key_type.is_integer() || key_type == DataType::Utf8 || key_type == DataType::Utf8View => {
            Ok(Member::call(as_text, json, key))
        }
        _ => {
            let op = if as_text { BinaryOperator::LongArrow } else { BinaryOperator::Arrow };
            Err(no_operator(&op, &json, &key, schema).into())
        }
    }
}

/// A `json` is not compared at all, a `jsonb` by its value.
fn json_operands(op: &BinaryOperator, left: Expr, right: Expr, schema: &DFSchema) -> DfResult<(Expr, Expr)> {
    let types = [json_type(&left, schema), json_type(&right, schema)];
    let (left_type, right_type) = match types.each_ref().map(Option::as_deref) {
        [None, None] => return Ok((left, right)),
        [a, b] => (a, b),
    };
    let own = |expr: &Expr, pg_type: Option<&str>| pg_type == Some("jsonb") || pg_type.is_none() && is_quoted(expr);
    if !own(&left, left_type) || !own(&right, right_type) {
        return Err(no_operator(op, &left, &right, schema).into());
    }
    if !matches!(op, BinaryOperator::Eq | BinaryOperator::NotEq) {
        return Err(Error::unsupported(format!("the operator {op} of jsonb")).into());
    }
    Ok((Comparable::call(left), Comparable::call(right)))
}

fn no_operator(op: &BinaryOperator, left: &Expr, right: &Expr, schema: &DFSchema) -> Error {
    let name = |expr: &Expr| match expr.to_field(schema) {
        Ok(_) if is_quoted(expr) => "unknown".to_string(),
        Ok((_, field)) => crate::types::ColumnType::of(&field).name().unwrap_or(field.data_type().to_string()),
        Err(_) => "unknown".to_string(),
    };
    let message = format!("operator does not exist: {} {op} {}", name(left), name(right));
    Error::new(sqlstate::UNDEFINED_FUNCTION, message).hint("add a type cast: column::type")
}

fn is_quoted(expr: &Expr) -> bool {
    matches!(expr, Expr::Literal(ScalarValue::Utf8(_), _))
}

/// Types whose text form a quoted literal may have. Times are left to DataFusion, which knows intervals too.
fn is_plain(data_type: &DataType) -> bool {
    data_type.is_numeric() || matches!(data_type, DataType::Boolean | DataType::Date32)
}

/// PostgreSQL compares no text with numbers; DataFusion would, as text.
fn check_text(
    op: &BinaryOperator,
    left: &Expr,
    left_type: &Option<DataType>,
    right: &Expr,
    right_type: &Option<DataType>,
) -> DfResult<()> {
    let text = |t: &Option<DataType>| matches!(t, Some(DataType::Utf8 | DataType::Utf8View | DataType::LargeUtf8));
    let plain = |t: &Option<DataType>| t.as_ref().is_some_and(is_plain);
    if !(text(left_type) && plain(right_type) || plain(left_type) && text(right_type)) {
        return Ok(());
    }
    let name = |t: &Option<DataType>| match t {
        Some(t) => crate::types::ColumnType { data_type: t.clone(), pg_type: None }.name().unwrap_or(t.to_string()),
        None => "unknown".to_string(),
    };
    let message = format!("operator does not exist: {} {op} {}", name(left_type), name(right_type));
    let span = [left, right].into_iter().find_map(|e| e.spans().and_then(|s| s.first()));
    Err(Error::new(sqlstate::UNDEFINED_FUNCTION, message)
        .hint("add a type cast: column::type")
        .at(span.and_then(|s| Location::new(s.start.line, s.start.column)))
        .into())
}

fn cast(expr: Expr, to: &DataType) -> Expr {
    Expr::Cast(Cast::new(Box::new(expr), to.clone()))
}

/// `date ± integer` is a date, `date - date` the days between, `date ± interval` a timestamp.
fn dates(op: Op, left: &Expr, left_type: &DataType, right: &Expr, right_type: &DataType) -> Option<Expr> {
    let days = |e: &Expr| cast(e.clone(), &DataType::Int32);
    let midnight = |e: &Expr| Box::new(cast(e.clone(), &DataType::Timestamp(TimeUnit::Microsecond, None)));
    let binary = |left, op, right| Expr::BinaryExpr(BinaryExpr { left, op, right });
    match (left_type, op, right_type) {
        (DataType::Date32, Op::Add, DataType::Interval(_)) => {
            Some(binary(midnight(left), Operator::Plus, Box::new(right.clone())))
        }
        (DataType::Date32, Op::Subtract, DataType::Interval(_)) => {
            Some(binary(midnight(left), Operator::Minus, Box::new(right.clone())))
        }
        (DataType::Interval(_), Op::Add, DataType::Date32) => {
            Some(binary(midnight(right), Operator::Plus, Box::new(left.clone())))
        }
        (DataType::Date32, Op::Subtract, DataType::Date32) => Some(call(op, days(left), days(right))),
        (DataType::Date32, Op::Add | Op::Subtract, t) if t.is_integer() => {
            Some(cast(call(op, days(left), days(right)), &DataType::Date32))
        }
        (t, Op::Add, DataType::Date32) if t.is_integer() => {
            Some(cast(call(op, days(left), days(right)), &DataType::Date32))
        }
        _ => None,
    }
}

fn numbers(op: Op, left: &Expr, left_type: &DataType, right: &Expr, right_type: &DataType) -> Option<Expr> {
    let (to_left, to_right) = common(left_type, right_type)?;
    let side = |expr: &Expr, from: &DataType, to: &DataType| match from == to {
        true => expr.clone(),
        false => cast(expr.clone(), to),
    };
    Some(call(op, side(left, left_type, &to_left), side(right, right_type, &to_right)))
}
