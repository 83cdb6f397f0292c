//! [`complete`]: short names, written out where DataFusion would not find them: `t.*` over `public.t`, and in WHERE a
//! column that `USING` has made one.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Expr, Ident, JoinConstraint, JoinOperator, ObjectName, Query, Select, SelectItem, SelectItemQualifiedWildcardKind,
    TableFactor, TableWithJoins, VisitMut, VisitorMut,
};

use super::words::fold;

pub fn complete(query: &mut Query) {
    let _ = query.visit(&mut Completer);
}

struct Completer;

impl VisitorMut for Completer {
    type Break = ();

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<()> {
        wildcards(select);
        let columns = using(&select.from);
        if let (false, Some(selection)) = (columns.is_empty(), &mut select.selection) {
            let _ = selection.visit(&mut Qualifier { columns, depth: 0 });
        }
        ControlFlow::Continue(())
    }
}

fn parts(name: &ObjectName) -> Vec<Ident> {
    name.0.iter().filter_map(|part| part.as_ident().cloned()).collect()
}

/// Relations that are read under the name as written.
fn plain<'a>(from: &'a [TableWithJoins], out: &mut Vec<&'a ObjectName>) {
    let factors = from.iter().flat_map(|f| std::iter::once(&f.relation).chain(f.joins.iter().map(|j| &j.relation)));
    for factor in factors {
        match factor {
            TableFactor::Table { name, alias: None, args: None, .. } => out.push(name),
            TableFactor::NestedJoin { table_with_joins, alias: None } => {
                plain(std::slice::from_ref(table_with_joins), out);
            }
            _ => {}
        }
    }
}

/// `t.*` with the whole name of the one relation that it means.
fn wildcards(select: &mut Select) {
    let mut names = Vec::new();
    plain(&select.from, &mut names);
    for item in &mut select.projection {
        let SelectItem::QualifiedWildcard(SelectItemQualifiedWildcardKind::ObjectName(name), _) = item else {
            continue;
        };
        let short: Vec<String> = parts(name).iter().map(fold).collect();
        let meant = |full: &&&ObjectName| {
            let full: Vec<String> = parts(full).iter().map(fold).collect();
            full.len() > short.len() && full.ends_with(&short)
        };
        let mut found = names.iter().filter(meant);
        if let (Some(full), None) = (found.next(), found.next()) {
            *name = (*full).clone();
        }
    }
}

/// The side of its join that each column of USING is read from: one that is there in every row.
fn using(from: &[TableWithJoins]) -> BTreeMap<String, Vec<Ident>> {
    let mut columns = BTreeMap::new();
    for item in from {
        for (place, join) in item.joins.iter().enumerate() {
            let (constraint, side) = match &join.join_operator {
                JoinOperator::Join(c) | JoinOperator::Inner(c) => (c, Some(&join.relation)),
                JoinOperator::Right(c) | JoinOperator::RightOuter(c) => (c, Some(&join.relation)),
                // Which of several relations on the left has the column, the planner alone knows.
                JoinOperator::Left(c) | JoinOperator::LeftOuter(c) => (c, (place == 0).then_some(&item.relation)),
                _ => continue,
            };
            let (JoinConstraint::Using(names), Some(name)) = (constraint, side.and_then(name_of)) else { continue };
            for column in names.iter().filter_map(|n| n.0.last()?.as_ident()) {
                columns.entry(fold(column)).or_insert_with(|| name.clone());
            }
        }
    }
    columns
}

/// The name that columns of the relation are written with.
fn name_of(factor: &TableFactor) -> Option<Vec<Ident>> {
    match factor {
        TableFactor::Table { alias: Some(alias), .. } | TableFactor::Derived { alias: Some(alias), .. } => {
            Some(vec![alias.name.clone()])
        }
        TableFactor::Table { name, args: None, .. } => Some(parts(name)),
        _ => None,
    }
}

struct Qualifier {
    columns: BTreeMap<String, Vec<Ident>>,
    /// How deep in subqueries: their names are their own.
    depth: usize,
}

impl VisitorMut for Qualifier {
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
        if let (0, Expr::Identifier(ident)) = (self.depth, &*expr)
            && let Some(relation) = self.columns.get(&fold(ident))
        {
            *expr = Expr::CompoundIdentifier(relation.iter().cloned().chain([ident.clone()]).collect());
        }
        ControlFlow::Continue(())
    }
}

#[cfg(test)]
mod tests {
    use crate::parse::parse_query;

    #[test]
    fn short_names() {
        let check = |text: &str, expect: &str| assert_eq!(parse_query(text).expect(text).ast.to_string(), expect);
        check("SELECT t.* FROM public.t", "SELECT public.t.* FROM public.t");
        check(
            "SELECT o.*, 1 FROM a JOIN src.public.O ON true",
            "SELECT src.public.O.*, 1 FROM a JOIN src.public.O ON true",
        );
        check("SELECT t.* FROM public.t AS x, public.t", "SELECT public.t.* FROM public.t AS x, public.t");
        check("SELECT t.* FROM a.t, b.t", "SELECT t.* FROM a.t, b.t");
        check(
            "SELECT id FROM a JOIN b USING (id) WHERE id = 1 AND ID IN (SELECT id FROM c)",
            "SELECT id FROM a JOIN b USING(id) WHERE b.id = 1 AND b.ID IN (SELECT id FROM c)",
        );
        check(
            "SELECT 1 FROM a AS x LEFT JOIN p.b USING (id) WHERE id = 1",
            "SELECT 1 FROM a AS x LEFT JOIN p.b USING(id) WHERE x.id = 1",
        );
    }
}
