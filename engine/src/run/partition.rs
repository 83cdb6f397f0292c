//! Which partition of a topic a record goes to: where Kafka's own clients would put it.

/// Records by the partition their key belongs to, as Kafka's clients place them; null keys go to the first.
pub fn by_key(records: Vec<log::NewRecord>, partitions: usize) -> Vec<(usize, Vec<log::NewRecord>)> {
    if partitions == 1 {
        return if records.is_empty() { Vec::new() } else { vec![(0, records)] };
    }
    let mut parted = vec![Vec::new(); partitions];
    for record in records {
        let hash = record.key.as_deref().map_or(0, murmur2) & 0x7fff_ffff;
        parted[hash as usize % partitions].push(record);
    }
    parted.into_iter().enumerate().filter(|(_, records)| !records.is_empty()).collect()
}

/// Kafka's partitioning hash: MurmurHash2 (Austin Appleby), 32 bits, seed 0x9747b28c, little endian.
fn murmur2(data: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let mut hash = 0x9747_b28c ^ u32::try_from(data.len()).unwrap_or(u32::MAX);
    let (words, rest) = data.as_chunks::<4>();
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(M);
        k = (k ^ (k >> 24)).wrapping_mul(M);
        hash = hash.wrapping_mul(M) ^ k;
    }
    if !rest.is_empty() {
        let last = rest.iter().rev().fold(0, |word, byte| word << 8 | u32::from(*byte));
        hash = (hash ^ last).wrapping_mul(M);
    }
    hash = (hash ^ (hash >> 13)).wrapping_mul(M);
    hash ^ (hash >> 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values of the Java client (`Utils.murmur2`).
    #[test]
    fn keys_go_where_kafka_clients_put_them() {
        for (key, hash) in [("21", -973932308i32), ("foobar", -790332482), ("a-little-bit-long-string", -985981536)] {
            assert_eq!(murmur2(key.as_bytes()) as i32, hash);
        }
    }
}
