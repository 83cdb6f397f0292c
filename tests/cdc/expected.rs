//! What must hold at rest: folding each topic strictly gives the table, and each view equals the query in PostgreSQL.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::support::clients::{Read, consume};
use crate::support::postgres::Postgres;
use crate::support::program::Program;
use crate::support::wait_for;

/// Name, key columns, and each column rendered as the envelope renders it.
const TABLES: &[(&str, &[&str], &str)] = &[
    (
        "customers",
        &["id"],
        "'id', id, 'name', name, 'region', region, 'credit', credit::text, 'score', score, 'active', active,
         'joined', to_char(joined AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'), 'version', version",
    ),
    (
        "orders",
        &["id"],
        "'id', id, 'customer_id', customer_id, 'amount', amount::text, 'qty', qty, 'note', note,
         'placed', (extract(epoch FROM placed) * 1000000)::bigint, 'due', due - date '1970-01-01', 'version', version",
    ),
    (
        "payments",
        &["order_id", "line"],
        "'order_id', order_id, 'line', line, 'paid', paid::text, 'method', method, 'tag', tag::text, 'doc', doc::text,
         'raw', encode(raw, 'base64'), 'at', (extract(epoch FROM at) * 1000000)::bigint, 'ratio', ratio, 'version', version",
    ),
];

/// Name and query; `{p}` stands before each table's name.
pub const VIEWS: &[(&str, &str)] = &[
    (
        "spend",
        "SELECT customer_id, count(*) AS n, sum(amount) AS total, avg(qty) AS mean, min(amount) AS lo, max(placed) AS last
         FROM {p}orders GROUP BY customer_id",
    ),
    (
        "by_region",
        "SELECT c.region, count(*) AS n, sum(o.amount) AS total, sum(o.id) AS ids, min(o.qty) AS lo, max(o.qty) AS hi,
            avg(o.amount) AS mean, sum(c.score) AS score, min(o.due) AS due
         FROM {p}orders o JOIN {p}customers c ON o.customer_id = c.id WHERE o.qty > 2 GROUP BY c.region",
    ),
    ("big", "SELECT id, customer_id, amount * qty AS worth, note FROM {p}orders WHERE amount >= 500 AND note IS NOT NULL"),
    (
        "paid",
        "SELECT o.id, p.line, p.paid, p.method, p.tag, o.amount FROM {p}orders o JOIN {p}payments p ON p.order_id = o.id
         WHERE p.paid > 1.5",
    ),
    ("moves", "SELECT customer_id AS id, amount AS a FROM {p}orders UNION ALL SELECT id, credit AS a FROM {p}customers"),
    ("names", "SELECT region, active, count(name) AS n, min(name) AS lo, max(name) AS hi FROM {p}customers GROUP BY region, active"),
];

/// A view over a view, and the same for PostgreSQL.
const OVER: (&str, &str, &str) = (
    "totals",
    "SELECT sum(n) AS n, sum(total) AS total FROM spend",
    "SELECT sum(n) AS n, sum(total) AS total FROM (SELECT count(*) AS n, sum(amount) AS total FROM orders GROUP BY customer_id) s",
);

pub fn create_views(program: &Program) {
    for (name, query) in VIEWS {
        program.execute(&format!("CREATE MATERIALIZED VIEW {name} AS {}", query.replace("{p}", "shop.public.")));
    }
    program.execute(&format!("CREATE MATERIALIZED VIEW {} AS {}", OVER.0, OVER.1));
}

/// Waits until what was committed last has arrived, then compares everything once.
pub fn check_at_rest(server: &Postgres, program: &Program) {
    server.execute("INSERT INTO orders VALUES (-1, -1, 1, 1, 'the end', now(), NULL, 1) ON CONFLICT (id) DO UPDATE SET version = orders.version + 1");
    let end = server.rows("SELECT version FROM orders WHERE id = -1");
    wait_for("the last change to arrive in a view", 120, || {
        (program.rows("SELECT version FROM shop.public.orders WHERE id = -1") == end).then_some(())
    });
    for (table, key, columns) in TABLES {
        let records = consume(program.kafka, &format!("shop.public.{table}"));
        let folded = fold(table, &records);
        let rows = server.rows(&format!("SELECT json_build_object({columns})::text FROM {table}"));
        let wanted: BTreeMap<String, Value> = rows
            .iter()
            .map(|r| serde_json::from_str::<Value>(r[0].as_ref().expect("json")).expect("json"))
            .map(|v| (key_of(key, &v), comparable(v)))
            .collect();
        compare(table, &wanted, &folded);
    }
    for (name, query) in VIEWS {
        compare_view(server, program, name, &query.replace("{p}", ""));
    }
    compare_view(server, program, OVER.0, OVER.2);
}

/// Applies each record once and insists that each fits: created only what was absent, updated only what was there and
/// by exactly one version, deleted only what was there.
fn fold(table: &str, records: &[Read]) -> BTreeMap<String, Value> {
    let mut rows: BTreeMap<String, Value> = BTreeMap::new();
    let key_names = TABLES.iter().find(|t| t.0 == table).expect("known").1;
    for record in records {
        let key: Value = serde_json::from_str(record.key.as_ref().expect("a key")).expect("json key");
        let key = key_of(key_names, &key);
        let at = format!("{table} offset {} key {key}", record.offset);
        let Some(envelope) = record.json() else {
            assert!(!rows.contains_key(&key), "{at}: a tombstone for a row that is there");
            continue;
        };
        let after = comparable(envelope["after"].clone());
        let old = rows.get(&key).cloned();
        match envelope["op"].as_str().expect("op") {
            "c" | "r" => {
                assert!(old.is_none(), "{at}: created twice");
                rows.insert(key, after);
            }
            "u" => {
                let old = old.unwrap_or_else(|| panic!("{at}: updated but not there"));
                let version = |v: &Value| v["version"].as_f64().expect("version");
                assert_eq!(version(&after), version(&old) + 1.0, "{at}: an update missing or twice");
                rows.insert(key, after);
            }
            "d" => {
                assert!(old.is_some(), "{at}: deleted but not there");
                rows.remove(&key);
            }
            other => panic!("{at}: op {other}"),
        }
    }
    rows
}

fn key_of(names: &[&str], row: &Value) -> String {
    names.iter().map(|n| row[*n].to_string()).collect::<Vec<_>>().join(",")
}

/// Numbers as doubles (the same number has several texts), base64 without line breaks.
fn comparable(value: Value) -> Value {
    match value {
        Value::Number(n) => Value::String(format!("{:?}", n.as_f64().expect("a double"))),
        Value::Object(fields) => Value::Object(fields.into_iter().map(|(k, v)| (k, keep_version(v))).collect()),
        other => other,
    }
}

fn keep_version(value: Value) -> Value {
    match value {
        Value::Number(n) => serde_json::json!(n.as_f64().expect("a double")),
        Value::String(s) => Value::String(s.replace('\n', "")),
        other => other,
    }
}

fn compare(what: &str, wanted: &BTreeMap<String, Value>, found: &BTreeMap<String, Value>) {
    let missing: Vec<_> = wanted.iter().filter(|(k, _)| !found.contains_key(*k)).take(3).collect();
    let extra: Vec<_> = found.iter().filter(|(k, _)| !wanted.contains_key(*k)).take(3).collect();
    assert!(missing.is_empty() && extra.is_empty(), "{what}: missing {missing:?}, extra {extra:?}");
    for (key, row) in wanted {
        assert_eq!(row, &found[key], "{what} key {key}");
    }
    assert!(!wanted.is_empty(), "{what}: nothing to compare");
}

fn compare_view(server: &Postgres, program: &Program, name: &str, query: &str) {
    let sorted = |mut rows: Vec<Vec<Option<String>>>| {
        for value in rows.iter_mut().flatten().flatten() {
            *value = rounded(value);
        }
        rows.sort();
        rows
    };
    let wanted = sorted(server.rows(query));
    let found = sorted(program.rows(&format!("SELECT * FROM {name}")));
    let first = wanted.iter().zip(&found).find(|(w, f)| w != f);
    assert_eq!(wanted.len(), found.len(), "{name}: rows; first difference {first:?}");
    assert!(first.is_none(), "{name}: {first:?}");
    assert!(!wanted.is_empty(), "{name}: nothing to compare");
}

/// Decimals with more than six digits after the point (averages), rounded to six; trailing zeros dropped.
fn rounded(text: &str) -> String {
    let Some((whole, fraction)) = text.split_once('.') else { return text.to_owned() };
    let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole.trim_start_matches('-')) || whole.is_empty() || !digits(fraction) {
        return text.to_owned();
    }
    let mut number: i128 = format!("{whole}{:0<7}", &fraction[..fraction.len().min(7)]).parse().expect("digits");
    let sign = if whole.starts_with('-') { -1 } else { 1 };
    number = (number.abs() + 5) / 10 * sign;
    let text = format!("{}.{:06}", number.abs() / 1_000_000, number.abs() % 1_000_000);
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if number < 0 { format!("-{text}") } else { text.to_owned() }
}

#[test]
fn rounding_is_half_away_from_zero_at_six_digits() {
    let check = |text: &str, wanted: &str| assert_eq!(rounded(text), wanted, "{text}");
    check("1.23456750", "1.234568");
    check("-1.23456749", "-1.234567");
    check("5.0000000000000000", "5");
    check("12.50", "12.5");
    check("2024-01-01 00:00:00.5", "2024-01-01 00:00:00.5");
}
