//! Reading batches from segments' files, each checked to its checksum.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};

use super::handles::{Handles, Name};
use super::layout::{Suffix, offset_index, time_index};
use super::partition::Cold;
use crate::Error;
use crate::env::{Disk, File, Open, read_full};
use crate::record::{BATCH_HEADER, Batch, LeaderEpoch, Offset, TopicPartition};

/// The least that is read at once.
const CHUNK_MIN: usize = 64 * 1024;
/// Bytes looked through at once for the batch to begin with.
const SEEK_CHUNK: usize = 256 * 1024;
/// An index of ours has at most 1,025 entries; one of Kafka's for a full segment has 3 MiB.
const INDEX_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Readers whose place is remembered.
const CURSORS_MAX: usize = 1024;

/// What is wanted of a partition's file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    pub partition: TopicPartition,
    pub from: Offset,
    pub up_to: Offset,
    pub bytes_max: usize,
}

/// Where readers that go on will look next: partition and offset to file and position. A reader of a file from one
/// end to the other does not look through it twice.
///
/// A file is told by its segment's base and generation, for a reader may put its place when the file was replaced.
#[derive(Default)]
pub(super) struct Cursors {
    inner: Mutex<BTreeMap<(TopicPartition, Offset), (FileOf, u32)>>,
}

type FileOf = (Offset, u32);

impl Cursors {
    fn take(&self, partition: TopicPartition, from: Offset, file: FileOf) -> Option<u32> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let (of, position) = inner.remove(&(partition, from))?;
        (of == file).then_some(position)
    }

    fn put(&self, partition: TopicPartition, next: Offset, file: FileOf, position: u32) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.len() >= CURSORS_MAX {
            // Which one goes does not matter much: it costs its reader one look.
            inner.pop_first();
        }
        inner.insert((partition, next), (file, position));
    }

    /// Segments of the partition are written anew or gone.
    pub fn forget(&self, partition: TopicPartition) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.retain(|(of, _), _| *of != partition);
    }
}

/// The batches from the one that holds `from` on, of one segment: those that begin below `up_to`, about `bytes_max`
/// bytes, at least one; none where the segment has none.
pub(super) fn read(
    disk: &dyn Disk,
    handles: &Handles,
    cursors: &Cursors,
    cold: &Cold,
    wanted: Wanted,
) -> Result<Vec<Batch>, Error> {
    let name =
        Name { partition: wanted.partition, segment: cold.segment, generation: cold.generation, suffix: Suffix::Log };
    let reader = Reader { file: &*handles.for_reading(disk, name)?, name, handles, end: cold.end };
    reader.check_len()?;
    if let Some(position) =
        cursors.take(wanted.partition, wanted.from, (cold.segment, cold.generation)).or(cold.position)
    {
        return read_from(&reader, cursors, cold, wanted, position);
    }
    let entry = entry_in_file(disk, handles, name, (wanted.from.0 - cold.segment.0).max(0) as u32)?;
    // No checksum protects an index: it is believed where its batch says the same.
    let told = |entry: &offset_index::Entry| reader.ends_at(entry.position, entry.relative_offset);
    let position = entry.filter(told).map_or(0, |entry| entry.position);
    match read_from(&reader, cursors, cold, wanted, position) {
        // It may be the index that is damaged.
        Err(Error::Corrupt { .. }) if position > 0 => read_from(&reader, cursors, cold, wanted, 0),
        read => read,
    }
}

/// The same, looking from `hint` on.
fn read_from(
    reader: &Reader<'_>,
    cursors: &Cursors,
    cold: &Cold,
    wanted: Wanted,
    hint: u32,
) -> Result<Vec<Batch>, Error> {
    let mut follow = Follow { whole: cold.whole, from: wanted.from, end: cold.next, last: None };
    let Some(mut at) = reader.seek(hint, wanted.from, &mut follow)? else { return Ok(Vec::new()) };
    let mut batches = Vec::new();
    let mut bytes = 0usize;
    loop {
        let left = wanted.bytes_max.saturating_sub(bytes).clamp(CHUNK_MIN, 8 * 1024 * 1024);
        let Some((mut chunk, whole)) = reader.chunk(at, left)? else { break };
        let mut done;
        loop {
            // What is not wanted is not looked at, but for its place: nothing else protects that.
            let header = chunk.first_chunk::<BATCH_HEADER>();
            if let Some(header) = header {
                follow.check(header).map_err(|detail| reader.corrupt(at, detail))?;
            }
            done = header.is_some_and(|header| Batch::base_offset_of(header) >= wanted.up_to);
            if done {
                break;
            }
            let Some(batch) = reader.cut(&mut chunk, at, whole)? else { break };
            done = !batches.is_empty() && bytes.saturating_add(batch.size()) > wanted.bytes_max;
            if done {
                break;
            }
            at += batch.size() as u32;
            bytes = bytes.saturating_add(batch.size());
            follow.pass(batch.header());
            batches.push(batch);
        }
        if done || bytes >= wanted.bytes_max {
            break;
        }
    }
    if let Some(last) = batches.last().filter(|_| at < cold.end) {
        cursors.put(wanted.partition, last.next_offset(), (cold.segment, cold.generation), at);
    }
    Ok(batches)
}

/// Where to begin to look for the batch that holds `relative`, by the index beside the segment. Without one, which can
/// be made anew at any time, at the beginning.
fn entry_in_file(
    disk: &dyn Disk,
    handles: &Handles,
    log: Name,
    relative: u32,
) -> Result<Option<offset_index::Entry>, Error> {
    let bytes = beside(disk, handles, Name { suffix: Suffix::Index, ..log })?;
    let entries = offset_index::decode(&bytes.unwrap_or_default()).unwrap_or_default();
    // An entry names the last offset of its batch: the one before the first that reaches so far is not behind it.
    let at = entries.partition_point(|entry| entry.relative_offset < relative);
    Ok(at.checked_sub(1).map(|at| entries[at]))
}

/// The last batch in front of which, and in which, no timestamp reaches this, as the index beside the segment has it.
pub(super) fn time_in_file(
    disk: &dyn Disk,
    handles: &Handles,
    log: Name,
    at_ms: i64,
) -> Result<Option<time_index::Entry>, Error> {
    let bytes = beside(disk, handles, Name { suffix: Suffix::TimeIndex, ..log })?;
    let entries = time_index::decode(&bytes.unwrap_or_default()).unwrap_or_default();
    let at = entries.partition_point(|entry| entry.timestamp_ms < at_ms);
    Ok(at.checked_sub(1).map(|at| entries[at]))
}

/// A file beside a segment, whole; none where there is none.
pub(super) fn beside(disk: &dyn Disk, handles: &Handles, name: Name) -> Result<Option<Vec<u8>>, Error> {
    let file = match handles.for_reading(disk, name) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let len = file.len()?;
    if len > INDEX_BYTES_MAX {
        return Ok(None);
    }
    let mut bytes = vec![0; len as usize];
    read_full(&*file, 0, &mut bytes)?;
    Ok(Some(bytes))
}

/// A segment's file from one end to the other, for compaction: it stays open, and no reader's file is closed for it.
pub(super) struct Sequential {
    file: Arc<dyn File>,
    name: Name,
    at: u32,
    end: u32,
    follow: Follow,
    /// By the last [`Sequential::next`], with what of a batch was read that is read again.
    pub bytes_read: usize,
}

impl Sequential {
    /// The first `end` bytes of the file, which hold all offsets below `next`.
    pub fn open(disk: &dyn Disk, handles: &Handles, name: Name, end: u32, next: Offset) -> Result<Sequential, Error> {
        let file = disk.open(&handles.path(name), Open::Read)?;
        Reader { file: &*file, name, handles, end }.check_len()?;
        let last = Some((name.segment, LeaderEpoch(i32::MIN)));
        let follow = Follow { whole: name.generation == 0, from: name.segment, end: next, last };
        Ok(Sequential { file, name, at: 0, end, follow, bytes_read: 0 })
    }

    /// The next batches, about `bytes` of them and at least one; none at the end.
    pub fn next(&mut self, handles: &Handles, bytes: usize) -> Result<Vec<Batch>, Error> {
        let reader = Reader { file: &*self.file, name: self.name, handles, end: self.end };
        let mut batches = Vec::new();
        let chunk = match reader.chunk(self.at, bytes) {
            // Trying again gives no more.
            Err(Error::Io(error)) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                let detail = format!("the file ends before byte {}, where the segment does", self.end);
                return Err(reader.corrupt(self.at, detail));
            }
            chunk => chunk?,
        };
        self.bytes_read = chunk.as_ref().map_or(0, |(chunk, _)| chunk.len());
        let Some((mut chunk, whole)) = chunk else { return Ok(batches) };
        while let Some(batch) = reader.cut(&mut chunk, self.at, whole)? {
            self.follow.check(batch.header()).map_err(|detail| reader.corrupt(self.at, detail))?;
            self.follow.pass(batch.header());
            self.at += batch.size() as u32;
            batches.push(batch);
        }
        if self.at == self.end && self.follow.last.is_none_or(|(next, _)| next != self.follow.end) {
            return Err(reader.corrupt(self.at, format!("the batches do not end at {}", self.follow.end.0)));
        }
        Ok(batches)
    }
}

/// Whether batches follow on: offsets and leader epochs are in no checksum.
struct Follow {
    /// Every offset is there.
    whole: bool,
    /// The first that is wanted.
    from: Offset,
    /// Where the offsets behind the file begin.
    end: Offset,
    /// The offset behind the last batch, and its epoch.
    last: Option<(Offset, LeaderEpoch)>,
}

impl Follow {
    /// An error when the batch with this header cannot stand behind the last one.
    fn check(&self, header: &[u8; BATCH_HEADER]) -> Result<(), String> {
        let base = Batch::base_offset_of(header);
        if base.0 < 0 || Batch::last_offset_of(header) >= self.end {
            return Err(format!("a batch of offset {} stands in front of {}", base.0, self.end.0));
        }
        match self.last {
            Some((next, epoch)) => {
                let follows = if self.whole { base == next } else { base >= next };
                if follows && Batch::leader_epoch_of(header) >= epoch {
                    return Ok(());
                }
                Err(format!("a batch of offset {} stands behind {}", base.0, next.0))
            }
            None if self.whole && base > self.from => Err(format!("offset {} is missing", self.from.0)),
            None => Ok(()),
        }
    }

    fn pass(&mut self, header: &[u8; BATCH_HEADER]) {
        let next = Offset(Batch::last_offset_of(header).0.saturating_add(1));
        self.last = Some((next, Batch::leader_epoch_of(header)));
    }
}

struct Reader<'a> {
    file: &'a dyn File,
    name: Name,
    handles: &'a Handles,
    end: u32,
}

impl Reader<'_> {
    fn corrupt(&self, at: u32, detail: impl Into<String>) -> Error {
        Error::Corrupt {
            place: format!("{} at byte {at}", self.handles.path(self.name).display()),
            detail: detail.into(),
        }
    }

    /// An error when the file ends before what is known to be in it: nothing is asked of memory for that.
    fn check_len(&self) -> Result<(), Error> {
        let len = self.file.len()?;
        if len >= u64::from(self.end) {
            return Ok(());
        }
        let at = u32::try_from(len).unwrap_or(self.end);
        Err(self.corrupt(at, format!("the file ends here, {} bytes of it were written", self.end)))
    }

    /// Whether a batch at this position has this last offset, counted from the segment's base.
    fn ends_at(&self, position: u32, relative: u32) -> bool {
        let mut header = [0; BATCH_HEADER];
        u64::from(position) + BATCH_HEADER as u64 <= u64::from(self.end)
            && read_full(self.file, u64::from(position), &mut header).is_ok()
            && matches!(Batch::size_of_first(&header), Ok(Some(_)))
            && Batch::last_offset_of(&header).0.checked_sub(self.name.segment.0) == Some(i64::from(relative))
    }

    /// The position of the batch that holds `from` or is the first behind, looking from `hint` on.
    fn seek(&self, hint: u32, from: Offset, follow: &mut Follow) -> Result<Option<u32>, Error> {
        let mut at = hint;
        loop {
            let Some((chunk, _)) = self.chunk(at, SEEK_CHUNK)? else {
                return if follow.whole {
                    Err(self.corrupt(at, format!("offset {} is missing", from.0)))
                } else {
                    Ok(None)
                };
            };
            let mut seen = 0usize;
            while let Some(header) = chunk.get(seen..).and_then(|rest| rest.first_chunk::<BATCH_HEADER>()) {
                let size =
                    Batch::size_of_first(header).map_err(|error| self.corrupt(at + seen as u32, error.to_string()))?;
                let size = size.expect("there is a whole header");
                follow.check(header).map_err(|detail| self.corrupt(at + seen as u32, detail))?;
                if Batch::last_offset_of(header) >= from {
                    return Ok(Some(at + seen as u32));
                }
                follow.pass(header);
                seen += size;
            }
            if seen == 0 || at as usize + seen > self.end as usize {
                return Err(self.corrupt(at, "a batch is cut short"));
            }
            at = u32::try_from(at as usize + seen).map_err(|_| self.corrupt(at, "a batch reaches beyond the file"))?;
        }
    }

    /// Bytes from `at` on and whether they reach to the end; none at the end.
    fn chunk(&self, at: u32, bytes: usize) -> Result<Option<(Bytes, bool)>, Error> {
        if at >= self.end {
            return Ok(None);
        }
        let left = (self.end - at) as usize;
        let mut head = [0; BATCH_HEADER];
        let mut len = bytes.min(left);
        if left >= BATCH_HEADER && len < left {
            // At least one whole batch.
            read_full(self.file, u64::from(at), &mut head)?;
            if let Ok(Some(size)) = Batch::size_of_first(&head) {
                len = len.max(size).min(left);
            }
        }
        let mut chunk = BytesMut::zeroed(len);
        read_full(self.file, u64::from(at), &mut chunk)?;
        Ok(Some((chunk.freeze(), len == left)))
    }

    /// The next batch of a chunk that is whole in it.
    fn cut(&self, chunk: &mut Bytes, at: u32, whole: bool) -> Result<Option<Batch>, Error> {
        match Batch::split_from(chunk) {
            Ok(Some(batch)) => Ok(Some(batch)),
            Ok(None) if whole && !chunk.is_empty() => Err(self.corrupt(at, "the batch is cut short")),
            Ok(None) => Ok(None),
            Err(error) => Err(self.corrupt(at, error.to_string())),
        }
    }
}
