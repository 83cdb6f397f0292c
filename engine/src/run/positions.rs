//! Where sources stand: the topic `__riverrun_positions`, one partition, compacted.
//!
//! ```text
//! key    source name
//! value  {"snapshot_done":true,"position":"<hex digits>"}      null when the source has been removed
//! ```

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::reader::Reader;
use super::{Error, internal_topic};

/// The topic of positions.
pub const TOPIC: &str = "__riverrun_positions";

/// Bytes read at a time when the topic is loaded.
const LOAD_BYTES: usize = 1 << 20;

/// The last committed position of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    pub position: Vec<u8>,
    /// Its snapshot is wholly in the log.
    pub snapshot_done: bool,
}

#[derive(Serialize, Deserialize)]
struct Value {
    snapshot_done: bool,
    position: String,
}

/// The topic's partition; the topic is created where missing.
pub async fn partition(cluster: &dyn log::Cluster) -> Result<log::TopicPartition, log::Error> {
    internal_topic(cluster, TOPIC, "compact").await
}

/// The record that stores a position, or closes the source's records (`None`).
pub fn record(source: &str, stored: Option<&Stored>) -> log::NewRecord {
    let value = |stored: &Stored| {
        let position = stored.position.iter().map(|byte| format!("{byte:02x}")).collect();
        let value = Value { snapshot_done: stored.snapshot_done, position };
        Bytes::from(serde_json::to_vec(&value).expect("strings and booleans are JSON"))
    };
    log::NewRecord {
        key: Some(Bytes::copy_from_slice(source.as_bytes())),
        value: stored.map(value),
        ..log::NewRecord::default()
    }
}

/// Forgets the position of a source that is removed. Fences a driver that still writes it.
pub async fn forget(cluster: &dyn log::Cluster, source: &str) -> Result<(), log::Error> {
    let at = partition(cluster).await?;
    let mut producer = cluster.producer(&producer_id(source)).await?;
    producer.append(at, vec![record(source, None)]).await?;
    producer.commit().await.map(|_| ())
}

/// Under which id a source's records and positions are written.
pub fn producer_id(source: &str) -> String {
    format!("source:{source}")
}

/// The position of every source that has one.
pub async fn load(cluster: &dyn log::Cluster) -> Result<BTreeMap<String, Stored>, Error> {
    let log = cluster.log(partition(cluster).await?)?;
    let bounds = log.bounds();
    let mut reader = Reader::new(TOPIC, LOAD_BYTES);
    reader.add(log, bounds.start, bounds.last_stable);
    let mut found = BTreeMap::new();
    let each = |record: log::RecordView| {
        let corrupt = |detail: &str| Error::Corrupt {
            topic: TOPIC.to_owned(),
            partition: 0,
            offset: record.offset.0,
            detail: detail.to_owned(),
        };
        let name = record.key.as_deref().and_then(|key| std::str::from_utf8(key).ok());
        let name = name.ok_or_else(|| corrupt("the key is not a name"))?.to_owned();
        match &record.value {
            None => found.remove(&name),
            Some(value) => {
                let stored = parse(value).ok_or_else(|| corrupt("the value is not a position"))?;
                found.insert(name, stored)
            }
        };
        Ok(())
    };
    reader.for_each(each).await?;
    Ok(found)
}

fn parse(value: &[u8]) -> Option<Stored> {
    let value: Value = serde_json::from_slice(value).ok()?;
    let digits = value.position.as_bytes();
    let digit = |at: u8| char::from(at).to_digit(16);
    let byte = |pair: &[u8]| u8::try_from(digit(pair[0])? * 16 + digit(pair[1])?).ok();
    let position =
        digits.len().is_multiple_of(2).then(|| digits.chunks_exact(2).map(byte).collect::<Option<_>>())??;
    Some(Stored { position, snapshot_done: value.snapshot_done })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_read_as_written() {
        let stored = Stored { position: vec![0, 0xff, 0x1a], snapshot_done: true };
        assert_eq!(parse(&record("shop", Some(&stored)).value.unwrap()), Some(stored));
        assert_eq!(parse(br#"{"snapshot_done":true,"position":"0"}"#), None);
        assert_eq!(parse(br#"{"snapshot_done":true,"position":"zz"}"#), None);
    }
}
