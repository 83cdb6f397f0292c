//! The views of the totals, replayed epoch by epoch: over one topic, and over two PostgreSQL tables changed together.

use std::path::Path;

use serde_json::Value;

use super::recorded;
use super::replay::{View, upserted, values};
use super::writers::{Writer, execute, grow, produce};
use crate::support::broker::{Broker, Record, Topic};
use crate::support::postgres::Postgres;
use crate::support::program::Program;
use crate::support::random::Random;
use crate::support::{Scratch, wait_for};

const EPOCHS: u64 = 120;
const KILLS: u64 = 3;

/// The nested view and the four chained ones.
fn views(from: &str, credits: &str, debits: &str, source: &str) -> Vec<View> {
    let nested = super::totals::NESTED.replace("{from}", from);
    let chained = super::totals::chained(credits, debits);
    std::iter::once(nested).chain(chained).map(|create| View::new(create, source)).collect()
}

#[test]
fn views_over_one_topic_equal_the_batch_query_at_every_epoch() {
    let scratch = Scratch::new("replay-topic");
    let data = scratch.path().join("data");
    let program = Program::start(&data);
    program.execute(
        "CREATE TABLE transfers (id BIGINT, source INT, target INT, amount BIGINT) WITH (topic = 'transfers', format = 'json')",
    );
    let mut views = views(
        "SELECT target AS account, amount FROM transfers UNION ALL SELECT source AS account, -amount AS amount FROM transfers",
        "SELECT target AS account, sum(amount) AS amount FROM transfers GROUP BY target",
        "SELECT source AS account, sum(amount) AS amount FROM transfers GROUP BY source",
        "",
    );
    // Rows only come: its records have no keys.
    let large =
        "CREATE MATERIALIZED VIEW large AS SELECT id, target, amount * 2 AS twice FROM transfers WHERE amount > 3";
    views.push(View::new(large.to_owned(), ""));
    recorded::create(&program, &mut views);
    let mut random = Random::new(21);
    let program = grow(program, &data, (EPOCHS, KILLS), &mut random.clone(), |program, killed| {
        // What a kill has cut off is written or not; ids go on behind what is there.
        let next = Broker::connect(program.kafka).topic("transfers").records.len();
        transfers(program, 100 + killed, next)
    });
    let next = Broker::connect(program.kafka).topic("transfers").records.len();
    program.execute(&format!("INSERT INTO transfers VALUES ({next}, 1, 2, 3)"));

    let transfers = Broker::connect(program.kafka).topic("transfers");
    for (n, record) in transfers.records.iter().enumerate() {
        assert_eq!(record.json().expect("a value")["id"].as_i64(), Some(n as i64), "ids count the records");
    }
    let topics = [&transfers];
    let seen = recorded::check(&program, &views, &topics, &mut random, one_transaction, |cut| {
        let below = transfers.records.iter().filter(|record| cut.holds(&transfers, record)).count();
        vec![("transfers".to_owned(), format!("SELECT * FROM transfers WHERE id < {below}"))]
    });
    assert!(seen.whole.transactions > 20, "{seen:?}");
}

/// A transaction of one partition is known by its place there.
fn one_transaction(record: &Record) -> Option<String> {
    record.transaction.map(|at| at.to_string())
}

/// Transfers with rising ids, written by kcat and by INSERT in turn.
fn transfers(program: &Program, seed: u64, mut next: usize) -> Writer {
    let (kafka, url) = (program.kafka, program.url());
    let mut random = Random::new(seed);
    Writer::start(move || {
        let rows: Vec<[u64; 4]> = (0..=random.below(6))
            .map(|n| [next as u64 + n, random.below(8), random.below(8), random.below(5)])
            .collect();
        next += rows.len();
        if random.below(2) == 0 {
            let tuple = |[id, source, target, amount]: &[u64; 4]| format!("({id}, {source}, {target}, {amount})");
            let tuples: Vec<_> = rows.iter().map(tuple).collect();
            return execute(&url, &format!("INSERT INTO transfers VALUES {}", tuples.join(", ")));
        }
        let line = |[id, source, target, amount]: &[u64; 4]| {
            format!("|{{\"id\": {id}, \"source\": {source}, \"target\": {target}, \"amount\": {amount}}}\n")
        };
        produce(kafka, "transfers", &rows.iter().map(line).collect::<String>())
    })
}

const COLUMNS: [(&str, &str); 3] = [("id", "bigint"), ("account", "int"), ("amount", "bigint")];

#[test]
fn views_over_two_tables_changed_together_equal_the_batch_query_at_every_epoch() {
    let server = Postgres::start();
    server.execute(
        "CREATE TABLE credit (id bigint PRIMARY KEY, account int, amount bigint);
         CREATE TABLE debit (id bigint PRIMARY KEY, account int, amount bigint);
         INSERT INTO debit SELECT i, i % 7, i FROM generate_series(1, 9) i;
         INSERT INTO credit SELECT i, i % 5, i FROM generate_series(1, 9) i;",
    );
    let scratch = Scratch::new("replay-tables");
    let data = scratch.path().join("data");
    let program = Program::start(&data);
    program.execute(&format!(
        "CREATE SOURCE bank WITH (connector = 'postgres', url = '{}', tables = 'public.credit, public.debit')",
        server.url()
    ));
    let mut views = views(
        "SELECT account, amount FROM bank.public.credit UNION ALL SELECT account, -amount AS amount FROM bank.public.debit",
        "SELECT account, sum(amount) AS amount FROM bank.public.credit GROUP BY account",
        "SELECT account, sum(amount) AS amount FROM bank.public.debit GROUP BY account",
        "bank.public.",
    );
    recorded::create(&program, &mut views);
    let mut random = Random::new(22);
    let program = change_both(&server, program, &data, &random);

    let mut broker = Broker::connect(program.kafka);
    let credit = broker.topic("bank.public.credit");
    let debit = broker.topic("bank.public.debit");
    let (credits, debits) = (changes(&credit), changes(&debit));
    let topics = [&credit, &debit];
    let seen = recorded::check(&program, &views, &topics, &mut random, transaction_id, |cut| {
        vec![
            ("credit".to_owned(), values(&COLUMNS, &upserted(&credit, &credits, cut))),
            ("debit".to_owned(), values(&COLUMNS, &upserted(&debit, &debits, cut))),
        ]
    });
    assert!(seen.whole.spread > 50, "{seen:?}");
}

/// Transactions over both tables until the timeline has grown and the last of them has arrived.
fn change_both(server: &Postgres, program: Program, data: &Path, random: &Random) -> Program {
    let mut next = 10;
    let program = grow(program, data, (EPOCHS, KILLS), &mut random.clone(), |_, killed| {
        let url = server.url();
        // Far enough apart that each writer has ids of its own.
        next = 10 + killed * 100_000;
        let mut id = next;
        let mut random = Random::new(200 + killed);
        Writer::start(move || {
            id += 1;
            execute(&url, &transaction(&mut random, id))
        })
    });
    let last = next + 99_999;
    server.execute(&transaction(&mut Random::new(0), last));
    let last = Some(last.to_string());
    wait_for("the last transaction", 60, || {
        (program.rows("SELECT max(id) FROM bank.public.credit")[0][0] == last).then_some(())
    });
    program
}

/// Rows that come, change their amounts or accounts and go, in both tables at once. A few dozen are there at a time.
fn transaction(random: &mut Random, id: u64) -> String {
    let (one, other, amount) = (random.below(9), random.below(9), random.below(50));
    let (some, gone) = (id - 1 - random.below(5), random.below(4));
    let end = if id.is_multiple_of(10) { "ROLLBACK" } else { "COMMIT" };
    let mut sql = String::from("BEGIN;");
    for (table, account) in [("debit", one), ("credit", other)] {
        sql += &format!(
            "INSERT INTO {table} VALUES ({id}, {account}, {amount});
             UPDATE {table} SET amount = amount + {other} WHERE id IN ({some}, {some} - 3);
             UPDATE {table} SET account = {account} WHERE id = {some} - 4;
             DELETE FROM {table} WHERE id IN (SELECT id FROM {table} WHERE id < {id} - 20 ORDER BY id LIMIT {gone});"
        );
    }
    sql + end
}

/// The transaction of the database that a record belongs to; the snapshot is one.
fn transaction_id(record: &Record) -> Option<String> {
    let value = record.json()?;
    if value["op"] == "r" { Some("snapshot".to_owned()) } else { Some(value["source"]["txId"].to_string()) }
}

/// What each record of a captured table leaves of its key's row.
fn changes(topic: &Topic) -> Vec<(Record, Option<Value>)> {
    let after = |record: &Record| record.json().map(|value| value["after"].clone()).filter(|row| !row.is_null());
    topic.records.iter().map(|record| (record.clone(), after(record))).collect()
}
