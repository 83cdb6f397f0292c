//! [`PostgresSource`]: a source from start to removal. Its tasks are joined by a bounded channel.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use engine::io::{self, Source, SourceBatch, SourceRelation};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::catalog::Table;
use super::check;
use super::config::Settings;
use super::error::{Error, lost, user};
use super::position::{self, Captured, Position};
use super::protocol::walsender::{Identity, Walsender};
use super::rows::table::Pinned;
use super::server;
use super::session::Session;
use super::snapshot::Snapshot;
use super::stream::{Progress, follow, report};
use super::watch::Watch;

/// Chunks on their way to the driver, about a megabyte each.
const CHUNKS_MAX: usize = 4;
/// How long a server may say nothing that does not say itself how long we may (`wal_sender_timeout = 0`).
const SILENCE_DEFAULT: Duration = Duration::from_secs(60);

pub struct PostgresSource {
    pub(super) settings: Settings,
    tables: Vec<Table>,
    relations: Vec<SourceRelation>,
    version: u32,
    running: Option<Running>,
}

struct Running {
    batches: mpsc::Receiver<Result<SourceBatch, io::Error>>,
    progress: Arc<Progress>,
    /// Aborted when dropped.
    _tasks: JoinSet<()>,
}

/// What a stream needs to begin.
struct Stream {
    walsender: Walsender,
    tables: Arc<[Pinned]>,
    position: Position,
    settings: Settings,
    progress: Arc<Progress>,
}

impl PostgresSource {
    pub fn new(settings: Settings, tables: Vec<Table>, version: u32) -> PostgresSource {
        let relations = tables.iter().map(Table::relation).collect();
        PostgresSource { settings, tables, relations, version, running: None }
    }

    async fn begin(&mut self) -> Result<(), io::Error> {
        if let Some(table) = self.tables.iter().find(|table| !table.identified) {
            return Err(user(check::no_identity(table), check::no_identity_fix(table)));
        }
        let client = server::connect(&self.settings).await?;
        server::remove(&client, &self.settings, false).await?;
        let tables: Vec<&Table> = self.tables.iter().collect();
        server::create_publication(&client, &self.settings, &tables).await?;
        let (mut walsender, identity) = self.walsender().await?;
        let patience = self.settings.pace.slot_patience;
        let slot = match walsender.create_slot(&self.settings.slot, self.version, patience).await {
            Ok(slot) => slot,
            Err(Error::Timeout(_)) => {
                let waiting_for = server::oldest_transaction(&client).await;
                // The server would go on waiting, with the slot in its hands.
                let stopped = client.execute("SELECT pg_terminate_backend($1)", &[&walsender.pid]).await;
                stopped.map_err(Error::from)?;
                return Err(io::Error::Outside(format!(
                    "making a replication slot waits for open transactions to end; the oldest: {}",
                    waiting_for.as_deref().unwrap_or("none visible")
                )));
            }
            Err(error) => return Err(error.into()),
        };
        let position = Position {
            version: position::VERSION,
            system: identity.system,
            database: identity.database,
            slot: self.settings.slot.clone(),
            commit: Default::default(),
            end: slot.consistent_point,
            tables: self.tables.iter().map(|table| Captured::new(table, table.columns.len())).collect(),
        };
        let tables: Arc<[Pinned]> =
            self.tables.iter().cloned().enumerate().map(|(index, table)| Pinned { index, table }).collect();
        let snapshot =
            Snapshot::open(client, &slot.snapshot, &self.settings, Arc::clone(&tables), position.clone()).await?;
        let (source, lsn) = (&self.settings.source, position.end);
        tracing::info!(source, tables = tables.len(), %lsn, "the snapshot begins");
        let progress = Arc::new(Progress::new(position.end));
        self.run(Some(snapshot), Stream { walsender, tables, position, settings: self.settings.clone(), progress });
        Ok(())
    }

    async fn resume(&mut self, position: Position) -> Result<(), io::Error> {
        if position.slot != self.settings.slot {
            let (stored, given) = (&position.slot, &self.settings.slot);
            return Err(lost(
                format!("the stored position is of the replication slot {stored}, the options say {given}"),
                "give the former slot.name",
            ));
        }
        let (walsender, identity) = self.walsender().await?;
        check_identity(&identity, &position)?;
        let client = server::connect(&self.settings).await?;
        let tables = self.pinned(&position)?;
        let captured: Vec<&Table> = tables.iter().map(|pinned| &pinned.table).collect();
        server::check_publication(&client, &self.settings, &captured).await?;
        server::check_slot(&client, &self.settings, &position).await?;
        tracing::info!(source = self.settings.source, lsn = %position.end, "the stream goes on");
        let progress = Arc::new(Progress::new(position.end));
        self.run(None, Stream { walsender, tables, position, settings: self.settings.clone(), progress });
        Ok(())
    }

    async fn walsender(&self) -> Result<(Walsender, Identity), Error> {
        let mut walsender = Walsender::connect(&self.settings.server, &self.settings.application()).await?;
        let identity = walsender.identify().await?;
        Ok((walsender, identity))
    }

    /// The tables of the position, with the columns they had when they were captured.
    fn pinned(&self, position: &Position) -> Result<Arc<[Pinned]>, io::Error> {
        let again = "drop the source and create it again";
        let pin = |captured: &Captured| {
            let Captured(oid, columns, _) = captured;
            let Some(index) = self.tables.iter().position(|table| table.oid == *oid) else {
                return Err(lost(
                    format!("a captured table (oid {oid}) was dropped, replaced or is no longer chosen"),
                    again,
                ));
            };
            let mut table = self.tables[index].clone();
            if Captured::new(&table, *columns) != *captured {
                let message =
                    format!("table {} has other columns or another key than when it was captured", table.full_name());
                return Err(lost(message, again));
            }
            table.columns.truncate(*columns);
            Ok(Pinned { index, table })
        };
        position.tables.iter().map(pin).collect()
    }

    fn run(&mut self, snapshot: Option<Snapshot>, stream: Stream) {
        let (out, batches) = mpsc::channel(CHUNKS_MAX);
        let progress = Arc::clone(&stream.progress);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            if let Err(error) = work(snapshot, stream, &out).await {
                // Nobody listening any more is no error.
                let _ = out.send(Err(error)).await;
            }
        });
        self.running = Some(Running { batches, progress, _tasks: tasks });
    }
}

/// Snapshot, then stream.
async fn work(
    snapshot: Option<Snapshot>,
    stream: Stream,
    out: &mpsc::Sender<Result<SourceBatch, io::Error>>,
) -> Result<(), io::Error> {
    if let Some(snapshot) = snapshot
        && !snapshot.copy(out).await?
    {
        return Ok(());
    }
    let Stream { mut walsender, tables, position, settings, progress } = stream;
    let mut interval = settings.pace.status;
    let mut silence = SILENCE_DEFAULT;
    if let Some(timeout) = walsender.server_timeout().await? {
        interval = interval.min(timeout / 4).max(Duration::from_millis(10));
        silence = timeout;
    }
    let (receiver, sender) = walsender.stream(&settings.slot, &settings.publication, position.end).await?;
    // The slot is ours now. Had somebody moved it on since it was checked, the server would have begun there silently.
    let client = server::connect(&settings).await?;
    server::check_slot(&client, &settings, &position).await?;
    let (watch, doubts) = Watch::begin(client, settings.clone(), Arc::clone(&tables)).await?;
    let session = Session::new(&settings.source, tables, position, settings.transaction_metadata);
    let mut reporting = JoinSet::new();
    let reported = Arc::clone(&progress);
    reporting.spawn(async move {
        // A connection that cannot be written to cannot be read from either: the reader says so.
        if let Err(error) = report(sender, &reported, interval).await {
            tracing::debug!(%error, "reporting to PostgreSQL ended");
        }
    });
    tokio::select! {
        biased;
        followed = follow(receiver, session, &progress, out, doubts, settings.pace, silence) => Ok(followed?),
        gone = watch.run() => Err(gone),
    }
}

fn check_identity(identity: &Identity, position: &Position) -> Result<(), io::Error> {
    let again = "point the url to the server that was captured, or drop the source and create it again";
    if identity.system != position.system {
        let (now, then) = (&identity.system, &position.system);
        return Err(lost(format!("another server: its system identifier is {now}, the position is of {then}"), again));
    }
    if identity.database != position.database {
        let (now, then) = (&identity.database, &position.database);
        return Err(lost(format!("another database: {now}, the position is of {then}"), again));
    }
    if identity.at < position.end {
        let (now, then) = (identity.at, position.end);
        let message = format!(
            "the server's log ends at {now}, before the stored position {then}: it was restored or failed over"
        );
        return Err(lost(message, again));
    }
    Ok(())
}

#[async_trait]
impl Source for PostgresSource {
    fn relations(&self) -> &[SourceRelation] {
        &self.relations
    }

    fn keep(&mut self, relations: &BTreeSet<(String, String)>) -> Result<(), io::Error> {
        let source = &self.settings.source;
        self.tables.retain(|table| {
            let kept = relations.contains(&(table.schema.clone(), table.name.clone()));
            if !kept {
                let table = table.full_name();
                tracing::warn!(source, table, "the table came after the source was created and is not captured");
            }
            kept
        });
        self.relations = self.tables.iter().map(Table::relation).collect();
        let there = |schema: &str, name: &str| self.tables.iter().any(|t| t.schema == schema && t.name == name);
        match relations.iter().find(|(schema, name)| !there(schema, name)) {
            None => Ok(()),
            Some((schema, name)) => Err(lost(
                format!("table {schema}.{name} was dropped, renamed or can no longer be captured"),
                "changes of it are missing: drop the source and create it again",
            )),
        }
    }

    async fn start(&mut self, position: Option<Vec<u8>>) -> Result<(), io::Error> {
        self.running = None;
        match position {
            None => self.begin().await,
            Some(bytes) => self.resume(Position::from_bytes(&bytes)?).await,
        }
    }

    async fn next(&mut self) -> Result<SourceBatch, io::Error> {
        let Some(running) = &mut self.running else {
            return Err(io::Error::Outside("the source is not started".into()));
        };
        let batch = running.batches.recv().await;
        match batch {
            Some(Ok(batch)) => Ok(batch),
            Some(Err(error)) => {
                self.running = None;
                Err(error)
            }
            None => {
                self.running = None;
                Err(io::Error::Outside("the stream ended".into()))
            }
        }
    }

    fn durable(&mut self, position: &[u8]) {
        if let Some(running) = &self.running
            && let Ok(position) = Position::from_bytes(position)
        {
            running.progress.durable(position.end);
        }
    }

    async fn remove(&mut self) -> Result<(), io::Error> {
        self.running = None;
        server::remove_all(&self.settings).await
    }
}
