//! The connection itself, discovery, and topics coming and going.

use super::client::{fetch_request, produce_request};
use super::*;
use crate::wire::api::Api;
use crate::wire::discovery::{
    ApiVersionsRequest, ApiVersionsResponse, MetadataRequest, MetadataRequestTopic, MetadataResponse,
};
use crate::wire::error_code::ErrorCode;
use crate::wire::fetch::FetchRequest;
use crate::wire::primitive::{Str, Uuid};
use crate::wire::produce::ProduceResponse;
use crate::wire::topics::{
    CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfig, CreateTopicsRequest, CreateTopicsResponse,
    DeleteTopicState, DeleteTopicsRequest, DeleteTopicsResponse,
};

fn software(name: &str) -> ApiVersionsRequest {
    ApiVersionsRequest { client_software_name: Str::from(name), client_software_version: Str::from("1.2-3.4") }
}

#[test]
fn api_versions_tells_what_is_served() {
    with_broker(|fixture| async move {
        let mut client = fixture.client().await;
        for version in 0..=4 {
            let answer: ApiVersionsResponse = client.call(Api::ApiVersions, version, &software("lib")).await;
            let ranges: Vec<_> =
                answer.api_keys.iter().map(|api| (api.api_key, api.min_version, api.max_version)).collect();
            let data = [(0, 0, 13), (1, 4, 18), (2, 1, 11), (3, 0, 13), (18, 0, 4)];
            let topics = [(19, 2, 7), (20, 1, 6), (21, 0, 2), (22, 0, 5), (23, 2, 4)];
            let administration = [(32, 1, 4), (33, 0, 2), (37, 0, 3), (44, 0, 1)];
            let expected: Vec<_> = data.into_iter().chain(topics).chain(administration).collect();
            assert_eq!(ranges, expected);
        }
        let answer: ApiVersionsResponse = client.call(Api::ApiVersions, 3, &software("-lib")).await;
        assert_eq!(answer.error_code, ErrorCode::InvalidRequest.code());
        // A version to come is answered in the oldest form, with the range we speak.
        let frame = client.frame(Api::ApiVersions, 9, &software("lib"));
        client.send_bytes(&frame).await;
        let answer: ApiVersionsResponse = client.receive(Api::ApiVersions, 0).await;
        assert_eq!(answer.error_code, ErrorCode::UnsupportedVersion.code());
        assert_eq!((answer.api_keys.len(), answer.api_keys[0].max_version), (1, 4));
    });
}

#[test]
fn what_is_no_request_ends_its_own_connection_only() {
    with_broker(|fixture| async move {
        let mut other = fixture.client().await;
        let sent = batch(&fixture.env, &["x"]);
        let old = produce_request("one", 1, &[(0, &sent)]);
        let mut scratch = fixture.client().await;
        let mut cut = scratch.frame(Api::Metadata, 9, &MetadataRequest::default());
        cut.truncate(cut.len() - 3);
        let length = cut.len() as i32 - 4;
        cut[..4].copy_from_slice(&length.to_be_bytes());
        for bytes in [
            b"GET / HTTP/1.1\r\n\r\n".to_vec(),
            i32::MAX.to_be_bytes().to_vec(),
            (-1i32).to_be_bytes().to_vec(),
            vec![0, 0, 0, 2, 0, 0],
            vec![0, 0, 0, 10, 0, 99, 0, 0, 0, 0, 0, 1, 0xff, 0xff],
            scratch.frame(Api::Produce, 2, &old),
            cut,
        ] {
            let mut client = fixture.client().await;
            // What was sent before is still answered.
            let mut all = client.frame(Api::Produce, 9, &old);
            all.extend(&bytes);
            all.extend(&bytes);
            client.send_bytes(&all).await;
            let answer: ProduceResponse = client.receive(Api::Produce, 9).await;
            assert_eq!(answer.responses[0].partition_responses[0].error_code, 0);
            assert!(client.is_closed().await, "{bytes:?}");
            assert_eq!(other.produce(9, &old).await.error_code, 0);
        }
    });
}

#[test]
fn limits_of_the_listener_are_kept() {
    let config = BrokerConfig {
        connections_max: 2,
        request_bytes_max: 20_000,
        request_memory_bytes: 24_000,
        requests_in_flight_max: 2,
        ..BrokerConfig::default()
    };
    with_config(config, |fixture| async move {
        let (mut first, mut second) = (fixture.client().await, fixture.client().await);
        let big = batch(&fixture.env, &["x".repeat(15_000).as_str()]);
        let request = produce_request("one", 1, &[(0, &big)]);
        // More than the memory for requests, from both at once.
        for client in [&mut first, &mut second] {
            let mut bytes = Vec::new();
            for _ in 0..4 {
                bytes.extend(client.frame(Api::Produce, 9, &request));
            }
            client.send_bytes(&bytes).await;
        }
        for client in [&mut first, &mut second] {
            for _ in 0..4 {
                let answer: ProduceResponse = client.receive(Api::Produce, 9).await;
                assert_eq!(answer.responses[0].partition_responses[0].error_code, 0);
            }
        }
        assert!(fixture.client().await.is_closed().await, "a third connection");
        let bigger = batch(&fixture.env, &["x".repeat(20_000).as_str()]);
        first.send(Api::Produce, 9, &produce_request("one", 1, &[(0, &bigger)])).await;
        assert!(first.is_closed().await);
        let samples = fixture.server.metrics().samples();
        let value = |name| samples.iter().find(|sample| sample.name == name).unwrap().value;
        assert_eq!(value("riverrun_kafka_connections_refused_total"), 1);
        assert_eq!(value("riverrun_kafka_requests_malformed_total"), 1);
        assert_eq!(samples.iter().find(|sample| sample.api == Some("Produce")).unwrap().value, 8);
    });
}

#[test]
fn idle_connections_are_closed_and_a_stop_ends_long_polls() {
    let config = BrokerConfig { idle_max: 10 * SECOND, request_time_max: 5 * SECOND, ..BrokerConfig::default() };
    with_config(config, |fixture| async move {
        let mut idle = fixture.client().await;
        let start = fixture.env.monotonic();
        assert!(idle.is_closed().await);
        let time = fixture.env.monotonic() - start;
        assert!(time >= 10 * SECOND && time < 13 * SECOND, "{time:?}");
        // Part of a request keeps a connection open for no longer than its time.
        let mut slow = fixture.client().await;
        let start = fixture.env.monotonic();
        slow.send_bytes(&[0, 0, 0, 100]).await;
        while fixture.env.monotonic() - start < 4 * SECOND {
            fixture.env.sleep(SECOND / 2).await;
            slow.send_bytes(&[0]).await;
        }
        fixture.env.sleep(3 * SECOND).await;
        assert!(slow.is_closed().await);
        assert!(fixture.env.monotonic() - start < 8 * SECOND);
        let mut polling = fixture.client().await;
        polling.send(Api::Fetch, 12, &FetchRequest { max_wait_ms: 60_000, ..fetch_request("one", 0, 0) }).await;
        fixture.env.sleep(SECOND).await;
        let start = fixture.env.monotonic();
        fixture.server.shutdown(5 * SECOND).await;
        assert!(fixture.env.monotonic() - start < SECOND);
        assert!(polling.is_closed().await);
    });
}

fn asked(name: Option<&str>, id: [u8; 16]) -> MetadataRequest {
    let topic = MetadataRequestTopic { topic_id: Uuid(id), name: name.map(Str::from) };
    MetadataRequest { topics: Some(vec![topic]), ..MetadataRequest::default() }
}

#[test]
fn metadata_is_asked_by_name_by_id_or_for_all() {
    with_broker(|fixture| async move {
        let mut client = fixture.client().await;
        let none = MetadataRequest { topics: Some(vec![]), ..MetadataRequest::default() };
        for version in 0..=13 {
            let answer: MetadataResponse = client.call(Api::Metadata, version, &none).await;
            assert_eq!(answer.topics.is_empty(), version > 0, "an empty list is all of them in version 0");
            let broker = &answer.brokers[0];
            assert_eq!(
                (&*broker.host.text(), broker.port),
                ("127.0.0.1", i32::from(fixture.server.local_address().port()))
            );
            if version > 0 {
                let all: MetadataResponse = client.call(Api::Metadata, version, &MetadataRequest::default()).await;
                assert!(all.topics.iter().any(|topic| topic.name.as_ref().unwrap().text() == "one"));
                assert_eq!(all.controller_id, fixture.backend.node_id());
            }
            // An id beside the name means nothing before version 12.
            let answer: MetadataResponse = client.call(Api::Metadata, version, &asked(Some("three"), [1; 16])).await;
            let topic = &answer.topics[0];
            assert_eq!((topic.error_code, topic.partitions.len()), (0, 3), "version {version}");
            let unknown: MetadataResponse = client.call(Api::Metadata, version, &asked(Some("none"), [0; 16])).await;
            assert_eq!(unknown.topics[0].error_code, ErrorCode::UnknownTopicOrPartition.code());
            let invalid: MetadataResponse = client.call(Api::Metadata, version, &asked(Some("a b"), [0; 16])).await;
            assert_eq!(invalid.topics[0].error_code, ErrorCode::InvalidTopic.code());
        }
        let id = fixture.topic("one").id.0;
        let answer: MetadataResponse = client.call(Api::Metadata, 12, &asked(None, id)).await;
        assert_eq!(answer.topics[0].name.as_ref().unwrap().text(), "one");
        let answer: MetadataResponse = client.call(Api::Metadata, 12, &asked(None, [9; 16])).await;
        assert_eq!(answer.topics[0].error_code, ErrorCode::UnknownTopicId.code());
    });
}

#[test]
fn topics_are_created_by_metadata_only_where_both_want_it() {
    let config = BrokerConfig { auto_create_topics: true, partitions_default: 2, ..BrokerConfig::default() };
    with_config(config, |fixture| async move {
        let mut client = fixture.client().await;
        let unwilling = MetadataRequest { allow_auto_topic_creation: false, ..asked(Some("new"), [0; 16]) };
        let answer: MetadataResponse = client.call(Api::Metadata, 4, &unwilling).await;
        assert_eq!(answer.topics[0].error_code, ErrorCode::UnknownTopicOrPartition.code());
        let answer: MetadataResponse = client.call(Api::Metadata, 4, &asked(Some("new"), [0; 16])).await;
        assert_eq!((answer.topics[0].error_code, answer.topics[0].partitions.len()), (0, 2));
        let answer: MetadataResponse = client.call(Api::Metadata, 4, &asked(Some("__riverrun_x"), [0; 16])).await;
        assert_eq!(answer.topics[0].error_code, ErrorCode::InvalidTopic.code());
    });
}

fn creatable(name: &str, num_partitions: i32) -> CreatableTopic {
    CreatableTopic { name: Str::from(name), num_partitions, replication_factor: -1, ..CreatableTopic::default() }
}

async fn create(client: &mut Client, version: i16, topic: CreatableTopic, validate_only: bool) -> i16 {
    let request = CreateTopicsRequest { topics: vec![topic], validate_only, ..CreateTopicsRequest::default() };
    let answer: CreateTopicsResponse = client.call(Api::CreateTopics, version, &request).await;
    answer.topics[0].error_code
}

#[test]
fn topics_come_and_go() {
    with_broker(|fixture| async move {
        let mut client = fixture.client().await;
        let option = |name: &str, value: &str| {
            let configs = vec![CreatableTopicConfig { name: Str::from(name), value: Some(Str::from(value)) }];
            CreatableTopic { configs, ..creatable("t", 1) }
        };
        let assigned = |brokers: &[i32]| {
            let one = |(index, &broker): (usize, &i32)| CreatableReplicaAssignment {
                partition_index: index as i32,
                broker_ids: vec![broker],
            };
            CreatableTopic { assignments: brokers.iter().enumerate().map(one).collect(), ..creatable("t", -1) }
        };
        let node = fixture.backend.node_id();
        for (topic, code) in [
            (creatable("one", 1), ErrorCode::TopicAlreadyExists),
            (creatable("a b", 1), ErrorCode::InvalidTopic),
            (creatable("__riverrun_x", 1), ErrorCode::InvalidTopic),
            (creatable("t", 0), ErrorCode::InvalidPartitions),
            (CreatableTopic { replication_factor: 2, ..creatable("t", 1) }, ErrorCode::InvalidReplicationFactor),
            (option("no.such", "1"), ErrorCode::InvalidConfig),
            (option("retention.ms", "x"), ErrorCode::InvalidConfig),
            (option("riverrun.writer", "me"), ErrorCode::InvalidConfig),
            (option("riverrun.used_by", "me"), ErrorCode::InvalidConfig),
            (assigned(&[node + 1]), ErrorCode::InvalidReplicaAssignment),
        ] {
            for validate_only in [true, false] {
                assert_eq!(create(&mut client, 5, topic.clone(), validate_only).await, code.code(), "{topic:?}");
            }
        }
        assert_eq!(create(&mut client, 5, creatable("t", 2), true).await, 0);
        assert!(fixture.backend.topic("t").is_none());
        for version in 2..=7 {
            assert_eq!(create(&mut client, version, assigned(&[node, node]), false).await, 0);
            let topic = fixture.topic("t");
            assert_eq!(topic.partitions, 2);
            let answer: DeleteTopicsResponse =
                client.call(Api::DeleteTopics, version - 1, &delete(version - 1, &topic)).await;
            assert_eq!(answer.responses[0].error_code, 0);
            assert!(fixture.backend.topic("t").is_none());
            let again: DeleteTopicsResponse =
                client.call(Api::DeleteTopics, version - 1, &delete(version - 1, &topic)).await;
            let unknown = if version == 7 { ErrorCode::UnknownTopicId } else { ErrorCode::UnknownTopicOrPartition };
            assert_eq!(again.responses[0].error_code, unknown.code());
        }
        for name in ["view", "used"] {
            let request = delete(1, &fixture.topic(name));
            let kept: DeleteTopicsResponse = client.call(Api::DeleteTopics, 1, &request).await;
            assert_eq!(kept.responses[0].error_code, ErrorCode::TopicAuthorizationFailed.code());
        }
        let twice = vec![creatable("t", 1), creatable("t", 1)];
        let request = CreateTopicsRequest { topics: twice, ..CreateTopicsRequest::default() };
        let answer: CreateTopicsResponse = client.call(Api::CreateTopics, 5, &request).await;
        assert!(answer.topics.iter().all(|topic| topic.error_code == ErrorCode::InvalidRequest.code()));
        let request = CreateTopicsRequest { topics: vec![option("retention.ms", "-1")], ..Default::default() };
        let answer: CreateTopicsResponse = client.call(Api::CreateTopics, 7, &request).await;
        let configs = answer.topics[0].configs.as_ref().unwrap();
        let retention = configs.iter().find(|config| config.name.text() == "retention.ms").unwrap();
        assert_eq!((retention.value.as_ref().unwrap().text().as_ref(), retention.config_source), ("-1", 1));
    });
}

fn delete(version: i16, topic: &Topic) -> DeleteTopicsRequest {
    let by_id = DeleteTopicState { name: None, topic_id: Uuid(topic.id.0) };
    DeleteTopicsRequest {
        topics: if version >= 6 { vec![by_id] } else { vec![] },
        topic_names: if version >= 6 { vec![] } else { vec![Str::from(topic.name.as_str())] },
        timeout_ms: 5_000,
    }
}
