//! The records of `__transaction_state`, as Kafka's `TransactionLogKey` and `TransactionLogValue`, version 0.
//!
//! ```text
//! key    version i16 = 0 · transactional id string
//! value  version i16 = 0 · producer id i64 · producer epoch i16 · timeout ms i32 · status i8
//!        · topics i32 (-1: null) × { name string · partitions i32 × i32 } · last update ms i64 · start ms i64
//! string length i16 · UTF-8
//! ```

use bytes::{Buf, BufMut, Bytes};

/// Kafka's numbers of a transaction's status; those that are written here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    Empty = 0,
    PrepareCommit = 2,
    CompleteCommit = 4,
    CompleteAbort = 5,
}

/// One transactional id as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TransactionState {
    pub producer_id: i64,
    pub epoch: i16,
    pub timeout_ms: i32,
    pub status: Status,
    /// Topic names with partition numbers; only while a decision is being carried out.
    pub partitions: Vec<(String, Vec<i32>)>,
    pub updated_ms: i64,
    pub started_ms: i64,
}

pub(crate) fn encode_key(transactional_id: &str) -> Bytes {
    let mut out = Vec::with_capacity(4 + transactional_id.len());
    out.put_i16(0);
    put_string(&mut out, transactional_id);
    out.into()
}

/// `None` when these bytes are no key of this version.
pub(crate) fn decode_key(mut bytes: &[u8]) -> Option<String> {
    if get(&mut bytes, 2)?.get_i16() != 0 {
        return None;
    }
    let id = get_string(&mut bytes)?;
    bytes.is_empty().then_some(id)
}

impl TransactionState {
    pub fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(64);
        out.put_i16(0);
        out.put_i64(self.producer_id);
        out.put_i16(self.epoch);
        out.put_i32(self.timeout_ms);
        out.put_i8(self.status as i8);
        if self.partitions.is_empty() {
            out.put_i32(-1);
        } else {
            out.put_i32(self.partitions.len() as i32);
            for (topic, partitions) in &self.partitions {
                put_string(&mut out, topic);
                out.put_i32(partitions.len() as i32);
                partitions.iter().for_each(|partition| out.put_i32(*partition));
            }
        }
        out.put_i64(self.updated_ms);
        out.put_i64(self.started_ms);
        out.into()
    }

    /// `None` when these bytes are no value of this version.
    pub fn decode(mut bytes: &[u8]) -> Option<TransactionState> {
        let bytes = &mut bytes;
        if get(bytes, 2)?.get_i16() != 0 {
            return None;
        }
        let producer_id = get(bytes, 8)?.get_i64();
        let epoch = get(bytes, 2)?.get_i16();
        let timeout_ms = get(bytes, 4)?.get_i32();
        let number = get(bytes, 1)?.get_i8();
        let all = [Status::Empty, Status::PrepareCommit, Status::CompleteCommit, Status::CompleteAbort];
        let status = all.into_iter().find(|status| *status as i8 == number)?;
        let topics = Some(get(bytes, 4)?.get_i32()).filter(|topics| *topics >= -1)?;
        let mut partitions = Vec::new();
        for _ in 0..topics.max(0) {
            let topic = get_string(bytes)?;
            let count = u32::try_from(get(bytes, 4)?.get_i32()).ok()?;
            let mut numbers = Vec::new();
            for _ in 0..count {
                numbers.push(get(bytes, 4)?.get_i32());
            }
            partitions.push((topic, numbers));
        }
        let updated_ms = get(bytes, 8)?.get_i64();
        let started_ms = get(bytes, 8)?.get_i64();
        let state = TransactionState { producer_id, epoch, timeout_ms, status, partitions, updated_ms, started_ms };
        // Who would write under such an id could not be told from nobody.
        (bytes.is_empty() && producer_id >= 0 && epoch >= 0).then_some(state)
    }
}

fn put_string(out: &mut Vec<u8>, text: &str) {
    out.put_i16(i16::try_from(text.len()).expect("ids and names are checked when they come in"));
    out.put_slice(text.as_bytes());
}

fn get<'a>(bytes: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (head, rest) = bytes.split_at_checked(count)?;
    *bytes = rest;
    Some(head)
}

fn get_string(bytes: &mut &[u8]) -> Option<String> {
    let len = usize::try_from(get(bytes, 2)?.get_i16()).ok()?;
    String::from_utf8(get(bytes, len)?.to_vec()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{TRANSACTIONS, section};

    #[test]
    fn round_trip_and_layout() {
        let mut state = TransactionState {
            producer_id: 7,
            epoch: 3,
            timeout_ms: 60_000,
            status: Status::PrepareCommit,
            partitions: vec![("a".to_owned(), vec![0, 2]), ("b".to_owned(), vec![1])],
            updated_ms: 1,
            started_ms: -1,
        };
        assert_eq!(TransactionState::decode(&state.encode()), Some(state.clone()));
        for cut in 0..state.encode().len() {
            assert_eq!(TransactionState::decode(&state.encode()[..cut]), None);
        }
        state.partitions.clear();
        state.status = Status::Empty;
        let expect = [
            &[0, 0][..],
            &7i64.to_be_bytes(),
            &3i16.to_be_bytes(),
            &60_000i32.to_be_bytes(),
            &[0],
            &(-1i32).to_be_bytes(),
            &1i64.to_be_bytes(),
            &(-1i64).to_be_bytes(),
        ]
        .concat();
        assert_eq!(state.encode(), expect);
        assert_eq!(decode_key(&encode_key("job:1")), Some("job:1".to_owned()));
        assert_eq!(&encode_key("ab")[..], &[0, 0, 0, 2, b'a', b'b']);
    }

    #[test]
    fn the_first_records_are_read_for_ever_and_written_the_same_way() {
        let (key, prepared) = (section(TRANSACTIONS, "key"), section(TRANSACTIONS, "prepared"));
        assert_eq!(decode_key(&key), Some("job:1".to_owned()));
        assert_eq!(encode_key("job:1"), key);
        let state = TransactionState {
            producer_id: 7,
            epoch: 3,
            timeout_ms: 60_000,
            status: Status::PrepareCommit,
            partitions: vec![("a".to_owned(), vec![0, 2]), ("b".to_owned(), vec![1])],
            updated_ms: 1_700_000_000_000,
            started_ms: 1_699_999_999_995,
        };
        assert_eq!(TransactionState::decode(&prepared), Some(state.clone()));
        assert_eq!(state.encode(), prepared);
        let complete = TransactionState {
            timeout_ms: i32::MAX,
            status: Status::CompleteCommit,
            partitions: Vec::new(),
            updated_ms: 1_700_000_000_001,
            started_ms: -1,
            ..state
        };
        assert_eq!(TransactionState::decode(&section(TRANSACTIONS, "complete")), Some(complete.clone()));
        assert_eq!(complete.encode(), section(TRANSACTIONS, "complete"));
    }

    #[test]
    fn counts_ids_and_epochs_below_zero_are_refused() {
        let good = section(TRANSACTIONS, "prepared");
        // Producer id, epoch, number of topics, number of partitions.
        for at in [2, 10, 17, 24] {
            let mut bytes = good.clone();
            bytes[at] = 0x80;
            assert_eq!(TransactionState::decode(&bytes), None, "{at}");
        }
    }
}
