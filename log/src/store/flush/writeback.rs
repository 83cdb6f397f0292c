//! What was written to segments is brought to the disk soon, and not by a checkpoint only: its syncs then find little left.
//! It goes in pieces that are large enough for the disk to be fast with. Few of them are under way at a time, for the
//! write-ahead log's next sync waits behind them; the further segments are behind, the more, for then writers wait for them.

use std::collections::VecDeque;
use std::io;

use crate::env::File;
use crate::store::handles::{Handles, Name};

/// A whole number of pages: the system writes back no less.
const PIECE_BYTES: u32 = if cfg!(test) { 256 } else { 256 * 1024 };
/// The next one is begun before the oldest is waited for, so that the disk is never without one.
const UNDER_WAY_MIN: usize = 1;
const UNDER_WAY_MAX: usize = 16;
/// One more for so many that wait in memory to be written.
const PART: usize = 32;

/// See the module.
#[derive(Default)]
pub(super) struct Writeback {
    /// Where a piece begins, the oldest first.
    under_way: VecDeque<(Name, u32)>,
}

impl Writeback {
    /// Begins with what there is of whole pieces of a file that was written to just now, and waits for the oldest while too
    /// many are under way for so much that waits in memory.
    pub fn start(&mut self, handles: &Handles, name: Name, file: &dyn File, waiting_bytes: usize) -> io::Result<()> {
        let count_max = (waiting_bytes / PIECE_BYTES as usize / PART).clamp(UNDER_WAY_MIN, UNDER_WAY_MAX);
        while let Some(from) = handles.next_piece(name, PIECE_BYTES) {
            file.start_writeback(from.into(), PIECE_BYTES.into()).map_err(io::Error::other)?;
            self.under_way.push_back((name, from));
            while self.under_way.len() > count_max
                && let Some((name, from)) = self.under_way.pop_front()
            {
                handles.await_writeback(name, from, PIECE_BYTES)?;
            }
        }
        Ok(())
    }
}
