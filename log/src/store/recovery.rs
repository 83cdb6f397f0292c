//! Recovery: the checkpoint's records, then every entry of the write-ahead log behind it at its place, in the log's
//! order, and each partition cut behind its last.
//!
//! Bytes of segments behind the checkpoint are not trusted: they are written again from the log. What finds no room on
//! the disk stays in memory until there is some, up to a limit.

mod apply;
mod short;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IoSlice};
use std::path::Path;

use bytes::Bytes;

pub(super) use self::apply::Applied;
use self::short::Short;
use super::checkpoint::{self, Table};
use super::handles::{Handles, Name};
use super::layout::Suffix;
use super::partition::View;
use super::producers::Producers;
use super::wal::files::Files;
use super::wal::format::Kind;
use super::wal::scan::{Entry, Scan, Visit};
use super::wal::writer::End;
use crate::Error;
use crate::env::mutant::Mutant;
use crate::env::{Disk, Env, Open, read_full};
use crate::record::{Offset, TopicPartition};

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
        env,
        disk: &*disk,
        applied: Applied { files, now_ms: env.now_ms(), partitions: stood(&table, &*disk)?, broken: BTreeMap::new() },
        handles,
        waiting: Waiting::new(),
        written: BTreeSet::new(),
        deleted: BTreeSet::new(),
        short: Short::default(),
    };
    let mut scan = Scan::new(env, files, Open::Write);
    scan.run(first_file, &mut replay).map_err(|error| table.doubt(error))?;
    replay.keep_damaged()?;
    // Their entries go with the log: the next checkpoint must not name them any more.
    table.forget(replay.deleted.iter().filter(|id| !replay.applied.partitions.contains_key(id)));
    let short = std::mem::take(&mut replay.short);
    let mut partitions = replay.finish()?;
    short.keep(env, files, first_file, &mut partitions, unflushed_bytes_max)?;
    if !Mutant::LastGroupNotWrittenAgain.is_on() {
        make_last_group_durable(&*disk, dir, &scan)?;
    }
    keep_room(&mut scan.end, files)?;
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

/// What was reserved for the newest file may have gone with the power: then another is begun where the disk has no room.
fn keep_room(end: &mut End, files: &Files) -> io::Result<()> {
    let Some(open) = &end.file else { return Ok(()) };
    match files.reserve(&*open.file, open.end) {
        Err(error) if error.kind() == io::ErrorKind::StorageFull => end.file = None,
        reserved => reserved?,
    }
    Ok(())
}

/// The last group may be in the system's memory only, and marked as clean there by a sync that failed: only writing it
/// again makes a sync mean something. Those before it were synced before it was written.
fn make_last_group_durable(disk: &dyn Disk, dir: &Path, scan: &Scan<'_>) -> io::Result<()> {
    let (Some(open), (from, bytes)) = (&scan.end.file, &scan.last_group) else { return Ok(()) };
    open.file.write_at(*from as u64, &[IoSlice::new(bytes)])?;
    open.file.sync_data()?;
    disk.sync_dir(dir)
}

/// Takes the log's entries to their places.
struct Replay<'a> {
    env: &'a Env,
    disk: &'a dyn Disk,
    applied: Applied<'a>,
    handles: &'a Handles,
    waiting: Waiting,
    /// Segments that were written to.
    written: BTreeSet<Name>,
    deleted: BTreeSet<TopicPartition>,
    /// Where the disk was full.
    short: Short,
}

impl Visit for Replay<'_> {
    fn entry(&mut self, entry: Entry) -> Result<(), Error> {
        let (id, header) = (entry.header.partition, entry.header);
        match header.kind {
            Kind::Batch => {
                if self.applied.batch(&entry) {
                    let waiting = self.waiting.entry((id, header.segment)).or_default();
                    waiting.push((header.position, entry.payload));
                }
            }
            Kind::LogStart => self.applied.log_start(id, header.base_offset),
            Kind::Deleted => {
                self.applied.deleted(id);
                self.waiting.retain(|(of, _), _| *of != id);
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
    /// Files of the log that are damaged are used again like all others: what is in them is copied for people to look at.
    fn keep_damaged(&self) -> io::Result<()> {
        let damaged: BTreeSet<u32> = self.applied.broken.values().map(|(number, _)| *number).collect();
        for number in damaged {
            let path = self.applied.files.path(number);
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
            self.handles.shrink(self.env)?;
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
        for (id, (_, damage)) in &self.applied.broken {
            tracing::error!(partition = ?id, place = damage.place, detail = damage.detail, "a partition is fenced");
        }
        let mut partitions = self.applied.finish();
        for id in &self.deleted {
            if !partitions.contains_key(id) {
                self.handles.remove_partition(self.disk, *id)?;
            }
        }
        for name in std::mem::take(&mut self.written) {
            let Some(partition) = partitions.get(&name.partition) else { continue };
            let Some(segment) = partition.view.segments.iter().find(|segment| segment.base == name.segment) else {
                continue;
            };
            let file = self.handles.for_writing(self.disk, name)?;
            if file.len()? > u64::from(segment.size) {
                file.set_len(u64::from(segment.size))?;
                self.handles.written(name, file, segment.size, segment.size);
                self.handles.shrink(self.env)?;
            }
        }
        for partition in partitions.values_mut() {
            partition.view.all_flushed();
        }
        Ok(partitions)
    }
}
