//! `riverrun bench log`: what the log does on this machine, in process, beside what the disk and the memory do alone.
//!
//! Every figure is the median of the rounds. The limits and the log are measured in turn in the same run.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Subcommand};
use log::record::build::Frame;
use log::{Backend, Batch, Cluster, Env, Isolation, NewRecord, NewTopic, Node, NodeConfig, Offset, TopicPartition};

use super::Failure;

#[derive(Args, Debug)]
pub(super) struct BenchArguments {
    #[command(subcommand)]
    command: BenchCommand,
}

#[derive(Debug, Subcommand)]
enum BenchCommand {
    /// The log: appends with and without sync, reads of the tail
    Log(LogBench),
}

#[derive(Args, Debug)]
struct LogBench {
    /// Where to write; it is emptied afterwards
    #[arg(long, default_value = "./riverrun-bench")]
    dir: PathBuf,
    /// Seconds for each measurement
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// Times each measurement is repeated
    #[arg(long, default_value_t = 3)]
    rounds: usize,
}

/// Batches of a writer that are on their way.
const IN_FLIGHT: usize = 5;
const RECORD_BYTES: usize = 1000;

pub(super) async fn run(arguments: &BenchArguments) -> Result<(), Failure> {
    let BenchCommand::Log(arguments) = &arguments.command;
    let env = Env::real();
    if !env.disk().list(&arguments.dir).map_err(|error| Failure::new(1, error.to_string()))?.is_empty() {
        return Err(Failure::new(2, format!("{} is not empty: name another directory", arguments.dir.display())));
    }
    let outcome = bench(&env, arguments).await;
    let cleaned = env.disk().remove_dir(&arguments.dir);
    outcome.map_err(|error| Failure::new(1, error.to_string()))?;
    cleaned.map_err(|error| Failure::new(1, error.to_string()))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn percentile(sorted: &[f64], part: f64) -> f64 {
    sorted.get((sorted.len() as f64 * part) as usize).or(sorted.last()).copied().unwrap_or(f64::NAN)
}

async fn bench(env: &Env, arguments: &LogBench) -> Result<(), log::Error> {
    println!("1 kB records, {} s each, medians of {} rounds", arguments.seconds, arguments.rounds);
    println!("memory copy: {:.1} GB/s", median((0..arguments.rounds).map(|_| memory_copy(env)).collect()));
    for (partitions, batch) in [(1, 16 * 1024), (1, 256 * 1024), (128, 16 * 1024), (128, 256 * 1024)] {
        for flush in ["group", "os"] {
            case(env, arguments, partitions, batch, flush).await?;
        }
    }
    Ok(())
}

/// One line: the log's figures and the disk's, in turn.
async fn case(env: &Env, arguments: &LogBench, partitions: i32, batch: usize, flush: &str) -> Result<(), log::Error> {
    let time = Duration::from_secs(arguments.seconds);
    let (mut limits, mut rates, mut durable, mut half, mut tails, mut syncs) =
        <(Vec<_>, Vec<_>, Vec<_>, Vec<_>, Vec<_>, Vec<_>)>::default();
    for _ in 0..arguments.rounds {
        let dir = arguments.dir.clone();
        let disk_env = env.clone();
        let limit = env.blocking("bench-disk", move || disk_limits(&disk_env, &dir, batch, time))?;
        let limit = limit.await.map_err(|_| log::Error::Unknown)??;
        limits.push(limit.bytes_per_second);
        syncs.push(limit.sync_p99_ms);
        let data = arguments.dir.join("data");
        let node = Node::open(env.clone(), &data, NodeConfig::default()).await?;
        let full = append(env, &node, partitions, batch, flush, time, None).await?;
        rates.push(full.bytes_per_second);
        durable.push(full.p99_ms);
        let paced = append(env, &node, partitions, batch, flush, time, Some(full.bytes_per_second / 2.0)).await?;
        half.push(paced.p99_ms);
        tails.push(read_tail(env, &node, time / 4).await?);
        node.shutdown().await;
        drop(node);
        env.disk().remove_dir(&data)?;
    }
    let (rate, limit) = (median(rates), median(limits));
    println!(
        "{partitions:>4} partitions, {:>3} KiB batches, flush={flush:<5}: {:>7.0} MB/s = {:>3.0} % of the disk's {:>5.0} MB/s \
         synced alone; p99 {:.1} ms, at half load {:.1} ms (a sync alone {:.1} ms); tail reads {:.1} GB/s",
        batch / 1024,
        rate / 1e6,
        100.0 * rate / limit,
        limit / 1e6,
        median(durable),
        median(half),
        median(syncs),
        median(tails) / 1e9,
    );
    Ok(())
}

fn memory_copy(env: &Env) -> f64 {
    let from = vec![1u8; 64 * 1024 * 1024];
    let mut to = vec![0u8; from.len()];
    let began = env.monotonic();
    for _ in 0..8 {
        to.copy_from_slice(std::hint::black_box(&from));
        std::hint::black_box(&mut to);
    }
    8.0 * from.len() as f64 / (env.monotonic() - began).as_secs_f64() / 1e9
}

struct DiskLimits {
    bytes_per_second: f64,
    sync_p99_ms: f64,
}

/// Writes pieces of this size one behind the other into a file that is written already, each with a sync.
fn disk_limits(env: &Env, dir: &std::path::Path, piece: usize, time: Duration) -> std::io::Result<DiskLimits> {
    const FILE: u64 = 256 * 1024 * 1024;
    let disk = env.disk();
    disk.create_dir(dir)?;
    let path = dir.join("limits");
    let file = disk.open(&path, log::env::Open::Create)?;
    let bytes = vec![7u8; 1024 * 1024];
    for at in (0..FILE).step_by(bytes.len()) {
        file.write_at(at, &[IoSlice::new(&bytes)])?;
    }
    file.sync_data()?;
    let bytes = vec![8u8; piece];
    let mut times = Vec::new();
    let (began, mut written, mut at) = (env.monotonic(), 0u64, 0);
    while env.monotonic() - began < time {
        let start = env.monotonic();
        file.write_at(at, &[IoSlice::new(&bytes)])?;
        file.sync_data()?;
        times.push((env.monotonic() - start).as_secs_f64() * 1e3);
        written += piece as u64;
        at = (at + piece as u64) % (FILE - piece as u64);
    }
    let took = (env.monotonic() - began).as_secs_f64();
    drop(file);
    disk.unlink(&path)?;
    times.sort_by(f64::total_cmp);
    Ok(DiskLimits { bytes_per_second: written as f64 / took, sync_p99_ms: percentile(&times, 0.99) })
}

struct Appended {
    bytes_per_second: f64,
    p99_ms: f64,
}

async fn append(
    env: &Env,
    node: &Arc<Node>,
    partitions: i32,
    batch_bytes: usize,
    flush: &str,
    time: Duration,
    bytes_per_second: Option<f64>,
) -> Result<Appended, log::Error> {
    let name = format!("bench-{}", env.random_u64());
    let config =
        [("flush".to_owned(), flush.to_owned()), ("max.message.bytes".to_owned(), "4000000".to_owned())].into();
    let topic = node.create_topic(NewTopic { name: name.clone(), partitions, config }).await?;
    let batch = batch_of(batch_bytes);
    // Writers of several partitions share a task where there are many, as connections do.
    let pause = bytes_per_second.map(|all| Duration::from_secs_f64(batch_bytes as f64 * f64::from(partitions) / all));
    let began = env.monotonic();
    let writers: Vec<_> = (0..partitions)
        .map(|partition| {
            let id = TopicPartition { topic: topic.id, partition };
            env.spawn("bench", writer(env.clone(), Arc::clone(node), id, batch.clone(), began + time, pause))
        })
        .collect();
    let (mut bytes, mut times) = (0, Vec::new());
    for writer in writers {
        let (written, own) = writer.await.map_err(|_| log::Error::Unknown)??;
        bytes += written;
        times.extend(own);
    }
    let took = (env.monotonic() - began).as_secs_f64();
    times.sort_by(f64::total_cmp);
    if bytes_per_second.is_some() || partitions > 1 {
        node.delete_topic(&name).await?;
    }
    Ok(Appended { bytes_per_second: bytes as f64 / took, p99_ms: percentile(&times, 0.99) })
}

fn batch_of(bytes: usize) -> Batch {
    let value = Some(vec![b'x'; RECORD_BYTES - 12].into());
    let records = vec![NewRecord { value, ..NewRecord::default() }; (bytes / RECORD_BYTES).max(1)];
    let frame = Frame { now_ms: 1, producer: None, transactional: false, batch_bytes_max: bytes.max(2000) * 2 };
    Batch::build(&records, &frame).expect("the records fit")
}

/// Appends until the time has come; returns bytes and milliseconds from hand-over to durable, for each batch.
async fn writer(
    env: Env,
    node: Arc<Node>,
    id: TopicPartition,
    batch: Batch,
    until: Duration,
    pause: Option<Duration>,
) -> Result<(u64, Vec<f64>), log::Error> {
    let (mut bytes, mut times, mut flying) = (0u64, Vec::new(), VecDeque::new());
    let mut next = env.monotonic();
    while env.monotonic() < until {
        if let Some(pause) = pause {
            next += pause;
            env.sleep(next.saturating_sub(env.monotonic())).await;
        }
        let began = env.monotonic();
        flying.push_back((began, node.append_raw(id, batch.clone()).await?));
        bytes += batch.size() as u64;
        let room = if pause.is_some() { 1 } else { IN_FLIGHT };
        while flying.len() >= room
            && let Some((began, outcome)) = flying.pop_front()
        {
            outcome.await.map_err(|_| log::Error::Unknown)??;
            times.push((env.monotonic() - began).as_secs_f64() * 1e3);
        }
    }
    for (began, outcome) in flying {
        outcome.await.map_err(|_| log::Error::Unknown)??;
        times.push((env.monotonic() - began).as_secs_f64() * 1e3);
    }
    Ok((bytes, times))
}

/// Reads the newest 16 MiB of a partition again and again, as followers of the tail do; bytes a second.
async fn read_tail(env: &Env, node: &Arc<Node>, time: Duration) -> Result<f64, log::Error> {
    let config = [("max.message.bytes".to_owned(), "4000000".to_owned())].into();
    let name = format!("tail-{}", env.random_u64());
    let topic = node.create_topic(NewTopic { name, partitions: 1, config }).await?;
    let id = TopicPartition { topic: topic.id, partition: 0 };
    let batch = batch_of(64 * 1024);
    for _ in 0..256 {
        node.append_raw(id, batch.clone()).await?.await.map_err(|_| log::Error::Unknown)??;
    }
    let (began, mut bytes, mut from) = (env.monotonic(), 0u64, Offset(0));
    while env.monotonic() - began < time {
        let fetched = node.fetch_raw(id, from, 1024 * 1024, Isolation::Uncommitted).await?;
        bytes += fetched.batches.iter().map(|batch| batch.size() as u64).sum::<u64>();
        from = fetched.batches.last().map_or(Offset(0), Batch::next_offset);
    }
    Ok(bytes as f64 / (env.monotonic() - began).as_secs_f64())
}
