//! What happens to a partition while a pass is on its way: topics are deleted, logs trimmed, the node is stopped, calls to
//! the system fail; and how fast a pass goes.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use super::check::batches;
use super::examples::{fill, offsets, open, topic};
use super::world::config;
use crate::cluster::backend::{Backend, TimestampQuery};
use crate::env::{Open, SimDisk, Task};
use crate::node::crash::calls::{Call, Calls};
use crate::node::{Node, NodeConfig};
use crate::{Cluster, Env, Error, Isolation, Offset, TopicPartition};

/// So slow that a pass over a few segments takes some seconds.
fn slow() -> NodeConfig {
    NodeConfig { compact_bytes_per_second: 3000, ..config() }
}

async fn start(env: &Env, config: NodeConfig, records: usize) -> (Arc<Node>, TopicPartition) {
    let node = open(env, config).await;
    let at = topic(&node, &[]).await;
    fill(&node, at, records).await;
    (node, at)
}

/// A pass beside the caller, and whether it is over.
fn compact(env: &Env, node: &Arc<Node>) -> (Task<Result<(), Error>>, Arc<AtomicBool>) {
    let (node, over) = (Arc::clone(node), Arc::new(AtomicBool::new(false)));
    let tell = Arc::clone(&over);
    let pass = env.spawn("pass", async move {
        let outcome = node.compact().await;
        tell.store(true, Ordering::Relaxed);
        outcome
    });
    (pass, over)
}

/// A topic's files.
fn files_of(disk: &SimDisk, at: TopicPartition) -> Vec<String> {
    let directory = format!("/data/topics/{:032x}", u128::from_be_bytes(at.topic.0));
    let files = disk.image().into_keys().filter(|path| path.starts_with(&directory));
    files.map(|path| path.display().to_string()).collect()
}

#[test]
fn a_topic_that_is_deleted_during_a_pass_is_gone() {
    let mut during = 0;
    for step in 0..40 {
        let disk = SimDisk::new(step);
        let env = Env::simulated(step).with_disk(Arc::new(disk.clone()));
        env.run(async {
            let (node, at) = start(&env, slow(), 80).await;
            let began = env.monotonic();
            let (pass, done) = compact(&env, &node);
            env.sleep(Duration::from_millis(170 * step)).await;
            during += usize::from(!done.load(Ordering::Relaxed));
            node.delete_topic("c").await.unwrap();
            pass.await.unwrap().unwrap();
            assert!(env.monotonic() - began < Duration::from_secs(15));
            node.checkpoint().await.unwrap();
            assert_eq!(files_of(&disk, at), [""; 0], "step {step}");
            // The next one of that name is compacted as if nothing had been.
            let at = topic(&node, &[]).await;
            fill(&node, at, 50).await;
            node.compact().await.unwrap();
            assert!(offsets(&node, at).await[0] > 20);
            assert_eq!(*node.fatal().borrow(), None);
            node.shutdown().await;
        });
    }
    assert!(during > 15, "only {during} of 40 topics were deleted in the midst of a pass");
}

#[test]
fn a_log_that_is_trimmed_during_a_pass_starts_there_and_keeps_the_newest() {
    let mut during = 0;
    for step in 0..60 {
        let disk = SimDisk::new(step);
        let env = Env::simulated(step).with_disk(Arc::new(disk.clone()));
        env.run(async {
            let (node, at) = start(&env, slow(), 80).await;
            let (pass, done) = compact(&env, &node);
            env.sleep(Duration::from_millis(230 * (step % 30))).await;
            during += usize::from(!done.load(Ordering::Relaxed));
            let start = Offset(5 + step as i64);
            assert_eq!(node.log(at).unwrap().trim(start).await.unwrap(), start);
            // Its files may go while the pass reads them.
            node.checkpoint().await.unwrap();
            pass.await.unwrap().unwrap();
            let check = async |node: &Node| {
                assert_eq!(node.log(at).unwrap().bounds().start, start);
                let there = offsets(node, at).await;
                let newest = there.iter().rev().take(3).copied().collect::<Vec<_>>();
                assert_eq!(newest, [79, 78, 77], "step {step}: {there:?}");
            };
            check(&node).await;
            // And what is left is compacted later.
            fill(&node, at, 30).await;
            node.compact().await.unwrap();
            let there = offsets(&node, at).await;
            assert!(there[0] >= 70, "step {step}: {there:?}");
            assert_eq!(*node.fatal().borrow(), None);
            drop(node);
        });
        env.drop_tasks();
        disk.crash();
        env.run(async {
            let node = open(&env, config()).await;
            let at = TopicPartition { topic: node.topic("c").unwrap().id, partition: 0 };
            let there = offsets(&node, at).await;
            assert!(there[0] >= 70 && *there.last().unwrap() == 109, "step {step}: {there:?}");
            node.shutdown().await;
        });
    }
    assert!(during > 20, "only {during} of 60 logs were trimmed in the midst of a pass");
}

#[test]
fn a_pass_goes_as_fast_as_it_may_and_ends_with_the_node() {
    for rate in [50, 3000, 100_000, 2 << 20] {
        let env = Env::simulated(rate);
        env.run(async {
            let (node, at) = start(&env, NodeConfig { compact_bytes_per_second: rate, ..config() }, 80).await;
            let began = env.monotonic();
            node.compact().await.unwrap();
            // Nine sealed segments of eight batches are read twice; a few bytes are written.
            let bytes = 2 * 9 * 1400;
            let took = (env.monotonic() - began).as_secs_f64();
            let least = bytes as f64 / rate as f64;
            assert!((least..least * 1.05 + 0.1).contains(&took), "{rate} bytes a second: {took} s of {least}");
            fill(&node, at, 80).await;
            let (pass, _) = compact(&env, &node);
            env.sleep(Duration::from_millis(10)).await;
            let began = env.monotonic();
            node.shutdown().await;
            assert!(env.monotonic() - began < Duration::from_millis(100), "it does not wait for its rate");
            drop(pass);
        });
    }
}

#[test]
fn what_passes_do_is_told() {
    let disk = SimDisk::new(1);
    let env = Env::simulated(1).with_disk(Arc::new(disk.clone()));
    env.run(async {
        let node = open(&env, slow()).await;
        let at = topic(&node, &[("min.cleanable.dirty.ratio", "1")]).await;
        let figures = || node.metrics().compaction;
        assert_eq!(figures(), crate::CompactionMetrics::default());
        fill(&node, at, 80).await;
        node.checkpoint().await.unwrap();
        let segments = files_of(&disk, at).iter().filter(|file| file.ends_with(".log")).count();
        node.compact().await.unwrap();
        let first = figures();
        // All but the active segment, which were read for their keys and once more to be written.
        assert!(segments == 10 && first.segments == 9, "{first:?} of {segments}");
        assert_eq!((first.passes, first.dirty_ratio_max), (1, 0.0));
        assert!(first.bytes_read > 16_000 && first.bytes_written < first.bytes_read / 4, "{first:?}");
        assert_eq!(first.pass_us, first.last_pass_us);
        let rate = (first.bytes_read + first.bytes_written) as f64 / (first.pass_us as f64 / 1e6);
        assert!((2700.0..=3000.0).contains(&rate), "{rate} bytes a second, {first:?}");
        assert!((0..1000).contains(&(env.now_ms() - first.last_pass_ms)), "{first:?}");
        // What is dirty and not dirty enough.
        fill(&node, at, 40).await;
        node.compact().await.unwrap();
        let second = figures();
        assert!((0.5..1.0).contains(&second.dirty_ratio_max), "{second:?}");
        assert_eq!(crate::CompactionMetrics { dirty_ratio_max: 0.0, ..second }, first);
        node.shutdown().await;
    });
}

/// Whether the call is made by a pass alone.
fn of_a_pass(call: Call, path: &Path) -> bool {
    let text = path.to_string_lossy();
    let below = text.contains("/topics/");
    let compacted = text.contains("compacted-");
    below
        && match call {
            Call::Open(Open::Read) | Call::Read | Call::List => true,
            Call::Open(_) | Call::CreateDir => compacted,
            Call::RemoveDir | Call::Unlink => true,
            Call::Rename | Call::SyncDir | Call::Write | Call::Sync => false,
            Call::StartWriteback | Call::AwaitWriteback => false,
        }
}

/// A call of a pass fails, whichever and however: the node lives, and the partition is compacted a little later.
#[test]
fn a_call_that_fails_now_and_then_is_tried_again() {
    const EMFILE: i32 = 24;
    const EIO: i32 = 5;
    let mut kinds = BTreeSet::new();
    for number in 0..140usize {
        let disk = SimDisk::new(number as u64);
        let calls = Calls::of(&disk);
        let env = Env::simulated(number as u64).with_disk(Arc::new(calls.clone()));
        let met = env.run(async {
            let (node, at) = start(&env, config(), 60).await;
            node.checkpoint().await.unwrap();
            let seen = Arc::new(AtomicUsize::new(0));
            let counted = Arc::clone(&seen);
            let (kind, error) = (number / 2, if number % 2 == 0 { EMFILE } else { EIO });
            let told = Arc::new(std::sync::Mutex::new(None));
            let tell = Arc::clone(&told);
            calls.plan(move |call, path| {
                let fails = of_a_pass(call, path) && counted.fetch_add(1, Ordering::Relaxed) == kind;
                fails.then(|| {
                    *tell.lock().unwrap() = Some(call);
                    io::Error::from_raw_os_error(error)
                })
            });
            let compacted = node.compact().await;
            let met = told.lock().unwrap().take();
            assert_eq!(*node.fatal().borrow(), None, "{met:?}");
            // What is not removed at first may be removed at the end of the same round.
            assert!(compacted.is_err() == met.is_some() || met == Some(Call::RemoveDir), "{met:?}: {compacted:?}");
            // By itself.
            env.sleep(Duration::from_secs(40)).await;
            let there = offsets(&node, at).await;
            assert!(there[0] > 40, "{met:?}: {there:?}");
            let bases = batches(&node, at).await.len();
            assert!(bases < 20, "{met:?}");
            assert_eq!(*node.fatal().borrow(), None, "{met:?}");
            node.shutdown().await;
            // Nothing is left of what was begun and not used.
            let generations: BTreeSet<String> = disk
                .image()
                .into_keys()
                .filter_map(|path| Some(path.parent()?.file_name()?.to_str()?.to_owned()))
                .filter(|name| name.starts_with("compacted-"))
                .collect();
            assert_eq!(generations.len(), 1, "{met:?}: {generations:?}");
            met
        });
        kinds.extend(met.map(|call| format!("{call:?}")));
    }
    for kind in ["Open(Read)", "Open(Create)", "Read", "List", "CreateDir", "RemoveDir", "Unlink"] {
        assert!(kinds.contains(kind), "no {kind} has failed: {kinds:?}");
    }
}

/// What cannot be removed costs no checkpoint at every look.
#[test]
fn a_removal_that_fails_again_and_again_is_tried_now_and_then() {
    let disk = SimDisk::new(1);
    let calls = Calls::of(&disk);
    let env = Env::simulated(1).with_disk(Arc::new(calls.clone()));
    env.run(async {
        let (node, at) = start(&env, config(), 60).await;
        node.checkpoint().await.unwrap();
        let checkpoints = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&checkpoints);
        calls.plan(move |call, path| {
            let path = path.to_string_lossy();
            let written = call == Call::Write && path.contains("/checkpoint-");
            counted.fetch_add(usize::from(written), Ordering::Relaxed);
            let removes = matches!(call, Call::Unlink | Call::RemoveDir) && path.contains("/topics/");
            removes.then(|| io::ErrorKind::PermissionDenied.into())
        });
        assert!(matches!(node.compact().await, Err(Error::Io(_))));
        env.sleep(Duration::from_secs(1200)).await;
        let written = checkpoints.load(Ordering::Relaxed);
        assert!((4..10).contains(&written), "{written} checkpoints in 80 looks");
        assert_eq!(*node.fatal().borrow(), None);
        calls.plan(|_, _| None);
        node.compact().await.unwrap();
        let logs = files_of(&disk, at).into_iter().filter(|file| file.ends_with(".log")).collect::<Vec<_>>();
        assert!(logs.len() <= 2, "{logs:?}");
        node.shutdown().await;
    });
}

/// A crash before a checkpoint names what a pass has written brings the old segments back: until then readers see these.
#[test]
fn what_a_pass_has_written_is_seen_when_a_checkpoint_names_it() {
    for crashes in [true, false] {
        let disk = SimDisk::new(1);
        let calls = Calls::of(&disk);
        let env = Env::simulated(1).with_disk(Arc::new(calls.clone()));
        let all: Vec<i64> = (0..60).collect();
        let first_of = async |node: &Node, at: TopicPartition| {
            let query = TimestampQuery::AtOrAfter(0);
            node.find_timestamp(at, query, Isolation::Uncommitted).await.unwrap().map(|found| found.offset.0)
        };
        let at = env.run(async {
            let (node, at) = start(&env, config(), 60).await;
            node.checkpoint().await.unwrap();
            let before = files_of(&disk, at).len();
            calls.plan(|call, path| {
                let named = call == Call::Write && path.to_string_lossy().contains("/checkpoint-");
                named.then(|| io::ErrorKind::StorageFull.into())
            });
            assert!(matches!(node.compact().await, Err(Error::Busy(_))));
            assert!(files_of(&disk, at).len() > before, "a pass has written something");
            assert_eq!(offsets(&node, at).await, all);
            assert_eq!(first_of(&node, at).await, Some(0));
            if !crashes {
                calls.plan(|_, _| None);
                node.compact().await.unwrap();
                let there = offsets(&node, at).await;
                assert!(there[0] > 40, "{there:?}");
                assert_eq!(first_of(&node, at).await, Some(there[0]));
                node.shutdown().await;
            }
            at
        });
        env.drop_tasks();
        disk.crash();
        calls.plan(|_, _| None);
        env.run(async {
            let node = open(&env, config()).await;
            let there = offsets(&node, at).await;
            assert!(if crashes { there == all } else { there[0] > 40 }, "{there:?}");
            node.shutdown().await;
        });
    }
}

/// What is damaged is left alone, and said.
#[test]
fn a_damaged_segment_is_not_compacted() {
    for how in 0..3 {
        let disk = SimDisk::new(how);
        let env = Env::simulated(how).with_disk(Arc::new(disk.clone()));
        env.run(async {
            let (node, at) = start(&env, config(), 60).await;
            node.checkpoint().await.unwrap();
            let directory = format!("/data/topics/{:032x}/0", u128::from_be_bytes(at.topic.0));
            let log = Path::new(&directory).join("00000000000000000000.log");
            match how {
                0 => disk.flip_bit(&log, 200),
                1 => disk.truncate_file(&log, 500),
                _ => crate::env::Disk::unlink(&disk, &log).unwrap(),
            }
            let before = disk.image().len();
            for _ in 0..3 {
                node.compact().await.unwrap();
                env.sleep(Duration::from_secs(40)).await;
            }
            assert!(disk.image().len() >= before, "{how}: something was taken away");
            assert!(!disk.image().keys().any(|path| path.to_string_lossy().contains("compacted-")), "{how}");
            assert_eq!(*node.fatal().borrow(), None, "{how}");
            node.shutdown().await;
        });
    }
}
