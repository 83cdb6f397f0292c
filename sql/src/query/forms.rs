//! [`settle`]: forms of PostgreSQL that DataFusion plans wrongly or not at all, said in others: comparisons with all or
//! any rows of a subquery, `FETCH FIRST`. Locks are refused by name.

use std::ops::ControlFlow;

use arrow::datatypes::DataType;
use datafusion::sql::sqlparser::ast::{
    self, BinaryOperator, Expr, FunctionArg, FunctionArgExpr, FunctionArguments, GroupByExpr, Ident, LimitClause,
    LockType, Query, Select, SelectItem, SetExpr, TableFactor, Value, VisitMut, VisitorMut,
};

use crate::error::{Error, Result, sqlstate};
use crate::parse;

/// Rewrites `query` in place.
pub fn settle(query: &mut Query) -> Result<()> {
    match query.visit(&mut Settler) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(error) => Err(*error),
    }
}

struct Settler;

type Flow = ControlFlow<Box<Error>>;

fn flow(result: Result<()>) -> Flow {
    match result {
        Ok(()) => ControlFlow::Continue(()),
        Err(error) => ControlFlow::Break(Box::new(error)),
    }
}

impl VisitorMut for Settler {
    type Break = Box<Error>;

    fn pre_visit_query(&mut self, query: &mut Query) -> Flow {
        flow(locks(query).and_then(|()| fetch(query)))
    }

    fn pre_visit_select(&mut self, select: &mut Select) -> Flow {
        for item in &mut select.projection {
            if let SelectItem::UnnamedExpr(expr @ Expr::Exists { .. }) = item {
                let (expr, alias) = (expr.clone(), Ident::with_quote('"', "exists"));
                *item = SelectItem::ExprWithAlias { expr, alias };
            }
            if let SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } = item {
                let _ = expr.visit(&mut ExistsAsValue { depth: 0 });
            }
        }
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> Flow {
        let (left, op, right, all) = match &*expr {
            Expr::AnyOp { left, compare_op, right, .. } => (left, compare_op, right, false),
            Expr::AllOp { left, compare_op, right } => (left, compare_op, right, true),
            _ => return ControlFlow::Continue(()),
        };
        let Expr::Subquery(query) = right.as_ref() else { return ControlFlow::Continue(()) };
        match compared(left, op, query, all) {
            Ok(new) => {
                *expr = new;
                ControlFlow::Continue(())
            }
            Err(error) => ControlFlow::Break(Box::new(error)),
        }
    }
}

/// `EXISTS (query)` as a value is `(SELECT count(*) …) > 0`: the planner knows it as a condition only.
struct ExistsAsValue {
    /// How deep in subqueries.
    depth: usize,
}

impl VisitorMut for ExistsAsValue {
    type Break = ();

    fn pre_visit_query(&mut self, _: &mut Query) -> ControlFlow<()> {
        self.depth += 1;
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _: &mut Query) -> ControlFlow<()> {
        self.depth -= 1;
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if let (0, Expr::Exists { subquery, negated }) = (self.depth, &*expr)
            && let Some(count) = counted(subquery)
        {
            let op = if *negated { BinaryOperator::Eq } else { BinaryOperator::Gt };
            let zero = Box::new(Expr::Value(Value::Number("0".into(), false).into()));
            let compared = Expr::BinaryOp { left: Box::new(Expr::Subquery(Box::new(count))), op, right: zero };
            *expr = Expr::Nested(Box::new(compared));
        }
        ControlFlow::Continue(())
    }
}

/// `SELECT count(*)` of what a plain query selects from.
fn counted(query: &Query) -> Option<Query> {
    let SetExpr::Select(select) = query.body.as_ref() else { return None };
    if !is_plain(query, select) {
        return None;
    }
    let template = parse::parse_query("SELECT count(*)").ok()?;
    let SetExpr::Select(count) = *template.ast.body else { return None };
    let (mut out, mut select) = (query.clone(), select.clone());
    select.projection = count.projection;
    select.distinct = None;
    out.order_by = None;
    *out.body = SetExpr::Select(select);
    Some(out)
}

fn locks(query: &Query) -> Result<()> {
    let Some(lock) = query.locks.first() else { return Ok(()) };
    let what = match lock.lock_type {
        LockType::Share => "FOR SHARE",
        _ => "FOR UPDATE",
    };
    Err(Error::unsupported(what).hint("a SELECT reads one state and locks nothing: leave the clause out"))
}

/// `FETCH FIRST n ROWS ONLY` is `LIMIT n`.
fn fetch(query: &mut Query) -> Result<()> {
    let Some(fetch) = query.fetch.take() else { return Ok(()) };
    if fetch.with_ties || fetch.percent {
        let what = if fetch.percent { "FETCH FIRST … PERCENT" } else { "FETCH FIRST … WITH TIES" };
        return Err(Error::unsupported(what));
    }
    let one = || Expr::Value(Value::Number("1".into(), false).into());
    let rows = fetch.quantity.unwrap_or_else(one);
    match &mut query.limit_clause {
        None => {
            query.limit_clause = Some(LimitClause::LimitOffset { limit: Some(rows), offset: None, limit_by: vec![] })
        }
        Some(LimitClause::LimitOffset { limit: limit @ None, .. }) => *limit = Some(rows),
        Some(_) => return Err(Error::new(sqlstate::SYNTAX_ERROR, "multiple LIMIT clauses not allowed")),
    }
    Ok(())
}

/// `left op ALL (query)` or `left op ANY (query)`, by the extremes of the query's column, its rows and its nulls.
fn compared(left: &Expr, op: &BinaryOperator, query: &Query, all: bool) -> Result<Expr> {
    use BinaryOperator::{Eq, Gt, GtEq, Lt, LtEq, NotEq};
    let in_rows =
        |negated| Expr::InSubquery { expr: Box::new(left.clone()), subquery: Box::new(query.clone()), negated };
    let with = |bound: &str| format!("x {op} (SELECT {bound}(c) FROM q AS s (c))");
    let decides = match (op, all) {
        (Eq, false) => return Ok(in_rows(false)),
        (NotEq, true) => return Ok(in_rows(true)),
        (Eq, true) => format!("NOT ({} AND {})", with("min"), with("max")),
        (NotEq, false) => format!("({} OR {})", with("min"), with("max")),
        (Gt | GtEq, true) => format!("NOT ({})", with("max")),
        (Lt | LtEq, true) => format!("NOT ({})", with("min")),
        (Gt | GtEq, false) => with("min"),
        (Lt | LtEq, false) => with("max"),
        _ => return Err(Error::unsupported(format!("{op} {} (SELECT …)", if all { "ALL" } else { "ANY" }))),
    };
    let text = format!(
        "SELECT CASE WHEN (SELECT count(*) FROM q AS s (c)) = 0 THEN {all} \
                     WHEN {decides} THEN {} \
                     WHEN x IS NULL OR (SELECT count(*) - count(c) FROM q AS s (c)) > 0 THEN NULL \
                     ELSE {all} END",
        !all
    );
    let mut template = parse::parse_query(&text)?;
    let _ = template.ast.visit(&mut Fill { left, query });
    match *template.ast.body {
        SetExpr::Select(mut select) => match select.projection.pop() {
            Some(SelectItem::UnnamedExpr(expr)) => Ok(Expr::Nested(Box::new(expr))),
            _ => Err(Error::bug("a template of one expression")),
        },
        _ => Err(Error::bug("a template of one expression")),
    }
}

/// Puts the operands in the places of `x` and `q`. What is put in is not visited: only names after it are.
struct Fill<'a> {
    left: &'a Expr,
    query: &'a Query,
}

impl VisitorMut for Fill<'_> {
    type Break = ();

    /// `SELECT max(c) FROM q AS s (c)` over a plain query is its own select with `max(…)`: there it may rest on columns
    /// from outside.
    fn post_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
        let Some((mut select, column)) = plain_column(self.query) else { return ControlFlow::Continue(()) };
        let SetExpr::Select(template) = query.body.as_mut() else { return ControlFlow::Continue(()) };
        if template.from.is_empty() {
            return ControlFlow::Continue(());
        }
        select.projection = std::mem::take(&mut template.projection);
        select.projection.iter_mut().for_each(|item| {
            let _ = item.visit(&mut Column(&column));
        });
        *query.body = SetExpr::Select(select);
        ControlFlow::Continue(())
    }

    fn post_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<()> {
        if let TableFactor::Table { name, alias, .. } = factor
            && name.to_string() == "q"
        {
            let (subquery, alias) = (Box::new(self.query.clone()), alias.take());
            *factor = TableFactor::Derived { lateral: false, subquery, alias, sample: None };
        }
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if matches!(expr, Expr::Identifier(Ident { value, .. }) if value == "x") {
            *expr = Expr::Nested(Box::new(self.left.clone()));
        }
        ControlFlow::Continue(())
    }
}

/// Puts the query's column in the place of `c`.
struct Column<'a>(&'a Expr);

impl VisitorMut for Column<'_> {
    type Break = ();

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if matches!(expr, Expr::Identifier(Ident { value, .. }) if value == "c") {
            *expr = self.0.clone();
        }
        ControlFlow::Continue(())
    }
}

/// A select of one column, row by row: nothing grouped, counted or cut off.
fn plain_column(query: &Query) -> Option<(Box<Select>, Expr)> {
    struct Called;
    impl ast::Visitor for Called {
        type Break = ();
        fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
            if matches!(expr, Expr::Function(_)) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        }
    }
    let SetExpr::Select(select) = query.body.as_ref() else { return None };
    let [SelectItem::UnnamedExpr(column) | SelectItem::ExprWithAlias { expr: column, .. }] =
        select.projection.as_slice()
    else {
        return None;
    };
    if !is_plain(query, select) || query.with.is_some() || ast::Visit::visit(column, &mut Called).is_break() {
        return None;
    }
    let mut rows = select.clone();
    // Neither extremes nor whether there are rows or nulls change by it.
    rows.distinct = None;
    Some((rows, column.clone()))
}

fn is_plain(query: &Query, select: &Select) -> bool {
    let grouped = !matches!(&select.group_by, GroupByExpr::Expressions(list, _) if list.is_empty());
    !grouped && select.having.is_none() && query.limit_clause.is_none() && query.fetch.is_none()
}

/// Parameters that stand for an array: `x = ANY ($1)`.
#[derive(Default)]
pub struct ArrayParameters(pub Vec<String>);

impl ArrayParameters {
    /// Those of `query`, which is left saying `x = $1`: planned that way it tells the type of the elements.
    pub fn of_elements(query: &mut Query) -> Self {
        let mut found = Self::default();
        let _ = query.visit(&mut found);
        found
    }

    pub fn has(&self, id: &str) -> bool {
        self.0.iter().any(|own| own == id)
    }

    pub fn array_of(element: &DataType) -> DataType {
        DataType::List(std::sync::Arc::new(arrow::datatypes::Field::new("item", element.clone(), true)))
    }
}

impl VisitorMut for ArrayParameters {
    type Break = ();

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        let (left, right) = match &*expr {
            Expr::AnyOp { left, right, .. } | Expr::AllOp { left, right, .. } => (left.as_ref(), right.as_ref()),
            // As `= ANY` is written by then.
            Expr::Function(function) if function.name.to_string() == "array_has" => match &function.args {
                FunctionArguments::List(list) => match list.args.as_slice() {
                    [
                        FunctionArg::Unnamed(FunctionArgExpr::Expr(array)),
                        FunctionArg::Unnamed(FunctionArgExpr::Expr(element)),
                    ] => (element, array),
                    _ => return ControlFlow::Continue(()),
                },
                _ => return ControlFlow::Continue(()),
            },
            _ => return ControlFlow::Continue(()),
        };
        if let Some(id) = placeholder(right) {
            self.0.push(id);
            let (left, right) = (Box::new(left.clone()), Box::new(right.clone()));
            *expr = Expr::Nested(Box::new(Expr::BinaryOp { left, op: BinaryOperator::Eq, right }));
        }
        ControlFlow::Continue(())
    }
}

fn placeholder(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Nested(inner) => placeholder(inner),
        Expr::Value(ast::ValueWithSpan { value: Value::Placeholder(id), .. }) => Some(id.clone()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expect: Result<&str, &str>) {
        let mut query = parse::parse_query(text).expect(text).ast;
        let got = settle(&mut query).map(|()| query.to_string()).map_err(|e| format!("{} {}", e.code, e.message));
        assert_eq!(got, expect.map(str::to_owned).map_err(str::to_owned), "{text}");
    }

    #[test]
    fn forms() {
        check("SELECT a FROM t FETCH FIRST 3 ROWS ONLY", Ok("SELECT a FROM t LIMIT 3"));
        check("SELECT a FROM t OFFSET 2 FETCH NEXT ROW ONLY", Ok("SELECT a FROM t LIMIT 1 OFFSET 2"));
        check("SELECT a FROM t FETCH FIRST 3 ROWS WITH TIES", Err("0A000 FETCH FIRST … WITH TIES is not supported"));
        check(
            "SELECT NOT EXISTS (SELECT 1 FROM u WHERE u.a = t.a) AS x FROM t",
            Ok("SELECT ((SELECT count(*) FROM u WHERE u.a = t.a) = 0) AS x FROM t"),
        );
        check("SELECT a FROM t FOR UPDATE", Err("0A000 FOR UPDATE is not supported"));
        check("SELECT 1 WHERE a IN (SELECT b FROM t FOR SHARE)", Err("0A000 FOR SHARE is not supported"));
        check(
            "SELECT a FROM t WHERE a <> ALL (SELECT b FROM u)",
            Ok("SELECT a FROM t WHERE a NOT IN (SELECT b FROM u)"),
        );
        check("SELECT a FROM t WHERE a = ANY (SELECT b FROM u)", Ok("SELECT a FROM t WHERE a IN (SELECT b FROM u)"));
        check(
            "SELECT a FROM t WHERE a > ALL (SELECT b FROM u)",
            Ok("SELECT a FROM t WHERE (CASE WHEN (SELECT count(*) FROM u) = 0 THEN true \
                WHEN NOT ((a) > (SELECT max(b) FROM u)) THEN false \
                WHEN (a) IS NULL OR (SELECT count(*) - count(b) FROM u) > 0 THEN NULL \
                ELSE true END)"),
        );
    }
}
