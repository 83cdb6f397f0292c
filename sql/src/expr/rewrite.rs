//! [`rewrite`]: what a query says in PostgreSQL's words, said so that DataFusion means the same: the names of unnamed
//! columns, the type of numbers, comparisons with quoted literals, patterns, intervals. What DataFusion would answer
//! otherwise, and cannot be said in another way, is refused by name.

use std::collections::HashSet;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    AccessExpr, BinaryOperator, CastKind, DataType, ExactNumberInfo, Expr, Function, FunctionArg, FunctionArgExpr,
    FunctionArgumentList, FunctionArguments, Ident, Interval, ObjectName, Query, Select, SelectItem, SetExpr,
    SetOperator, SetQuantifier, Spanned, TrimWhereField, UnaryOperator, Value, VisitMut, VisitorMut,
};

use super::{merge, patterns, values};
use crate::error::{Error, Result, location_of, sqlstate};
use crate::parse::fold;
use crate::types::{COLUMNS_MAX, DIGITS_MAX};

/// What stands between a column's name and its number where several have that name. No name typed by people holds it.
const NUMBERED: char = '\u{1}';

/// The name of a result column as people see it.
pub fn display_name(name: &str) -> &str {
    name.split(NUMBERED).next().unwrap_or(name)
}

pub fn rewrite(query: &mut Query) -> Result<()> {
    match query.visit(&mut Rewriter) {
        ControlFlow::Break(error) => Err(*error),
        ControlFlow::Continue(()) => Ok(()),
    }
}

struct Rewriter;

type Flow = ControlFlow<Box<Error>>;

impl VisitorMut for Rewriter {
    type Break = Box<Error>;

    /// Before the list is planned, which takes time for each of its columns.
    fn pre_visit_select(&mut self, select: &mut Select) -> Flow {
        if select.projection.len() > COLUMNS_MAX {
            let message = format!("target lists can have at most {COLUMNS_MAX} entries");
            return ControlFlow::Break(Box::new(Error::new(sqlstate::TOO_MANY_COLUMNS, message)));
        }
        ControlFlow::Continue(())
    }

    fn post_visit_select(&mut self, select: &mut Select) -> Flow {
        if let Err(error) = merge::merged(select) {
            return ControlFlow::Break(Box::new(error));
        }
        name_columns(select);
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, query: &mut Query) -> Flow {
        if let SetExpr::Values(values) = query.body.as_mut() {
            let mut rows: Vec<&mut [Expr]> = values.rows.iter_mut().map(|row| row.content.as_mut_slice()).collect();
            rows.iter_mut().flat_map(|row| row.iter_mut()).for_each(narrow);
            values::of_one_kind(&mut rows);
        }
        match refused_operation(&query.body) {
            Some(what) => ControlFlow::Break(Box::new(Error::unsupported(what).at(location_of(query.span())))),
            None => ControlFlow::Continue(()),
        }
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> Flow {
        match expr {
            Expr::UnaryOp { op: UnaryOperator::Minus, .. } => bind_minus(expr),
            Expr::Interval(interval) => {
                if let Err(error) = plain_interval(interval) {
                    return ControlFlow::Break(Box::new(error));
                }
            }
            Expr::SimilarTo { .. }
            | Expr::Like { escape_char: Some(_), .. }
            | Expr::ILike { escape_char: Some(_), .. } => {
                let at = location_of(expr.span());
                match patterns::plain(expr) {
                    Ok(plain) => *expr = plain,
                    Err(error) => return ControlFlow::Break(Box::new(error.at(at))),
                }
            }
            Expr::Value(value) if is_huge(&value.value) => {
                let text = value.value.to_string();
                let exact = ExactNumberInfo::PrecisionAndScale(u64::from(DIGITS_MAX), 0);
                *expr = unnamed(cast(Expr::value(Value::SingleQuotedString(text)), DataType::Numeric(exact)));
            }
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
                *expr = unnamed(cast(Expr::value(Value::SingleQuotedString(text)), DataType::DoublePrecision));
            }
            Expr::Case { conditions, else_result, .. } => {
                conditions.iter_mut().for_each(|when| narrow(&mut when.result));
                else_result.iter_mut().for_each(|result| narrow(result));
            }
            // psql asks for some of PostgreSQL's catalog, over tables that are empty here.
            Expr::Function(Function { args: FunctionArguments::Subquery(query), name, .. })
                if !query.to_string().contains("pg_catalog.") =>
            {
                let error = Error::unsupported(format!("{}(SELECT …)", name.to_string().to_uppercase()));
                return ControlFlow::Break(Box::new(error.at(location_of(query.span()))));
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

pub(super) fn cast(expr: Expr, data_type: DataType) -> Expr {
    Expr::Cast { kind: CastKind::DoubleColon, expr: Box::new(expr), data_type, format: None, array: false }
}

/// A column of a bare number has no name, where that of a cast has one.
fn unnamed(expr: Expr) -> Expr {
    Expr::UnaryOp { op: UnaryOperator::Plus, expr: Box::new(expr) }
}

/// A whole number beyond 64 bits.
fn is_huge(value: &Value) -> bool {
    matches!(value, Value::Number(text, _)
        if text.bytes().all(|b| b.is_ascii_digit()) && text.len() > 18 && text.parse::<i64>().is_err())
}

/// A minus binds tighter than `^`: `-2 ^ 2` is 4.
fn bind_minus(expr: &mut Expr) {
    let Expr::UnaryOp { expr: inner, .. } = expr else { return };
    let mut base = inner.as_mut();
    if !matches!(base, Expr::BinaryOp { op: BinaryOperator::PGExp, .. }) {
        return;
    }
    while let Expr::BinaryOp { left, op: BinaryOperator::PGExp, .. } = base {
        base = left.as_mut();
    }
    let number = std::mem::replace(base, Expr::value(Value::Null));
    *base = Expr::UnaryOp { op: UnaryOperator::Minus, expr: Box::new(number) };
    *expr = std::mem::replace(inner.as_mut(), Expr::value(Value::Null));
}

/// An interval in the words that DataFusion reads.
fn plain_interval(interval: &mut Interval) -> Result<()> {
    let Expr::Value(value) = interval.value.as_mut() else { return Ok(()) };
    let (Value::SingleQuotedString(text), None) = (&value.value, &interval.last_field) else { return Ok(()) };
    let text = match &interval.leading_field {
        Some(field) if text.trim().parse::<f64>().is_ok() => format!("{text} {field}"),
        _ => text.clone(),
    };
    let (months, days, us) = super::read::interval(&text)?;
    value.value = Value::SingleQuotedString(format!("{months} months {days} days {us} microseconds"));
    interval.leading_field = None;
    Ok(())
}

/// Set operations that DataFusion would not count right.
fn refused_operation(body: &SetExpr) -> Option<&'static str> {
    match body {
        SetExpr::SetOperation { op, set_quantifier, left, right } => match (op, set_quantifier) {
            (SetOperator::Except, SetQuantifier::All) => Some("EXCEPT ALL"),
            (SetOperator::Intersect, SetQuantifier::All) => Some("INTERSECT ALL"),
            _ => refused_operation(left).or_else(|| refused_operation(right)),
        },
        _ => None,
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
        *expr = cast(expr.clone(), DataType::Integer(None));
    }
}

/// Gives every column of the list a name of its own: what PostgreSQL would call it, numbered where that is taken.
fn name_columns(select: &mut Select) {
    let mut taken = HashSet::new();
    let mut count = 0;
    for item in &mut select.projection {
        let named = match item {
            SelectItem::UnnamedExpr(expr) => column_name(expr),
            _ => None,
        };
        if let SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } = item {
            unnest_series(expr);
        }
        match item {
            SelectItem::ExprWithAlias { expr, alias } => {
                narrow(expr);
                if !taken.insert(fold(alias)) {
                    count += 1;
                    *alias = numbered(&fold(alias), count);
                }
            }
            SelectItem::UnnamedExpr(expr) => {
                let is_column = matches!(expr, Expr::Identifier(_) | Expr::CompoundIdentifier(_));
                let name = named.unwrap_or_else(|| "?column?".to_string());
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

/// `name(args, …)`, nothing more to it.
pub(super) fn call(name: &str, args: impl IntoIterator<Item = Expr>) -> Expr {
    let args = args.into_iter().map(|arg| FunctionArg::Unnamed(FunctionArgExpr::Expr(arg))).collect();
    Expr::Function(Function {
        name: ObjectName::from(Ident::new(name)),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: FunctionArguments::List(FunctionArgumentList { duplicate_treatment: None, args, clauses: Vec::new() }),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: Vec::new(),
    })
}

/// A series in a list of columns is rows; DataFusion's is an array.
fn unnest_series(expr: &mut Expr) {
    let Expr::Function(function) = &*expr else { return };
    if function.name.to_string().eq_ignore_ascii_case("generate_series") {
        let series = std::mem::replace(expr, Expr::value(Value::Null));
        *expr = call("unnest", [series]);
    }
}

/// PostgreSQL's name for a column without one; `None` is `?column?`.
fn column_name(expr: &Expr) -> Option<String> {
    name_and_strength(expr).map(|(name, _)| name)
}

/// The name, and whether it is one that a cast around it keeps: of a column or a function, not of a type.
fn name_and_strength(expr: &Expr) -> Option<(String, bool)> {
    let weak = |name: Option<String>| name.map(|name| (name, false));
    let strong = |name: Option<String>| name.map(|name| (name, true));
    let fixed = |name: &str| strong(Some(name.to_string()));
    match expr {
        Expr::Identifier(ident) => strong(Some(fold(ident))),
        Expr::CompoundIdentifier(parts) => strong(parts.last().map(fold)),
        Expr::Nested(inner) | Expr::Collate { expr: inner, .. } => name_and_strength(inner),
        Expr::CompoundFieldAccess { root, access_chain } => {
            let subscripts = access_chain.iter().all(|access| matches!(access, AccessExpr::Subscript(_)));
            if subscripts { name_and_strength(root) } else { None }
        }
        Expr::Function(function) => strong(function.name.0.last()?.as_ident().map(fold)),
        Expr::Cast { expr, data_type, .. } => {
            name_and_strength(expr).filter(|(_, strong)| *strong).or_else(|| weak(type_name(data_type)))
        }
        Expr::TypedString(typed) => weak(type_name(&typed.data_type)),
        Expr::Case { else_result, .. } => {
            let named = else_result.as_ref().and_then(|result| name_and_strength(result));
            named.filter(|(_, strong)| *strong).or_else(|| weak(Some("case".to_string())))
        }
        Expr::Extract { .. } => fixed("extract"),
        Expr::Substring { shorthand: true, .. } => fixed("substr"),
        Expr::Substring { .. } => fixed("substring"),
        Expr::Position { .. } => fixed("position"),
        Expr::Trim { trim_where: Some(TrimWhereField::Leading), .. } => fixed("ltrim"),
        Expr::Trim { trim_where: Some(TrimWhereField::Trailing), .. } => fixed("rtrim"),
        Expr::Trim { .. } => fixed("btrim"),
        Expr::Ceil { .. } => fixed("ceil"),
        Expr::Floor { .. } => fixed("floor"),
        Expr::Overlay { .. } => fixed("overlay"),
        Expr::AtTimeZone { .. } => fixed("timezone"),
        Expr::Interval(_) => weak(Some("interval".to_string())),
        Expr::Exists { .. } => fixed("exists"),
        Expr::Array(_) => fixed("array"),
        Expr::Subquery(query) => match query.body.as_ref() {
            SetExpr::Select(select) => match select.projection.first()? {
                SelectItem::UnnamedExpr(expr) => strong(column_name(expr)),
                SelectItem::ExprWithAlias { alias, .. } => strong(Some(fold(alias))),
                _ => None,
            },
            _ => None,
        },
        _ => None,
    }
}

/// PostgreSQL's internal name of a type, which an unnamed cast is called by.
fn type_name(data_type: &DataType) -> Option<String> {
    if matches!(data_type, DataType::Interval { .. }) {
        return Some("interval".to_string());
    }
    if matches!(data_type, DataType::Varchar(_) | DataType::CharacterVarying(_) | DataType::CharVarying(_)) {
        return Some("varchar".to_string());
    }
    if matches!(data_type, DataType::Char(_) | DataType::Character(_)) {
        return Some("bpchar".to_string());
    }
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
        rewrite(&mut query).expect(text);
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
