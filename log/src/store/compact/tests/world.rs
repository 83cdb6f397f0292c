//! A partition with producers that write to it, and passes over it: what the properties are checked on. Nothing is ever
//! taken out of `written`; `log` is what compaction has made of it.

use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;

use super::model::Model;
use crate::record::batch::Producer;
use crate::record::build::{Frame, Marker};
use crate::record::codec::Codec;
use crate::record::{Batch, LeaderEpoch, NewRecord, Offset};
use crate::store::compact::clean::{Cleaner, Outcome, Retain};
use crate::store::compact::map::{OffsetMap, SLOT_BYTES};
use crate::store::compact::mapping::{Mapped, Mapping};
use crate::store::compact::producers::LastBatches;
use crate::store::compact::{Mutant, Unreadable};
use crate::store::partition::Aborted;

/// Producer 0 has no id, 1 and 2 are idempotent, the others write transactions.
pub(super) const PRODUCERS: usize = 6;
const FIRST_TRANSACTIONAL: usize = 3;

/// Key, value and age of a record.
pub(super) type Record = (Option<u8>, Option<Vec<u8>>, i64);

#[derive(Clone, Debug)]
pub(super) enum Step {
    Append {
        producer: usize,
        records: Vec<Record>,
        codec: u8,
        append_time: bool,
    },
    /// Ends the producer's transaction, which may be empty here; `bump`: under its next epoch, as newer coordinators do.
    End {
        producer: usize,
        commit: bool,
        bump: bool,
    },
    /// An idempotent producer begins anew.
    Bump {
        producer: usize,
    },
    Wait(i64),
    Clean(Pass),
    /// Batches and aborted transactions are read from the bytes; `forget`: which part was clean is lost.
    Restart {
        forget: bool,
    },
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Pass {
    pub slots: usize,
    /// How far below the last stable offset the cleanable end lies, in 256ths; 0 is at it.
    pub short: u8,
    /// Whether batches at or above the mapped end are handed to the cleaner, too.
    pub feed_all: bool,
    /// Whether last batches are taken from the whole log, or from what is cleaned.
    pub last_of_all: bool,
}

fn codec() -> impl Strategy<Value = u8> {
    prop_oneof![3 => Just(0u8), 1 => 0u8..5]
}

fn record() -> impl Strategy<Value = Record> {
    let key = prop_oneof![1 => Just(None), 12 => (0u8..7).prop_map(Some)];
    let value = prop_oneof![
        3 => Just(None),
        6 => prop::collection::vec(any::<u8>(), 0..6).prop_map(Some),
        1 => (0u8..3, 100usize..3000).prop_map(|(byte, len)| Some(vec![byte; len])),
    ];
    (key, value, -5i64..40)
}

pub(super) fn step() -> impl Strategy<Value = Step> {
    let append = (0..PRODUCERS, prop::collection::vec(record(), 1..6), codec(), prop::bool::weighted(0.2))
        .prop_map(|(producer, records, codec, append_time)| Step::Append { producer, records, codec, append_time });
    let end = (FIRST_TRANSACTIONAL..PRODUCERS, any::<bool>(), any::<bool>())
        .prop_map(|(producer, commit, bump)| Step::End { producer, commit, bump });
    prop_oneof![
        10 => append,
        5 => end,
        1 => (1..FIRST_TRANSACTIONAL).prop_map(|producer| Step::Bump { producer }),
        3 => (0i64..40).prop_map(Step::Wait),
        6 => pass().prop_map(Step::Clean),
        1 => any::<bool>().prop_map(|forget| Step::Restart { forget }),
    ]
}

pub(super) fn pass() -> impl Strategy<Value = Pass> {
    let slots = prop_oneof![1 => 2usize..7, 2 => Just(64usize)];
    let short = prop_oneof![2 => Just(0u8), 1 => any::<u8>()];
    (slots, short, any::<bool>(), any::<bool>()).prop_map(|(slots, short, feed_all, last_of_all)| Pass {
        slots,
        short,
        feed_all,
        last_of_all,
    })
}

/// A producer as it sees itself.
#[derive(Clone, Copy, Debug)]
struct Writer {
    epoch: i16,
    sequence: i32,
    /// Its open transaction.
    open: Option<usize>,
}

/// See the module.
pub(super) struct World {
    pub now_ms: i64,
    pub retention_ms: i64,
    pub next: i64,
    writers: Vec<Writer>,
    pub written: Vec<Batch>,
    pub log: Vec<Batch>,
    pub aborted: Vec<Aborted>,
    pub first_dirty: Offset,
    pub mutant: Option<Mutant>,
    pub model: Model,
    pub happened: Happened,
}

/// How often passes did what the properties are about.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Happened {
    pub superseded: u64,
    pub keyless: u64,
    pub expired: u64,
    pub aborted: u64,
    pub markers: u64,
    pub full: u64,
    pub emptied: u64,
    /// The mapped end lay within a batch.
    pub within: u64,
}

impl Happened {
    pub fn add(&mut self, done: &Done) {
        let stats = done.outcome.stats;
        let end = done.mapped.end;
        self.superseded += stats.superseded;
        self.keyless += stats.keyless;
        self.expired += stats.expired;
        self.aborted += stats.aborted;
        self.markers += stats.markers;
        self.full += u64::from(done.mapped.full);
        self.emptied += done.log.iter().filter(|batch| batch.record_count() == 0).count() as u64;
        let within = |batch: &&Batch| batch.base_offset() < end && end < batch.next_offset();
        self.within += done.log.iter().filter(within).count() as u64;
    }

    pub fn all(self) -> [u64; 8] {
        let Happened { superseded, keyless, expired, aborted, markers, full, emptied, within } = self;
        [superseded, keyless, expired, aborted, markers, full, emptied, within]
    }
}

/// One pass, done but not yet in place.
pub(super) struct Done {
    pub mapped: Arc<Mapped>,
    pub log: Vec<Batch>,
    pub outcome: Outcome,
}

impl World {
    pub fn new(retention_ms: i64, mutant: Option<Mutant>) -> World {
        let writer = |n: usize| Writer { epoch: 0, sequence: if n % 2 == 1 { i32::MAX - 3 } else { 0 }, open: None };
        World {
            now_ms: 1_000,
            retention_ms,
            next: 0,
            writers: (0..PRODUCERS).map(writer).collect(),
            written: Vec::new(),
            log: Vec::new(),
            aborted: Vec::new(),
            first_dirty: Offset(0),
            mutant,
            model: Model::default(),
            happened: Happened::default(),
        }
    }

    pub fn last_stable(&self) -> Offset {
        self.model.first_open().unwrap_or(Offset(self.next))
    }

    pub fn run(&mut self, step: &Step) -> Result<(), TestCaseError> {
        match step {
            Step::Append { producer, records, codec, append_time } => {
                self.append(*producer, records, *codec, *append_time);
            }
            Step::End { producer, commit, bump } => self.end(*producer, *commit, *bump),
            Step::Bump { producer } => {
                let writer = &mut self.writers[*producer];
                (writer.epoch, writer.sequence) = (writer.epoch + 1, 0);
            }
            Step::Wait(ms) => self.now_ms += ms,
            Step::Clean(pass) => super::properties::clean(self, *pass)?,
            Step::Restart { forget } => super::properties::restart(self, *forget)?,
        }
        Ok(())
    }

    fn place(&mut self, mut batch: Batch) -> Batch {
        batch.place(Offset(self.next), LeaderEpoch(self.next as i32 / 20));
        self.next = batch.next_offset().0;
        self.written.push(batch.clone());
        self.log.push(batch.clone());
        batch
    }

    fn append(&mut self, producer: usize, records: &[Record], codec: u8, append_time: bool) {
        let new: Vec<_> = records
            .iter()
            .map(|(key, value, age_ms)| NewRecord {
                key: key.map(|key| Bytes::from(format!("key {key}"))),
                value: value.clone().map(Bytes::from),
                timestamp_ms: Some(self.now_ms - age_ms),
                ..NewRecord::default()
            })
            .collect();
        let writer = &mut self.writers[producer];
        let id = Producer { id: producer as i64, epoch: writer.epoch, base_sequence: writer.sequence };
        let transactional = producer >= FIRST_TRANSACTIONAL;
        let frame = Frame {
            now_ms: self.now_ms,
            producer: (producer > 0).then_some(id),
            transactional,
            batch_bytes_max: 1 << 20,
        };
        let codec = [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd][codec as usize];
        let mut batch = Batch::build(&new, &frame).unwrap().packed(codec);
        if append_time {
            batch.stamp_log_append_time(self.now_ms);
        }
        writer.sequence = ((i64::from(writer.sequence) + records.len() as i64) & i64::from(i32::MAX)) as i32;
        let mut open = writer.open;
        if transactional && open.is_none() {
            open = Some(self.model.begin());
            writer.open = open;
        }
        let batch = self.place(batch);
        self.model.append(&batch, open, records);
    }

    fn end(&mut self, producer: usize, commit: bool, bump: bool) {
        let writer = &mut self.writers[producer];
        if bump {
            (writer.epoch, writer.sequence) = (writer.epoch + 1, 0);
        }
        let open = writer.open.take();
        let marker = Marker { commit, coordinator_epoch: 0 };
        let marker = Batch::build_marker(producer as i64, writer.epoch, marker, self.now_ms);
        let marker = self.place(marker);
        let first = self.model.end(&marker, open, commit);
        if let (Some(first), false) = (first, commit) {
            self.aborted.push(Aborted { producer_id: producer as i64, first, last: marker.base_offset() });
            self.aborted.sort_by_key(|aborted| aborted.first);
        }
    }

    /// The cleanable end of a pass.
    pub fn cleanable_end(&self, pass: Pass) -> Offset {
        let stable = self.last_stable().0;
        Offset(stable - stable * i64::from(pass.short) / 256).max(self.first_dirty)
    }

    /// A pass over the log as it stands, without putting its result in place.
    pub fn compact(&self, pass: Pass, end: Offset, seed: u64) -> Result<Done, Unreadable> {
        let map = OffsetMap::new(pass.slots * SLOT_BYTES, seed);
        let mut mapping = Mapping::new(map, self.first_dirty, end, &self.aborted);
        for batch in self.log.iter().filter(|batch| batch.next_offset() > self.first_dirty) {
            if mapping.add(batch)?.is_break() {
                break;
            }
        }
        let mapped = Arc::new(mapping.finish());
        let mut last_batches = LastBatches::default();
        let known = self.log.iter().filter(|batch| pass.last_of_all || batch.base_offset() < mapped.end);
        known.for_each(|batch| last_batches.note(batch));
        let mut cleaner = Cleaner::new(
            Retain {
                mapped: Arc::clone(&mapped),
                last_batches,
                high_watermark: Offset(self.next),
                delete_retention_ms: self.retention_ms,
                now_ms: self.now_ms,
            },
            &self.aborted,
        );
        if let Some(mutant) = self.mutant {
            cleaner = cleaner.with_mutant(mutant);
        }
        let mut log = Vec::new();
        for batch in &self.log {
            if pass.feed_all || batch.base_offset() < mapped.end {
                log.extend(cleaner.clean(batch.clone())?);
            } else {
                log.push(batch.clone());
            }
        }
        let outcome = cleaner.finish();
        Ok(Done { mapped, log, outcome })
    }
}
