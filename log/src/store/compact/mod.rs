//! Log compaction. What stays and what goes is decided apart from any file: batches in, batches out, `now` an argument.
//! [`task`] looks which partition is [`due`], [`pass`] reads and writes its segments, [`swap`] puts them into their place.
//!
//! ```text
//!  log start         first dirty           mapped end    cleanable end     high watermark
//!     ├──────────────────┼──────────────────────┼───────────────┼─────────────────┤
//!     │  cleaned before  │    Mapping::add      │ the map was full, or the caller stopped
//!     │                  │  key ─▶ last offset  │
//!     ├──────────────────────────────────────────┤
//!                 Cleaner::clean                 └─▶ the next first dirty offset
//! ```
//!
//! A pass first maps the keys of the dirty part ([`mapping`]), as far as memory goes ([`map`]), then goes over all
//! batches from the log start on ([`clean`]). The rules are Kafka's (its `Cleaner`, KIP-98 and KIP-534):
//!
//! - A record below the mapped end stays if none below the mapped end has its key and a higher offset. One without a key
//!   goes. At and above the mapped end nothing changes.
//! - A tombstone gets a delete horizon when it is first cleaned, in the header of its batch, and goes behind it.
//! - Records of aborted transactions go at once. The marker of a transaction gets a delete horizon once none of its
//!   batches is left, and goes behind it; until then it stays, or the transaction would never end.
//! - The last batch of a producer stays, without records if need be ([`producers`]), and so does the batch that ends at
//!   the high watermark. Where a producer has nothing but a marker in its epoch, that stays, whole.
//! - Offsets, producers, sequences, epochs, kinds of timestamps and codecs never change; a batch of which nothing goes
//!   passes byte for byte.
//!
//! Where ours differ: a horizon has passed when `now` is behind it, not at it, so that a second pass at the same `now`
//! changes nothing; the marker's horizon is set in the pass that takes the last of its data, not in the next; a marker is
//! never left as an empty control batch; and a tombstone beyond the mapped end gets no horizon yet.
//!
//! A tombstone or a marker that is due is reason for a pass, but not more often than twice in `delete.retention.ms`.
//!
//! What the caller sees to: batches are whole and in order; the cleanable end is not above the last stable offset and the
//! holds; [`clean::Cleaner`] gets every batch from the log start; outputs take the place of inputs from low offsets to high,
//! so that a tombstone never outruns the values it deletes; and with each of them go the aborted transactions of which
//! [`clean::Cleaner::void`] says that nothing is left.

pub(crate) mod task;

pub(crate) mod figures;

mod due;
mod pass;

mod output;
pub(super) mod swap;

mod clean;
mod mapping;

mod aborted;
mod map;
pub(super) mod producers;

use crate::record::{Batch, BatchError, Offset};

#[cfg(test)]
mod tests;

/// The batch at `offset` cannot be read, so what it hides from compaction is not known: the partition is not compacted
/// until somebody has looked. Nothing of the pass may be used.
#[derive(Debug, thiserror::Error)]
#[error("batch at offset {offset} cannot be compacted")]
pub(crate) struct Unreadable {
    pub offset: i64,
    #[source]
    pub source: BatchError,
}

impl Unreadable {
    fn of(batch: &Batch) -> impl FnOnce(BatchError) -> Unreadable {
        let Offset(offset) = batch.base_offset();
        move |source| Unreadable { offset, source }
    }
}

/// Deliberate faults, for the tests that must find them.
#[cfg(test)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mutant {
    /// The last batch of a producer goes like any other.
    ProducerStateLost,
}
