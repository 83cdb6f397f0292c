//! `riverrun log dump` and `riverrun log verify`: a data directory read while nothing runs on it.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use log::offline::{Directory, Found, PartitionSummary};

use super::Failure;

#[derive(Args, Debug)]
pub(super) struct LogArguments {
    #[command(subcommand)]
    command: LogCommand,
}

#[derive(Debug, Subcommand)]
enum LogCommand {
    /// Print the batches of a data directory, a line each
    Dump(DumpArguments),
    /// Check every stored byte of a data directory against its checksums and offsets
    Verify {
        /// The data directory; nothing may run on it
        directory: PathBuf,
    },
}

#[derive(Args, Debug)]
struct DumpArguments {
    /// The data directory; nothing may run on it
    directory: PathBuf,
    /// Only this topic
    #[arg(long)]
    topic: Option<String>,
    /// Only this partition
    #[arg(long)]
    partition: Option<i32>,
    /// Keys and values too, a line each
    #[arg(long)]
    records: bool,
}

pub(super) fn run(arguments: &LogArguments) -> Result<(), Failure> {
    match &arguments.command {
        LogCommand::Dump(arguments) => dump(arguments),
        LogCommand::Verify { directory } => verify(directory),
    }
}

fn open(path: &Path) -> Result<Directory, Failure> {
    let env = log::Env::real();
    if env.disk().list(path).is_ok_and(|inside| inside.is_empty()) {
        return Err(Failure::new(3, format!("{} is no data directory", path.display())));
    }
    Directory::open(&env, path).map_err(|error| Failure::new(1, format!("{}: {error}", path.display())))
}

fn name(partition: &PartitionSummary) -> String {
    let topic = partition.topic.clone();
    let id = || format!("{:032x}", u128::from_be_bytes(partition.id.topic.0));
    format!("{}-{}", topic.unwrap_or_else(id), partition.id.partition)
}

fn dump(arguments: &DumpArguments) -> Result<(), Failure> {
    let directory = open(&arguments.directory)?;
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let wanted = |partition: &&PartitionSummary| {
        arguments.topic.as_ref().is_none_or(|topic| partition.topic.as_ref() == Some(topic))
            && arguments.partition.is_none_or(|number| number == partition.id.partition)
    };
    let mut written = Ok(());
    for partition in directory.partitions().iter().filter(wanted) {
        let name = name(partition);
        let visited = directory.visit(partition.id, &mut |found| {
            if written.is_ok() {
                written = dump_one(&mut out, &name, &found, arguments.records);
            }
        });
        visited.map_err(|error| Failure::new(1, error.to_string()))?;
    }
    match written.and_then(|()| out.flush()) {
        // Whoever reads has seen enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(Failure::new(1, error.to_string())),
        Ok(()) => Ok(()),
    }
}

fn dump_one(out: &mut dyn std::io::Write, name: &str, found: &Found, records: bool) -> std::io::Result<()> {
    let place = format!("{name} segment={} position={}", found.segment.0, found.position);
    let batch = match &found.batch {
        Ok(batch) => batch,
        Err(why) => return writeln!(out, "{place} DAMAGED: {why}"),
    };
    write!(
        out,
        "{place} offsets={}..={} epoch={} records={} size={} timestamp={} codec={}",
        batch.base_offset().0,
        batch.last_offset().0,
        batch.leader_epoch().0,
        batch.record_count(),
        batch.size(),
        batch.max_timestamp_ms(),
        batch.codec().map_or_else(|unknown| unknown.to_string(), |codec| codec.to_string()),
    )?;
    if let Some(producer) = batch.producer() {
        write!(out, " producer={} producer_epoch={} sequence={}", producer.id, producer.epoch, producer.base_sequence)?;
    }
    let flags = [(batch.is_transactional(), " transactional"), (batch.is_control(), " control")];
    flags.iter().filter(|(set, _)| *set).try_for_each(|(_, text)| write!(out, "{text}"))?;
    writeln!(out)?;
    if records && !batch.is_control() {
        let views = batch.records().map_err(std::io::Error::other)?;
        for record in views {
            let record = record.map_err(std::io::Error::other)?;
            let text = |bytes: &Option<bytes::Bytes>| {
                bytes.as_ref().map_or("null".to_owned(), |bytes| format!("{:?}", String::from_utf8_lossy(bytes)))
            };
            let (key, value) = (text(&record.key), text(&record.value));
            writeln!(out, "  offset={} timestamp={} key={key} value={value}", record.offset.0, record.timestamp_ms)?;
        }
    }
    Ok(())
}

fn verify(path: &Path) -> Result<(), Failure> {
    let directory = open(path)?;
    let wal = directory.wal();
    println!("write-ahead log: {} groups, {} bytes from file {} on", wal.groups, wal.bytes, wal.first_file);
    let (mut batches, mut records, mut bytes) = (0u64, 0u64, 0u64);
    let mut damaged = Vec::new();
    let partitions = directory.partitions();
    for partition in &partitions {
        let visited = directory.visit(partition.id, &mut |found| match &found.batch {
            Ok(batch) => {
                (batches, bytes) = (batches + 1, bytes + batch.size() as u64);
                records += u64::from(batch.record_count());
            }
            Err(why) => {
                let (segment, position) = (found.segment.0, found.position);
                damaged.push(format!("{}: segment {segment} at byte {position}: {why}", name(partition)));
            }
        });
        visited.map_err(|error| Failure::new(1, error.to_string()))?;
    }
    println!("{} partitions, {batches} batches, {records} records, {bytes} bytes", partitions.len());
    if damaged.is_empty() {
        println!("everything is intact");
        return Ok(());
    }
    damaged.iter().for_each(|line| println!("damaged: {line}"));
    Err(Failure::new(1, format!("{} segments are damaged", damaged.len())))
}
