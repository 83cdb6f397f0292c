//! Topics made, written, cut and deleted over the Kafka protocol, one request at a time, so that a test knows of each what
//! the program has said: nothing (the connection is gone), no, or yes.

use std::io;

use bytes::{Bytes, BytesMut};
use kafka_protocol::indexmap::IndexMap;
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{
    CreateTopicsRequest, DeleteRecordsRequest, DeleteTopicsRequest, MetadataRequest, ProduceRequest,
};
use kafka_protocol::protocol::StrBytes;
use kafka_protocol::records::{Compression, Record, RecordBatchEncoder, RecordEncodeOptions, TimestampType};

use super::broker::{Broker, METADATA_VERSION, topic_name};

const PRODUCE_VERSION: i16 = 9;
const CREATE_TOPICS_VERSION: i16 = 7;
const DELETE_TOPICS_VERSION: i16 = 5;
const DELETE_RECORDS_VERSION: i16 = 2;
/// How long the program may take over a request before it answers that it does not know.
const TIMEOUT_MS: i32 = 30_000;

pub const UNKNOWN_TOPIC_OR_PARTITION: i16 = 3;
/// The program does not know in time, or has no room: to be asked again.
pub const REQUEST_TIMED_OUT: i16 = 7;
pub const TOPIC_ALREADY_EXISTS: i16 = 36;
const KAFKA_STORAGE_ERROR: i16 = 56;

/// An answer, or the error code in its place.
pub type Said<T> = Result<T, i16>;

/// A program whose disk has failed is about to end: that is no answer.
pub(super) fn said<T>(code: i16, value: T) -> io::Result<Said<T>> {
    match code {
        0 => Ok(Ok(value)),
        KAFKA_STORAGE_ERROR => Err(io::Error::other("the log has stopped")),
        code => Ok(Err(code)),
    }
}

impl Broker {
    pub fn create_topic(&mut self, name: &str, partitions: i32, config: &[(&str, &str)]) -> io::Result<Said<()>> {
        let text = |text: &str| StrBytes::from_string(text.to_owned());
        let option = |(name, value): &(&str, &str)| {
            CreatableTopicConfig::default().with_name(text(name)).with_value(Some(text(value)))
        };
        let topic = CreatableTopic::default()
            .with_name(topic_name(name))
            .with_num_partitions(partitions)
            .with_replication_factor(1)
            .with_configs(config.iter().map(option).collect());
        let request = CreateTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(TIMEOUT_MS);
        let answer = self.call(&request, CREATE_TOPICS_VERSION)?;
        said(answer.topics[0].error_code, ())
    }

    pub fn delete_topic(&mut self, name: &str) -> io::Result<Said<()>> {
        let names = vec![topic_name(name)];
        let request = DeleteTopicsRequest::default().with_topic_names(names).with_timeout_ms(TIMEOUT_MS);
        let answer = self.call(&request, DELETE_TOPICS_VERSION)?;
        said(answer.responses[0].error_code, ())
    }

    /// The id of the topic that has this name now, as 32 hex digits.
    pub fn topic_id(&mut self, name: &str) -> io::Result<Said<String>> {
        let named = MetadataRequestTopic::default().with_name(Some(topic_name(name)));
        let request = MetadataRequest::default().with_topics(Some(vec![named])).with_allow_auto_topic_creation(false);
        let answer = self.call(&request, METADATA_VERSION)?;
        let topic = &answer.topics[0];
        said(topic.error_code, topic.topic_id.simple().to_string())
    }

    /// Deletes the records before `offset`; gives the first offset that is left.
    pub fn delete_records(&mut self, topic: &str, partition: i32, offset: i64) -> io::Result<Said<i64>> {
        let asked = DeleteRecordsPartition::default().with_partition_index(partition).with_offset(offset);
        let topics = vec![DeleteRecordsTopic::default().with_name(topic_name(topic)).with_partitions(vec![asked])];
        let request = DeleteRecordsRequest::default().with_topics(topics).with_timeout_ms(TIMEOUT_MS);
        let answer = self.call(&request, DELETE_RECORDS_VERSION)?;
        let partition = &answer.topics[0].partitions[0];
        said(partition.error_code, partition.low_watermark)
    }

    /// Writes one batch, without a producer id; gives the offset of its first record.
    pub fn produce(&mut self, topic: &str, partition: i32, values: &[String]) -> io::Result<Said<i64>> {
        let said = self.produce_all(topic, &[(partition, values)])?;
        Ok(said.into_iter().next().expect("the partition"))
    }

    /// One batch for each of several partitions of a topic, in one request.
    pub fn produce_all(&mut self, topic: &str, batches: &[(i32, &[String])]) -> io::Result<Vec<Said<i64>>> {
        let data = batches.iter().map(|(partition, values)| {
            PartitionProduceData::default().with_index(*partition).with_records(Some(batch(values)))
        });
        let data = TopicProduceData::default().with_name(topic_name(topic)).with_partition_data(data.collect());
        let request = ProduceRequest::default().with_acks(-1).with_timeout_ms(TIMEOUT_MS).with_topic_data(vec![data]);
        let answer = self.call(&request, PRODUCE_VERSION)?;
        let partitions = &answer.responses[0].partition_responses;
        partitions.iter().map(|partition| said(partition.error_code, partition.base_offset)).collect()
    }
}

fn batch(values: &[String]) -> Bytes {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    let timestamp = i64::try_from(now.as_millis()).expect("milliseconds");
    let record = |(at, value): (usize, &String)| Record {
        transactional: false,
        control: false,
        delete_horizon: false,
        partition_leader_epoch: -1,
        producer_id: -1,
        producer_epoch: -1,
        timestamp_type: TimestampType::Creation,
        offset: i64::try_from(at).expect("small"),
        // The batch's own, that of its first record, is -1: none.
        sequence: i32::try_from(at).expect("small") - 1,
        timestamp,
        key: None,
        value: Some(Bytes::copy_from_slice(value.as_bytes())),
        headers: IndexMap::new(),
    };
    let records: Vec<Record> = values.iter().enumerate().map(record).collect();
    let options = RecordEncodeOptions { version: 2, compression: Compression::None };
    let mut bytes = BytesMut::new();
    RecordBatchEncoder::encode(&mut bytes, &records, &options).expect("a batch");
    bytes.freeze()
}
