//! What fuzzers call: each reader of the store with any bytes, as they come and with checksums that are right. Beyond that
//! nothing panics, each asks what must hold of whatever was read.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::checkpoint::{self, Captured, Table};
use super::cold::{self, Cursors, Sequential, Wanted};
use super::forge::{self, Format, Part, What, build_on};
use super::handles::{Handles, Name};
use super::layout::{Suffix, epochs, offset_index, partition_metadata, producer_snapshot, time_index, txn_index};
use super::offline::Stored;
use super::partition::Cold;
use super::recovery;
use super::segment::Place;
use super::wal::files::Files;
use crate::env::{Disk, Env, Open, SimDisk};
use crate::record::check::{Rules, Timestamps, Validation};
use crate::record::{Batch, Offset, TopicId, TopicPartition};

/// Reads of one segment: it has fewer batches.
const READS_MAX: usize = 10_000;

fn put(disk: &SimDisk, path: &Path, bytes: &[u8]) {
    const MEMORY: &str = "a disk in memory takes everything";
    disk.create_dir(path.parent().expect("a file has a directory")).expect(MEMORY);
    let file = disk.open(path, Open::Create).expect(MEMORY);
    file.write_at(0, &[std::io::IoSlice::new(bytes)]).expect(MEMORY);
}

/// The bytes behind a length of two bytes, cut to what there is, and the rest.
fn split(data: &[u8]) -> (&[u8], &[u8]) {
    let Some((len, rest)) = data.split_first_chunk::<2>() else { return (data, &[]) };
    rest.split_at(usize::from(u16::from_le_bytes(*len)).min(rest.len()))
}

fn sealed(format: Format, data: &[u8]) -> Vec<u8> {
    let mut bytes = data.to_vec();
    let parts = format.parts(&bytes);
    forge::reseal(&mut bytes, &parts);
    bytes
}

/// Record batches, one behind the other.
pub fn batch(data: &[u8]) {
    for bytes in [data.to_vec(), sealed(Format::Batches, data)] {
        let bytes = Bytes::from(bytes);
        for (validation, key_required) in
            [(Validation::Header, false), (Validation::Full, false), (Validation::Full, true)]
        {
            let timestamps = Timestamps { least_ms: 0, most_ms: i64::MAX / 2 };
            let rules = Rules { validation, batch_bytes_max: 1 << 20, key_required, timestamps };
            let Ok(batch) = Batch::check(bytes.clone(), &rules) else { continue };
            if validation == Validation::Full {
                let readable = batch.records().expect("it was checked").all(|r| r.is_ok_and(|r| r.headers().is_ok()));
                assert!(readable, "a batch that was checked to its records: {batch:?}");
            }
        }
        let mut rest = bytes;
        while let Ok(Some(batch)) = Batch::split_from(&mut rest) {
            assert!(batch.base_offset() <= batch.last_offset() && batch.next_offset().is_stored(), "{batch:?}");
            look_at(&batch);
        }
    }
}

fn look_at(batch: &Batch) {
    let records = batch.records().into_iter().flatten().flatten();
    let read: Vec<_> =
        records.map(|r| (r.offset, r.timestamp_ms, r.key.clone(), r.value.clone(), r.headers())).collect();
    let _ = (batch.marker(), batch.delete_horizon_ms());
    let _ = batch.glance(|_| ControlFlow::Continue(()));
    if !batch.is_control() {
        look_at_left(&batch.emptied(), &[]);
    }
    for (odd, horizon_ms) in [(true, None), (false, Some(i64::MAX / 2)), (true, Some(0))] {
        let mut index = 0u32;
        let Ok(sifted) = batch.sift(|_| {
            index += 1;
            (index % 2 == 1) == odd
        }) else {
            return;
        };
        let Ok(rebuilt) = batch.rebuild(sifted, horizon_ms) else { continue };
        let kept = read.iter().skip(usize::from(!odd)).step_by(2);
        let kept: Vec<_> = kept.map(|(offset, _, key, value, _)| (*offset, key.clone(), value.clone())).collect();
        look_at_left(&rebuilt, &kept);
    }
}

/// What is left of a batch is a batch with these records.
fn look_at_left(batch: &Batch, kept: &[(Offset, Option<Bytes>, Option<Bytes>)]) {
    let mut bytes = Vec::new();
    batch.write_to(&mut bytes);
    let again = Batch::split_from(&mut Bytes::from(bytes)).expect("it was sealed").expect("it is whole");
    let records = again.records().expect("it was packed").map(|record| record.expect("it was kept"));
    let found: Vec<_> = records.map(|record| (record.offset, record.key, record.value)).collect();
    assert_eq!(found, kept);
}

/// Files of the write-ahead log: the first behind a length of two bytes, the second what is left.
pub fn wal(data: &[u8]) {
    let (first, second) = split(data);
    let chained = chain(first, second);
    for [first, second] in [[first.to_vec(), second.to_vec()], chained] {
        let (env, disk) = world();
        put(&disk, Path::new("/data/wal/0000000001.wal"), &first);
        if !second.is_empty() {
            put(&disk, Path::new("/data/wal/0000000002.wal"), &second);
        }
        look_at_directory(&env, &disk);
    }
}

fn world() -> (Env, SimDisk) {
    let disk = SimDisk::new(0);
    (Env::simulated(0).with_disk(std::sync::Arc::new(disk.clone())), disk)
}

/// Two files as the log's one writer would chain them, whatever else they say: so that a fuzzer comes to what is in them.
fn chain(first: &[u8], second: &[u8]) -> [Vec<u8>; 2] {
    let (mut sequence, mut previous_end) = (1u64, 0u64);
    let mut number = 0u64;
    [first, second].map(|bytes| {
        number += 1;
        let mut bytes = bytes.to_vec();
        if bytes.len() < 64 {
            return bytes;
        }
        let first_sequence = sequence;
        bytes[..8].copy_from_slice(b"RRWAL001");
        bytes[8..16].copy_from_slice(&number.to_le_bytes());
        bytes[24..32].copy_from_slice(&first_sequence.to_le_bytes());
        let parts = Format::Wal.parts(&bytes);
        for (index, part) in parts.iter().enumerate() {
            if part.what != What::Group {
                continue;
            }
            let inside = parts[index + 1..].iter().take_while(|part| part.what != What::Group);
            let entries = inside.filter(|part| part.what == What::Entry).count() as u32;
            let next = parts[index + 1..].iter().find(|part| part.what == What::Group);
            chain_group(&mut bytes, *part, next, entries, (sequence, previous_end));
            let body_len = u32::from_le_bytes(bytes[part.at + 4..part.at + 8].try_into().expect("four bytes"));
            sequence += 1;
            previous_end = (part.at + 48) as u64 + u64::from(body_len);
        }
        forge::reseal(&mut bytes, &parts);
        bytes
    })
}

fn chain_group(bytes: &mut [u8], part: Part, next: Option<&Part>, entries: u32, behind: (u64, u64)) {
    // The zeros of a header: here a fuzzer says that a group is to stay as it is.
    let at = part.at;
    if bytes[at + 40] != 0 {
        return;
    }
    let end = next.map_or(bytes.len(), |next| next.at);
    let body_len = u32::from_le_bytes(bytes[at + 4..at + 8].try_into().expect("four bytes")) as usize;
    let body_len = body_len.min(end - at - 48) as u32;
    let generation: [u8; 8] = bytes[16..24].try_into().expect("eight bytes");
    bytes[at + 4..at + 8].copy_from_slice(&body_len.to_le_bytes());
    bytes[at + 8..at + 16].copy_from_slice(&behind.0.to_le_bytes());
    bytes[at + 16..at + 24].copy_from_slice(&behind.1.to_le_bytes());
    bytes[at + 24..at + 32].copy_from_slice(&generation);
    bytes[at + 32..at + 36].copy_from_slice(&entries.to_le_bytes());
}

/// From outside, and as a start does.
fn look_at_directory(env: &Env, disk: &SimDisk) {
    let data = Path::new("/data");
    let stored = Stored::open(env, data);
    if let Ok(stored) = &stored {
        for id in stored.partitions() {
            let seen = &mut |_| ();
            let _ = stored.visit(disk, id, seen);
        }
    }
    let dir = data.join("wal");
    let files = Files::new(&dir, 4096, 4);
    let handles = Handles::new(Place::new(data), 4);
    let recovered = recovery::recover(env, &dir, &files, &handles, usize::MAX);
    assert_eq!(recovered.is_ok(), stored.is_ok(), "what a start refuses is refused from outside");
    let (Ok(recovered), Ok(stored)) = (recovered, stored) else { return };
    for (id, replayed) in &recovered.partitions {
        build_on(&replayed.view, &replayed.producers);
        if replayed.damage.is_none() {
            let bounds = (replayed.view.start, replayed.view.high_watermark);
            assert_eq!(stored.bounds(*id), bounds, "a start finds what is seen from outside");
        }
    }
    let mut table = recovered.table;
    let written = table.write(disk, Captured { records: Vec::new(), removed: Vec::new() }, 1);
    written.expect("the next checkpoint can be written");
}

/// A checkpoint's file; and a record of one.
pub fn checkpoint(data: &[u8]) {
    if let Ok(stood) = checkpoint::decode(data) {
        build_on(&stood.view, &stood.producers);
    }
    for bytes in [data.to_vec(), sealed(Format::Checkpoint, data)] {
        let (_, disk) = world();
        let dir = PathBuf::from("/data/wal");
        put(&disk, &dir.join("checkpoint-0000000001"), &bytes);
        let Ok((mut table, first_file)) = Table::load(&disk, &dir) else { continue };
        if let Ok(partitions) = recovery::stood(&table, &disk) {
            partitions.values().for_each(|replayed| build_on(&replayed.view, &replayed.producers));
        }
        let records = table.records().clone();
        table.make_durable(&disk).expect("what was read can be written");
        let captured = Captured { records: Vec::new(), removed: Vec::new() };
        table.write(&disk, captured, first_file).expect("the next one can be written");
        let (again, _) = Table::load(&disk, &dir).expect("what was written can be read");
        assert_eq!(*again.records(), records);
    }
}

/// A segment beside its indexes: the batches, the offset index and what is left, the time index, the first two each behind
/// a length of two bytes. Where readers without indexes get through, those with get the same.
pub fn segment(data: &[u8]) {
    let (log, rest) = split(data);
    let (index, times) = split(rest);
    for (log, generation) in [(log.to_vec(), 0), (sealed(Format::Batches, log), 0), (sealed(Format::Batches, log), 7)] {
        let base = log.first_chunk().map_or(0, |base| i64::from_be_bytes(*base));
        let (base, end) = (Offset(base.clamp(0, Offset::LIMIT.0)), log.len() as u32);
        let last = Format::Batches.parts(&log).last().map(|part| part.at);
        let last = last.and_then(|at| Batch::split_from(&mut Bytes::copy_from_slice(&log[at..])).ok().flatten());
        let next = last.map_or(Offset(base.0 + 1), |batch| batch.next_offset());
        let (disk, handles) = (SimDisk::new(0), Handles::new(Place::new(Path::new("/data")), 4));
        let id = TopicPartition { topic: TopicId([1; 16]), partition: 0 };
        let name = |suffix| Name { partition: id, segment: base, generation, suffix };
        put(&disk, &handles.path(name(Suffix::Log)), &log);
        let readers = [Handles::new(Place::new(Path::new("/data")), 4), handles];
        let without: Vec<_> =
            offsets(base, next).map(|from| read(&disk, &readers[0], name(Suffix::Log), end, from, next)).collect();
        put(&disk, &readers[1].path(name(Suffix::Index)), index);
        put(&disk, &readers[1].path(name(Suffix::TimeIndex)), times);
        for (from, without) in offsets(base, next).zip(without) {
            let with = read(&disk, &readers[1], name(Suffix::Log), end, from, next);
            if let Some(without) = without {
                assert_eq!(with, Some(without), "from {from:?}");
            }
            let _ = cold::time_in_file(&disk, &readers[1], name(Suffix::Log), from.0);
        }
        if let Ok(mut all) = Sequential::open(&disk, &readers[1], name(Suffix::Log), end, next) {
            for _ in 0..READS_MAX {
                if !all.next(&readers[1], 1_000).is_ok_and(|batches| !batches.is_empty()) {
                    break;
                }
            }
        }
    }
}

/// Some between the first and the one behind the last.
fn offsets(base: Offset, next: Offset) -> impl Iterator<Item = Offset> {
    let step = ((next.0 - base.0) / 5).max(1);
    (0..5).map(move |part| Offset(base.0.saturating_add(step * part))).filter(move |from| *from < next)
}

/// All offsets of batches from one on; none where there is an error.
fn read(disk: &SimDisk, handles: &Handles, name: Name, end: u32, from: Offset, next: Offset) -> Option<Vec<Offset>> {
    let (segment, generation) = (name.segment, name.generation);
    let cold = Cold { segment, generation, position: None, end, next, whole: generation == 0 };
    let cursors = Cursors::default();
    let (mut at, mut found) = (from, Vec::new());
    for _ in 0..READS_MAX {
        let wanted = Wanted { partition: name.partition, from: at, up_to: next, bytes_max: 200 };
        let batches = cold::read(disk, handles, &cursors, &cold, wanted).ok()?;
        let Some(last) = batches.last() else { return Some(found) };
        assert!(last.next_offset() > at && last.next_offset() <= next, "{at:?} to {last:?}");
        at = last.next_offset();
        found.extend(batches.iter().map(Batch::base_offset));
        if at >= next {
            return Some(found);
        }
    }
    panic!("reading from {from:?} never ends")
}

/// The indexes beside a segment.
pub fn index(data: &[u8]) {
    if let Ok(entries) = offset_index::decode(data) {
        assert_eq!(offset_index::encode(&entries), data);
        entries
            .iter()
            .for_each(|entry| assert_eq!(offset_index::lookup(&entries, entry.relative_offset), Some(*entry)));
    }
    if let Ok(entries) = time_index::decode(data) {
        assert_eq!(time_index::encode(&entries), data);
        entries.iter().for_each(|entry| assert_eq!(time_index::lookup(&entries, entry.timestamp_ms), Some(*entry)));
    }
    if let Ok(entries) = txn_index::decode(data) {
        assert_eq!(txn_index::encode(&entries), data);
    }
}

/// The snapshot of producers beside a segment, and what stands beside all segments of a partition.
pub fn snapshot(data: &[u8]) {
    for bytes in [data.to_vec(), sealed(Format::Producers, data)] {
        if let Ok(entries) = producer_snapshot::decode(&bytes) {
            assert_eq!(producer_snapshot::encode(&entries), bytes);
        }
    }
    if let Ok(starts) = epochs::decode(data) {
        assert_eq!(epochs::encode(&starts).as_bytes(), data);
    }
    if let Ok(topic) = partition_metadata::decode(data) {
        assert_eq!(partition_metadata::encode(topic).as_bytes(), data);
    }
}
