//! The states of all transactional ids as a [`Machine`]: who may write under an id, and what was decided last.

use std::collections::BTreeMap;

use super::format::{Status, TransactionState, decode_key, encode_key};
use crate::Error;
use crate::machine::{Decision, Machine};
use crate::record::{NewRecord, RecordView};

/// Epochs count up to `i16::MAX`; the marker of the last transaction takes the last one. Tests come to the end sooner.
pub(crate) const EPOCH_LAST: i16 = if cfg!(test) { 12 } else { i16::MAX - 1 };

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct States {
    by_id: BTreeMap<String, TransactionState>,
}

/// What can be asked of the states.
#[derive(Debug)]
pub(crate) enum Command {
    /// A new holder of the id. `fresh`: a producer id never used, for an id that is new or has used up its epochs.
    Grant { id: String, fresh: i64 },
    /// The transaction of this epoch is to commit, in these topics and partitions.
    Commit { id: String, epoch: i16, partitions: Vec<(String, Vec<i32>)> },
    /// What was decided under this producer id and epoch is carried out.
    Complete { id: String, producer_id: i64, epoch: i16 },
}

/// The producer id and epoch of the holder's next transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Granted {
    pub producer_id: i64,
    pub epoch: i16,
}

impl States {
    /// Whether a grant would use up a fresh producer id.
    pub fn wants_fresh(&self, id: &str) -> bool {
        self.by_id.get(id).is_none_or(|state| state.epoch >= EPOCH_LAST)
    }

    /// The partitions' logs know of a newer epoch than the states: those transactions left nothing else behind.
    pub fn raise(&mut self, epochs: &BTreeMap<i64, i16>) {
        for state in self.by_id.values_mut() {
            if let Some(epoch) = epochs.get(&state.producer_id) {
                state.epoch = state.epoch.max(*epoch);
            }
        }
    }

    /// Whether the transaction that a producer left open under this epoch was decided to commit.
    pub fn decided(&self, producer_id: i64, epoch: i16) -> bool {
        let decided = |state: &TransactionState| {
            state.producer_id == producer_id
                && matches!(state.status, Status::PrepareCommit)
                && i32::from(state.epoch) == i32::from(epoch) + 1
        };
        self.by_id.values().any(decided)
    }

    /// Ids whose decision has not been said to be carried out.
    pub fn incomplete(&self) -> Vec<Command> {
        let prepared = self.by_id.iter().filter(|(_, state)| state.status == Status::PrepareCommit);
        let complete = |(id, state): (&String, &TransactionState)| Command::Complete {
            id: id.clone(),
            producer_id: state.producer_id,
            epoch: state.epoch,
        };
        prepared.map(complete).collect()
    }

    fn changed(&self, id: &str, state: TransactionState) -> Decision<Self> {
        let record = NewRecord {
            key: Some(encode_key(id)),
            value: Some(state.encode()),
            timestamp_ms: Some(state.updated_ms),
            ..NewRecord::default()
        };
        Decision { records: vec![record], ..Decision::default() }
    }
}

impl Machine for States {
    type Command = Command;
    type Reply = Result<Granted, Error>;
    type Effect = ();

    fn loaded(&mut self, _now_ms: i64) -> Decision<Self> {
        Decision::default()
    }

    fn decide(&mut self, now_ms: i64, command: Command) -> (Self::Reply, Decision<Self>) {
        match command {
            Command::Grant { id, fresh } => {
                let granted = match self.by_id.get(&id) {
                    Some(state) if state.epoch < EPOCH_LAST => {
                        Granted { producer_id: state.producer_id, epoch: state.epoch + 1 }
                    }
                    _ => Granted { producer_id: fresh, epoch: 0 },
                };
                let state = TransactionState {
                    producer_id: granted.producer_id,
                    epoch: granted.epoch,
                    timeout_ms: i32::MAX,
                    status: Status::Empty,
                    partitions: Vec::new(),
                    updated_ms: now_ms,
                    started_ms: -1,
                };
                (Ok(granted), self.changed(&id, state))
            }
            Command::Commit { id, epoch, partitions } => match self.by_id.get(&id) {
                Some(state) if state.epoch <= epoch => {
                    let mut state = state.clone();
                    state.epoch = epoch + 1;
                    state.status = Status::PrepareCommit;
                    state.partitions = partitions;
                    state.updated_ms = now_ms;
                    state.started_ms = now_ms;
                    let granted = Granted { producer_id: state.producer_id, epoch: state.epoch };
                    (Ok(granted), self.changed(&id, state))
                }
                _ => (Err(Error::Fenced(id)), Decision::default()),
            },
            Command::Complete { id, producer_id, epoch } => match self.by_id.get(&id) {
                Some(state) if state.producer_id == producer_id && state.epoch == epoch => {
                    let mut state = state.clone();
                    state.status = Status::CompleteCommit;
                    state.partitions = Vec::new();
                    state.updated_ms = now_ms;
                    (Ok(Granted { producer_id, epoch }), self.changed(&id, state))
                }
                // The next transaction has been decided meanwhile: its record stands for this one too.
                _ => (Ok(Granted { producer_id, epoch }), Decision::default()),
            },
        }
    }

    fn apply(&mut self, record: &RecordView) -> Result<(), Error> {
        let id = record.key.as_deref().and_then(decode_key);
        let state = record.value.as_deref().map(TransactionState::decode);
        match (id, state) {
            (Some(id), Some(Some(state))) => drop(self.by_id.insert(id, state)),
            (Some(id), None) => drop(self.by_id.remove(&id)),
            _ => {
                return Err(Error::Corrupt {
                    place: format!("{} at offset {}", super::TOPIC, record.offset.0),
                    detail: "a record that is no transaction's state".to_owned(),
                });
            }
        }
        Ok(())
    }

    fn snapshot(&self) -> Vec<NewRecord> {
        let record = |(id, state): (&String, &TransactionState)| self.changed(id, state.clone()).records;
        self.by_id.iter().flat_map(record).collect()
    }
}
