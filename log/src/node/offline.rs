//! A data directory from outside, while no node has it open: for `riverrun log dump` and `verify`.

use std::collections::BTreeMap;
use std::path::Path;

use super::{METADATA, lock_directory};
use crate::cluster::topics::Topics;
use crate::env::Lock;
use crate::machine::Machine;
use crate::record::{Batch, Offset, TopicId, TopicPartition};
use crate::store::offline::Stored;
pub use crate::store::offline::WalSummary;
use crate::{Env, Error};

/// An unused data directory, locked while this lives.
pub struct Directory {
    env: Env,
    stored: Stored,
    names: BTreeMap<TopicId, String>,
    _lock: Box<dyn Lock>,
}

/// A partition and its bounds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionSummary {
    pub id: TopicPartition,
    /// None for one whose topic is deleted or unknown.
    pub topic: Option<String>,
    pub start: Offset,
    pub end: Offset,
}

/// A batch and where it lies, or what is wrong there.
pub struct Found {
    /// Base offset of the segment and byte in its file.
    pub segment: Offset,
    pub position: u32,
    pub batch: Result<Batch, String>,
}

impl Directory {
    /// Errors: [`Error::Busy`] when a node has it open, [`Error::Corrupt`] when it could not recover.
    pub fn open(env: &Env, data_dir: &Path) -> Result<Directory, Error> {
        let lock = lock_directory(env, data_dir)?;
        let stored = Stored::open(env, data_dir)?;
        let names = topic_names(env, &stored)?;
        Ok(Directory { env: env.clone(), stored, names, _lock: lock })
    }

    pub fn wal(&self) -> WalSummary {
        self.stored.wal
    }

    /// All partitions with something stored, the cluster's metadata first.
    pub fn partitions(&self) -> Vec<PartitionSummary> {
        let summary = |id: TopicPartition| {
            let (start, end) = self.stored.bounds(id);
            let topic =
                if id == METADATA { Some("__cluster_metadata".to_owned()) } else { self.names.get(&id.topic).cloned() };
            PartitionSummary { id, topic, start, end }
        };
        self.stored.partitions().into_iter().map(summary).collect()
    }

    /// Every batch of a partition that a node would serve, in order, each checked to its checksum. What is wrong is told
    /// once for a segment, which is then left; and at the end why the partition is fenced, where it is.
    pub fn visit(&self, id: TopicPartition, seen: &mut dyn FnMut(Found)) -> Result<(), Error> {
        self.stored.visit(&*self.env.disk(), id, &mut |found| {
            seen(Found { segment: found.segment, position: found.position, batch: found.batch });
        })
    }
}

/// The topics' names, as far as the metadata can be read.
fn topic_names(env: &Env, stored: &Stored) -> Result<BTreeMap<TopicId, String>, Error> {
    let mut topics = Topics::default();
    let (start, _) = stored.bounds(METADATA);
    stored.visit(&*env.disk(), METADATA, &mut |found| {
        let Ok(batch) = found.batch else { return };
        let records = batch.records().into_iter().flatten().flatten();
        for record in records.filter(|record| record.offset >= start) {
            // What cannot be read leaves a topic without its name.
            let _ = topics.apply(&record);
        }
    })?;
    Ok(topics.names())
}
