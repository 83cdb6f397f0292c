//! `riverrun bench log`: what the log does on this machine, in process, beside what the disk and the memory do alone.
//!
//! Limits and log are measured in turn, round after round; every figure is the median of its rounds. A log in its steady
//! state is measured, with the server's settings: each one writes for a while before, so that its files are there and are
//! used again.

mod limits;
mod load;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use log::{Env, Error, Node, NodeConfig, StoreMetrics};

use self::limits::{HALF, LARGE, SMALL, Synced};
use self::load::{Appended, Load};
use super::Failure;
use crate::config::Config;
use crate::server::node_config;

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
    #[arg(long, default_value_t = 2)]
    seconds: u64,
    /// Times each measurement is repeated
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Only these numbers of partitions
    #[arg(long, value_delimiter = ',', default_values_t = [1, 128])]
    partitions: Vec<i32>,
    /// Only batches of these sizes in KiB
    #[arg(long, value_delimiter = ',', default_values_t = [16, 256])]
    batch_kib: Vec<usize>,
    /// Only topics with this `flush`
    #[arg(long, value_delimiter = ',', default_values = ["group", "os"])]
    flush: Vec<String>,
}

/// What is told of the disk alone: pieces of these sizes.
const PIECES: [usize; 4] = [SMALL, 16 * 1024, 256 * 1024, LARGE];

pub(super) async fn run(arguments: &BenchArguments) -> Result<(), Failure> {
    let BenchCommand::Log(arguments) = &arguments.command;
    let env = Env::real();
    if !env.disk().list(&arguments.dir).map_err(|error| Failure::new(1, error.to_string()))?.is_empty() {
        return Err(Failure::new(2, format!("{} is not empty: name another directory", arguments.dir.display())));
    }
    let settings = node_config(&Config::load(env.disk().as_ref(), None, std::env::vars(), &[])?);
    let outcome = bench(&env, arguments, &settings).await;
    let cleaned = env.disk().remove_dir(&arguments.dir);
    outcome.map_err(|error| Failure::new(1, error.to_string()))?;
    cleaned.map_err(|error| Failure::new(1, error.to_string()))
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn percentile(sorted: &[f64], part: f64) -> f64 {
    sorted.get((sorted.len() as f64 * part) as usize).or(sorted.last()).copied().unwrap_or(f64::NAN)
}

/// One round's figures of one load.
struct Outcome {
    full: Appended,
    groups: Groups,
    half: Appended,
}

/// What the write-ahead log wrote at once, on average, and how long that took.
struct Groups {
    bytes: f64,
    write_ms: f64,
    sync_ms: f64,
}

impl Groups {
    fn between(before: &StoreMetrics, after: &StoreMetrics) -> Groups {
        let groups = (after.groups - before.groups).max(1) as f64;
        Groups {
            bytes: (after.bytes_written - before.bytes_written) as f64 / groups,
            write_ms: (after.write_us - before.write_us) as f64 / groups / 1e3,
            sync_ms: (after.sync_us - before.sync_us) as f64 / groups / 1e3,
        }
    }
}

/// What was measured, each a list of rounds.
struct Figures {
    copies: Vec<f64>,
    disk: [Vec<Synced>; PIECES.len()],
    segments: Vec<Synced>,
    /// Everything written twice, as fast as it goes and half as fast.
    twice: Vec<Synced>,
    twice_half: Vec<Synced>,
    loads: Vec<(Load, Vec<Outcome>)>,
    tails: Vec<f64>,
}

async fn bench(env: &Env, arguments: &LogBench, settings: &NodeConfig) -> Result<(), Error> {
    let mut loads = Vec::new();
    for &partitions in &arguments.partitions {
        for batch in &arguments.batch_kib {
            for flush in ["group", "os"].into_iter().filter(|flush| arguments.flush.iter().any(|one| one == flush)) {
                loads.push((Load { partitions, batch_bytes: batch * 1024, flush }, Vec::new()));
            }
        }
    }
    let disk = std::array::from_fn(|_| Vec::new());
    let mut figures = Figures {
        copies: Vec::new(),
        disk,
        segments: Vec::new(),
        twice: Vec::new(),
        twice_half: Vec::new(),
        loads,
        tails: Vec::new(),
    };
    for _ in 0..arguments.rounds {
        round(env, arguments, settings, &mut figures).await?;
    }
    figures.print(arguments);
    Ok(())
}

async fn round(env: &Env, arguments: &LogBench, settings: &NodeConfig, figures: &mut Figures) -> Result<(), Error> {
    let time = Duration::from_secs(arguments.seconds);
    figures.copies.push(limits::memory_copy(env));
    let (disk_env, dir) = (env.clone(), arguments.dir.clone());
    let alone = env.blocking("bench-disk", move || {
        let time = time / 2;
        let mut pieces = Vec::new();
        for piece in PIECES {
            pieces.push(limits::one_file(&disk_env, &dir, piece, time)?);
        }
        Ok::<_, std::io::Error>((pieces, limits::many_files(&disk_env, &dir, 128, 16 * 1024, time)?))
    })?;
    let (pieces, segments) = alone.await.map_err(|_| Error::Unknown)??;
    figures.disk.iter_mut().zip(pieces).for_each(|(rounds, synced)| rounds.push(synced));
    figures.segments.push(segments);
    let twice = limits::twice(env, &arguments.dir, LARGE, time, None).await?;
    let half = twice.bytes_per_second / 2.0;
    figures.twice.push(twice);
    figures.twice_half.push(limits::twice(env, &arguments.dir, HALF, time, Some(half)).await?);
    let data = arguments.dir.join("data");
    for (load, outcomes) in &mut figures.loads {
        let node = Node::open(env.clone(), &data, settings.clone()).await?;
        let topic = load.create_topic(env, &node).await?;
        load.run(env, &node, topic, time / 2, None).await?;
        let before = node.metrics();
        let full = load.run(env, &node, topic, time, None).await?;
        let groups = Groups::between(&before, &node.metrics());
        // What that left to do is not the next one's.
        env.sleep(time / 2).await;
        let half = load.run(env, &node, topic, time, Some(full.bytes_per_second / 2.0)).await?;
        outcomes.push(Outcome { full, groups, half });
        node.shutdown().await;
        drop(node);
        env.disk().remove_dir(&data)?;
    }
    let node = Node::open(env.clone(), &data, settings.clone()).await?;
    figures.tails.push(load::read_tail(env, &node, time / 2).await?);
    node.shutdown().await;
    drop(node);
    env.disk().remove_dir(&data)?;
    Ok(())
}

impl Figures {
    fn print(&self, arguments: &LogBench) {
        println!("1 kB records, {} s each, medians of {} rounds", arguments.seconds, arguments.rounds);
        println!("memory copy {:>44.1} GB/s", median(self.copies.iter().copied()) / 1e9);
        let synced = |what: String, rounds: &[Synced]| {
            let of = |figure: fn(&Synced) -> f64| median(rounds.iter().map(figure));
            let (p50, p99) = (of(|synced| synced.p50_ms), of(|synced| synced.p99_ms));
            let rate = of(|synced| synced.bytes_per_second);
            println!("{what:<50} {:>6.0} MB/s   p50 {p50:.2} ms, p99 {p99:.2} ms", rate / 1e6);
            rate
        };
        let mut limit = f64::NAN;
        for (piece, rounds) in PIECES.iter().zip(&self.disk) {
            limit = synced(format!("disk: one file, {:>4} KiB written and synced", piece / 1024), rounds);
        }
        synced("disk: 128 files in turn,  16 KiB and a sync".to_owned(), &self.segments);
        let twice = synced(format!("disk: one file, {:>4} KiB, and all once more behind", LARGE / 1024), &self.twice);
        synced(format!("disk:           {:>4} KiB, half as fast", HALF / 1024), &self.twice_half);
        println!(
            "\nThe log, beside the disk's {:.0} MB/s of {} KiB at once, and {:.0} MB/s where all is written twice:",
            limit / 1e6,
            LARGE / 1024,
            twice / 1e6
        );
        println!(
            "                              as fast as it goes                    a group of the log     at half of that"
        );
        println!(
            "partitions   batch flush    MB/s   limit twice   p50 ms   p99 ms     KiB  write   sync ms   p50 ms   p99 ms"
        );
        for (load, outcomes) in &self.loads {
            let of = |figure: fn(&Outcome) -> f64| median(outcomes.iter().map(figure));
            let rate = of(|outcome| outcome.full.bytes_per_second);
            println!(
                "{:>10} {:>3} KiB {:<5} {:>7.0} {:>5.0} % {:>3.0} % {:>8.2} {:>8.2} {:>7.0} {:>6.2} {:>9.2} {:>8.2} {:>8.2}",
                load.partitions,
                load.batch_bytes / 1024,
                load.flush,
                rate / 1e6,
                100.0 * rate / limit,
                100.0 * rate / twice,
                of(|outcome| outcome.full.p50_ms),
                of(|outcome| outcome.full.p99_ms),
                of(|outcome| outcome.groups.bytes) / 1024.0,
                of(|outcome| outcome.groups.write_ms),
                of(|outcome| outcome.groups.sync_ms),
                of(|outcome| outcome.half.p50_ms),
                of(|outcome| outcome.half.p99_ms),
            );
        }
        println!("\nreads of the tail, each byte copied once {:>9.1} GB/s", median(self.tails.iter().copied()) / 1e9);
    }
}
