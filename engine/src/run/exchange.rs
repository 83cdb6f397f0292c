//! Spreads the rows of a delta over workers by the virtual shard of their key: shard `s` of 256 is owned by worker
//! `s * workers / 256`, so that a worker owns one range of shards whatever the count.

use arrow::array::{ArrayRef, AsArray, UInt32Array};
use arrow::compute::{take, take_record_batch};

use crate::delta::Delta;
use crate::expr::ExprRef;
use crate::operator::{Error, Exchange};
use crate::state::{VIRTUAL_SHARDS, digest};

/// Hands each part of `delta`, which stands on `worker`, to `to(worker, part)`.
pub fn spread(
    delta: Delta,
    worker: usize,
    workers: usize,
    exchange: &Exchange,
    mut to: impl FnMut(usize, Delta),
) -> Result<(), Error> {
    match exchange {
        _ if workers == 1 => to(0, delta),
        Exchange::Any => to(worker, delta),
        Exchange::Single => to(0, delta),
        Exchange::Broadcast => (0..workers).for_each(|worker| to(worker, delta.clone())),
        Exchange::Hash(keys) => by_key(&delta, keys, workers, to)?,
    }
    Ok(())
}

fn by_key(delta: &Delta, keys: &[ExprRef], workers: usize, mut to: impl FnMut(usize, Delta)) -> Result<(), Error> {
    let keys = keys.iter().map(|key| key.evaluate(&delta.rows)).collect::<Result<Vec<ArrayRef>, _>>()?;
    let shards = digest::shards(&keys, delta.len())?;
    let mut rows: Vec<Vec<u32>> = vec![Vec::new(); workers];
    for (row, shard) in (0u32..).zip(shards) {
        rows[owner(shard, workers)].push(row);
    }
    for (worker, rows) in rows.into_iter().enumerate() {
        match rows.len() {
            0 => {}
            all if all == delta.len() => to(worker, delta.clone()),
            _ => {
                let rows = UInt32Array::from(rows);
                let weights = delta.weights.as_ref().map(|weights| take(weights, &rows, None)).transpose()?;
                let rows = take_record_batch(&delta.rows, &rows)?;
                to(worker, Delta { rows, weights: weights.map(|weights| weights.as_primitive().clone()) });
            }
        }
    }
    Ok(())
}

/// The worker that owns a shard.
pub fn owner(shard: u8, workers: usize) -> usize {
    usize::from(shard) * workers / VIRTUAL_SHARDS
}
