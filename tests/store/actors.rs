//! Who writes, reads and watches while the program dies and comes back: each keeps a record of what it was told.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::records;
use serde_json::Value;

use super::history::{At, History, Log, Logs, Told, Transaction, brief, key_of};
use crate::support::block_on;
use crate::support::broker::{Broker, OFFSET_OUT_OF_RANGE};
use crate::support::clients::try_text_rows;

/// A confluent-kafka producer that writes `NAME.N.…` to the partitions in turn until its input ends; where its topic is
/// compacted `NAME.N.KEY.…` under that key, and now and then a tombstone, called `NAME.N.KEY.-`.
pub struct Producer {
    child: Child,
    topic: Produced,
}

/// What a producer writes, and where.
#[derive(Clone, Copy, Debug)]
pub struct Produced {
    pub writer: &'static str,
    pub topic: &'static str,
    pub partitions: i32,
    pub keyed: bool,
    /// Records in a second, at the most.
    pub rate: u32,
}

const SCRIPT: &str = r#"
import sys, threading, time
from confluent_kafka import Producer
broker, name, topic, partitions, rate, keyed = *sys.argv[1:4], int(sys.argv[4]), int(sys.argv[5]), sys.argv[6] == "keyed"
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
def record(n):
    if not keyed: return dict(value="%s.%d.%s" % (name, n, "x" * (n * 37 % 4000)))
    # Some keys at a time, often; they are left for others, with their last values or deleted.
    key = "%d-%d" % (n // 2000, n * n % 61)
    value = None if n % 7 == 3 else "%s.%d.%s.%s" % (name, n, key, "x" * (n * 37 % 600))
    return dict(key=key, value=value, headers=[("n", "%s.%d" % (name, n))])
n, began = 0, time.monotonic()
while not stop.is_set():
    while True:
        try:
            p.produce(topic, partition=n % partitions, on_delivery=done(n), **record(n))
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

impl Produced {
    fn at(&self, partition: i32) -> At {
        (self.topic.to_owned(), partition)
    }

    /// What record `n` is called.
    fn value(&self, n: usize) -> String {
        let writer = self.writer;
        if !self.keyed {
            return format!("{writer}.{n}.x{}", n * 37 % 4000);
        }
        let rest = if n % 7 == 3 { "-".to_owned() } else { format!("x{}", n * 37 % 600) };
        format!("{writer}.{n}.{}-{}.{rest}", n / 2000, n * n % 61)
    }
}

/// What a record is called: by its value, or by its header and key. One whose parts do not belong together has a name that
/// nobody has given.
fn called(key: Option<String>, value: Option<String>, header: Option<String>) -> String {
    match (key, value) {
        (None, Some(value)) if !value.starts_with('{') => brief(&value),
        // A row of a table.
        (_, Some(value)) if value.starts_with('{') => {
            let row: Value = serde_json::from_str(&value).unwrap_or_else(|e| panic!("{value}: {e}"));
            row["line"].as_str().expect("a line").to_owned()
        }
        (Some(key), Some(value)) if header.as_ref().is_some_and(|n| value.starts_with(&format!("{n}.{key}."))) => {
            brief(&value)
        }
        (Some(key), None) => format!("{}.{key}.-", header.unwrap_or_default()),
        (key, value) => format!("{value:?} under {key:?} of {header:?}"),
    }
}

/// What a record is called as it lies in the log.
pub fn called_in_log(record: &records::Record) -> String {
    let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).expect("utf-8");
    let header = record.headers.values().next().and_then(|value| value.as_ref().map(text));
    called(record.key.as_ref().map(text), record.value.as_ref().map(text), header)
}

impl Producer {
    pub fn start(kafka: SocketAddr, topic: Produced) -> Self {
        let python = std::env::var("RIVERRUN_TEST_PYTHON").expect("RIVERRUN_TEST_PYTHON: run tests/run");
        let Produced { writer, topic: name, partitions, keyed, rate } = topic;
        let child = Command::new(python)
            .args(["-c", SCRIPT, &kafka.to_string(), writer, name, &partitions.to_string(), &rate.to_string()])
            .arg(if keyed { "keyed" } else { "plain" })
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python");
        Self { child, topic }
    }

    /// It writes nothing new from now on.
    pub fn finish(&mut self) {
        drop(self.child.stdin.take());
    }

    /// Ends it when everything is acknowledged, and adds what it knows.
    pub fn stop(mut self, history: &mut History) {
        self.finish();
        let mut said = String::new();
        self.child.stdout.take().expect("piped").read_to_string(&mut said).expect("utf-8");
        let topic = self.topic;
        assert!(self.child.wait().expect("python").success(), "{topic:?} failed");
        let mut lines = said.lines();
        let tried: usize = lines.next().expect("a count").parse().expect("a number");
        for n in 0..tried {
            let partition = i32::try_from(n).expect("small") % topic.partitions;
            history.tried.entry(topic.at(partition)).or_default().push(topic.value(n));
        }
        for line in lines {
            let numbers: Vec<i64> = line.split(' ').map(|word| word.parse().expect("a number")).collect();
            let (partition, n) =
                (i32::try_from(numbers[0]).expect("small"), usize::try_from(numbers[2]).expect("small"));
            history.acknowledged.push(Told { at: topic.at(partition), offset: numbers[1], value: topic.value(n) });
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
    pub fn start(mut state: T, mut step: impl FnMut(&mut T) -> bool + Send + 'static) -> Self {
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
        Ok(part) => {
            for record in part.records {
                assert!(record.offset >= *next, "{at:?} gives {} at {next}", record.offset);
                *next = record.offset + 1;
                // What a transaction holds is told when it is over.
                if !record.control && !record.transactional {
                    seen.read.push(Told { at: at.clone(), offset: record.offset, value: called_in_log(&record) });
                }
            }
            *next = part.next.max(*next);
        }
        Err(OFFSET_OUT_OF_RANGE) => {
            // It has moved since it was asked for, or long before.
            let bounds = broker.bounds(topic, partition)?.unwrap_or_else(|code| panic!("bounds of {at:?}: {code}"));
            seen.bounds.entry(at.clone()).or_default().push(bounds);
            let start = bounds.0;
            assert!(start > *next, "{at:?} is out of range at {next}, first offset {start}");
            *next = start;
        }
        Err(code) => panic!("{at:?} at {next}: error {code}"),
    }
    Ok(())
}

/// How many transactions the table with a key stands, and how many it does not: while it stands its topic is held, and not
/// compacted.
const TABLE_STANDS: (usize, usize) = (30, 15);

/// Writes `tx.N.I` into two tables with one column, `line`, and `tx.N.KEY.row` into one with a key, `k`, while that stands;
/// in one transaction each time.
pub fn transactions(postgres: SocketAddr, tables: [&'static str; 2], keyed: &'static str) -> Actor<Vec<Transaction>> {
    let url = format!("postgres://someone@{postgres}/riverrun");
    let mut stands = false;
    Actor::start(Vec::new(), move |tried| {
        let n = tried.len();
        let (length, pause) = TABLE_STANDS;
        let wanted = n % (length + pause) < length;
        let transaction = transaction(n, wanted);
        let sql = match (wanted, stands) {
            (true, false) => format!(
                "CREATE TABLE {keyed} (k TEXT PRIMARY KEY, line TEXT) WITH (topic = '{keyed}', format = 'json')"
            ),
            (false, true) => format!("DROP TABLE {keyed}"),
            _ => sql_of(&transaction, tables, keyed),
        };
        let told = block_on(async {
            let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.ok()?;
            tokio::spawn(connection);
            match try_text_rows(&client, &sql).await {
                Ok(_) => Some(true),
                Err(error) if error.as_db_error().is_none_or(is_over) => Some(false),
                // What was not answered was done.
                Err(error) if stands != wanted && error.as_db_error().is_some_and(is_done) => Some(true),
                Err(error) => panic!("{sql}: {error:?}"),
            }
        });
        match told {
            Some(done) if stands != wanted => stands ^= done,
            Some(committed) => tried.push(Transaction { committed, ..transaction }),
            None => {}
        }
        told == Some(true)
    })
}

fn transaction(n: usize, keyed: bool) -> Transaction {
    let row = keyed.then(|| format!("tx.{n}.k{}.row", n * n % 23));
    Transaction { values: (0..3 + n % 5).map(|i| format!("tx.{n}.{i}")).collect(), row, committed: false }
}

fn sql_of(transaction: &Transaction, tables: [&str; 2], keyed: &str) -> String {
    let insert = |table: &str, values: &[String]| {
        let rows: Vec<_> = values.iter().map(|value| format!("('{value}')")).collect();
        format!("INSERT INTO {table} VALUES {};", rows.join(", "))
    };
    let (one, other) = transaction.values.split_at(1 + transaction.values.len() % 2);
    let (one, other) = (insert(tables[0], one), insert(tables[1], other));
    let row = transaction.row.iter().map(|row| format!("INSERT INTO {keyed} VALUES ('{}', '{row}');", key_of(row)));
    format!("BEGIN; {one} {} {other} COMMIT", row.collect::<String>())
}

/// The program has ended, or is about to: somebody wants it to, or its disk has failed.
fn is_over(error: &tokio_postgres::error::DbError) -> bool {
    error.code().code().starts_with("57P") || error.code().code() == "58030"
}

/// The table is there already, or is not.
fn is_done(error: &tokio_postgres::error::DbError) -> bool {
    ["42P07", "42P01"].contains(&error.code().code())
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
            let header = record.headers.into_values().next();
            log.records.insert(record.offset, called(record.key, record.value, header));
        }
    }
    logs
}
