//! One partition of the local store as a [`Journal`].

use std::sync::Arc;

use async_trait::async_trait;

use crate::Error;
use crate::env::Env;
use crate::machine::Journal;
use crate::record::build::Frame;
use crate::record::{Batch, BatchError, NewRecord, Offset, RecordView};
use crate::store::Store;
use crate::store::partition::Partition;

/// Records decided together go into one batch, so that they are there together or not; a machine decides few at once.
const BATCH_BYTES_MAX: usize = 64 * 1024 * 1024;

/// See the module.
pub(super) struct PartitionJournal {
    env: Env,
    store: Arc<Store>,
    partition: Arc<Partition>,
}

impl PartitionJournal {
    pub fn new(env: Env, store: Arc<Store>, partition: Arc<Partition>) -> PartitionJournal {
        PartitionJournal { env, store, partition }
    }
}

#[async_trait]
impl Journal for PartitionJournal {
    async fn append(&self, at: Offset, records: Vec<NewRecord>) -> Result<Offset, Error> {
        let frame =
            Frame { now_ms: self.env.now_ms(), producer: None, transactional: false, batch_bytes_max: BATCH_BYTES_MAX };
        let batch = Batch::build(&records, &frame).map_err(|error| corrupt(&self.partition, at, &error))?;
        let outcome = self.store.append(self.partition.id, batch, Some(at)).await?;
        let appended = outcome.await.map_err(|_| self.store.closed())??;
        assert_eq!(appended.base_offset, at, "it was asked to go there or nowhere");
        Ok(Offset(at.0 + records.len() as i64))
    }

    async fn read(&self, from: Offset, bytes_max: usize) -> Result<(Vec<RecordView>, Offset), Error> {
        let batches = self.store.read(&self.partition, from, Offset(i64::MAX), bytes_max).await?;
        let next = batches.last().map_or(from, Batch::next_offset);
        let mut records = Vec::new();
        for batch in batches.iter().filter(|batch| !batch.is_control()) {
            let views = batch.records().map_err(|error| corrupt(&self.partition, batch.base_offset(), &error))?;
            for record in views {
                let record = record.map_err(|error| corrupt(&self.partition, batch.base_offset(), &error))?;
                if record.offset >= from {
                    records.push(record);
                }
            }
        }
        Ok((records, next))
    }

    async fn start(&self) -> Result<Offset, Error> {
        Ok(self.partition.bounds().start)
    }
}

fn corrupt(partition: &Partition, at: Offset, error: &BatchError) -> Error {
    Error::Corrupt { place: format!("partition {:?} at offset {}", partition.id, at.0), detail: error.to_string() }
}
