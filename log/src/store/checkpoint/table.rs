//! The checkpoint's file: where all partitions stand, and from which file of the write-ahead log on recovery reads.
//!
//! ```text
//! wal/checkpoint-0000000001 = blocks one behind the other: the first tells of all partitions, the others of those that
//!                             have changed since the block before; each is synced before anything relies on it
//!
//! block header, 48 bytes                      entry
//!   0  magic "RRC1"                             0  kind u8: 1 where it stands, 2 it is gone; 3 zeros
//!   4  length of the body u32                   4  length of the record u32
//!   8  sequence u64, from 1 without a gap       8  topic id
//!  16  first file of the log to be read u64    24  partition i32
//!  24  kind u32: 1 all, 2 changes              28  record, see `record`
//!  28  CRC-32C of the body u32
//!  32  zeros
//!  44  CRC-32C of 0..44
//! ```
//!
//! When the changes outgrow the whole, a new file is begun; the one before goes when that is synced.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::Captured;
use crate::Error;
use crate::env::mutant::Mutant;
use crate::env::{Disk, File, Open, read_full};
use crate::record::{TopicId, TopicPartition};

const HEADER: usize = 48;
const ENTRY: usize = 28;
const MAGIC: [u8; 4] = *b"RRC1";
/// Changes of this many bytes are kept before everything is written anew, however little that is.
const CHANGES_MIN: u64 = 1024 * 1024;
/// No block is larger: a million partitions with a kilobyte each.
const BODY_MAX: usize = 1024 * 1024 * 1024;

/// See the module.
pub(in crate::store) struct Table {
    dir: PathBuf,
    records: BTreeMap<TopicPartition, Bytes>,
    number: u32,
    file: Option<Arc<dyn File>>,
    end: u64,
    /// Where the first block ends.
    base_end: u64,
    sequence: u64,
    changes_min: u64,
    /// A block was not written, for want of room: the next one tells of all partitions, in a file of its own.
    incomplete: bool,
    /// Where bytes stand that are no whole block: a crash may have left them, or they are damaged.
    doubtful: Option<String>,
    /// What was read, until it is made durable.
    read: Option<(u32, Bytes)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    All = 1,
    Changes = 2,
}

struct Block {
    kind: Kind,
    sequence: u64,
    first_file: u64,
    body: Bytes,
}

fn name(number: u32) -> String {
    format!("checkpoint-{number:010}")
}

fn number(path: &Path) -> Option<u32> {
    path.file_name()?.to_str()?.strip_prefix("checkpoint-")?.parse().ok()
}

impl Table {
    /// Reads what stands in `dir`: the table, and the first file of the log that is to be read (0: all there are).
    pub fn load(disk: &dyn Disk, dir: &Path) -> Result<(Table, u32), Error> {
        let mut numbers: Vec<u32> = disk.list(dir)?.iter().filter_map(|path| number(path)).collect();
        numbers.sort_unstable();
        let mut table = Table {
            dir: dir.to_owned(),
            records: BTreeMap::new(),
            number: numbers.last().copied().unwrap_or(0),
            file: None,
            end: 0,
            base_end: 0,
            sequence: 0,
            changes_min: if cfg!(test) { 2000 } else { CHANGES_MIN },
            incomplete: false,
            doubtful: None,
            read: None,
        };
        let mut first_file = 0;
        // A file without a whole first block was being created; then the one before it still counts.
        for &candidate in numbers.iter().rev() {
            if let Some(first) = table.read(disk, candidate)? {
                first_file = first;
                break;
            }
        }
        Ok((table, first_file))
    }

    /// The partitions and their records.
    pub fn records(&self) -> &BTreeMap<TopicPartition, Bytes> {
        &self.records
    }

    /// What it means for the checkpoint that the log in front of which it stands is not whole: that may be the damage.
    pub fn doubt(&self, error: Error) -> Error {
        match (error, &self.doubtful) {
            (Error::Corrupt { place, detail }, Some(doubtful)) => {
                Error::Corrupt { place: format!("{place}, or {doubtful}"), detail }
            }
            (error, _) => error,
        }
    }

    /// Whether the file began with a whole block; then what it says.
    fn read(&mut self, disk: &dyn Disk, number: u32) -> Result<Option<u32>, Error> {
        let path = self.dir.join(name(number));
        let corrupt = |at: usize, detail: &str| Error::Corrupt {
            place: format!("{} at byte {at}", path.display()),
            detail: detail.to_owned(),
        };
        let file = disk.open(&path, Open::Read)?;
        let len = usize::try_from(file.len()?).map_err(|_| corrupt(0, "the file is too large"))?;
        let mut bytes = vec![0; len];
        read_full(&*file, 0, &mut bytes)?;
        let bytes = Bytes::from(bytes);
        let (mut at, mut first_file, mut sequence) = (0, None, 0);
        while let Some((block, len)) = block_at(&bytes, at) {
            let expected = if at == 0 { Kind::All } else { Kind::Changes };
            if block.kind != expected || (at > 0 && block.sequence != sequence + 1) {
                return Err(corrupt(at, "a block is out of order"));
            }
            self.apply(&block).ok_or_else(|| corrupt(at, "an entry is damaged though its checksum is right"))?;
            sequence = block.sequence;
            first_file = Some(u32::try_from(block.first_file).map_err(|_| corrupt(at, "no such file"))?);
            at += len;
        }
        let behind = (at..bytes.len()).skip(1).find(|at| {
            bytes[*at..].starts_with(&MAGIC)
                && block_at(&bytes, *at).is_some_and(|(block, _)| block.sequence > sequence)
        });
        if let Some(behind) = behind {
            return Err(corrupt(at, &format!("a block is damaged, and a whole one stands behind it at byte {behind}")));
        }
        if at < bytes.len() || at == 0 {
            self.doubtful = Some(format!("{} at byte {at}", path.display()));
        }
        self.sequence = self.sequence.max(sequence);
        if first_file.is_some() {
            self.read = Some((number, bytes.slice(..at)));
        }
        Ok(first_file)
    }

    /// What was read may be in the system's memory only, marked as clean by a sync that failed: before anything relies on
    /// it, it is written again.
    pub fn make_durable(&mut self, disk: &dyn Disk) -> io::Result<()> {
        let Some((number, bytes)) = self.read.take() else { return Ok(()) };
        let file = disk.open(&self.dir.join(name(number)), Open::Write)?;
        file.write_at(0, &[IoSlice::new(&bytes)])?;
        file.sync_data()?;
        disk.sync_dir(&self.dir)
    }

    fn apply(&mut self, block: &Block) -> Option<()> {
        if block.kind == Kind::All {
            self.records.clear();
        }
        let mut at = 0;
        while at < block.body.len() {
            let head = block.body.get(at..at + ENTRY)?;
            let len = u32::from_le_bytes(head[4..8].try_into().ok()?) as usize;
            let mut topic = [0; 16];
            topic.copy_from_slice(&head[8..24]);
            let partition = i32::from_le_bytes(head[24..28].try_into().ok()?);
            let id = TopicPartition { topic: TopicId(topic), partition };
            let end = (at + ENTRY).checked_add(len).filter(|end| *end <= block.body.len())?;
            match head[0] {
                1 => drop(self.records.insert(id, Bytes::copy_from_slice(&block.body[at + ENTRY..end]))),
                2 => drop(self.records.remove(&id)),
                _ => return None,
            }
            at = end;
        }
        Some(())
    }

    /// Makes durable that partitions stand so, and that recovery needs the log from `first_file` on. After `StorageFull`
    /// what is durable is as before, and the next call makes good for this one.
    pub fn write(&mut self, disk: &dyn Disk, captured: Captured, first_file: u32) -> io::Result<()> {
        let written = self.try_write(disk, captured, first_file);
        self.incomplete = written.is_err();
        written
    }

    fn try_write(&mut self, disk: &dyn Disk, captured: Captured, first_file: u32) -> io::Result<()> {
        let mut body = Vec::new();
        for (id, record) in captured.records {
            put_entry(&mut body, 1, id, &record);
            self.records.insert(id, record);
        }
        for id in captured.removed {
            put_entry(&mut body, 2, id, &[]);
            self.records.remove(&id);
        }
        let outgrown = self.end - self.base_end > self.base_end.max(self.changes_min);
        match &self.file {
            Some(file) if !outgrown && !self.incomplete => {
                let header = header(Kind::Changes, self.sequence + 1, first_file, &body);
                file.write_at(self.end, &[IoSlice::new(&header), IoSlice::new(&body)])?;
                sync(&**file)?;
                self.sequence += 1;
                self.end += (HEADER + body.len()) as u64;
                Ok(())
            }
            _ => self.write_all(disk, first_file),
        }
    }

    fn write_all(&mut self, disk: &dyn Disk, first_file: u32) -> io::Result<()> {
        let mut body = Vec::new();
        self.records.iter().for_each(|(id, record)| put_entry(&mut body, 1, *id, record));
        let header = header(Kind::All, self.sequence + 1, first_file, &body);
        let path = self.dir.join(name(self.number + 1));
        let file = disk.open(&path, Open::Create)?;
        if let Err(error) = file.write_at(0, &[IoSlice::new(&header), IoSlice::new(&body)]) {
            if error.kind() == io::ErrorKind::StorageFull {
                drop(file);
                disk.unlink(&path)?;
            }
            return Err(error);
        }
        sync(&*file)?;
        if !Mutant::CheckpointUnnamed.is_on() {
            disk.sync_dir(&self.dir)?;
        }
        self.number += 1;
        self.sequence += 1;
        self.end = (HEADER + body.len()) as u64;
        self.base_end = self.end;
        self.file = Some(file);
        for old in disk.list(&self.dir)? {
            if number(&old).is_some_and(|old| old < self.number) {
                disk.unlink(&old)?;
            }
        }
        Ok(())
    }
}

/// After an error nobody knows what is durable: whatever the reason, it is not to be tried again.
fn sync(file: &dyn File) -> io::Result<()> {
    file.sync_data().map_err(io::Error::other)
}

fn put_entry(body: &mut Vec<u8>, kind: u8, id: TopicPartition, record: &[u8]) {
    body.extend_from_slice(&[kind, 0, 0, 0]);
    body.extend_from_slice(&(record.len() as u32).to_le_bytes());
    body.extend_from_slice(&id.topic.0);
    body.extend_from_slice(&id.partition.to_le_bytes());
    body.extend_from_slice(record);
}

fn header(kind: Kind, sequence: u64, first_file: u32, body: &[u8]) -> [u8; HEADER] {
    assert!(body.len() <= BODY_MAX, "a checkpoint of {} bytes", body.len());
    let mut out = [0; HEADER];
    out[..4].copy_from_slice(&MAGIC);
    out[4..8].copy_from_slice(&(body.len() as u32).to_le_bytes());
    out[8..16].copy_from_slice(&sequence.to_le_bytes());
    out[16..24].copy_from_slice(&u64::from(first_file).to_le_bytes());
    out[24..28].copy_from_slice(&(kind as u32).to_le_bytes());
    out[28..32].copy_from_slice(&crc32c::crc32c(body).to_le_bytes());
    let crc = crc32c::crc32c(&out[..44]);
    out[44..].copy_from_slice(&crc.to_le_bytes());
    out
}

/// The whole block at `at` and its size.
fn block_at(bytes: &Bytes, at: usize) -> Option<(Block, usize)> {
    let head = bytes.get(at..at + HEADER)?;
    let u32_at = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().expect("four bytes"));
    let u64_at = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().expect("eight bytes"));
    if head[..4] != MAGIC || u32_at(44) != crc32c::crc32c(&head[..44]) {
        return None;
    }
    let len = u32_at(4) as usize;
    let kind = [Kind::All, Kind::Changes].into_iter().find(|kind| *kind as u32 == u32_at(24))?;
    let end = (at + HEADER).checked_add(len).filter(|end| *end <= bytes.len())?;
    let body = bytes.slice(at + HEADER..end);
    (crc32c::crc32c(&body) == u32_at(28)).then(|| {
        let block = Block { kind, sequence: u64_at(8), first_file: u64_at(16), body };
        (block, HEADER + len)
    })
}
