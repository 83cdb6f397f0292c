//! The connector against a real server, through the seam alone.

mod failures;
mod recorded;
mod rows;
mod schema;
mod server;
mod silence;
mod stream;
mod values;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use engine::io::{Error, Options, Source, SourceRelation};
use log::NewRecord;
use serde_json::Value as Json;
use tokio_postgres::Client;

use self::server::{Deadline, Server};
use super::config::{Pace, Settings};
use super::position::Position;
use super::protocol::lsn::Lsn;
use super::source::PostgresSource;

/// A source with the driver's part played by the test: what a batch with a position brings is committed with all that
/// came before it; the rest is forgotten at a kill.
struct Capture {
    options: Options,
    name: String,
    kept: BTreeSet<(String, String)>,
    source: PostgresSource,
    /// Committed.
    log: Vec<(usize, NewRecord)>,
    open: Vec<(usize, NewRecord)>,
    position: Option<Vec<u8>>,
    snapshot_done: bool,
}

impl Capture {
    async fn start(name: &str, options: Options) -> Capture {
        let source = open(name, &options).await.unwrap();
        let of = |relation: &SourceRelation| (relation.schema_name.clone(), relation.name.clone());
        let kept = source.relations().iter().map(of).collect();
        Capture::start_of(name, options, &kept).await
    }

    /// A source created with these tables, whatever there is besides.
    async fn start_of(name: &str, options: Options, kept: &BTreeSet<(String, String)>) -> Capture {
        let mut source = open(name, &options).await.unwrap();
        source.keep(kept).unwrap();
        let mut capture = Capture {
            kept: kept.clone(),
            options,
            name: name.to_owned(),
            source,
            log: Vec::new(),
            open: Vec::new(),
            position: None,
            snapshot_done: false,
        };
        // A busy server may refuse a slot's snapshot for now; the driver tries again, and so does this.
        let deadline = Deadline::new();
        while let Err(error) = capture.source.start(None).await {
            assert!(matches!(error, Error::Outside(_)), "{error:?}");
            deadline.check(&message(&error));
        }
        capture
    }

    /// A start that hands the snapshot over.
    async fn snapshot(name: &str, options: Options) -> Capture {
        let mut capture = Capture::start(name, options).await;
        while !capture.snapshot_done {
            capture.step().await.unwrap();
        }
        capture
    }

    /// Forgets what was not committed and begins at the stored position, as a killed process does.
    async fn restart(&mut self) -> Result<(), Error> {
        self.open.clear();
        self.source = open(&self.name, &self.options).await?;
        self.source.keep(&self.kept)?;
        self.source.start(self.position.clone()).await
    }

    async fn step(&mut self) -> Result<(), Error> {
        let batch =
            tokio::time::timeout(Duration::from_secs(60), self.source.next()).await.expect("something comes")?;
        self.open.extend(batch.records);
        if let Some(position) = batch.position {
            self.log.append(&mut self.open);
            self.source.durable(&position);
            self.position = Some(position);
        }
        self.snapshot_done |= batch.snapshot_done;
        Ok(())
    }

    fn end(&self) -> Lsn {
        self.position.as_ref().map_or(Lsn(0), |bytes| Position::from_bytes(bytes).unwrap().end)
    }

    /// Goes on until everything written so far has been seen.
    async fn settle(&mut self, client: &Client) -> Result<(), Error> {
        let now = current_lsn(client).await;
        let deadline = Deadline::new();
        while self.end() < now {
            deadline.check("the stream to catch up");
            self.step().await?;
        }
        Ok(())
    }

    /// What has been committed since `from`, as (relation, key, envelope without its variable parts).
    fn events(&self, from: usize) -> Vec<(usize, Json, Json)> {
        let json = |bytes: &Option<bytes::Bytes>| match bytes {
            None => Json::Null,
            Some(bytes) => serde_json::from_slice(bytes).unwrap(),
        };
        self.log[from..].iter().map(|(at, record)| (*at, json(&record.key), json(&record.value))).collect()
    }

    /// `op key before after` of each record since `from`; a tombstone is `- key`.
    fn lines(&self, from: usize) -> Vec<String> {
        let text = |bytes: &bytes::Bytes| String::from_utf8(bytes.to_vec()).unwrap();
        let line = |(at, record): &(usize, NewRecord)| {
            let key = record.key.as_ref().map_or("null".to_owned(), text);
            let Some(value) = &record.value else { return format!("{at} - {key}") };
            let parts: BTreeMap<String, Box<serde_json::value::RawValue>> = serde_json::from_slice(value).unwrap();
            format!("{at} {} {key} {} {}", parts["op"].get().trim_matches('"'), parts["before"], parts["after"])
        };
        self.log[from..].iter().map(line).collect()
    }

    fn relation(&self, name: &str) -> (usize, &SourceRelation) {
        let mut relations = self.source.relations().iter().enumerate();
        relations.find(|(_, relation)| relation.name == name).unwrap()
    }

    /// The rows of a relation with a key after all changes. Anything twice, missing or out of order is a failure.
    fn fold(&self, name: &str) -> BTreeMap<String, Json> {
        let (index, _) = self.relation(name);
        let mut rows = BTreeMap::new();
        for (at, key, value) in self.events(0) {
            let key = key.to_string();
            if at != index || value.is_null() {
                continue;
            }
            let was = match value["op"].as_str().unwrap() {
                "r" | "c" => rows.insert(key.clone(), value["after"].clone()).is_some(),
                "u" => rows.insert(key.clone(), value["after"].clone()).is_none(),
                "d" => rows.remove(&key).is_none(),
                "t" => {
                    rows.clear();
                    false
                }
                other => panic!("op {other}"),
            };
            assert!(!was, "{} of {key} does not follow from what came before", value["op"]);
        }
        rows
    }
}

async fn open(name: &str, options: &Options) -> Result<PostgresSource, Error> {
    let mut settings = Settings::new(name, options)?;
    settings.pace = Pace { idle: Duration::from_millis(50), idle_bytes: 1 << 20, ..Pace::default() };
    settings.pace.status = Duration::from_millis(100);
    settings.pace.watch = Duration::from_millis(200);
    super::open(settings).await
}

/// The end of the log, written out.
async fn current_lsn(client: &Client) -> Lsn {
    // A transaction with an id and a synchronous commit makes the log durable up to here, so that it is sent.
    client.batch_execute("BEGIN; SELECT pg_current_xact_id(); COMMIT").await.unwrap();
    let row = client.query_one("SELECT pg_current_wal_flush_lsn()::text", &[]).await.unwrap();
    row.get::<_, String>(0).parse().unwrap()
}

async fn setup(database: &str, sql: &str) -> (Arc<Server>, Client) {
    let server = Server::shared();
    let client = server.database(database).await;
    client.batch_execute(sql).await.unwrap();
    (server, client)
}

fn message(error: &Error) -> String {
    match error {
        Error::User { message, hint } => format!("user: {message}; {}", hint.as_deref().unwrap_or_default()),
        Error::Lost { message, hint } => format!("lost: {message}; {}", hint.as_deref().unwrap_or_default()),
        Error::Outside(message) => format!("outside: {message}"),
        Error::Log(error) => format!("log: {error}"),
    }
}

#[track_caller]
fn assert_says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{text:?} does not say {part:?}");
    }
}
