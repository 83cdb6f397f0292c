//! Reading the write-ahead log from one of its files to its last whole group.
//!
//! A group is written only after the one before it was synced. So what is not whole at the very end was never
//! acknowledged and is left behind; what is not whole anywhere else is damage. Where the headers of the entries in a
//! damaged group are intact, it is known whose entries it holds, and only those whose payload is damaged are lost; else it
//! is an error that names the place. Nothing is written here. While one file is gone through the next is read: two are in
//! memory at once.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::files::Files;
use super::format::{ENTRY_HEADER, EntryHeader, FILE_HEADER, FILE_NUMBER_MAX, FileHeader, GROUP_HEADER, GroupHeader};
use super::writer::{End, OpenFile};
use crate::Error;
use crate::env::mutant::Mutant;
use crate::env::{Disk, Env, File, Open, read_full};

/// Damaged groups of one file that are gone through for what is left of them: each may cost a look at all the rest.
const SALVAGED_MAX: usize = 1_000;

/// One entry and where its payload stands.
pub(in crate::store) struct Entry {
    pub file: u32,
    pub at: usize,
    pub header: EntryHeader,
    pub payload: Bytes,
}

/// What takes what is read.
pub(in crate::store) trait Visit {
    fn entry(&mut self, entry: Entry) -> Result<(), Error>;
    /// A group is damaged; its entries come next, and may be. The error it is where they cannot.
    fn damaged(&mut self, _error: &Error) {}
    /// All entries of a file were visited.
    fn end_of_file(&mut self, _number: u32) -> Result<(), Error> {
        Ok(())
    }
}

/// See the module.
pub(in crate::store) struct Scan<'a> {
    env: &'a Env,
    files: &'a Files,
    how: Open,
    /// The first file tells its own `next_sequence`.
    pub end: End,
    /// For whoever writes on: the last whole group, and in front of the first of a file its header. Where it begins in its
    /// file, and its bytes.
    pub last_group: (usize, Bytes),
    pub bytes: u64,
    pub groups: u64,
}

/// A file that was read.
struct Loaded {
    number: u32,
    file: Arc<dyn File>,
    bytes: Bytes,
}

impl Loaded {
    /// `room`: of one that was read before, for memory that is new costs as much as reading.
    fn read(disk: &dyn Disk, files: &Files, number: u32, how: Open, mut room: BytesMut) -> Result<Loaded, Error> {
        let path = files.path(number);
        let file = disk.open(&path, how)?;
        let len = usize::try_from(file.len()?).map_err(|_| corrupt(files, number, 0, "the file is too large"))?;
        if room.capacity() < len {
            drop(room);
            room = BytesMut::zeroed(len);
        }
        room.resize(len, 0);
        read_full(&*file, 0, &mut room)?;
        Ok(Loaded { number, file, bytes: room.freeze() })
    }
}

fn corrupt(files: &Files, number: u32, at: usize, detail: impl Into<String>) -> Error {
    Error::Corrupt { place: format!("{} at byte {at}", files.path(number).display()), detail: detail.into() }
}

/// What a file of the log looks like.
enum Begun {
    Yes(FileHeader),
    /// It was prepared, or was being begun at the crash.
    No,
}

impl<'a> Scan<'a> {
    /// `how` the files are opened: for reading only, or the last to be written on.
    pub fn new(env: &'a Env, files: &'a Files, how: Open) -> Scan<'a> {
        let end = End { file: None, next_number: 1, next_sequence: 1, previous_end: 0 };
        Scan { env, files, how, end, last_group: (0, Bytes::new()), bytes: 0, groups: 0 }
    }

    fn corrupt(&self, number: u32, at: usize, detail: impl Into<String>) -> Error {
        corrupt(self.files, number, at, detail)
    }

    fn missing(&self, number: u32) -> Error {
        self.corrupt(number, 0, "the file is missing, and a later one is there")
    }

    /// Reads from `first_file` on, or everything when that is 0.
    pub fn run(&mut self, first_file: u32, visit: &mut dyn Visit) -> Result<(), Error> {
        self.end.next_number = first_file.max(1);
        let (env, files, how, disk) = (self.env, self.files, self.how, self.env.disk());
        let paths = disk.list(files.dir())?;
        let mut numbers: Vec<u32> = paths.iter().filter_map(|path| Files::number(path)).collect();
        numbers.sort_unstable();
        if let Some(last) = numbers.last().filter(|last| **last > FILE_NUMBER_MAX) {
            return Err(self.corrupt(*last, 0, "no file of the log has so high a number"));
        }
        let first = first_file.max(1);
        let needed = numbers.partition_point(|number| *number < first);
        numbers.drain(..needed).for_each(|number| files.found(number, false));
        let mut numbers = numbers.into_iter();
        let read = |number, room| Loaded::read(&*disk, files, number, how, room);
        let mut next = numbers.next().map(|number| read(number, BytesMut::new()));
        let (mut room, mut over) = (BytesMut::new(), false);
        while let Some(loaded) = next {
            let loaded = loaded?;
            let expected = self.end.file.as_ref().map_or(first, |file| file.number + 1);
            let following = numbers.next();
            let ahead = || following.map(|number| read(number, room));
            let own = || self.file(&loaded, expected, over, first_file > 0, visit);
            let (ahead, is_part) = env.beside(ahead, own);
            over |= !is_part?;
            // Where somebody keeps some of it, it is left to them.
            room = loaded.bytes.try_into_mut().unwrap_or_default();
            next = ahead;
        }
        if self.end.file.is_none() && first_file > 0 {
            return Err(self.corrupt(first_file, 0, "the file is missing"));
        }
        Ok(())
    }

    /// One file; whether it is part of the log. `over`: the one before it is not.
    fn file(
        &mut self,
        Loaded { number, file, bytes }: &Loaded,
        expected: u32,
        over: bool,
        checkpointed: bool,
        visit: &mut dyn Visit,
    ) -> Result<bool, Error> {
        let number = *number;
        let is_first = self.end.file.is_none();
        let header = match self.begun(number, expected, bytes, is_first)? {
            Begun::No if is_first && checkpointed => {
                return Err(self.corrupt(number, 0, "the file's header or first group is damaged"));
            }
            Begun::No => {
                self.files.found(number, false);
                return Ok(false);
            }
            Begun::Yes(header) => header,
        };
        if over || number != expected {
            return Err(self.missing(expected));
        }
        if is_first {
            self.end.next_sequence = header.first_sequence;
        }
        self.files.found(number, true);
        let (last, end) = self.groups(number, &header, bytes, visit)?;
        let behind = self.end.next_sequence + 1;
        if let Some(at) = GroupHeader::find_successor(&bytes[end..], Some(header.generation), behind) {
            let detail = format!("a group is damaged, and a whole one stands behind it at byte {}", end + at);
            return Err(self.corrupt(number, end, detail));
        }
        visit.end_of_file(number)?;
        self.bytes += end as u64;
        self.end.next_number = number + 1;
        if self.how == Open::Write {
            self.last_group = (last, Bytes::copy_from_slice(&bytes[last..end]));
        }
        let file = Arc::clone(file);
        self.end.file = Some(OpenFile { number, generation: header.generation, file, end: end as u64 });
        Ok(true)
    }

    fn begun(&self, number: u32, expected: u32, bytes: &Bytes, is_first: bool) -> Result<Begun, Error> {
        let head = bytes.get(..FILE_HEADER).and_then(|head| FileHeader::decode(head.try_into().ok()?));
        let group = whole_group(bytes, FILE_HEADER).map(|(group, _)| group);
        let next = self.end.next_sequence;
        let chained = |g: &GroupHeader| is_first || (g.sequence == next && g.previous_end == self.end.previous_end);
        let Some(header) = head.filter(|header| header.number == number) else {
            // A file that is used again has the header of its earlier use; a damaged one has none.
            return match group {
                Some(group) if head.is_none() && chained(&group) => {
                    Err(self.corrupt(number, 0, "the file's header is damaged"))
                }
                _ => Ok(Begun::No),
            };
        };
        let own = group.filter(|g| g.generation == header.generation && g.sequence == header.first_sequence);
        match own {
            Some(group) if chained(&group) => return Ok(Begun::Yes(header)),
            Some(_) if number != expected => return Err(self.missing(expected)),
            Some(_) => {
                let detail = "a group is damaged, and a later file was begun behind it";
                return Err(self.corrupt(number.saturating_sub(1), self.end.previous_end as usize, detail));
            }
            None => {}
        }
        if GroupHeader::find_successor(bytes, Some(header.generation), header.first_sequence + 1).is_some() {
            return Err(self.corrupt(number, FILE_HEADER, "the file's first group is damaged"));
        }
        Ok(Begun::No)
    }

    /// Visits the whole groups; returns where the last one begins, or the file where that is the first, and ends.
    fn groups(
        &mut self,
        number: u32,
        header: &FileHeader,
        bytes: &Bytes,
        visit: &mut dyn Visit,
    ) -> Result<(usize, usize), Error> {
        let (mut at, mut last, mut salvaged) = (FILE_HEADER, 0, 0);
        loop {
            let Some((group, body)) = whole_group(bytes, at) else {
                match self.salvage(number, header, bytes, at, visit)? {
                    Some(_) if salvaged == SALVAGED_MAX => {
                        return Err(self.corrupt(number, at, "too many groups of the file are damaged"));
                    }
                    Some(next) => (at, salvaged) = (next, salvaged + 1),
                    None => break,
                }
                continue;
            };
            let chained = group.sequence == self.end.next_sequence
                && group.generation == header.generation
                && (at == FILE_HEADER || group.previous_end == self.end.previous_end);
            if !chained {
                break;
            }
            let start = at + GROUP_HEADER;
            self.entries(number, start, &bytes.slice(start..start + body), group.entries, visit)?;
            last = if at == FILE_HEADER { 0 } else { at };
            at = start + body;
            self.groups += 1;
            self.end.next_sequence += 1;
            self.end.previous_end = at as u64;
        }
        Ok((last, at))
    }

    /// Visits the entries of a damaged group, where a whole one stands behind it; returns where that begins. None where
    /// there is none: then it is no damage but the end.
    fn salvage(
        &mut self,
        number: u32,
        header: &FileHeader,
        bytes: &Bytes,
        at: usize,
        visit: &mut dyn Visit,
    ) -> Result<Option<usize>, Error> {
        let behind = self.end.next_sequence + 1;
        let Some(found) = GroupHeader::find_successor(&bytes[at..], Some(header.generation), behind) else {
            return Ok(None);
        };
        let next = at + found;
        let detail = format!("a group is damaged, and a whole one stands behind it at byte {next}");
        let error = self.corrupt(number, at, detail);
        let successor = GroupHeader::decode(&bytes[next..]);
        let entries = whole_headers(bytes, at + GROUP_HEADER, next);
        let (Some(entries), Some(successor)) = (entries, successor.filter(|group| group.sequence == behind)) else {
            return Err(error);
        };
        visit.damaged(&error);
        for (at, header) in entries {
            let payload = bytes.slice(at..at + header.len as usize);
            visit.entry(Entry { file: number, at, header, payload })?;
        }
        self.end.next_sequence = successor.sequence;
        self.end.previous_end = successor.previous_end;
        Ok(Some(next))
    }

    fn entries(&self, number: u32, start: usize, body: &Bytes, count: u32, visit: &mut dyn Visit) -> Result<(), Error> {
        let mut at = 0;
        for _ in 0..count {
            let header = EntryHeader::decode(&body[at..])
                .filter(|header| header.len as usize <= body.len() - at - ENTRY_HEADER)
                .ok_or_else(|| self.corrupt(number, start + at, "an entry that this version does not know"))?;
            let from = at + ENTRY_HEADER;
            at = from + header.len as usize;
            visit.entry(Entry { file: number, at: start + from, header, payload: body.slice(from..at) })?;
        }
        if at == body.len() { Ok(()) } else { Err(self.corrupt(number, start + at, "bytes behind the last entry")) }
    }
}

/// The headers of entries that fill `from..to`, and where their payloads begin; none when one is damaged.
fn whole_headers(bytes: &Bytes, from: usize, to: usize) -> Option<Vec<(usize, EntryHeader)>> {
    let mut headers = Vec::new();
    let mut at = from;
    while at < to {
        let header = EntryHeader::decode(&bytes[at..to])?;
        headers.push((at + ENTRY_HEADER, header));
        at = (at + ENTRY_HEADER).checked_add(header.len as usize)?;
    }
    (at == to).then_some(headers)
}

/// The header of the group at `at` and the size of its body, when both are there and the checksums agree.
fn whole_group(bytes: &[u8], at: usize) -> Option<(GroupHeader, usize)> {
    let group = GroupHeader::decode(bytes.get(at..)?)?;
    let from = at + GROUP_HEADER;
    let body = bytes.get(from..from + group.body_len as usize)?;
    let intact = Mutant::GroupChecksumIgnored.is_on() || crc32c::crc32c(body) == group.body_crc;
    intact.then_some((group, body.len()))
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;
    use std::path::Path;

    use super::super::format::Kind;
    use super::*;
    use crate::env::SimDisk;
    use crate::fixtures::{BATCHES, WAL, section};
    use crate::record::{LeaderEpoch, Offset, TopicId, TopicPartition};

    #[derive(Default)]
    struct Seen(Vec<(u32, usize, EntryHeader, Bytes)>);

    impl Visit for Seen {
        fn entry(&mut self, Entry { file, at, header, payload }: Entry) -> Result<(), Error> {
            self.0.push((file, at, header, payload));
            Ok(())
        }
    }

    fn scan(bytes: &[u8], look: impl FnOnce(Result<(), Error>, &Scan<'_>, Seen)) {
        let (disk, dir) = (SimDisk::new(0), Path::new("/wal"));
        disk.create_dir(dir).unwrap();
        let files = Files::new(dir, 0, 1);
        disk.open(&files.path(7), Open::Create).unwrap().write_at(0, &[IoSlice::new(bytes)]).unwrap();
        let env = Env::simulated(0).with_disk(Arc::new(disk));
        let (mut scan, mut seen) = (Scan::new(&env, &files, Open::Write), Seen::default());
        let outcome = scan.run(7, &mut seen);
        look(outcome, &scan, seen);
    }

    fn id(first: u8, partition: i32) -> TopicPartition {
        let mut topic = [0; 16];
        topic.iter_mut().zip(first..).for_each(|(byte, number)| *byte = number);
        TopicPartition { topic: TopicId(topic), partition }
    }

    fn group(entries: &[(EntryHeader, &[u8])], sequence: u64, previous_end: u64, generation: u64) -> Vec<u8> {
        let body: Vec<u8> =
            entries.iter().flat_map(|(header, payload)| [&header.encode()[..], payload].concat()).collect();
        let (body_len, body_crc, entries) = (body.len() as u32, crc32c::crc32c(&body), entries.len() as u32);
        let header = GroupHeader { body_len, sequence, previous_end, generation, entries, body_crc };
        [&header.encode()[..], &body].concat()
    }

    #[test]
    fn the_first_file_is_read_for_ever_and_written_the_same_way() {
        let (bytes, batch) = (section(WAL, "0000000007.wal"), section(BATCHES, "plain"));
        let none = EntryHeader {
            kind: Kind::Deleted,
            len: 0,
            partition: id(33, 0),
            epoch: LeaderEpoch(0),
            base_offset: Offset(0),
            segment: Offset(0),
            position: 0,
        };
        let offset = Offset(1_000);
        let (kind, len, partition) = (Kind::Batch, batch.len() as u32, id(1, 3));
        let one =
            EntryHeader { kind, len, partition, epoch: LeaderEpoch(5), base_offset: offset, segment: offset, ..none };
        let (kind, epoch, base_offset) = (Kind::LogStart, LeaderEpoch(6), Offset(1_001));
        let two = EntryHeader { kind, partition, epoch, base_offset, ..none };
        scan(&bytes, |outcome, scan, seen| {
            outcome.unwrap();
            let empty = Bytes::new();
            let expect =
                [(7, 168, one, Bytes::from(batch.clone())), (7, 310, two, empty.clone()), (7, 414, none, empty)];
            assert_eq!(seen.0, expect);
            assert_eq!((scan.end.next_number, scan.end.next_sequence, scan.end.previous_end), (8, 43, 414));
            assert_eq!(
                (scan.groups, scan.bytes, &scan.last_group),
                (2, 414, &(310, Bytes::copy_from_slice(&bytes[310..414])))
            );
        });
        let generation = 0x1122_3344_5566_7788;
        let header = FileHeader { number: 7, generation, first_sequence: 41 };
        let written = [
            &header.encode()[..],
            &group(&[(one, &batch), (two, &[])], 41, 4_096, generation),
            &group(&[(none, &[])], 42, 310, generation),
        ];
        assert_eq!(written.concat(), bytes[..414]);
    }

    /// Keeps the payloads of every so many files.
    struct Keep(u32, Seen);

    impl Visit for Keep {
        fn entry(&mut self, entry: Entry) -> Result<(), Error> {
            if entry.file.is_multiple_of(self.0) { self.1.entry(entry) } else { Ok(()) }
        }
    }

    /// One file is read while another is gone through, into the memory of one before that nobody needs any more.
    #[test]
    fn files_of_any_size_are_read_ahead_and_what_is_kept_of_them_stays() {
        let (disk, dir) = (SimDisk::new(0), Path::new("/wal"));
        disk.create_dir(dir).unwrap();
        let files = Files::new(dir, 0, 1);
        let sizes = [100, 5000, 70, 3000, 0, 9000, 9000, 200, 1];
        let (mut previous_end, mut written) = (0, Vec::new());
        for (number, size) in (1..).zip(sizes) {
            let payload = vec![number as u8; size];
            let entry = EntryHeader {
                kind: Kind::Batch,
                len: size as u32,
                partition: id(1, 0),
                epoch: LeaderEpoch(0),
                base_offset: Offset(0),
                segment: Offset(0),
                position: 0,
            };
            let (sequence, generation) = (u64::from(number), 100 + u64::from(number));
            let header = FileHeader { number, generation, first_sequence: sequence };
            let group = group(&[(entry, &payload)], sequence, previous_end, generation);
            let bytes = [&header.encode()[..], &group].concat();
            previous_end = bytes.len() as u64;
            disk.open(&files.path(number), Open::Create).unwrap().write_at(0, &[IoSlice::new(&bytes)]).unwrap();
            written.push((number, FILE_HEADER + GROUP_HEADER + ENTRY_HEADER, entry, Bytes::from(payload)));
        }
        for (env, every) in [Env::memory(), Env::simulated(1)].into_iter().flat_map(|env| [(env.clone(), 1), (env, 3)])
        {
            let env = env.with_disk(Arc::new(disk.clone()));
            let mut keep = Keep(every, Seen::default());
            Scan::new(&env, &files, Open::Read).run(1, &mut keep).unwrap();
            let kept = written.iter().filter(|(number, ..)| number.is_multiple_of(every)).cloned();
            assert_eq!(keep.1.0, kept.collect::<Vec<_>>());
        }
    }

    /// Each damaged group costs a look at all behind it: there is an end to that.
    #[test]
    fn damage_without_end_is_given_up() {
        let header = FileHeader { number: 7, generation: 9, first_sequence: 1 };
        let mut bytes = header.encode().to_vec();
        bytes.extend(group(&[], 1, 0, 9));
        for sequence in 2..3 + SALVAGED_MAX as u64 {
            // The checksum of nothing is not 1.
            let previous_end = bytes.len() as u64;
            let empty = GroupHeader { body_len: 0, sequence, previous_end, generation: 9, entries: 0, body_crc: 1 };
            bytes.extend(empty.encode());
        }
        scan(&bytes, |outcome, _, _| outcome.unwrap());
        bytes.extend(group(&[], 3 + SALVAGED_MAX as u64, 0, 9));
        scan(&bytes, |outcome, _, _| assert!(outcome.unwrap_err().to_string().contains("too many groups")));
    }
}
