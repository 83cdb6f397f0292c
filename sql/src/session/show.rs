//! `SHOW …`: lists of what there is and how it stands.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int32Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use engine::job::{JobState, JobStatus};

use super::server::Server;
use super::settings::Settings;
use super::text_columns;
use crate::catalog::{Class, Kind};
use crate::error::Result;
use crate::parse::Show;

/// The columns of a list.
pub fn columns(what: &Show) -> Result<SchemaRef> {
    let field = |name: &str, data_type: &DataType| Field::new(name, data_type.clone(), true);
    let (text, long) = (DataType::Utf8, DataType::Int64);
    let fields = match what {
        Show::Sources => vec![
            field("name", &text),
            field("connector", &text),
            field("state", &text),
            field("tables", &long),
            field("rows", &long),
            field("lag_ms", &long),
            field("detail", &text),
        ],
        Show::Tables => vec![
            field("name", &text),
            field("topic", &text),
            field("format", &text),
            field("primary_key", &text),
            field("state", &text),
            field("detail", &text),
        ],
        Show::Views => vec![
            field("name", &text),
            field("topic", &text),
            field("key", &text),
            field("state", &text),
            field("epoch", &long),
            field("rows_in", &long),
            field("state_bytes", &long),
            field("detail", &text),
        ],
        Show::Sinks => vec![
            field("name", &text),
            field("from", &text),
            field("connector", &text),
            field("topic", &text),
            field("state", &text),
            field("detail", &text),
        ],
        Show::Jobs => vec![
            field("id", &long),
            field("name", &text),
            field("kind", &text),
            field("state", &text),
            field("epoch", &long),
            field("rows_in", &long),
            field("rows_out", &long),
            field("busy_us", &long),
            field("state_bytes", &long),
            field("detail", &text),
        ],
        Show::Topics => {
            vec![
                field("name", &text),
                field("partitions", &DataType::Int32),
                field("records", &long),
                field("config", &text),
            ]
        }
        Show::AllSettings => return Ok(text_columns(&["name", "setting", "description"])),
        Show::Setting(name) => return Ok(text_columns(&[Settings::name(name)?])),
    };
    Ok(Arc::new(Schema::new(fields)))
}

pub fn settings(settings: &Settings) -> Result<RecordBatch> {
    let all = settings.all();
    let column = |cell: fn(&(&'static str, &str, &'static str)) -> String| -> ArrayRef {
        Arc::new(StringArray::from(all.iter().map(cell).collect::<Vec<_>>()))
    };
    let arrays = vec![column(|s| s.0.into()), column(|s| s.1.into()), column(|s| s.2.into())];
    Ok(RecordBatch::try_new(columns(&Show::AllSettings)?, arrays)?)
}

/// One list, as it is now.
pub fn list(server: &Server, what: &Show) -> Result<RecordBatch> {
    let mut cells = Cells::default();
    match what {
        Show::Sources => sources(server, &mut cells),
        Show::Tables => tables(server, &mut cells),
        Show::Views => views(server, &mut cells),
        Show::Sinks => sinks(server, &mut cells),
        Show::Jobs => jobs(server, &mut cells),
        Show::Topics => topics(server, &mut cells),
        Show::AllSettings | Show::Setting(_) => {}
    }
    cells.batch(&columns(what)?)
}

/// A cell of a list.
enum Cell {
    Text(Option<String>),
    Number(i64),
}

/// Rows on their way into a batch.
#[derive(Default)]
struct Cells(Vec<Vec<Cell>>);

impl Cells {
    fn batch(self, schema: &SchemaRef) -> Result<RecordBatch> {
        let text = |i: usize| self.0.iter().map(move |row| if let Cell::Text(t) = &row[i] { t.clone() } else { None });
        let number = |i: usize| self.0.iter().map(move |row| if let Cell::Number(n) = row[i] { n } else { 0 });
        let arrays = schema.fields().iter().enumerate().map(|(i, field)| -> ArrayRef {
            match field.data_type() {
                DataType::Int64 => Arc::new(Int64Array::from_iter_values(number(i))),
                DataType::Int32 => Arc::new(Int32Array::from_iter_values(number(i).map(|n| n as i32))),
                _ => Arc::new(StringArray::from_iter(text(i))),
            }
        });
        Ok(RecordBatch::try_new(Arc::clone(schema), arrays.collect())?)
    }
}

fn text(value: impl Into<String>) -> Cell {
    Cell::Text(Some(value.into()))
}

fn count(value: u64) -> Cell {
    Cell::Number(i64::try_from(value).unwrap_or(i64::MAX))
}

/// One word for the state and what there is to say of it. `stalled`: why nothing new comes.
fn state(status: Option<&JobStatus>, stalled: Option<String>) -> (Cell, Cell) {
    match (status.map(|s| &s.state), stalled) {
        (None, _) => (text("absent"), text("the engine does not run it")),
        (Some(JobState::Failed { reason }), _) => (text("failed"), text(reason)),
        (Some(_), Some(why)) => (text("stalled"), text(why)),
        (Some(JobState::Running), None) => (text("running"), Cell::Text(None)),
        (Some(JobState::Waiting { progress }), None) => (text("catching up"), text(progress)),
    }
}

fn status_of(jobs: &[JobStatus], id: engine::graph::RelationId) -> Option<&JobStatus> {
    jobs.iter().find(|job| job.id == id)
}

fn names(columns: &[crate::catalog::Column], indices: &[usize]) -> String {
    indices.iter().filter_map(|i| columns.get(*i)).map(|c| c.name.as_str()).collect::<Vec<_>>().join(", ")
}

fn sources(server: &Server, out: &mut Cells) {
    let objects = server.catalog.objects();
    for object in objects.of_class(Class::Source) {
        let Kind::Source(source) = &object.kind else { continue };
        let status = server.sources.status(&object.name.name);
        let tables = objects.tables_of(&object.name.name).count();
        out.0.push(vec![
            text(&object.name.name),
            text(&source.connector),
            text(status.state),
            count(tables as u64),
            count(status.rows),
            Cell::Number(status.lag_ms),
            Cell::Text(status.detail),
        ]);
    }
}

fn tables(server: &Server, out: &mut Cells) {
    let jobs = server.engine.jobs();
    for object in server.catalog.objects().of_class(Class::Relation) {
        let Kind::Table(table) = &object.kind else { continue };
        let (state, detail) = state(status_of(&jobs, object.id), server.stalled(object));
        out.0.push(vec![
            text(object.name.to_string()),
            text(&table.topic),
            text(&table.format),
            Cell::Text((!table.key.is_empty()).then(|| names(&table.columns, &table.key))),
            state,
            detail,
        ]);
    }
}

fn views(server: &Server, out: &mut Cells) {
    let jobs = server.engine.jobs();
    for object in server.catalog.objects().of_class(Class::Relation) {
        let Kind::View(view) = &object.kind else { continue };
        let status = status_of(&jobs, object.id);
        let metrics = status.map(|s| s.metrics.clone()).unwrap_or_default();
        let (state, detail) = state(status, server.stalled(object));
        out.0.push(vec![
            text(object.name.to_string()),
            text(&view.topic),
            Cell::Text(view.key.as_ref().map(|key| names(&view.columns, key))),
            state,
            count(status.map_or(0, |s| s.epoch)),
            count(metrics.rows_in),
            count(metrics.state_bytes as u64),
            detail,
        ]);
    }
}

fn sinks(server: &Server, out: &mut Cells) {
    let (jobs, objects) = (server.engine.jobs(), server.catalog.objects());
    for object in objects.of_class(Class::Sink) {
        let Kind::Sink(sink) = &object.kind else { continue };
        let (state, detail) = state(status_of(&jobs, object.id), server.stalled(object));
        out.0.push(vec![
            text(&object.name.name),
            Cell::Text(objects.get(sink.from).map(|from| from.name.to_string())),
            text(&sink.connector),
            Cell::Text(sink.topic.clone()),
            state,
            detail,
        ]);
    }
}

fn jobs(server: &Server, out: &mut Cells) {
    let objects = server.catalog.objects();
    for job in server.engine.jobs() {
        let stalled = objects.get(job.id).and_then(|object| server.stalled(object));
        let (state, detail) = state(Some(&job), stalled);
        out.0.push(vec![
            count(job.id.0),
            text(&job.name),
            text(if job.view { "view" } else { "table" }),
            state,
            count(job.epoch),
            count(job.metrics.rows_in),
            count(job.metrics.rows_out),
            count(job.metrics.busy_us),
            count(job.metrics.state_bytes as u64),
            detail,
        ]);
    }
}

fn topics(server: &Server, out: &mut Cells) {
    for topic in server.cluster.topics() {
        let bounds = crate::query::snapshot::partitions(&topic).filter_map(|p| server.cluster.log(p).ok());
        let records: i64 = bounds.map(|log| log.bounds()).map(|b| b.last_stable.0 - b.start.0).sum();
        let config: Vec<String> = topic.config.iter().map(|(name, value)| format!("{name}={value}")).collect();
        out.0.push(vec![
            text(&topic.name),
            Cell::Number(i64::from(topic.partitions)),
            Cell::Number(records),
            text(config.join(", ")),
        ]);
    }
}
