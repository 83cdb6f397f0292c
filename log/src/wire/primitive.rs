//! The primitive types of the protocol, and the [`Reader`] and [`Writer`] they go through.
//!
//! From its flexible version on, a message writes lengths as unsigned varints of n + 1 (0 is null) and ends every
//! structure with tagged fields; before, lengths are i16 (strings) or i32 (arrays, bytes) and -1 is null.

use std::borrow::Cow;
use std::collections::VecDeque;

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Version of a message, and whether its encoding is the flexible one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form {
    pub version: i16,
    pub flexible: bool,
}

/// A frame that is not the message it should be. The connection ends: nothing behind it can be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("the message ends early")]
    Truncated,
    #[error("{0} bytes are left over behind a value")]
    LeftOver(usize),
    #[error("a length that is negative or too large")]
    Length,
    #[error("a null where none is allowed")]
    Null,
    #[error("a variable length integer of more than 32 bits")]
    Varint,
    #[error("the arrays of the message take more memory than its size allows")]
    Memory,
}

/// A value that goes over the wire.
pub trait Wire: Sized {
    /// The least bytes a value takes in this form: bounds how many there can be in what is left.
    fn size_min(form: Form) -> usize;
    fn decode(from: &mut Reader, form: Form) -> Result<Self, DecodeError>;
    fn encode(&self, to: &mut Writer, form: Form);
    /// Whether this is the null of a nullable type.
    fn is_null(&self) -> bool {
        false
    }
}

/// The id of a topic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Uuid(pub [u8; 16]);

/// A string as it came, not yet proved to be UTF-8: it is often only sent back.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Str(pub Bytes);

impl Str {
    /// What is not UTF-8 is replaced, so that it equals no name there is.
    pub fn text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.0)
    }
}

impl From<&str> for Str {
    fn from(text: &str) -> Str {
        Str(Bytes::copy_from_slice(text.as_bytes()))
    }
}

impl From<String> for Str {
    fn from(text: String) -> Str {
        Str(Bytes::from(text))
    }
}

impl std::fmt::Debug for Str {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.text())
    }
}

/// Reads one message out of a frame. Strings and records are slices of the frame; arrays are paid for from a budget of
/// twice the frame and [`MEMORY_FREE`], before they are allocated.
pub struct Reader {
    bytes: Bytes,
    memory: usize,
}

/// Bytes of arrays that any message may hold, however short it is.
const MEMORY_FREE: usize = 1 << 20;

impl Reader {
    pub fn new(frame: Bytes) -> Reader {
        let memory = frame.len().saturating_mul(2).saturating_add(MEMORY_FREE);
        Reader { bytes: frame, memory }
    }

    /// All must have been read.
    pub fn finish(self) -> Result<(), DecodeError> {
        if self.bytes.is_empty() { Ok(()) } else { Err(DecodeError::LeftOver(self.bytes.len())) }
    }

    pub fn take(&mut self, length: usize) -> Result<Bytes, DecodeError> {
        if length > self.bytes.len() { Err(DecodeError::Truncated) } else { Ok(self.bytes.split_to(length)) }
    }

    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let value = *self.bytes.first_chunk::<N>().ok_or(DecodeError::Truncated)?;
        self.bytes.advance(N);
        Ok(value)
    }

    pub fn uvarint(&mut self) -> Result<u32, DecodeError> {
        let mut value = 0u32;
        for shift in (0..35).step_by(7) {
            let [byte] = self.fixed::<1>()?;
            if shift == 28 && byte > 0x0f {
                return Err(DecodeError::Varint);
            }
            value |= u32::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(DecodeError::Varint)
    }

    /// A length of the flexible form, or of the older one as `old` reads it. `None` is null.
    fn length(
        &mut self,
        form: Form,
        old: impl Fn(&mut Reader) -> Result<i32, DecodeError>,
    ) -> Result<Option<usize>, DecodeError> {
        let length = if form.flexible { i64::from(self.uvarint()?) - 1 } else { i64::from(old(self)?) };
        match length {
            -1 => Ok(None),
            length => Ok(Some(usize::try_from(length).map_err(|_| DecodeError::Length)?)),
        }
    }

    fn array<T: Wire>(&mut self, form: Form) -> Result<Option<Vec<T>>, DecodeError> {
        let Some(count) = self.length(form, |from| i32::decode(from, form))? else { return Ok(None) };
        if count > self.bytes.len() / T::size_min(form).max(1) {
            return Err(DecodeError::Truncated);
        }
        let cost = count * size_of::<T>();
        self.memory = self.memory.checked_sub(cost).ok_or(DecodeError::Memory)?;
        let mut items = Vec::with_capacity(count);
        for _ in 0..count {
            items.push(T::decode(self, form)?);
        }
        Ok(Some(items))
    }

    /// Tagged fields: `known` reads those it knows from a reader of just that field; others are passed over.
    pub fn tagged(
        &mut self,
        mut known: impl FnMut(u32, &mut Reader) -> Result<bool, DecodeError>,
    ) -> Result<(), DecodeError> {
        for _ in 0..self.uvarint()? {
            let tag = self.uvarint()?;
            let length = self.uvarint()? as usize;
            let mut field = Reader { bytes: self.take(length)?, memory: self.memory };
            if known(tag, &mut field)? {
                self.memory = field.memory;
                field.finish()?;
            }
        }
        Ok(())
    }
}

/// Gathers one frame: small fields are copied into owned segments, records are shared with whoever holds them.
#[derive(Default)]
pub struct Writer {
    done: VecDeque<Segment>,
    open: BytesMut,
}

enum Segment {
    Owned(BytesMut),
    Shared(Bytes),
}

/// Records shorter than this are copied: a slice of its own costs more.
const SHARED_MIN: usize = 512;

impl Writer {
    pub fn uvarint(&mut self, mut value: u32) {
        while value >= 0x80 {
            self.open.put_u8(value as u8 | 0x80);
            value >>= 7;
        }
        self.open.put_u8(value as u8);
    }

    pub fn put(&mut self, bytes: &[u8]) {
        self.open.extend_from_slice(bytes);
    }

    /// Appends `bytes` without a copy, where it is worth it.
    pub fn share(&mut self, bytes: &Bytes) {
        if bytes.len() < SHARED_MIN {
            return self.put(bytes);
        }
        if !self.open.is_empty() {
            self.done.push_back(Segment::Owned(self.open.split()));
        }
        self.done.push_back(Segment::Shared(bytes.clone()));
    }

    fn array_length(&mut self, form: Form, length: Option<usize>) {
        match (form.flexible, length) {
            (true, length) => self.uvarint(length.map_or(0, |length| wire_length(length) as u32 + 1)),
            (false, length) => self.open.put_i32(length.map_or(-1, wire_length)),
        }
    }

    fn string_length(&mut self, form: Form, length: Option<usize>) {
        match (form.flexible, length) {
            (true, _) => self.array_length(form, length),
            (false, length) => {
                self.open.put_i16(length.map_or(-1, |length| {
                    i16::try_from(length).expect("names and messages we send are shorter than 32 KiB")
                }));
            }
        }
    }

    /// One tagged field.
    pub fn tagged(&mut self, tag: u32, write: impl FnOnce(&mut Writer)) {
        let mut field = Writer::default();
        write(&mut field);
        assert!(field.done.is_empty(), "no tagged field holds records");
        self.uvarint(tag);
        self.uvarint(wire_length(field.open.len()) as u32);
        self.put(&field.open);
    }

    /// The frame: what was written behind its length.
    pub fn into_frame(mut self) -> Segments {
        self.done.push_back(Segment::Owned(self.open));
        let mut segments = VecDeque::with_capacity(self.done.len() + 1);
        let mut size = 0;
        for segment in self.done {
            let bytes = match segment {
                Segment::Owned(bytes) => bytes.freeze(),
                Segment::Shared(bytes) => bytes,
            };
            size += bytes.len();
            segments.push_back(bytes);
        }
        segments.push_front(Bytes::copy_from_slice(&wire_length(size).to_be_bytes()));
        Segments { segments, size: size + 4 }
    }
}

fn wire_length(length: usize) -> i32 {
    i32::try_from(length).expect("handlers bound what they answer well below 2 GiB")
}

/// Frames ready to be sent with vectored writes.
#[derive(Default)]
pub struct Segments {
    segments: VecDeque<Bytes>,
    size: usize,
}

impl Segments {
    /// Adds another frame behind this one.
    pub fn append(&mut self, mut other: Segments) {
        self.size += other.size;
        self.segments.append(&mut other.segments);
    }
}

impl Buf for Segments {
    fn remaining(&self) -> usize {
        self.size
    }

    fn chunk(&self) -> &[u8] {
        self.segments.front().map_or(&[], |bytes| &bytes[..])
    }

    fn chunks_vectored<'a>(&'a self, to: &mut [std::io::IoSlice<'a>]) -> usize {
        let filled = to.len().min(self.segments.len());
        for (slot, bytes) in to.iter_mut().zip(&self.segments) {
            *slot = std::io::IoSlice::new(bytes);
        }
        filled
    }

    fn advance(&mut self, mut count: usize) {
        assert!(count <= self.size, "no more is sent than there is");
        self.size -= count;
        while let Some(front) = self.segments.front_mut() {
            if count < front.len() {
                front.advance(count);
                return;
            }
            count -= front.len();
            self.segments.pop_front();
        }
    }
}

macro_rules! integers {
    ($($type:ty),*) => {
        $(impl Wire for $type {
            fn size_min(_: Form) -> usize {
                size_of::<$type>()
            }
            fn decode(from: &mut Reader, _: Form) -> Result<Self, DecodeError> {
                from.fixed().map(<$type>::from_be_bytes)
            }
            fn encode(&self, to: &mut Writer, _: Form) {
                to.put(&self.to_be_bytes());
            }
        })*
    };
}
integers!(i8, i16, i32, i64);

impl Wire for bool {
    fn size_min(_: Form) -> usize {
        1
    }
    fn decode(from: &mut Reader, _: Form) -> Result<Self, DecodeError> {
        from.fixed::<1>().map(|[byte]| byte != 0)
    }
    fn encode(&self, to: &mut Writer, _: Form) {
        to.put(&[u8::from(*self)]);
    }
}

impl Wire for Uuid {
    fn size_min(_: Form) -> usize {
        16
    }
    fn decode(from: &mut Reader, _: Form) -> Result<Self, DecodeError> {
        from.fixed().map(Uuid)
    }
    fn encode(&self, to: &mut Writer, _: Form) {
        to.put(&self.0);
    }
}

impl Wire for Option<Str> {
    fn size_min(form: Form) -> usize {
        if form.flexible { 1 } else { 2 }
    }
    fn decode(from: &mut Reader, form: Form) -> Result<Self, DecodeError> {
        let length = from.length(form, |from| i16::decode(from, form).map(i32::from))?;
        length.map(|length| from.take(length).map(Str)).transpose()
    }
    fn encode(&self, to: &mut Writer, form: Form) {
        to.string_length(form, self.as_ref().map(|text| text.0.len()));
        to.put(self.as_ref().map_or(&[], |text| &text.0[..]));
    }
    fn is_null(&self) -> bool {
        self.is_none()
    }
}

impl Wire for Str {
    fn size_min(form: Form) -> usize {
        Option::<Str>::size_min(form)
    }
    fn decode(from: &mut Reader, form: Form) -> Result<Self, DecodeError> {
        Option::decode(from, form)?.ok_or(DecodeError::Null)
    }
    fn encode(&self, to: &mut Writer, form: Form) {
        to.string_length(form, Some(self.0.len()));
        to.put(&self.0);
    }
}

impl<T: Wire> Wire for Option<Vec<T>> {
    fn size_min(form: Form) -> usize {
        if form.flexible { 1 } else { 4 }
    }
    fn decode(from: &mut Reader, form: Form) -> Result<Self, DecodeError> {
        from.array(form)
    }
    fn encode(&self, to: &mut Writer, form: Form) {
        to.array_length(form, self.as_ref().map(Vec::len));
        self.iter().flatten().for_each(|item| item.encode(to, form));
    }
    fn is_null(&self) -> bool {
        self.is_none()
    }
}

impl<T: Wire> Wire for Vec<T> {
    fn size_min(form: Form) -> usize {
        Option::<Vec<T>>::size_min(form)
    }
    fn decode(from: &mut Reader, form: Form) -> Result<Self, DecodeError> {
        from.array(form)?.ok_or(DecodeError::Null)
    }
    fn encode(&self, to: &mut Writer, form: Form) {
        to.array_length(form, Some(self.len()));
        self.iter().for_each(|item| item.encode(to, form));
    }
}

/// Records of a request: whatever bytes they are, a slice of the frame.
impl Wire for Option<Bytes> {
    fn size_min(form: Form) -> usize {
        if form.flexible { 1 } else { 4 }
    }
    fn decode(from: &mut Reader, form: Form) -> Result<Self, DecodeError> {
        let length = from.length(form, |from| i32::decode(from, form))?;
        length.map(|length| from.take(length)).transpose()
    }
    fn encode(&self, to: &mut Writer, form: Form) {
        to.array_length(form, self.as_ref().map(Bytes::len));
        if let Some(bytes) = self {
            to.share(bytes);
        }
    }
    fn is_null(&self) -> bool {
        self.is_none()
    }
}

/// Records of an answer: pieces that are sent one behind the other, large ones without a copy.
#[derive(Clone, Debug, Default)]
pub struct Records {
    pieces: Vec<Bytes>,
    size: usize,
}

impl Records {
    pub fn push(&mut self, piece: Bytes) {
        self.size += piece.len();
        self.pieces.push(piece);
    }

    /// Bytes of all pieces.
    pub fn size(&self) -> usize {
        self.size
    }
}

/// However they are cut into pieces.
impl PartialEq for Records {
    fn eq(&self, other: &Records) -> bool {
        self.pieces.iter().flatten().eq(other.pieces.iter().flatten())
    }
}

impl Wire for Records {
    fn size_min(form: Form) -> usize {
        Option::<Bytes>::size_min(form)
    }
    fn decode(from: &mut Reader, form: Form) -> Result<Self, DecodeError> {
        let mut records = Records::default();
        if let Some(bytes) = Option::<Bytes>::decode(from, form)? {
            records.push(bytes);
        }
        Ok(records)
    }
    fn encode(&self, to: &mut Writer, form: Form) {
        to.array_length(form, Some(self.size));
        self.pieces.iter().for_each(|piece| to.share(piece));
    }
}
