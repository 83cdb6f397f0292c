//! Records that are deleted on request: the start moves for good, and whole segments below it go from the disk.

use std::path::PathBuf;
use std::time::Duration;

use super::*;

/// The base offsets of a partition's segments on the disk.
fn segments(disk: &SimDisk, at: TopicPartition) -> Vec<i64> {
    let folder = PathBuf::from(format!("/data/topics/{:032x}/{}", u128::from_be_bytes(at.topic.0), at.partition));
    let name = |path: PathBuf| path.strip_prefix(&folder).ok().map(|name| name.to_string_lossy().into_owned());
    let names = disk.image().into_keys().filter_map(name);
    names.filter_map(|name| name.strip_suffix(".log").map(|base| base.parse().unwrap())).collect()
}

#[test]
fn a_start_that_was_moved_outlives_a_crash_and_segments_below_go() {
    for (seed, power_cut) in [(1, false), (2, true), (3, false), (4, true)] {
        let disk = SimDisk::new(seed);
        let env = Env::simulated(seed).with_disk(Arc::new(disk.clone()));
        let config = NodeConfig { segment_bytes_max: 2_500, wal_file_bytes: 6_000, ..NodeConfig::default() };
        env.run(async {
            let mut node = Node::open(env.clone(), dir(), config.clone()).await.unwrap();
            let (a, b) = (topic(&node, "a").await, topic(&node, "b").await);
            // A segment goes when recovery does not begin in front of what the write-ahead log has of it.
            let retain = async |node: &Node| {
                for _ in 0..20 {
                    node.log(b).unwrap().append(vec![record(&"x".repeat(400))]).await.unwrap();
                }
                env.sleep(Duration::from_secs(3)).await;
            };
            for i in 0..40 {
                node.log(a).unwrap().append(vec![record(&format!("{i:>400}"))]).await.unwrap();
            }
            node.checkpoint().await.unwrap();
            let before = segments(&disk, a);
            assert!(before.len() >= 8, "{before:?}");
            // In the middle of a segment.
            let cut = before[3] + 1;
            assert_eq!(node.log(a).unwrap().trim(Offset(cut)).await.unwrap(), Offset(cut));
            for life in 0..3 {
                match (life, power_cut) {
                    (0, _) => {}
                    (_, true) => disk.crash(),
                    (_, false) => disk.heal(),
                }
                if life > 0 {
                    env.drop_tasks();
                    drop(node);
                    node = Node::open(env.clone(), dir(), config.clone()).await.unwrap();
                }
                let log = node.log(a).unwrap();
                let bounds = log.bounds();
                assert_eq!((bounds.start, bounds.high_watermark), (Offset(cut), Offset(40)), "life {life}");
                let below = log.read(Offset(cut - 1), Offset(40), 1, Isolation::Committed).await;
                assert!(matches!(below, Err(Error::OutOfRange { start, .. }) if start == Offset(cut)), "{below:?}");
                let below = node.fetch_raw(a, Offset(cut - 1), 1, Isolation::Uncommitted).await;
                assert!(matches!(below, Err(Error::OutOfRange { .. })), "{below:?}");
                let first = node.find_timestamp(a, TimestampQuery::AtOrAfter(0), Isolation::Uncommitted).await.unwrap();
                assert_eq!(first.unwrap().offset, Offset(cut), "no time is found below");
                let kept = all(&node, a, Isolation::Committed).await;
                assert_eq!(kept, (cut..40).map(|i| format!("{i:>400}")).collect::<Vec<_>>());
                if life > 0 {
                    retain(&node).await;
                    assert_eq!(segments(&disk, a), before[3..], "life {life}");
                }
            }
            // All there is; a new segment begins, and the end is not forgotten without one.
            assert_eq!(node.log(a).unwrap().trim(Offset(40)).await.unwrap(), Offset(40));
            retain(&node).await;
            assert_eq!(segments(&disk, a), [0; 0]);
            disk.crash();
            env.drop_tasks();
            drop(node);
            node = Node::open(env.clone(), dir(), config).await.unwrap();
            assert_eq!(node.log(a).unwrap().append(vec![record("on")]).await.unwrap(), Offset(40));
            assert_eq!(all(&node, a, Isolation::Committed).await, ["on"]);
        });
    }
}

/// Its entry goes with the write-ahead log: by then the checkpoint must not name the partition any more.
#[test]
fn a_deleted_topic_is_not_left_in_the_checkpoint_by_a_crash() {
    let disk = SimDisk::new(5);
    let env = Env::simulated(5).with_disk(Arc::new(disk.clone()));
    let config = NodeConfig { wal_file_bytes: 6_000, ..NodeConfig::default() };
    env.run(async {
        let node = Node::open(env.clone(), dir(), config.clone()).await.unwrap();
        let (gone, other) = (topic(&node, "gone").await, topic(&node, "other").await);
        node.log(gone).unwrap().append(vec![record("seen by the checkpoint")]).await.unwrap();
        node.checkpoint().await.unwrap();
        node.checkpoint().await.unwrap();
        node.delete_topic("gone").await.unwrap();
        // Durable, and the deletion before it.
        node.log(other).unwrap().append(vec![record("x")]).await.unwrap();
        disk.crash();
        env.drop_tasks();
        drop(node);
        let node = Node::open(env.clone(), dir(), config).await.unwrap();
        for _ in 0..50 {
            node.log(other).unwrap().append(vec![record(&"x".repeat(400))]).await.unwrap();
        }
        node.checkpoint().await.unwrap();
        node.checkpoint().await.unwrap();
        node.shutdown().await;
        env.drop_tasks();
        drop(node);
        let directory = crate::offline::Directory::open(&env, dir()).unwrap();
        let stored = directory.partitions();
        assert!(stored.iter().all(|partition| partition.id != gone), "{stored:?}");
    });
}

/// The checkpoint does not know the partition any more, and the write-ahead log still holds batches of it.
#[test]
fn what_is_left_of_a_deleted_topic_is_no_damage() {
    let disk = SimDisk::new(6);
    let env = Env::simulated(6).with_disk(Arc::new(disk.clone()));
    env.run(async {
        let node = Node::open(env.clone(), dir(), NodeConfig { wal_file_bytes: 6_000, ..NodeConfig::default() })
            .await
            .unwrap();
        let (gone, other) = (topic(&node, "gone").await, topic(&node, "other").await);
        // Its first batches leave the log.
        for _ in 0..40 {
            node.log(gone).unwrap().append(vec![record(&"x".repeat(400))]).await.unwrap();
        }
        node.checkpoint().await.unwrap();
        node.log(gone).unwrap().append(vec![record("stays in the log")]).await.unwrap();
        node.delete_topic("gone").await.unwrap();
        node.log(other).unwrap().append(vec![record("x")]).await.unwrap();
        node.checkpoint().await.unwrap();
    });
    env.drop_tasks();
    disk.crash();
    env.run(async {
        let node = open(&env).await;
        let copies: Vec<_> =
            disk.image().into_keys().filter(|path| path.to_string_lossy().contains("damaged")).collect();
        assert!(copies.is_empty(), "{copies:?}");
        assert!(node.topics().iter().all(|topic| topic.name != "gone"));
    });
}
