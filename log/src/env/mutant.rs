//! Deliberate faults of one node, one at a time, for the tests that must find each of them. They are compiled in with the
//! feature `mutants` only; without it no trace is left of the question.

/// What is to be done wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mutant {
    /// A sync that has failed is tried again, and then believed.
    SyncRetried,
    /// The name of a new file of the write-ahead log is not made durable.
    NewLogFileUnnamed,
    /// Nor is the new name of one that is used again.
    UsedLogFileUnnamed,
    /// Nor that of a new file of checkpoints.
    CheckpointUnnamed,
    /// Nor those of segments.
    SegmentsUnnamed,
    /// A damaged group is always taken for the torn end of the log.
    DamageTakenForTheEnd,
    /// The checksum of a group is not looked at.
    GroupChecksumIgnored,
    /// A checkpoint of several blocks counts before its last one is there.
    CheckpointCountsUnfinished,
    /// A checkpoint does not know what idempotent producers have sent.
    CheckpointForgetsProducers,
    /// A checkpoint does not know of open transactions.
    CheckpointForgetsOpenTransactions,
    /// A checkpoint does not know of aborted transactions.
    CheckpointForgetsAborted,
    /// A checkpoint is taken without the segments' bytes being synced.
    CheckpointBeforeSync,
    /// The small unsynced ends of segments are neither synced nor written to the log once more.
    SmallEndsForgotten,
    /// Files of the log are used again before the checkpoint that makes that safe is durable.
    LogReleasedEarly,
    /// Segments are removed before it is durable that the log starts behind them.
    SegmentsRemovedEarly,
    /// What may be in the system's memory only is believed by recovery.
    LastGroupNotWrittenAgain,
    /// A start goes on in the leader epoch of the life before.
    EpochNotRaised,
    /// A repeated batch is answered though the first one is not durable.
    RepeatAnsweredEarly,
    /// A transaction is answered when its markers have their places.
    EndAnsweredEarly,
    /// Markers do not wait for the decision.
    MarkersBeforeDecision,
    /// A failure that the wait for writing back is told is not minded.
    WritebackErrorIgnored,
    /// What the disk has no room for is left out.
    FullDiskForgets,
    /// What is written is acknowledged, synced or not.
    AcknowledgedBeforeSync,
}

impl Mutant {
    /// Whether this thread is to do it wrong, or this process.
    #[cfg(feature = "mutants")]
    pub fn is_on(self) -> bool {
        on::ON.get() == Some(self) || on::of_process() == Some(self)
    }

    /// Never.
    #[cfg(not(feature = "mutants"))]
    #[inline(always)]
    pub const fn is_on(self) -> bool {
        false
    }
}

/// A simulated node runs on the thread of its test, so that tests beside each other do not meet. A whole program is seen
/// from outside and has many threads: the variable `RIVERRUN_MUTANT` of its environment names what it is to do wrong.
#[cfg(feature = "mutants")]
pub(crate) mod on {
    use std::cell::Cell;
    use std::sync::OnceLock;

    use super::Mutant;

    thread_local! {
        pub(super) static ON: Cell<Option<Mutant>> = const { Cell::new(None) };
    }

    pub(super) fn of_process() -> Option<Mutant> {
        static OF_PROCESS: OnceLock<Option<Mutant>> = OnceLock::new();
        *OF_PROCESS.get_or_init(|| {
            let name = std::env::var("RIVERRUN_MUTANT").ok()?;
            let mutant = match name.as_str() {
                "acknowledged-before-sync" => Mutant::AcknowledgedBeforeSync,
                _ => panic!("RIVERRUN_MUTANT names no deliberate fault: {name}"),
            };
            tracing::warn!(?mutant, "a deliberate fault is on: this program loses what it acknowledges");
            Some(mutant)
        })
    }

    /// Runs this with the mutant on.
    #[cfg(test)]
    pub(crate) fn with<T>(mutant: Mutant, body: impl FnOnce() -> T) -> T {
        ON.set(Some(mutant));
        let outcome = body();
        ON.set(None);
        outcome
    }
}
