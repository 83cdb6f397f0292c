//! A sync that fails ends the node whatever the reason is, that of a full disk above all: there every other call is tried
//! again. Writing back before a sync is part of it.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use bytes::Bytes;

use super::calls::{Call, Calls};
use super::clients::{record, run_clients};
use super::config;
use super::model::Shared;
use crate::env::{Open, SimDisk};
use crate::node::{Node, NodeConfig};
use crate::store::Acknowledge;
use crate::{Cluster, Env, Error, NewRecord, NewTopic, TopicPartition};

/// Has the sync with this number fail; which it was is told later.
fn plan(calls: &Calls, number: usize) -> Arc<Mutex<Option<(Call, PathBuf)>>> {
    let met = Arc::new(Mutex::new(None));
    let told = Arc::clone(&met);
    let (mut seen, mut made) = (0, BTreeSet::<PathBuf>::new());
    calls.plan(move |call, path| {
        let log_file = path.extension().is_some_and(|end| end == "wal");
        if matches!(call, Call::Open(Open::Create)) && log_file {
            made.insert(path.to_owned());
        }
        // One that fails while the file is being made ends with that file; another is made.
        let sync = match call {
            Call::SyncDir => true,
            Call::StartWriteback | Call::AwaitWriteback => !made.contains(path),
            Call::Sync => !made.remove(path),
            _ => false,
        };
        seen += usize::from(sync);
        if !sync || seen != number {
            return None;
        }
        *told.lock().unwrap() = Some((call, path.to_owned()));
        Some(io::ErrorKind::StorageFull.into())
    });
    met
}

async fn life(env: &Env, model: &Shared) -> Result<Arc<Node>, Error> {
    let config = NodeConfig { compact_bytes_per_second: 0, ..config(Acknowledge::AfterSync) };
    let node = Node::open(env.clone(), Path::new("/data"), config).await?;
    run_clients(env, &node, model, 5).await;
    let config = [("cleanup.policy", "compact"), ("min.cleanable.dirty.ratio", "0")];
    let config = config.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let topic = node.create_topic(NewTopic { name: "c".to_owned(), partitions: 1, config }).await?;
    let log = node.log(TopicPartition { topic: topic.id, partition: 0 })?;
    for number in 0..40 {
        // Something is left of each segment.
        let key = Some(Bytes::from(format!("{}", if number % 5 == 0 { number } else { 1 })));
        log.append(vec![NewRecord { key, ..record(&format!("{number:100}")) }]).await?;
    }
    node.compact().await?;
    node.checkpoint().await?;
    Ok(node)
}

#[test]
fn a_sync_that_finds_no_room_ends_the_node() {
    let mut met: Vec<(Call, PathBuf)> = Vec::new();
    for number in 1..300 {
        // The same life each time: every one of its syncs fails once.
        let disk = SimDisk::new(1);
        let calls = Calls::of(&disk);
        let env = Env::simulated(1).with_disk(Arc::new(calls.clone()));
        let told = plan(&calls, number);
        let model = Shared::default();
        let ended = env.run(async {
            match life(&env, &model).await {
                Ok(node) => node.fatal().borrow().is_some(),
                Err(_) => true,
            }
        });
        env.drop_tasks();
        if let Some((call, path)) = told.lock().unwrap().take() {
            assert!(ended, "sync {number}, {call:?} of {}, failed, and the node went on", path.display());
            met.push((call, path));
        }
    }
    // Every kind of them: the log's files and their directory, the checkpoint's, the segments' and theirs.
    for kind in [".wal", "/wal", "/checkpoint-", ".log", "/0", "/topics", "/compacted-", ".timeindex"] {
        let of_kind = |(_, path): &&(Call, PathBuf)| {
            let name = format!("/{}", path.file_name().unwrap_or_default().to_string_lossy());
            if kind.ends_with('-') { name.starts_with(kind) } else { name.ends_with(kind) }
        };
        assert!(met.iter().filter(of_kind).count() > 0, "of {} syncs that failed none was of {kind}", met.len());
    }
    for call in [Call::StartWriteback, Call::AwaitWriteback] {
        assert!(met.iter().any(|(met, _)| *met == call), "no {call:?} failed");
    }
}
