//! Frames out of a stream of bytes: a length (i32), then as many bytes. The length is bounded before it is believed.

use bytes::{Buf, Bytes, BytesMut};

/// Frames up to this are copied out of the read buffer, so that a few bytes that live on do not keep it all alive.
const COPIED_MAX: usize = 4 << 10;
/// Room that is made for a read.
const READ_MIN: usize = 16 << 10;
/// Room made at once for a frame of which nothing has come yet; beyond that the buffer grows with what comes.
const TRUSTED: usize = 256 << 10;

/// A frame that is longer than allowed, or of a negative length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a frame of {length} bytes, allowed are {limit}")]
pub struct BadLength {
    pub length: i32,
    pub limit: usize,
}

/// Cuts frames; whoever does the IO reads into [`FrameReader::room`].
pub struct FrameReader {
    buffer: BytesMut,
    limit: usize,
}

impl FrameReader {
    /// `limit`: bytes of the largest frame.
    pub fn new(limit: usize) -> FrameReader {
        FrameReader { buffer: BytesMut::new(), limit }
    }

    /// The next whole frame, without its length; `None` when more must be read.
    pub fn next_frame(&mut self) -> Result<Option<Bytes>, BadLength> {
        let Some(length) = self.length()? else { return Ok(None) };
        if self.buffer.len() - 4 < length {
            return Ok(None);
        }
        self.buffer.advance(4);
        let frame = self.buffer.split_to(length);
        Ok(Some(if length <= COPIED_MAX { Bytes::copy_from_slice(&frame) } else { frame.freeze() }))
    }

    /// Length of the frame at the front, as soon as it is known.
    pub fn length(&self) -> Result<Option<usize>, BadLength> {
        let Some(bytes) = self.buffer.first_chunk::<4>() else { return Ok(None) };
        let length = i32::from_be_bytes(*bytes);
        match usize::try_from(length) {
            Ok(size) if size <= self.limit => Ok(Some(size)),
            _ => Err(BadLength { length, limit: self.limit }),
        }
    }

    /// The buffer to append to, with room for the rest of the frame as far as that is earned.
    pub fn room(&mut self) -> &mut BytesMut {
        let whole = self.length().ok().flatten().unwrap_or(0) + 4;
        let missing = whole.saturating_sub(self.buffer.len());
        self.buffer.reserve(missing.min(self.buffer.len().max(TRUSTED)).max(READ_MIN));
        &mut self.buffer
    }

    /// Whether the frame at the front is all there.
    pub fn is_whole(&self) -> bool {
        self.length().is_ok_and(|length| length.is_some_and(|length| self.buffer.len() - 4 >= length))
    }
}
