//! What a topic's options do to its partitions while they are open, and over a restart.

use std::time::Duration;

use super::*;
use crate::ConfigChanges;

fn set(name: &str, value: &str) -> ConfigChanges {
    [(name.to_owned(), Some(value.to_owned()))].into()
}

fn back(name: &str) -> ConfigChanges {
    [(name.to_owned(), None)].into()
}

#[test]
fn retention_goes_by_the_configuration_of_now() {
    let env = Env::simulated(1);
    env.run(async {
        let node = open(&env).await;
        let a = topic(&node, "a").await;
        let configure = async |changes| drop(node.configure_topic("a", changes).await.unwrap());
        let append = async |text: &str| node.log(a).unwrap().append(vec![record(text)]).await.unwrap();
        let start_later = async || {
            env.sleep(Duration::from_secs(5)).await;
            node.bounds(a).unwrap().start.0
        };
        append("1").await;
        assert_eq!(start_later().await, 0);
        for keeps in ["compact", ""] {
            configure(set("cleanup.policy", keeps)).await;
            configure(set("retention.ms", "1000")).await;
            assert_eq!(start_later().await, 0, "the policy {keeps:?} drops nothing");
        }
        configure(set("cleanup.policy", "compact,delete")).await;
        assert_eq!(start_later().await, 1);
        configure(back("cleanup.policy")).await;
        configure(back("retention.ms")).await;
        append("2").await;
        assert_eq!(start_later().await, 1);
        // By size whole segments go, the one that is written stays.
        configure(set("segment.ms", "1")).await;
        append("3").await;
        append("4").await;
        assert_eq!(start_later().await, 1);
        configure(set("retention.bytes", "-7")).await;
        assert_eq!(start_later().await, 1, "whatever is negative is no limit");
        configure(set("retention.bytes", "0")).await;
        assert!(start_later().await > 1);
        assert_eq!(all(&node, a, Isolation::Committed).await.last().unwrap(), "4");
    });
}

#[test]
fn segments_end_by_the_configuration_of_now() {
    let disk = SimDisk::new(1);
    let env = Env::simulated(1).with_disk(Arc::new(disk.clone()));
    env.run(async {
        let mut node = open(&env).await;
        let a = topic(&node, "a").await;
        let folder = format!("{:032x}", u128::from_be_bytes(a.topic.0));
        // Segments there are when so many bytes more are written, two seconds later.
        let after = async |node: &Node, bytes: usize| {
            env.sleep(Duration::from_secs(2)).await;
            node.log(a).unwrap().append(vec![record(&"x".repeat(bytes))]).await.unwrap();
            node.checkpoint().await.unwrap();
            let logs = |path: &&std::path::PathBuf| {
                path.extension().is_some_and(|of| of == "log") && path.components().any(|of| of.as_os_str() == &*folder)
            };
            disk.image().keys().filter(logs).count()
        };
        assert_eq!(after(&node, 10).await, 1);
        assert_eq!(after(&node, 10).await, 1);
        node.configure_topic("a", set("segment.ms", "1000")).await.unwrap();
        assert_eq!(after(&node, 10).await, 2);
        node.configure_topic("a", back("segment.ms")).await.unwrap();
        assert_eq!(after(&node, 10).await, 2);
        assert_eq!(after(&node, 600_000).await, 2);
        node.configure_topic("a", set("segment.bytes", "1048576")).await.unwrap();
        assert_eq!(after(&node, 600_000).await, 3);
        for power_cut in [false, true] {
            if power_cut {
                disk.crash();
                env.drop_tasks();
            } else {
                node.shutdown().await;
            }
            drop(node);
            node = open(&env).await;
            let before = if power_cut { 4 } else { 3 };
            assert_eq!(after(&node, 600_000).await, before + 1, "it outlives a restart");
        }
    });
}
