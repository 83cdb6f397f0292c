//! Rows of `VALUES`: one kind of value in each column, by what the text alone says, as PostgreSQL finds the types of
//! constants there. DataFusion takes the rows for what they are and refuses those that differ.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{BinaryOperator, DataType, Expr, Value, visit_expressions_mut};

use super::context::characters;
use super::rewrite::{call, cast};
use crate::types::ColumnType;

/// Floats where one is a float; for the constants beside a uuid, a json, a time or a truth value the type of that; texts
/// cut off without a length left.
pub fn of_one_kind(rows: &mut [&mut [Expr]]) {
    let width = rows.first().map_or(0, |row| row.len());
    for column in 0..width {
        let cells = || rows.iter().filter_map(|row| row.get(column));
        let floats = cells().any(is_float);
        let named = cells().find_map(named_type);
        for cell in rows.iter_mut().filter_map(|row| row.get_mut(column)) {
            if floats && !is_float(cell) {
                *cell = cast(take(cell), DataType::DoublePrecision);
            } else if let (Some(named), true) = (&named, is_untyped(cell)) {
                *cell = cast(take(cell), named.clone());
            }
        }
    }
    for cell in rows.iter_mut().flat_map(|row| row.iter_mut()) {
        let _: ControlFlow<()> = visit_expressions_mut(cell, |expr| {
            cut(expr);
            ControlFlow::Continue(())
        });
    }
}

fn take(cell: &mut Expr) -> Expr {
    std::mem::replace(cell, Expr::value(Value::Null))
}

/// Whether the text alone says that this is a float.
fn is_float(expr: &Expr) -> bool {
    let floating = |data_type| ColumnType::from_sql(data_type).is_ok_and(|column| column.data_type.is_floating());
    match expr {
        Expr::Cast { data_type, .. } => floating(data_type),
        Expr::TypedString(typed) => floating(&typed.data_type),
        Expr::UnaryOp { expr, .. } | Expr::Nested(expr) => is_float(expr),
        Expr::BinaryOp { left, op, right } => {
            use BinaryOperator::{Divide, Minus, Multiply, Plus};
            matches!(op, Plus | Minus | Multiply | Divide) && (is_float(left) || is_float(right))
        }
        _ => false,
    }
}

/// The type of a cast to something else than a number or a text.
fn named_type(expr: &Expr) -> Option<DataType> {
    let data_type = match expr {
        Expr::Cast { data_type, .. } => data_type,
        Expr::TypedString(typed) => &typed.data_type,
        Expr::Nested(inner) => return named_type(inner),
        _ => return None,
    };
    let column = ColumnType::from_sql(data_type).ok()?;
    use arrow::datatypes::DataType::{Binary, Boolean, Date32, Time64, Timestamp};
    let own = matches!(column.data_type, Binary | Boolean | Date32 | Time64(_) | Timestamp(..));
    (own || column.pg_type.is_some() && column.length().is_none()).then(|| data_type.clone())
}

/// A constant that is of whatever type is wanted.
pub fn is_untyped(expr: &Expr) -> bool {
    matches!(expr, Expr::Value(value)
        if matches!(value.value, Value::SingleQuotedString(_) | Value::Null | Value::Placeholder(_)))
}

/// A cast to a text of some length, as the function that does the same.
fn cut(expr: &mut Expr) {
    let Expr::Cast { expr: value, data_type, .. } = expr else { return };
    let Some(length) = characters(data_type) else { return };
    let text = cast(take(value), DataType::Text);
    let length = Expr::value(Value::Number(length.to_string(), false));
    *expr = call("left", [text, length]);
}
