//! Snappy: raw blocks, and the framing that Kafka's Java clients put around them.
//!
//! ```text
//! framed: magic "\x82SNAPPY\0" · version i32 · compatible version i32 · blocks, each behind its length (i32)
//! block:  length of the plain bytes varint · elements
//! ```
//! Elements: google/snappy, `format_description.txt`.

use bytes::Buf;

use super::super::BatchError;
use super::{extend, invalid};

const MAGIC: &[u8] = b"\x82SNAPPY\0";
const HEADER: usize = MAGIC.len() + 8;

pub(super) fn unpack(packed: &[u8], limit: usize) -> Result<Vec<u8>, BatchError> {
    let mut out = Vec::new();
    if !packed.starts_with(MAGIC) {
        append_block(packed, limit, &mut out)?;
        return Ok(out);
    }
    let mut rest = packed.get(HEADER..).ok_or(BatchError::Malformed("snappy header ends early"))?;
    while !rest.is_empty() {
        if rest.len() < 4 {
            return Err(BatchError::Malformed("snappy block length ends early"));
        }
        let length = rest.get_u32() as usize;
        let block = rest.get(..length).ok_or(BatchError::Malformed("snappy block ends early"))?;
        append_block(block, limit, &mut out)?;
        rest.advance(length);
    }
    Ok(out)
}

/// A block claims how long it will be: nothing is allocated for a claim that its elements do not bear out.
fn append_block(block: &[u8], limit: usize, out: &mut Vec<u8>) -> Result<(), BatchError> {
    let claimed = snap::raw::decompress_len(block).map_err(invalid)?;
    if plain_length(block) != Some(claimed) {
        return Err(BatchError::Malformed("snappy block is not as long as it claims"));
    }
    let start = extend(out, claimed, limit)?;
    match snap::raw::Decoder::new().decompress(block, &mut out[start..]).map_err(invalid)? {
        written if written == claimed => Ok(()),
        _ => Err(BatchError::Malformed("snappy block is not as long as it claims")),
    }
}

/// The length of what the elements stand for; `None` where they end early.
fn plain_length(block: &[u8]) -> Option<usize> {
    let mut at = 1 + block.iter().position(|byte| byte & 0x80 == 0)?;
    let mut length = 0usize;
    while at < block.len() {
        let tag = usize::from(block[at]);
        let value = tag >> 2;
        at += 1;
        match tag & 3 {
            0 => {
                let wide = value.saturating_sub(59);
                let bytes = block.get(at..at + wide)?;
                let literal = match wide {
                    0 => value,
                    _ => bytes.iter().rev().fold(0, |number, byte| number << 8 | usize::from(*byte)),
                };
                at += wide + literal + 1;
                length += literal + 1;
            }
            1 => {
                at += 1;
                length += (value & 7) + 4;
            }
            2 => {
                at += 2;
                length += value + 1;
            }
            _ => {
                at += 4;
                length += value + 1;
            }
        }
    }
    (at == block.len()).then_some(length)
}
