//! Packing records, for compaction: a batch that is written anew keeps its codec.

use std::io::Write;

use bytes::Bytes;

use super::Codec;

/// The default of the clients.
const ZSTD_LEVEL: i32 = 3;

impl Codec {
    /// The records section as this codec stores it, in the framing that Kafka's own clients write. Whether it may be
    /// unpacked again is the caller's to check: [`Codec::unpacked_bytes_max`].
    pub(in crate::record) fn pack(self, plain: &Bytes) -> Bytes {
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
            Codec::Zstd => Bytes::from(::zstd::stream::encode_all(&plain[..], ZSTD_LEVEL).expect(WRITES)),
        }
    }
}

/// The framing that Kafka's Java clients put around snappy blocks: this, a version and a compatible version (i32 each),
/// then blocks, each behind its length (i32).
const XERIAL_MAGIC: &[u8] = b"\x82SNAPPY\0";
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
