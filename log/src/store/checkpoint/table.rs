//! The checkpoint's file: where all partitions stand, and from which file of the write-ahead log on recovery reads.
//!
//! ```text
//! wal/checkpoint-0000000001 = statements one behind the other: the first tells of all partitions, the others of those that
//!                             have changed since the one before. A statement is one block, or several, which count when
//!                             the last one is there; each is synced before the next is written or anything relies on it
//!
//! block header, 48 bytes                      entry
//!   0  magic "RRC1"                             0  kind u8: 1 where it stands, 2 it is gone; 3 zeros
//!   4  length of the body u32                   4  length of the record u32
//!   8  sequence u64, from 1 without a gap       8  topic id
//!  16  first file of the log to be read u64    24  partition i32
//!  24  kind u32: 1 all, 2 changes,             28  record, see `record`
//!         3 the statement goes on
//!  28  CRC-32C of the body u32
//!  32  zeros
//!  44  CRC-32C of 0..44
//! ```
//!
//! When the changes outgrow the whole, a new file is begun; the one before goes when that is synced. Sequences stay below
//! 2^63 and numbers of files below 2^32 - 2^20, so that those that follow can be counted.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::Captured;
use crate::Error;
use crate::env::mutant::Mutant;
use crate::env::{Disk, File, Open, read_full};
use crate::record::{TopicId, TopicPartition};
use crate::store::wal::format::FILE_NUMBER_MAX;

const HEADER: usize = 48;
const ENTRY: usize = 28;
const MAGIC: [u8; 4] = *b"RRC1";
/// Changes of this many bytes are kept before everything is written anew, however little that is.
const CHANGES_MIN: u64 = 1024 * 1024;
/// No block has more bytes, except for one record that is larger: they are in memory at once, and the log's syncs wait
/// behind theirs.
const BODY_MAX: usize = 8 * 1024 * 1024;
/// See the module.
const NUMBER_MAX: u32 = u32::MAX - (1 << 20);
const SEQUENCE_MAX: u64 = u64::MAX >> 1;

/// See the module.
pub(in crate::store) struct Table {
    dir: PathBuf,
    records: BTreeMap<TopicPartition, Bytes>,
    number: u32,
    file: Option<Arc<dyn File>>,
    end: u64,
    /// Where the first statement ends.
    base_end: u64,
    /// The last block's.
    sequence: u64,
    changes_min: u64,
    body_max: usize,
    /// A statement was not written, for want of room: the next one tells of all partitions, in a file of its own.
    incomplete: bool,
    /// Where bytes stand that are no whole statement: a crash may have left them, or they are damaged.
    doubtful: Option<String>,
    /// The number of the file that was read, and how far.
    source: (u32, usize),
    /// What was read, until it is made durable.
    read: Option<(u32, Bytes)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    All = 1,
    Changes = 2,
    GoesOn = 3,
}

/// What an entry says of a partition: its record, or that it is gone.
type Change<'a> = (TopicPartition, Option<&'a Bytes>);

/// What the header of a block says.
#[derive(Clone, Copy)]
struct Header {
    body_len: usize,
    sequence: u64,
    first_file: u64,
    kind: Kind,
    body_crc: u32,
}

fn name(number: u32) -> String {
    format!("checkpoint-{number:010}")
}

/// `None` for a name that [`name`] does not give.
fn number(path: &Path) -> Option<u32> {
    let file = path.file_name()?.to_str()?;
    file.strip_prefix("checkpoint-")?.parse().ok().filter(|number| name(*number) == file)
}

impl Table {
    /// Reads what stands in `dir`: the table, and the first file of the log that is to be read (0: all there are).
    pub fn load(disk: &dyn Disk, dir: &Path) -> Result<(Table, u32), Error> {
        let mut numbers: Vec<u32> = disk.list(dir)?.iter().filter_map(|path| number(path)).collect();
        numbers.sort_unstable();
        if let Some(last) = numbers.last().filter(|last| **last > NUMBER_MAX) {
            let place = dir.join(name(*last)).display().to_string();
            return Err(Error::Corrupt { place, detail: "no checkpoint has so high a number".to_owned() });
        }
        let mut table = Table {
            dir: dir.to_owned(),
            records: BTreeMap::new(),
            number: numbers.last().copied().unwrap_or(0),
            file: None,
            end: 0,
            base_end: 0,
            sequence: 0,
            changes_min: if cfg!(test) { 2000 } else { CHANGES_MIN },
            body_max: if cfg!(test) { 256 } else { BODY_MAX },
            incomplete: false,
            doubtful: None,
            source: (0, 0),
            read: None,
        };
        let mut first_file = 0;
        // A file without a whole first statement was being created; then the one before it still counts.
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

    /// Whether the file began with a whole statement; then which file of the log the last one names.
    fn read(&mut self, disk: &dyn Disk, number: u32) -> Result<Option<u32>, Error> {
        let path = self.dir.join(name(number));
        let corrupt = |at: usize, detail: &str| Error::Corrupt {
            place: format!("{} at byte {at}", path.display()),
            detail: detail.to_owned(),
        };
        let bytes = whole(disk, &path)?;
        let (mut at, mut counted, mut first_file, mut sequence) = (0, 0, None, 0);
        let mut bodies = Vec::new();
        while let Some((block, body)) = block_at(&bytes, at) {
            let follows = if at == 0 { block.sequence > 0 } else { block.sequence == sequence + 1 };
            let expected = if counted == 0 { Kind::All } else { Kind::Changes };
            let fits = block.kind == Kind::GoesOn || block.kind == expected;
            if !fits || !follows || block.sequence > SEQUENCE_MAX {
                return Err(corrupt(at, "a block is out of order"));
            }
            let file = u32::try_from(block.first_file).ok().filter(|file| *file <= FILE_NUMBER_MAX);
            let file = file.ok_or_else(|| corrupt(at, "no such file"))?;
            sequence = block.sequence;
            let start = at + HEADER;
            at = start + body.len();
            bodies.push((start, body));
            let cut_off = || Mutant::CheckpointCountsUnfinished.is_on() && block_at(&bytes, at).is_none();
            if block.kind == Kind::GoesOn && !cut_off() {
                continue;
            }
            if counted == 0 {
                self.records.clear();
            }
            for (start, body) in bodies.drain(..) {
                self.apply(&body)
                    .map_err(|at| corrupt(start + at, "an entry is damaged though its checksum is right"))?;
            }
            first_file = Some(file);
            counted = at;
        }
        // Its header is enough: it was begun, so the one before was synced.
        let mut headers =
            memchr::memmem::find_iter(&bytes[at..], &MAGIC).map(|from| at + from).filter(|start| *start > at);
        let behind = headers.find(|start| header_at(&bytes, *start).is_some_and(|block| block.sequence > sequence));
        if let Some(behind) = behind {
            return Err(corrupt(at, &format!("a block is damaged, and another stands behind it at byte {behind}")));
        }
        if counted < bytes.len() || counted == 0 {
            let at = if at < bytes.len() { at } else { counted };
            self.doubtful = Some(format!("{} at byte {at}", path.display()));
        }
        self.sequence = self.sequence.max(sequence);
        if first_file.is_some() {
            self.source = (number, counted);
            self.read = Some((number, bytes.slice(..counted)));
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

    /// These are gone, by the log behind what was read. The next statement, which tells of all partitions, tells it.
    pub fn forget<'a>(&mut self, gone: impl Iterator<Item = &'a TopicPartition>) {
        assert!(self.file.is_none(), "a statement of changes would not tell of it");
        gone.for_each(|id| drop(self.records.remove(id)));
    }

    /// Takes over what a block says; the error is where in it an entry is damaged.
    fn apply(&mut self, body: &Bytes) -> Result<(), usize> {
        let mut at = 0;
        while at < body.len() {
            let (kind, id, record) = entry_at(body, at).ok_or(at)?;
            at = record.end;
            match kind {
                1 => drop(self.records.insert(id, Bytes::copy_from_slice(&body[record]))),
                _ => drop(self.records.remove(&id)),
            }
        }
        Ok(())
    }

    /// Where the record of a partition stands, for people: looked for anew, as it is seldom asked.
    pub fn place_of(&self, disk: &dyn Disk, id: TopicPartition) -> String {
        let (number, len) = self.source;
        let path = self.dir.join(name(number));
        let found = || {
            let mut bytes = whole(disk, &path).ok()?;
            bytes.truncate(len);
            let (mut at, mut found) = (0, None);
            while let Some((_, body)) = block_at(&bytes, at) {
                let (start, mut entry) = (at + HEADER, 0);
                while let Some((_, of, record)) = entry_at(&body, entry) {
                    found = if of == id { Some(start + record.start) } else { found };
                    entry = record.end;
                }
                at = start + body.len();
            }
            found
        };
        let at = found().map(|at| format!(" at byte {at}")).unwrap_or_default();
        format!("{}{at}", path.display())
    }

    /// Makes durable that partitions stand so, and that recovery needs the log from `first_file` on. After `StorageFull`
    /// what is durable is as before, and the next call makes good for this one.
    pub fn write(&mut self, disk: &dyn Disk, captured: Captured, first_file: u32) -> io::Result<()> {
        let written = self.try_write(disk, captured, first_file);
        self.incomplete = written.is_err();
        written
    }

    fn try_write(&mut self, disk: &dyn Disk, captured: Captured, first_file: u32) -> io::Result<()> {
        let Captured { records, removed } = captured;
        self.records.extend(records.iter().cloned());
        removed.iter().for_each(|id| drop(self.records.remove(id)));
        let outgrown = self.end - self.base_end > self.base_end.max(self.changes_min);
        match &self.file {
            Some(file) if !outgrown && !self.incomplete => {
                let records = records.iter().map(|(id, record)| (*id, Some(record)));
                let changes = records.chain(removed.iter().map(|id| (*id, None)));
                (self.end, self.sequence) = self.put(&**file, Kind::Changes, self.end, first_file, changes)?;
                Ok(())
            }
            _ => self.write_all(disk, first_file),
        }
    }

    fn write_all(&mut self, disk: &dyn Disk, first_file: u32) -> io::Result<()> {
        let path = self.dir.join(name(self.number + 1));
        let file = disk.open(&path, Open::Create)?;
        let all = self.records.iter().map(|(id, record)| (*id, Some(record)));
        let (end, sequence) = match self.put(&*file, Kind::All, 0, first_file, all) {
            Ok(put) => put,
            Err(error) => {
                if error.kind() == io::ErrorKind::StorageFull {
                    drop(file);
                    disk.unlink(&path)?;
                }
                return Err(error);
            }
        };
        if !Mutant::CheckpointUnnamed.is_on() {
            disk.sync_dir(&self.dir).map_err(io::Error::other)?;
        }
        self.number += 1;
        (self.sequence, self.end, self.base_end) = (sequence, end, end);
        self.file = Some(file);
        for old in disk.list(&self.dir)? {
            if number(&old).is_some_and(|old| old < self.number) {
                disk.unlink(&old)?;
            }
        }
        Ok(())
    }

    /// Writes a statement to `at` of a file, in as many blocks as it needs, and syncs each. Gives where it ends, and the
    /// sequence of its last block.
    fn put<'a>(
        &self,
        file: &dyn File,
        kind: Kind,
        mut at: u64,
        first_file: u32,
        changes: impl Iterator<Item = Change<'a>>,
    ) -> io::Result<(u64, u64)> {
        let mut sequence = self.sequence;
        let mut body = Vec::new();
        let mut block = |kind, body: &mut Vec<u8>| {
            sequence += 1;
            let header = header(kind, sequence, first_file, body);
            file.write_at(at, &[IoSlice::new(&header), IoSlice::new(body)])?;
            sync(file)?;
            at += (HEADER + body.len()) as u64;
            body.clear();
            io::Result::Ok((at, sequence))
        };
        for (id, record) in changes {
            let size = ENTRY + record.map_or(0, Bytes::len);
            if !body.is_empty() && body.len() + size > self.body_max {
                block(Kind::GoesOn, &mut body)?;
            }
            put_entry(&mut body, id, record);
        }
        block(kind, &mut body)
    }
}

/// After an error nobody knows what is durable: whatever the reason, it is not to be tried again.
fn sync(file: &dyn File) -> io::Result<()> {
    file.sync_data().map_err(io::Error::other)
}

fn put_entry(body: &mut Vec<u8>, id: TopicPartition, record: Option<&Bytes>) {
    body.extend_from_slice(&[if record.is_some() { 1 } else { 2 }, 0, 0, 0]);
    body.extend_from_slice(&length(record.map_or(0, Bytes::len)).to_le_bytes());
    body.extend_from_slice(&id.topic.0);
    body.extend_from_slice(&id.partition.to_le_bytes());
    body.extend_from_slice(record.map_or(&[], |record| record));
}

fn header(kind: Kind, sequence: u64, first_file: u32, body: &[u8]) -> [u8; HEADER] {
    let mut out = [0; HEADER];
    out[..4].copy_from_slice(&MAGIC);
    out[4..8].copy_from_slice(&length(body.len()).to_le_bytes());
    out[8..16].copy_from_slice(&sequence.to_le_bytes());
    out[16..24].copy_from_slice(&u64::from(first_file).to_le_bytes());
    out[24..28].copy_from_slice(&(kind as u32).to_le_bytes());
    out[28..32].copy_from_slice(&crc32c::crc32c(body).to_le_bytes());
    let crc = crc32c::crc32c(&out[..44]);
    out[44..].copy_from_slice(&crc.to_le_bytes());
    out
}

/// What a record holds is bounded far below this.
fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("a record is below 4 GiB")
}

/// All of a file.
fn whole(disk: &dyn Disk, path: &Path) -> io::Result<Bytes> {
    let file = disk.open(path, Open::Read)?;
    let len = usize::try_from(file.len()?).map_err(|_| io::ErrorKind::FileTooLarge)?;
    let mut bytes = vec![0; len];
    read_full(&*file, 0, &mut bytes)?;
    Ok(Bytes::from(bytes))
}

/// The intact header at `at`.
fn header_at(bytes: &[u8], at: usize) -> Option<Header> {
    let head = bytes.get(at..)?.get(..HEADER)?;
    let u32_at = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().expect("four bytes"));
    let u64_at = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().expect("eight bytes"));
    if head[..4] != MAGIC || u32_at(44) != crc32c::crc32c(&head[..44]) {
        return None;
    }
    let kind = [Kind::All, Kind::Changes, Kind::GoesOn].into_iter().find(|kind| *kind as u32 == u32_at(24))?;
    let (sequence, first_file) = (u64_at(8), u64_at(16));
    Some(Header { body_len: u32_at(4) as usize, sequence, first_file, kind, body_crc: u32_at(28) })
}

/// The whole block at `at`: its header and its body.
fn block_at(bytes: &Bytes, at: usize) -> Option<(Header, Bytes)> {
    let header = header_at(bytes, at)?;
    let from = at + HEADER;
    let end = from.checked_add(header.body_len).filter(|end| *end <= bytes.len())?;
    let body = bytes.slice(from..end);
    (crc32c::crc32c(&body) == header.body_crc).then_some((header, body))
}

/// The entry at `at` of a block's body: its kind, whose it is, and where its record lies.
fn entry_at(body: &[u8], at: usize) -> Option<(u8, TopicPartition, Range<usize>)> {
    let head = body.get(at..)?.get(..ENTRY)?;
    let len = u32::from_le_bytes(head[4..8].try_into().ok()?) as usize;
    let topic = TopicId(head[8..24].try_into().ok()?);
    let partition = i32::from_le_bytes(head[24..28].try_into().ok()?);
    let from = at + ENTRY;
    let end = from.checked_add(len).filter(|end| *end <= body.len())?;
    let known = matches!(head[0], 1 | 2) && partition >= 0;
    known.then_some((head[0], TopicPartition { topic, partition }, from..end))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::env::SimDisk;
    use crate::fixtures::{CHECKPOINT, section};
    use crate::record::Offset;
    use crate::store::forge::{self, Format};

    const NAME: &str = "checkpoint-0000000001";

    fn id(first: u8, partition: i32) -> TopicPartition {
        let mut topic = [0; 16];
        topic.iter_mut().zip(first..).for_each(|(byte, number)| *byte = number);
        TopicPartition { topic: TopicId(topic), partition }
    }

    /// A disk with a file of these bytes, and where it is.
    fn disk(name: &str, bytes: &[u8]) -> (SimDisk, PathBuf) {
        let (disk, dir) = (SimDisk::new(0), PathBuf::from("/wal"));
        disk.create_dir(&dir).unwrap();
        if !bytes.is_empty() {
            disk.open(&dir.join(name), Open::Create).unwrap().write_at(0, &[IoSlice::new(bytes)]).unwrap();
        }
        (disk, dir)
    }

    fn refused(name: &str, bytes: &[u8]) -> String {
        let (disk, dir) = disk(name, bytes);
        Table::load(&disk, &dir).map(|_| ()).unwrap_err().to_string()
    }

    /// A file of two statements is read, and written the same way with blocks of at most so many bytes. The last record
    /// lies so far from the end.
    fn check_fixture(fixture: &str, body_max: usize, blocks: u64, behind: usize) {
        let bytes = section(CHECKPOINT, fixture);
        let (first, second, newest) = (id(1, 3), id(33, 0), section(CHECKPOINT, "record 2"));
        let (old, dir) = disk(NAME, &bytes);
        let (table, first_file) = Table::load(&old, &dir).unwrap();
        assert_eq!(table.records(), &[(first, Bytes::from(newest.clone()))].into());
        assert_eq!((first_file, table.number, table.sequence), (7, 1, blocks));
        let at = bytes.len() - behind - newest.len();
        assert_eq!(table.place_of(&old, first), format!("/wal/{NAME} at byte {at}"));

        let empty = |of: Offset| {
            let mut out = vec![2];
            (0..3).for_each(|_| out.extend(of.0.to_le_bytes()));
            out.extend([0; 12 + 12 + 1 + 16]);
            out.extend((-1i64).to_le_bytes());
            Bytes::from(out)
        };
        let records = vec![(first, empty(Offset(20))), (second, empty(Offset(4)))];
        let (new, dir) = disk(NAME, &[]);
        let (mut table, _) = Table::load(&new, &dir).unwrap();
        table.body_max = body_max;
        table.write(&new, Captured { records, removed: Vec::new() }, 3).unwrap();
        let changed = Captured { records: vec![(first, Bytes::from(newest))], removed: vec![second] };
        table.write(&new, changed, 7).unwrap();
        assert_eq!(new.bytes(&dir.join(NAME)), Some(bytes));
    }

    #[test]
    fn the_first_files_are_read_for_ever_and_written_the_same_way() {
        check_fixture(NAME, 1000, 2, ENTRY);
        check_fixture("in several blocks", 150, 4, HEADER + ENTRY);
    }

    /// Where a partition stands, or so it says: as long as the partition's number.
    fn standing(partition: i32, what: u8) -> (TopicPartition, Bytes) {
        (id(1, partition), Bytes::from(vec![what; partition as usize]))
    }

    #[test]
    fn a_statement_counts_when_its_last_block_is_there() {
        let (disk, dir) = disk(NAME, &[]);
        let (mut table, _) = Table::load(&disk, &dir).unwrap();
        let path = dir.join(NAME);
        let mut stages = vec![(0, BTreeMap::new(), 0)];
        for (what, removed) in [(1, vec![]), (2, vec![id(1, 90)]), (3, vec![id(1, 2), id(1, 0)])] {
            let records = [0, 90, 2, 160, 300].map(|partition| standing(partition, what)).to_vec();
            table.write(&disk, Captured { records, removed }, what.into()).unwrap();
            let len = disk.bytes(&path).unwrap().len();
            stages.push((len, table.records().clone(), what.into()));
        }
        let bytes = disk.bytes(&path).unwrap();
        let blocks = Format::Checkpoint.parts(&bytes).iter().filter(|part| part.what == forge::What::Block).count();
        assert_eq!(blocks, 3 + 4 + 4);
        for len in 0..=bytes.len() {
            let (cut, dir) = self::disk(NAME, &bytes[..len]);
            let (mut table, first_file) = Table::load(&cut, &dir).unwrap();
            let (_, records, expected) = stages.iter().rfind(|(end, ..)| *end <= len).unwrap();
            assert_eq!((table.records(), first_file), (records, *expected), "{len} of {} bytes", bytes.len());
            table.make_durable(&cut).unwrap();
            let (changed, removed) = (standing(7, 4), vec![id(1, 160)]);
            table.write(&cut, Captured { records: vec![changed.clone()], removed }, 9).unwrap();
            let mut after = records.clone();
            after.insert(changed.0, changed.1);
            after.remove(&id(1, 160));
            let (again, first_file) = Table::load(&cut, &dir).unwrap();
            assert_eq!((again.records(), first_file), (&after, 9));
        }
    }

    /// Whatever is written before the disk is full, what stood before counts until all of it is written anew.
    #[test]
    fn a_statement_that_finds_no_room_counts_for_nothing() {
        const PAGE: u64 = 4096;
        let mut cut = BTreeSet::new();
        for (room, anew) in (0..12).flat_map(|room| [(room, false), (room, true)]) {
            let (disk, dir) = disk(NAME, &[]);
            let (mut table, _) = Table::load(&disk, &dir).unwrap();
            (table.body_max, table.changes_min) = (5000, u64::MAX);
            let all = |what| (1000..1008).map(|partition| standing(partition * 4, what)).collect();
            table.write(&disk, Captured { records: all(1), removed: Vec::new() }, 1).unwrap();
            let before = table.records().clone();
            table.incomplete = anew;
            let (path, next) = (dir.join(NAME), dir.join(name(2)));
            let used = disk.bytes(&path).unwrap().len() as u64;
            disk.set_capacity(Some((used.div_ceil(PAGE) + room) * PAGE));
            let changed = Captured { records: all(2), removed: vec![id(1, 4000)] };
            let written = table.write(&disk, changed, 2);
            let after = table.records().clone();
            let (read, first_file) = Table::load(&disk, &dir).unwrap();
            if written.is_ok() {
                assert_eq!((read.records(), first_file), (&after, 2));
                continue;
            }
            assert_eq!(written.unwrap_err().kind(), io::ErrorKind::StorageFull);
            assert_eq!((read.records(), first_file), (&before, 1), "{room} {anew}");
            assert_eq!(disk.bytes(&next), None);
            cut.insert((anew, disk.bytes(&path).unwrap().len()));
            disk.set_capacity(None);
            table.write(&disk, Captured { records: Vec::new(), removed: Vec::new() }, 3).unwrap();
            let (read, first_file) = Table::load(&disk, &dir).unwrap();
            assert_eq!((read.records(), first_file), (&after, 3));
            assert_eq!(disk.bytes(&path), None);
        }
        assert!(cut.iter().filter(|(anew, _)| !anew).count() > 3, "cut off behind different blocks: {cut:?}");
    }

    #[test]
    fn what_nobody_can_have_written_is_told_with_its_place() {
        let bytes = section(CHECKPOINT, NAME);
        let first_len = HEADER + u32::from_le_bytes(bytes[4..8].try_into().unwrap()) as usize;
        let forged_of = |bytes: &[u8], change: &dyn Fn(&mut [u8])| {
            let (mut bytes, parts) = (bytes.to_vec(), Format::Checkpoint.parts(bytes));
            change(&mut bytes);
            forge::reseal(&mut bytes, &parts);
            bytes
        };
        let forged = |change: &dyn Fn(&mut [u8])| forged_of(&bytes, change);
        let check = |bytes: &[u8], at: usize, why: &str| {
            let told = refused(NAME, bytes);
            assert!(told.contains(&format!("{NAME} at byte {at}:")) && told.contains(why), "{told}");
        };
        check(&forged(&|bytes| bytes[8..16].fill(0xff)), 0, "out of order");
        check(&forged(&|bytes| bytes[8..16].fill(0)), 0, "out of order");
        check(&forged(&|bytes| bytes[16..24].fill(0xff)), 0, "no such file");
        check(&forged(&|bytes| bytes[first_len + 8] = 7), first_len, "out of order");
        check(&forged(&|bytes| bytes[first_len + HEADER + 27] = 0x80), first_len + HEADER, "an entry is damaged");
        check(&forged(&|bytes| bytes[first_len + HEADER] = 3), first_len + HEADER, "an entry is damaged");
        check(
            &forged(&|bytes| bytes[first_len + HEADER + 4..][..4].fill(0xff)),
            first_len + HEADER,
            "an entry is damaged",
        );
        let mut damaged = bytes.clone();
        damaged[HEADER] ^= 1;
        check(&damaged, 0, &format!("another stands behind it at byte {first_len}"));
        let several = section(CHECKPOINT, "in several blocks");
        let blocks = Format::Checkpoint.parts(&several).into_iter().filter(|part| part.what == forge::What::Block);
        let at: Vec<usize> = blocks.map(|part| part.at).collect();
        // A statement of changes that ends as one of all, and the other way round.
        check(&forged_of(&several, &|bytes| bytes[at[3] + 24] = 1), at[3], "out of order");
        check(&forged_of(&several, &|bytes| bytes[at[1] + 24] = 2), at[1], "out of order");
        for (damaged, behind) in [(0, 1), (1, 2), (2, 3)] {
            let mut bytes = several.clone();
            bytes[at[damaged] + HEADER] ^= 1;
            check(&bytes, at[damaged], &format!("another stands behind it at byte {}", at[behind]));
        }
        assert!(refused("checkpoint-4294967295", &bytes).contains("no checkpoint has so high a number"));
        let (disk, dir) = disk("checkpoint-1", &bytes);
        assert_eq!(Table::load(&disk, &dir).unwrap().1, 0, "another name is not one of ours");
    }
}
