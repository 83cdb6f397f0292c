//! Who writes, reads and watches while the program dies and comes back: each keeps a record of what it was told.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::history::{At, History, Log, Logs, Told};
use crate::support::block_on;
use crate::support::broker::{Broker, OFFSET_OUT_OF_RANGE};
use crate::support::clients::try_text_rows;

/// A confluent-kafka producer that writes `NAME.N.…` to the partitions in turn until its input ends.
pub struct Producer {
    child: Child,
    name: String,
    topic: String,
    partitions: i32,
}

const SCRIPT: &str = r#"
import sys, threading, time
from confluent_kafka import Producer
broker, name, topic, partitions, rate = *sys.argv[1:4], int(sys.argv[4]), int(sys.argv[5])
stop = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()
acked, failed = [], []
p = Producer({"bootstrap.servers": broker, "enable.idempotence": True, "acks": "all", "linger.ms": 2, "batch.num.messages": 100,
              "queue.buffering.max.messages": 1000, "reconnect.backoff.ms": 20, "reconnect.backoff.max.ms": 100, "retry.backoff.ms": 20,
              "message.timeout.ms": 120000})
def done(n):
    def on(e, m):
        if e: failed.append((n, str(e)))
        else: acked.append((m.partition(), m.offset(), n))
    return on
n, began = 0, time.monotonic()
while not stop.is_set():
    while True:
        try:
            p.produce(topic, "%s.%d.%s" % (name, n, "x" * (n * 37 % 4000)), partition=n % partitions, on_delivery=done(n))
            break
        except BufferError: p.poll(0.05)
    n += 1
    p.poll(0)
    ahead = n / rate - (time.monotonic() - began)
    if ahead > 0: stop.wait(ahead)
assert p.flush(120) == 0 and not failed, failed[:3]
print(n)
for one in acked: print(*one)
"#;

fn value(name: &str, n: usize) -> String {
    format!("{name}.{n}.{}", "x".repeat(n * 37 % 4000))
}

impl Producer {
    pub fn start(kafka: SocketAddr, name: &str, topic: &str, partitions: i32, rate: u32) -> Self {
        let python = std::env::var("RIVERRUN_TEST_PYTHON").expect("RIVERRUN_TEST_PYTHON: run tests/run");
        let (partitions_text, rate) = (partitions.to_string(), rate.to_string());
        let child = Command::new(python)
            .args(["-c", SCRIPT, &kafka.to_string(), name, topic, &partitions_text, &rate])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python");
        Self { child, name: name.to_owned(), topic: topic.to_owned(), partitions }
    }

    /// Ends it when everything is acknowledged, and adds what it knows.
    pub fn stop(mut self, history: &mut History) {
        drop(self.child.stdin.take());
        let mut said = String::new();
        self.child.stdout.take().expect("piped").read_to_string(&mut said).expect("utf-8");
        assert!(self.child.wait().expect("python").success(), "{} failed", self.name);
        let mut lines = said.lines();
        let tried: usize = lines.next().expect("a count").parse().expect("a number");
        let at = |partition: i32| -> At { (self.topic.clone(), partition) };
        for n in 0..tried {
            let partition = i32::try_from(n).expect("small") % self.partitions;
            history.tried.entry(at(partition)).or_default().push(value(&self.name, n));
        }
        for line in lines {
            let numbers: Vec<i64> = line.split(' ').map(|word| word.parse().expect("a number")).collect();
            let (partition, n) =
                (i32::try_from(numbers[0]).expect("small"), usize::try_from(numbers[2]).expect("small"));
            history.acknowledged.push(Told { at: at(partition), offset: numbers[1], value: value(&self.name, n) });
        }
    }
}

/// Runs steps on a thread of its own until it is stopped, and gives what they have recorded.
pub struct Actor<T> {
    stop: Arc<AtomicBool>,
    /// Steps that were done.
    pub steps: Arc<AtomicU64>,
    thread: std::thread::JoinHandle<T>,
}

impl<T: Send + 'static> Actor<T> {
    fn start(mut state: T, mut step: impl FnMut(&mut T) -> bool + Send + 'static) -> Self {
        let (stop, steps) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, done) = (Arc::clone(&stop), Arc::clone(&steps));
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                match step(&mut state) {
                    true => drop(done.fetch_add(1, Ordering::Relaxed)),
                    // The program is down: it comes back soon.
                    false => std::thread::sleep(Duration::from_millis(5)),
                }
            }
            state
        });
        Self { stop, steps, thread }
    }

    pub fn stop(self) -> T {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("an actor has seen what must not be")
    }
}

/// What a reader has of each partition.
#[derive(Default)]
pub struct Seen {
    pub read: Vec<Told>,
    pub bounds: BTreeMap<At, Vec<(i64, i64)>>,
    next: BTreeMap<At, i64>,
}

/// Follows all partitions from their first offsets, and asks for their bounds.
pub fn reader(kafka: SocketAddr, partitions: Vec<At>) -> Actor<Seen> {
    let mut connection = None;
    Actor::start(Seen::default(), move |seen| {
        let Some(broker) = connection.as_mut() else {
            connection = Broker::try_connect(kafka).ok();
            return connection.is_some();
        };
        let followed = partitions.iter().try_for_each(|at| follow(broker, at, seen));
        if followed.is_err() {
            connection = None;
        }
        followed.is_ok()
    })
}

fn follow(broker: &mut Broker, at: &At, seen: &mut Seen) -> std::io::Result<()> {
    let (topic, partition) = (&at.0, at.1);
    match broker.bounds(topic, partition)? {
        Ok(bounds) => seen.bounds.entry(at.clone()).or_default().push(bounds),
        Err(code) => panic!("bounds of {at:?}: error {code}"),
    }
    let next = seen.next.entry(at.clone()).or_default();
    match broker.read(topic, partition, *next)? {
        Ok(records) => {
            for record in records {
                assert!(record.offset >= *next, "{at:?} gives {} at {next}", record.offset);
                *next = record.offset + 1;
                // What a transaction holds is told when it is over.
                if let (false, Some(value)) = (record.control || record.transactional, record.value) {
                    let value = String::from_utf8(value.to_vec()).expect("utf-8");
                    seen.read.push(Told { at: at.clone(), offset: record.offset, value });
                }
            }
        }
        Err(OFFSET_OUT_OF_RANGE) => {
            let start = seen.bounds[at].last().expect("just asked").0;
            assert!(start > *next, "{at:?} is out of range at {next}, first offset {start}");
            *next = start;
        }
        Err(code) => panic!("{at:?} at {next}: error {code}"),
    }
    Ok(())
}

/// Transactions that [`transactions`] has tried: their values, and whether it was told that they are committed.
pub type Transactions = Vec<(Vec<String>, bool)>;

/// Writes `tx.N.I` into both tables, in one transaction each time. The tables have one column, `line`.
pub fn transactions(postgres: SocketAddr, tables: [&'static str; 2]) -> Actor<Transactions> {
    let url = format!("postgres://someone@{postgres}/riverrun");
    Actor::start(Transactions::new(), move |tried| {
        let n = tried.len();
        let values: Vec<String> = (0..3 + n % 5).map(|i| format!("tx.{n}.{i}")).collect();
        let insert = |table: &str, values: &[String]| {
            let rows: Vec<_> = values.iter().map(|value| format!("('{value}')")).collect();
            format!("INSERT INTO {table} VALUES {};", rows.join(", "))
        };
        let (one, other) = values.split_at(1 + n % 2);
        let sql = format!("BEGIN; {} {} COMMIT", insert(tables[0], one), insert(tables[1], other));
        block_on(async {
            let Ok((client, connection)) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await else {
                return false;
            };
            tokio::spawn(connection);
            let committed = match try_text_rows(&client, &sql).await {
                Ok(_) => true,
                Err(error) if error.as_db_error().is_none_or(|e| e.code().code().starts_with("57P")) => false,
                Err(error) => panic!("{sql}: {error:?}"),
            };
            tried.push((values, committed));
            committed
        })
    })
}

/// All partitions as they are now.
pub fn logs(kafka: SocketAddr, partitions: &[At]) -> Logs {
    let mut broker = Broker::connect(kafka);
    let mut logs = Logs::new();
    for at in partitions {
        let (start, end) = broker.bounds(&at.0, at.1).expect("connected").expect("bounds");
        logs.insert(at.clone(), Log { start, end, records: BTreeMap::new() });
    }
    let topics: BTreeSet<&String> = partitions.iter().map(|(topic, _)| topic).collect();
    for topic in topics {
        for record in broker.topic(topic).records {
            let log = logs.get_mut(&(topic.clone(), record.partition)).expect("one of its partitions");
            // A row of a table, or a value as it was produced.
            let line = record.value.as_deref().filter(|value| value.starts_with('{')).and_then(|_| record.json());
            let line = line.map(|row| row["line"].as_str().expect("a line").to_owned());
            log.records.insert(record.offset, line.or(record.value).expect("a value"));
        }
    }
    logs
}
