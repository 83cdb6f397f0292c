//! The files of the write-ahead log that are open, and how many bytes in each are still of use.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};

use super::partition::{Entry, Place};
use crate::Error;
use crate::env::{Disk, File, read_full};
use crate::record::{Batch, TopicPartition};

/// Batches of a partition that lie this near in a file are read in one go: what lies between is cheaper than a call.
const GAP_BYTES: u64 = 64 * 1024;

/// See the module.
#[derive(Default)]
pub(super) struct Files {
    open: Mutex<BTreeMap<u32, Held>>,
}

struct Held {
    file: Arc<dyn File>,
    /// Bytes of batches that readers may still ask for.
    live: u64,
    /// The log says that it is no part of it any more.
    freed: bool,
}

impl Files {
    pub fn name(number: u32) -> String {
        format!("{number:010}.wal")
    }

    /// The number in a file's name; `None` for other files.
    pub fn number(path: &Path) -> Option<u32> {
        path.file_name()?.to_str()?.strip_suffix(".wal")?.parse().ok()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u32, Held>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn add(&self, number: u32, file: Arc<dyn File>) {
        self.lock().insert(number, Held { file, live: 0, freed: false });
    }

    pub fn numbers(&self) -> Vec<u32> {
        self.lock().keys().copied().collect()
    }

    /// The files that are part of the log: what the next file says.
    pub fn named(&self) -> Vec<u32> {
        self.lock().iter().filter(|(_, held)| !held.freed).map(|(number, _)| *number).collect()
    }

    /// The log says that these are no part of it any more.
    pub fn free(&self, numbers: &[u32]) {
        let mut files = self.lock();
        for number in numbers {
            files.get_mut(number).into_iter().for_each(|held| held.freed = true);
        }
    }

    /// More or fewer bytes of a file are of use.
    pub fn live(&self, places: impl Iterator<Item = Place>, added: bool) {
        let mut files = self.lock();
        for place in places {
            let Some(held) = files.get_mut(&place.file) else { continue };
            if added {
                held.live += u64::from(place.len);
            } else {
                held.live = held.live.checked_sub(u64::from(place.len)).expect("a batch is taken away once");
            }
        }
    }

    /// Files without a byte of use, but for the newest, which is being written.
    pub fn useless(&self) -> Vec<u32> {
        let files = self.lock();
        let newest = files.keys().next_back().copied();
        files.iter().filter(|(number, held)| held.live == 0 && Some(**number) != newest).map(|(n, _)| *n).collect()
    }

    /// Takes files out of the log. Readers that have one open keep it.
    pub fn remove(&self, disk: &dyn Disk, dir: &Path, numbers: &[u32]) -> std::io::Result<()> {
        for number in numbers {
            self.lock().remove(number);
            disk.unlink(&dir.join(Self::name(*number)))?;
        }
        disk.sync_dir(dir)
    }

    /// Total bytes of use.
    pub fn live_bytes(&self) -> u64 {
        self.lock().values().map(|held| held.live).sum()
    }

    fn get(&self, number: u32) -> Option<Arc<dyn File>> {
        self.lock().get(&number).map(|held| Arc::clone(&held.file))
    }

    /// Reads batches from disk; each must be what the index says, to the checksum.
    pub fn read(&self, partition: TopicPartition, entries: &[Entry]) -> Result<Vec<Batch>, Error> {
        let mut batches = Vec::with_capacity(entries.len());
        let mut rest = entries;
        while let Some(first) = rest.first() {
            let mut end = u64::from(first.place.position) + u64::from(first.place.len);
            let near = |pair: &[Entry]| {
                let (next, begins) = (pair[1].place, u64::from(pair[1].place.position));
                next.file == first.place.file && begins >= end && begins - end <= GAP_BYTES && {
                    end = begins + u64::from(next.len);
                    true
                }
            };
            let count = 1 + rest.windows(2).map(near).take_while(|near| *near).count();
            let (span, later) = rest.split_at(count);
            let file = self.get(first.place.file).ok_or_else(|| {
                let (start, end) = (crate::Offset(span[count - 1].next()), crate::Offset(span[count - 1].next()));
                Error::OutOfRange { offset: crate::Offset(first.base), start, end }
            })?;
            let from = u64::from(first.place.position);
            let mut bytes = BytesMut::zeroed((end - from) as usize);
            read_full(&*file, from, &mut bytes)?;
            let bytes = bytes.freeze();
            for entry in span {
                let at = (u64::from(entry.place.position) - from) as usize;
                let own = bytes.slice(at..at + entry.place.len as usize);
                batches.push(intact(own, entry).map_err(|detail| damaged(partition, entry, &detail))?);
            }
            rest = later;
        }
        Ok(batches)
    }
}

fn intact(mut bytes: Bytes, entry: &Entry) -> Result<Batch, String> {
    match Batch::split_from(&mut bytes) {
        Ok(Some(batch)) if batch.base_offset().0 == entry.base && batch.next_offset().0 == entry.next() => Ok(batch),
        Ok(Some(batch)) => Err(format!("a batch at offset {} lies there", batch.base_offset().0)),
        Ok(None) => Err("the batch is cut short".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

fn damaged(partition: TopicPartition, entry: &Entry, detail: &str) -> Error {
    let place = PathBuf::from("wal").join(Files::name(entry.place.file));
    Error::Corrupt {
        place: format!("{} at byte {}", place.display(), entry.place.position),
        detail: format!("{detail}; the index has offset {} of partition {partition:?} there", entry.base),
    }
}
