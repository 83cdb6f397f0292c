//! Partitions at rest: no open file, and nothing lost for it.

use std::time::Duration;

use super::*;

const NONE: [&str; 0] = [];

/// Those of partitions that are open.
fn open_segments(disk: &SimDisk, but: TopicPartition) -> Vec<String> {
    let busy = format!("{:032x}", u128::from_be_bytes(but.topic.0));
    let open = disk.open_files().into_iter().map(|path| path.display().to_string());
    open.filter(|path| path.contains("/topics/") && !path.contains(&busy)).collect()
}

#[test]
fn files_that_nobody_writes_to_are_closed_when_they_are_synced() {
    for seed in 0..20 {
        let disk = SimDisk::new(seed);
        let env = Env::simulated(seed).with_disk(Arc::new(disk.clone()));
        env.run(async {
            let config = NodeConfig { wal_file_bytes: 20_000, ..NodeConfig::default() };
            let node = Node::open(env.clone(), dir(), config).await.unwrap();
            let busy = topic(&node, "busy").await;
            let mut idle = Vec::new();
            for number in 0..12 {
                let at = topic(&node, &format!("idle-{number}")).await;
                node.log(at).unwrap().append(vec![record(&format!("{number}"))]).await.unwrap();
                idle.push(at);
            }
            node.checkpoint().await.unwrap();
            let files = open_segments(&disk, busy).len();
            assert!(
                files >= idle.len(),
                "seed {seed}: small ends are not synced by a checkpoint, {files} files are open"
            );
            // Checkpoints that come and go do not keep them at work.
            for _ in 0..10 {
                node.log(busy).unwrap().append(vec![record(&"x".repeat(1000))]).await.unwrap();
                node.checkpoint().await.unwrap();
                env.sleep(Duration::from_secs(1)).await;
            }
            assert_eq!(open_segments(&disk, busy), NONE, "seed {seed}");
            // What is written again is open again, and closed again without any checkpoint.
            for at in &idle {
                node.log(*at).unwrap().append(vec![record("again")]).await.unwrap();
            }
            node.checkpoint().await.unwrap();
            assert!(open_segments(&disk, busy).len() >= idle.len(), "seed {seed}");
            if seed % 2 == 0 {
                env.sleep(Duration::from_secs(10)).await;
                assert_eq!(open_segments(&disk, busy), NONE, "seed {seed}");
            }
            // The process alone ends, and the next one opens what it replays.
            env.drop_tasks();
            drop(node);
            disk.heal();
            let node = open(&env).await;
            node.checkpoint().await.unwrap();
            env.sleep(Duration::from_secs(10)).await;
            assert_eq!(open_segments(&disk, busy), NONE, "seed {seed}");
            env.drop_tasks();
            disk.crash();
            drop(node);
            let node = open(&env).await;
            for (number, at) in idle.into_iter().enumerate() {
                assert_eq!(all(&node, at, Isolation::Uncommitted).await, [format!("{number}"), "again".to_owned()]);
            }
            // Nor are those that were read.
            env.sleep(Duration::from_secs(10)).await;
            assert_eq!(open_segments(&disk, busy), NONE, "seed {seed}");
            node.shutdown().await;
        });
    }
}

/// A sync of a file at rest that fails leaves nobody knowing what is on the disk.
#[test]
fn a_sync_of_a_file_at_rest_that_fails_ends_the_node() {
    let disk = SimDisk::new(1);
    let env = Env::simulated(1).with_disk(Arc::new(disk.clone()));
    env.run(async {
        let node = open(&env).await;
        let at = topic(&node, "idle").await;
        node.log(at).unwrap().append(vec![record("1")]).await.unwrap();
        node.checkpoint().await.unwrap();
        disk.plan(Damage::SyncFails { operation: disk.operations() + 1, how: SyncFailure::Reverted });
        node.fatal().wait_for(Option::is_some).await.unwrap();
        assert!(node.log(at).unwrap().append(vec![record("2")]).await.is_err());
        env.drop_tasks();
        disk.heal();
        drop(node);
        let node = open(&env).await;
        assert_eq!(all(&node, at, Isolation::Uncommitted).await, ["1"]);
        node.shutdown().await;
    });
}
