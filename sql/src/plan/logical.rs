//! A query to DataFusion's logical plan, resolved and optimised by a listed set of rules.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use arrow::datatypes::{Schema, SchemaRef};
use datafusion::common::{Constraints, TableReference};
use datafusion::execution::session_state::{SessionState, SessionStateBuilder};
use datafusion::logical_expr::{LogicalPlan, TableSource};
use datafusion::optimizer::common_subexpr_eliminate::CommonSubexprEliminate;
use datafusion::optimizer::eliminate_cross_join::EliminateCrossJoin;
use datafusion::optimizer::eliminate_duplicated_expr::EliminateDuplicatedExpr;
use datafusion::optimizer::extract_equijoin_predicate::ExtractEquijoinPredicate;
use datafusion::optimizer::optimize_projections::OptimizeProjections;
use datafusion::optimizer::push_down_filter::PushDownFilter;
use datafusion::optimizer::replace_distinct_aggregate::ReplaceDistinctWithAggregate;
use datafusion::optimizer::simplify_expressions::SimplifyExpressions;
use datafusion::optimizer::{Optimizer, OptimizerContext, OptimizerRule};
use datafusion::prelude::SessionConfig;
use datafusion::sql::planner::{PlannerContext, SqlToRel};
use datafusion::sql::sqlparser::ast::Statement;
use engine::graph::RelationId;

use crate::catalog::{Column, Object, Objects, PinnedInput, schema};
use crate::error::{Error, Result, nearest, sqlstate};
use crate::expr::{Context, Names, analyzer_rules, install, parser_options, rewrite, settings};
use crate::parse::Query;

/// A relation as views see it: the pinned columns.
pub struct Input {
    pub id: RelationId,
    pub name: String,
    /// All its columns, as the engine hands them over.
    pub full: SchemaRef,
    /// The visible columns and their places among all.
    pub schema: SchemaRef,
    pub places: Vec<usize>,
    /// In terms of the visible columns, where all of it is visible.
    pub key: Option<Vec<usize>>,
    pub append_only: bool,
    constraints: Constraints,
}

impl TableSource for Input {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    /// So that `GROUP BY` a primary key brings the other columns along.
    fn constraints(&self) -> Option<&Constraints> {
        Some(&self.constraints)
    }
}

impl Input {
    fn new(object: &Object, pin: Option<&PinnedInput>) -> Result<Self> {
        let full = object.schema()?;
        let all = object.columns().unwrap_or_default();
        let visible: Vec<usize> = match pin {
            None => (0..all.len()).collect(),
            Some(pin) => pin.columns.iter().map(|column| place(object, all, column)).collect::<Result<_>>()?,
        };
        let columns: Vec<Column> = visible.iter().map(|i| all[*i].clone()).collect();
        let key = object
            .key()
            .and_then(|key| key.iter().map(|k| visible.iter().position(|v| v == k)).collect::<Option<Vec<usize>>>());
        Ok(Self {
            id: object.id,
            name: object.name.to_string(),
            full,
            schema: schema(&columns)?,
            places: visible,
            constraints: object.constraints(key.as_deref()),
            key,
            append_only: object.append_only(),
        })
    }
}

/// Where the relation now has the column that a view was planned with.
fn place(object: &Object, all: &[Column], pinned: &Column) -> Result<usize> {
    let gone = |what: String| {
        Error::new(sqlstate::OBJECT_NOT_IN_PREREQUISITE_STATE, what)
            .hint("drop the view and create it again over the columns there are")
    };
    match all.iter().position(|column| column.name == pinned.name) {
        Some(i) if all[i].type_name == pinned.type_name => Ok(i),
        Some(i) => Err(gone(format!(
            "column {} of {} was {} and is now {}",
            pinned.name, object.name, pinned.type_name, all[i].type_name
        ))),
        None => Err(gone(format!("column {} of {} is gone", pinned.name, object.name))),
    }
}

/// The names of one query, and what it has read so far.
struct Relations<'a> {
    objects: &'a Objects,
    database: &'a str,
    pins: Option<&'a [PinnedInput]>,
    read: Mutex<BTreeMap<RelationId, Arc<Input>>>,
}

impl Relations<'_> {
    fn find(&self, parts: &[String]) -> Result<Option<Arc<Input>>> {
        let Some(object) = self.objects.lookup(parts, self.database)? else { return Ok(None) };
        let mut read = self.read.lock().map_err(|_| Error::bug("a planner has panicked"))?;
        if let Some(known) = read.get(&object.id) {
            return Ok(Some(Arc::clone(known)));
        }
        let pin = self.pins.and_then(|pins| pins.iter().find(|pin| pin.relation == object.id));
        let input = Arc::new(Input::new(object, pin)?);
        read.insert(object.id, Arc::clone(&input));
        Ok(Some(input))
    }

    /// Errors of names come before all others, at their place.
    fn check(&self, query: &Query) -> Result<()> {
        for name in super::refuse::relations(query) {
            if self.find(&name.parts).map_err(|e| e.at(name.location))?.is_none() {
                let mut error = Error::new(sqlstate::UNDEFINED_TABLE, format!("relation \"{name}\" does not exist"));
                let names: Vec<String> = self.objects.all().map(|o| o.name.to_string()).collect();
                if let Some(near) = nearest(&name.to_string(), names.iter().map(String::as_str)) {
                    error = error.hint(format!("did you mean \"{near}\"?"));
                }
                return Err(error.at(name.location));
            }
        }
        Ok(())
    }
}

impl Names for Relations<'_> {
    fn table(&self, name: &TableReference) -> Result<Option<Arc<dyn TableSource>>> {
        let parts = [name.catalog(), name.schema(), Some(name.table())];
        let parts: Vec<String> = parts.into_iter().flatten().map(str::to_string).collect();
        Ok(self.find(&parts)?.map(|input| input as Arc<dyn TableSource>))
    }
}

/// DataFusion as views need it.
pub fn state() -> Result<SessionState> {
    let mut config = SessionConfig::new().with_create_default_catalog_and_schema(false);
    settings(config.options_mut());
    let mut state = SessionStateBuilder::new_with_default_features()
        .with_config(config)
        .with_analyzer_rules(analyzer_rules())
        .build();
    install(&mut state)?;
    Ok(state)
}

/// The rules a streaming plan is made by. Left out: what folds `now()`, trusts statistics, pushes limits, or makes plans
/// that only a batch can run.
fn rules() -> Vec<Arc<dyn OptimizerRule + Send + Sync>> {
    vec![
        Arc::new(SimplifyExpressions::new()),
        Arc::new(ReplaceDistinctWithAggregate::new()),
        Arc::new(ExtractEquijoinPredicate::new()),
        Arc::new(EliminateDuplicatedExpr::new()),
        Arc::new(EliminateCrossJoin::new()),
        Arc::new(PushDownFilter::new()),
        Arc::new(CommonSubexprEliminate::new()),
        Arc::new(OptimizeProjections::new()),
    ]
}

/// Plans `query` and says what it reads: the columns that are visible to it, in the order of the relations' creation.
pub fn plan(
    objects: &Objects,
    query: &Query,
    database: &str,
    pins: Option<&[PinnedInput]>,
) -> Result<(LogicalPlan, Vec<PinnedInput>)> {
    let names = Relations { objects, database, pins, read: Mutex::default() };
    names.check(query)?;
    let state = state()?;
    super::refuse::check_functions(query, &state)?;
    let mut ast = query.ast.clone();
    rewrite(&mut ast)?;
    let context = Context { state: &state, names: &names };
    let planner = SqlToRel::new_with_options(&context, parser_options());
    let plan = planner.sql_statement_to_plan_with_context(Statement::Query(ast), &mut PlannerContext::new())?;
    let plan = state.analyzer().execute_and_check(plan, state.config_options(), |_, _| {})?;
    let config =
        OptimizerContext::new_with_config_options(Arc::clone(state.config_options())).with_skip_failing_rules(false);
    let plan = Optimizer::with_rules(rules()).optimize(plan, &config, |_, _| {})?;
    let read = names.read.into_inner().map_err(|_| Error::bug("a planner has panicked"))?;
    let pin = |input: &Arc<Input>| {
        let columns = Column::all_of(&Schema::clone(&input.schema))?;
        Ok(PinnedInput { relation: input.id, columns })
    };
    let inputs = read.values().map(pin).collect::<Result<_>>()?;
    Ok((plan, inputs))
}
