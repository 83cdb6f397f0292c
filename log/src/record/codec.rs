//! The four compression codecs of record batches, reading side: bounded, whatever the bytes claim.
//!
//! Unpacked records have a limit of their own ([`Codec::unpacked_bytes_max`]). Besides them no codec allocates more than
//! twice its input and 1 MiB: what a frame says of its window, its blocks or its content buys no memory. Memory for the
//! output grows with output that is really there: gzip and zstd write into a buffer that doubles when it is full; snappy
//! and lz4 blocks are walked first, which gives their length without unpacking them.

mod lz4;
mod pack;
mod snappy;
mod zstd;

use std::fmt;
use std::io::{self, Read};

use bytes::Bytes;

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

impl fmt::Display for Codec {
    /// As the topic option `compression.type` has it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        })
    }
}

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

    /// The most that `packed_bytes` may become.
    pub(super) fn unpacked_bytes_max(self, packed_bytes: usize) -> usize {
        match self {
            Codec::None => packed_bytes,
            _ => packed_bytes.saturating_mul(RATIO_MAX).clamp(UNPACKED_BYTES_FLOOR, UNPACKED_BYTES_MAX),
        }
    }

    /// The plain records section. Costs nothing for [`Codec::None`].
    pub fn unpack(self, packed: &Bytes) -> Result<Bytes, BatchError> {
        let limit = self.unpacked_bytes_max(packed.len());
        let mut out = match self {
            Codec::None => return Ok(packed.clone()),
            Codec::Gzip => unpack_gzip(packed, limit)?,
            Codec::Snappy => snappy::unpack(packed, limit)?,
            Codec::Lz4 => lz4::unpack(packed, limit)?,
            Codec::Zstd => zstd::unpack(packed, limit)?,
        };
        // What is handed on may be held for long.
        out.shrink_to_fit();
        Ok(Bytes::from(out))
    }
}

fn unpack_gzip(packed: &[u8], limit: usize) -> Result<Vec<u8>, BatchError> {
    let mut out = Vec::with_capacity(packed.len().min(limit));
    let reader = flate2::bufread::MultiGzDecoder::new(packed);
    reader.take(limit as u64 + 1).read_to_end(&mut out).map_err(BatchError::Decompress)?;
    if out.len() > limit { Err(BatchError::Expands { limit }) } else { Ok(out) }
}

/// `out` longer by `length` zero bytes, unless that passes the limit; returns where they begin.
fn extend(out: &mut Vec<u8>, length: usize, limit: usize) -> Result<usize, BatchError> {
    let start = out.len();
    if length > limit - start {
        return Err(BatchError::Expands { limit });
    }
    out.resize(start + length, 0);
    Ok(start)
}

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> BatchError {
    BatchError::Decompress(io::Error::new(io::ErrorKind::InvalidData, error))
}
