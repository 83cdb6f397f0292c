//! The four compression codecs of record batches. Reading is bounded, whatever the bytes claim; only compaction packs.

use std::io::{self, Read, Write};

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
/// The default of the clients.
const ZSTD_LEVEL: i32 = 3;

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
        let limit = unpacked_bytes_max(packed.len());
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

    /// The records section as this codec stores it, in the framing that Kafka's own clients write. Whether it may be
    /// unpacked again is the caller's to check: [`unpacked_bytes_max`].
    pub(super) fn pack(self, plain: &Bytes) -> Bytes {
        const WRITES: &str = "memory takes what is written";
        match self {
            Codec::None => plain.clone(),
            Codec::Gzip => {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
                encoder.write_all(plain).expect(WRITES);
                Bytes::from(encoder.finish().expect(WRITES))
            }
            Codec::Snappy => pack_snappy(plain),
            Codec::Lz4 => {
                let mut encoder = lz4_flex::frame::FrameEncoder::new(Vec::new());
                encoder.write_all(plain).expect(WRITES);
                Bytes::from(encoder.finish().expect(WRITES))
            }
            Codec::Zstd => Bytes::from(zstd::stream::encode_all(&plain[..], ZSTD_LEVEL).expect(WRITES)),
        }
    }
}

/// Bytes that `packed` bytes may be unpacked to.
pub(super) fn unpacked_bytes_max(packed: usize) -> usize {
    packed.saturating_mul(RATIO_MAX).clamp(UNPACKED_BYTES_FLOOR, UNPACKED_BYTES_MAX)
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
/// Bytes of a block before it is packed, as the Java library cuts them.
const XERIAL_BLOCK: usize = 32 << 10;

fn pack_snappy(plain: &[u8]) -> Bytes {
    let mut out = XERIAL_MAGIC.to_vec();
    for version in [1u32, 1] {
        out.extend_from_slice(&version.to_be_bytes());
    }
    let mut encoder = snap::raw::Encoder::new();
    for block in plain.chunks(XERIAL_BLOCK) {
        let packed = encoder.compress_vec(block).expect("a block is far below snappy's limit");
        out.extend_from_slice(&(packed.len() as u32).to_be_bytes());
        out.extend_from_slice(&packed);
    }
    Bytes::from(out)
}

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
