//! Recovery: the checkpoint's records, then every entry of the write-ahead log behind it at its place, in the log's
//! order, and each partition cut behind its last.
//!
//! Bytes of segments behind the checkpoint are not trusted: they are written again from the log. What finds no room on
//! the disk stays in memory until there is some, up to a limit.

mod short;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IoSlice};
use std::path::Path;

use bytes::Bytes;

use self::short::Short;
use super::checkpoint::{self, Table};
use super::handles::{Handles, Name};
use super::layout::Suffix;
use super::partition::{Aborted, BatchPlace, View};
use super::producers::Producers;
use super::wal::files::Files;
use super::wal::format::{EntryHeader, FILE_HEADER, Kind};
use super::wal::scan::{Entry, Scan, Visit};
use super::wal::writer::End;
use crate::Error;
use crate::env::mutant::Mutant;
use crate::env::{Disk, Env, Open, read_full};
use crate::record::{Batch, Offset, TopicPartition};

/// Of segments that recovery begins: their topic is not known yet.
pub(super) const INDEX_INTERVAL: u32 = 4096;

/// A partition as checkpoint and log tell it.
#[derive(Default)]
pub(crate) struct Replayed {
    pub(super) view: View,
    pub(super) producers: Producers,
    /// Producers know of all batches below.
    known: Offset,
    /// Something of it stands in the log behind the checkpoint.
    pub(super) touched: bool,
    /// Where the batches in memory belong, which are not in their files.
    pub(super) unflushed: Vec<(Offset, u32)>,
    /// What it has lost: then it is not served.
    pub(super) damage: Option<Damage>,
}

/// What is wrong with a partition and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Damage {
    pub place: String,
    pub detail: String,
}

impl Damage {
    pub fn error(&self) -> Error {
        Error::Corrupt { place: self.place.clone(), detail: self.detail.clone() }
    }
}

/// What a data directory held.
pub(super) struct Recovered {
    pub table: Table,
    pub partitions: BTreeMap<TopicPartition, Replayed>,
    pub end: End,
    /// Of the log that were read.
    pub bytes: u64,
}

/// Batches of one segment that wait to be written to its file: position and bytes.
type Waiting = BTreeMap<(TopicPartition, Offset), Vec<(u32, Bytes)>>;

impl Replayed {
    /// Takes an entry's batch, and says whether its bytes are its file's: not where that was compacted. An error says why
    /// it cannot stand there.
    pub(super) fn batch(&mut self, batch: &Batch, place: &BatchPlace) -> Result<bool, String> {
        let base = batch.base_offset();
        if batch.next_offset() <= self.view.compaction.swapped {
            return Ok(false);
        }
        if batch.next_offset() <= self.view.start && !self.view.segments.iter().any(|s| s.base == place.segment) {
            // Its file is gone.
            return Ok(false);
        }
        self.check_place(batch, place)?;
        if batch.next_offset() <= self.view.start {
            return Ok(true);
        }
        self.touched = true;
        if base >= self.known {
            if batch.is_control()
                && let (Some(producer), Ok(Some(marker))) = (batch.producer(), batch.marker())
                && let (Some(first), false) = (self.producers.open(producer.id), marker.commit)
            {
                // The checkpoint may know of it.
                if !self.view.aborted.iter().any(|aborted| aborted.last == base) {
                    self.view.insert_aborted(Aborted { producer_id: producer.id, first, last: base });
                }
            }
            self.producers.apply(batch);
            self.known = batch.next_offset();
        }
        self.view.push(batch, place);
        Ok(true)
    }

    /// An error when the batch stands neither at the end of what there is nor within it.
    fn check_place(&self, batch: &Batch, place: &BatchPlace) -> Result<(), String> {
        let (base, end) = (batch.base_offset(), self.view.high_watermark);
        let segment = self.view.segments.iter().rev().find(|segment| segment.base <= place.segment);
        let size = segment.filter(|segment| segment.base == place.segment).map_or(0, |segment| segment.size);
        if place.position > size || (place.position == size && base < end) {
            return Err(format!("it begins at byte {} of a segment of {size} bytes", place.position));
        }
        let behind = u64::from(place.position) + batch.size() as u64;
        if place.position < size {
            // Written a second time.
            let inside = behind <= u64::from(size) && batch.next_offset() <= end;
            return if inside { Ok(()) } else { Err(format!("it ends behind a segment of {size} bytes")) };
        }
        if base > end {
            return Err(format!("offsets {end:?}..{base:?} are missing"));
        }
        if self.view.segments.last().is_some_and(|last| last.base > place.segment) {
            return Err("its segment is not the last one".to_owned());
        }
        if size == 0 && place.segment > base {
            return Err(format!("it would begin a segment of {:?}", place.segment));
        }
        let relative = batch.last_offset().0 - place.segment.0;
        if behind > u64::from(u32::MAX) || (size > 0 && relative > i64::from(i32::MAX)) {
            return Err("it reaches beyond the largest segment".to_owned());
        }
        Ok(())
    }
}

/// Reads everything and makes sure that it is durable or in the log. So many bytes may stay in memory where the disk is
/// full.
pub(super) fn recover(
    env: &Env,
    dir: &Path,
    files: &Files,
    handles: &Handles,
    unflushed_bytes_max: usize,
) -> Result<Recovered, Error> {
    let disk = env.disk();
    let (mut table, first_file) = Table::load(&*disk, dir)?;
    table.make_durable(&*disk)?;
    let mut replay = Replay {
        disk: &*disk,
        now_ms: env.now_ms(),
        files,
        handles,
        partitions: stood(&table, &*disk)?,
        waiting: Waiting::new(),
        written: BTreeSet::new(),
        deleted: BTreeSet::new(),
        short: Short::default(),
        broken: BTreeMap::new(),
    };
    let mut scan = Scan::new(&*disk, files, Open::Write);
    scan.run(first_file, &mut replay).map_err(|error| table.doubt(error))?;
    replay.keep_damaged()?;
    // Their entries go with the log: the next checkpoint must not name them any more.
    table.forget(replay.deleted.iter().filter(|id| !replay.partitions.contains_key(id)));
    let short = std::mem::take(&mut replay.short);
    let mut partitions = replay.finish()?;
    short.keep(&*disk, files, first_file, &mut partitions, unflushed_bytes_max)?;
    if !Mutant::LastGroupNotWrittenAgain.is_on() {
        make_last_group_durable(&*disk, dir, &scan)?;
    }
    Ok(Recovered { table, partitions, end: scan.end, bytes: scan.bytes })
}

/// The partitions as the checkpoint has them.
pub(super) fn stood(table: &Table, disk: &dyn Disk) -> Result<BTreeMap<TopicPartition, Replayed>, Error> {
    let mut partitions = BTreeMap::new();
    for (id, record) in table.records() {
        let stood = checkpoint::decode(record).map_err(|reason| Error::Corrupt {
            place: table.place_of(disk, *id),
            detail: format!("the record of {id} is damaged though its checksum is right: {reason}"),
        })?;
        let replayed = Replayed {
            view: stood.view,
            producers: stood.producers,
            known: stood.end,
            touched: false,
            unflushed: Vec::new(),
            damage: stood.damage,
        };
        partitions.insert(*id, replayed);
    }
    Ok(partitions)
}

/// The last group may be in the system's memory only, and marked as clean there by a sync that failed: only writing it
/// again makes a sync mean something. Those before it were synced before it was written.
fn make_last_group_durable(disk: &dyn Disk, dir: &Path, scan: &Scan<'_>) -> io::Result<()> {
    let (Some((file, bytes)), Some(open)) = (&scan.last_file, &scan.end.file) else { return Ok(()) };
    let from = if scan.last_group == FILE_HEADER { 0 } else { scan.last_group };
    file.write_at(from as u64, &[IoSlice::new(&bytes[from..open.end as usize])])?;
    file.sync_data()?;
    disk.sync_dir(dir)
}

/// Takes the log's entries to their places.
struct Replay<'a> {
    disk: &'a dyn Disk,
    now_ms: i64,
    files: &'a Files,
    handles: &'a Handles,
    partitions: BTreeMap<TopicPartition, Replayed>,
    waiting: Waiting,
    /// Segments that were written to.
    written: BTreeSet<Name>,
    deleted: BTreeSet<TopicPartition>,
    /// Where the disk was full.
    short: Short,
    /// Partitions with entries that do not follow on: the first such, and which file of the log holds it.
    broken: BTreeMap<TopicPartition, (u32, Damage)>,
}

impl Visit for Replay<'_> {
    fn entry(&mut self, entry: Entry) -> Result<(), Error> {
        let Entry { file, at, header, payload } = entry;
        let id = header.partition;
        match header.kind {
            Kind::Batch => {
                if let Err(why) = self.batch(file, &header, payload) {
                    self.break_off(id, file, at, &why);
                }
            }
            Kind::LogStart => {
                let partition = self.partitions.entry(id).or_default();
                partition.touched = true;
                partition.view.trim(header.base_offset);
            }
            Kind::Deleted => {
                self.partitions.remove(&id);
                self.waiting.retain(|(of, _), _| *of != id);
                self.broken.remove(&id);
                self.short.forget(id);
                self.deleted.insert(id);
            }
        }
        Ok(())
    }

    fn damaged(&mut self, error: &Error) {
        tracing::error!(%error, "damage in the write-ahead log");
    }

    fn end_of_file(&mut self, _number: u32) -> Result<(), Error> {
        Ok(self.write_waiting()?)
    }
}

impl Replay<'_> {
    /// An entry's batch; an error says why it counts for nothing.
    fn batch(&mut self, file: u32, header: &EntryHeader, payload: Bytes) -> Result<(), String> {
        let id = header.partition;
        let batch = match Batch::split_from(&mut payload.clone()) {
            // Neither stands in the batch's own checksum.
            Ok(Some(batch)) if (batch.base_offset(), batch.leader_epoch()) == (header.base_offset, header.epoch) => {
                batch
            }
            Ok(_) => return Err("the batch is not the one its entry names".to_owned()),
            Err(error) => return Err(error.to_string()),
        };
        let damaged = self.partitions.get(&id).is_some_and(|partition| partition.damage.is_some());
        if damaged || self.broken.contains_key(&id) {
            return Ok(());
        }
        let place = BatchPlace {
            segment: header.segment,
            position: header.position,
            wal_file: file,
            created_ms: batch.max_timestamp_ms().min(self.now_ms),
            index_interval: INDEX_INTERVAL,
        };
        // Of a partition that is deleted further on the checkpoint may know nothing any more: then this does not last.
        let placed = self.partitions.entry(id).or_default().batch(&batch, &place);
        if placed.map_err(|why| format!("the batch cannot stand there: {why}"))? {
            self.waiting.entry((id, header.segment)).or_default().push((header.position, payload));
        }
        Ok(())
    }

    /// Files of the log that are damaged are used again like all others: what is in them is copied for people to look at.
    fn keep_damaged(&self) -> io::Result<()> {
        let damaged: BTreeSet<u32> = self.broken.values().map(|(number, _)| *number).collect();
        for number in damaged {
            let path = self.files.path(number);
            let copy = path.with_extension("wal-damaged");
            let file = self.disk.open(&path, Open::Read)?;
            let mut bytes = vec![0; file.len()? as usize];
            read_full(&*file, 0, &mut bytes)?;
            match self.disk.open(&copy, Open::Create) {
                // From an earlier start.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                file => file?.write_at(0, &[IoSlice::new(&bytes)])?,
            }
            tracing::error!(copy = %copy.display(), "the damaged file of the write-ahead log was copied");
        }
        Ok(())
    }

    /// Nothing of the partition counts from here on.
    fn break_off(&mut self, id: TopicPartition, number: u32, at: usize, why: &str) {
        let place = format!("{} at byte {at}", self.files.path(number).display());
        let damage = Damage { place, detail: format!("an entry of partition {id:?}: {why}") };
        self.broken.entry(id).or_insert((number, damage));
    }

    /// Writes what one file of the log held to its segments, runs at once.
    fn write_waiting(&mut self) -> io::Result<()> {
        for ((partition, segment), mut batches) in std::mem::take(&mut self.waiting) {
            // Copied batches come a second time.
            batches.sort_by_key(|(position, _)| *position);
            batches.dedup_by_key(|(position, _)| *position);
            let name = Name { partition, segment, generation: 0, suffix: Suffix::Log };
            let mut rest = &batches[..];
            while let Some((from, _)) = rest.first() {
                let mut end = *from;
                let behind = |(position, bytes): &&(u32, Bytes)| {
                    let follows = *position == end;
                    end += if follows { bytes.len() as u32 } else { 0 };
                    follows
                };
                let count = rest.iter().take_while(behind).count();
                match self.write(name, *from, end, &rest[..count]) {
                    Err(error) if error.kind() == io::ErrorKind::StorageFull => {
                        self.short.note(partition, segment, *from);
                    }
                    written => written?,
                }
                rest = &rest[count..];
            }
            self.handles.shrink()?;
        }
        Ok(())
    }

    fn write(&mut self, name: Name, from: u32, end: u32, batches: &[(u32, Bytes)]) -> io::Result<()> {
        let file = self.handles.for_writing(self.disk, name)?;
        // Whoever created it may have ended before its name was durable.
        self.handles.changed(name.partition);
        self.written.insert(name);
        let slices: Vec<IoSlice<'_>> = batches.iter().map(|(_, bytes)| IoSlice::new(bytes)).collect();
        file.write_at(u64::from(from), &slices)?;
        self.handles.written(name, file, from, end);
        Ok(())
    }

    /// Cuts every partition behind its last batch.
    fn finish(mut self) -> Result<BTreeMap<TopicPartition, Replayed>, Error> {
        for (id, (_, damage)) in std::mem::take(&mut self.broken) {
            tracing::error!(partition = ?id, place = damage.place, detail = damage.detail, "a partition is fenced");
            self.partitions.entry(id).or_default().damage = Some(damage);
        }
        for id in &self.deleted {
            if !self.partitions.contains_key(id) {
                self.handles.remove_partition(self.disk, *id)?;
            }
        }
        for name in std::mem::take(&mut self.written) {
            let Some(partition) = self.partitions.get(&name.partition) else { continue };
            let Some(segment) = partition.view.segments.iter().find(|segment| segment.base == name.segment) else {
                continue;
            };
            let file = self.handles.for_writing(self.disk, name)?;
            if file.len()? > u64::from(segment.size) {
                file.set_len(u64::from(segment.size))?;
                self.handles.written(name, file, segment.size, segment.size);
                self.handles.shrink()?;
            }
        }
        for partition in self.partitions.values_mut() {
            partition.view.all_flushed();
        }
        Ok(self.partitions)
    }
}
