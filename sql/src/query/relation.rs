//! [`Relation`]: a catalog's relation as DataFusion's table, read at the epoch that the statement has pinned.
//!
//! A plan names relations without an epoch, so that it can be prepared once; the epoch comes with the execution, as
//! [`Snapshot`] in the session configuration.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::{Column, Constraints, ScalarValue};
use datafusion::error::{DataFusionError, Result as DfResult};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{BinaryExpr, Expr, Operator, TableProviderFilterPushDown, TableType};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::stream::RecordBatchReceiverStreamBuilder;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};
use engine::codec::Decode;
use engine::graph::RelationId;

use super::snapshot::Snapshot;
use crate::error::Error;

/// Batches that may wait between the reader of a relation and the query: two, so that both sides work at once.
const BATCHES_AHEAD: usize = 2;
/// Bytes of log read at a time.
const READ_BYTES: usize = 1 << 20;
/// Keys of an `IN` list up to which rows are looked up rather than all read.
const KEYS_MAX: usize = 1024;

/// Where the rows of a relation are.
#[derive(Clone)]
pub enum Rows {
    /// In the engine's state: views and upsert tables.
    Stored(RelationId),
    /// In its topic alone. `id` is set where the engine knows the relation and so its cut.
    Appended { id: Option<RelationId>, topic: log::Topic, decode: Arc<dyn Decode> },
}

/// One relation that a SELECT can read.
#[derive(Clone)]
pub struct Relation {
    pub name: String,
    pub schema: SchemaRef,
    /// Indices of the key columns, where rows can be looked up by it.
    pub key: Vec<usize>,
    pub view: bool,
    /// Its primary key, where it has one.
    pub constraints: Constraints,
    pub rows: Rows,
}

impl fmt::Debug for Relation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Relation").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Relation {
    /// The engine's id, where the relation has to have caught up before it is read.
    pub fn id(&self) -> Option<RelationId> {
        match &self.rows {
            Rows::Stored(id) => Some(*id),
            Rows::Appended { id, .. } => *id,
        }
    }

    fn key_column(&self, column: &Column) -> Option<usize> {
        self.key.iter().position(|k| self.schema.field(*k).name() == column.name())
    }

    /// The values a filter allows for one key column: (place in the key, values). `None` for any other filter.
    fn key_values(&self, filter: &Expr) -> Option<(usize, Vec<ScalarValue>)> {
        let (column, values) = match filter {
            Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq, right }) => match (left.as_ref(), right.as_ref()) {
                (Expr::Column(column), Expr::Literal(value, _)) | (Expr::Literal(value, _), Expr::Column(column)) => {
                    (column, vec![value.clone()])
                }
                _ => return None,
            },
            Expr::InList(list) if !list.negated && list.list.len() <= KEYS_MAX => {
                let Expr::Column(column) = list.expr.as_ref() else { return None };
                let literal = |e: &Expr| if let Expr::Literal(v, _) = e { Some(v.clone()) } else { None };
                (column, list.list.iter().map(literal).collect::<Option<Vec<_>>>()?)
            }
            _ => return None,
        };
        let place = self.key_column(column)?;
        let expected = self.schema.field(self.key[place]).data_type();
        values.iter().all(|v| v.data_type() == *expected).then_some((place, values))
    }

    /// The keys that `filters` leave, when they bind every key column (at most one of them to several values).
    fn keys(&self, filters: &[Expr]) -> Option<RecordBatch> {
        if self.key.is_empty() || !matches!(self.rows, Rows::Stored(_)) {
            return None;
        }
        let mut bound: Vec<Option<Vec<ScalarValue>>> = vec![None; self.key.len()];
        for (place, mut values) in filters.iter().filter_map(|f| self.key_values(f)) {
            // A key stands once in the answer, however often the list names it.
            let mut seen = std::collections::HashSet::new();
            values.retain(|v| !v.is_null() && seen.insert(v.clone()));
            bound[place].get_or_insert(values);
        }
        let bound: Vec<_> = bound.into_iter().collect::<Option<_>>()?;
        if bound.iter().filter(|v| v.len() != 1).count() > 1 {
            return None;
        }
        let rows = bound.iter().map(Vec::len).find(|n| *n != 1).unwrap_or(1);
        let columns = bound.into_iter().map(|values| match values.len() {
            1 => values[0].to_array_of_size(rows),
            0 => ScalarValue::Null.to_array_of_size(0),
            _ => ScalarValue::iter_to_array(values),
        });
        let columns: Vec<_> = columns.collect::<DfResult<_>>().ok()?;
        if rows == 0 {
            return Some(RecordBatch::new_empty(Arc::new(self.schema.project(&self.key).ok()?)));
        }
        RecordBatch::try_new(Arc::new(self.schema.project(&self.key).ok()?), columns).ok()
    }
}

#[async_trait]
impl TableProvider for Relation {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn constraints(&self) -> Option<&Constraints> {
        Some(&self.constraints)
    }

    fn table_type(&self) -> TableType {
        if self.view { TableType::View } else { TableType::Base }
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> DfResult<Vec<TableProviderFilterPushDown>> {
        // Inexact: whether all key columns are bound shows only in `scan`; the filter stays above, on few rows.
        let decide = |f: &&Expr| match self.key_values(f) {
            Some(_) => TableProviderFilterPushDown::Inexact,
            None => TableProviderFilterPushDown::Unsupported,
        };
        Ok(filters.iter().map(decide).collect())
    }

    async fn scan(
        &self,
        _state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        let schema = match projection {
            Some(columns) => Arc::new(self.schema.project(columns)?),
            None => Arc::clone(&self.schema),
        };
        let partition = Partition {
            relation: self.clone(),
            projection: projection.cloned(),
            schema: Arc::clone(&schema),
            keys: self.keys(filters),
        };
        Ok(Arc::new(StreamingTableExec::try_new(schema, vec![Arc::new(partition)], None, [], false, limit)?))
    }
}

/// The rows that one scan reads, once it is executed.
struct Partition {
    relation: Relation,
    projection: Option<Vec<usize>>,
    schema: SchemaRef,
    keys: Option<RecordBatch>,
}

impl fmt::Debug for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = match &self.keys {
            Some(keys) => format!("{} keys of {}", keys.num_rows(), self.relation.name),
            None => format!("all of {}", self.relation.name),
        };
        f.debug_tuple("Partition").field(&how).finish()
    }
}

impl PartitionStream for Partition {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, context: Arc<TaskContext>) -> SendableRecordBatchStream {
        let mut builder = RecordBatchReceiverStreamBuilder::new(Arc::clone(&self.schema), BATCHES_AHEAD);
        let sender = Batches { to: builder.tx(), schema: Arc::clone(&self.schema) };
        let snapshot = context.session_config().get_extension::<Snapshot>();
        let (relation, projection, keys) = (self.relation.clone(), self.projection.clone(), self.keys.clone());
        match relation.rows {
            Rows::Stored(id) => builder.spawn_blocking(move || {
                let snapshot = snapshot.ok_or_else(no_snapshot)?;
                read_store(&snapshot, id, projection.as_deref(), keys.as_ref(), &sender)
            }),
            Rows::Appended { id, topic, decode } => builder.spawn(async move {
                let snapshot = snapshot.ok_or_else(no_snapshot)?;
                read_log(&snapshot, id, &topic, decode.as_ref(), projection.as_deref(), &sender).await
            }),
        }
        builder.build()
    }
}

fn no_snapshot() -> DataFusionError {
    Error::bug("a relation was read outside of a statement").into()
}

/// Where read rows go. A closed channel is the query's end, not an error.
struct Batches {
    to: tokio::sync::mpsc::Sender<DfResult<RecordBatch>>,
    schema: SchemaRef,
}

impl Batches {
    /// The batch under the announced schema: stores and formats may leave out metadata.
    fn shaped(&self, batch: &RecordBatch) -> DfResult<RecordBatch> {
        let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        let columns = batch.columns().to_vec();
        Ok(RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)?)
    }
}

fn read_store(
    snapshot: &Snapshot,
    id: RelationId,
    projection: Option<&[usize]>,
    keys: Option<&RecordBatch>,
    out: &Batches,
) -> DfResult<()> {
    let store = snapshot.store(id)?;
    let epoch = snapshot.epoch();
    if let Some(keys) = keys {
        let found = store.get(epoch, keys).map_err(Error::from)?;
        let found = match projection {
            Some(columns) => found.project(columns)?,
            None => found,
        };
        // The receiver is gone when the query has ended.
        let _ = out.to.blocking_send(out.shaped(&found));
        return Ok(());
    }
    for batch in store.scan(epoch, projection).map_err(Error::from)? {
        let batch = batch.map_err(Error::from)?;
        if out.to.blocking_send(out.shaped(&batch)).is_err() {
            break;
        }
    }
    Ok(())
}

async fn read_log(
    snapshot: &Snapshot,
    id: Option<RelationId>,
    topic: &log::Topic,
    decode: &dyn Decode,
    projection: Option<&[usize]>,
    out: &Batches,
) -> DfResult<()> {
    for partition in super::snapshot::partitions(topic) {
        let log = snapshot.cluster.log(partition).map_err(Error::from)?;
        let end = snapshot.end(id, partition);
        let mut from = log.bounds().start;
        while from < end {
            let read = log.read(from, end, READ_BYTES, log::Isolation::Committed).await.map_err(Error::from)?;
            let mut records = Vec::new();
            for batch in &read.batches {
                for record in batch.records().map_err(|e| corrupt(topic, from, e))? {
                    let record = record.map_err(|e| corrupt(topic, from, e))?;
                    if record.offset >= from && record.offset < end {
                        records.push(record);
                    }
                }
            }
            if !records.is_empty() {
                let rows = decode.decode(partition, &records).map_err(|e| undecodable(topic, &e))?.rows;
                let rows = match projection {
                    Some(columns) => rows.project(columns)?,
                    None => rows,
                };
                if out.to.send(out.shaped(&rows)).await.is_err() {
                    return Ok(());
                }
            }
            if read.next <= from {
                break;
            }
            from = read.next;
        }
    }
    Ok(())
}

fn corrupt(
    topic: &log::Topic,
    from: log::Offset,
    error: impl Any + std::error::Error + Send + Sync,
) -> DataFusionError {
    let message = format!("corrupt batch in topic {} at or after offset {}", topic.name, from.0);
    Error::new(crate::error::sqlstate::IO_ERROR, message).detail(error.to_string()).into()
}

fn undecodable(topic: &log::Topic, error: &engine::codec::DecodeError) -> DataFusionError {
    let message = format!("record at offset {} of topic {} cannot be decoded", error.offset.0, topic.name);
    Error::new(crate::error::sqlstate::INVALID_TEXT_REPRESENTATION, message).detail(error.reason.clone()).into()
}
