//! Prefix replay: what each view shows at each recorded epoch, folded from its output topic, against DataFusion's batch
//! answer over the epoch's cut. The answer comes from an ad-hoc SELECT, which runs on DataFusion; views do not.

use std::collections::BTreeMap;

use serde_json::Value;
use tokio_postgres::SimpleQueryMessage;

use super::timeline::{Cut, Epoch};
use crate::support::block_on;
use crate::support::broker::{Record, Topic};
use crate::support::program::Program;
use crate::support::random::Random;

/// Values by column, as the PostgreSQL wire writes them.
type Row = BTreeMap<String, Option<String>>;
/// How often each row is there.
type Rows = BTreeMap<Row, u64>;
/// The answer for each epoch, by its number.
pub type Answers = BTreeMap<u64, Rows>;

/// A view under test.
pub struct View {
    pub create: String,
    pub name: String,
    query: String,
    /// The first epoch that it takes part in for certain.
    pub from: u64,
}

impl View {
    /// From its definition. Tables whose names there begin with `source` are inputs without it: common table expressions
    /// have names of one part.
    pub fn new(create: String, source: &str) -> Self {
        let rest = create.strip_prefix("CREATE MATERIALIZED VIEW ").expect("a definition");
        let (head, query) = rest.split_once(" AS ").expect("a query");
        let name = head.split_whitespace().next().expect("a name").to_owned();
        let query = query.replace(source, "");
        Self { create, name, query, from: 0 }
    }

    fn reads(&self, name: &str) -> bool {
        self.query.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == name)
    }
}

/// `SELECT` that gives the rows, columns (name, type); the first column is never null.
pub fn values(columns: &[(&str, &str)], rows: &[&Value]) -> String {
    let list: Vec<String> = columns
        .iter()
        .enumerate()
        .map(|(n, (name, sql_type))| format!("column{}::{sql_type} AS {name}", n + 1))
        .collect();
    // A row of nulls makes it a list where there are no rows.
    let mut lines = vec![format!("({})", vec!["NULL"; columns.len()].join(","))];
    for row in rows {
        let cells = columns.iter().map(|(name, _)| match &row[*name] {
            Value::Null => "NULL".to_owned(),
            Value::String(text) => format!("'{}'", text.replace('\'', "''")),
            other => format!("'{other}'"),
        });
        lines.push(format!("({})", cells.collect::<Vec<_>>().join(",")));
    }
    format!("SELECT {} FROM (VALUES {}) v WHERE column1 IS NOT NULL", list.join(", "), lines.join(","))
}

/// The rows of an upsert topic at a cut: the last one of each key. `row` says what a record leaves of its key.
pub fn upserted<'a>(topic: &Topic, changes: &'a [(Record, Option<Value>)], cut: &Cut) -> Vec<&'a Value> {
    let mut rows = BTreeMap::new();
    for (record, row) in changes.iter().filter(|(record, _)| cut.holds(topic, record)) {
        rows.insert(record.key.as_deref().expect("a key"), row);
    }
    rows.into_values().flatten().collect()
}

/// DataFusion's answer for every view at every epoch from its first on. `inputs` gives, for a cut, the base tables as
/// common table expressions (name, query); they hide the relations of the same names.
pub fn answers(
    program: &Program,
    epochs: &[Epoch],
    views: &[View],
    inputs: impl Fn(&Cut) -> Vec<(String, String)>,
) -> BTreeMap<String, Answers> {
    let mut all: BTreeMap<String, Answers> = BTreeMap::new();
    // Many cuts differ only in what these views do not read.
    let mut known: BTreeMap<String, Rows> = BTreeMap::new();
    block_on(async {
        let client = program.connect().await;
        for epoch in epochs {
            let inputs = inputs(&epoch.cut);
            for (at, view) in views.iter().enumerate().filter(|(_, view)| view.from <= epoch.number) {
                let sql = batch_query(view, &views[..at], &inputs);
                if !known.contains_key(&sql) {
                    let rows = ask(&client, &sql).await;
                    known.insert(sql.clone(), rows);
                }
                all.entry(view.name.clone()).or_default().insert(epoch.number, known[&sql].clone());
            }
        }
    });
    all
}

/// The view's own query behind what it reads: the earlier views' queries and the inputs.
fn batch_query(view: &View, earlier: &[View], inputs: &[(String, String)]) -> String {
    let mut needed: Vec<&View> = vec![view];
    for before in earlier.iter().rev() {
        if needed.iter().any(|view| view.reads(&before.name)) {
            needed.push(before);
        }
    }
    let mut with: Vec<(&str, &str)> = Vec::new();
    for (name, query) in inputs {
        if needed.iter().any(|view| view.reads(name)) {
            with.push((name, query));
        }
    }
    with.extend(needed[1..].iter().rev().map(|view| (&*view.name, &*view.query)));
    let with: Vec<String> = with.iter().map(|(name, query)| format!("{name} AS ({query})")).collect();
    format!("WITH {} {}", with.join(", "), view.query)
}

async fn ask(client: &tokio_postgres::Client, sql: &str) -> Rows {
    let mut rows = Rows::new();
    for message in client.simple_query(sql).await.unwrap_or_else(|e| panic!("{sql}: {e:?}")) {
        if let SimpleQueryMessage::Row(row) = message {
            let columns = row.columns().iter().enumerate();
            let row = columns.map(|(i, column)| (column.name().to_owned(), row.get(i).map(str::to_owned))).collect();
            *rows.entry(row).or_default() += 1;
        }
    }
    rows
}

/// In each partition of an output topic epochs only rise, and the records of one epoch are one log transaction's.
pub fn check_epochs(topic: &Topic) {
    let mut last: BTreeMap<i32, (u64, usize)> = BTreeMap::new();
    for record in &topic.records {
        let at = format!("{} partition {} offset {}", topic.name, record.partition, record.offset);
        let epoch = epoch_of(record);
        let transaction = record.transaction.unwrap_or_else(|| panic!("{at}: not in a transaction"));
        if let Some((before, of)) = last.insert(record.partition, (epoch, transaction)) {
            assert!(before <= epoch, "{at}: epoch {epoch} behind {before}");
            assert_eq!(before == epoch, of == transaction, "{at}: epoch {epoch} and its transaction");
        }
    }
}

fn epoch_of(record: &Record) -> u64 {
    record.headers.get("epoch").expect("an epoch").parse().expect("a number")
}

/// What [`compare`] has looked at.
#[derive(Clone, Copy, Debug, Default)]
pub struct Compared {
    pub epochs: usize,
    /// Epochs with another answer than the one before.
    pub moved: usize,
    /// Epochs in which the view has put out nothing.
    pub quiet: usize,
}

/// Folds the output topic of a view epoch by epoch and holds each state against the answer.
pub fn compare(topic: &Topic, answers: &Answers) -> Result<Compared, String> {
    let mut records: Vec<&Record> = topic.records.iter().collect();
    records.sort_by_key(|record| epoch_of(record));
    let mut records = records.into_iter().peekable();
    let mut state = State::default();
    let mut compared = Compared::default();
    let mut before: Option<&Rows> = None;
    for (epoch, wanted) in answers {
        let mut quiet = true;
        while let Some(record) = records.next_if(|record| epoch_of(record) <= *epoch) {
            quiet &= epoch_of(record) != *epoch;
            state.apply(record);
        }
        let found = state.rows();
        if found != *wanted {
            let missing: Vec<_> = wanted.iter().filter(|(row, n)| found.get(*row) != Some(*n)).take(3).collect();
            let extra: Vec<_> = found.iter().filter(|(row, n)| wanted.get(*row) != Some(*n)).take(3).collect();
            return Err(format!("{} at epoch {epoch}: missing {missing:?}, extra {extra:?}", topic.name));
        }
        compared.epochs += 1;
        compared.moved += usize::from(before.is_some_and(|before| before != wanted));
        compared.quiet += usize::from(quiet);
        before = Some(wanted);
    }
    match records.next() {
        Some(record) => Err(format!("{} offset {}: an epoch that is not recorded", topic.name, record.offset)),
        None => Ok(compared),
    }
}

/// What an output topic says so far.
#[derive(Default)]
struct State<'a> {
    keyed: BTreeMap<&'a str, (Row, u64)>,
    appended: Rows,
}

impl<'a> State<'a> {
    fn apply(&mut self, record: &'a Record) {
        match (&record.key, record.json()) {
            (Some(key), Some(value)) => drop(self.keyed.insert(key, row_of(value))),
            (Some(key), None) => drop(self.keyed.remove(&**key)),
            (None, value) => *self.appended.entry(row_of(value.expect("a value")).0).or_default() += 1,
        }
    }

    fn rows(&self) -> Rows {
        let mut rows = self.appended.clone();
        for (row, times) in self.keyed.values() {
            *rows.entry(row.clone()).or_default() += times;
        }
        rows
    }
}

/// A record's row and how often it is there: a row that is its own key says so in `_count`.
fn row_of(value: Value) -> (Row, u64) {
    let Value::Object(mut fields) = value else { panic!("{value} is no row") };
    let times = fields.remove("_count").map_or(1, |n| n.as_u64().expect("a count"));
    (fields.into_iter().map(|(name, value)| (name, as_on_the_wire(value))).collect(), times)
}

/// JSON has doubles with a fraction, always, and times with a `T`; PostgreSQL's text has neither.
fn as_on_the_wire(value: Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::Bool(yes) => Some(if yes { "t" } else { "f" }.to_owned()),
        Value::Number(n) if n.is_f64() => Some(n.as_f64().expect("a double").to_string()),
        Value::String(text) if text.as_bytes().get(10) == Some(&b'T') => {
            let text = text.replacen('T', " ", 1);
            let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
            Some(text.to_owned())
        }
        Value::String(text) => Some(text),
        other => Some(other.to_string()),
    }
}

/// The comparison can fail: it does whenever a record of the topic is missing, or comes an epoch late. Tries the last
/// record and some others from the view's first epoch on, and returns how many topics it has tampered with.
pub fn check_that_tampering_is_seen(topic: &Topic, answers: &Answers, random: &mut Random) -> usize {
    let first = *answers.keys().next().expect("an epoch");
    let last = topic.records.len() - 1;
    let shown: Vec<usize> = (0..last).filter(|at| epoch_of(&topic.records[*at]) >= first).collect();
    let some = (0..shown.len().min(5)).map(|_| shown[random.below(shown.len() as u64) as usize]);
    let mut tampered = 0;
    for at in some.chain([last]) {
        let mut dropped = topic.clone();
        let record = dropped.records.remove(at);
        assert!(compare(&dropped, answers).is_err(), "{} without {record:?} is as good", topic.name);
        tampered += 1;
        let epoch = epoch_of(&record);
        if epoch >= first {
            let mut late = topic.clone();
            late.records[at].headers.insert("epoch".to_owned(), (epoch + 1).to_string());
            assert!(compare(&late, answers).is_err(), "{} with {record:?} an epoch later is as good", topic.name);
            tampered += 1;
        }
    }
    tampered
}
