//! Room on the disk. While there is less of it than the reserve, producers have to wait or to come again; what the log
//! needs for itself (metadata, markers, deletions, checkpoints) and what is acknowledged already goes on in the reserve.

use std::path::PathBuf;
use std::sync::Weak;
use std::time::Duration;

use super::flush::Flush;
use crate::env::{Disk, Env};

/// How long to wait before the disk is looked at again. Whoever writes segments looks more often.
const INTERVAL: Duration = Duration::from_secs(1);
/// The same while it is full.
pub(super) const FULL_INTERVAL: Duration = Duration::from_millis(100);
/// How often what finds no room is tried again where somebody waits for the log to open or to end: a second in all, in
/// which a checkpoint that is on its way may give some.
pub(super) const FULL_TRIES: u32 = 10;

/// Where to look, and how much is to be there.
#[derive(Clone)]
pub(super) struct Room {
    pub dir: PathBuf,
    pub reserve_bytes: u64,
}

impl Room {
    /// Looks, and says so to `flush`.
    pub fn look(&self, disk: &dyn Disk, flush: &Flush) {
        match disk.free_bytes(&self.dir) {
            Ok(free) => flush.set_free(free, self.reserve_bytes),
            // Nobody knows: then writes tell.
            Err(error) => tracing::debug!(%error, "the room on the disk is not known"),
        }
    }

    /// Looks from time to time, until the log ends.
    pub async fn watch(self, env: Env, flush: Weak<Flush>) {
        loop {
            let Some(flush) = flush.upgrade().filter(|flush| !flush.is_closed()) else { return };
            let (disk, room) = (env.disk(), self.clone());
            let flush = env.offload(move || {
                room.look(&*disk, &flush);
                flush
            });
            let interval = if flush.await.is_full() { FULL_INTERVAL } else { INTERVAL };
            env.sleep(interval).await;
        }
    }
}
