//! [`merged`]: outer joins that merge columns, said with `ON`. Of `a LEFT JOIN b USING (k)` the column `k` is `a.k`, of a
//! RIGHT JOIN `b.k`, of a FULL JOIN the one that is not null; DataFusion takes either, by the order of the tables' names.
//! A list of `*` begins with the merged columns.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    BinaryOperator, ExceptSelectItem, Expr, Ident, JoinConstraint, JoinOperator, ObjectName, Query, Select, SelectItem,
    SelectItemQualifiedWildcardKind, Spanned, TableFactor, TableWithJoins, VisitMut, VisitorMut,
    WildcardAdditionalOptions,
};

use super::rewrite::call;
use crate::error::{Error, Result, location_of};
use crate::parse::fold;

/// A merged column: its name, and what it is.
type Column = (Ident, Expr);

/// Rewrites the list's one join. Chains of them are refused where one merges columns: which table a name means is not to
/// be seen there.
pub fn merged(select: &mut Select) -> Result<()> {
    let alone = select.from.len() == 1;
    for from in &mut select.from {
        let Some(at) = from.joins.iter().position(|join| how_it_merges(&join.join_operator).is_some()) else {
            continue;
        };
        let columns = (alone && from.joins.len() == 1).then(|| merge(from)).flatten();
        let Some((columns, sides)) = columns else {
            let join = &from.joins[at];
            let (word, how) = how_it_merges(&join.join_operator).unwrap_or_default();
            let what = if how == "USING" && !(alone && from.joins.len() == 1) { " beside other joins" } else { "" };
            return Err(Error::unsupported(format!("{word} JOIN with {how}{what}"))
                .at(location_of(join.relation.span()))
                .hint("write the condition with ON, and say which side's column is meant"));
        };
        use_columns(select, &columns, &sides);
        return Ok(());
    }
    Ok(())
}

/// The join's word and its constraint's, where it is an outer one that merges columns.
fn how_it_merges(operator: &JoinOperator) -> Option<(&'static str, &'static str)> {
    let (word, constraint) = match operator {
        JoinOperator::Left(on) | JoinOperator::LeftOuter(on) => ("LEFT", on),
        JoinOperator::Right(on) | JoinOperator::RightOuter(on) => ("RIGHT", on),
        JoinOperator::FullOuter(on) => ("FULL", on),
        _ => return None,
    };
    match constraint {
        JoinConstraint::Using(_) => Some((word, "USING")),
        JoinConstraint::Natural => Some((word, "NATURAL")),
        _ => None,
    }
}

/// Gives the join its condition; `None` where it cannot be said.
fn merge(from: &mut TableWithJoins) -> Option<(Vec<Column>, [Ident; 2])> {
    let join = from.joins.first_mut()?;
    let sides = [name_of(&from.relation)?, name_of(&join.relation)?];
    let (word, _) = how_it_merges(&join.join_operator)?;
    let constraint = match &mut join.join_operator {
        JoinOperator::Left(on)
        | JoinOperator::LeftOuter(on)
        | JoinOperator::Right(on)
        | JoinOperator::RightOuter(on)
        | JoinOperator::FullOuter(on) => on,
        _ => return None,
    };
    let JoinConstraint::Using(names) = constraint else { return None };
    let names: Vec<Ident> = names.iter().map(|name| name.0.last()?.as_ident().cloned()).collect::<Option<_>>()?;
    let of = |side: &Ident, name: &Ident| Expr::CompoundIdentifier(vec![side.clone(), name.clone()]);
    let equal = |name: &Ident| Expr::BinaryOp {
        left: Box::new(of(&sides[0], name)),
        op: BinaryOperator::Eq,
        right: Box::new(of(&sides[1], name)),
    };
    let both = |left, right| Expr::BinaryOp { left: Box::new(left), op: BinaryOperator::And, right: Box::new(right) };
    *constraint = JoinConstraint::On(names.iter().map(equal).reduce(both)?);
    let value = |name: &Ident| match word {
        "LEFT" => of(&sides[0], name),
        "RIGHT" => of(&sides[1], name),
        _ => call("coalesce", [of(&sides[0], name), of(&sides[1], name)]),
    };
    Some((names.iter().map(|name| (name.clone(), value(name))).collect(), sides.clone()))
}

fn name_of(table: &TableFactor) -> Option<Ident> {
    match table {
        TableFactor::Table { alias: Some(alias), .. } | TableFactor::Derived { alias: Some(alias), .. } => {
            Some(alias.name.clone())
        }
        TableFactor::Table { name, alias: None, .. } => name.0.last()?.as_ident().cloned(),
        _ => None,
    }
}

/// Puts the merged columns where they are named, and first where all are asked for.
fn use_columns(select: &mut Select, columns: &[Column], sides: &[Ident; 2]) {
    let mut list = Vec::with_capacity(select.projection.len());
    for item in std::mem::take(&mut select.projection) {
        match item {
            SelectItem::Wildcard(_) => {
                let named =
                    |(alias, expr): &Column| SelectItem::ExprWithAlias { expr: expr.clone(), alias: alias.clone() };
                list.extend(columns.iter().map(named));
                list.extend(sides.iter().map(|side| the_others(side, columns)));
            }
            SelectItem::UnnamedExpr(Expr::Identifier(name)) => match find(columns, &name) {
                Some(expr) => list.push(SelectItem::ExprWithAlias { expr: expr.clone(), alias: name }),
                None => list.push(SelectItem::UnnamedExpr(Expr::Identifier(name))),
            },
            other => list.push(other),
        }
    }
    select.projection = list;
    let _ = select.visit(&mut Replace { columns, depth: 0 });
}

fn the_others(side: &Ident, columns: &[Column]) -> SelectItem {
    let mut names = columns.iter().map(|(name, _)| name.clone());
    let first = names.next();
    let except = first.map(|first_element| ExceptSelectItem { first_element, additional_elements: names.collect() });
    let options = WildcardAdditionalOptions { opt_except: except, ..WildcardAdditionalOptions::default() };
    let name = ObjectName::from(vec![side.clone()]);
    SelectItem::QualifiedWildcard(SelectItemQualifiedWildcardKind::ObjectName(name), options)
}

fn find<'a>(columns: &'a [Column], name: &Ident) -> Option<&'a Expr> {
    columns.iter().find(|(column, _)| fold(column) == fold(name)).map(|(_, expr)| expr)
}

/// Names outside of inner queries, which have tables of their own.
struct Replace<'a> {
    columns: &'a [Column],
    depth: usize,
}

impl VisitorMut for Replace<'_> {
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
        if let (0, Expr::Identifier(name)) = (self.depth, &*expr)
            && let Some(value) = find(self.columns, name)
        {
            *expr = value.clone();
        }
        ControlFlow::Continue(())
    }
}
