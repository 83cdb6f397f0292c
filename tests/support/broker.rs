//! Topics as they lie in the log, read over the Kafka protocol: committed records, and where transactions begin and end.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};

use bytes::{Buf, Bytes, BytesMut};
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::fetch_response::PartitionData;
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::{
    FetchRequest, ListOffsetsRequest, MetadataRequest, RequestHeader, ResponseHeader, TopicName,
};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Request, StrBytes};
use kafka_protocol::records::{self, RecordBatchDecoder};
use serde_json::Value;

use super::requests;

/// Names topics, and gives their ids in the answer to Metadata.
const FETCH_VERSION: i16 = 12;
pub(super) const METADATA_VERSION: i16 = 12;
const LIST_OFFSETS_VERSION: i16 = 7;
/// Asks for the first offset, and for the one behind the last.
const EARLIEST: i64 = -2;
const LATEST: i64 = -1;
/// A partition has no record at this offset: it is below the first one or beyond the end.
pub const OFFSET_OUT_OF_RANGE: i16 = 1;

/// A committed record.
#[derive(Clone, Debug)]
pub struct Record {
    pub partition: i32,
    pub offset: i64,
    pub key: Option<String>,
    pub value: Option<String>,
    pub headers: BTreeMap<String, String>,
    /// Place of its transaction in [`Topic::transactions`]; none when it was written without one.
    pub transaction: Option<usize>,
}

impl Record {
    pub fn json(&self) -> Option<Value> {
        self.value.as_ref().map(|v| serde_json::from_str(v).unwrap_or_else(|e| panic!("{v}: {e}")))
    }
}

/// One partition's part of a transaction.
#[derive(Clone, Debug)]
pub struct Transaction {
    pub partition: i32,
    /// Offset of its first record.
    pub first: i64,
    /// Offset of the control record that ends it.
    pub marker: i64,
    pub committed: bool,
}

/// One topic from its beginning to its present end.
#[derive(Clone, Debug)]
pub struct Topic {
    pub name: String,
    /// 32 hex digits.
    pub id: String,
    /// By partition and offset.
    pub records: Vec<Record>,
    pub transactions: Vec<Transaction>,
}

/// What one answer holds of a partition.
pub struct Part {
    pub records: Vec<records::Record>,
    /// Where to read on: behind the last batch, which compaction may have emptied.
    pub next: i64,
    pub high_watermark: i64,
}

/// A connection that asks one thing at a time.
pub struct Broker {
    stream: TcpStream,
    correlation_id: i32,
}

impl Broker {
    pub fn connect(address: SocketAddr) -> Self {
        Self::try_connect(address).expect("the broker is there")
    }

    pub fn try_connect(address: SocketAddr) -> io::Result<Self> {
        Ok(Self { stream: TcpStream::connect(address)?, correlation_id: 0 })
    }

    /// The first offset of a partition and the one behind its last; the error code where it has none.
    pub fn bounds(&mut self, topic: &str, partition: i32) -> io::Result<Result<(i64, i64), i16>> {
        let mut found = [0; 2];
        for (bound, timestamp) in found.iter_mut().zip([EARLIEST, LATEST]) {
            let asked = ListOffsetsPartition::default().with_partition_index(partition).with_timestamp(timestamp);
            let topics = vec![ListOffsetsTopic::default().with_name(topic_name(topic)).with_partitions(vec![asked])];
            let request = ListOffsetsRequest::default().with_topics(topics);
            let mut answer = self.call(&request, LIST_OFFSETS_VERSION)?;
            let said = answer.topics.pop().and_then(|mut topic| topic.partitions.pop()).expect("the partition");
            match requests::said(said.error_code, said.offset)? {
                Ok(offset) => *bound = offset,
                Err(code) => return Ok(Err(code)),
            }
        }
        Ok(Ok((found[0], found[1])))
    }

    /// Records from an offset on, as many as one answer holds; the error code where there are none.
    pub fn read(&mut self, topic: &str, partition: i32, offset: i64) -> io::Result<Result<Part, i16>> {
        let data = self.fetch(topic, partition, offset)?;
        if let Err(code) = requests::said(data.error_code, ())? {
            return Ok(Err(code));
        }
        let mut bytes = data.records.unwrap_or_default();
        let next = behind(&bytes).unwrap_or(offset);
        let sets = RecordBatchDecoder::decode_all(&mut bytes).unwrap_or_else(|e| panic!("{topic} {offset}: {e}"));
        let records = sets.into_iter().flat_map(|set| set.records).filter(|record| record.offset >= offset).collect();
        Ok(Ok(Part { records, next, high_watermark: data.high_watermark }))
    }

    pub fn topic(&mut self, name: &str) -> Topic {
        let named = MetadataRequestTopic::default().with_name(Some(topic_name(name)));
        let request = MetadataRequest::default().with_topics(Some(vec![named])).with_allow_auto_topic_creation(false);
        let answer = self.call(&request, METADATA_VERSION).expect("metadata");
        let found = answer.topics.first().expect("an answer for the topic");
        assert_eq!(found.error_code, 0, "topic {name}");
        let id = found.topic_id.simple().to_string();
        let mut partitions: Vec<_> = found.partitions.iter().map(|p| p.partition_index).collect();
        partitions.sort_unstable();
        let mut topic = Topic { name: name.to_owned(), id, records: Vec::new(), transactions: Vec::new() };
        for partition in partitions {
            let read = self.partition(name, partition);
            topic.add(partition, read);
        }
        topic
    }

    /// Everything up to the high watermark, control records and what was aborted included.
    fn partition(&mut self, topic: &str, partition: i32) -> Vec<records::Record> {
        let (start, _) = self.bounds(topic, partition).expect("bounds").expect("a partition");
        let mut read: Vec<records::Record> = Vec::new();
        let mut next = start;
        loop {
            let part = self.read(topic, partition, next).expect("records");
            let part = part.unwrap_or_else(|code| panic!("fetch of {topic} partition {partition} at {next}: {code}"));
            read.extend(part.records);
            if part.next >= part.high_watermark {
                return read;
            }
            assert!(
                part.next > next,
                "{topic} partition {partition} gives nothing at {next} of {}",
                part.high_watermark
            );
            next = part.next;
        }
    }

    fn fetch(&mut self, topic: &str, partition: i32, offset: i64) -> io::Result<PartitionData> {
        let asked = FetchPartition::default()
            .with_partition(partition)
            .with_fetch_offset(offset)
            .with_partition_max_bytes(16 << 20);
        let topics = vec![FetchTopic::default().with_topic(topic_name(topic)).with_partitions(vec![asked])];
        let request = FetchRequest::default().with_max_bytes(16 << 20).with_session_epoch(-1).with_topics(topics);
        let mut answer = self.call(&request, FETCH_VERSION)?;
        assert_eq!(answer.error_code, 0, "fetch of {topic} partition {partition} at {offset}");
        Ok(answer.responses.pop().and_then(|mut topic| topic.partitions.pop()).expect("the partition"))
    }

    pub(super) fn call<R: Request>(&mut self, request: &R, version: i16) -> io::Result<R::Response> {
        self.correlation_id += 1;
        let header = RequestHeader::default()
            .with_request_api_key(R::KEY)
            .with_request_api_version(version)
            .with_correlation_id(self.correlation_id)
            .with_client_id(Some(StrBytes::from_static_str("test")));
        let mut body = BytesMut::new();
        header.encode(&mut body, R::header_version(version)).expect("a header");
        request.encode(&mut body, version).expect("a request");
        let size = i32::try_from(body.len()).expect("a small request");
        self.stream.write_all(&[&size.to_be_bytes()[..], &body].concat())?;
        let mut size = [0; 4];
        self.stream.read_exact(&mut size)?;
        let mut answer = vec![0; usize::try_from(i32::from_be_bytes(size)).expect("a size")];
        self.stream.read_exact(&mut answer)?;
        let mut answer = Bytes::from(answer);
        let header = ResponseHeader::decode(&mut answer, R::Response::header_version(version)).expect("a header");
        assert_eq!(header.correlation_id, self.correlation_id);
        let decoded = R::Response::decode(&mut answer, version).expect("an answer that can be read");
        assert!(!answer.has_remaining(), "bytes are left over");
        Ok(decoded)
    }
}

impl Topic {
    /// Sorts out what control records say of the records before them.
    fn add(&mut self, partition: i32, read: Vec<records::Record>) {
        // Transactions that no control record has ended yet, by producer.
        let mut open: BTreeMap<i64, usize> = BTreeMap::new();
        let mut records = Vec::new();
        let compacted = read.windows(2).any(|pair| pair[1].offset > pair[0].offset + 1);
        for record in read {
            if record.control {
                let at = open.remove(&record.producer_id);
                // Compaction may have taken all of a transaction, and its marker not yet.
                assert!(at.is_some() || compacted, "the control record at {} ends no transaction", record.offset);
                let Some(at) = at else { continue };
                let transaction = &mut self.transactions[at];
                transaction.marker = record.offset;
                // Version and type, two bytes each; type 1 is a commit.
                transaction.committed = record.key.as_deref() == Some(&[0, 0, 0, 1]);
                continue;
            }
            let transaction = record.transactional.then(|| {
                *open.entry(record.producer_id).or_insert_with(|| {
                    let (first, marker) = (record.offset, i64::MAX);
                    self.transactions.push(Transaction { partition, first, marker, committed: false });
                    self.transactions.len() - 1
                })
            });
            records.push(of_client(partition, record, transaction));
        }
        records.retain(|record| record.transaction.is_none_or(|at| self.transactions[at].committed));
        self.records.extend(records);
    }
}

/// The offset behind the last of these batches, by Kafka's documentation of its record batch.
fn behind(batches: &[u8]) -> Option<i64> {
    let mut next = None;
    let mut rest = batches;
    while let Some((header, _)) = rest.split_at_checked(61) {
        let base = i64::from_be_bytes(header[..8].try_into().expect("8 bytes"));
        let length = i32::from_be_bytes(header[8..12].try_into().expect("4 bytes"));
        let last = i32::from_be_bytes(header[23..27].try_into().expect("4 bytes"));
        next = Some(base + i64::from(last) + 1);
        rest = rest.get(12 + usize::try_from(length).expect("a length")..).unwrap_or_default();
    }
    next
}

fn of_client(partition: i32, record: records::Record, transaction: Option<usize>) -> Record {
    let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).expect("utf-8");
    Record {
        partition,
        offset: record.offset,
        key: record.key.as_ref().map(text),
        value: record.value.as_ref().map(text),
        headers: record
            .headers
            .iter()
            .map(|(k, v)| (k.to_string(), v.as_ref().map(text).unwrap_or_default()))
            .collect(),
        transaction,
    }
}

pub(super) fn topic_name(name: &str) -> TopicName {
    TopicName(StrBytes::from_string(name.to_owned()))
}
