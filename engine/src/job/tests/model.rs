//! What the views of the tests must show: the same queries, computed from the records below a cut.

use std::collections::BTreeMap;

use super::harness::Session;
use super::operators::parse;

/// Rows (k, v) and how often each is there.
pub type Rows = BTreeMap<(i64, i64), i64>;

/// The names of all views, each behind what it reads.
pub const VIEWS: [&str; 5] = ["even", "sums", "total", "events_copy", "pairs"];

/// What `view` must show at a cut.
pub async fn expected(session: &Session, view: &str, cut: &log::Cut) -> Rows {
    let accounts = upserts(session, "accounts", cut).await;
    let events = inserts(session, "events", cut).await;
    match view {
        "even" => once(accounts.into_iter().filter(|(_, v)| v % 2 == 0)),
        "sums" => once(sums(&accounts)),
        "total" => once([(0, accounts.values().sum())]),
        "events_copy" => events,
        // union all of both
        "pairs" => {
            let mut rows = events;
            accounts.into_iter().for_each(|row| *rows.entry(row).or_default() += 1);
            rows
        }
        other => panic!("no view {other}"),
    }
}

fn once(rows: impl IntoIterator<Item = (i64, i64)>) -> Rows {
    rows.into_iter().map(|row| (row, 1)).collect()
}

fn sums(accounts: &BTreeMap<i64, i64>) -> BTreeMap<i64, i64> {
    let mut sums = BTreeMap::new();
    for (k, v) in accounts {
        *sums.entry(k.rem_euclid(10)).or_default() += v;
    }
    sums
}

async fn upserts(session: &Session, topic: &str, cut: &log::Cut) -> BTreeMap<i64, i64> {
    let mut rows = BTreeMap::new();
    for record in session.records(topic, Some(cut)).await {
        let k = parse(&record.key).unwrap();
        match parse(&record.value) {
            Some(v) => rows.insert(k, v),
            None => rows.remove(&k),
        };
    }
    rows
}

async fn inserts(session: &Session, topic: &str, cut: &log::Cut) -> Rows {
    let mut rows = Rows::new();
    for record in session.records(topic, Some(cut)).await {
        *rows.entry((parse(&record.key).unwrap(), parse(&record.value).unwrap())).or_default() += 1;
    }
    rows
}

/// An output topic folded to rows, up to and with an epoch.
pub fn folded(view: &str, records: &[log::RecordView], up_to_epoch: u64) -> Rows {
    let mut rows = BTreeMap::new();
    let mut last = 0;
    for record in records {
        let epoch = parse(&record.header("epoch")).unwrap() as u64;
        assert!(epoch >= last, "epochs of {view} go back from {last} to {epoch}");
        last = epoch;
        if epoch <= up_to_epoch {
            rows.insert(record.key.clone().unwrap(), record.value.clone());
        }
    }
    let number = |text: &[u8]| std::str::from_utf8(text).unwrap().parse::<i64>().unwrap();
    let live = rows.into_iter().filter_map(|(key, value)| Some((key, value?)));
    live.map(|(key, value)| match keyed(view) {
        true => ((number(&key), number(&value)), 1),
        false => {
            let comma = key.iter().position(|byte| *byte == b',').unwrap();
            ((number(&key[..comma]), number(&key[comma + 1..])), number(&value))
        }
    })
    .collect()
}

/// Whether a view has a key.
pub fn keyed(view: &str) -> bool {
    matches!(view, "even" | "sums" | "total")
}
