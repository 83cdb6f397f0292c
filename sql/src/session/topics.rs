//! The topics behind tables, views and sinks: created, marked with who writes and who reads them, and taken away.

use std::collections::BTreeMap;

use bytes::Bytes;
use engine::io::BATCH_BYTES_MAX;
use log::cluster::config::{self, USED_BY, WRITER};

use super::server::Server;
use crate::catalog::{Kind, Object};
use crate::error::{Error, Result, sqlstate};

/// How topics name their writers; what follows is the name of the view, sink or source.
const VIEW_WRITER: &str = "view ";
const SINK_WRITER: &str = "sink ";
const SOURCE_WRITER: &str = "source ";

pub fn of_view(name: &crate::catalog::Name) -> String {
    format!("{VIEW_WRITER}{name}")
}

pub fn of_sink(name: &crate::catalog::Name) -> String {
    format!("{SINK_WRITER}{name}")
}

pub async fn create_topic(
    server: &Server,
    name: &str,
    partitions: i32,
    config: log::TopicConfig,
) -> Result<log::Topic> {
    Ok(server.cluster.create_topic(log::NewTopic { name: name.to_owned(), partitions, config }).await?)
}

/// Views are replayed from the first record of their tables: nothing of these may be thrown away.
pub fn keep_all() -> log::TopicConfig {
    BTreeMap::from([("retention.ms".to_owned(), "-1".to_owned())])
}

/// Topics that riverrun alone writes take what a row of a database can be.
fn take_large(config: &mut log::TopicConfig) {
    config.insert(LARGEST.to_owned(), BATCH_BYTES_MAX.to_string());
}

const LARGEST: &str = "max.message.bytes";

/// The topic of a captured table: one that is there already is taken over.
pub async fn source_topic(server: &Server, source: &str, name: &str, partitions: i32) -> Result<log::Topic> {
    if let Some(topic) = server.cluster.topic(name) {
        forget_earlier(server, &topic).await?;
        return Ok(topic);
    }
    let mut config = keep_all();
    take_large(&mut config);
    config.insert(WRITER.to_owned(), format!("{SOURCE_WRITER}{source}"));
    create_topic(server, name, partitions, config).await
}

/// A topic that a dropped source of the same name has left: a record that empties the relation is put before the new
/// snapshot, so that rows which have gone since do not stay.
async fn forget_earlier(server: &Server, topic: &log::Topic) -> Result<()> {
    for partition in crate::query::snapshot::partitions(topic) {
        let log = server.cluster.log(partition)?;
        let bounds = log.bounds();
        if bounds.end > bounds.start {
            let value = r#"{"before":null,"after":null,"source":{"connector":"riverrun"},"op":"t","ts_ms":null,"transaction":null}"#;
            let record =
                log::NewRecord { value: Some(Bytes::from_static(value.as_bytes())), ..log::NewRecord::default() };
            log.append(vec![record]).await?;
        }
    }
    Ok(())
}

/// The topic that the job of `owner` alone writes: nobody else's records may come between. One that an unfinished
/// creation or drop has left is removed first.
pub async fn output_topic(
    server: &Server,
    name: &str,
    owner: &str,
    partitions: i32,
    compacted: bool,
) -> Result<log::Topic> {
    if let Some(topic) = server.cluster.topic(name) {
        if !is_left_over(server, &topic) {
            return Err(Error::new(sqlstate::DUPLICATE_TABLE, format!("topic \"{name}\" already exists"))
                .hint("choose another name, or delete the topic"));
        }
        server.cluster.delete_topic(name).await?;
    }
    let mut config = match compacted {
        true => BTreeMap::from([("cleanup.policy".to_owned(), "compact".to_owned())]),
        false => keep_all(),
    };
    take_large(&mut config);
    config.insert(WRITER.to_owned(), owner.to_owned());
    create_topic(server, name, partitions, config).await
}

/// Whether a job's topic belongs to nothing that stands: its creation or drop was cut off.
pub fn is_left_over(server: &Server, topic: &log::Topic) -> bool {
    let of_job =
        config::writer(&topic.config).is_some_and(|w| w.starts_with(VIEW_WRITER) || w.starts_with(SINK_WRITER));
    let is_it = |object: &Object| match &object.kind {
        Kind::View(view) => view.topic_id == topic.id,
        Kind::Sink(sink) => sink.topic_id == Some(topic.id),
        Kind::Table(_) | Kind::Source(_) => false,
    };
    of_job && !server.catalog.objects().all().any(|object| is_it(object))
}

/// Deletes a topic that its object has left; one that is gone is as good.
pub async fn remove(server: &Server, name: &str) -> Result<()> {
    match server.cluster.delete_topic(name).await {
        Ok(()) | Err(log::Error::UnknownTopic(_)) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Has the topics of tables say who writes them (a source alone, or everybody) and who reads them, as the catalog has it
/// now: so that no Kafka client writes between a source's records, or deletes a topic under a table.
pub async fn mark(server: &Server) -> Result<()> {
    let objects = server.catalog.objects();
    let mut wanted: BTreeMap<log::TopicId, (Option<String>, Vec<String>)> = BTreeMap::new();
    for object in objects.all() {
        let Kind::Table(table) = &object.kind else { continue };
        let (writer, users) = wanted.entry(table.topic_id).or_default();
        match &table.source {
            Some(source) => *writer = Some(format!("{SOURCE_WRITER}{source}")),
            None => users.push(format!("table {}", object.name)),
        }
    }
    for topic in server.cluster.topics() {
        let (writer, users) = wanted.remove(&topic.id).unwrap_or_default();
        let mut changes = log::ConfigChanges::new();
        let mut want = |option: &str, value: Option<String>| {
            if topic.config.get(option) != value.as_ref() {
                changes.insert(option.to_owned(), value);
            }
        };
        let users = users.join(", ");
        want(USED_BY, (!users.is_empty()).then(|| users.chars().take(USERS_CHARS_MAX).collect()));
        let of_source = config::writer(&topic.config).is_none_or(|w| w.starts_with(SOURCE_WRITER));
        if of_source {
            // One of a source made before topics took large records takes them from now on.
            if writer.is_some() && !topic.config.contains_key(LARGEST) {
                want(LARGEST, Some(BATCH_BYTES_MAX.to_string()));
            }
            want(WRITER, writer);
        }
        if !changes.is_empty() {
            server.cluster.configure_topic(&topic.name, changes).await?;
        }
    }
    Ok(())
}

/// What an option of a topic may hold is bounded; the first tables will do.
const USERS_CHARS_MAX: usize = 200;
