//! A data directory as it was first written: it opens for ever, and holds what it held then.

use std::fmt::Write as _;
use std::io::IoSlice;
use std::path::Path;
use std::sync::Arc;

use crate::env::{Disk, Open, SimDisk};
use crate::fixtures::{DIRECTORY, sections};
use crate::node::offline::Directory;
use crate::node::{Node, NodeConfig};
use crate::{Cluster, Env, Isolation, Offset, TopicPartition};

/// A line for each topic; for each partition, with start, last stable offset, high watermark, end and epoch; and for each
/// record, with offset, time, key, value and number of headers.
const EXPECT: &str = r#"__transaction_state {"cleanup.policy": "compact"}
  0: 0 4 4 4 epoch 3
keyed {"cleanup.policy": "compact", "min.cleanable.dirty.ratio": "0", "retention.ms": "-1"}
  0: 0 16 16 16 epoch 3
    7 1700000000000 b 7 1
    8 1700000000000 c 8 1
    9 1700000000000 a 9 1
    10 1700000000000 b 10 1
    11 1700000000000 c 11 1
    12 1700000000000 a 12 1
    13 1700000000000 b 13 1
    14 1700000000000 t committed 1
plain {}
  0: 2 13 13 13 epoch 3
    2 1700000000000 k plain 1 1
    3 1700000000000 - - 1
    4 1700000000000 k plain 2 1
    5 1700000000000 - - 1
    6 1700000000000 k plain 3 1
    7 1700000000000 - - 1
    8 1700000000000 - committed 1
    12 1700000000000 - behind the checkpoint 1
  1: 0 4 4 4 epoch 3
    0 1700000000000 - one 1
    2 1700000000000 - behind what is open 1
"#;

fn config() -> NodeConfig {
    NodeConfig {
        wal_file_bytes: 3000,
        wal_group_bytes: 1500,
        segment_bytes_max: 700,
        tail_bytes: 1000,
        reserve_bytes: 0,
        compact_map_bytes: 24 * 1000,
        ..NodeConfig::default()
    }
}

/// Everything a reader finds, as text.
async fn found(node: &Node) -> String {
    let mut text = String::new();
    for topic in node.topics() {
        writeln!(text, "{} {:?}", topic.name, topic.config).unwrap();
        for partition in 0..topic.partitions {
            let log = node.log(TopicPartition { topic: topic.id, partition }).unwrap();
            let bounds = log.bounds();
            let crate::Bounds { start, last_stable, high_watermark, end, epoch } = bounds;
            writeln!(
                text,
                "  {partition}: {} {} {} {} epoch {}",
                start.0, last_stable.0, high_watermark.0, end.0, epoch.0
            )
            .unwrap();
            if topic.name.starts_with("__") {
                continue;
            }
            let mut from = start;
            loop {
                let read = log.read(from, Offset(i64::MAX), 1 << 20, Isolation::Committed).await.unwrap();
                for record in read.batches.iter().flat_map(|batch| batch.records().unwrap()).map(Result::unwrap) {
                    if record.offset < from {
                        continue;
                    }
                    let text_of = |bytes: Option<bytes::Bytes>| {
                        bytes.map_or("-".to_owned(), |b| String::from_utf8(b.to_vec()).unwrap().trim().to_owned())
                    };
                    let headers = record.headers().unwrap().len();
                    writeln!(
                        text,
                        "    {} {} {} {} {headers}",
                        record.offset.0,
                        record.timestamp_ms,
                        text_of(record.key),
                        text_of(record.value)
                    )
                    .unwrap();
                }
                if read.next == from {
                    break;
                }
                from = read.next;
            }
        }
    }
    text
}

fn load(disk: &SimDisk) {
    for (path, bytes) in sections(DIRECTORY) {
        let path = Path::new(&path);
        disk.create_dir(path.parent().unwrap()).unwrap();
        let file = disk.open(path, Open::Create).unwrap();
        file.write_at(0, &[IoSlice::new(&bytes)]).unwrap();
    }
}

#[test]
fn the_first_data_directory_opens_for_ever() {
    let disk = SimDisk::new(1);
    load(&disk);
    let env = Env::simulated(1).with_disk(Arc::new(disk));
    let stored = Directory::open(&env, Path::new("/data")).unwrap();
    for partition in stored.partitions() {
        stored.visit(partition.id, &mut |found| assert!(found.batch.is_ok(), "{partition:?}")).unwrap();
    }
    drop(stored);
    for start in 0..2 {
        env.run(async {
            let node = Node::open(env.clone(), Path::new("/data"), config()).await.unwrap();
            let found = found(&node).await;
            assert_eq!(found, EXPECT.replace("epoch 3", &format!("epoch {}", 3 + start)), "{found}");
            node.shutdown().await;
        });
        env.drop_tasks();
    }
}
