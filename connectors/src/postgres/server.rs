//! What a source makes and checks on the server: the slot and the publication, by SQL.

use std::collections::HashMap;
use std::time::Duration;

use engine::io;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, NoTls};

use super::catalog::Table;
use super::config::{CONNECT_TIMEOUT, Settings};
use super::error::{Error, lost, user};
use super::position::Position;
use super::protocol::lsn::Lsn;
use super::protocol::walsender::{literal, quoted};

/// How long the slot's user is given to go after it was told to.
const LEAVE_POLLS: u32 = 100;
const LEAVE_POLL: Duration = Duration::from_millis(100);

/// A replication slot as the server shows it.
#[derive(Debug)]
pub struct Slot {
    pub plugin: Option<String>,
    pub database: Option<String>,
    pub active_pid: Option<i32>,
    pub wal_status: Option<String>,
    pub confirmed: Option<Lsn>,
    /// `application_name` of the user, and whether it is streaming.
    pub application: Option<String>,
    pub streaming: bool,
}

const SLOT: &str = "
    SELECT s.plugin::text, s.database::text, s.active_pid, s.wal_status, s.confirmed_flush_lsn::text,
           coalesce(r.application_name, a.application_name), coalesce(r.state IN ('streaming', 'catchup'), false)
    FROM pg_replication_slots s
    LEFT JOIN pg_stat_activity a ON a.pid = s.active_pid
    LEFT JOIN pg_stat_replication r ON r.pid = s.active_pid
    WHERE s.slot_name = $1";

/// How long removing what is ours may take, waiting for its user to go included.
const REMOVE_TIMEOUT: Duration = Duration::from_secs(30);

/// Connects for SQL; the connection is driven by its own task and closed when the client is dropped. What is committed on it
/// waits for no standby: that may be this source, which has not begun.
pub async fn connect(settings: &Settings) -> Result<Client, Error> {
    // The driver's own limit ends with the TCP connection: a server that takes it may still not answer.
    let timeout = settings.server.get_connect_timeout().copied().unwrap_or(CONNECT_TIMEOUT);
    let connecting = settings.server.connect(NoTls);
    let connected = tokio::time::timeout(timeout, connecting).await.map_err(|_| Error::Timeout(timeout))?;
    let (client, connection) = connected.map_err(|error| match error.as_db_error() {
        Some(_) => Error::from(error),
        None => Error::Io(std::io::Error::other(format!("{}: {error}", addresses(settings)))),
    })?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "connection to PostgreSQL ended");
        }
    });
    let setting = client.batch_execute("SET synchronous_commit = local");
    tokio::time::timeout(timeout, setting).await.map_err(|_| Error::Timeout(timeout))??;
    Ok(client)
}

/// Where the url leads, for people.
fn addresses(settings: &Settings) -> String {
    let hosts = settings.server.get_hosts().iter().map(|host| match host {
        tokio_postgres::config::Host::Tcp(name) => name.clone(),
        tokio_postgres::config::Host::Unix(path) => path.display().to_string(),
    });
    let ports = settings.server.get_ports();
    let port = |n: usize| ports.get(n).or(ports.first()).copied().unwrap_or(5432);
    hosts.enumerate().map(|(n, host)| format!("{host}:{}", port(n))).collect::<Vec<_>>().join(", ")
}

pub async fn version(client: &Client) -> Result<u32, Error> {
    let row = client.query_one("SELECT current_setting('server_version_num')::int", &[]).await?;
    Ok(row.get::<_, i32>(0).unsigned_abs())
}

pub async fn slot(client: &Client, name: &str) -> Result<Option<Slot>, Error> {
    let row = client.query_opt(SLOT, &[&name]).await?;
    Ok(row.map(|row| Slot {
        plugin: row.get(0),
        database: row.get(1),
        active_pid: row.get(2),
        wal_status: row.get(3),
        confirmed: row.get::<_, Option<String>>(4).and_then(|lsn| lsn.parse().ok()),
        application: row.get(5),
        streaming: row.get(6),
    }))
}

/// The publication's comment, by which ours are known: outer `None` when there is no such publication.
pub async fn publication(client: &Client, name: &str) -> Result<Option<Option<String>>, Error> {
    let sql = "SELECT obj_description(oid, 'pg_publication') FROM pg_publication WHERE pubname = $1";
    Ok(client.query_opt(sql, &[&name]).await?.map(|row| row.get(0)))
}

/// What marks a publication as made by this source.
pub fn mark(settings: &Settings) -> String {
    format!("made by riverrun for the source {}", settings.source)
}

/// Publishes exactly these tables. Waits for locks on them as long as for a slot.
pub async fn create_publication(client: &Client, settings: &Settings, tables: &[&Table]) -> Result<(), io::Error> {
    let name = quoted(&settings.publication);
    let tables: Vec<String> = tables.iter().map(|table| format!("ONLY {}", table.sql_name())).collect();
    let sql = format!(
        "BEGIN; SET LOCAL lock_timeout = {}; \
         CREATE PUBLICATION {name} FOR TABLE {} WITH (publish_via_partition_root = true); \
         COMMENT ON PUBLICATION {name} IS {}; COMMIT",
        settings.pace.slot_patience.as_millis(),
        tables.join(", "),
        literal(&mark(settings)),
    );
    match client.batch_execute(&sql).await {
        Err(error) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => {
            client.batch_execute("ROLLBACK").await.map_err(Error::from)?;
            let waiting_for = oldest_transaction(client).await;
            Err(io::Error::Outside(format!(
                "making the publication waits for locks on its tables; the oldest open transaction: {}",
                waiting_for.as_deref().unwrap_or("none visible")
            )))
        }
        made => Ok(made.map_err(Error::from)?),
    }
}

/// Removes publication and slot, if they are there and ours. `also_streaming`: end a stream of ours too; otherwise a
/// slot that is being streamed is somebody's and is left alone.
pub async fn remove(client: &Client, settings: &Settings, also_streaming: bool) -> Result<(), io::Error> {
    drop_slot(client, settings, also_streaming).await?;
    match publication(client, &settings.publication).await? {
        None => Ok(()),
        Some(comment) if comment.as_deref() == Some(&mark(settings)) => {
            let sql = format!("DROP PUBLICATION IF EXISTS {}", quoted(&settings.publication));
            Ok(client.batch_execute(&sql).await.map_err(Error::from)?)
        }
        Some(_) => Err(user(
            format!("publication {} exists and was not made for this source", settings.publication),
            "give another publication.name, or drop that publication",
        )),
    }
}

/// Removes publication and slot for good, by the settings alone. An error says what may be left on the server.
pub async fn remove_all(settings: &Settings) -> Result<(), io::Error> {
    let removing = async { remove(&connect(settings).await?, settings, true).await };
    let removed = tokio::time::timeout(REMOVE_TIMEOUT, removing).await;
    let error = match removed.unwrap_or_else(|_| Err(Error::Timeout(REMOVE_TIMEOUT).into())) {
        Ok(()) => return Ok(()),
        Err(error) => error,
    };
    let Settings { slot, publication, .. } = settings;
    let left = format!("replication slot {slot} and publication {publication} may be left on the server");
    let cure = format!(
        "a slot that nobody reads keeps the server's log: there, SELECT pg_drop_replication_slot({}); DROP PUBLICATION IF EXISTS {}",
        literal(slot),
        quoted(publication),
    );
    Err(match error {
        io::Error::User { message, .. } => user(format!("{left}: {message}"), cure),
        io::Error::Lost { message, .. } => lost(format!("{left}: {message}"), cure),
        io::Error::Outside(message) => io::Error::Outside(format!("{left}: {message}; {cure}")),
        error @ io::Error::Log(_) => error,
    })
}

async fn drop_slot(client: &Client, settings: &Settings, also_streaming: bool) -> Result<(), io::Error> {
    let name = &settings.slot;
    for _ in 0..LEAVE_POLLS {
        let Some(found) = slot(client, name).await? else { return Ok(()) };
        if found.plugin.as_deref() != Some("pgoutput")
            || found.database.as_deref() != settings.server.get_dbname().or(found.database.as_deref())
        {
            return Err(user(
                format!("replication slot {name} exists and is none of ours: {}", belongs(&found)),
                "give another slot.name",
            ));
        }
        let Some(pid) = found.active_pid else {
            client.execute("SELECT pg_drop_replication_slot($1)", &[&name]).await.map_err(Error::from)?;
            return Ok(());
        };
        let ours = found.application.as_deref() == Some(&settings.application());
        if !ours || found.streaming && !also_streaming {
            return Err(io::Error::Outside(in_use(name, pid, found.application.as_deref())));
        }
        client.execute("SELECT pg_terminate_backend($1)", &[&pid]).await.map_err(Error::from)?;
        tokio::time::sleep(LEAVE_POLL).await;
    }
    Err(io::Error::Outside(format!("replication slot {name} does not become free")))
}

pub fn in_use(slot: &str, pid: i32, application: Option<&str>) -> String {
    format!("replication slot {slot} is in use by process {pid} ({})", application.unwrap_or("unknown application"))
}

pub fn belongs(slot: &Slot) -> String {
    let (plugin, database) = (slot.plugin.as_deref(), slot.database.as_deref());
    match plugin {
        Some(plugin) => format!("it uses the plugin {plugin} on database {}", database.unwrap_or("?")),
        None => "it is a physical slot".to_owned(),
    }
}

/// Checks that the slot can go on behind `position`. Called before streaming, and again once the slot is ours and
/// nobody else can move it.
pub async fn check_slot(client: &Client, settings: &Settings, position: &Position) -> Result<(), io::Error> {
    let again = "changes may be missing: drop the source and create it again";
    let name = &settings.slot;
    let Some(found) = slot(client, name).await? else {
        return Err(lost(format!("replication slot {name} is gone"), again));
    };
    if found.plugin.as_deref() != Some("pgoutput") || found.database.as_deref() != Some(&position.database) {
        return Err(lost(format!("replication slot {name} is another: {}", belongs(&found)), again));
    }
    if found.wal_status.as_deref() == Some("lost") {
        let hint = "the server removed log it needed (max_slot_wal_keep_size): drop the source and create it again";
        return Err(lost(format!("replication slot {name} was invalidated"), hint));
    }
    match found.confirmed {
        Some(confirmed) if confirmed <= position.end => Ok(()),
        Some(confirmed) => Err(lost(
            format!("replication slot {name} was moved on to {confirmed}, beyond the stored position {}", position.end),
            again,
        )),
        None => Err(lost(format!("replication slot {name} has no position"), again)),
    }
}

/// Checks that every change of every captured table is still published, under the table's own name. Gives the oid of the
/// publication's entry by that of the table.
pub async fn check_publication(
    client: &Client,
    settings: &Settings,
    tables: &[&Table],
) -> Result<HashMap<u32, u32>, io::Error> {
    let name = &settings.publication;
    let rows = client.query(PUBLISHED, &[name]).await.map_err(Error::from)?;
    let Some(first) = rows.first() else {
        return Err(lost(format!("publication {name} is gone"), NOT_RECORDED));
    };
    if !first.get::<_, bool>(2) {
        let message = format!("publication {name} no longer publishes every insert, update, delete and truncate");
        return Err(lost(message, NOT_RECORDED));
    }
    let mut entries = HashMap::new();
    for row in &rows {
        let (Some(entry), Some(oid)) = (row.get::<_, Option<u32>>(0), row.get::<_, Option<u32>>(1)) else { continue };
        let partial: bool = row.get(3);
        if partial && let Some(table) = tables.iter().find(|table| table.oid == oid) {
            return Err(unpublished(settings, table, "has a row filter or a column list in"));
        }
        entries.insert(oid, entry);
    }
    match tables.iter().find(|table| !entries.contains_key(&table.oid)) {
        None => Ok(entries),
        Some(table) => Err(unpublished(settings, table, "was taken out or dropped: it is no longer in")),
    }
}

const NOT_RECORDED: &str = "changes were not recorded: drop the source and create it again";

/// The entries of a publication; one without a table where it has none. `to_jsonb`: row filters and column lists came
/// with PostgreSQL 15.
const PUBLISHED: &str = "
    SELECT r.oid, r.prrelid, p.pubinsert AND p.pubupdate AND p.pubdelete AND p.pubtruncate AND p.pubviaroot,
           coalesce(to_jsonb(r) ->> 'prqual', to_jsonb(r) ->> 'prattrs') IS NOT NULL
    FROM pg_publication p LEFT JOIN pg_publication_rel r ON r.prpubid = p.oid WHERE p.pubname = $1";

/// That changes of a table are missing.
pub fn unpublished(settings: &Settings, table: &Table, how: &str) -> io::Error {
    lost(format!("table {} {how} the publication {}", table.full_name(), settings.publication), NOT_RECORDED)
}

/// Who keeps a new slot waiting: the oldest open transaction.
pub async fn oldest_transaction(client: &Client) -> Option<String> {
    let sql = "SELECT format('process %s of %s (%s), open since %s', pid, usename, application_name, xact_start)
               FROM pg_stat_activity WHERE backend_xid IS NOT NULL ORDER BY xact_start LIMIT 1";
    client.query_opt(sql, &[]).await.ok().flatten().map(|row| row.get(0))
}
