//! The seams to the outside: [`Connector`], [`Source`] and [`Sink`], implemented in `connectors`, driven by `run`.

use std::collections::{BTreeMap, BTreeSet};

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;

/// Options as written in `WITH (…)`; checked against the connector's table before they get here.
pub type Options = BTreeMap<String, String>;

/// One row of a connector's option table: the single place that validation, SQL, docs and CLI come from.
#[derive(Clone, Debug)]
pub struct OptionSpec {
    pub name: &'static str,
    /// Other names that mean the same (Debezium's).
    pub aliases: &'static [&'static str],
    pub required: bool,
    pub default: Option<&'static str>,
    pub help: &'static str,
    /// Never shown, logged or listed.
    pub secret: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The person who wrote the options can mend it.
    #[error("{message}")]
    User { message: String, hint: Option<String> },
    /// The outside system cannot be reached or broke off; the driver tries again with back-off.
    #[error("{0}")]
    Outside(String),
    /// What was captured can no longer be continued (slot gone, position purged, another server): stop and say so.
    #[error("{message}")]
    Lost { message: String, hint: Option<String> },
    #[error("the log")]
    Log(#[from] log::Error),
}

/// One line of the doctor.
#[derive(Clone, Debug)]
pub struct Finding {
    pub ok: bool,
    /// A failing finding that does not stop the source.
    pub warning: bool,
    pub what: String,
    /// The command or setting that mends it.
    pub fix: Option<String>,
}

/// A relation a source captures and the topic it goes to.
#[derive(Clone, Debug)]
pub struct SourceRelation {
    /// Schema and table, as in the source: `("public", "orders")`; the topic is `<source>.<schema>.<table>`.
    pub schema_name: String,
    pub name: String,
    /// Columns; the field metadata `pg_type` holds the PostgreSQL type name where Arrow's says less (uuid, jsonb, …).
    pub schema: SchemaRef,
    /// Indices of the key columns; empty means that the relation has no key and the whole row identifies it.
    pub key: Vec<usize>,
    /// Format of its records, `debezium-json`.
    pub format: &'static str,
}

/// `max.message.bytes` of the topics that sources and jobs write, so that a large row of a database passes. A batch must
/// fit into a file of the write-ahead log (128 MiB unless told), and is in memory some times while it is on its way.
pub const BATCH_BYTES_MAX: usize = 64 << 20;

/// Key and value of one record together: a mebibyte of its batch is for what surrounds them.
pub const RECORD_BYTES_MAX: usize = BATCH_BYTES_MAX - (1 << 20);

/// What a source hands over in one step.
#[derive(Debug, Default)]
pub struct SourceBatch {
    /// (index of the relation, record), in commit order.
    pub records: Vec<(usize, log::NewRecord)>,
    /// Set when all source transactions handed over so far are whole: the position to store with them. The driver
    /// commits a log transaction only here.
    pub position: Option<Vec<u8>>,
    /// True once the snapshot is wholly handed over (and from then on).
    pub snapshot_done: bool,
}

/// Whether a source has handed over its snapshot. Goes from closed to open once, never back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Gate {
    /// Still in the snapshot: the relation and what depends on it are not readable.
    Closed {
        progress: String,
    },
    Open,
}

/// Pulls changes from outside. The driver loop: `next` → append → at a boundary commit with the position → `durable`.
/// `next` is cancel safe; `durable` is cheap and is called while `next` waits too.
#[async_trait]
pub trait Source: Send {
    fn relations(&self) -> &[SourceRelation];
    /// Before [`Source::start`]: of the relations only these, as (schema, name), are captured, those the source was
    /// created with; others that match its options by now are left out with a warning. One that is not there any more
    /// is [`Error::Lost`].
    fn keep(&mut self, relations: &BTreeSet<(String, String)>) -> Result<(), Error>;
    /// Makes ready to go on after `position`, or to begin with a snapshot when `None` (left-overs of an unfinished
    /// snapshot are removed first). An unusable position is [`Error::Lost`].
    async fn start(&mut self, position: Option<Vec<u8>>) -> Result<(), Error>;
    /// The next records; waits for them, but returns an empty batch with a position now and then while idle.
    async fn next(&mut self) -> Result<SourceBatch, Error>;
    /// The log holds everything up to `position` durably: the outside may forget it.
    fn durable(&mut self, position: &[u8]);
    /// Removes what the source left outside (slot, publication).
    async fn remove(&mut self) -> Result<(), Error>;
}

/// Takes committed records of a topic outside.
#[async_trait]
pub trait Sink: Send {
    /// Where the outside says it stands: the next offset of each partition, or nothing when it stores none.
    async fn progress(&mut self) -> Result<Option<BTreeMap<log::TopicPartition, log::Offset>>, Error>;
    /// Writes the records of one whole cut and, where the target can, the progress in the same transaction.
    async fn write(&mut self, records: &[(log::TopicPartition, log::RecordView)], upto: &log::Cut)
    -> Result<(), Error>;
}

/// A kind of source or sink.
#[async_trait]
pub trait Connector: Send + Sync {
    fn name(&self) -> &'static str;
    fn options(&self) -> &'static [OptionSpec];
    /// The doctor: what is missing and how to mend it. Changes nothing.
    async fn check(&self, name: &str, options: &Options) -> Result<Vec<Finding>, Error>;
    /// Connects and finds the relations; creates nothing outside before [`Source::start`].
    async fn source(&self, name: &str, options: &Options) -> Result<Box<dyn Source>, Error>;
    /// Removes what a source of this name left outside (slot, publication), by its options alone: its tables may be gone.
    /// What is gone already is no error. Other errors say what may be left there and how to remove it.
    async fn remove(&self, name: &str, options: &Options) -> Result<(), Error>;
    /// A connector that is no sink says so.
    async fn sink(&self, name: &str, options: &Options) -> Result<Box<dyn Sink>, Error>;
}
