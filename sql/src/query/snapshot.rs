//! [`Snapshot`]: the one state that all relations of a statement are read at.

use std::sync::Arc;
use std::time::Duration;

use engine::graph::RelationId;
use engine::job::{Engine, Pin};
use engine::state::ViewStore;

use super::relation::{Relation, Rows};
use crate::error::{Error, Result, sqlstate};

/// A pinned epoch, and where the topics end that are no input of the engine. Held until the last row is read.
pub struct Snapshot {
    pub cluster: Arc<dyn log::Cluster>,
    engine: Engine,
    pin: Pin,
    /// Ends of topics that are read as they are: nothing keeps their place in the epoch's cut up to date.
    raw: log::Cut,
}

impl Snapshot {
    /// Waits until all `relations` are readable, at most until `deadline`, and pins the newest epoch.
    pub async fn take(
        engine: &Engine,
        cluster: &Arc<dyn log::Cluster>,
        relations: &[Arc<Relation>],
        deadline: Duration,
    ) -> Result<Self> {
        let ids: Vec<RelationId> = relations.iter().filter_map(|r| r.id()).collect();
        if !ids.is_empty() {
            engine.caught_up(&ids, deadline).await.map_err(|error| named(error, relations))?;
        }
        let pin = engine.pin();
        let mut outside = Vec::new();
        for relation in relations {
            if let Rows::Appended { id: None, topic, .. } = &relation.rows {
                outside.extend(partitions(topic));
            }
        }
        let raw = if outside.is_empty() { log::Cut::default() } else { cluster.cut(&outside)? };
        Ok(Self { cluster: Arc::clone(cluster), engine: engine.clone(), pin, raw })
    }

    pub fn epoch(&self) -> u64 {
        self.pin.epoch()
    }

    pub fn store(&self, id: RelationId) -> Result<Arc<dyn ViewStore>> {
        Ok(self.engine.store(id)?)
    }

    /// Where the partition ends (exclusive): in the epoch for a relation of the engine, else where it ended when the
    /// snapshot was taken.
    pub fn end(&self, of: Option<RelationId>, partition: log::TopicPartition) -> log::Offset {
        let cut: &log::Cut = if of.is_some() { self.pin.cut() } else { &self.raw };
        cut.0.get(&partition).copied().unwrap_or_default()
    }
}

/// The engine's error, with the name of a relation that it does not run.
fn named(error: engine::job::Error, relations: &[Arc<Relation>]) -> Error {
    let relation = match &error {
        engine::job::Error::UnknownRelation(id) => relations.iter().find(|r| r.id() == Some(*id)),
        _ => None,
    };
    match relation {
        Some(relation) => Error::new(sqlstate::UNDEFINED_TABLE, format!("relation \"{}\" does not run", relation.name))
            .hint("SHOW TABLES and SHOW VIEWS say how relations stand; a restart tries again")
            .caused_by(error),
        None => error.into(),
    }
}

/// All partitions of a topic.
pub fn partitions(topic: &log::Topic) -> impl Iterator<Item = log::TopicPartition> + use<> {
    let id = topic.id;
    (0..topic.partitions).map(move |partition| log::TopicPartition { topic: id, partition })
}
