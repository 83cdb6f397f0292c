//! [`Snapshot`]: the one state that all relations of a statement are read at.

use std::sync::Arc;
use std::time::Duration;

use engine::graph::RelationId;
use engine::job::{Engine, Pin};
use engine::state::ViewStore;

use super::relation::{Relation, Rows};
use crate::error::Result;

/// A pinned epoch, and where the topics end that are no input of the engine. Held until the last row is read.
pub struct Snapshot {
    pub cluster: Arc<dyn log::Cluster>,
    engine: Engine,
    pin: Pin,
    /// Ends of topics that have no place in the epoch's cut.
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
            engine.caught_up(&ids, deadline).await?;
        }
        let pin = engine.pin();
        let mut outside = Vec::new();
        for relation in relations {
            if let Rows::Appended { topic, .. } = &relation.rows {
                outside.extend(partitions(topic).filter(|p| !pin.cut().0.contains_key(p)));
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

    /// Where the partition ends in this snapshot (exclusive).
    pub fn end(&self, partition: log::TopicPartition) -> log::Offset {
        let end = self.pin.cut().0.get(&partition).or_else(|| self.raw.0.get(&partition));
        end.copied().unwrap_or_default()
    }
}

/// All partitions of a topic.
pub fn partitions(topic: &log::Topic) -> impl Iterator<Item = log::TopicPartition> + use<> {
    let id = topic.id;
    (0..topic.partitions).map(move |partition| log::TopicPartition { topic: id, partition })
}
