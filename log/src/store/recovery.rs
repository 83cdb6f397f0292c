//! Reading the write-ahead log from its first byte to its last whole group.
//!
//! A group is written only after the one before it was synced. So what is not whole at the very end was never
//! acknowledged and is cut off; what is not whole anywhere else is damage, and an error that names the place.

use std::collections::{BTreeMap, BTreeSet};
use std::io::IoSlice;
use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};

use super::files::Files;
use super::format::{ENTRY_HEADER, EntryHeader, FILE_HEADER, FileHeader, GROUP_HEADER, GroupHeader, Kind};
use super::partition::{Aborted, Entry, Place, View};
use super::producers::Producers;
use super::wal::{End, OpenFile};
use crate::Error;
use crate::env::{Env, Open, read_full};
use crate::record::{Batch, Offset, TopicPartition};

/// What later entries of a partition build on when earlier ones are gone.
#[derive(Debug, Default, serde::Serialize, serde::Deserialize)]
pub(super) struct PartitionState {
    pub start: Offset,
    pub end: Offset,
    pub producers: Producers,
    pub aborted: Vec<Aborted>,
}

/// A partition as the log tells it.
#[derive(Default)]
pub(crate) struct Replayed {
    pub(super) view: View,
    pub(super) producers: Producers,
    /// Files that hold entries of the partition.
    pub(super) touched: BTreeSet<u32>,
    /// Batches below this are gone from the log; the start must say so by the end.
    gone_below: Offset,
}

/// What a log held.
pub(super) struct Recovered {
    pub partitions: BTreeMap<TopicPartition, Replayed>,
    pub end: End,
    pub bytes: u64,
}

impl Replayed {
    fn batch(&mut self, batch: &Batch, place: Place) {
        let (base, end) = (batch.base_offset(), self.view.high_watermark);
        if base != end {
            // What lay between was trimmed and its file freed.
            self.view.index.clear();
            self.gone_below = base;
        }
        if batch.is_control()
            && let (Some(producer), Ok(Some(marker))) = (batch.producer(), batch.marker())
            && let (Some(first), false) = (self.producers.open(producer.id), marker.commit)
        {
            self.view.insert_aborted(Aborted { producer_id: producer.id, first, last: base });
        }
        self.touched.insert(place.file);
        self.producers.apply(batch);
        self.view.index.push_back(Entry::of(batch, place));
        self.view.high_watermark = batch.next_offset();
    }

    /// An error when records are missing that were not trimmed. A deleted topic's may be missing in any way.
    pub(super) fn check(&self, id: TopicPartition) -> Result<(), Error> {
        let start = self.view.start;
        if self.gone_below <= start {
            return Ok(());
        }
        let detail = format!("records {start:?}..{:?} of {id:?} are missing", self.gone_below);
        Err(Error::Corrupt { place: "the write-ahead log".to_owned(), detail })
    }

    fn state(&mut self, state: PartitionState) {
        if self.view.high_watermark < state.end {
            self.view.index.clear();
            self.view.high_watermark = state.end;
        }
        self.view.trim(state.start);
        // An abort that was not yet published when the state was taken is known from its marker.
        for aborted in state.aborted {
            if !self.view.aborted.contains(&aborted) {
                self.view.insert_aborted(aborted);
            }
        }
        self.producers = state.producers;
    }
}

/// Reads everything and makes sure that it is durable.
pub(super) fn recover(env: &Env, dir: &Path, files: &Files) -> Result<Recovered, Error> {
    let mut reader = Reader {
        env,
        dir,
        files,
        partitions: BTreeMap::new(),
        named: BTreeSet::new(),
        end: End { file: None, next_number: 1, next_sequence: 1, previous_end: 0 },
        last_group: FILE_HEADER,
        bytes: 0,
    };
    let disk = env.disk();
    let mut numbers: Vec<u32> = disk.list(dir)?.iter().filter_map(|path| Files::number(path)).collect();
    numbers.sort_unstable();
    for (at, number) in numbers.iter().enumerate() {
        let follows = at > 0 && numbers[at - 1] + 1 == *number;
        reader.file(*number, follows, at + 1 == numbers.len())?;
    }
    reader.finish()
}

struct Reader<'a> {
    env: &'a Env,
    dir: &'a Path,
    files: &'a Files,
    partitions: BTreeMap<TopicPartition, Replayed>,
    /// The files that the log says it is made of.
    named: BTreeSet<u32>,
    end: End,
    /// Where the last whole group begins in its file.
    last_group: usize,
    bytes: u64,
}

impl Reader<'_> {
    fn path(&self, number: u32) -> PathBuf {
        self.dir.join(Files::name(number))
    }

    fn corrupt(&self, number: u32, at: usize, detail: impl Into<String>) -> Error {
        Error::Corrupt { place: format!("{} at byte {at}", self.path(number).display()), detail: detail.into() }
    }

    /// One file. `follows`: the one before it is there too; `last`: no file comes behind it.
    fn file(&mut self, number: u32, follows: bool, last: bool) -> Result<(), Error> {
        let path = self.path(number);
        let file = self.env.disk().open(&path, if last { Open::Write } else { Open::Read })?;
        let len = usize::try_from(file.len()?).map_err(|_| self.corrupt(number, 0, "the file is too large"))?;
        let mut bytes = BytesMut::zeroed(len);
        read_full(&*file, 0, &mut bytes)?;
        let bytes = bytes.freeze();

        let begun = first_group(&bytes);
        let Some((header, first)) = begun else {
            if last && !was_in_use(&bytes, number) {
                tracing::warn!(file = %path.display(), "a file that was being created at the crash is removed");
                drop(file);
                self.env.disk().unlink(&path)?;
                self.env.disk().sync_dir(self.dir)?;
                return Ok(());
            }
            return Err(self.corrupt(number, 0, "the file's header or first group is damaged"));
        };
        if header.number != number {
            return Err(self.corrupt(number, 0, format!("the header is that of file {}", header.number)));
        }
        let before = (self.end.next_sequence, self.end.previous_end);
        if follows && before != (header.first_sequence, first.previous_end) {
            let detail = format!("the file before it ends too early, at byte {}", self.end.previous_end);
            return Err(self.corrupt(number, FILE_HEADER, detail));
        }
        self.end.next_sequence = header.first_sequence;
        self.end.previous_end = first.previous_end;
        self.files.add(number, std::sync::Arc::clone(&file));
        let end = self.groups(number, &header, &bytes)?;
        if end < bytes.len() {
            if !last {
                return Err(self.corrupt(number, end, "a group is damaged, and a later file was begun behind it"));
            }
            if let Some(at) = GroupHeader::find_successor(&bytes[end..], header.generation, self.end.next_sequence) {
                let detail = format!("a group is damaged, and a whole one stands behind it at byte {}", end + at);
                return Err(self.corrupt(number, end, detail));
            }
            tracing::warn!(file = %path.display(), from = end, bytes = bytes.len() - end, "a torn tail is cut off");
            file.set_len(end as u64)?;
        }
        if last {
            // The last group may be in the system's memory only, and marked as clean there by a sync that failed: only
            // writing it again makes a sync mean something. Those before it were synced before it was written.
            let from = if self.last_group == FILE_HEADER { 0 } else { self.last_group };
            file.write_at(from as u64, &[IoSlice::new(&bytes[from..end])])?;
            file.sync_data()?;
            self.env.disk().sync_dir(self.dir)?;
        }
        self.bytes += end as u64;
        self.end.next_number = number + 1;
        self.end.file = Some(OpenFile { number, generation: header.generation, file, end: end as u64 });
        Ok(())
    }

    /// Applies the whole groups; returns where they end.
    fn groups(&mut self, number: u32, header: &FileHeader, bytes: &Bytes) -> Result<usize, Error> {
        let mut at = FILE_HEADER;
        while let Some((group, body)) = whole_group(bytes, at) {
            let chained = group.sequence == self.end.next_sequence
                && group.previous_end == self.end.previous_end
                && group.generation == header.generation;
            if !chained {
                break;
            }
            let start = at + GROUP_HEADER;
            self.entries(number, start, &bytes.slice(start..start + body), group.entries)?;
            self.last_group = at;
            at = start + body;
            self.end.next_sequence += 1;
            self.end.previous_end = at as u64;
        }
        Ok(at)
    }

    fn entries(&mut self, number: u32, start: usize, body: &Bytes, count: u32) -> Result<(), Error> {
        let mut at = 0;
        for _ in 0..count {
            let entry = EntryHeader::decode(&body[at..])
                .filter(|entry| entry.len as usize <= body.len() - at - ENTRY_HEADER)
                .ok_or_else(|| self.corrupt(number, start + at, "an entry of a kind this version does not know"))?;
            let from = at + ENTRY_HEADER;
            let payload = body.slice(from..from + entry.len as usize);
            self.entry(number, start + from, &entry, payload)?;
            at = from + entry.len as usize;
        }
        if at == body.len() { Ok(()) } else { Err(self.corrupt(number, start + at, "bytes behind the last entry")) }
    }

    fn entry(&mut self, number: u32, at: usize, entry: &EntryHeader, payload: Bytes) -> Result<(), Error> {
        match entry.kind {
            Kind::Batch => {
                let place = Place { file: number, position: at as u32, len: entry.len };
                let batch = match Batch::split_from(&mut payload.clone()) {
                    Ok(Some(batch)) if batch.base_offset() == entry.base_offset => batch,
                    Ok(_) => return Err(self.corrupt(number, at, "the batch is not the one its entry names")),
                    Err(error) => return Err(self.corrupt(number, at, error.to_string())),
                };
                self.partitions.entry(entry.partition).or_default().batch(&batch, place);
            }
            Kind::LogStart => {
                let partition = self.partitions.entry(entry.partition).or_default();
                partition.touched.insert(number);
                partition.view.trim(entry.base_offset);
            }
            Kind::State => {
                let state = serde_json::from_slice(&payload)
                    .map_err(|error| self.corrupt(number, at, format!("the state of a partition: {error}")))?;
                let partition = self.partitions.entry(entry.partition).or_default();
                partition.touched.insert(number);
                partition.state(state);
            }
            Kind::Files => self.named = numbers_in(&payload).collect(),
            Kind::Freed => numbers_in(&payload).for_each(|number| {
                self.named.remove(&number);
            }),
        }
        Ok(())
    }

    fn finish(self) -> Result<Recovered, Error> {
        let there: BTreeSet<u32> = self.files.numbers().into_iter().collect();
        if let Some(missing) = self.named.difference(&there).next() {
            return Err(self.corrupt(*missing, 0, "the file is missing"));
        }
        let freed: Vec<u32> = there.difference(&self.named).copied().collect();
        if !freed.is_empty() {
            self.files.remove(&*self.env.disk(), self.dir, &freed)?;
        }
        Ok(Recovered { partitions: self.partitions, end: self.end, bytes: self.bytes })
    }
}

fn numbers_in(payload: &Bytes) -> impl Iterator<Item = u32> + '_ {
    payload.chunks_exact(4).map(|four| u32::from_le_bytes(four.try_into().expect("four bytes")))
}

/// The header of the group at `at` and the size of its body, when both are there and the checksums agree.
fn whole_group(bytes: &[u8], at: usize) -> Option<(GroupHeader, usize)> {
    let group = GroupHeader::decode(bytes.get(at..)?)?;
    let from = at + GROUP_HEADER;
    let body = bytes.get(from..from + group.body_len as usize)?;
    (crc32c::crc32c(body) == group.body_crc).then_some((group, body.len()))
}

/// The headers of a file that was begun as it should be: the first group is there.
fn first_group(bytes: &[u8]) -> Option<(FileHeader, GroupHeader)> {
    let header = FileHeader::decode(bytes.get(..FILE_HEADER)?.try_into().ok()?)?;
    let (group, _) = whole_group(bytes, FILE_HEADER)?;
    (group.generation == header.generation && group.sequence == header.first_sequence).then_some((header, group))
}

/// Whether a file whose beginning is damaged was nevertheless in use: a group behind its first stands in it.
fn was_in_use(bytes: &[u8], number: u32) -> bool {
    let generation = bytes
        .get(..FILE_HEADER)
        .and_then(|head| FileHeader::decode(head.try_into().ok()?))
        .filter(|header| header.number == number)
        .map(|header| (header.generation, header.first_sequence));
    match generation {
        Some((generation, sequence)) => GroupHeader::find_successor(bytes, generation, sequence).is_some(),
        // Without a header any second group gives it away.
        None => (FILE_HEADER..bytes.len()).filter(|at| GroupHeader::decode(&bytes[*at..]).is_some()).nth(1).is_some(),
    }
}
