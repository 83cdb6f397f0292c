//! The four compression codecs of record batches, reading side: bounded, whatever the bytes claim.

use std::io::{self, Read};

use bytes::{Buf, Bytes};

use super::BatchError;

/// How the records section of a batch is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    None,
    Gzip,
    Snappy,
    Lz4,
    Zstd,
}

/// No batch is unpacked to more than this.
pub const UNPACKED_BYTES_MAX: usize = 64 << 20;
/// Nor to more than this many times its size …
const RATIO_MAX: usize = 100;
/// … where that allows less than this: a producer that packs one default batch (1 MB) of like records gets ratios in
/// the thousands honestly.
const UNPACKED_BYTES_FLOOR: usize = 4 << 20;

impl Codec {
    /// From bits 0 to 2 of a batch's attributes.
    pub(super) fn from_attributes(attributes: i16) -> Result<Codec, BatchError> {
        match attributes & 7 {
            0 => Ok(Codec::None),
            1 => Ok(Codec::Gzip),
            2 => Ok(Codec::Snappy),
            3 => Ok(Codec::Lz4),
            4 => Ok(Codec::Zstd),
            other => Err(BatchError::Codec(other)),
        }
    }

    /// The plain records section. Costs nothing for [`Codec::None`].
    pub fn unpack(self, packed: &Bytes) -> Result<Bytes, BatchError> {
        let limit = (packed.len().saturating_mul(RATIO_MAX)).clamp(UNPACKED_BYTES_FLOOR, UNPACKED_BYTES_MAX);
        match self {
            Codec::None => Ok(packed.clone()),
            Codec::Gzip => drain(flate2::bufread::MultiGzDecoder::new(&packed[..]), packed.len(), limit),
            Codec::Snappy => unpack_snappy(packed, limit),
            Codec::Lz4 => drain(lz4_flex::frame::FrameDecoder::new(&packed[..]), packed.len(), limit),
            Codec::Zstd => {
                let decoder = zstd::stream::read::Decoder::with_buffer(&packed[..]).map_err(BatchError::Decompress)?;
                drain(decoder, packed.len(), limit)
            }
        }
    }
}

/// Reads to the end; the buffer grows with what really comes.
fn drain(reader: impl Read, packed: usize, limit: usize) -> Result<Bytes, BatchError> {
    let mut out = Vec::with_capacity(packed.saturating_mul(4).min(limit));
    reader.take(limit as u64 + 1).read_to_end(&mut out).map_err(BatchError::Decompress)?;
    if out.len() > limit { Err(BatchError::Expands { limit }) } else { Ok(Bytes::from(out)) }
}

/// The framing that Kafka's Java clients put around snappy blocks: this, a version and a compatible version (i32 each),
/// then blocks, each behind its length (i32).
const XERIAL_MAGIC: &[u8] = b"\x82SNAPPY\0";
const XERIAL_HEADER: usize = XERIAL_MAGIC.len() + 8;

fn unpack_snappy(packed: &[u8], limit: usize) -> Result<Bytes, BatchError> {
    let mut out = Vec::new();
    if !packed.starts_with(XERIAL_MAGIC) {
        append_snappy_block(packed, limit, &mut out)?;
        return Ok(Bytes::from(out));
    }
    let mut rest = packed.get(XERIAL_HEADER..).ok_or(BatchError::Malformed("snappy header ends early"))?;
    while !rest.is_empty() {
        if rest.len() < 4 {
            return Err(BatchError::Malformed("snappy block length ends early"));
        }
        let length = rest.get_u32() as usize;
        let block = rest.get(..length).ok_or(BatchError::Malformed("snappy block ends early"))?;
        append_snappy_block(block, limit, &mut out)?;
        rest.advance(length);
    }
    Ok(Bytes::from(out))
}

/// A block says how long it will be; snappy cannot pack tighter than 64 bytes into 3, so a longer claim is a lie and is
/// refused before anything is allocated for it.
fn append_snappy_block(block: &[u8], limit: usize, out: &mut Vec<u8>) -> Result<(), BatchError> {
    let bad = |error: snap::Error| BatchError::Decompress(io::Error::new(io::ErrorKind::InvalidData, error));
    let length = snap::raw::decompress_len(block).map_err(bad)?;
    if length > block.len().saturating_mul(64) {
        return Err(BatchError::Malformed("snappy block claims more than it can hold"));
    }
    if length > limit - out.len() {
        return Err(BatchError::Expands { limit });
    }
    let start = out.len();
    out.resize(start + length, 0);
    let written = snap::raw::Decoder::new().decompress(block, &mut out[start..]).map_err(bad)?;
    if written == length { Ok(()) } else { Err(BatchError::Malformed("snappy block is shorter than it claims")) }
}
