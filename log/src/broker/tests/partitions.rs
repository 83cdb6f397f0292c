//! CreatePartitions and DeleteRecords.

use super::client::{fetch_request, produce_request};
use super::*;
use crate::record::TopicPartition;
use crate::wire::api::Api;
use crate::wire::error_code::ErrorCode;
use crate::wire::offsets::{
    DeleteRecordsPartition, DeleteRecordsRequest, DeleteRecordsResponse, DeleteRecordsTopic, ListOffsetsPartition,
    ListOffsetsRequest, ListOffsetsResponse, ListOffsetsTopic, special,
};
use crate::wire::primitive::Str;
use crate::wire::topics::{
    CreatePartitionsAssignment, CreatePartitionsRequest, CreatePartitionsResponse, CreatePartitionsTopic,
};

fn grown(name: &str, count: i32, brokers: Option<&[i32]>) -> CreatePartitionsTopic {
    let one = |&broker: &i32| CreatePartitionsAssignment { broker_ids: vec![broker] };
    let assignments = brokers.map(|brokers| brokers.iter().map(one).collect());
    CreatePartitionsTopic { name: Str::from(name), count, assignments }
}

async fn grow(client: &mut Client, version: i16, topics: Vec<CreatePartitionsTopic>, validate_only: bool) -> Vec<i16> {
    let request = CreatePartitionsRequest { topics, timeout_ms: 5_000, validate_only };
    let answer: CreatePartitionsResponse = client.call(Api::CreatePartitions, version, &request).await;
    assert!(answer.results.iter().all(|result| (result.error_code == 0) == result.error_message.is_none()));
    answer.results.iter().map(|result| result.error_code).collect()
}

#[test]
fn topics_grow_and_never_shrink() {
    with_broker(|fixture| async move {
        let mut client = fixture.client().await;
        let node = fixture.backend.node_id();
        let sent = batch(&fixture.env, &["x"]);
        client.produce(9, &produce_request("one", 1, &[(0, &sent)])).await;
        for version in 0..=3 {
            let count = 2 + i32::from(version);
            assert_eq!(grow(&mut client, version, vec![grown("one", count, None)], true).await, [0]);
            assert_eq!(fixture.topic("one").partitions, count - 1, "a rehearsal changes nothing");
            assert_eq!(grow(&mut client, version, vec![grown("one", count, None)], false).await, [0]);
            assert_eq!(fixture.topic("one").partitions, count);
            let answer = client.produce(9, &produce_request("one", 1, &[(count - 1, &sent)])).await;
            assert_eq!((answer.error_code, answer.base_offset), (0, 0));
        }
        assert_eq!(client.fetch(12, &fetch_request("one", 0, 0)).await.1.len(), 1, "those there were stay as they are");
        let (partitions, assignment) = (ErrorCode::InvalidPartitions, ErrorCode::InvalidReplicaAssignment);
        for (topic, code) in [
            (grown("three", 3, None), partitions),
            (grown("three", 2, None), partitions),
            (grown("three", -1, None), partitions),
            (grown("three", 10_001, None), partitions),
            (grown("three", 5, Some(&[node])), assignment),
            (grown("three", 4, Some(&[node + 1])), assignment),
            (grown("none", 4, None), ErrorCode::UnknownTopicOrPartition),
            (grown("view", 4, None), ErrorCode::TopicAuthorizationFailed),
            (grown("used", 4, None), ErrorCode::TopicAuthorizationFailed),
            (grown("__transaction_state", 4, None), ErrorCode::InvalidTopic),
        ] {
            for validate_only in [true, false] {
                let codes = grow(&mut client, 3, vec![topic.clone()], validate_only).await;
                assert_eq!(codes, [code.code()], "{topic:?}");
            }
        }
        let several = vec![grown("three", 5, Some(&[node, node])), grown("one", 9, None), grown("one", 9, None)];
        let twice = ErrorCode::InvalidRequest.code();
        assert_eq!(grow(&mut client, 3, several, false).await, [0, twice, twice]);
        assert_eq!(fixture.topic("three").partitions, 5);
    });
}

async fn delete(client: &mut Client, version: i16, topic: &str, partition_index: i32, offset: i64) -> (i16, i64) {
    let partitions = vec![DeleteRecordsPartition { partition_index, offset }];
    let topics = vec![DeleteRecordsTopic { name: Str::from(topic), partitions }];
    let request = DeleteRecordsRequest { topics, timeout_ms: 5_000 };
    let answer: DeleteRecordsResponse = client.call(Api::DeleteRecords, version, &request).await;
    let result = &answer.topics[0].partitions[0];
    assert_eq!(result.partition_index, partition_index);
    (result.error_code, result.low_watermark)
}

async fn earliest(client: &mut Client, topic: &str) -> i64 {
    let partitions = vec![ListOffsetsPartition { timestamp: special::EARLIEST, ..Default::default() }];
    let topics = vec![ListOffsetsTopic { name: Str::from(topic), partitions }];
    let request = ListOffsetsRequest { replica_id: -1, topics, ..Default::default() };
    let answer: ListOffsetsResponse = client.call(Api::ListOffsets, 7, &request).await;
    answer.topics[0].partitions[0].offset
}

#[test]
fn records_are_deleted_up_to_an_offset() {
    with_broker(|fixture| async move {
        let mut client = fixture.client().await;
        for _ in 0..5 {
            let sent = batch(&fixture.env, &["x", "y"]);
            client.produce(9, &produce_request("one", 1, &[(0, &sent)])).await;
        }
        for version in 0..=2 {
            let offset = 3 + i64::from(version);
            assert_eq!(delete(&mut client, version, "one", 0, offset).await, (0, offset));
            assert_eq!(earliest(&mut client, "one").await, offset);
        }
        assert_eq!(delete(&mut client, 2, "one", 0, 2).await, (0, 5), "the start never goes back");
        let (data, _) = client.fetch(12, &fetch_request("one", 0, 4)).await;
        assert_eq!((data.error_code, data.log_start_offset), (ErrorCode::OffsetOutOfRange.code(), -1));
        let (data, found) = client.fetch(12, &fetch_request("one", 0, 5)).await;
        assert_eq!((data.error_code, data.log_start_offset, found.len()), (0, 5, 3));
        for (topic, partition, offset, code) in [
            ("one", 0, 11, ErrorCode::OffsetOutOfRange),
            ("one", 0, -2, ErrorCode::OffsetOutOfRange),
            ("one", 1, 0, ErrorCode::UnknownTopicOrPartition),
            ("none", 0, 0, ErrorCode::UnknownTopicOrPartition),
            ("compact", 0, 0, ErrorCode::PolicyViolation),
            ("view", 0, 0, ErrorCode::TopicAuthorizationFailed),
            ("__transaction_state", 0, 0, ErrorCode::InvalidTopic),
        ] {
            assert_eq!(delete(&mut client, 2, topic, partition, offset).await, (code.code(), -1), "{topic}");
        }
        assert_eq!(delete(&mut client, 2, "one", 0, -1).await, (0, 10), "all there is");
        assert_eq!(
            client.produce(9, &produce_request("one", 1, &[(0, &batch(&fixture.env, &["z"]))])).await.base_offset,
            10
        );
    });
}

#[test]
fn what_somebody_holds_stays() {
    with_broker(|fixture| async move {
        let mut client = fixture.client().await;
        let sent = batch(&fixture.env, &["a", "b", "c", "d"]);
        client.produce(9, &produce_request("one", 1, &[(0, &sent)])).await;
        let partition = TopicPartition { topic: fixture.topic("one").id, partition: 0 };
        let hold = fixture.backend.log(partition).unwrap().hold("view spend", crate::Offset(1));
        assert_eq!(delete(&mut client, 2, "one", 0, 3).await, (ErrorCode::PolicyViolation.code(), -1));
        assert_eq!(earliest(&mut client, "one").await, 1, "as much goes as may");
        assert_eq!(delete(&mut client, 2, "one", 0, 1).await, (0, 1));
        drop(hold);
        assert_eq!(delete(&mut client, 2, "one", 0, 3).await, (0, 3));
        let mut producer = fixture.backend.producer("t").await.unwrap();
        producer.append(partition, vec![NewRecord::default(); 2]).await.unwrap();
        // What is acknowledged behind it makes it durable too.
        client.produce(9, &produce_request("one", 1, &[(0, &sent)])).await;
        assert_eq!(delete(&mut client, 2, "one", 0, -1).await, (0, 4), "the open transaction stays");
        producer.commit().await.unwrap();
        assert_eq!(delete(&mut client, 2, "one", 0, -1).await, (0, 11));
    });
}
