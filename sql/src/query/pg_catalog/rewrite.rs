//! What clients write to the catalog, in forms that DataFusion plans: operators and functions named with their schema,
//! collations, `::regclass`, `= ANY (…)`, and subqueries over tables that never have rows.

use std::ops::ControlFlow;
use std::sync::{Arc, OnceLock};

use datafusion::sql::sqlparser::ast::{
    self, BinaryOperator, Expr, FunctionArguments, Ident, ObjectName, ObjectNamePart, Query, Select, SelectItem,
    SetExpr, TableFactor, Value, VisitMut, VisitorMut,
};

use super::functions::OF_WORLD;
use super::tables::{World, is_empty};
use crate::error::{Error, Result, sqlstate};
use crate::query::pgtype;

/// The world, made when somebody asks for it: most statements never do.
pub struct Facts {
    make: Box<dyn Fn() -> World + Send + Sync>,
    made: OnceLock<Arc<World>>,
}

impl Facts {
    pub fn new(make: impl Fn() -> World + Send + Sync + 'static) -> Self {
        Self { make: Box::new(make), made: OnceLock::new() }
    }

    pub fn world(&self) -> &Arc<World> {
        self.made.get_or_init(|| Arc::new((self.make)()))
    }

    /// The world, when the statement has to do with it.
    pub fn used(&self) -> Option<&Arc<World>> {
        self.made.get()
    }
}

/// Rewrites `query` in place.
pub fn rewrite(query: &mut Query, facts: &Facts) -> Result<()> {
    let mut rewriter = Rewriter { facts, in_catalog: false };
    match query.visit(&mut rewriter) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(error) => Err(*error),
    }
}

struct Rewriter<'a> {
    facts: &'a Facts,
    /// Whether a table of the catalog has been met.
    in_catalog: bool,
}

type Flow = ControlFlow<Box<Error>>;

impl VisitorMut for Rewriter<'_> {
    type Break = Box<Error>;

    fn pre_visit_query(&mut self, query: &mut Query) -> Flow {
        table_query(query);
        empty_query(query);
        Flow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> Flow {
        if let TableFactor::Table { name, args, .. } = factor {
            if args.is_some() {
                strip_schema(name);
            } else if catalog_table(name).is_some() {
                self.facts.world();
                self.in_catalog = true;
            }
        }
        Flow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> Flow {
        // Before the visitor goes into them: what would be inside is gone.
        if let Some(new) = empty_subquery(expr) {
            *expr = new;
        }
        Flow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> Flow {
        match self.expression(expr) {
            Ok(Some(new)) => *expr = new,
            Ok(None) => {}
            Err(error) => return Flow::Break(Box::new(error)),
        }
        Flow::Continue(())
    }
}

impl Rewriter<'_> {
    fn expression(&self, expr: &mut Expr) -> Result<Option<Expr>> {
        Ok(match expr {
            Expr::Collate { expr, .. } => Some((**expr).clone()),
            Expr::BinaryOp { op, .. } => {
                if let BinaryOperator::PGCustomBinaryOperator(parts) = op
                    && let Some(plain) = parts.last().and_then(|name| operator(name))
                {
                    *op = plain;
                }
                None
            }
            Expr::Function(function) => {
                strip_schema(&mut function.name);
                let name = last(&function.name).unwrap_or_default();
                if OF_WORLD.contains(&name.as_str()) {
                    self.facts.world();
                }
                match (name.as_str(), only_argument(function).and_then(literal)) {
                    ("to_regtype", Some(name)) => {
                        Some(type_oid(&name).map_or_else(null, |oid| number(&oid.to_string())))
                    }
                    ("to_regclass", Some(name)) => {
                        Some(self.facts.world().oid_of(&name).map_or_else(null, |oid| number(&oid.to_string())))
                    }
                    _ => None,
                }
            }
            Expr::Cast { expr, data_type, .. } => self.cast(expr, data_type)?,
            Expr::AnyOp { left, compare_op: BinaryOperator::Eq, right, .. } => Some(any(left, right)),
            Expr::Subquery(query) if self.in_catalog => {
                single_row(query);
                None
            }
            _ => None,
        })
    }

    /// `'name'::regclass` is the oid, `oid::regclass` the name; likewise for types and schemas.
    fn cast(&self, inner: &Expr, to: &ast::DataType) -> Result<Option<Expr>> {
        let kind = match to {
            ast::DataType::Regclass => "regclass".to_owned(),
            ast::DataType::Custom(name, _) => last(name).unwrap_or_default(),
            _ => return Ok(None),
        };
        if let ("regproc" | "regprocedure", Some(name)) = (kind.as_str(), literal(inner)) {
            // The functions there are stand in no table of the catalog.
            let message = format!("function \"{name}\" does not exist");
            return Err(Error::new(sqlstate::UNDEFINED_FUNCTION, message));
        }
        if !matches!(kind.as_str(), "regclass" | "regtype" | "regnamespace") {
            return Ok(None);
        }
        let world = self.facts.world();
        let Some(text) = literal(inner) else {
            return Ok(Some(call(&format!("pg_{kind}"), inner.clone())));
        };
        if text.parse::<u32>().is_ok() {
            return Ok(Some(number(&text)));
        }
        let oid = match kind.as_str() {
            "regclass" => world.oid_of(&text),
            "regtype" => type_oid(&text),
            _ => world.schemas().into_iter().find(|(_, name)| *name == text).map(|(oid, _)| oid),
        };
        match oid {
            Some(oid) => Ok(Some(number(&oid.to_string()))),
            None => {
                let (code, what) = match kind.as_str() {
                    "regclass" => (sqlstate::UNDEFINED_TABLE, "relation"),
                    "regtype" => (sqlstate::UNDEFINED_OBJECT, "type"),
                    _ => (sqlstate::INVALID_SCHEMA_NAME, "schema"),
                };
                Err(Error::new(code, format!("{what} \"{text}\" does not exist")))
            }
        }
    }
}

/// `TABLE t` is `SELECT * FROM t`.
fn table_query(query: &mut Query) {
    let SetExpr::Table(table) = query.body.as_ref() else { return };
    let Some(name) = &table.table_name else { return };
    let parts = table.schema_name.iter().chain([name]).map(|part| format!("\"{}\"", part.replace('"', "\"\"")));
    let text = format!("SELECT * FROM {}", parts.collect::<Vec<_>>().join("."));
    if let Ok(parsed) = crate::parse::parse_query(&text) {
        query.body = parsed.ast.body;
    }
}

fn only_argument(function: &ast::Function) -> Option<&Expr> {
    match &function.args {
        FunctionArguments::List(list) => match list.args.as_slice() {
            [ast::FunctionArg::Unnamed(ast::FunctionArgExpr::Expr(expr))] => Some(expr),
            _ => None,
        },
        _ => None,
    }
}

fn type_oid(name: &str) -> Option<i64> {
    pgtype::TYPES.iter().find(|t| t.name == name || t.sql == name).map(|t| i64::from(t.oid))
}

/// The name of a catalog's table, with its schema.
pub fn catalog_table(name: &ObjectName) -> Option<(&'static str, String)> {
    let parts: Vec<String> = name.0.iter().filter_map(part).collect();
    let table = parts.last()?.clone();
    match parts.len().checked_sub(2).map(|i| parts[i].as_str()) {
        Some("pg_catalog") => Some(("pg_catalog", table)),
        Some("information_schema") => Some(("information_schema", table)),
        Some(_) => None,
        None => table.starts_with("pg_").then_some(("pg_catalog", table)),
    }
}

fn part(part: &ObjectNamePart) -> Option<String> {
    let ident = part.as_ident()?;
    Some(if ident.quote_style.is_some() { ident.value.clone() } else { ident.value.to_lowercase() })
}

fn last(name: &ObjectName) -> Option<String> {
    name.0.last().and_then(part)
}

fn strip_schema(name: &mut ObjectName) {
    let of_catalog = |p: &ObjectNamePart| part(p).is_some_and(|p| p == "pg_catalog" || p == "information_schema");
    if name.0.len() > 1 && name.0.first().is_some_and(of_catalog) {
        name.0.remove(0);
    }
}

fn operator(name: &str) -> Option<BinaryOperator> {
    Some(match name {
        "~" => BinaryOperator::PGRegexMatch,
        "~*" => BinaryOperator::PGRegexIMatch,
        "!~" => BinaryOperator::PGRegexNotMatch,
        "!~*" => BinaryOperator::PGRegexNotIMatch,
        "~~" => BinaryOperator::PGLikeMatch,
        "!~~" => BinaryOperator::PGNotLikeMatch,
        "=" => BinaryOperator::Eq,
        "<>" | "!=" => BinaryOperator::NotEq,
        "<" => BinaryOperator::Lt,
        "<=" => BinaryOperator::LtEq,
        ">" => BinaryOperator::Gt,
        ">=" => BinaryOperator::GtEq,
        "||" => BinaryOperator::StringConcat,
        "+" => BinaryOperator::Plus,
        "-" => BinaryOperator::Minus,
        "*" => BinaryOperator::Multiply,
        "/" => BinaryOperator::Divide,
        _ => return None,
    })
}

fn literal(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Value(value) => match &value.value {
            Value::SingleQuotedString(text) => Some(text.clone()),
            Value::Number(number, _) => Some(number.clone()),
            _ => None,
        },
        Expr::Nested(inner) => literal(inner),
        // 'pg_class'::text::regclass
        Expr::Cast { expr, data_type: ast::DataType::Text, .. } => literal(expr),
        _ => None,
    }
}

fn number(digits: &str) -> Expr {
    Expr::Value(Value::Number(digits.to_owned(), false).into())
}

/// NULL as text: a column of no type at all cannot be cast on.
fn null() -> Expr {
    null_of(ast::DataType::Text)
}

fn null_of(data_type: ast::DataType) -> Expr {
    let expr = Box::new(Expr::Value(Value::Null.into()));
    Expr::Cast { kind: ast::CastKind::DoubleColon, expr, data_type, array: false, format: None }
}

fn null_list() -> Expr {
    null_of(ast::DataType::Array(ast::ArrayElemTypeDef::SquareBracket(Box::new(ast::DataType::Text), None)))
}

fn call(name: &str, argument: Expr) -> Expr {
    call_with(name, vec![argument])
}

fn call_with(name: &str, arguments: Vec<Expr>) -> Expr {
    let args = arguments.into_iter().map(|a| ast::FunctionArg::Unnamed(ast::FunctionArgExpr::Expr(a))).collect();
    Expr::Function(ast::Function {
        name: ObjectName(vec![ObjectNamePart::Identifier(Ident::new(name))]),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: FunctionArguments::List(ast::FunctionArgumentList {
            duplicate_treatment: None,
            args,
            clauses: Vec::new(),
        }),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: Vec::new(),
    })
}

/// `left = ANY (right)`: a list where the elements are written out, else a function over the array.
fn any(left: &Expr, right: &Expr) -> Expr {
    let list = |list: Vec<Expr>| Expr::InList { expr: Box::new(left.clone()), list, negated: false };
    match right {
        Expr::Nested(inner) => any(left, inner),
        Expr::Array(array) if !array.elem.is_empty() => list(array.elem.clone()),
        Expr::Subquery(query) => {
            Expr::InSubquery { expr: Box::new(left.clone()), subquery: query.clone(), negated: false }
        }
        Expr::Cast { expr, .. } if literal(expr).is_some() => any(left, expr),
        other => match literal(other).as_deref().and_then(|t| t.strip_prefix('{')?.strip_suffix('}')) {
            Some(elements) if !elements.is_empty() => {
                let text = |e: &str| Expr::Value(Value::SingleQuotedString(e.trim_matches('"').to_owned()).into());
                list(elements.split(',').map(text).collect())
            }
            _ => call_with("array_has", vec![other.clone(), left.clone()]),
        },
    }
}

/// Functions that give a row over no rows.
const AGGREGATES: &[&str] =
    &["array_agg", "avg", "bool_and", "bool_or", "count", "json_agg", "jsonb_agg", "max", "min", "string_agg", "sum"];

fn has_aggregate(select: &Select) -> bool {
    /// Whether one was found, and how deep in subqueries the visitor is: theirs are their own.
    struct Find(bool, usize);
    impl ast::Visitor for Find {
        type Break = ();
        fn pre_visit_query(&mut self, _: &Query) -> ControlFlow<()> {
            self.1 += 1;
            ControlFlow::Continue(())
        }
        fn post_visit_query(&mut self, _: &Query) -> ControlFlow<()> {
            self.1 -= 1;
            ControlFlow::Continue(())
        }
        fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
            if self.1 == 0
                && let Expr::Function(function) = expr
                && last(&function.name).is_some_and(|name| AGGREGATES.contains(&name.as_str()))
            {
                self.0 = true;
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        }
    }
    let mut find = Find(false, 0);
    for item in &select.projection {
        let _ = ast::Visit::visit(item, &mut find);
    }
    find.0
}

/// Whether the select gives no row whatever else it says: it joins a table that never has any.
fn never_has_rows(select: &Select) -> bool {
    let empty = |factor: &TableFactor| {
        matches!(factor, TableFactor::Table { name, args: None, .. }
            if catalog_table(name).is_some_and(|(schema, table)| schema == "pg_catalog" && is_empty(&table)))
    };
    let inner = |join: &ast::Join| {
        matches!(
            join.join_operator,
            ast::JoinOperator::Join(_) | ast::JoinOperator::Inner(_) | ast::JoinOperator::CrossJoin(_)
        )
    };
    let joined = |from: &ast::TableWithJoins| {
        // A right or full join would bring rows back.
        let all_inner_or_left = from.joins.iter().all(|j| {
            inner(j) || matches!(j.join_operator, ast::JoinOperator::Left(_) | ast::JoinOperator::LeftOuter(_))
        });
        all_inner_or_left && (empty(&from.relation) || from.joins.iter().any(|j| inner(j) && empty(&j.relation)))
    };
    select.from.iter().any(joined) && !has_aggregate(select)
}

/// Replaces selects without rows by ones that are trivially so, under the same column names.
fn empty_query(query: &mut Query) {
    let single = matches!(query.body.as_ref(), SetExpr::Select(_));
    if empty_body(&mut query.body) && single {
        query.order_by = None;
    }
}

fn empty_body(body: &mut SetExpr) -> bool {
    match body {
        SetExpr::SetOperation { left, right, .. } => {
            let (left, right) = (empty_body(left), empty_body(right));
            left && right
        }
        SetExpr::Select(select) => {
            let plain =
                |item: &SelectItem| matches!(item, SelectItem::UnnamedExpr(_) | SelectItem::ExprWithAlias { .. });
            if !select.projection.iter().all(plain) || !never_has_rows(select) {
                return false;
            }
            for (i, item) in select.projection.iter_mut().enumerate() {
                let alias = match item {
                    SelectItem::ExprWithAlias { alias, .. } => alias.clone(),
                    SelectItem::UnnamedExpr(Expr::Identifier(name)) => name.clone(),
                    SelectItem::UnnamedExpr(Expr::CompoundIdentifier(parts)) if !parts.is_empty() => {
                        parts[parts.len() - 1].clone()
                    }
                    _ => Ident::with_quote('"', format!("?column?{i}")),
                };
                *item = SelectItem::ExprWithAlias { expr: null(), alias };
            }
            select.from.clear();
            select.selection = Some(Expr::Value(Value::Boolean(false).into()));
            true
        }
        _ => false,
    }
}

/// A scalar subquery without rows is NULL; `ARRAY(…)` over the catalog is not collected.
fn empty_subquery(expr: &Expr) -> Option<Expr> {
    let none = |query: &Query| matches!(query.body.as_ref(), SetExpr::Select(select) if never_has_rows(select));
    match expr {
        Expr::Subquery(query) if none(query) => Some(null()),
        Expr::Function(function) if last(&function.name).as_deref() == Some("array") => match &function.args {
            FunctionArguments::Subquery(_) => Some(null_list()),
            _ => None,
        },
        _ => None,
    }
}

/// The planner wants to see that a correlated scalar subquery gives one row at most.
fn single_row(query: &mut Query) {
    let SetExpr::Select(select) = query.body.as_mut() else { return };
    if query.limit_clause.is_some() || has_aggregate(select) || select.from.is_empty() {
        return;
    }
    if let [SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. }] = select.projection.as_mut_slice() {
        *expr = call("max", expr.clone());
    }
}
