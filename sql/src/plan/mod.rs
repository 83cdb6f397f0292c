//! Views: a query to a graph of the engine's operators. DataFusion resolves and optimises by a listed set of rules; what
//! it leaves is translated node by node, and what has no incremental operator is refused by name.

mod logical;
mod lower;
mod operators;
mod properties;
mod refuse;

#[cfg(test)]
mod law;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use arrow::datatypes::{Field, Schema, SchemaRef};
use engine::graph::Graph;

use crate::catalog::{Column, Kind, Object, Objects, PinnedInput};
use crate::error::{Error, Result, sqlstate};
use crate::expr::display_name;
use crate::parse::{self, CreateView, Query};

pub use refuse::relations;

/// Raised when the same plan is run in another way, so that jobs know it for another one.
const FORMAT: u64 = 2;

/// What a view will be.
#[derive(Clone, Debug)]
pub struct ViewPlan {
    pub schema: SchemaRef,
    /// `Some(&[])` is the key `{}` of a relation of one row; `None`: the whole row is the key.
    pub key: Option<Vec<usize>>,
    pub append_only: bool,
    /// What it reads, in the order of creation.
    pub inputs: Vec<PinnedInput>,
    pub plan_version: u64,
    /// One operator a line, its inputs indented below it.
    pub explain: String,
}

/// A plan that can run.
#[derive(Clone)]
pub struct JobPlan {
    pub graph: Graph,
    pub plan_version: u64,
}

/// Plans the query of a new view, in a session connected to `database`.
pub fn view(objects: &Objects, create: &CreateView, database: &str) -> Result<ViewPlan> {
    let planned = Planned::new(objects, &create.query, database, None, &create.columns)?;
    let place = |e: Error| e.at(create.name.location).within(&create.query.source);
    let key = match create.options.get("key") {
        Some(list) => Some(named_key(&planned.schema, list).map_err(place)?),
        None => planned.key.clone(),
    };
    let mut explain = planned.explain.join("\n");
    explain.push_str(&match (&key, planned.append_only) {
        (Some(key), _) => format!("\nkey: {{{}}}", names(&planned.schema, key).join(", ")),
        (None, true) => "\nkey: none, rows are only added".to_string(),
        (None, false) => "\nkey: the whole row, with its count".to_string(),
    });
    let Planned { schema, append_only, inputs, plan_version, .. } = planned;
    Ok(ViewPlan { schema, key, append_only, inputs, plan_version, explain })
}

/// The graph of a view or topic sink that stands in the catalog. A view is planned over the columns that its inputs had
/// when it was created: an error when one of these is gone or has another type.
pub fn job(objects: &Objects, object: &Object) -> Result<JobPlan> {
    match &object.kind {
        Kind::View(view) => {
            let query = parse::parse_query(&view.query)?;
            let columns: Vec<String> = view.columns.iter().map(|c| c.name.clone()).collect();
            let planned = Planned::new(objects, &query, &view.database, Some(&view.inputs), &columns)?;
            let now = Column::all_of(&planned.schema)?;
            if let Some((was, is)) = view.columns.iter().zip(&now).find(|(was, is)| was.type_name != is.type_name) {
                let message = format!("column {} of view {} would now be {}", was.name, object.name, is.type_name);
                return Err(Error::new(sqlstate::OBJECT_NOT_IN_PREREQUISITE_STATE, message)
                    .detail(format!("it was created as {}", was.type_name))
                    .hint("drop the view and create it again"));
            }
            Ok(JobPlan { graph: planned.graph, plan_version: planned.plan_version })
        }
        Kind::Sink(sink) => {
            let from = objects.get(sink.from).ok_or_else(|| Error::bug("a sink without its relation"))?;
            let schema = from.schema()?;
            let mut graph = Graph::default();
            let input = graph.input(from.id, Arc::clone(&schema));
            let plan_version = version(&["sink".to_string()], &schema);
            operators::columns(&mut graph, input, &schema, None, &schema)?;
            Ok(JobPlan { graph, plan_version })
        }
        _ => Err(Error::bug(format!("{} is no job", object.name))),
    }
}

/// A query, planned.
struct Planned {
    graph: Graph,
    schema: SchemaRef,
    key: Option<Vec<usize>>,
    append_only: bool,
    inputs: Vec<PinnedInput>,
    plan_version: u64,
    explain: Vec<String>,
}

impl Planned {
    fn new(
        objects: &Objects,
        query: &Query,
        database: &str,
        pins: Option<&[PinnedInput]>,
        columns: &[String],
    ) -> Result<Self> {
        let plan = || Self::of(objects, query, database, pins, columns);
        crate::stack::with_room(plan).map_err(|e| e.within(&query.source))
    }

    fn of(
        objects: &Objects,
        query: &Query,
        database: &str,
        pins: Option<&[PinnedInput]>,
        columns: &[String],
    ) -> Result<Self> {
        refuse::check(query)?;
        let (plan, inputs) = logical::plan(objects, query, database, pins)?;
        let lowered = lower::lower(&plan).map_err(|e| e.at(refuse::only_join(query)))?;
        let schema = output_schema(plan.schema().as_arrow(), columns, query)?;
        let mut graph = lowered.graph;
        let root = lowered.node;
        operators::columns(&mut graph, root, &lowered.schema, None, &schema)?;
        Ok(Self {
            graph,
            key: lowered.properties.key(),
            append_only: lowered.properties.append_only,
            inputs,
            plan_version: version(&lowered.canonical, &schema),
            explain: lowered.explain,
            schema,
        })
    }
}

/// The columns of the view: the query's, under the names given instead.
fn output_schema(schema: &Schema, columns: &[String], query: &Query) -> Result<SchemaRef> {
    if columns.len() > schema.fields().len() {
        return Err(Error::new(sqlstate::SYNTAX_ERROR, "too many column names were specified"));
    }
    let mut fields: Vec<Field> = Vec::with_capacity(schema.fields().len());
    for (i, field) in schema.fields().iter().enumerate() {
        let name = columns.get(i).map_or(display_name(field.name()), String::as_str);
        if fields.iter().any(|f| f.name() == name) {
            return Err(Error::new(sqlstate::DUPLICATE_COLUMN, format!("column \"{name}\" specified more than once"))
                .at(refuse::column_location(query, i))
                .hint("name the columns with AS"));
        }
        fields.push(field.as_ref().clone().with_name(name));
    }
    for field in &fields {
        Column::of(field)
            .map_err(|e| e.detail(format!("column \"{}\"", field.name())).hint("cast it to another type"))?;
    }
    if fields.is_empty() {
        return Err(Error::new(sqlstate::INVALID_TABLE_DEFINITION, "a view has at least one column"));
    }
    Ok(Arc::new(Schema::new(fields)))
}

/// `WITH (key = 'a, b')`.
fn named_key(schema: &Schema, list: &str) -> Result<Vec<usize>> {
    let mut key = Vec::new();
    for name in list.split(',').map(str::trim).filter(|name| !name.is_empty()) {
        match schema.index_of(name) {
            Ok(index) if !key.contains(&index) => key.push(index),
            Ok(_) => {
                let message = format!("column \"{name}\" appears twice in the key");
                return Err(Error::new(sqlstate::DUPLICATE_COLUMN, message));
            }
            Err(_) => {
                let message = format!("column \"{name}\" named in key does not exist");
                return Err(Error::new(sqlstate::UNDEFINED_COLUMN, message).hint(format!(
                    "columns of the view: {}",
                    names(schema, &(0..schema.fields().len()).collect::<Vec<_>>()).join(", ")
                )));
            }
        }
    }
    match key.is_empty() {
        true => Err(Error::new(sqlstate::INVALID_PARAMETER_VALUE, "the option \"key\" names no column")),
        false => Ok(key),
    }
}

fn names(schema: &Schema, key: &[usize]) -> Vec<String> {
    key.iter().map(|i| schema.field(*i).name().clone()).collect()
}

/// FNV-1a over the plan's text, column names and types: equal plans have equal versions, in every build.
fn version(canonical: &[String], schema: &Schema) -> u64 {
    const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0100_0000_01b3;
    let columns = schema.fields().iter().map(|f| format!("{}:{}", f.name(), f.data_type()));
    let text = canonical.iter().cloned().chain(columns).chain([FORMAT.to_string()]);
    text.fold(OFFSET, |hash, line| {
        line.bytes().chain([b'\n']).fold(hash, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME))
    })
}
