//! How long a partition remembers idempotent producers, over restarts and crashes.

use std::time::Duration;

use super::*;
use crate::Batch;
use crate::record::batch::Producer;
use crate::record::build::Frame;

const EXPIRATION: Duration = Duration::from_secs(60);

fn config() -> NodeConfig {
    NodeConfig { producer_expiration_ms: EXPIRATION.as_millis() as u64, ..NodeConfig::default() }
}

async fn start(env: &Env) -> Arc<Node> {
    Node::open(env.clone(), dir(), config()).await.unwrap()
}

/// Retention takes nothing from it, however old that is.
async fn kept(node: &Node) -> TopicPartition {
    let config = [("retention.ms".to_owned(), "-1".to_owned())].into();
    let topic = NewTopic { name: "a".to_owned(), partitions: 1, config };
    TopicPartition { topic: node.create_topic(topic).await.unwrap().id, partition: 0 }
}

/// Sends one record, whose time is long ago; where it is, or the sequence that was expected.
async fn send(node: &Node, at: TopicPartition, id: i64, base_sequence: i32) -> Result<i64, i32> {
    let producer = Some(Producer { id, epoch: 0, base_sequence });
    let frame = Frame { now_ms: 1, producer, transactional: false, batch_bytes_max: 1 << 20 };
    let batch = Batch::build(&[record("idempotent")], &frame).unwrap();
    match node.append_raw(at, batch).await.unwrap().await.unwrap() {
        Ok(appended) => Ok(appended.base_offset.0),
        Err(Error::OutOfOrderSequence { expected, .. }) => Err(expected),
        Err(error) => panic!("{error}"),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Between {
    Nothing,
    Shutdown,
    /// What was sent is known to a checkpoint.
    CheckpointAndCrash,
    /// It stands in the write-ahead log alone.
    Crash,
}

async fn restart(env: &Env, disk: &SimDisk, node: Arc<Node>, how: Between) -> Arc<Node> {
    match how {
        Between::Nothing => return node,
        Between::Shutdown => node.shutdown().await,
        Between::CheckpointAndCrash => node.checkpoint().await.unwrap(),
        Between::Crash => {}
    }
    if how != Between::Shutdown {
        env.drop_tasks();
        disk.crash();
    }
    drop(node);
    start(env).await
}

#[test]
fn an_idempotent_producer_is_known_until_it_expires() {
    for how in [Between::Nothing, Between::Shutdown, Between::CheckpointAndCrash, Between::Crash] {
        let disk = SimDisk::new(1);
        let env = Env::simulated(1).with_disk(Arc::new(disk.clone()));
        env.run(async {
            let node = start(&env).await;
            let at = kept(&node).await;
            for sequence in 0..3 {
                assert_eq!(send(&node, at, 7, sequence).await, Ok(i64::from(sequence)), "{how:?}");
            }
            let sent = env.monotonic();
            env.sleep(EXPIRATION / 2).await;
            let node = restart(&env, &disk, node, how).await;
            // A batch that is only in the log is heard of by recovery, however it came to be read.
            let restarted = env.monotonic();
            let from = if matches!(how, Between::Crash | Between::Shutdown) { restarted } else { sent };
            env.sleep(from + EXPIRATION - env.monotonic() - Duration::from_secs(2)).await;
            assert_eq!(send(&node, at, 7, 2).await, Ok(2), "{how:?}: it is repeated in time");
            assert_eq!(send(&node, at, 7, 5).await, Err(3), "{how:?}");
            env.sleep(Duration::from_secs(3)).await;
            // Whatever comes first is taken, and is what counts from now on.
            assert_eq!(send(&node, at, 7, 2).await, Ok(3), "{how:?}");
            assert_eq!(send(&node, at, 7, 2).await, Ok(3), "{how:?}");
            assert_eq!(send(&node, at, 7, 4).await, Err(3), "{how:?}");
            let node = restart(&env, &disk, node, how).await;
            assert_eq!(send(&node, at, 7, 2).await, Ok(3), "{how:?}: what was forgotten does not come back");
            assert_eq!(send(&node, at, 7, 1).await, Err(3), "{how:?}");
            assert_eq!(send(&node, at, 7, 3).await, Ok(4), "{how:?}");
            node.shutdown().await;
        });
    }
}

#[test]
fn nobody_expires_with_an_open_transaction() {
    let disk = SimDisk::new(1);
    let env = Env::simulated(1).with_disk(Arc::new(disk.clone()));
    env.run(async {
        let node = start(&env).await;
        let at = kept(&node).await;
        let mut producers = [node.producer("one").await.unwrap(), node.producer("two").await.unwrap()];
        for producer in &mut producers {
            producer.append(at, vec![record("in a transaction")]).await.unwrap();
        }
        env.sleep(3 * EXPIRATION).await;
        let [mut one, mut two] = producers;
        one.abort().await.unwrap();
        two.commit().await.unwrap();
        assert_eq!(all(&node, at, Isolation::Committed).await, ["in a transaction"]);
        drop((one, two));
        let node = restart(&env, &disk, node, Between::Crash).await;
        assert_eq!(all(&node, at, Isolation::Committed).await, ["in a transaction"]);
        node.shutdown().await;
    });
}

/// What is forgotten takes no room in checkpoints any more, though nobody sends anything.
#[test]
fn those_that_have_expired_are_forgotten_by_themselves() {
    let disk = SimDisk::new(1);
    let env = Env::simulated(1).with_disk(Arc::new(disk.clone()));
    env.run(async {
        let node = start(&env).await;
        let at = kept(&node).await;
        // Bytes of the last statement in the checkpoint's file: the bodies of its blocks, of which the last one is not of
        // kind 3.
        let checkpoint = async || {
            node.checkpoint().await.unwrap();
            let is_checkpoint = |path: &Path| path.to_string_lossy().contains("/checkpoint-");
            let (_, bytes) = disk.image().into_iter().rfind(|(path, _)| is_checkpoint(path)).unwrap();
            let (mut at, mut last, mut statement) = (0, 0, 0);
            while let Some(header) = bytes.get(at..at + 48).filter(|header| header.starts_with(b"RRC1")) {
                let body = u32::from_le_bytes(header[4..8].try_into().unwrap()) as usize;
                statement += body;
                if header[24] != 3 {
                    last = std::mem::take(&mut statement);
                }
                at += 48 + body;
            }
            last
        };
        checkpoint().await;
        for id in 0..300 {
            send(&node, at, id, 0).await.unwrap();
        }
        let with = checkpoint().await;
        assert!(with > 300 * 40, "{with} bytes tell of 300 producers");
        env.sleep(EXPIRATION + Duration::from_secs(3)).await;
        let without = checkpoint().await;
        assert!((1..5000).contains(&without), "{without} bytes, and nobody is left");
        assert_eq!(send(&node, at, 3, 0).await, Ok(300));
        node.shutdown().await;
    });
}
