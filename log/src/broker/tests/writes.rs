//! Produce and InitProducerId.

use super::client::{fetch_request, produce_request};
use super::*;
use crate::record::TopicPartition;
use crate::record::build::Marker;
use crate::wire::api::Api;
use crate::wire::error_code::ErrorCode;
use crate::wire::primitive::{Str, Uuid};
use crate::wire::produce::{InitProducerIdRequest, InitProducerIdResponse, ProduceResponse};

fn bytes_of(batch: &Batch) -> Vec<u8> {
    let mut bytes = Vec::new();
    batch.write_to(&mut bytes);
    bytes
}

#[test]
fn batches_come_back_as_they_went_in() {
    with_broker(|fixture| async move {
        let mut client = fixture.client().await;
        let sent = batch(&fixture.env, &["a", "b", &"c".repeat(5_000)]);
        for version in 3..=12 {
            let answer = client.produce(version, &produce_request("one", -1, &[(0, &sent)])).await;
            let expected = i64::from(version - 3) * 3;
            assert_eq!((answer.error_code, answer.base_offset), (0, expected), "version {version}");
            let (_, found) = client.fetch(12, &fetch_request("one", 0, expected)).await;
            assert_eq!(found[0].base_offset().0, expected);
            assert_eq!(bytes_of(&found[0])[16..], bytes_of(&sent)[16..], "only offset and epoch are ours");
        }
        let mut request = produce_request("one", 1, &[(0, &sent)]);
        request.topic_data[0].topic_id = Uuid(fixture.topic("one").id.0);
        assert_eq!(client.produce(13, &request).await.base_offset, 30);
        request.topic_data[0].topic_id = Uuid([9; 16]);
        assert_eq!(client.produce(13, &request).await.error_code, ErrorCode::UnknownTopicId.code());
    });
}

#[test]
fn requests_sent_at_once_are_appended_and_answered_in_order() {
    with_broker(|fixture| async move {
        let mut client = fixture.client().await;
        let sent = batch(&fixture.env, &["x"]);
        let mut bytes = Vec::new();
        for _ in 0..50 {
            bytes.extend(client.frame(Api::Produce, 9, &produce_request("three", 1, &[(0, &sent), (2, &sent)])));
        }
        bytes.extend(client.frame(Api::Fetch, 12, &fetch_request("three", 2, 0)));
        bytes.extend(client.frame(Api::Produce, 9, &produce_request("three", 1, &[(2, &sent)])));
        client.send_bytes(&bytes).await;
        for offset in 0..50 {
            let answer: ProduceResponse = client.receive(Api::Produce, 9).await;
            let offsets: Vec<_> =
                answer.responses[0].partition_responses.iter().map(|part| (part.index, part.base_offset)).collect();
            assert_eq!(offsets, [(0, offset), (2, offset)]);
        }
        let fetched: crate::wire::fetch::FetchResponse = client.receive(Api::Fetch, 12).await;
        assert_eq!(fetched.responses[0].partitions[0].high_watermark, 50, "what comes behind it has not been started");
        let last: ProduceResponse = client.receive(Api::Produce, 9).await;
        assert_eq!(last.responses[0].partition_responses[0].base_offset, 50);
    });
}

#[test]
fn without_acks_there_is_no_answer_and_an_error_closes() {
    with_broker(|fixture| async move {
        let mut client = fixture.client().await;
        let sent = batch(&fixture.env, &["x"]);
        let mut bytes = client.frame(Api::Produce, 9, &produce_request("one", 0, &[(0, &sent)]));
        client.send_bytes(&std::mem::take(&mut bytes)).await;
        // The next answer is that of the next request: skip the number of the one without.
        let skipped = client.frame(Api::Produce, 9, &produce_request("one", 1, &[(0, &sent)]));
        client.send_bytes(&skipped).await;
        client.expect_next(2);
        let answer: ProduceResponse = client.receive(Api::Produce, 9).await;
        assert_eq!(answer.responses[0].partition_responses[0].base_offset, 1);
        client.send(Api::Produce, 9, &produce_request("none", 0, &[(0, &sent)])).await;
        assert!(client.is_closed().await);
    });
}

/// Sends one batch to a topic; gives the error code.
async fn refused(client: &mut Client, version: i16, topic: &str, batch: &Batch) -> i16 {
    client.produce(version, &produce_request(topic, 1, &[(0, batch)])).await.error_code
}

#[test]
fn what_is_no_good_batch_is_refused_alone() {
    with_broker(|fixture| async move {
        let mut client = fixture.client().await;
        let env = &fixture.env;
        let good = batch(env, &["x"]);
        let producer = Producer { id: 5, epoch: 0, base_sequence: 0 };
        let transactional = batch_of(env, &["x"], Some(producer), true);
        let marker = Batch::build_marker(5, 0, Marker { commit: true, coordinator_epoch: 0 }, env.now_ms());
        let mut damaged = bytes_of(&good);
        *damaged.last_mut().unwrap() ^= 1;
        let big = batch(env, &["x".repeat(1 << 19).as_str(), "y".repeat((1 << 19) - 100).as_str()]);
        let mut late = NewRecord { value: Some("x".into()), ..NewRecord::default() };
        late.timestamp_ms = Some(env.now_ms() + 2 * 3_600_000);
        let frame = Frame { now_ms: 0, producer: None, transactional: false, batch_bytes_max: 1 << 20 };
        let late = Batch::build(&[late], &frame).unwrap();
        for (topic, batch, code) in [
            ("none", &good, ErrorCode::UnknownTopicOrPartition),
            ("view", &good, ErrorCode::TopicAuthorizationFailed),
            ("__transaction_state", &good, ErrorCode::InvalidTopic),
            ("one", &transactional, ErrorCode::InvalidTxnState),
            ("one", &marker, ErrorCode::InvalidRecord),
            ("one", &late, ErrorCode::InvalidTimestamp),
            ("compact", &good, ErrorCode::InvalidRecord),
            ("one", &big, ErrorCode::None),
            ("used", &good, ErrorCode::None),
            ("stamped", &late, ErrorCode::None),
        ] {
            assert_eq!(refused(&mut client, 9, topic, batch).await, code.code(), "{batch:?} to {topic}");
        }
        let mut request = produce_request("one", 1, &[(0, &good), (7, &good)]);
        request.topic_data[0].partition_data[0].records = Some(damaged.into());
        let answer: ProduceResponse = client.call(Api::Produce, 9, &request).await;
        let codes: Vec<_> = answer.responses[0].partition_responses.iter().map(|part| part.error_code).collect();
        assert_eq!(codes, [ErrorCode::CorruptMessage.code(), ErrorCode::UnknownTopicOrPartition.code()]);
        request.topic_data[0].partition_data[0].records = None;
        assert_eq!(client.produce(9, &request).await.error_code, ErrorCode::InvalidRecord.code());
        request = produce_request("one", 2, &[(0, &good)]);
        assert_eq!(client.produce(9, &request).await.error_code, ErrorCode::InvalidRequiredAcks.code());
        request = produce_request("one", -1, &[(0, &good)]);
        request.transactional_id = Some(Str::from("t"));
        assert_eq!(client.produce(9, &request).await.error_code, ErrorCode::InvalidTxnState.code());
    });
}

#[test]
fn compacted_topics_say_which_record_has_no_key() {
    with_broker(|fixture| async move {
        let mut client = fixture.client().await;
        let frame =
            Frame { now_ms: fixture.env.now_ms(), producer: None, transactional: false, batch_bytes_max: 1 << 20 };
        let keyed = NewRecord { key: Some("k".into()), ..NewRecord::default() };
        let sent = Batch::build(&[keyed.clone(), NewRecord::default()], &frame).unwrap();
        let answer = client.produce(8, &produce_request("compact", 1, &[(0, &sent)])).await;
        assert_eq!(answer.error_code, ErrorCode::InvalidRecord.code());
        assert_eq!(answer.record_errors[0].batch_index, 1);
        let sent = Batch::build(&[keyed], &frame).unwrap();
        assert_eq!(refused(&mut client, 8, "compact", &sent).await, 0);
    });
}

#[test]
fn idempotent_producers_get_ids_and_repeat_without_harm() {
    with_broker(|fixture| async move {
        let mut client = fixture.client().await;
        let mut ids = Vec::new();
        for version in 0..=5 {
            let request = InitProducerIdRequest { transaction_timeout_ms: 1, ..Default::default() };
            let answer: InitProducerIdResponse = client.call(Api::InitProducerId, version, &request).await;
            assert_eq!((answer.error_code, answer.producer_epoch), (0, 0));
            assert!(!ids.contains(&answer.producer_id));
            ids.push(answer.producer_id);
        }
        let request = InitProducerIdRequest { transactional_id: Some(Str::from("t")), ..Default::default() };
        let answer: InitProducerIdResponse = client.call(Api::InitProducerId, 4, &request).await;
        assert_eq!((answer.error_code, answer.producer_id), (ErrorCode::InvalidRequest.code(), -1));

        let of = |base_sequence, epoch| {
            let producer = Producer { id: ids[0], epoch, base_sequence };
            batch_of(&fixture.env, &["x", "y"], Some(producer), false)
        };
        let mut send = async |batch: &Batch| {
            let answer = client.produce(9, &produce_request("one", -1, &[(0, batch)])).await;
            (answer.error_code, answer.base_offset)
        };
        assert_eq!(send(&of(0, 1)).await, (0, 0));
        assert_eq!(send(&of(2, 1)).await, (0, 2));
        assert_eq!(send(&of(0, 1)).await, (0, 0), "a repeated batch has the offset it had");
        assert_eq!(send(&of(9, 1)).await, (ErrorCode::OutOfOrderSequenceNumber.code(), -1));
        assert_eq!(send(&of(4, 0)).await, (ErrorCode::InvalidProducerEpoch.code(), -1));
        assert_eq!(send(&of(4, 1)).await, (0, 4));
    });
}

/// What stands in the queue before the repeated batch may be able to wait, as the data of an open transaction are; who
/// has sent the batch again must not wait for somebody else to write.
#[test]
fn a_repeated_batch_is_answered_though_what_is_queued_can_wait() {
    with_broker(|fixture| async move {
        let mut client = fixture.client().await;
        let answer: InitProducerIdResponse =
            client.call(Api::InitProducerId, 4, &InitProducerIdRequest::default()).await;
        let producer = Producer { id: answer.producer_id, epoch: 0, base_sequence: 0 };
        let request = produce_request("one", -1, &[(0, &batch_of(&fixture.env, &["x", "y"], Some(producer), false))]);
        assert_eq!(client.produce(9, &request).await.error_code, 0);

        let mut open = fixture.backend.producer("open").await.unwrap();
        let partition = TopicPartition { topic: fixture.topic("one").id, partition: 0 };
        open.append(partition, vec![NewRecord::default()]).await.unwrap();
        let began = fixture.env.monotonic();
        let answer = client.produce(9, &request).await;
        assert_eq!((answer.error_code, answer.base_offset), (0, 0));
        assert!(fixture.env.monotonic() - began < SECOND, "{:?}", fixture.env.monotonic() - began);
    });
}
