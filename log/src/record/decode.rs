//! Reading the records of a batch: no copy of a plain one, one bounded unpacking otherwise.
//!
//! ```text
//! record:  length varint · attributes i8 · timestamp delta varlong · offset delta varint
//!          · key length varint (-1: null) · key · value length varint (-1: null) · value · headers
//! headers: count varint · each: key length varint · key · value length varint (-1: null) · value
//! ```

use bytes::Bytes;

use super::{Batch, BatchError, Header, Offset, RecordView, varint};

impl Batch {
    /// The records in order. A control batch gives its marker as a record; see [`Batch::marker`].
    pub fn records(&self) -> Result<Records, BatchError> {
        Ok(Records::of_plain(self, self.codec()?.unpack(&self.body)?, self.record_count()))
    }
}

/// Length, attributes, timestamp, offset, key length, value length and header count: a byte each.
pub(super) const RECORD_BYTES_MIN: usize = 7;

/// Iterator over the records of one batch. An error ends it; bytes left over behind the last record are one too.
#[derive(Clone, Debug)]
pub struct Records {
    plain: Bytes,
    at: usize,
    index: u32,
    count: u32,
    base_offset: i64,
    base_timestamp_ms: i64,
    append_time_ms: Option<i64>,
}

impl Iterator for Records {
    type Item = Result<RecordView, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.index == self.count {
            let over = self.at < self.plain.len();
            self.at = self.plain.len();
            return over.then_some(Err(BatchError::Malformed("bytes behind the last record")));
        }
        let item = self.next_parts().map(|parts| RecordView {
            offset: Offset(self.base_offset.wrapping_add(i64::from(parts.offset_delta))),
            timestamp_ms: self.timestamp_ms(&parts),
            key: parts.key.map(|(from, to)| self.plain.slice(from..to)),
            value: parts.value.map(|(from, to)| self.plain.slice(from..to)),
            headers: self.plain.slice(parts.headers.0..parts.headers.1),
        });
        if item.is_err() {
            self.stop();
        }
        Some(item)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = (self.count - self.index) as usize;
        // Whatever the count claims.
        (left.min((self.plain.len() - self.at) / RECORD_BYTES_MIN), Some(left + 1))
    }
}

/// One record as ranges of the plain section.
pub(super) struct Parts {
    /// Where it begins, with its length; its timestamp delta, behind one byte of attributes; its offset delta.
    pub start: usize,
    pub timestamp_at: usize,
    pub offset_at: usize,
    pub offset_delta: i32,
    pub timestamp_delta_ms: i64,
    pub key: Option<(usize, usize)>,
    pub value: Option<(usize, usize)>,
    pub headers: (usize, usize),
}

impl Records {
    /// `count` records of `batch`, not packed.
    pub(super) fn of_plain(batch: &Batch, plain: Bytes, count: u32) -> Records {
        Records {
            plain,
            at: 0,
            index: 0,
            count,
            base_offset: batch.base_offset().0,
            base_timestamp_ms: batch.base_timestamp_ms(),
            append_time_ms: batch.is_log_append_time().then(|| batch.max_timestamp_ms()),
        }
    }

    pub(super) fn plain(&self) -> &Bytes {
        &self.plain
    }

    /// As [`Iterator::next`] without making slices; the caller has seen that a record is left.
    pub(super) fn next_parts(&mut self) -> Result<Parts, BatchError> {
        let index = self.index;
        let bad = |reason| BatchError::Record { index, reason };
        let bytes = &self.plain[..];
        let start = self.at;
        let mut at = start;
        let length = varint::get_i32(bytes, &mut at).ok_or(bad("the length cannot be read"))?;
        let length = usize::try_from(length).map_err(|_| bad("negative length"))?;
        if length > bytes.len() - at {
            return Err(bad("it is longer than what is left of the batch"));
        }
        let end = at + length;
        let bytes = &bytes[..end];
        at += 1; // attributes: none are defined
        let timestamp_at = at;
        let timestamp_delta_ms = varint::get(bytes, &mut at).ok_or(bad("the timestamp cannot be read"))?;
        let offset_at = at;
        let offset_delta = varint::get_i32(bytes, &mut at).ok_or(bad("the offset cannot be read"))?;
        let key = nullable(bytes, &mut at).ok_or(bad("the key cannot be read"))?;
        let value = nullable(bytes, &mut at).ok_or(bad("the value cannot be read"))?;
        self.at = end;
        self.index += 1;
        let headers = (at, end);
        Ok(Parts { start, timestamp_at, offset_at, offset_delta, timestamp_delta_ms, key, value, headers })
    }

    pub(super) fn timestamp_ms(&self, parts: &Parts) -> i64 {
        self.append_time_ms.unwrap_or_else(|| self.base_timestamp_ms.wrapping_add(parts.timestamp_delta_ms))
    }

    pub(super) fn bytes(&self, (from, to): (usize, usize)) -> &[u8] {
        &self.plain[from..to]
    }

    /// The record behind the last one read, from 0.
    pub(super) fn index(&self) -> u32 {
        self.index
    }

    pub(super) fn has_more(&self) -> bool {
        self.index < self.count
    }

    pub(super) fn at_end(&self) -> bool {
        self.at == self.plain.len()
    }

    fn stop(&mut self) {
        self.index = self.count;
        self.at = self.plain.len();
    }
}

/// A length and as many bytes; a length of -1 is null. The outer `None`: malformed.
fn nullable(bytes: &[u8], at: &mut usize) -> Option<Option<(usize, usize)>> {
    let length = varint::get_i32(bytes, at)?;
    if length == -1 {
        return Some(None);
    }
    let length = usize::try_from(length).ok()?;
    if length > bytes.len() - *at {
        return None;
    }
    let from = *at;
    *at += length;
    Some(Some((from, *at)))
}

impl RecordView {
    /// The headers in order, keys that repeat included.
    pub fn headers(&self) -> Result<Vec<Header>, BatchError> {
        let mut headers = Vec::new();
        each_header(&self.headers, |key, value| {
            headers.push(Header {
                key: self.headers.slice(key.0..key.1),
                value: value.map(|(from, to)| self.headers.slice(from..to)),
            });
        })
        .ok_or(BatchError::Malformed("the headers of a record cannot be read"))?;
        Ok(headers)
    }

    /// The value of the first header of that name; `None` too where the headers cannot be read.
    pub fn header(&self, name: &str) -> Option<Bytes> {
        let mut found = None;
        each_header(&self.headers, |key, value| {
            if found.is_none() && self.headers[key.0..key.1] == *name.as_bytes() {
                found = Some(value);
            }
        })?;
        found.flatten().map(|(from, to)| self.headers.slice(from..to))
    }
}

type Range = (usize, usize);

/// Calls `each` with the range of every header's key and value; `None` when the section is not well formed.
pub(super) fn each_header(section: &[u8], mut each: impl FnMut(Range, Option<Range>)) -> Option<()> {
    let mut at = 0;
    let count = varint::get_i32(section, &mut at).filter(|&count| count >= 0)?;
    for _ in 0..count {
        let key = nullable(section, &mut at)??;
        let value = nullable(section, &mut at)?;
        each(key, value);
    }
    (at == section.len()).then_some(())
}
