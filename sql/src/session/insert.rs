//! `INSERT`: rows of a query become records of a table's topic, in one log transaction, visible when it returns.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, new_null_array};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::SchemaRef;
use datafusion::sql::sqlparser::ast::{Expr, SetExpr, Value};
use engine::codec::Encode;
use engine::delta::Delta;
use engine::run::partition;
use futures::StreamExt;

use super::BatchStream;
use super::server::Server;
use crate::catalog::{Kind, Object};
use crate::error::{Error, Result, sqlstate};
use crate::parse::{Insert, Name};
use crate::query::pgtype;

/// Bytes of records that a statement or transaction may insert: they are gathered in memory.
const INSERT_BYTES_MAX: usize = 64 << 20;
/// A record's share of memory besides key and value.
const RECORD_OVERHEAD_BYTES: usize = 96;

/// The table that rows go to.
pub struct Target {
    name: String,
    topic: log::Topic,
    schema: SchemaRef,
    key: Vec<usize>,
    encode: Box<dyn Encode>,
}

/// Rows of one statement as records.
pub struct Encoded {
    topic: log::Topic,
    records: Vec<log::NewRecord>,
    bytes: usize,
    pub rows: usize,
}

/// What a transaction has inserted so far.
#[derive(Default)]
pub struct Buffered {
    parts: Vec<Encoded>,
    bytes: usize,
}

impl Buffered {
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Where rows wait to go.
    pub fn topics(&self) -> impl Iterator<Item = log::TopicId> {
        self.parts.iter().map(|part| part.topic.id)
    }

    pub fn add(&mut self, part: Encoded) -> Result<()> {
        self.bytes += part.bytes;
        if self.bytes > INSERT_BYTES_MAX {
            return Err(too_much());
        }
        self.parts.push(part);
        Ok(())
    }
}

fn too_much() -> Error {
    let message = format!("a transaction can insert at most {} MiB", INSERT_BYTES_MAX >> 20);
    Error::new(sqlstate::PROGRAM_LIMIT_EXCEEDED, message)
        .hint("insert in several statements, or write to the topic with any Kafka client")
}

/// The table that `name` means.
fn table(server: &Server, database: &str, name: &Name) -> Result<Arc<Object>> {
    let object = server.relation(database, &name.parts)?.ok_or_else(|| {
        Error::new(sqlstate::UNDEFINED_TABLE, format!("relation \"{name}\" does not exist")).at(name.location)
    })?;
    match &object.kind {
        Kind::Table(table) if table.source.is_none() => Ok(object),
        Kind::Table(_) => Err(Error::new(sqlstate::WRONG_OBJECT_TYPE, format!("cannot insert into table \"{name}\""))
            .at(name.location)
            .detail("it is captured from a source")
            .hint("insert into the table in the source database")),
        _ => {
            Err(Error::new(sqlstate::WRONG_OBJECT_TYPE, format!("cannot insert into view \"{name}\""))
                .at(name.location))
        }
    }
}

/// The columns of the table that the statement's columns go to; without a list the first ones, as many as are given.
fn places(schema: &SchemaRef, columns: &[String], given: usize) -> Result<Vec<usize>> {
    if columns.is_empty() {
        return Ok((0..schema.fields().len().min(given)).collect());
    }
    let mut places = Vec::with_capacity(columns.len());
    for name in columns {
        let place = schema.index_of(name).map_err(|_| {
            Error::new(sqlstate::UNDEFINED_COLUMN, format!("column \"{name}\" of the table does not exist"))
        })?;
        if places.contains(&place) {
            return Err(Error::new(sqlstate::DUPLICATE_COLUMN, format!("column \"{name}\" specified more than once")));
        }
        places.push(place);
    }
    Ok(places)
}

/// The types of parameters that stand in `VALUES` for whole columns: those of the columns, unless the client gave others.
pub fn declare(server: &Server, database: &str, insert: &Insert, declared: &[u32]) -> Result<Vec<u32>> {
    let object = table(server, database, &insert.table)?;
    let schema = object.schema()?;
    let places = places(&schema, &insert.columns, usize::MAX)?;
    let mut types = declared.to_vec();
    let SetExpr::Values(values) = insert.query.ast.body.as_ref() else { return Ok(types) };
    for row in &values.rows {
        for (expr, place) in row.iter().zip(&places) {
            let Expr::Value(value) = expr else { continue };
            let Value::Placeholder(id) = &value.value else { continue };
            let Some(index) = id.strip_prefix('$').and_then(|n| n.parse::<u16>().ok()).filter(|n| *n > 0) else {
                continue;
            };
            let index = usize::from(index);
            if types.len() < index {
                types.resize(index, 0);
            }
            if types[index - 1] == 0 {
                types[index - 1] = pgtype::of(schema.field(*place)).oid;
            }
        }
    }
    Ok(types)
}

pub fn target(server: &Server, database: &str, name: &Name) -> Result<Target> {
    let object = table(server, database, name)?;
    let Kind::Table(table) = &object.kind else { return Err(Error::bug("a table was expected")) };
    let schema = object.schema()?;
    let key = (!table.key.is_empty()).then_some(table.key.as_slice());
    let format = server.format(&table.format)?;
    let encode = format.encode(Arc::clone(&schema), key, table.append_only, &table.options).map_err(|reason| {
        Error::new(sqlstate::FEATURE_NOT_SUPPORTED, format!("cannot insert into table \"{name}\"")).detail(reason)
    })?;
    let topic = server.topic(&table.topic, table.topic_id)?;
    if let Some(writer) = log::cluster::config::writer(&topic.config) {
        return Err(Error::new(sqlstate::WRONG_OBJECT_TYPE, format!("cannot insert into table \"{name}\""))
            .at(name.location)
            .detail(format!("its topic is written by {writer} alone")));
    }
    Ok(Target { name: name.to_string(), topic, schema, key: table.key.clone(), encode })
}

/// Reads all rows and encodes them.
pub async fn encode(target: &Target, columns: &[String], mut rows: BatchStream) -> Result<Encoded> {
    let mut out = Encoded { topic: target.topic.clone(), records: Vec::new(), bytes: 0, rows: 0 };
    while let Some(batch) = rows.next().await {
        let batch = batch?;
        let places = places(&target.schema, columns, batch.num_columns())?;
        let batch = arrange(target, &places, &batch)?;
        let before = out.records.len();
        out.rows += batch.num_rows();
        target.encode.encode(0, &Delta::appended(batch), None, &mut out.records)?;
        for record in &mut out.records[before..] {
            // These rows come from no epoch.
            record.headers.clear();
            let size = record.key.as_ref().map_or(0, |k| k.len()) + record.value.as_ref().map_or(0, |v| v.len());
            out.bytes += size + RECORD_OVERHEAD_BYTES;
        }
        if out.bytes > INSERT_BYTES_MAX {
            return Err(too_much());
        }
    }
    Ok(out)
}

/// The rows under the table's columns: those left out are NULL, values are brought to the columns' types.
fn arrange(target: &Target, places: &[usize], batch: &RecordBatch) -> Result<RecordBatch> {
    let (given, columns) = (batch.num_columns(), places.len());
    if given != columns {
        let message = match given > columns {
            true => "INSERT has more expressions than target columns",
            false => "INSERT has more target columns than expressions",
        };
        return Err(Error::new(sqlstate::SYNTAX_ERROR, message));
    }
    let strict = CastOptions { safe: false, ..CastOptions::default() };
    let mut arrays = Vec::with_capacity(target.schema.fields().len());
    for (i, field) in target.schema.fields().iter().enumerate() {
        let array: ArrayRef = match places.iter().position(|p| *p == i) {
            Some(source) => cast_with_options(batch.column(source), field.data_type(), &strict)?,
            None => new_null_array(field.data_type(), batch.num_rows()),
        };
        if array.null_count() > 0 && (!field.is_nullable() || target.key.contains(&i)) {
            let (column, table) = (field.name(), &target.name);
            let message =
                format!("null value in column \"{column}\" of relation \"{table}\" violates not-null constraint");
            return Err(Error::new(sqlstate::NOT_NULL_VIOLATION, message));
        }
        arrays.push(array);
    }
    Ok(RecordBatch::try_new(Arc::clone(&target.schema), arrays)?)
}

/// Writes everything in one log transaction and returns when readers see it.
pub async fn write(server: &Server, buffered: Buffered) -> Result<()> {
    let mut records: BTreeMap<log::TopicPartition, Vec<log::NewRecord>> = BTreeMap::new();
    for part in buffered.parts {
        let partitions = usize::try_from(part.topic.partitions).unwrap_or(1).max(1);
        for (index, of_partition) in partition::by_key(part.records, partitions) {
            let partition = log::TopicPartition { topic: part.topic.id, partition: index as i32 };
            records.entry(partition).or_default().extend(of_partition);
        }
    }
    let cut = match records.len() {
        0 => return Ok(()),
        1 if records.values().all(|r| r.len() == 1) => append_one(server, records).await?,
        _ => append_all(server, records).await?,
    };
    server.engine.wait_for(&cut).await?;
    Ok(())
}

/// A single record is whole by itself and needs no transaction.
async fn append_one(server: &Server, records: BTreeMap<log::TopicPartition, Vec<log::NewRecord>>) -> Result<log::Cut> {
    let mut cut = log::Cut::default();
    for (partition, records) in records {
        let offset = server.cluster.log(partition)?.append(records).await?;
        cut.0.insert(partition, log::Offset(offset.0 + 1));
    }
    Ok(cut)
}

async fn append_all(server: &Server, records: BTreeMap<log::TopicPartition, Vec<log::NewRecord>>) -> Result<log::Cut> {
    let mut producer = server.producers.take(&*server.cluster).await?;
    for (partition, records) in records {
        if let Err(error) = producer.append(partition, records).await {
            // The producer is dropped with its open transaction, which is aborted.
            return Err(error.into());
        }
    }
    let committed = producer.commit().await?;
    server.producers.put(producer);
    Ok(log::Cut(committed.ranges.into_iter().map(|(partition, _, end)| (partition, end)).collect()))
}
