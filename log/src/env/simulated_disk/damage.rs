//! What tests do to the disk: damage planned for an operation, and silent damage at once, behind everybody's back.

use std::path::Path;

use super::image::{Image, SECTOR_BYTES};
use super::{SimDisk, State, lock};

/// What to do to the disk at one of its operations, counted from 1 since the last [`SimDisk::crash`] or start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// During this operation the machine loses its power: what it was to do may be done or not, every call fails.
    PowerCut { operation: u64 },
    /// The first sync from this operation on fails, once; what it should have made durable never will be, unless it is
    /// written again.
    SyncFails { operation: u64, how: SyncFailure },
    /// The first write from this operation on fails with EIO, once, with part of it written.
    WriteFails { operation: u64 },
    /// The first read after so many operations fails with EIO, once.
    ReadFails { operation: u64 },
    /// The first write from this operation on reports success and is read back while it is cached, but never reaches the
    /// disk: the sectors stay stale.
    WriteLost { operation: u64 },
    /// As `WriteLost`, and the bytes land in another place of the file.
    WriteMisdirected { operation: u64 },
}

/// How a sync fails: the shapes found by Rebello et al., "Can Applications Recover from fsync Failures?" (USENIX ATC
/// 2020), and by PostgreSQL's people in 2018. In all of them the next sync succeeds and makes nothing of it durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncFailure {
    /// EIO; the pages count as clean and hold the new bytes until they leave the cache (ext4, XFS). The length may have
    /// reached the disk. Other handles open at that time get the error at their next sync.
    Clean,
    /// EIO, and the file reads as before (btrfs).
    Reverted,
    /// This sync reports success, the next one of the file EIO (ext4 with journaled data). What was acknowledged in
    /// between is lost in a crash whatever a program does: ask only that it stops, and what it finds afterwards.
    Late,
    /// The system fails to write back the pages behind a write, with nobody waiting: the first write from the operation
    /// on. Handles open at that time get EIO at their next sync, a handle opened afterwards never does.
    Unseen,
}

impl Damage {
    pub(super) fn operation(&self) -> u64 {
        match self {
            Damage::PowerCut { operation }
            | Damage::SyncFails { operation, .. }
            | Damage::WriteFails { operation }
            | Damage::ReadFails { operation }
            | Damage::WriteLost { operation }
            | Damage::WriteMisdirected { operation } => *operation,
        }
    }
}

/// Silent damage to bytes that are durable. It lasts over a crash.
impl SimDisk {
    /// Flips one bit, on the disk and in the cache, as far as it is there.
    pub fn flip_bit(&self, path: &Path, offset: usize) {
        lock(&self.state).spoil(path, |image| {
            if let [byte] = image.slice(offset, offset + 1)[..] {
                image.write(offset, &[byte ^ 1]);
            }
        });
    }

    /// The sector around `offset` holds what it held in `older`, a [`SimDisk::snapshot`]: a write since then was lost.
    pub fn stale_sector(&self, path: &Path, offset: usize, older: &SimDisk) {
        let from = offset - offset % SECTOR_BYTES;
        let stale = older.sector(path, from);
        lock(&self.state).spoil(path, |image| overwrite(image, from, &stale));
    }

    /// The last write of the sector around `offset` went to the one around `to`, and left it as it was in `older`.
    pub fn misdirect_sector(&self, path: &Path, offset: usize, to: usize, older: &SimDisk) {
        let moved = self.sector(path, offset - offset % SECTOR_BYTES);
        self.stale_sector(path, offset, older);
        lock(&self.state).spoil(path, |image| overwrite(image, to - to % SECTOR_BYTES, &moved));
    }

    /// The file ends here.
    pub fn truncate_file(&self, path: &Path, len: usize) {
        lock(&self.state).spoil(path, |image| image.set_len(len.min(image.len())));
    }

    /// Reads of the sector around `offset` fail with EIO until it is written again.
    pub fn unreadable_sector(&self, path: &Path, offset: usize) {
        let mut state = lock(&self.state);
        let file = state.names.file(path).expect("the file is there");
        state.inode(file).unreadable.insert(offset / SECTOR_BYTES);
    }

    /// Clean pages leave the cache: programs see what is on the disk.
    pub fn drop_caches(&self) {
        lock(&self.state).inodes.values_mut().for_each(|inode| inode.drop_cache());
    }

    fn sector(&self, path: &Path, from: usize) -> Vec<u8> {
        let state = lock(&self.state);
        let file = state.names.file(path).expect("the file is there");
        let mut bytes = vec![0; SECTOR_BYTES];
        state.inodes[&file].cache.read(from, &mut bytes);
        bytes
    }
}

impl State {
    fn spoil(&mut self, path: &Path, with: impl Fn(&mut Image)) {
        let file = self.names.file(path).expect("the file is there");
        let inode = self.inode(file);
        inode.diverged = true;
        with(&mut inode.cache);
        with(&mut inode.durable);
    }
}

/// Writes as far as the file goes.
fn overwrite(image: &mut Image, at: usize, bytes: &[u8]) {
    let count = bytes.len().min(image.len().saturating_sub(at));
    image.write(at, &bytes[..count]);
}
