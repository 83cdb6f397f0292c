//! [`rewrite`]: what a query says in PostgreSQL's words, said so that DataFusion means the same: the names of unnamed
//! columns, the type of whole numbers, comparisons with quoted literals.

use std::collections::HashSet;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    BinaryOperator, CastKind, DataType, Expr, FunctionArg, FunctionArgExpr, FunctionArguments, Ident, Query, Select,
    SelectItem, SetExpr, UnaryOperator, Value, VisitMut, VisitorMut,
};

/// What stands between a column's name and its number where several have that name. No name typed by people holds it.
const NUMBERED: char = '\u{1}';

/// The name of a result column as people see it.
pub fn display_name(name: &str) -> &str {
    name.split(NUMBERED).next().unwrap_or(name)
}

pub fn rewrite(query: &mut Query) {
    let _ = query.visit(&mut Rewriter);
}

struct Rewriter;

impl VisitorMut for Rewriter {
    type Break = ();

    fn post_visit_select(&mut self, select: &mut Select) -> ControlFlow<()> {
        name_columns(select);
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
        if let SetExpr::Values(values) = query.body.as_mut() {
            values.rows.iter_mut().flat_map(|row| row.content.iter_mut()).for_each(narrow);
        }
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        match expr {
            Expr::Between { expr: value, negated, low, high } if is_quoted(low) || is_quoted(high) => {
                let compare = |op, bound: &Expr| {
                    Box::new(Expr::BinaryOp { left: value.clone(), op, right: Box::new(bound.clone()) })
                };
                let (left, op, right) = match negated {
                    false => {
                        (compare(BinaryOperator::GtEq, low), BinaryOperator::And, compare(BinaryOperator::LtEq, high))
                    }
                    true => (compare(BinaryOperator::Lt, low), BinaryOperator::Or, compare(BinaryOperator::Gt, high)),
                };
                *expr = Expr::Nested(Box::new(Expr::BinaryOp { left, op, right }));
            }
            // PostgreSQL's numeric holds any exponent, ours 38 digits: a number with an exponent is a double.
            Expr::Value(value) if matches!(&value.value, Value::Number(text, _) if text.contains(['e', 'E'])) => {
                let text = value.value.to_string();
                *expr = Expr::Cast {
                    kind: CastKind::Cast,
                    expr: Box::new(Expr::value(Value::SingleQuotedString(text))),
                    data_type: DataType::DoublePrecision,
                    format: None,
                    array: false,
                };
            }
            Expr::Case { conditions, else_result, .. } => {
                conditions.iter_mut().for_each(|when| narrow(&mut when.result));
                else_result.iter_mut().for_each(|result| narrow(result));
            }
            Expr::Function(function) => {
                let name = function.name.to_string().to_lowercase();
                let keeps_type = ["sum", "avg", "min", "max", "coalesce", "nullif", "greatest", "least"];
                if let (true, FunctionArguments::List(list)) = (keeps_type.contains(&name.as_str()), &mut function.args)
                {
                    for arg in &mut list.args {
                        if let FunctionArg::Unnamed(FunctionArgExpr::Expr(value)) = arg {
                            narrow(value);
                        }
                    }
                }
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }
}

fn is_quoted(expr: &Expr) -> bool {
    matches!(expr, Expr::Value(v) if matches!(v.value, Value::SingleQuotedString(_)))
}

/// A whole number that fits is of type integer.
fn narrow(expr: &mut Expr) {
    let number = match &*expr {
        Expr::Value(value) => Some((&value.value, false)),
        Expr::UnaryOp { op: UnaryOperator::Minus, expr } => match expr.as_ref() {
            Expr::Value(value) => Some((&value.value, true)),
            _ => None,
        },
        _ => None,
    };
    let Some((Value::Number(digits, _), negative)) = number else { return };
    let sign = if negative { "-" } else { "" };
    if format!("{sign}{digits}").parse::<i32>().is_ok() {
        *expr = Expr::Cast {
            kind: CastKind::DoubleColon,
            expr: Box::new(expr.clone()),
            data_type: DataType::Integer(None),
            array: false,
            format: None,
        };
    }
}

/// Gives every column of the list a name of its own: what PostgreSQL would call it, numbered where that is taken.
fn name_columns(select: &mut Select) {
    let mut taken = HashSet::new();
    let mut count = 0;
    for item in &mut select.projection {
        match item {
            SelectItem::ExprWithAlias { expr, alias } => {
                narrow(expr);
                if !taken.insert(folded(alias)) {
                    count += 1;
                    *alias = numbered(&folded(alias), count);
                }
            }
            SelectItem::UnnamedExpr(expr) => {
                let is_column = matches!(expr, Expr::Identifier(_) | Expr::CompoundIdentifier(_));
                let name = column_name(expr).unwrap_or_else(|| "?column?".to_string());
                narrow(expr);
                let fresh = taken.insert(name.clone());
                let alias = match (is_column, fresh) {
                    (true, true) => continue,
                    (false, true) => Ident::with_quote('"', name),
                    (_, false) => {
                        count += 1;
                        numbered(&name, count)
                    }
                };
                *item = SelectItem::ExprWithAlias { expr: expr.clone(), alias };
            }
            SelectItem::QualifiedWildcard(..) | SelectItem::Wildcard(_) | SelectItem::ExprWithAliases { .. } => {}
        }
    }
}

fn numbered(name: &str, count: usize) -> Ident {
    Ident::with_quote('"', format!("{name}{NUMBERED}{count}"))
}

fn folded(ident: &Ident) -> String {
    match ident.quote_style {
        Some(_) => ident.value.clone(),
        None => ident.value.to_lowercase(),
    }
}

/// PostgreSQL's name for a column without one; `None` is `?column?`.
fn column_name(expr: &Expr) -> Option<String> {
    let fixed = |name: &str| Some(name.to_string());
    match expr {
        Expr::Identifier(ident) => Some(folded(ident)),
        Expr::CompoundIdentifier(parts) => parts.last().map(folded),
        Expr::Nested(inner) | Expr::Collate { expr: inner, .. } => column_name(inner),
        Expr::Function(function) => function.name.0.last()?.as_ident().map(folded),
        Expr::Cast { expr, data_type, .. } => column_name(expr).or_else(|| type_name(data_type)),
        Expr::TypedString(typed) => type_name(&typed.data_type),
        Expr::Case { else_result, .. } => {
            let named = else_result.as_ref().filter(|result| !is_number(result));
            named.and_then(|result| column_name(result)).or_else(|| fixed("case"))
        }
        Expr::Extract { .. } => fixed("extract"),
        Expr::Substring { .. } => fixed("substring"),
        Expr::Position { .. } => fixed("position"),
        Expr::Trim { .. } => fixed("btrim"),
        Expr::Ceil { .. } => fixed("ceil"),
        Expr::Floor { .. } => fixed("floor"),
        Expr::Overlay { .. } => fixed("overlay"),
        Expr::AtTimeZone { .. } => fixed("timezone"),
        Expr::Interval(_) => fixed("interval"),
        Expr::Exists { .. } => fixed("exists"),
        Expr::Array(_) => fixed("array"),
        Expr::Subquery(query) => match query.body.as_ref() {
            SetExpr::Select(select) => match select.projection.first()? {
                SelectItem::UnnamedExpr(expr) => column_name(expr),
                SelectItem::ExprWithAlias { alias, .. } => Some(folded(alias)),
                _ => None,
            },
            _ => None,
        },
        _ => None,
    }
}

/// A whole number, as [`narrow`] leaves it.
fn is_number(expr: &Expr) -> bool {
    match expr {
        Expr::Cast { expr, .. } | Expr::UnaryOp { expr, .. } => is_number(expr),
        Expr::Value(value) => matches!(value.value, Value::Number(..)),
        _ => false,
    }
}

/// PostgreSQL's internal name of a type, which an unnamed cast is called by.
fn type_name(data_type: &DataType) -> Option<String> {
    let name = crate::types::ColumnType::from_sql(data_type).ok()?.name().ok()?;
    Some(match name.split('(').next().unwrap_or(&name) {
        "boolean" => "bool".to_string(),
        "smallint" => "int2".to_string(),
        "integer" => "int4".to_string(),
        "bigint" => "int8".to_string(),
        "real" => "float4".to_string(),
        "double precision" => "float8".to_string(),
        other => other.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expect: &str) {
        let mut query = crate::parse::parse_query(text).expect(text).ast;
        rewrite(&mut query);
        assert_eq!(query.to_string().replace(NUMBERED, "#"), expect);
    }

    #[test]
    fn names_and_literals() {
        check("SELECT 1, 2, x FROM t", "SELECT 1::INTEGER AS \"?column?\", 2::INTEGER AS \"?column?#1\", x FROM t");
        check(
            "SELECT count(*), Sum(a.b) AS s, a.b, c.B FROM a",
            "SELECT count(*) AS \"count\", Sum(a.b) AS s, a.b, c.B AS \"b#1\" FROM a",
        );
        check(
            "SELECT x::int, 5000000000, 'a'::text FROM t",
            "SELECT x::INT AS \"x\", 5000000000 AS \"?column?\", 'a'::TEXT AS \"text\" FROM t",
        );
        check(
            "SELECT a FROM t WHERE a BETWEEN '1' AND '5' LIMIT 3",
            "SELECT a FROM t WHERE (a >= '1' AND a <= '5') LIMIT 3",
        );
        check("VALUES (1, -2)", "VALUES (1::INTEGER, -2::INTEGER)");
        check(
            "SELECT CASE WHEN a THEN 1 ELSE b END FROM t GROUP BY 1",
            "SELECT CASE WHEN a THEN 1::INTEGER ELSE b END AS \"b\" FROM t GROUP BY 1",
        );
        check(
            "SELECT CASE WHEN a THEN b ELSE 1 END FROM t",
            "SELECT CASE WHEN a THEN b ELSE 1::INTEGER END AS \"case\" FROM t",
        );
    }
}
