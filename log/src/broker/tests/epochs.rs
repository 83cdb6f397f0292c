//! OffsetForLeaderEpoch, and fetches that say in which epoch they read last.

use super::client::{fetch_request, produce_request};
use super::*;
use crate::record::TopicPartition;
use crate::wire::api::Api;
use crate::wire::error_code::ErrorCode;
use crate::wire::fetch::FetchRequest;
use crate::wire::offsets::{
    OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse, OffsetForLeaderPartition, OffsetForLeaderTopic,
};
use crate::wire::primitive::Str;

/// Error code, epoch and end offset.
async fn end_of(client: &mut Client, version: i16, topic: &str, asked: OffsetForLeaderPartition) -> (i16, i32, i64) {
    let topics = vec![OffsetForLeaderTopic { topic: Str::from(topic), partitions: vec![asked] }];
    let request = OffsetForLeaderEpochRequest { replica_id: -1, topics };
    let answer: OffsetForLeaderEpochResponse = client.call(Api::OffsetForLeaderEpoch, version, &request).await;
    let found = &answer.topics[0].partitions[0];
    (found.error_code, found.leader_epoch, found.end_offset)
}

/// A topic whose records 0..2 were written in epoch 1 and 2..5 in epoch 3; epoch 2 wrote nothing, and this is epoch 4.
async fn lives(env: &Env) -> Fixture {
    for (life, count) in [2, 0, 3].into_iter().enumerate() {
        let node = Node::open(env.clone(), Path::new("/data"), NodeConfig::default()).await.unwrap();
        let backend = Arc::clone(&node) as Arc<dyn Backend>;
        if life == 0 {
            let topic = NewTopic { name: "one".to_owned(), partitions: 1, config: Default::default() };
            backend.create_topic(topic).await.unwrap();
        }
        let partition = TopicPartition { topic: backend.topic("one").unwrap().id, partition: 0 };
        if count > 0 {
            backend.log(partition).unwrap().append(vec![NewRecord::default(); count]).await.unwrap();
        }
        node.shutdown().await;
    }
    let backend = backend(env).await;
    let listener = env.listen("127.0.0.1:0").await.unwrap();
    let server = serve(env, listener, Arc::clone(&backend), BrokerConfig::default());
    Fixture { env: env.clone(), backend, server }
}

fn with_lives<F: Future<Output = ()>>(test: impl FnOnce(Fixture) -> F) {
    let env = Env::simulated(7);
    env.run(async {
        let fixture = lives(&env).await;
        test(fixture).await;
    });
}

#[test]
fn an_epoch_ends_where_the_next_one_wrote() {
    with_lives(|fixture| async move {
        let mut client = fixture.client().await;
        let of = |leader_epoch, current_leader_epoch| OffsetForLeaderPartition {
            partition: 0,
            current_leader_epoch,
            leader_epoch,
        };
        for version in 2..=4 {
            for (asked, expect) in [
                (of(1, -1), (0, 1, 2)),
                (of(2, -1), (0, 1, 2)),
                (of(3, 4), (0, 3, 5)),
                (of(4, 4), (0, 4, 5)),
                (of(0, -1), (0, 0, 0)),
                // Not known is no error.
                (of(5, -1), (0, -1, -1)),
                (of(-1, -1), (0, -1, -1)),
                (of(1, 3), (ErrorCode::FencedLeaderEpoch.code(), -1, -1)),
                (of(1, 5), (ErrorCode::UnknownLeaderEpoch.code(), -1, -1)),
            ] {
                assert_eq!(end_of(&mut client, version, "one", asked.clone()).await, expect, "{asked:?}");
            }
        }
        let unknown = (ErrorCode::UnknownTopicOrPartition.code(), -1, -1);
        assert_eq!(end_of(&mut client, 4, "none", of(1, -1)).await, unknown);
        let elsewhere = OffsetForLeaderPartition { partition: 1, ..of(1, -1) };
        assert_eq!(end_of(&mut client, 4, "one", elsewhere).await, unknown);
        let sent = batch(&fixture.env, &["x"]);
        assert_eq!(client.produce(9, &produce_request("one", 1, &[(0, &sent)])).await.base_offset, 5);
        assert_eq!(end_of(&mut client, 4, "one", of(4, 4)).await, (0, 4, 6));
        let partition = TopicPartition { topic: fixture.topic("one").id, partition: 0 };
        fixture.backend.log(partition).unwrap().trim(crate::Offset(3)).await.unwrap();
        assert_eq!(end_of(&mut client, 4, "one", of(2, -1)).await, (0, 2, 3), "what it held is gone");
        assert_eq!(end_of(&mut client, 4, "one", of(3, -1)).await, (0, 3, 5));
    });
}

#[test]
fn a_reader_of_something_else_is_told_where_it_parted() {
    with_lives(|fixture| async move {
        let mut client = fixture.client().await;
        let of = |last_fetched_epoch, offset| {
            let mut request = FetchRequest { max_wait_ms: 60_000, ..fetch_request("one", 0, offset) };
            request.topics[0].partitions[0].last_fetched_epoch = last_fetched_epoch;
            request
        };
        // Offset 3 was not written in epoch 1, and epoch 2 wrote nothing at all.
        for (request, diverging) in [(of(1, 3), (1, 2)), (of(2, 2), (1, 2)), (of(3, 6), (3, 5))] {
            let start = fixture.env.monotonic();
            let (data, found) = client.fetch(12, &request).await;
            assert_eq!((data.error_code, found.len()), (0, 0));
            assert_eq!((data.diverging_epoch.epoch, data.diverging_epoch.end_offset), diverging, "{request:?}");
            assert!(fixture.env.monotonic() - start < SECOND, "it is not waited with");
        }
        for (request, count) in [(of(1, 2), 1), (of(3, 4), 1), (of(-1, 0), 2)] {
            let (data, found) = client.fetch(12, &request).await;
            assert_eq!((data.error_code, data.diverging_epoch.epoch, found.len()), (0, -1, count));
        }
        for request in [of(5, 2), of(1, -1)] {
            let (data, _) = client.fetch(12, &request).await;
            assert_eq!(data.error_code, ErrorCode::OffsetOutOfRange.code());
        }
    });
}
