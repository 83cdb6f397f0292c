//! A data directory that nobody has open: what its checkpoint, write-ahead log and segments hold, and whether all of it
//! is intact. Nothing is written.

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;

use super::checkpoint::Table;
use super::handles::{Handles, Name};
use super::layout::Suffix;
use super::recovery::{Applied, Replayed, stood};
use super::segment::{Place, Segment};
use super::wal::files::Files;
use super::wal::format::Kind;
use super::wal::scan::{Entry, Scan, Visit};
use crate::Error;
use crate::env::{Disk, Env, File, Open, read_full};
use crate::record::{BATCH_HEADER, Batch, Offset, TopicPartition};

/// What the write-ahead log looks like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WalSummary {
    /// The first file that recovery reads, and how many groups and bytes it finds from there on.
    pub first_file: u32,
    pub groups: u64,
    pub bytes: u64,
}

/// A stored partition, for a look from outside.
pub(crate) struct Stored {
    handles: Handles,
    pub wal: WalSummary,
    partitions: BTreeMap<TopicPartition, Replayed>,
    /// Batches that the log holds, which count before what is in the file: by segment and position.
    overlay: BTreeMap<(TopicPartition, Offset, u32), Bytes>,
}

/// A batch and where it lies, or what is wrong there.
pub(crate) struct Seen {
    pub segment: Offset,
    pub position: u32,
    pub batch: Result<Batch, String>,
}

impl Stored {
    /// Reads checkpoint and log below `data_dir`. An error when recovery could not read them either.
    pub fn open(env: &Env, data_dir: &Path) -> Result<Stored, Error> {
        let disk = &*env.disk();
        let dir = data_dir.join("wal");
        let (table, first_file) = Table::load(disk, &dir)?;
        let files = Files::new(&dir, 0, usize::MAX);
        // When it is does not matter to what is there.
        let applied =
            Applied { files: &files, now_ms: i64::MAX, partitions: stood(&table, disk)?, broken: BTreeMap::new() };
        let mut overlay = Overlay { applied, batches: BTreeMap::new() };
        let mut scan = Scan::new(env, &files, Open::Read);
        scan.run(first_file, &mut overlay)?;
        let wal = WalSummary { first_file: first_file.max(1), groups: scan.groups, bytes: scan.bytes };
        let Overlay { applied, batches } = overlay;
        let partitions = applied.finish();
        Ok(Stored { handles: Handles::new(Place::new(data_dir), 0), wal, partitions, overlay: batches })
    }

    pub fn partitions(&self) -> Vec<TopicPartition> {
        self.partitions.keys().copied().collect()
    }

    /// Log start and end.
    pub fn bounds(&self, id: TopicPartition) -> (Offset, Offset) {
        self.partitions.get(&id).map_or_else(Default::default, |p| (p.view.start, p.view.high_watermark))
    }

    /// Every batch of a partition, in order, up to where it is fenced. What is wrong is told once for a segment, which is
    /// then left; and at the end why it is fenced, where it is.
    pub fn visit(&self, disk: &dyn Disk, id: TopicPartition, seen: &mut dyn FnMut(Seen)) -> Result<(), Error> {
        let Some(partition) = self.partitions.get(&id) else { return Ok(()) };
        let mut next = Offset(0);
        for segment in &partition.view.segments {
            if segment.next <= partition.view.start {
                continue;
            }
            self.segment(disk, id, segment, &mut next, seen)?;
        }
        if let Some(damage) = &partition.damage {
            let why = format!("the partition is fenced: {}", damage.error());
            seen(Seen { segment: next, position: 0, batch: Err(why) });
        }
        Ok(())
    }

    fn segment(
        &self,
        disk: &dyn Disk,
        id: TopicPartition,
        segment: &Segment,
        next: &mut Offset,
        seen: &mut dyn FnMut(Seen),
    ) -> Result<(), Error> {
        let name = Name { partition: id, segment: segment.base, generation: segment.generation, suffix: Suffix::Log };
        let file = match disk.open(&self.handles.path(name), Open::Read) {
            Ok(file) => Some(file),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(error.into()),
        };
        let mut position = 0;
        while position < segment.size {
            let overlay = self.overlay.get(&(id, segment.base, position));
            let bytes = match (overlay, &file) {
                (Some(bytes), _) => Ok(bytes.clone()),
                (None, Some(file)) => batch_bytes(&**file, position, segment.size),
                (None, None) => Err("the file is missing".to_owned()),
            };
            let batch = bytes.and_then(|bytes| checked(bytes, *next));
            let size = batch.as_ref().map_or(segment.size, |batch| batch.size() as u32);
            if let Ok(batch) = &batch {
                *next = batch.next_offset();
            }
            let stop = batch.is_err();
            seen(Seen { segment: segment.base, position, batch });
            if stop {
                *next = segment.next;
                return Ok(());
            }
            position = position.saturating_add(size);
        }
        Ok(())
    }
}

fn checked(mut bytes: Bytes, next: Offset) -> Result<Batch, String> {
    match Batch::split_from(&mut bytes) {
        Ok(Some(batch)) if batch.base_offset() >= next => Ok(batch),
        Ok(Some(batch)) => Err(format!("offset {} where at least {} comes", batch.base_offset().0, next.0)),
        Ok(None) => Err("the batch is cut short".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// The bytes of the batch at a position.
fn batch_bytes(file: &dyn File, position: u32, end: u32) -> Result<Bytes, String> {
    let mut head = [0; BATCH_HEADER];
    let read = |at: u32, into: &mut [u8]| read_full(file, u64::from(at), into).map_err(|error| error.to_string());
    let len = file.len().map_err(|error| error.to_string())?;
    if len < u64::from(end) {
        return Err(format!("the file has {len} bytes, {end} of it were written"));
    }
    read(position, &mut head)?;
    let size = Batch::size_of_first(&head).map_err(|error| error.to_string())?.unwrap_or(BATCH_HEADER);
    if size > (end - position) as usize {
        return Err("the batch reaches beyond the segment's end".to_owned());
    }
    let mut bytes = vec![0; size];
    read(position, &mut bytes)?;
    Ok(bytes.into())
}

/// Applies the log in memory.
struct Overlay<'a> {
    applied: Applied<'a>,
    batches: BTreeMap<(TopicPartition, Offset, u32), Bytes>,
}

impl Visit for Overlay<'_> {
    fn entry(&mut self, entry: Entry) -> Result<(), Error> {
        let (id, header) = (entry.header.partition, entry.header);
        match header.kind {
            Kind::Batch => {
                if self.applied.batch(&entry) {
                    self.batches.insert((id, header.segment, header.position), entry.payload);
                }
            }
            Kind::LogStart => self.applied.log_start(id, header.base_offset),
            Kind::Deleted => {
                self.applied.deleted(id);
                self.batches.retain(|(of, _, _), _| *of != id);
            }
        }
        Ok(())
    }
}
