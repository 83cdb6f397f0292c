//! The law for every operator: after each epoch, accumulated output = the batch query over the accumulated input.
//!
//! [`law`] feeds random weighted changes of several epochs to an operator and to a naive model of it, at one worker and
//! at three, and once with the state saved in the middle and loaded at another worker count.

mod aggregate;
mod join;
mod model;
mod normalize;
mod small;
mod stateless;
mod types;

use std::collections::{BTreeMap, BTreeSet};

use arrow::compute::filter_record_batch;
use arrow::datatypes::SchemaRef;

use self::model::{Relation, Step, add, delta, relation};
use super::{Context, Exchange, Factory, Operator, Port};
use crate::error::Error;
use crate::state::digest::{Digest, shards};
use crate::state::{Reader, VIRTUAL_SHARDS, Writer};
use crate::{Delta, Epoch};

/// An operator and what it should do.
struct Case<'a> {
    factory: Factory,
    /// One a port.
    inputs: Vec<SchemaRef>,
    /// The batch query.
    model: &'a dyn Fn(&[Relation]) -> Relation,
    /// Whether the output of an epoch holds each row once.
    consolidated: bool,
}

/// One operator on some workers.
struct Workers {
    instances: Vec<Box<dyn Operator>>,
    number: u64,
    rows_touched: u64,
}

type Entry = (u8, u8, Vec<u8>, Vec<u8>);

#[derive(Default)]
struct Saved(Vec<Entry>);

impl Writer for Saved {
    fn put(&mut self, shard: u8, table: u8, key: &[u8], value: &[u8]) -> Result<(), Error> {
        self.0.push((shard, table, key.to_vec(), value.to_vec()));
        Ok(())
    }
}

impl Reader for Saved {
    fn next(&mut self) -> Result<Option<Entry>, Error> {
        Ok(self.0.pop())
    }
}

/// A saved entry: shard, table, key, value.
fn hex((shard, table, key, value): &Entry) -> String {
    [&[*shard, *table], key.as_slice(), value].concat().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn owner(shard: u8, workers: usize) -> usize {
    usize::from(shard) * workers / VIRTUAL_SHARDS
}

impl Workers {
    fn new(factory: &Factory, workers: usize) -> Self {
        Self { instances: (0..workers).map(|_| factory()).collect(), number: 0, rows_touched: 0 }
    }

    /// Feeds chunks (port, delta) of one epoch and flushes.
    fn epoch(&mut self, chunks: Vec<(usize, Delta)>) -> Result<Vec<Delta>, Error> {
        self.number += 1;
        let mut out = Vec::new();
        for (port, chunk) in chunks {
            for (worker, part) in self.exchange(Port(port), chunk) {
                let mut cx = Context::new(&mut out);
                self.instances[worker].on_delta(Port(port), part, &mut cx)?;
                self.rows_touched += cx.rows_touched;
            }
        }
        let epoch = Epoch { number: self.number, cut: Default::default(), now_us: 0 };
        let single = matches!(self.instances[0].exchange(Port(0)), Exchange::Single);
        for instance in self.instances.iter_mut().take(if single { 1 } else { usize::MAX }) {
            let mut cx = Context::new(&mut out);
            instance.on_flush(&epoch, &mut cx)?;
            self.rows_touched += cx.rows_touched;
        }
        Ok(out)
    }

    fn exchange(&self, port: Port, chunk: Delta) -> Vec<(usize, Delta)> {
        let workers = self.instances.len();
        let owners: Vec<usize> = match self.instances[0].exchange(port) {
            Exchange::Hash(keys) => {
                let keys: Vec<_> = keys.iter().map(|key| key.evaluate(&chunk.rows).unwrap()).collect();
                shards(&keys, chunk.len()).unwrap().into_iter().map(|shard| owner(shard, workers)).collect()
            }
            Exchange::Any => (0..chunk.len()).map(|row| row % workers).collect(),
            Exchange::Single => vec![0; chunk.len()],
            Exchange::Broadcast => panic!("no operator broadcasts"),
        };
        let part = |worker| {
            let mask = owners.iter().map(|owner| Some(*owner == worker)).collect();
            let weights = (0..chunk.len()).filter(|row| owners[*row] == worker).map(|row| Some(chunk.weight(row)));
            let weights = chunk.weights.is_some().then(|| weights.collect());
            (worker, Delta { rows: filter_record_batch(&chunk.rows, &mask).unwrap(), weights })
        };
        (0..workers).map(part).filter(|(_, part)| !part.is_empty()).collect()
    }

    /// The same operator at another worker count, by way of its saved state.
    fn moved(&self, factory: &Factory, workers: usize) -> Self {
        let mut saved = Saved::default();
        for (worker, instance) in self.instances.iter().enumerate() {
            let from = saved.0.len();
            instance.save(&mut saved).unwrap();
            let own = |entry: &Entry| owner(entry.0, self.instances.len()) == worker;
            assert!(saved.0[from..].iter().all(own), "a worker saves what is in its own shards");
        }
        let keys: BTreeSet<_> = saved.0.iter().map(|(shard, table, key, _)| (shard, table, key)).collect();
        assert_eq!(keys.len(), saved.0.len(), "no entry is written over another");
        let mut moved = Self::new(factory, workers);
        moved.number = self.number;
        for (worker, instance) in moved.instances.iter_mut().enumerate() {
            let own = saved.0.iter().filter(|entry| owner(entry.0, workers) == worker).cloned();
            instance.load(&mut Saved(own.collect())).unwrap();
        }
        moved
    }
}

/// The law. `epochs[epoch][port]` are steps; they become weighted rows, in chunks, in an order of their own.
fn law(case: &Case<'_>, epochs: &[Vec<Vec<Step>>]) {
    let mut runs = [Workers::new(&case.factory, 1), Workers::new(&case.factory, 3), Workers::new(&case.factory, 3)];
    let mut inputs = vec![Relation::new(); case.inputs.len()];
    let mut output = Relation::new();
    for (number, steps) in epochs.iter().enumerate() {
        let mut chunks = Vec::new();
        for (port, steps) in steps.iter().enumerate() {
            let changes = model::play(steps, &mut inputs[port]);
            let sizes = [1 + number % 3, 7];
            let mut changes = changes.as_slice();
            for size in sizes.into_iter().cycle().take_while(|_| true) {
                let (now, later) = changes.split_at(size.min(changes.len()));
                if now.is_empty() {
                    break;
                }
                chunks.push((port, delta(&case.inputs[port], now)));
                changes = later;
            }
        }
        if number == epochs.len() / 2 {
            runs[2] = runs[2].moved(&case.factory, 2);
        }
        let outputs = runs.each_mut().map(|run| run.epoch(chunks.clone()).unwrap());
        let digests = outputs.each_ref().map(|out| digest(out));
        assert_eq!(digests, [digests[0]; 3], "digests at 1 and 3 workers, and moved from 3 to 2 in the middle");
        let change: BTreeMap<_, _> = outputs[0].iter().fold(Relation::new(), |sum, delta| add(sum, relation(delta)));
        if case.consolidated {
            let rows: usize = outputs[0].iter().map(Delta::len).sum();
            assert_eq!(rows, change.len(), "each row of an epoch's output stands in it once");
        }
        output = add(output, change);
        assert_eq!(output, (case.model)(&inputs), "after epoch {}", number + 1);
    }
}

fn digest(deltas: &[Delta]) -> Digest {
    let mut digest = Digest::default();
    deltas.iter().for_each(|delta| digest.add(delta).unwrap());
    digest
}
