//! Internal consistency: 200,000 transfers between accounts. The sum of all balances is NULL before the first row and
//! then 0 for ever, in every SELECT and in every epoch of every output topic, also under kills.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::support::clients::{consume, python, try_text_rows};
use crate::support::postgres::Postgres;
use crate::support::program::Program;
use crate::support::random::Random;
use crate::support::{Scratch, block_on, free_port, wait_for};

const TRANSFERS: u64 = 200_000;
const KILLS: u64 = 4;
/// Transactions that may share an epoch.
const GROUP: u64 = 10;

/// The nested form over `{from}`, rows (account, amount).
pub const NESTED: &str = "CREATE MATERIALIZED VIEW nested AS SELECT sum(balance) AS total FROM
    (SELECT account, sum(amount) AS balance FROM ({from}) m GROUP BY account) b";

/// Four views, each over the one before.
pub fn chained(credits: &str, debits: &str) -> Vec<String> {
    vec![
        format!("CREATE MATERIALIZED VIEW credits AS {credits}"),
        format!("CREATE MATERIALIZED VIEW debits AS {debits}"),
        "CREATE MATERIALIZED VIEW balance AS SELECT account, sum(amount) AS balance FROM
            (SELECT account, amount FROM credits UNION ALL SELECT account, -amount AS amount FROM debits) m GROUP BY account"
            .to_owned(),
        "CREATE MATERIALIZED VIEW total AS SELECT sum(balance) AS total FROM balance".to_owned(),
    ]
}

/// Reads the nested view and all four chained ones in one SELECT, again and again; every row must be consistent.
struct Watcher {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<Seen>,
}

/// What the watchers of a program have seen so far, over its kills.
#[derive(Clone, Copy, Default)]
struct Seen {
    reads: u64,
    /// Rows have been seen: the totals are never NULL again.
    rows: bool,
}

impl Watcher {
    fn start(program: &Program, seen: Seen) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, url) = (Arc::clone(&stop), program.url());
        let thread = std::thread::spawn(move || block_on(watch(&url, &stopped, seen)));
        Self { stop, thread }
    }

    fn stop(self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("an inconsistent state was shown")
    }
}

async fn watch(url: &str, stop: &AtomicBool, mut seen: Seen) -> Seen {
    let Ok((client, driver)) = tokio_postgres::connect(url, tokio_postgres::NoTls).await else { return seen };
    tokio::spawn(driver);
    let sql = "SELECT t.total, n.total, (SELECT sum(balance) FROM balance),
                      (SELECT sum(amount) FROM credits), (SELECT sum(amount) FROM debits)
               FROM total t CROSS JOIN nested n";
    while !stop.load(Ordering::Relaxed) {
        let rows = match try_text_rows(&client, sql).await {
            Ok(rows) => rows,
            // The program was killed; its watcher ends with it.
            Err(e) if e.as_db_error().is_none() => break,
            Err(e) => panic!("{e:?}"),
        };
        assert_eq!(rows.len(), 1, "a total over everything is one row");
        match &rows[0][..] {
            [None, None, None, None, None] => assert!(!seen.rows, "the totals went back to NULL"),
            [Some(a), Some(b), Some(c), Some(credits), Some(debits)]
                if [a, b, c].iter().all(|total| *total == "0") && credits == debits =>
            {
                seen.rows = true;
            }
            other => panic!("inconsistent: {other:?}"),
        }
        seen.reads += 1;
    }
    seen
}

/// After each epoch of the topic `balance`, the balances add up to 0; `total` and `nested` never held anything else.
/// Returns the number of epochs.
fn check_topics(program: &Program) -> usize {
    for name in ["total", "nested"] {
        let values: Vec<_> = consume(program.kafka, name).iter().filter_map(|r| r.json()).collect();
        assert!(!values.is_empty(), "{name} has no records");
        for (n, value) in values.iter().enumerate() {
            let total = &value["total"];
            assert!(
                total.is_null() && n == 0 || total.as_str() == Some("0") || total.as_i64() == Some(0),
                "{name} {n}: {total}"
            );
        }
    }
    let mut balances: BTreeMap<String, i128> = BTreeMap::new();
    let mut epochs = BTreeSet::new();
    let mut epoch = None;
    for record in consume(program.kafka, "balance") {
        let this: u64 = record.header("epoch").expect("an epoch").parse().expect("a number");
        if epoch.is_some_and(|e| e != this) {
            assert_eq!(balances.values().sum::<i128>(), 0, "after epoch {epoch:?}");
            assert!(epoch < Some(this), "epochs go back: {epoch:?} then {this}");
        }
        epoch = Some(this);
        epochs.insert(this);
        let key = record.key.clone().expect("a key");
        match record.json() {
            Some(row) => {
                let text = row["balance"].to_string();
                balances.insert(key, text.trim_matches('"').parse().unwrap_or_else(|e| panic!("{text}: {e}")));
            }
            None => drop(balances.remove(&key)),
        }
    }
    assert_eq!(balances.values().sum::<i128>(), 0, "at the end");
    epochs.len()
}

#[test]
fn totals_over_one_topic_are_never_wrong() {
    let scratch = Scratch::new("bank-topic");
    let data = scratch.path().join("data");
    let port = free_port();
    let mut program = Program::start_at(&data, port);
    program.execute("CREATE TABLE transfers (id BIGINT, source INT, target INT, amount BIGINT) WITH (topic = 'transfers', format = 'json')");
    program.execute(&NESTED.replace(
        "{from}",
        "SELECT target AS account, amount FROM transfers UNION ALL SELECT source AS account, -amount AS amount FROM transfers",
    ));
    for view in chained(
        "SELECT target AS account, sum(amount) AS amount FROM transfers GROUP BY target",
        "SELECT source AS account, sum(amount) AS amount FROM transfers GROUP BY source",
    ) {
        program.execute(&view);
    }
    let mut random = Random::new(3);
    let mut seen = Seen::default();
    let kafka = program.kafka;
    let producer = std::thread::spawn(move || produce(&kafka.to_string(), TRANSFERS));
    for _ in 0..KILLS {
        let watcher = Watcher::start(&program, seen);
        let before = arrived(&program);
        wait_for("transfers to arrive", 60, || (arrived(&program) >= (before + 5000).min(TRANSFERS)).then_some(()));
        std::thread::sleep(Duration::from_millis(random.below(200)));
        program.kill();
        seen = watcher.stop();
        program = Program::start_at(&data, port);
    }
    let watcher = Watcher::start(&program, seen);
    producer.join().expect("every transfer is acknowledged");
    wait_for("the last transfer", 60, || (arrived(&program) >= TRANSFERS).then_some(()));
    seen = watcher.stop();
    assert_eq!(arrived(&program), TRANSFERS, "a transfer came twice");
    assert!(seen.rows && seen.reads > 100, "only {} reads", seen.reads);
    let epochs = check_topics(&program);
    assert!(epochs >= 100, "only {epochs} epochs");
}

fn arrived(program: &Program) -> u64 {
    let rows = program.rows("SELECT sum(amount) FROM credits");
    rows[0][0].as_ref().map_or(0, |n| n.parse().expect("a number"))
}

/// Produces transfers of 1 between ten accounts, each acknowledged (idempotent, all replicas).
fn produce(broker: &str, count: u64) {
    let script = r#"
import json, random, sys, time
from confluent_kafka import Producer
broker, count = sys.argv[1], int(sys.argv[2])
r = random.Random(count)
failed = []
p = Producer({"bootstrap.servers": broker, "enable.idempotence": True, "linger.ms": 5, "reconnect.backoff.max.ms": 200, "batch.num.messages": 500, "queue.buffering.max.messages": 20000})
def done(err, msg):
    if err: failed.append(str(err))
for i in range(count):
    a = r.randrange(10)
    while True:
        try:
            p.produce("transfers", json.dumps({"id": i, "source": a, "target": (a + 1 + r.randrange(9)) % 10, "amount": 1}), on_delivery=done)
            break
        except BufferError:
            p.poll(0.1)
    p.poll(0)
    assert not failed, failed[:3]
    if i % 200 == 0: time.sleep(0.005)  # some seconds for all, so that the kills come in between
left = p.flush(120)
assert left == 0 and not failed, (left, failed[:3])
"#;
    python(script, &[broker, &count.to_string()]);
}

#[test]
fn totals_over_two_tables_changed_together_are_never_wrong() {
    let server = Postgres::start();
    server.execute(
        "CREATE TABLE credit (id bigint PRIMARY KEY, account int, amount bigint);
         CREATE TABLE debit (id bigint PRIMARY KEY, account int, amount bigint);",
    );
    let scratch = Scratch::new("bank-tables");
    let data = scratch.path().join("data");
    let mut program = Program::start(&data);
    program.execute(&format!(
        "CREATE SOURCE bank WITH (connector = 'postgres', url = '{}', tables = 'public.credit, public.debit')",
        server.url()
    ));
    program.execute(&NESTED.replace(
        "{from}",
        "SELECT account, amount FROM bank.public.credit UNION ALL SELECT account, -amount AS amount FROM bank.public.debit",
    ));
    for view in chained(
        "SELECT account, sum(amount) AS amount FROM bank.public.credit GROUP BY account",
        "SELECT account, sum(amount) AS amount FROM bank.public.debit GROUP BY account",
    ) {
        program.execute(&view);
    }
    let mut random = Random::new(4);
    let mut seen = Seen::default();
    let transactions = 2000;
    for round in 0..4 {
        let watcher = Watcher::start(&program, seen);
        for group in 0..transactions / 4 / GROUP {
            block_on(async {
                let client = server.connect().await;
                for n in 0..GROUP {
                    let n = round * transactions / 4 + group * GROUP + n;
                    client.batch_execute(&transfer(n, TRANSFERS / transactions)).await.expect("a transfer");
                }
            });
            // What comes behind it is of a later epoch.
            wait_for("the group to arrive", 60, || {
                let rows = program.rows("SELECT sum(amount) FROM credits");
                (rows[0][0] == server.rows("SELECT sum(amount) FROM credit")[0][0]).then_some(())
            });
        }
        if round < 3 {
            std::thread::sleep(Duration::from_millis(random.below(200)));
            program.kill();
            seen = watcher.stop();
            program = Program::start(&data);
        } else {
            wait_for("the last transfer", 60, || {
                let rows = program.rows("SELECT sum(amount) FROM credits");
                (rows[0][0] == server.rows("SELECT sum(amount) FROM credit")[0][0]).then_some(())
            });
            seen = watcher.stop();
        }
    }
    assert!(seen.rows && seen.reads > 100, "only {} reads", seen.reads);
    let epochs = check_topics(&program);
    assert!(epochs >= 100, "only {epochs} epochs");
}

/// `rows` transfers in one transaction over both tables, with some corrected and some taken back.
fn transfer(n: u64, rows: u64) -> String {
    let (first, last) = (n * rows + 1, (n + 1) * rows);
    format!(
        "BEGIN;
         INSERT INTO debit SELECT i, i % 10, i % 7 FROM generate_series({first}, {last}) i;
         INSERT INTO credit SELECT i, (i + 1) % 10, i % 7 FROM generate_series({first}, {last}) i;
         UPDATE debit SET amount = amount + 1 WHERE id = {first};
         UPDATE credit SET amount = amount + 1 WHERE id = {first};
         DELETE FROM debit WHERE id = {last};
         DELETE FROM credit WHERE id = {last};
         COMMIT;"
    )
}
