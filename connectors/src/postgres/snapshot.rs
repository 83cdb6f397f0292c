//! The tables as they were at the slot's consistent point, by COPY under the snapshot that the slot exported.

use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use engine::io::{self, SourceBatch};
use futures::TryStreamExt;
use tokio::sync::mpsc;
use tokio_postgres::Client;

use super::catalog::{self, Table};
use super::config::Settings;
use super::error::Error;
use super::position::Position;
use super::protocol::lsn::Lsn;
use super::protocol::walsender::{literal, quoted};
use super::rows::copy::Line;
use super::rows::source_block::{Mark, SourceBlock};
use super::rows::table::{Live, Pinned};
use crate::cdc::Assembler;
use crate::change::{Change, Op, Value, emptied};

/// How long a lock against ALTER and TRUNCATE is waited for: a waiting lock makes later readers of the table wait too.
const LOCK_TIMEOUT: &str = "10s";

/// Tables whose storage is another now than the snapshot sees. A rewrite (TRUNCATE, VACUUM FULL, some ALTER TABLE)
/// between the slot and our lock would make old rows invisible.
const REWRITTEN: &str = "
    SELECT c.oid::regclass::text FROM pg_class c
    WHERE (c.oid = ANY($1) OR c.oid IN (SELECT p.relid FROM unnest($1::oid[]) r, pg_partition_tree(r) p))
      AND c.relkind = 'r' AND c.relfilenode IS DISTINCT FROM pg_relation_filenode(c.oid)";

/// An open snapshot: a transaction that sees the database at the consistent point, its tables locked against change of
/// form.
pub struct Snapshot {
    client: Client,
    tables: Arc<[Pinned]>,
    position: Position,
    source: String,
    /// Microseconds since 1970, by the server's clock.
    at_us: i64,
}

impl Snapshot {
    /// Enters the exported snapshot and checks that it shows the tables that were found.
    pub async fn open(
        client: Client,
        name: &str,
        settings: &Settings,
        tables: Arc<[Pinned]>,
        position: Position,
    ) -> Result<Snapshot, io::Error> {
        let names: Vec<String> = tables.iter().map(|pinned| pinned.table.sql_name()).collect();
        let begin = format!(
            "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT {}; \
             SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'; LOCK TABLE {} IN ACCESS SHARE MODE",
            literal(name),
            names.join(", ")
        );
        client.batch_execute(&begin).await.map_err(Error::from)?;
        let oids: Vec<u32> = tables.iter().map(|pinned| pinned.table.oid).collect();
        if let Some(row) = client.query(REWRITTEN, &[&oids]).await.map_err(Error::from)?.first() {
            let name: String = row.get(0);
            return Err(io::Error::Outside(format!("{name} was rewritten while the snapshot was opened")));
        }
        let seen = catalog::find(&client, &settings.tables).await?;
        for Pinned { table, .. } in tables.iter() {
            let same = |seen: &Table| seen.oid == table.oid && seen.columns == table.columns && seen.key == table.key;
            if !seen.iter().any(same) {
                let name = table.full_name();
                return Err(
                    Error::Changed(format!("table {name} was changed while it was about to be captured")).into()
                );
            }
        }
        let row = client.query_one("SELECT (extract(epoch FROM now()) * 1000000)::bigint", &[]).await;
        let at_us = row.map_err(Error::from)?.get(0);
        Ok(Snapshot { client, tables, position, source: settings.source.clone(), at_us })
    }

    /// Copies all tables to `out`; the last batch has the position. False when nobody listens any more.
    pub async fn copy(self, out: &mpsc::Sender<Result<SourceBatch, io::Error>>) -> Result<bool, Error> {
        let mut writer = Writer::new(&self);
        for pinned in self.tables.iter() {
            let live = Live::pinned(pinned);
            let failed = |source| Error::Copy { table: pinned.table.full_name(), source };
            let rows = self.client.copy_out(&copy_sql(&pinned.table)).await.map_err(failed)?;
            let mut rows = pin!(rows);
            let mut copied = 0u64;
            while let Some(row) = rows.try_next().await.map_err(failed)? {
                copied += 1;
                writer.row(&live, row)?;
                if writer.assembler.is_full() {
                    let records = writer.assembler.take();
                    let batch = SourceBatch { records, position: None, snapshot_done: false };
                    if out.send(Ok(batch)).await.is_err() {
                        return Ok(false);
                    }
                }
            }
            writer.end_of_table(&live)?;
            tracing::info!(source = self.source, table = pinned.table.full_name(), rows = copied, "a table is copied");
        }
        self.client.batch_execute("COMMIT").await?;
        let records = writer.finish()?;
        let batch = SourceBatch { records, position: Some(self.position.to_bytes()), snapshot_done: true };
        Ok(out.send(Ok(batch)).await.is_ok())
    }
}

/// Rows to records. One row is held back, so that the last of all can be marked as such.
struct Writer {
    assembler: Assembler,
    block: SourceBlock,
    line: Line,
    values: Vec<Value<'static>>,
    held: Option<Bytes>,
    /// The held row's table, when that has ended.
    held_table: Option<Live>,
    first: bool,
    at: Lsn,
    at_us: i64,
}

impl Writer {
    fn new(snapshot: &Snapshot) -> Writer {
        let mut block = SourceBlock::new(&snapshot.source, &snapshot.position.database);
        block.begin(snapshot.at_us, None, None, None);
        block.mark(snapshot.at_us, Mark::First, None);
        let mut assembler = Assembler::new(false);
        assembler.begin(format_args!(""), snapshot.at_us.div_euclid(1000));
        Writer {
            assembler,
            block,
            line: Line::default(),
            values: Vec::new(),
            held: None,
            held_table: None,
            first: true,
            at: snapshot.position.end,
            at_us: snapshot.at_us,
        }
    }

    fn row(&mut self, live: &Live, row: Bytes) -> Result<(), Error> {
        let Some(held) = self.held.replace(row) else { return Ok(()) };
        match self.held_table.take() {
            Some(table) => self.write(&table, &held)?,
            None => self.write(live, &held)?,
        }
        if self.first {
            self.first = false;
            self.block.mark(self.at_us, Mark::True, None);
        }
        Ok(())
    }

    fn end_of_table(&mut self, live: &Live) -> Result<(), Error> {
        if self.held.is_some() && self.held_table.is_none() {
            self.held_table = Some(live.clone());
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Vec<(usize, log::NewRecord)>, Error> {
        if let (Some(held), Some(live)) = (self.held.take(), self.held_table.take()) {
            self.block.mark(self.at_us, Mark::Last, None);
            self.write(&live, &held)?;
        }
        self.assembler.commit();
        Ok(self.assembler.take())
    }

    fn write(&mut self, live: &Live, row: &[u8]) -> Result<(), Error> {
        let fields = self.line.split(row);
        if fields.len() != live.width() {
            let name = &live.relation.name;
            return Err(Error::Protocol(format!("a row of {name} with {} of {} columns", fields.len(), live.width())));
        }
        let mut values = emptied(std::mem::take(&mut self.values));
        for (at, field) in fields.enumerate() {
            values.push(match field {
                None => Value::Null,
                Some(text) => live.read(at, text, self.at)?,
            });
        }
        let change = Change { op: Op::Read, before: None, after: Some(&values) };
        let (block, lsn) = (&self.block, self.at);
        self.assembler
            .push(&live.relation, change, self.at_us, |out| block.write(out, &live.names, lsn))
            .map_err(|unfit| Error::Unfit { lsn, unfit })?;
        self.values = emptied(values);
        Ok(())
    }
}

/// A partitioned table has no rows of its own, and COPY reads only such.
fn copy_sql(table: &Table) -> String {
    let columns: Vec<String> = table.columns.iter().map(|column| quoted(&column.name)).collect();
    let (columns, name) = (columns.join(", "), table.sql_name());
    match table.partitioned {
        true => format!("COPY (SELECT {columns} FROM {name}) TO STDOUT"),
        false => format!("COPY {name} ({columns}) TO STDOUT"),
    }
}
