//! Topics as they lie in the log, read over the Kafka protocol: committed records, and where transactions begin and end.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use bytes::{Buf, Bytes, BytesMut};
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::fetch_response::PartitionData;
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::{FetchRequest, MetadataRequest, RequestHeader, ResponseHeader, TopicName};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Request, StrBytes};
use kafka_protocol::records::{self, RecordBatchDecoder};
use serde_json::Value;

/// Names topics, and gives their ids in the answer to Metadata.
const FETCH_VERSION: i16 = 12;
const METADATA_VERSION: i16 = 12;

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

/// A connection that asks one thing at a time.
pub struct Broker {
    stream: TcpStream,
    correlation_id: i32,
}

impl Broker {
    pub fn connect(address: SocketAddr) -> Self {
        Self { stream: TcpStream::connect(address).expect("the broker is there"), correlation_id: 0 }
    }

    pub fn topic(&mut self, name: &str) -> Topic {
        let named = MetadataRequestTopic::default().with_name(Some(topic_name(name)));
        let request = MetadataRequest::default().with_topics(Some(vec![named])).with_allow_auto_topic_creation(false);
        let answer = self.call(&request, METADATA_VERSION);
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
        let mut read: Vec<records::Record> = Vec::new();
        loop {
            let next = read.last().map_or(0, |record| record.offset + 1);
            let data = self.fetch(topic, partition, next);
            let mut bytes = data.records.unwrap_or_default();
            let sets = RecordBatchDecoder::decode_all(&mut bytes).unwrap_or_else(|e| panic!("{topic} {next}: {e}"));
            read.extend(sets.into_iter().flat_map(|set| set.records).filter(|record| record.offset >= next));
            let end = read.last().map_or(0, |record| record.offset + 1);
            if end >= data.high_watermark {
                return read;
            }
            assert!(end > next, "{topic} partition {partition} gives nothing at {next} of {}", data.high_watermark);
        }
    }

    fn fetch(&mut self, topic: &str, partition: i32, offset: i64) -> PartitionData {
        let asked = FetchPartition::default()
            .with_partition(partition)
            .with_fetch_offset(offset)
            .with_partition_max_bytes(16 << 20);
        let topics = vec![FetchTopic::default().with_topic(topic_name(topic)).with_partitions(vec![asked])];
        let request = FetchRequest::default().with_max_bytes(16 << 20).with_session_epoch(-1).with_topics(topics);
        let mut answer = self.call(&request, FETCH_VERSION);
        let data = answer.responses.pop().and_then(|mut topic| topic.partitions.pop()).expect("the partition");
        assert_eq!((answer.error_code, data.error_code), (0, 0), "fetch of {topic} partition {partition} at {offset}");
        data
    }

    fn call<R: Request>(&mut self, request: &R, version: i16) -> R::Response {
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
        self.stream.write_all(&[&size.to_be_bytes()[..], &body].concat()).expect("sent");
        let mut size = [0; 4];
        self.stream.read_exact(&mut size).expect("an answer");
        let mut answer = vec![0; usize::try_from(i32::from_be_bytes(size)).expect("a size")];
        self.stream.read_exact(&mut answer).expect("a whole answer");
        let mut answer = Bytes::from(answer);
        let header = ResponseHeader::decode(&mut answer, R::Response::header_version(version)).expect("a header");
        assert_eq!(header.correlation_id, self.correlation_id);
        let decoded = R::Response::decode(&mut answer, version).expect("an answer that can be read");
        assert!(!answer.has_remaining(), "bytes are left over");
        decoded
    }
}

impl Topic {
    /// Sorts out what control records say of the records before them.
    fn add(&mut self, partition: i32, read: Vec<records::Record>) {
        // Transactions that no control record has ended yet, by producer.
        let mut open: BTreeMap<i64, usize> = BTreeMap::new();
        let mut records = Vec::new();
        for record in read {
            if record.control {
                let at = open.remove(&record.producer_id).expect("a control record ends a transaction");
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

fn topic_name(name: &str) -> TopicName {
    TopicName(StrBytes::from_string(name.to_owned()))
}
