//! `INSERT`: rows of a query become records of a table's topic, in one log transaction, visible when it returns.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, new_null_array};
use arrow::datatypes::{DataType, Field, SchemaRef};
use datafusion::sql::sqlparser::ast::{CastKind, DataType as SqlType, Expr, SelectItem, SetExpr, Spanned, Value};
use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
use datafusion::sql::sqlparser::parser::Parser;
use engine::codec::Encode;
use engine::delta::Delta;
use engine::run::partition;
use futures::StreamExt;

use super::BatchStream;
use super::server::Server;
use crate::catalog::{Kind, Object};
use crate::error::{Error, Result, location_of, sqlstate};
use crate::expr::assign;
use crate::expr::values::is_untyped;
use crate::parse::{Insert, Name, Query};
use crate::query::pgtype;
use crate::types::{ColumnType, PG_TYPE};

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

/// The statement with each literal of its rows cast to the type of its column, so that literals are read, and checked,
/// as values of that type.
pub fn typed(server: &Server, database: &str, insert: &Insert) -> Result<Query> {
    let object = table(server, database, &insert.table)?;
    let schema = object.schema()?;
    let places = places(&schema, &insert.columns, usize::MAX)?;
    let types = places.iter().map(|place| sql_type(schema.field(*place))).collect::<Result<Vec<_>>>()?;
    let mut query = insert.query.clone();
    let cast = |cell: &mut Expr, data_type: &SqlType| {
        let (kind, data_type) = (CastKind::DoubleColon, data_type.clone());
        let expr = Box::new(std::mem::replace(cell, Expr::value(Value::Null)));
        *cell = Expr::Cast { kind, expr, data_type, array: false, format: None };
    };
    match query.ast.body.as_mut() {
        SetExpr::Values(values) => {
            // Rows of several lengths are told as such where they are planned.
            for row in values.rows.iter_mut().filter(|row| row.content.len() <= places.len()) {
                for ((cell, place), data_type) in row.content.iter_mut().zip(&places).zip(&types) {
                    check_literal(cell, schema.field(*place)).map_err(|e| e.at(location_of(cell.span())))?;
                    cast(cell, data_type);
                }
            }
        }
        SetExpr::Select(select) => {
            for (item, data_type) in select.projection.iter_mut().zip(&types) {
                let (SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. }) = item else { break };
                if is_untyped(expr) {
                    cast(expr, data_type);
                }
            }
        }
        _ => {}
    }
    // Its plan is not that of the same rows asked for.
    query.text = format!("INSERT INTO {} ({}) {}", object.name, insert.columns.join(", "), query.text);
    Ok(query)
}

/// The type that a value is brought to before it is assigned. Not one with a length: a cast would cut off what is too
/// long for the column.
fn sql_type(field: &Field) -> Result<SqlType> {
    let column = ColumnType::of(field);
    if column.length().is_some() {
        return Ok(SqlType::Text);
    }
    let name = column.name()?;
    let parsed = Parser::new(&PostgreSqlDialect {}).try_with_sql(&name).and_then(|mut parser| parser.parse_data_type());
    parsed.map_err(|e| Error::bug(format!("the type {name} is not read back")).caused_by(e))
}

/// A number or a truth value in the place of something else.
fn check_literal(cell: &Expr, column: &Field) -> Result<()> {
    let Expr::Value(value) = cell else { return Ok(()) };
    let given = match &value.value {
        Value::Boolean(_) => DataType::Boolean,
        Value::Number(..) => DataType::Int32,
        _ => return Ok(()),
    };
    check_assignment(&Field::new("", given, true), column)
}

/// What PostgreSQL would not put into the column without a cast.
fn check_assignment(given: &Field, column: &Field) -> Result<()> {
    use DataType::{Binary, Date32, Null, Time64, Timestamp, Utf8};
    let fits = match (given.data_type(), column.data_type()) {
        (Null, _) => true,
        (from, to) if from == to => true,
        (_, Utf8) => !column.metadata().contains_key(PG_TYPE),
        (from, to) if from.is_numeric() && to.is_numeric() => true,
        (Date32 | Timestamp(..), Date32 | Timestamp(..)) | (Timestamp(..), Time64(_)) | (Time64(_), Time64(_)) => true,
        (Binary | DataType::LargeBinary | DataType::BinaryView, Binary) => true,
        _ => false,
    };
    if fits {
        return Ok(());
    }
    let name = |field: &Field| ColumnType::of(field).name().unwrap_or_else(|_| field.data_type().to_string());
    let (column_name, wanted, given) = (column.name(), name(column), name(given));
    let message = format!("column \"{column_name}\" is of type {wanted} but expression is of type {given}");
    Err(Error::new(sqlstate::DATATYPE_MISMATCH, message).hint("add a type cast: expression::type"))
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
    let mut arrays = Vec::with_capacity(target.schema.fields().len());
    for (i, field) in target.schema.fields().iter().enumerate() {
        let array: ArrayRef = match places.iter().position(|p| *p == i) {
            Some(source) => {
                let given = batch.schema_ref().field(source);
                check_assignment(given, field)?;
                assign(batch.column(source), given, field)?
            }
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
