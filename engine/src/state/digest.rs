//! Hashes that never change: of keys (virtual shards) and of changes ([`Digest`]). Both are xxh3 over the encoded bytes.

use arrow::array::ArrayRef;
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

use super::encoding::Encoded;
use crate::delta::Delta;
use crate::error::Error;

/// Hash of an encoded key; the hash tables use the same.
pub fn hash(key: &[u8]) -> u64 {
    xxh3_64(key)
}

/// The virtual shard of a hash: bits that the hash tables use neither for the bucket nor for the tag.
pub fn shard(hash: u64) -> u8 {
    (hash >> 40) as u8
}

/// The virtual shard of each row of key columns: equal keys are in one shard, whatever batch they stand in.
pub fn shards(columns: &[ArrayRef], rows: usize) -> Result<Vec<u8>, Error> {
    Ok(Encoded::keys(columns, rows)?.iter().map(|key| shard(hash(key))).collect())
}

/// A sum of 128-bit row hashes, each times the row's weight, modulo 2^128: the same for equal changes, whatever their
/// order, their chunks, the worker count or the epochs they are spread over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Digest(pub u128);

impl Digest {
    pub fn of(delta: &Delta) -> Result<Self, Error> {
        let mut digest = Self::default();
        digest.add(delta)?;
        Ok(digest)
    }

    /// Adds the rows of `delta`.
    pub fn add(&mut self, delta: &Delta) -> Result<(), Error> {
        let rows = Encoded::rows(delta.rows.columns(), delta.len())?;
        for (index, row) in rows.iter().enumerate() {
            let weight = i128::from(delta.weight(index)) as u128;
            self.0 = self.0.wrapping_add(xxh3_128(row).wrapping_mul(weight));
        }
        Ok(())
    }

    /// Adds what another worker or epoch summed up.
    pub fn merge(&mut self, other: Digest) {
        self.0 = self.0.wrapping_add(other.0);
    }
}
