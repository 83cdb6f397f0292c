//! LZ4 frames. The decoder of `lz4_flex` takes several mebibytes for a frame that merely names the largest block size,
//! which is the default of many clients: so frames are read here, blocks unpacked there.
//!
//! ```text
//! frame: magic u32 · flags u8 · block size u8 · [content size u64] · header checksum u8
//!        · blocks: size u32 (bit 31: stored as it is) · data · [checksum u32] · 0 u32 · [content checksum u32]
//! block: sequences of: token u8 (high half literals, low half match - 4) · [more literals] · literals
//!        · match offset u16 · [more match]; the last one ends behind its literals
//! ```
//! Source: lz4, `lz4_Frame_format.md` and `lz4_Block_format.md`; integers are little-endian. The checksums are not
//! looked at: the batch around the frame has one of its own.

use bytes::Buf;
use lz4_flex::block::{decompress_into, decompress_into_with_dict};

use super::super::BatchError;
use super::{extend, invalid};

const MAGIC: u32 = 0x184d_2204;
/// How far back a match may reach.
const WINDOW: usize = 64 << 10;
const STORED: u32 = 1 << 31;

mod flag {
    pub const VERSION: u8 = 0b1100_0000;
    pub const VERSION_1: u8 = 0b0100_0000;
    pub const INDEPENDENT: u8 = 1 << 5;
    pub const BLOCK_CHECKSUM: u8 = 1 << 4;
    pub const CONTENT_SIZE: u8 = 1 << 3;
    pub const CONTENT_CHECKSUM: u8 = 1 << 2;
    pub const DICTIONARY: u8 = 1;
}

/// Frames one behind the other, as clients that flush in between write them.
pub(super) fn unpack(mut packed: &[u8], limit: usize) -> Result<Vec<u8>, BatchError> {
    let mut out = Vec::new();
    while !packed.is_empty() {
        append_frame(&mut packed, limit, &mut out)?;
    }
    Ok(out)
}

fn append_frame(rest: &mut &[u8], limit: usize, out: &mut Vec<u8>) -> Result<(), BatchError> {
    let early = |_| BatchError::Malformed("lz4 frame ends early");
    if rest.try_get_u32_le().map_err(early)? != MAGIC {
        return Err(BatchError::Malformed("no lz4 frame"));
    }
    let flags = rest.try_get_u8().map_err(early)?;
    if flags & flag::VERSION != flag::VERSION_1 || flags & flag::DICTIONARY != 0 {
        return Err(BatchError::Malformed("lz4 frame of an unknown version or with a dictionary"));
    }
    let block_bytes_max = match rest.try_get_u8().map_err(early)? >> 4 & 7 {
        4 => 64 << 10,
        5 => 256 << 10,
        6 => 1 << 20,
        7 => 4 << 20,
        _ => return Err(BatchError::Malformed("lz4 frame with an unknown block size")),
    };
    let optional = |flag: u8, bytes: usize| if flags & flag != 0 { bytes } else { 0 };
    take(rest, optional(flag::CONTENT_SIZE, 8) + 1)?;
    let frame_start = out.len();
    loop {
        let size = rest.try_get_u32_le().map_err(early)?;
        if size == 0 {
            take(rest, optional(flag::CONTENT_CHECKSUM, 4))?;
            return Ok(());
        }
        let block = take(rest, (size & !STORED) as usize)?;
        take(rest, optional(flag::BLOCK_CHECKSUM, 4))?;
        let length = if size & STORED != 0 { Some(block.len()) } else { plain_length(block) };
        let wrong = BatchError::Malformed("lz4 block of a wrong length");
        let Some(length) = length.filter(|&length| length <= block_bytes_max) else { return Err(wrong) };
        let start = extend(out, length, limit)?;
        let (before, room) = out.split_at_mut(start);
        if size & STORED != 0 {
            room.copy_from_slice(block);
            continue;
        }
        let written = if flags & flag::INDEPENDENT != 0 {
            decompress_into(block, room)
        } else {
            decompress_into_with_dict(block, room, &before[frame_start.max(start.saturating_sub(WINDOW))..])
        };
        if written.map_err(invalid)? != length {
            return Err(wrong);
        }
    }
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Result<&'a [u8], BatchError> {
    rest.split_off(..length).ok_or(BatchError::Malformed("lz4 frame ends early"))
}

/// The length of what the sequences stand for; `None` where they end early.
fn plain_length(block: &[u8]) -> Option<usize> {
    let (mut at, mut length) = (0, 0usize);
    loop {
        let token = *block.get(at)?;
        at += 1;
        let literals = extended(token >> 4, block, &mut at)?;
        at += literals;
        length += literals;
        if at >= block.len() {
            return (at == block.len()).then_some(length);
        }
        at += 2;
        length += extended(token & 15, block, &mut at)? + 4;
    }
}

/// A length of which `half` is the beginning: 15 goes on in bytes up to the first that is not 255.
fn extended(half: u8, block: &[u8], at: &mut usize) -> Option<usize> {
    let mut length = usize::from(half);
    while length >= 15 {
        let byte = *block.get(*at)?;
        *at += 1;
        length += usize::from(byte);
        if byte != 255 {
            break;
        }
    }
    Some(length)
}
