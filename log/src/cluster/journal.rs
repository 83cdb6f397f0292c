//! One partition as the [`Journal`] of a machine: [`LogJournal`].

use std::sync::Arc;

use async_trait::async_trait;

use super::access::{Error, Isolation, Log};
use crate::machine::Journal;
use crate::record::{Batch, BatchError, NewRecord, Offset, RecordView, TopicPartition};

/// See the module. What is decided together goes into one batch, so that it is there together or not at all.
///
/// A machine over a topic: `Host::start(&env, name, Arc::new(LogJournal::new(cluster.log(partition)?)), machine, effects)`.
pub struct LogJournal {
    log: Arc<dyn Log>,
}

impl LogJournal {
    pub fn new(log: Arc<dyn Log>) -> LogJournal {
        LogJournal { log }
    }
}

#[async_trait]
impl Journal for LogJournal {
    async fn append(&self, at: Offset, records: Vec<NewRecord>) -> Result<Offset, Error> {
        self.log.append_at(at, records).await
    }

    async fn read(&self, from: Offset, bytes_max: usize) -> Result<(Vec<RecordView>, Offset), Error> {
        let read = self.log.read(from, Offset(i64::MAX), bytes_max, Isolation::Committed).await?;
        let mut records = Vec::new();
        for batch in &read.batches {
            let corrupt = |error: BatchError| corrupt(self.log.partition(), batch, &error);
            for record in batch.records().map_err(corrupt)? {
                let record = record.map_err(corrupt)?;
                if record.offset >= from {
                    records.push(record);
                }
            }
        }
        Ok((records, read.next))
    }

    async fn start(&self) -> Result<Offset, Error> {
        Ok(self.log.bounds().start)
    }
}

fn corrupt(partition: TopicPartition, batch: &Batch, error: &BatchError) -> Error {
    let place = format!("partition {partition:?} at offset {}", batch.base_offset().0);
    Error::Corrupt { place, detail: error.to_string() }
}
