//! [`Catalog`]: the handle; behind it a machine whose journal is the topic `__riverrun_catalog`.
//!
//! Records, as JSON: key `object/<id>` with the object, or nothing once it is dropped; key `last_id` with the last id
//! ever given out.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use engine::graph::RelationId;
use log::{Decision, Effects, Host, LogJournal, Machine, NewRecord, RecordView, TopicPartition};
use tokio::sync::watch;

use super::{Draft, Object, Objects};
use crate::error::{Error, Result};

/// The catalog's topic, of one partition.
pub const TOPIC: &str = "__riverrun_catalog";

const OBJECT: &str = "object/";
const LAST_ID: &str = "last_id";

/// Everything people have created, and the only way to change it. Clones share it.
#[derive(Clone)]
pub struct Catalog {
    host: Host<State>,
    objects: watch::Receiver<Arc<Objects>>,
}

impl Catalog {
    /// Opens the catalog of the cluster; its topic is created where missing.
    pub async fn start(env: &log::Env, cluster: &Arc<dyn log::Cluster>) -> Result<Self> {
        let topic = match cluster.topic(TOPIC) {
            Some(topic) => topic,
            None => {
                let config = [("cleanup.policy".to_string(), "compact".to_string())].into();
                cluster.create_topic(log::NewTopic { name: TOPIC.to_string(), partitions: 1, config }).await?
            }
        };
        let log = cluster.log(TopicPartition { topic: topic.id, partition: 0 })?;
        let (sender, objects) = watch::channel(Arc::new(Objects::default()));
        let publish = Box::new(Publish(sender));
        let host = Host::start(env, "catalog", Arc::new(LogJournal::new(log)), State::default(), publish).await?;
        Ok(Self { host, objects })
    }

    /// The catalog as it is now.
    pub fn objects(&self) -> Arc<Objects> {
        Arc::clone(&self.objects.borrow())
    }

    /// Changes with every change of the catalog.
    pub fn watch(&self) -> watch::Receiver<Arc<Objects>> {
        self.objects.clone()
    }

    /// Creates all of them or none. Returns when they are durable and visible in [`Catalog::objects`].
    pub async fn create(&self, drafts: Vec<Draft>) -> Result<Vec<Arc<Object>>> {
        self.host.ask(Command::Create(drafts)).await?
    }

    /// Drops all of them or none (see [`Objects::drop_set`]); gives what they were.
    pub async fn drop(&self, ids: Vec<RelationId>) -> Result<Vec<Arc<Object>>> {
        self.host.ask(Command::Drop(ids)).await?
    }
}

/// The machine.
#[derive(Default)]
pub(super) struct State {
    objects: Objects,
}

pub(super) enum Command {
    Create(Vec<Draft>),
    Drop(Vec<RelationId>),
}

impl Machine for State {
    type Command = Command;
    type Reply = Result<Vec<Arc<Object>>>;
    /// What readers see from now on.
    type Effect = Arc<Objects>;

    fn loaded(&mut self, _now_ms: i64) -> Decision<Self> {
        Decision { effects: vec![Arc::new(self.objects.clone())], ..Decision::default() }
    }

    fn decide(&mut self, _now_ms: i64, command: Command) -> (Self::Reply, Decision<Self>) {
        let mut after = self.objects.clone();
        let mut records = Vec::new();
        let outcome = match command {
            Command::Create(drafts) => self.objects.check_create(drafts).and_then(|created| {
                for object in &created {
                    records.push(object_record(object)?);
                    after.insert(object.clone());
                }
                records.push(record(LAST_ID, Some(after.last_id().to_string().into())));
                Ok(created.into_iter().map(Arc::new).collect())
            }),
            Command::Drop(ids) => self.objects.check_drop(&ids).inspect(|dropped| {
                for object in dropped {
                    records.push(record(&format!("{OBJECT}{}", object.id.0), None));
                    after.remove(object.id);
                }
            }),
        };
        match outcome {
            Ok(objects) => (Ok(objects), Decision { records, effects: vec![Arc::new(after)], ..Decision::default() }),
            Err(error) => (Err(error), Decision::default()),
        }
    }

    fn apply(&mut self, record: &RecordView) -> Result<(), log::Error> {
        let corrupt = |detail: String| log::Error::Corrupt { place: format!("{TOPIC} at {}", record.offset.0), detail };
        let key = record.key.as_deref().and_then(|key| std::str::from_utf8(key).ok()).unwrap_or_default();
        let value = record.value.as_deref();
        if key == LAST_ID {
            let id = value.and_then(|v| std::str::from_utf8(v).ok()).and_then(|v| v.parse().ok());
            self.objects.used(id.ok_or_else(|| corrupt("the last id is not a number".to_string()))?);
            return Ok(());
        }
        let id = key.strip_prefix(OBJECT).and_then(|id| id.parse().ok());
        let id = RelationId(id.ok_or_else(|| corrupt(format!("the key {key:?} is not known")))?);
        match value {
            None => self.objects.remove(id),
            Some(value) => {
                let object: Object = serde_json::from_slice(value).map_err(|e| corrupt(e.to_string()))?;
                if object.id != id {
                    return Err(corrupt(format!("object {} under the key of {}", object.id.0, id.0)));
                }
                self.objects.insert(object);
            }
        }
        Ok(())
    }

    fn snapshot(&self) -> Vec<NewRecord> {
        let objects = self.objects.all().filter_map(|object| object_record(object).ok());
        let last = record(LAST_ID, Some(self.objects.last_id().to_string().into()));
        objects.chain([last]).collect()
    }
}

fn record(key: &str, value: Option<Bytes>) -> NewRecord {
    NewRecord { key: Some(Bytes::copy_from_slice(key.as_bytes())), value, ..NewRecord::default() }
}

fn object_record(object: &Object) -> Result<NewRecord> {
    let value = serde_json::to_vec(object).map_err(|e| Error::bug("an object cannot be written").caused_by(e))?;
    Ok(record(&format!("{OBJECT}{}", object.id.0), Some(value.into())))
}

/// Shows readers what has become durable.
struct Publish(watch::Sender<Arc<Objects>>);

#[async_trait]
impl Effects<Arc<Objects>> for Publish {
    async fn run(&mut self, objects: Arc<Objects>) -> Result<(), log::Error> {
        self.0.send_replace(objects);
        Ok(())
    }
}
