//! Ad-hoc queries: planned and run by DataFusion over relations at one pinned epoch, on threads of their own.

mod forms;
pub mod lookup;
pub mod pg_catalog;
pub mod pgtype;
mod plans;
pub mod pool;
pub mod relation;
pub mod snapshot;

use std::num::NonZeroUsize;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use datafusion::catalog::TableProvider;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{ParamValues, ScalarValue, TableReference};
use datafusion::datasource::{provider_as_source, source_as_provider};
use datafusion::execution::context::{SessionConfig, SessionState};
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::{GreedyMemoryPool, TrackConsumersPool};
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::execution::session_state::SessionStateBuilder;
use datafusion::logical_expr::{LogicalPlan, TableSource};
use datafusion::physical_plan::execute_stream;
use datafusion::sql::planner::{PlannerContext, SqlToRel};
use datafusion::sql::sqlparser::ast;
use engine::job::Engine;
use futures::{Stream, StreamExt};
use tokio::sync::{Semaphore, mpsc};

use crate::error::{Error, Result, sqlstate};
use crate::expr;
use forms::ArrayParameters;
use lookup::Lookup;
use pg_catalog::{Facts, World};
pub use plans::Meaning;
use plans::{Key, Plans};
use pool::Pool;
use relation::{Relation, Rows};
use snapshot::Snapshot;

/// Batches that may wait between a query and its client.
const BATCHES_AHEAD: usize = 2;
/// Stores that all queries together read at a time; each takes a thread while it lasts.
const SCANS_MAX: u32 = 256;
/// Consumers of memory that an error names.
const CONSUMERS_NAMED: NonZeroUsize = NonZeroUsize::new(3).expect("three is not zero");

/// Rows of a result, batch by batch. Dropping it ends the query.
pub type BatchStream = Pin<Box<dyn Stream<Item = Result<RecordBatch>> + Send>>;

/// Bounds of ad-hoc queries.
#[derive(Clone, Copy, Debug)]
pub struct QueryLimits {
    /// Threads that plan and run queries.
    pub threads: usize,
    /// Bytes that all queries together may gather (sorts, hash tables); over it a query fails with 53200.
    pub memory_bytes_max: usize,
}

/// Plans and runs queries.
pub struct Queries {
    engine: Engine,
    cluster: Arc<dyn log::Cluster>,
    pool: Pool,
    /// Functions, rules and options; cloned for each statement.
    state: SessionState,
    scans: Arc<Semaphore>,
    plans: Plans,
}

/// A query that has been planned and can be run any number of times, each at a new epoch.
pub struct Planned {
    plan: LogicalPlan,
    /// PostgreSQL's oid and Arrow's type of each parameter.
    pub parameters: Vec<(u32, DataType)>,
    pub schema: SchemaRef,
    relations: Vec<Arc<Relation>>,
    /// Set when the query is one lookup by key.
    pub lookup: Option<Lookup>,
    /// The query reads the catalog as it was when it was planned: plan it again to see it as it is.
    pub of_catalog: bool,
}

impl Planned {
    /// What it reads.
    pub fn relations(&self) -> &[Arc<Relation>] {
        &self.relations
    }
}

/// The names of a session.
pub trait Names: Send + Sync {
    /// The database that short names belong to.
    fn database(&self) -> Arc<str>;
    /// What the names mean now.
    fn meaning(&self) -> Meaning;
    /// The table that a name of one to three parts means.
    fn table(&self, name: &TableReference) -> Result<Option<Arc<dyn TableProvider>>>;
    /// What PostgreSQL's catalog would tell of the database.
    fn world(&self) -> World;
}

/// The names of a session and, where a statement asks for them, those of PostgreSQL's catalog.
struct WithCatalog<'a> {
    names: &'a dyn Names,
    world: Option<&'a Arc<World>>,
}

impl expr::Names for WithCatalog<'_> {
    fn table(&self, name: &TableReference) -> Result<Option<Arc<dyn TableSource>>> {
        if let Some(world) = self.world {
            let schema = match name.schema() {
                Some(schema @ ("pg_catalog" | "information_schema")) => Some(schema),
                None if name.table().starts_with("pg_") => Some("pg_catalog"),
                _ => None,
            };
            if let Some(schema) = schema
                && let Some(table) = pg_catalog::table(world, schema, name.table())?
            {
                return Ok(Some(provider_as_source(table)));
            }
        }
        Ok(self.names.table(name)?.map(provider_as_source))
    }
}

impl Queries {
    pub fn new(engine: Engine, cluster: Arc<dyn log::Cluster>, limits: QueryLimits) -> Result<Self> {
        let scans = Arc::new(Semaphore::new(SCANS_MAX as usize));
        let state = session_state(limits)?;
        Ok(Self { engine, cluster, pool: Pool::new(limits.threads)?, state, scans, plans: Plans::default() })
    }

    /// Plans `query`, or finds its plan. `declared` are the parameter types that the client gave (0 leaves one open).
    pub async fn plan(
        &self,
        query: &crate::parse::Query,
        names: Arc<dyn Names>,
        declared: &[u32],
    ) -> Result<Arc<Planned>> {
        // Asked before planning: a change meanwhile makes the plan one of the past.
        let meaning = names.meaning();
        let key = Key { database: names.database(), text: query.text.clone(), declared: declared.to_vec() };
        if let Some(planned) = self.plans.get(&key, &meaning) {
            return Ok(planned);
        }
        let mut state = self.state.clone();
        let mut ast = query.ast.clone();
        let (source, declared) = (Arc::clone(&query.source), declared.to_vec());
        let plan = async move {
            let asked = Arc::clone(&names);
            let facts = Facts::new(move || asked.world());
            forms::settle(&mut ast)?;
            expr::rewrite(&mut ast)?;
            pg_catalog::rewrite(&mut ast, &facts)?;
            let names = WithCatalog { names: names.as_ref(), world: facts.used() };
            if let Some(world) = facts.used() {
                pg_catalog::register_world(&mut state, world)?;
            }
            plan_query(&state, &names, &ast, &declared).map_err(|e| e.within(&source))
        };
        let planned = Arc::new(self.pool.run(plan).await?);
        self.plans.put(key, &meaning, &planned);
        Ok(planned)
    }

    /// Runs a planned query at the newest epoch that all its relations have; waits for them until `deadline`.
    pub async fn run(
        &self,
        planned: &Planned,
        parameters: Vec<ScalarValue>,
        deadline: Duration,
    ) -> Result<BatchStream> {
        let snapshot = Snapshot::take(&self.engine, &self.cluster, &planned.relations, deadline).await?;
        let scans = planned.relations.iter().filter(|r| matches!(r.rows, Rows::Stored(_))).count();
        let scans = u32::try_from(scans).ok().filter(|n| *n <= SCANS_MAX).ok_or_else(|| {
            Error::new(
                sqlstate::STATEMENT_TOO_COMPLEX,
                format!("a query can read at most {SCANS_MAX} views and tables"),
            )
        })?;
        let permit = Arc::clone(&self.scans).acquire_many_owned(scans).await;
        let permit = permit.map_err(|e| Error::bug("the permits of queries are gone").caused_by(e))?;
        let mut state = self.state.clone();
        state.config_mut().set_extension(Arc::new(snapshot));
        state.mark_start_execution();
        let plan = planned.plan.clone();
        let types: Vec<DataType> = planned.parameters.iter().map(|(_, t)| t.clone()).collect();
        let (sender, receiver) = mpsc::channel(BATCHES_AHEAD);
        let task = self.pool.spawn(async move {
            if let Err(error) = execute(&state, plan, parameters, &types, &sender).await {
                // The receiver is gone when nobody reads the result any more.
                let _ = sender.send(Err(error)).await;
            }
            drop(permit);
        });
        Ok(Box::pin(futures::stream::unfold((receiver, task), |(mut receiver, task)| async move {
            let batch = receiver.recv().await?;
            Some((batch, (receiver, task)))
        })))
    }

    /// Answers a lookup by key at once, when its relation is readable; `None` says to run it as a query.
    pub fn look_up(&self, lookup: &Lookup, parameters: &[ScalarValue]) -> Result<Option<RecordBatch>> {
        lookup.run(&self.engine, parameters)
    }

    /// The plan of a query as text, one line an element.
    pub async fn explain(&self, planned: &Planned) -> Result<Vec<String>> {
        let (state, plan) = (self.state.clone(), planned.plan.clone());
        let text = self.pool.run(async move {
            let optimized = state.optimize(&plan)?;
            Ok(optimized.display_indent().to_string())
        });
        let mut lines: Vec<String> = text.await?.lines().map(str::to_owned).collect();
        if planned.lookup.is_some() {
            lines.insert(0, "Lookup by key, once prepared".into());
        }
        Ok(lines)
    }
}

/// DataFusion as queries run on it: without a disk, within a bound of memory.
fn session_state(limits: QueryLimits) -> Result<SessionState> {
    let memory = GreedyMemoryPool::new(limits.memory_bytes_max);
    let runtime = RuntimeEnvBuilder::new()
        .with_memory_pool(Arc::new(TrackConsumersPool::new(memory, CONSUMERS_NAMED)))
        .with_disk_manager_builder(DiskManagerBuilder::default().with_mode(DiskManagerMode::Disabled))
        .build_arc()?;
    let mut config = SessionConfig::new()
        .with_target_partitions(limits.threads.max(1))
        .with_create_default_catalog_and_schema(false)
        .with_information_schema(false);
    expr::settings(config.options_mut());
    let mut state = SessionStateBuilder::new_with_default_features()
        .with_config(config)
        .with_runtime_env(runtime)
        .with_analyzer_rules(expr::analyzer_rules())
        .build();
    expr::install(&mut state)?;
    pg_catalog::register(&mut state)?;
    Ok(state)
}

fn plan_query(state: &SessionState, names: &WithCatalog<'_>, ast: &ast::Query, declared: &[u32]) -> Result<Planned> {
    let mut fields: Vec<Option<FieldRef>> = declared.iter().map(|oid| parameter_field(*oid)).collect();
    infer_arrays(state, names, ast, &mut fields)?;
    let mut plan = to_plan(state, names, ast, &fields)?;
    let found = plan.get_parameter_fields()?;
    let mut changed = false;
    for (id, field) in &found {
        let index =
            id.strip_prefix('$').and_then(|n| n.parse::<usize>().ok()).filter(|n| (1..=u16::MAX.into()).contains(n));
        let index =
            index.ok_or_else(|| Error::new(sqlstate::UNDEFINED_PARAMETER, format!("there is no parameter {id}")))?;
        if fields.len() < index {
            fields.resize(index, None);
        }
        if fields[index - 1].is_none() {
            changed |= field.is_none();
            // A parameter that nothing gives a type is text, as in PostgreSQL.
            fields[index - 1] = Some(field.clone().unwrap_or_else(|| Arc::new(Field::new("", DataType::Utf8, true))));
        }
    }
    if changed {
        plan = to_plan(state, names, ast, &fields)?;
    }
    let plan = state.analyzer().execute_and_check(plan, state.config_options(), |_, _| {})?;
    let text = || Arc::new(Field::new("", DataType::Utf8, true));
    let parameters = (fields.iter().enumerate())
        .map(|(i, field)| {
            let field = field.clone().unwrap_or_else(text);
            let inferred = pgtype::of(&field).oid;
            let oid = declared.get(i).copied().filter(|oid| *oid != 0).unwrap_or(inferred);
            (oid, field.data_type().clone())
        })
        .collect();
    let schema = shown(plan.schema().as_arrow());
    let relations = relations(&plan)?;
    let lookup = Lookup::of(&plan, &relations, &schema);
    Ok(Planned { plan, parameters, schema, relations, lookup, of_catalog: names.world.is_some() })
}

/// Gives the parameters of `x = ANY ($1)` that the client left open the type of arrays of what `x` is.
fn infer_arrays(
    state: &SessionState,
    names: &WithCatalog<'_>,
    ast: &ast::Query,
    fields: &mut Vec<Option<FieldRef>>,
) -> Result<()> {
    let mut elements = ast.clone();
    let arrays = ArrayParameters::of_elements(&mut elements);
    let place = |id: &str| id.strip_prefix('$').and_then(|n| n.parse::<u16>().ok()).map(usize::from).filter(|n| *n > 0);
    let open = |id: &String| place(id).is_some_and(|n| fields.get(n - 1).is_none_or(Option::is_none));
    if !arrays.0.iter().any(open) {
        return Ok(());
    }
    for (id, field) in to_plan(state, names, &elements, fields)?.get_parameter_fields()? {
        let Some(place) = place(&id).filter(|_| arrays.has(&id)) else { continue };
        if fields.len() < place {
            fields.resize(place, None);
        }
        let element = field.map_or(DataType::Utf8, |field| field.data_type().clone());
        fields[place - 1].get_or_insert(Arc::new(Field::new("", ArrayParameters::array_of(&element), true)));
    }
    Ok(())
}

/// The columns under the names that people see.
fn shown(schema: &Schema) -> SchemaRef {
    let rename = |field: &Arc<Field>| field.as_ref().clone().with_name(expr::display_name(field.name()));
    Arc::new(Schema::new(schema.fields().iter().map(rename).collect::<Vec<_>>()))
}

fn parameter_field(oid: u32) -> Option<FieldRef> {
    pgtype::parameter(oid).map(|data_type| Arc::new(Field::new("", data_type, true)) as FieldRef)
}

fn to_plan(
    state: &SessionState,
    names: &WithCatalog<'_>,
    ast: &ast::Query,
    parameters: &[Option<FieldRef>],
) -> Result<LogicalPlan> {
    let context = expr::Context { state, names };
    let mut planner = PlannerContext::new().with_prepare_param_data_types(parameters.to_vec());
    let statement = ast::Statement::Query(Box::new(ast.clone()));
    Ok(SqlToRel::new_with_options(&context, expr::parser_options())
        .sql_statement_to_plan_with_context(statement, &mut planner)?)
}

/// The relations a plan reads, one for each place it reads them.
fn relations(plan: &LogicalPlan) -> Result<Vec<Arc<Relation>>> {
    let mut relations = Vec::new();
    plan.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node
            && let Some(relation) = source_as_provider(&scan.source)?.downcast_ref::<Relation>()
        {
            relations.push(Arc::new(relation.clone()));
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(relations)
}

async fn execute(
    state: &SessionState,
    plan: LogicalPlan,
    parameters: Vec<ScalarValue>,
    types: &[DataType],
    out: &mpsc::Sender<Result<RecordBatch>>,
) -> Result<()> {
    let plan = if parameters.is_empty() {
        plan
    } else {
        let cast = |(value, to): (ScalarValue, &DataType)| value.cast_to(to);
        let values: Vec<ScalarValue> = parameters.into_iter().zip(types).map(cast).collect::<Result<_, _>>()?;
        plan.with_param_values(ParamValues::from(values))?
    };
    let plan = expr::guard_plan(state.optimize(&plan)?)?;
    let physical = state.query_planner().create_physical_plan(&plan, state).await?;
    let mut stream = execute_stream(physical, state.task_ctx())?;
    while let Some(batch) = stream.next().await {
        if out.send(batch.map_err(Error::from)).await.is_err() {
            break;
        }
    }
    Ok(())
}
