//! Fetch and ListOffsets.

use super::client::{batches, fetch_request, produce_request};
use super::*;
use crate::record::TopicPartition;
use crate::wire::api::Api;
use crate::wire::error_code::ErrorCode;
use crate::wire::fetch::{FetchPartition, FetchRequest, FetchResponse, FetchTopic};
use crate::wire::offsets::{
    ListOffsetsPartition, ListOffsetsPartitionResponse, ListOffsetsRequest, ListOffsetsResponse, ListOffsetsTopic,
    special,
};
use crate::wire::primitive::{Str, Uuid};

/// Fills partition 0 of `one` with batches of these sizes.
async fn fill(fixture: &Fixture, client: &mut Client, sizes: &[usize]) {
    for &size in sizes {
        let sent = batch(&fixture.env, &["x".repeat(size).as_str(), "y"]);
        assert_eq!(client.produce(9, &produce_request("one", 1, &[(0, &sent)])).await.error_code, 0);
    }
}

#[test]
fn every_version_reads_whole_batches() {
    with_broker(|fixture| async move {
        let mut client = fixture.client().await;
        fill(&fixture, &mut client, &[10, 2_000, 10]).await;
        for version in 4..=18 {
            let mut request = fetch_request("one", 0, 1);
            request.topics[0].topic_id = Uuid(fixture.topic("one").id.0);
            for isolation_level in [0, 1] {
                request.isolation_level = isolation_level;
                let (data, found) = client.fetch(version, &request).await;
                assert_eq!(data.error_code, 0);
                let offsets: Vec<_> = found.iter().map(|batch| batch.base_offset().0).collect();
                assert_eq!(offsets, [0, 2, 4], "the batch of the offset asked for is there as a whole");
                assert_eq!((data.high_watermark, data.last_stable_offset), (6, 6));
                assert_eq!(data.aborted_transactions.is_some(), isolation_level == 1);
            }
        }
    });
}

#[test]
fn sizes_are_limits_but_for_the_first_batch() {
    with_broker(|fixture| async move {
        let mut client = fixture.client().await;
        fill(&fixture, &mut client, &[3_000, 3_000, 3_000]).await;
        let sent = batch(&fixture.env, &["z"]);
        client.produce(9, &produce_request("three", 1, &[(1, &sent)])).await;
        let sizes = async |client: &mut Client, partition_max: i32, max: i32| {
            let mut request = fetch_request("one", 0, 0);
            request.max_bytes = max;
            request.topics[0].partitions[0].partition_max_bytes = partition_max;
            request.topics.extend(fetch_request("three", 1, 0).topics);
            let response: FetchResponse = client.call(Api::Fetch, 11, &request).await;
            response.responses.iter().map(|topic| batches(&topic.partitions[0]).len()).collect::<Vec<_>>()
        };
        assert_eq!(sizes(&mut client, 1 << 20, 1 << 20).await, [3, 1]);
        assert_eq!(sizes(&mut client, 7_000, 1 << 20).await, [2, 1]);
        assert_eq!(sizes(&mut client, 1, 1 << 20).await, [1, 1]);
        assert_eq!(sizes(&mut client, 1 << 20, 1).await, [1, 0]);
        assert_eq!(sizes(&mut client, 1 << 20, 0).await, [1, 0]);
    });
}

#[test]
fn a_fetch_waits_for_data_and_no_longer() {
    with_broker(|fixture| async move {
        let (mut reader, mut writer) = (fixture.client().await, fixture.client().await);
        let request = FetchRequest { max_wait_ms: 5_000, ..fetch_request("one", 0, 0) };
        let start = fixture.env.monotonic();
        let (_, found) = reader.fetch(12, &request).await;
        let waited = fixture.env.monotonic() - start;
        assert!(found.is_empty() && waited >= 5 * SECOND && waited < 6 * SECOND, "{waited:?}");

        let start = fixture.env.monotonic();
        reader.send(Api::Fetch, 12, &request).await;
        fixture.env.sleep(SECOND).await;
        fill(&fixture, &mut writer, &[10]).await;
        let response: FetchResponse = reader.receive(Api::Fetch, 12).await;
        assert_eq!(batches(&response.responses[0].partitions[0]).len(), 1);
        assert!(fixture.env.monotonic() - start < 2 * SECOND, "it is told, it does not look now and then");

        let start = fixture.env.monotonic();
        reader.send(Api::Fetch, 12, &FetchRequest { min_bytes: 5_000, ..request.clone() }).await;
        fixture.env.sleep(SECOND).await;
        fill(&fixture, &mut writer, &[1_000]).await;
        fixture.env.sleep(SECOND).await;
        fill(&fixture, &mut writer, &[5_000]).await;
        let response: FetchResponse = reader.receive(Api::Fetch, 12).await;
        assert_eq!(batches(&response.responses[0].partitions[0]).len(), 3);
        assert!(fixture.env.monotonic() - start >= 2 * SECOND);
    });
}

#[test]
fn a_fetch_does_not_wait_for_more_than_its_answer_may_hold() {
    let config = BrokerConfig { fetch_bytes_max: 8_000, ..BrokerConfig::default() };
    with_config(config, |fixture| async move {
        let mut client = fixture.client().await;
        fill(&fixture, &mut client, &[3_000, 3_000, 3_000]).await;
        let fetch = |min_bytes, max_bytes, partition_max_bytes| {
            let mut request = FetchRequest { max_wait_ms: 60_000, min_bytes, max_bytes, ..fetch_request("one", 0, 0) };
            request.topics[0].partitions[0].partition_max_bytes = partition_max_bytes;
            request
        };
        for (request, batches) in [
            // Less than a minimum that is over the request's own limit, over the broker's, or no whole batch below it.
            (fetch(1 << 20, 4_000, 1 << 20), 1),
            (fetch(1 << 20, i32::MAX, 1 << 20), 2),
            (fetch(7_900, 1 << 20, 1 << 20), 2),
            (fetch(5_000, 1 << 20, 5_000), 1),
            (fetch(5_000, 0, 1 << 20), 1),
        ] {
            let start = fixture.env.monotonic();
            let (_, found) = client.fetch(12, &request).await;
            assert_eq!(found.len(), batches, "{request:?}");
            assert!(fixture.env.monotonic() - start < SECOND, "{request:?} waited");
        }
        // What is not there is waited for.
        let start = fixture.env.monotonic();
        let mut request = fetch(7_000, 1 << 20, 1 << 20);
        request.topics[0].partitions[0].fetch_offset = 4;
        assert_eq!(client.fetch(12, &request).await.1.len(), 1);
        assert!(fixture.env.monotonic() - start >= 60 * SECOND);
    });
}

#[test]
fn a_fetch_that_cannot_be_served_says_why() {
    with_broker(|fixture| async move {
        let mut client = fixture.client().await;
        fill(&fixture, &mut client, &[10]).await;
        let epoch = fixture.backend.bounds(TopicPartition { topic: fixture.topic("one").id, partition: 0 });
        let epoch = epoch.unwrap().epoch.0;
        let of = |topic, partition, offset, current_leader_epoch| {
            let mut request = FetchRequest { max_wait_ms: 60_000, ..fetch_request(topic, partition, offset) };
            request.topics[0].partitions[0] =
                FetchPartition { current_leader_epoch, ..request.topics[0].partitions[0].clone() };
            request
        };
        for (request, code) in [
            (of("none", 0, 0, -1), ErrorCode::UnknownTopicOrPartition),
            (of("one", 1, 0, -1), ErrorCode::UnknownTopicOrPartition),
            (of("one", 0, 3, -1), ErrorCode::OffsetOutOfRange),
            (of("one", 0, -1, -1), ErrorCode::OffsetOutOfRange),
            (of("one", 0, 0, epoch - 1), ErrorCode::FencedLeaderEpoch),
            (of("one", 0, 0, epoch + 1), ErrorCode::UnknownLeaderEpoch),
            (of("one", 0, 0, epoch), ErrorCode::None),
        ] {
            let start = fixture.env.monotonic();
            let (data, _) = client.fetch(12, &request).await;
            assert_eq!(data.error_code, code.code(), "{request:?}");
            assert!(fixture.env.monotonic() - start < SECOND, "an error is not waited with");
        }
        let (data, _) = client.fetch(13, &fetch_request("one", 0, 0)).await;
        assert_eq!(data.error_code, ErrorCode::UnknownTopicId.code());
        let session = FetchRequest { session_id: 3, session_epoch: 1, ..fetch_request("one", 0, 0) };
        let response: FetchResponse = client.call(Api::Fetch, 12, &session).await;
        assert_eq!(response.error_code, ErrorCode::FetchSessionIdNotFound.code());
        let session = FetchRequest { session_epoch: 0, ..fetch_request("one", 0, 0) };
        let response: FetchResponse = client.call(Api::Fetch, 12, &session).await;
        assert_eq!((response.error_code, response.session_id), (0, 0));
    });
}

#[test]
fn zstd_goes_to_nobody_who_cannot_read_it() {
    with_broker(|fixture| async move {
        let mut client = fixture.client().await;
        let plain = batch(&fixture.env, &["x"]);
        let packed = plain.packed_with_zstd();
        let request = produce_request("one", 1, &[(0, &packed)]);
        let unsupported = ErrorCode::UnsupportedCompressionType.code();
        assert_eq!(client.produce(6, &request).await.error_code, unsupported);
        assert_eq!(client.produce(7, &request).await.error_code, 0);
        assert_eq!(client.fetch(9, &fetch_request("one", 0, 0)).await.0.error_code, unsupported);
        let (_, found) = client.fetch(10, &fetch_request("one", 0, 0)).await;
        assert_eq!(found[0].body(), packed.body());
    });
}

async fn list(client: &mut Client, version: i16, timestamp: i64) -> ListOffsetsPartitionResponse {
    let partitions = vec![ListOffsetsPartition { timestamp, ..Default::default() }];
    let topics = vec![ListOffsetsTopic { name: Str::from("one"), partitions }];
    let request = ListOffsetsRequest { replica_id: -1, topics, ..Default::default() };
    let mut response: ListOffsetsResponse = client.call(Api::ListOffsets, version, &request).await;
    response.topics.remove(0).partitions.remove(0)
}

#[test]
fn offsets_are_found_by_end_start_and_time() {
    with_broker(|fixture| async move {
        let mut client = fixture.client().await;
        let nothing = list(&mut client, 7, special::MAX_TIMESTAMP).await;
        assert_eq!((nothing.offset, nothing.timestamp), (-1, -1));
        let start_ms = fixture.env.now_ms();
        let record = |timestamp_ms| NewRecord { timestamp_ms: Some(start_ms + timestamp_ms), ..NewRecord::default() };
        let frame = Frame { now_ms: 0, producer: None, transactional: false, batch_bytes_max: 1 << 20 };
        for times in [[10, 20, 30], [40, 90, 50]] {
            let sent = Batch::build(&times.map(record), &frame).unwrap().packed_with_zstd();
            client.produce(9, &produce_request("one", 1, &[(0, &sent)])).await;
        }
        for version in 1..=11 {
            let mut at = async |timestamp| {
                let found = list(&mut client, version, timestamp).await;
                assert_eq!(found.error_code, 0);
                (found.offset, if found.timestamp < 0 { found.timestamp } else { found.timestamp - start_ms })
            };
            assert_eq!(at(special::LATEST).await, (6, -1));
            assert_eq!(at(special::EARLIEST).await, (0, -1));
            assert_eq!(at(0).await, (0, 10));
            assert_eq!(at(start_ms + 21).await, (2, 30), "exact inside of a packed batch");
            assert_eq!(at(start_ms + 45).await, (4, 90));
            assert_eq!(at(start_ms + 91).await, (-1, -1));
            if version >= 7 {
                assert_eq!(at(special::MAX_TIMESTAMP).await, (4, 90));
            }
            if version >= 8 {
                assert_eq!(at(special::EARLIEST_LOCAL).await, (0, -1));
            }
        }
        let refused = list(&mut client, 6, special::MAX_TIMESTAMP).await;
        assert_eq!(refused.error_code, ErrorCode::UnsupportedVersion.code());
    });
}

#[test]
fn readers_of_the_committed_are_told_what_is_void() {
    with_broker(|fixture| async move {
        let mut client = fixture.client().await;
        let partition = TopicPartition { topic: fixture.topic("one").id, partition: 0 };
        let records = |text: &'static str| vec![NewRecord { value: Some(text.into()), ..NewRecord::default() }; 2];
        let mut producer = fixture.backend.producer("t").await.unwrap();
        for (text, commit) in [("committed", true), ("void", false), ("committed", true)] {
            producer.append(partition, records(text)).await.unwrap();
            if commit {
                producer.commit().await.unwrap();
            } else {
                producer.abort().await.unwrap();
            }
        }
        producer.append(partition, records("open")).await.unwrap();
        // What is acknowledged behind it makes it durable too.
        assert_eq!(
            client.produce(9, &produce_request("one", 1, &[(0, &batch(&fixture.env, &["x"]))])).await.base_offset,
            11
        );
        let at = |isolation_level| FetchRequest { isolation_level, ..fetch_request("one", 0, 0) };
        // Two records and a marker each: 0-2, 3-5, 6-8.
        let (data, found) = client.fetch(12, &at(1)).await;
        let aborted = data.aborted_transactions.unwrap();
        assert_eq!(aborted.len(), 1);
        assert_eq!(aborted[0].first_offset, 3);
        assert_eq!(data.last_stable_offset, 9);
        assert_eq!(found.last().unwrap().next_offset().0, 9, "nothing of the open transaction");
        let markers: Vec<_> =
            found.iter().filter_map(|batch| batch.marker().unwrap()).map(|mark| mark.commit).collect();
        assert_eq!(markers, [true, false, true]);
        let void = found.iter().find(|batch| batch.base_offset().0 == 3).unwrap();
        assert_eq!(void.producer().unwrap().id, aborted[0].producer_id);
        assert_eq!(list_as(&mut client, 1).await, 9);

        let wait = FetchRequest { max_wait_ms: 5_000, ..at(0) };
        let partitions = vec![FetchPartition { fetch_offset: 9, ..wait.topics[0].partitions[0].clone() }];
        let topics = vec![FetchTopic { partitions, ..wait.topics[0].clone() }];
        let (data, found) = client.fetch(12, &FetchRequest { topics, ..wait }).await;
        assert!(data.aborted_transactions.is_none());
        assert_eq!((found[0].base_offset().0, found[0].is_transactional()), (9, true));
        assert_eq!(list_as(&mut client, 0).await, 12);
    });
}

/// The latest offset of `one` for readers of this isolation level.
async fn list_as(client: &mut Client, isolation_level: i8) -> i64 {
    let partitions = vec![ListOffsetsPartition { timestamp: special::LATEST, ..Default::default() }];
    let topics = vec![ListOffsetsTopic { name: Str::from("one"), partitions }];
    let request = ListOffsetsRequest { isolation_level, topics, ..Default::default() };
    let response: ListOffsetsResponse = client.call(Api::ListOffsets, 5, &request).await;
    response.topics[0].partitions[0].offset
}
