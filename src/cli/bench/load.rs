//! Writers and readers of the log in this process.

use std::sync::Arc;
use std::time::Duration;

use log::record::build::Frame;
use log::{Backend, Batch, Cluster, Env, Error, Isolation, NewRecord, NewTopic, Node, Offset, TopicId, TopicPartition};

use tokio::sync::{mpsc, oneshot};

use super::percentile;

/// Batches of a writer that are on their way.
const IN_FLIGHT: usize = 5;
const RECORD_BYTES: usize = 1000;
/// What is written, again and again: more than the processor's caches hold, for what comes in is not in them.
const SOURCE_BYTES: usize = 64 * 1024 * 1024;
/// What the readers of the tail go over again and again, and how much they take at once.
const TAIL_BYTES: usize = 48 * 1024 * 1024;
const FETCH_BYTES: usize = 1024 * 1024;

type Acknowledgement = oneshot::Receiver<Result<log::Appended, Error>>;

/// What writes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    pub partitions: i32,
    pub batch_bytes: usize,
    /// The topic's `flush`.
    pub flush: &'static str,
}

/// What was written, from the hand-over of a batch to its acknowledgement.
#[derive(Clone, Copy, Debug)]
pub(super) struct Appended {
    pub bytes_per_second: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
}

impl Load {
    /// A topic to write into.
    pub async fn create_topic(self, env: &Env, node: &Arc<Node>) -> Result<TopicId, Error> {
        let name = format!("bench-{}", env.random_u64());
        let config = [("flush", self.flush), ("max.message.bytes", "4000000")];
        let config = config.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        Ok(node.create_topic(NewTopic { name, partitions: self.partitions, config }).await?.id)
    }

    /// Writes into that topic for so long: as fast as it goes, or at this rate.
    pub async fn run(
        self,
        env: &Env,
        node: &Arc<Node>,
        topic: TopicId,
        time: Duration,
        bytes_per_second: Option<f64>,
    ) -> Result<Appended, Error> {
        let Load { partitions, batch_bytes, .. } = self;
        let batches: Arc<[Batch]> = batches_of(batch_bytes, SOURCE_BYTES).into();
        let all = batches[0].size() as f64 * f64::from(partitions);
        let pause = bytes_per_second.map(|rate| Duration::from_secs_f64(all / rate));
        let began = env.monotonic();
        let writers: Vec<_> = (0..partitions)
            .map(|partition| {
                let id = TopicPartition { topic, partition };
                // Paced writers do not all begin at once.
                let first = pause.map(|pause| began + pause * partition as u32 / partitions as u32);
                let pace = first.zip(pause);
                let batches = Arc::clone(&batches);
                env.spawn("bench", writer(env.clone(), Arc::clone(node), id, batches, began + time, pace))
            })
            .collect();
        let (mut bytes, mut times) = (0, Vec::new());
        for writer in writers {
            let (written, own) = writer.await.map_err(|_| Error::Unknown)??;
            bytes += written;
            times.extend(own);
        }
        let took = (env.monotonic() - began).as_secs_f64();
        times.sort_by(f64::total_cmp);
        let (p50_ms, p99_ms) = (percentile(&times, 0.5), percentile(&times, 0.99));
        Ok(Appended { bytes_per_second: bytes as f64 / took, p50_ms, p99_ms })
    }
}

/// Batches of one size, as many as together have so many bytes.
fn batches_of(bytes: usize, all: usize) -> Vec<Batch> {
    let value = Some(vec![b'x'; RECORD_BYTES - 12].into());
    let records = vec![NewRecord { value, ..NewRecord::default() }; (bytes / RECORD_BYTES).max(1)];
    let frame = Frame { now_ms: 1, producer: None, transactional: false, batch_bytes_max: bytes.max(2000) * 2 };
    let batch = Batch::build(&records, &frame).expect("the records fit");
    let copy = |_| {
        let mut bytes = [&batch.header()[..], batch.body()].concat().into();
        Batch::split_from(&mut bytes).expect("it is intact").expect("it is whole")
    };
    (0..(all / batch.size()).max(1)).map(copy).collect()
}

/// Appends until the time has come, with a pace: the time of the first and between two; returns bytes, and milliseconds
/// for each batch.
async fn writer(
    env: Env,
    node: Arc<Node>,
    id: TopicPartition,
    batches: Arc<[Batch]>,
    until: Duration,
    pace: Option<(Duration, Duration)>,
) -> Result<(u64, Vec<f64>), Error> {
    let (flying, mut landing) = mpsc::channel::<(Duration, Acknowledgement)>(IN_FLIGHT);
    let clock = env.clone();
    let landed = env.spawn("bench", async move {
        let mut times = Vec::new();
        while let Some((began, outcome)) = landing.recv().await {
            outcome.await.map_err(|_| Error::Unknown)??;
            times.push((clock.monotonic() - began).as_secs_f64() * 1e3);
        }
        Ok::<_, Error>(times)
    });
    // Each begins elsewhere.
    let (mut bytes, mut at) = (0u64, id.partition as usize * batches.len() / 128);
    let (mut next, mut woken) = (pace.map(|(first, _)| first), Duration::ZERO);
    while env.monotonic() < until {
        let room = flying.reserve().await.map_err(|_| Error::Unknown)?;
        let mut began = env.monotonic();
        if let (Some(due), Some((_, pause))) = (&mut next, pace) {
            if *due > began {
                env.sleep(*due - began).await;
                woken = env.monotonic();
            }
            // What it waits behind those before it counts too; that a timer is coarse does not.
            began = woken.max(*due);
            *due += pause;
        }
        let batch = &batches[at % batches.len()];
        at += 1;
        room.send((began, node.append_raw(id, batch.clone()).await?));
        bytes += batch.size() as u64;
    }
    drop(flying);
    Ok((bytes, landed.await.map_err(|_| Error::Unknown)??))
}

/// Reads the newest 48 MiB of a partition again and again and copies them, as a connection would; bytes a second.
pub(super) async fn read_tail(env: &Env, node: &Arc<Node>, time: Duration) -> Result<f64, Error> {
    let config = [("max.message.bytes".to_owned(), "4000000".to_owned())].into();
    let name = format!("tail-{}", env.random_u64());
    let topic = node.create_topic(NewTopic { name, partitions: 1, config }).await?;
    let id = TopicPartition { topic: topic.id, partition: 0 };
    for batch in batches_of(64 * 1024, TAIL_BYTES) {
        node.append_raw(id, batch).await?.await.map_err(|_| Error::Unknown)??;
    }
    let mut copy = Vec::with_capacity(2 * FETCH_BYTES);
    let (began, mut bytes, mut from) = (env.monotonic(), 0u64, Offset(0));
    while env.monotonic() - began < time {
        let fetched = node.fetch_raw(id, from, FETCH_BYTES, Isolation::Uncommitted).await?;
        copy.clear();
        for batch in &fetched.batches {
            copy.extend_from_slice(batch.header());
            copy.extend_from_slice(batch.body());
        }
        std::hint::black_box(&copy);
        bytes += copy.len() as u64;
        from = fetched.batches.last().map_or(Offset(0), Batch::next_offset);
    }
    let took = (env.monotonic() - began).as_secs_f64();
    Ok(bytes as f64 / took)
}
