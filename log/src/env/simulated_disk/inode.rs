//! One file: what programs read, what a crash would find, and the changes between the two.

use std::collections::BTreeSet;
use std::io::{self, IoSlice};

use bytes::Bytes;

use super::crash::{Fates, WriteFate};
use super::image::{Image, SECTOR_BYTES};
use super::input_output_error;

#[derive(Clone, Debug)]
pub(super) enum Change {
    /// What the sectors of a write held after it: a disk writes whole sectors, so what an earlier write put into one
    /// comes along. `end` is that of the write itself: only that far does it extend the file.
    Write {
        offset: usize,
        end: usize,
        bytes: Bytes,
    },
    /// At least so long, with zeros.
    Extend(usize),
    SetLen(usize),
    Allocate {
        from: usize,
        to: usize,
    },
}

#[derive(Clone, Debug, Default)]
pub(super) struct Inode {
    /// What programs read: the page cache.
    pub cache: Image,
    /// What is on the disk.
    pub durable: Image,
    /// What a sync makes of `durable`, in order.
    pub pending: Vec<Change>,
    /// The cache holds what a sync will not make durable.
    pub diverged: bool,
    /// Sectors that cannot be read.
    pub unreadable: BTreeSet<usize>,
    /// How often writing back failed: a handle that has heard of fewer reports an error.
    pub failures: u64,
    /// How many handles are open.
    pub handles: u32,
}

impl Inode {
    /// Puts the slices at `offset`, but not beyond `end`.
    pub fn write(&mut self, offset: usize, slices: &[IoSlice<'_>], end: usize) {
        let mut at = offset;
        for slice in slices {
            let part = &slice[..slice.len().min(end - at)];
            self.cache.write(at, part);
            at += part.len();
        }
        if at > offset {
            let from = offset - offset % SECTOR_BYTES;
            let bytes = Bytes::from(self.cache.slice(from, at.next_multiple_of(SECTOR_BYTES)));
            self.pending.push(Change::Write { offset: from, end: at, bytes });
            let written = from / SECTOR_BYTES..at.div_ceil(SECTOR_BYTES);
            self.unreadable.retain(|sector| !written.contains(sector));
        }
    }

    /// The last write does not reach the disk, but its length does.
    pub fn lose_last_write(&mut self) {
        if let Some(Change::Write { end, .. }) = self.pending.pop() {
            self.pending.push(Change::Extend(end));
            self.diverged = true;
        }
    }

    /// The last write goes to this sector, or to the next when this is where it belongs.
    pub fn misdirect_last_write(&mut self, to: usize) {
        if let Some(Change::Write { offset, end, bytes }) = self.pending.pop() {
            let to = to * SECTOR_BYTES;
            let offset = if to == offset { to + SECTOR_BYTES } else { to };
            self.pending.push(Change::Extend(end));
            self.pending.push(Change::Write { offset, end: offset + bytes.len(), bytes });
            self.diverged = true;
        }
    }

    /// Reads up to the first sector that cannot be read; an error when that is where it begins.
    pub fn read(&self, offset: usize, into: &mut [u8]) -> io::Result<usize> {
        let unreadable = self.unreadable.range(offset / SECTOR_BYTES..).next();
        let count = match unreadable.map(|sector| sector * SECTOR_BYTES) {
            Some(at) if at <= offset && offset < self.cache.len() && !into.is_empty() => {
                return Err(input_output_error());
            }
            Some(at) => into.len().min(at.saturating_sub(offset)),
            None => into.len(),
        };
        Ok(self.cache.read(offset, &mut into[..count]))
    }

    pub fn set_len(&mut self, len: usize) {
        self.cache.set_len(len);
        self.pending.push(Change::SetLen(len));
    }

    pub fn allocate(&mut self, from: usize, to: usize) {
        self.cache.allocate(from, to);
        self.pending.push(Change::Allocate { from, to });
    }

    pub fn sync(&mut self) {
        let writes = self.pending.iter().all(|change| matches!(change, Change::Write { .. }));
        match (self.diverged, writes) {
            (true, _) => self.pending.iter().for_each(|change| change.apply(&mut self.durable)),
            // The same in the end, and the two share their pages.
            (false, false) => self.durable = self.cache.clone(),
            (false, true) => {
                for change in &self.pending {
                    if let Change::Write { offset, end, .. } = change {
                        self.durable.share(*offset, *end, &self.cache);
                    }
                }
            }
        }
        self.pending.clear();
    }

    /// What a sync should have written never is. `lengths`: but the disk knows how long the file should be.
    pub fn lose(&mut self, lengths: bool) {
        for change in self.pending.drain(..).filter(|_| lengths) {
            change.length().apply(&mut self.durable);
        }
        self.failures += 1;
        self.diverged = true;
    }

    /// Programs see what is on the disk, and what a sync will put there.
    pub fn drop_cache(&mut self) {
        self.cache = self.durable.clone();
        self.pending.iter().for_each(|change| change.apply(&mut self.cache));
        self.diverged = false;
    }

    /// The file after a crash.
    pub fn after_crash(&self, fates: &mut Fates) -> Inode {
        let mut durable = self.durable.clone();
        for change in &self.pending {
            change.suffer(&mut durable, fates);
        }
        Inode { cache: durable.clone(), durable, unreadable: self.unreadable.clone(), ..Inode::default() }
    }
}

impl Change {
    fn apply(&self, image: &mut Image) {
        match self {
            Change::Write { offset, end, bytes } => {
                let visible = image.len().max(*end) - offset;
                image.write(*offset, &bytes[..bytes.len().min(visible)]);
                image.extend(*end);
            }
            Change::Extend(len) => image.extend(*len),
            Change::SetLen(len) => image.set_len(*len),
            Change::Allocate { from, to } => image.allocate(*from, *to),
        }
    }

    /// What it is without its bytes.
    fn length(self) -> Change {
        match self {
            Change::Write { end, .. } => Change::Extend(end),
            other => other,
        }
    }

    /// Applies what a crash leaves of it.
    fn suffer(&self, image: &mut Image, fates: &mut Fates) {
        let Change::Write { offset, end, bytes } = self else {
            if fates.length() {
                self.apply(image);
            }
            return;
        };
        match fates.write(bytes.len().div_ceil(SECTOR_BYTES)) {
            WriteFate::Lost => {}
            WriteFate::Whole => self.apply(image),
            WriteFate::Zeros => image.extend(*end),
            WriteFate::Torn { sectors, extended } => {
                if extended {
                    image.extend(*end);
                }
                for (at, sector) in bytes.chunks(SECTOR_BYTES).enumerate().filter(|(at, _)| sectors[*at]) {
                    let from = offset + at * SECTOR_BYTES;
                    let visible = image.len().max(*end).saturating_sub(from);
                    image.write(from, &sector[..sector.len().min(visible)]);
                }
            }
        }
    }
}

/// The length that all slices have together, and where it ends.
pub(super) fn end_of(offset: u64, slices: &[IoSlice<'_>]) -> io::Result<(usize, usize)> {
    let len: usize = slices.iter().map(|slice| slice.len()).sum();
    range(offset, len as u64)
}

/// A range as the images count; the simulated disk knows files of up to 64 GiB.
pub(super) fn range(offset: u64, len: u64) -> io::Result<(usize, usize)> {
    const FILE_BYTES_MAX: u64 = 1 << 36;
    match offset.checked_add(len) {
        Some(end) if end <= FILE_BYTES_MAX => Ok((offset as usize, end as usize)),
        _ => Err(io::ErrorKind::FileTooLarge.into()),
    }
}
