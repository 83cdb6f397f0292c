//! Files as somebody would forge them: changed anywhere, with checksums that are right again. For tests and fuzzing; the
//! layouts are those drawn in [`super::wal`], [`super::checkpoint`], [`super::layout`] and [`crate::record::Batch`].

use std::ops::Range;
#[cfg(test)]
use std::path::Path;

use super::layout::{epochs, producer_snapshot};
use super::partition::View;
use super::producers::Producers;
use super::seal;

/// What a file is, as far as checksums go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Wal,
    Checkpoint,
    Batches,
    Producers,
    /// Without checksums.
    #[cfg(test)]
    Plain,
}

/// Where something begins that has a checksum, or numbers worth changing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub at: usize,
    pub what: What,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// Header of a file of the write-ahead log.
    File,
    Group,
    Entry,
    Batch,
    /// Of a checkpoint.
    Block,
    /// An entry of a checkpoint: a header and a record so long.
    Standing(usize),
    Producers,
}

const FILE_HEADER: usize = 64;
const GROUP_HEADER: usize = 48;
const ENTRY_HEADER: usize = 56;
const BATCH_HEADER: usize = 61;
const BLOCK_HEADER: usize = 48;
const STANDING_HEADER: usize = 28;

impl Format {
    #[cfg(test)]
    pub fn of(path: &Path) -> Format {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        match name.rsplit_once('.').map(|(_, end)| end) {
            Some("wal") => Format::Wal,
            Some("log") => Format::Batches,
            Some("snapshot") => Format::Producers,
            _ if name.starts_with("checkpoint-") => Format::Checkpoint,
            _ => Format::Plain,
        }
    }

    /// The parts of a file by what its headers say, as far as they can be followed; the outer before the inner.
    pub fn parts(self, bytes: &[u8]) -> Vec<Part> {
        let mut parts = Vec::new();
        match self {
            Format::Wal => wal(bytes, &mut parts),
            Format::Checkpoint => checkpoint(bytes, &mut parts),
            Format::Batches => batches(bytes, 0, bytes.len(), &mut parts),
            Format::Producers if bytes.len() >= 10 => parts.push(Part { at: 0, what: What::Producers }),
            Format::Producers => {}
            #[cfg(test)]
            Format::Plain => {}
        }
        parts
    }
}

/// Gives every part the checksum that its bytes have.
pub(crate) fn reseal(bytes: &mut [u8], parts: &[Part]) {
    parts.iter().rev().for_each(|part| part.seal(bytes));
}

fn wal(bytes: &[u8], parts: &mut Vec<Part>) {
    if bytes.len() < FILE_HEADER {
        return;
    }
    parts.push(Part { at: 0, what: What::File });
    let mut at = FILE_HEADER;
    while at + GROUP_HEADER <= bytes.len() && bytes[at..].starts_with(b"RRG1") {
        parts.push(Part { at, what: What::Group });
        let body = at + GROUP_HEADER;
        let end = body + length(bytes, at + 4).min(bytes.len() - body);
        let mut entry = body;
        while entry + ENTRY_HEADER <= end {
            parts.push(Part { at: entry, what: What::Entry });
            let payload = entry + ENTRY_HEADER;
            let next = payload + length(bytes, entry + 4).min(end - payload);
            batches(bytes, payload, next, parts);
            entry = next;
        }
        at = end;
    }
}

fn checkpoint(bytes: &[u8], parts: &mut Vec<Part>) {
    let mut at = 0;
    while at + BLOCK_HEADER <= bytes.len() && bytes[at..].starts_with(b"RRC1") {
        parts.push(Part { at, what: What::Block });
        let body = at + BLOCK_HEADER;
        let end = body + length(bytes, at + 4).min(bytes.len() - body);
        let mut entry = body;
        while entry + STANDING_HEADER <= end {
            let record = entry + STANDING_HEADER;
            let next = record + length(bytes, entry + 4).min(end - record);
            parts.push(Part { at: entry, what: What::Standing(next - record) });
            entry = next;
        }
        at = end;
    }
}

fn batches(bytes: &[u8], from: usize, to: usize, parts: &mut Vec<Part>) {
    let mut at = from;
    while at + BATCH_HEADER <= to {
        parts.push(Part { at, what: What::Batch });
        let length = u32::from_be_bytes(bytes[at + 8..at + 12].try_into().expect("four bytes")) as usize;
        at += length.saturating_add(12).clamp(BATCH_HEADER, to - at);
    }
}

fn length(bytes: &[u8], at: usize) -> usize {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes")) as usize
}

impl Part {
    /// Offset from the part's begin and width of the numbers that a reader goes by; big endian or not.
    #[cfg(test)]
    pub fn numbers(self) -> (&'static [(usize, usize)], bool) {
        match self.what {
            What::File => (&[(8, 8), (16, 8), (24, 8)], false),
            What::Group => (&[(4, 4), (8, 8), (16, 8), (24, 8), (32, 4)], false),
            What::Entry => (&[(0, 1), (4, 4), (8, 8), (24, 4), (28, 4), (32, 8), (40, 8), (48, 4)], false),
            What::Batch => (
                &[(0, 8), (8, 4), (12, 4), (21, 2), (23, 4), (27, 8), (35, 8), (43, 8), (51, 2), (53, 4), (57, 4)],
                true,
            ),
            What::Block => (&[(4, 4), (8, 8), (16, 8), (24, 4)], false),
            What::Standing(_) => (&[(0, 1), (4, 4), (8, 8), (24, 4)], false),
            What::Producers => (&[(0, 2), (6, 4), (10, 8), (18, 2), (20, 4), (24, 8), (32, 4), (40, 8)], true),
        }
    }

    fn seal(self, bytes: &mut [u8]) {
        let at = self.at;
        match self.what {
            What::File => put_little(bytes, at + 60, at..at + 60),
            What::Group => {
                let body = at + GROUP_HEADER;
                put_little(bytes, at + 36, body..body + length(bytes, at + 4));
                put_little(bytes, at + 44, at..at + 44);
            }
            What::Block => {
                let body = at + BLOCK_HEADER;
                put_little(bytes, at + 28, body..body + length(bytes, at + 4));
                put_little(bytes, at + 44, at..at + 44);
            }
            What::Entry => put_little(bytes, at + 52, at..at + 52),
            What::Batch => {
                let length = u32::from_be_bytes(bytes[at + 8..at + 12].try_into().expect("four bytes")) as usize;
                put_big(bytes, at + 17, at + 21..at + 12 + length);
            }
            What::Producers => put_big(bytes, at + 2, at + 6..bytes.len()),
            What::Standing(_) => {}
        }
    }
}

/// The checksum of these bytes at `at`, where there are so many.
fn put_little(bytes: &mut [u8], at: usize, of: Range<usize>) {
    if let Some(crc) = bytes.get(of).map(crc32c::crc32c) {
        bytes[at..at + 4].copy_from_slice(&crc.to_le_bytes());
    }
}

fn put_big(bytes: &mut [u8], at: usize, of: Range<usize>) {
    if let Some(crc) = bytes.get(of).map(crc32c::crc32c) {
        bytes[at..at + 4].copy_from_slice(&crc.to_be_bytes());
    }
}

/// What follows from a partition as it was read, sooner or later: the files beside its segments, and its next segment.
pub(in crate::store) fn build_on(view: &View, producers: &Producers) {
    for segment in &view.segments {
        drop(seal::indexes(segment, &view.aborted));
        assert!(segment.base < segment.next && segment.next <= view.high_watermark, "{segment:?}");
    }
    let start = |(epoch, start): &(_, _)| epochs::EpochStart { epoch: *epoch, start: *start };
    drop(epochs::encode(&view.epochs.iter().map(start).collect::<Vec<_>>()));
    drop(producer_snapshot::encode(&producers.snapshot()));
    assert!(view.start <= view.high_watermark && view.high_watermark.is_stored(), "{view:?}");
    assert!(view.epochs.last().is_none_or(|(epoch, _)| epoch.0 >= 0), "{view:?}");
}
