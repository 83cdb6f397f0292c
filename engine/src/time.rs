//! Epochs of the timeline. `now` comes from the timeline's record and from nowhere else.

use std::sync::Arc;

/// One step of the database-wide timeline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Epoch {
    /// From 1; 0 is before the first.
    pub number: u64,
    /// Every input up to here, and nothing beyond.
    pub cut: Arc<log::Cut>,
    /// Microseconds since 1970, UTC, as recorded when the cut was taken; never goes back.
    pub now_us: i64,
}
