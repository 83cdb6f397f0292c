//! Upsert tables in which any row is changed and deleted, with NULLs and in several partitions, under a join, a union all
//! and aggregates, replayed epoch by epoch. One of the views comes when everything is on the way.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use serde_json::Value;

use super::recorded;
use super::replay::{View, upserted, values};
use super::writers::{Writer, execute, grow, produce};
use crate::support::Scratch;
use crate::support::broker::{Broker, Record, Topic};
use crate::support::program::Program;
use crate::support::random::Random;

/// Three quarters of them come after the first kill.
const EPOCHS: u64 = 180;
const KILLS: u64 = 3;
const ITEMS: u64 = 25;
const KINDS: u64 = 6;

/// `tx` names the log transaction that has written the row.
const ITEM: [(&str, &str); 9] = [
    ("id", "int"),
    ("kind", "int"),
    ("name", "text"),
    ("qty", "int"),
    ("price", "numeric(10,2)"),
    ("weight", "double precision"),
    ("active", "boolean"),
    ("at", "timestamp"),
    ("tx", "bigint"),
];
const KIND: [(&str, &str); 4] = [("id", "int"), ("label", "text"), ("factor", "bigint"), ("tx", "bigint")];

const VIEWS: [&str; 4] = [
    "CREATE MATERIALIZED VIEW joined WITH (partitions = 2) AS SELECT i.id, i.name, i.active, k.label, k.factor * i.qty AS score
        FROM items i JOIN kinds k ON i.kind = k.id WHERE i.weight > 0 OR i.weight IS NULL",
    "CREATE MATERIALIZED VIEW both_ways AS SELECT name AS label, qty AS n FROM items UNION ALL SELECT label, factor FROM kinds",
    "CREATE MATERIALIZED VIEW stats AS SELECT kind, count(*) AS n, count(qty) AS counted, sum(qty) AS total, avg(qty) AS mean,
        min(price) AS lo, max(price) AS hi, avg(price) AS price, sum(weight) AS weight, min(name) AS first, max(at) AS last,
        count(*) FILTER (WHERE active) AS active, sum(price) FILTER (WHERE name IS NOT NULL) AS named
        FROM items GROUP BY kind HAVING count(*) > 1",
    "CREATE MATERIALIZED VIEW whole AS SELECT count(*) AS n, sum(price) AS price, max(id) AS top, avg(weight) AS weight
        FROM items WHERE qty > 2",
];
/// Created after the first kill, while a writer is at work.
const LATE: &str =
    "CREATE MATERIALIZED VIEW scores AS SELECT label, count(*) AS n, sum(score) AS score, min(name) AS first
    FROM joined GROUP BY label";

#[test]
fn views_over_upserts_equal_the_batch_query_at_every_epoch() {
    let scratch = Scratch::new("replay-upserts");
    let data = scratch.path().join("data");
    let program = Program::start(&data);
    for (table, columns, partitions) in [("items", &ITEM[..], 3), ("kinds", &KIND[..], 2)] {
        let columns: Vec<_> = columns.iter().map(|(name, sql_type)| format!("{name} {sql_type}")).collect();
        program.execute(&format!(
            "CREATE TABLE {table} ({}, PRIMARY KEY (id)) WITH (topic = '{table}', format = 'json', partitions = {partitions})",
            columns.join(", ")
        ));
    }
    let mut views: Vec<View> = VIEWS.iter().map(|create| View::new((*create).to_owned(), "")).collect();
    recorded::create(&program, &mut views);
    let mut random = Random::new(23);
    let program = grow(program, &data, (EPOCHS, KILLS), &mut random.clone(), |program, killed| {
        let writer = changes(program, killed);
        if killed == 1 {
            let mut late = [View::new(LATE.to_owned(), "")];
            recorded::create(program, &mut late);
            views.extend(late);
        }
        writer
    });
    program.execute(&insert("items", &item(&mut random.clone(), 0, -1)));

    let mut broker = Broker::connect(program.kafka);
    let (items, kinds) = (broker.topic("items"), broker.topic("kinds"));
    assert!(items.records.iter().any(|record| record.value.is_none()), "nothing was deleted");
    let (of_items, of_kinds) = (rows(&items), rows(&kinds));
    let seen = recorded::check(&program, &views, &[&items, &kinds], &mut random, transaction, |cut| {
        vec![
            ("items".to_owned(), values(&ITEM, &upserted(&items, &of_items, cut))),
            ("kinds".to_owned(), values(&KIND, &upserted(&kinds, &of_kinds, cut))),
        ]
    });
    assert!(seen.whole.spread > 20, "{seen:?}");
}

/// INSERTs into one table or both, and tombstones from kcat.
fn changes(program: &Program, killed: u64) -> Writer {
    let (kafka, url) = (program.kafka, program.url());
    let mut random = Random::new(300 + killed);
    let mut tx = i64::try_from(killed).expect("few kills") * 1_000_000;
    Writer::start(move || {
        tx += 1;
        step(&mut random, kafka, &url, tx)
    })
}

fn step(random: &mut Random, kafka: SocketAddr, url: &str, tx: i64) -> bool {
    let list = |random: &mut Random, max: u64, row: fn(&mut Random, u64, i64) -> String, ids: u64| {
        // INSERT refuses a key that comes twice.
        let rows: BTreeSet<u64> = (0..=random.below(max)).map(|_| random.below(ids)).collect();
        rows.into_iter().map(|id| row(random, id, tx)).collect::<Vec<_>>().join(", ")
    };
    match random.below(10) {
        0..4 => execute(url, &insert("items", &list(random, 6, item, ITEMS))),
        4 => execute(url, &insert("kinds", &list(random, 2, kind, KINDS))),
        5..7 => {
            let items = insert("items", &list(random, 5, item, ITEMS));
            let kinds = insert("kinds", &list(random, 2, kind, KINDS));
            // Some rows change twice in one transaction.
            let again = insert("items", &list(random, 5, item, ITEMS));
            execute(url, &format!("BEGIN; {items}; {kinds}; {again}; COMMIT"))
        }
        n => {
            let (topic, ids) = if n == 7 { ("kinds", KINDS) } else { ("items", ITEMS) };
            let lines: String = (0..=random.below(3)).map(|_| format!("{{\"id\":{}}}|\n", random.below(ids))).collect();
            produce(kafka, topic, &lines)
        }
    }
}

fn insert(table: &str, rows: &str) -> String {
    format!("INSERT INTO {table} VALUES {rows}")
}

fn item(random: &mut Random, id: u64, tx: i64) -> String {
    let kind = or_null(random, |r| r.below(KINDS + 2).to_string());
    let name = or_null(random, |r| format!("'{}'", ["a", "b", "A", "", "it''s"][r.below(5) as usize]));
    let qty = or_null(random, |r| r.below(6).to_string());
    let price = or_null(random, |r| format!("{}.{:02}", r.below(90), r.below(100)));
    let weight = or_null(random, |r| ["0.1", "0.2", "-2.5", "1000000.7", "3.25"][r.below(5) as usize].to_owned());
    let active = or_null(random, |r| (r.below(2) == 0).to_string());
    let at = or_null(random, |r| format!("'2024-02-{:02} 10:00:{:02}.25'", r.below(28) + 1, r.below(60)));
    format!("({id}, {kind}, {name}, {qty}, {price}, {weight}, {active}, {at}, {tx})")
}

fn kind(random: &mut Random, id: u64, tx: i64) -> String {
    let label = or_null(random, |r| format!("'{}'", ["a", "red", "blue"][r.below(3) as usize]));
    let factor = or_null(random, |r| r.below(6).to_string());
    format!("({id}, {label}, {factor}, {tx})")
}

fn or_null(random: &mut Random, value: impl FnOnce(&mut Random) -> String) -> String {
    if random.below(6) == 0 { "NULL".to_owned() } else { value(random) }
}

fn transaction(record: &Record) -> Option<String> {
    record.json().map(|row| row["tx"].to_string())
}

/// What each record leaves of its key's row.
fn rows(topic: &Topic) -> Vec<(Record, Option<Value>)> {
    topic.records.iter().map(|record| (record.clone(), record.json())).collect()
}
