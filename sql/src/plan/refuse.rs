//! What a view cannot have, refused by name at its place, before anything is planned.

use std::collections::HashSet;
use std::ops::ControlFlow;

use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::Volatility;
use datafusion::sql::sqlparser::ast::{
    self, DuplicateTreatment, Expr, Function, FunctionArguments, JoinOperator, LimitClause, ObjectName, Select,
    SelectItem, SetExpr, SetOperator, Spanned, TableFactor, Value, Visit, Visitor,
};

use crate::error::{Error, Location, Result, location_of, sqlstate};
use crate::parse::{Name, Query, fold};

/// Functions over windows of time, in all their forms.
const WINDOWS: &[&str] = &["tumble", "hop", "cumulate", "session"];
/// Functions whose value is not one of the rows alone.
const VOLATILE: &[&str] = &[
    "now",
    "current_timestamp",
    "current_date",
    "current_time",
    "localtime",
    "localtimestamp",
    "today",
    "statement_timestamp",
    "transaction_timestamp",
    "clock_timestamp",
    "timeofday",
    "random",
    "uuid",
    "gen_random_uuid",
    "nextval",
    "current_user",
    "session_user",
    "current_database",
    "version",
];

const VOLATILE_HINT: &str = "a view depends on its rows alone: put it into the SELECT that reads the view";
/// Aggregates that can take rows back.
const AGGREGATES: &[&str] = &["count", "sum", "avg", "min", "max"];

/// Refuses the first thing in `query` that views do not have.
pub fn check(query: &Query) -> Result<()> {
    match query.ast.visit(&mut Refuser) {
        ControlFlow::Break(error) => Err(*error),
        ControlFlow::Continue(()) => Ok(()),
    }
}

/// Refuses functions that need more than a row, and aggregates without an incremental form, at their place.
pub fn check_functions(query: &Query, state: &SessionState) -> Result<()> {
    match query.ast.visit(&mut FunctionRefuser(state)) {
        ControlFlow::Break(error) => Err(*error),
        ControlFlow::Continue(()) => Ok(()),
    }
}

struct FunctionRefuser<'a>(&'a SessionState);

impl Visitor for FunctionRefuser<'_> {
    type Break = Box<Error>;

    fn pre_visit_expr(&mut self, expr: &Expr) -> Flow {
        let Expr::Function(function) = expr else { return ControlFlow::Continue(()) };
        let name = function.name.to_string().to_lowercase();
        if self.0.aggregate_functions().contains_key(&name) && !AGGREGATES.contains(&name.as_str()) {
            let hint = format!("{} are supported", AGGREGATES.join(", "));
            return refuse_with(format!("the aggregate function {name}"), &function.name, &hint);
        }
        match self.0.scalar_functions().get(&name) {
            Some(known) if known.signature().volatility != Volatility::Immutable => {
                refuse_with(format!("the function {name}"), &function.name, VOLATILE_HINT)
            }
            _ => ControlFlow::Continue(()),
        }
    }
}

/// The relations that `query` names, each once, in the order they stand; names of its own CTEs are left out.
pub fn relations(query: &Query) -> Vec<Name> {
    let mut found = Relations::default();
    let _ = query.ast.visit(&mut found);
    let Relations { mut names, ctes } = found;
    let mut seen = HashSet::new();
    names.retain(|n| !(n.parts.len() == 1 && ctes.contains(&n.parts[0])) && seen.insert(n.parts.clone()));
    names
}

/// Where the one join of a query stands; `None` when there are several: which of them is meant, its plan does not tell.
pub fn only_join(query: &Query) -> Option<Location> {
    struct Joins(Vec<Option<Location>>);
    impl Visitor for Joins {
        type Break = ();
        fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<()> {
            let listed = select.from.iter().skip(1).map(|from| &from.relation);
            let joined = select.from.iter().flat_map(|from| &from.joins).map(|join| &join.relation);
            self.0.extend(listed.chain(joined).map(|relation| location_of(relation.span())));
            ControlFlow::Continue(())
        }
    }
    let mut joins = Joins(Vec::new());
    let _ = query.ast.visit(&mut joins);
    match joins.0.as_slice() {
        [join] => *join,
        _ => None,
    }
}

/// Where the query's column of this index stands, when it is written out.
pub fn column_location(query: &Query, index: usize) -> Option<Location> {
    let SetExpr::Select(select) = query.ast.body.as_ref() else { return None };
    let written = |item: &SelectItem| matches!(item, SelectItem::UnnamedExpr(_) | SelectItem::ExprWithAlias { .. });
    let items = select.projection.get(..=index).filter(|items| items.iter().all(written))?;
    location_of(items.last()?.span())
}

#[derive(Default)]
struct Relations {
    names: Vec<Name>,
    ctes: HashSet<String>,
}

impl Visitor for Relations {
    type Break = ();

    fn pre_visit_query(&mut self, query: &ast::Query) -> ControlFlow<()> {
        if let Some(with) = &query.with {
            self.ctes.extend(with.cte_tables.iter().map(|cte| fold(&cte.alias.name)));
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_relation(&mut self, relation: &ObjectName) -> ControlFlow<()> {
        let parts: Vec<String> = relation.0.iter().filter_map(|p| p.as_ident()).map(fold).collect();
        self.names.push(Name { parts, location: location_of(relation.span()) });
        ControlFlow::Continue(())
    }
}

struct Refuser;

type Flow = ControlFlow<Box<Error>>;

fn refuse(what: impl std::fmt::Display, at: &impl Spanned) -> Flow {
    ControlFlow::Break(Box::new(in_view(what).at(location_of(at.span()))))
}

fn refuse_with(what: impl std::fmt::Display, at: &impl Spanned, hint: &str) -> Flow {
    ControlFlow::Break(Box::new(in_view(what).at(location_of(at.span())).hint(hint)))
}

fn in_view(what: impl std::fmt::Display) -> Error {
    Error::new(sqlstate::FEATURE_NOT_SUPPORTED, format!("{what} is not supported in a materialized view"))
}

impl Visitor for Refuser {
    type Break = Box<Error>;

    fn pre_visit_query(&mut self, query: &ast::Query) -> Flow {
        if let Some(with) = query.with.as_ref().filter(|with| with.recursive) {
            return refuse("WITH RECURSIVE", with);
        }
        if let Some(order_by) = &query.order_by {
            return refuse_with(
                "ORDER BY",
                order_by,
                "a view is a set of rows: put ORDER BY into the SELECT that reads it",
            );
        }
        const LIMIT_HINT: &str = "put LIMIT into the SELECT that reads the view";
        match &query.limit_clause {
            Some(LimitClause::LimitOffset { limit: Some(limit), .. }) => {
                return refuse_with("LIMIT", limit, LIMIT_HINT);
            }
            Some(LimitClause::LimitOffset { offset: Some(offset), .. }) => {
                return refuse_with("OFFSET", &offset.value, LIMIT_HINT);
            }
            Some(other) => return refuse_with("LIMIT", other, LIMIT_HINT),
            None => {}
        }
        if let Some(fetch) = &query.fetch {
            return refuse_with("FETCH", fetch, LIMIT_HINT);
        }
        if !query.locks.is_empty() {
            return refuse("FOR UPDATE", query);
        }
        set_expression(&query.body)
    }

    fn pre_visit_select(&mut self, select: &Select) -> Flow {
        if let Some(ast::Distinct::On(columns)) = &select.distinct {
            return match columns.first() {
                Some(first) => refuse("DISTINCT ON", first),
                None => refuse("DISTINCT ON", select),
            };
        }
        if let Some(qualify) = &select.qualify {
            return refuse("QUALIFY", qualify);
        }
        if let Some(window) = select.named_window.first() {
            return refuse("WINDOW", window);
        }
        if select.from.is_empty() {
            return refuse("SELECT without FROM", select);
        }
        for from in &select.from {
            for join in &from.joins {
                if let Some(name) = refused_join(&join.join_operator) {
                    return refuse_with(name, &join.relation, "inner joins on equal columns are supported");
                }
            }
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> Flow {
        match factor {
            TableFactor::Table { name, args: Some(_), .. } | TableFactor::Function { name, .. } => {
                table_function(&name.to_string(), factor)
            }
            TableFactor::TableFunction { expr: Expr::Function(function), .. } => {
                table_function(&function.name.to_string(), factor)
            }
            TableFactor::Table { version: Some(_), .. } => refuse("FOR SYSTEM_TIME AS OF", factor),
            TableFactor::Table { sample: Some(_), .. } => refuse("TABLESAMPLE", factor),
            TableFactor::Derived { lateral: true, .. } => refuse("LATERAL", factor),
            TableFactor::Table { .. } | TableFactor::Derived { .. } | TableFactor::NestedJoin { .. } => {
                ControlFlow::Continue(())
            }
            TableFactor::UNNEST { .. } => refuse("UNNEST", factor),
            TableFactor::Pivot { .. } => refuse("PIVOT", factor),
            TableFactor::Unpivot { .. } => refuse("UNPIVOT", factor),
            TableFactor::MatchRecognize { .. } => refuse("MATCH_RECOGNIZE", factor),
            _ => refuse("this table expression", factor),
        }
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> Flow {
        const JOIN_HINT: &str = "write it as a join, or as a view of its own";
        match expr {
            Expr::Subquery(_) => refuse_with("a subquery as a value", expr, JOIN_HINT),
            Expr::Exists { .. } => refuse_with("EXISTS", expr, JOIN_HINT),
            Expr::InSubquery { .. } => refuse_with("IN (SELECT …)", expr, JOIN_HINT),
            Expr::AnyOp { right, .. } | Expr::AllOp { right, .. } if matches!(right.as_ref(), Expr::Subquery(_)) => {
                refuse_with("a comparison with ANY or ALL of a subquery", expr, JOIN_HINT)
            }
            Expr::Rollup(_) => refuse("ROLLUP", expr),
            Expr::Cube(_) => refuse("CUBE", expr),
            Expr::GroupingSets(_) => refuse("GROUPING SETS", expr),
            Expr::Function(function) => check_function(function),
            Expr::Value(value) => match &value.value {
                Value::Placeholder(name) => {
                    let error = Error::new(sqlstate::UNDEFINED_PARAMETER, format!("there is no parameter {name}"));
                    ControlFlow::Break(Box::new(error.at(location_of(value.span))))
                }
                _ => ControlFlow::Continue(()),
            },
            _ => ControlFlow::Continue(()),
        }
    }
}

fn set_expression(body: &SetExpr) -> Flow {
    match body {
        SetExpr::SetOperation { op, left, right, .. } => {
            if *op != SetOperator::Union {
                return refuse(op, body);
            }
            set_expression(left)?;
            set_expression(right)
        }
        SetExpr::Values(_) => refuse_with("VALUES", body, "put the rows into a table with INSERT"),
        _ => ControlFlow::Continue(()),
    }
}

fn refused_join(operator: &JoinOperator) -> Option<&'static str> {
    Some(match operator {
        JoinOperator::Join(_) | JoinOperator::Inner(_) | JoinOperator::CrossJoin(_) => return None,
        JoinOperator::Left(_) | JoinOperator::LeftOuter(_) => "LEFT JOIN",
        JoinOperator::Right(_) | JoinOperator::RightOuter(_) => "RIGHT JOIN",
        JoinOperator::FullOuter(_) => "FULL JOIN",
        JoinOperator::Semi(_) | JoinOperator::LeftSemi(_) | JoinOperator::RightSemi(_) => "SEMI JOIN",
        JoinOperator::Anti(_) | JoinOperator::LeftAnti(_) | JoinOperator::RightAnti(_) => "ANTI JOIN",
        JoinOperator::AsOf { .. } => "ASOF JOIN",
        _ => "this kind of join",
    })
}

fn table_function(name: &str, at: &TableFactor) -> Flow {
    match WINDOWS.iter().find(|w| name.eq_ignore_ascii_case(w)) {
        Some(_) => refuse(format!("the window {}", name.to_uppercase()), at),
        None => refuse(format!("the table function {name}"), at),
    }
}

fn check_function(function: &Function) -> Flow {
    let name = function.name.to_string().to_lowercase();
    if function.over.is_some() {
        return refuse(format!("{name} OVER (…)"), &function.name);
    }
    if WINDOWS.contains(&name.as_str()) {
        return refuse(format!("the window {}", name.to_uppercase()), &function.name);
    }
    if VOLATILE.contains(&name.as_str()) {
        return refuse_with(format!("the function {name}"), &function.name, VOLATILE_HINT);
    }
    if !function.within_group.is_empty() {
        return refuse("WITHIN GROUP", &function.name);
    }
    if let FunctionArguments::List(list) = &function.args {
        if list.duplicate_treatment == Some(DuplicateTreatment::Distinct) {
            let hint = "group by the column in a view of its own, then aggregate that";
            return refuse_with(format!("{name}(DISTINCT …)"), &function.name, hint);
        }
        if list.clauses.iter().any(|c| matches!(c, ast::FunctionArgumentClause::OrderBy(_))) {
            return refuse(format!("ORDER BY in {name}(…)"), &function.name);
        }
    }
    ControlFlow::Continue(())
}
