//! `generator`: a shop that changes by itself, to try things without a database. Its records are those of a captured
//! PostgreSQL; a seed decides all of them, and a stored position resumes exactly behind the last one.

#![allow(
    clippy::disallowed_methods,
    reason = "a source stands outside of `env`: its clock paces it and stamps envelopes"
)]

mod shop;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use async_trait::async_trait;
use engine::io::{Connector, Error, Finding, OptionSpec, Options, Sink, Source, SourceBatch, SourceRelation};
use tokio::time::Instant;

use crate::cdc::{Assembler, Relation, json};
use crate::change::{Change, Op};
use crate::options::resolve;
use shop::Shop;

/// The connector.
pub struct Generator;

const OPTIONS: &[OptionSpec] = &[
    OptionSpec {
        name: "seed",
        aliases: &[],
        required: false,
        default: Some("1"),
        help: "decides every row; the same seed gives the same shop",
        secret: false,
    },
    OptionSpec {
        name: "rate",
        aliases: &["rows.per.second"],
        required: false,
        default: Some("100"),
        help: "changed rows a second; 0 is as fast as the log takes them",
        secret: false,
    },
    OptionSpec {
        name: "rows",
        aliases: &["limit"],
        required: false,
        default: Some("0"),
        help: "ends with the transaction that reaches so many changed rows; 0 goes on for ever",
        secret: false,
    },
];

/// An idle source says that it lives so often; a stop waits no longer for it.
const IDLE: Duration = Duration::from_millis(200);
/// Time between two steps while the rate is the bound: batches stay small and flow steadily.
const STEP: Duration = Duration::from_millis(20);
/// Changed rows that may be made up for at once after a pause, as a share of a second's.
const BURST: f64 = 0.1;

#[async_trait]
impl Connector for Generator {
    fn name(&self) -> &'static str {
        "generator"
    }

    fn options(&self) -> &'static [OptionSpec] {
        OPTIONS
    }

    async fn check(&self, name: &str, options: &Options) -> Result<Vec<Finding>, Error> {
        GeneratorSource::new(name, options)?;
        Ok(vec![Finding { ok: true, warning: false, what: "the shop is always open".into(), fix: None }])
    }

    async fn source(&self, name: &str, options: &Options) -> Result<Box<dyn Source>, Error> {
        Ok(Box::new(GeneratorSource::new(name, options)?))
    }

    async fn remove(&self, _name: &str, _options: &Options) -> Result<(), Error> {
        Ok(())
    }

    async fn sink(&self, _: &str, _: &Options) -> Result<Box<dyn Sink>, Error> {
        Err(Error::User { message: "the connector generator only gives; it is no sink".into(), hint: None })
    }
}

struct GeneratorSource {
    name: String,
    shop: Shop,
    /// Changed rows a second; 0 for no bound.
    rate: u64,
    rows_max: u64,
    relations: Vec<SourceRelation>,
    templates: Vec<Relation>,
    assembler: Assembler,
    position: Position,
    /// Rows that may be made now, and since when that counts.
    budget: f64,
    paced: Option<Instant>,
}

/// Where the shop stands: stored as JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
struct Position {
    seed: u64,
    /// The transaction that comes next.
    transaction: u64,
    /// Changed rows so far.
    rows: u64,
}

impl GeneratorSource {
    fn new(name: &str, options: &Options) -> Result<Self, Error> {
        let values = resolve(OPTIONS, options)?;
        let number = |option: &str| {
            let text = &values[option];
            let wrong = || Error::User { message: format!("{option} = {text:?} is no whole number"), hint: None };
            text.parse::<u64>().map_err(|_| wrong())
        };
        let seed = number("seed")?;
        let relations = relations();
        let template = |(index, relation): (usize, &SourceRelation)| {
            let columns = relation.schema.fields().iter().map(|field| field.name().clone());
            Relation::new(index, format!("public.{}", relation.name), columns, relation.key.clone())
        };
        let templates = relations.iter().enumerate().map(template).collect();
        Ok(Self {
            name: name.to_owned(),
            shop: Shop { seed },
            rate: number("rate")?,
            rows_max: number("rows")?,
            relations,
            templates,
            assembler: Assembler::new(false),
            position: Position { seed, transaction: 0, rows: 0 },
            budget: 0.0,
            paced: None,
        })
    }

    fn is_over(&self) -> bool {
        self.rows_max > 0 && self.position.rows >= self.rows_max
    }

    /// Waits until the rate allows another row.
    async fn pace(&mut self) {
        if self.rate == 0 {
            self.budget = f64::INFINITY;
            return;
        }
        loop {
            let now = Instant::now();
            let since = self.paced.replace(now).map_or(STEP, |then| now - then);
            self.budget = allowance(self.budget, since, self.rate);
            if self.budget >= 1.0 {
                return;
            }
            tokio::time::sleep(STEP).await;
        }
    }

    /// Adds the next transaction to the chunk.
    fn step(&mut self, now_us: i64) -> Result<(), Error> {
        let number = self.position.transaction;
        self.assembler.begin(format_args!("{number}"), now_us.div_euclid(1000));
        let events = self.shop.transaction(number);
        for event in &events {
            let template = &self.templates[event.table as usize];
            let values = event.row.values();
            let (before, after) = match event.op {
                Op::Delete => (Some(&values[..]), None),
                _ => (None, Some(&values[..])),
            };
            let change = Change { op: event.op, before, after };
            let table = &self.relations[event.table as usize].name;
            let block = |out: &mut Vec<u8>| source_block(out, &self.name, table, number, now_us);
            let pushed = self.assembler.push(template, change, now_us, block);
            pushed.map_err(|error| Error::Outside(format!("the generator made a change that cannot be: {error}")))?;
        }
        self.assembler.commit();
        self.position.transaction += 1;
        self.position.rows += events.len() as u64;
        self.budget -= events.len() as f64;
        Ok(())
    }
}

#[async_trait]
impl Source for GeneratorSource {
    fn relations(&self) -> &[SourceRelation] {
        &self.relations
    }

    fn keep(&mut self, _: &BTreeSet<(String, String)>) -> Result<(), Error> {
        // The shop has always the same tables.
        Ok(())
    }

    async fn start(&mut self, position: Option<Vec<u8>>) -> Result<(), Error> {
        let Some(bytes) = position else { return Ok(()) };
        let lost = |message: String| Error::Lost { message, hint: Some("drop the source and create it anew".into()) };
        let stored: Position = serde_json::from_slice(&bytes)
            .map_err(|error| lost(format!("the stored position cannot be read: {error}")))?;
        if stored.seed != self.shop.seed {
            return Err(lost(format!("the stored position is of seed {}, not {}", stored.seed, self.shop.seed)));
        }
        self.position = stored;
        Ok(())
    }

    async fn next(&mut self) -> Result<SourceBatch, Error> {
        if self.is_over() {
            tokio::time::sleep(IDLE).await;
        } else {
            self.pace().await;
            let now_us = now_us();
            while self.budget >= 1.0 && !self.assembler.is_full() && !self.is_over() {
                self.step(now_us)?;
            }
        }
        let position = serde_json::to_vec(&self.position).expect("numbers are JSON");
        Ok(SourceBatch { records: self.assembler.take(), position: Some(position), snapshot_done: true })
    }

    fn durable(&mut self, _: &[u8]) {}

    async fn remove(&mut self) -> Result<(), Error> {
        Ok(())
    }
}

/// What may be made after `since`, at `rate` rows a second.
fn allowance(budget: f64, since: Duration, rate: u64) -> f64 {
    let rate = rate as f64;
    (budget + since.as_secs_f64() * rate).min((rate * BURST).max(1.0))
}

fn now_us() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

fn source_block(out: &mut Vec<u8>, name: &str, table: &str, transaction: u64, now_us: i64) {
    out.extend_from_slice(b"{\"version\":");
    json::string(out, env!("CARGO_PKG_VERSION"));
    out.extend_from_slice(b",\"connector\":\"generator\",\"name\":");
    json::string(out, name);
    out.extend_from_slice(b",\"ts_ms\":");
    json::int(out, now_us.div_euclid(1000));
    out.extend_from_slice(b",\"snapshot\":\"false\",\"db\":\"shop\",\"schema\":\"public\",\"table\":");
    json::string(out, table);
    out.extend_from_slice(b",\"txId\":");
    json::uint(out, transaction);
    out.push(b'}');
}

fn relations() -> Vec<SourceRelation> {
    let time = || DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let money = || DataType::Decimal128(12, 2);
    let relation = |name: &str, columns: Vec<(&str, DataType)>| SourceRelation {
        schema_name: "public".into(),
        name: name.into(),
        schema: Arc::new(Schema::new(columns.into_iter().map(|(n, t)| Field::new(n, t, false)).collect::<Vec<_>>())),
        key: vec![0],
        format: "debezium-json",
    };
    let (int, text) = (DataType::Int64, DataType::Utf8);
    vec![
        relation(
            "customers",
            vec![
                ("id", int.clone()),
                ("name", text.clone()),
                ("email", text.clone()),
                ("city", text.clone()),
                ("since", time()),
            ],
        ),
        relation(
            "orders",
            vec![
                ("id", int.clone()),
                ("customer_id", int.clone()),
                ("amount", money()),
                ("status", text.clone()),
                ("placed_at", time()),
            ],
        ),
        relation(
            "payments",
            vec![("id", int.clone()), ("order_id", int), ("amount", money()), ("method", text), ("paid_at", time())],
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::codec::RowOp;

    fn options(pairs: &[(&str, &str)]) -> Options {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    async fn rows(source: &mut GeneratorSource, batches: usize) -> (Vec<(usize, log::NewRecord)>, Vec<u8>) {
        let (mut all, mut position) = (Vec::new(), None);
        for _ in 0..batches {
            let batch = source.next().await.unwrap();
            all.extend(batch.records);
            position = batch.position;
        }
        (all, position.unwrap())
    }

    fn keys(records: &[(usize, log::NewRecord)]) -> Vec<(usize, Option<bytes::Bytes>, bool)> {
        records.iter().map(|(table, record)| (*table, record.key.clone(), record.value.is_some())).collect()
    }

    #[tokio::test]
    async fn a_position_resumes_exactly() {
        let given = options(&[("rate", "0"), ("rows", "20000")]);
        let mut whole = GeneratorSource::new("shop", &given).unwrap();
        whole.start(None).await.unwrap();
        let (first, position) = rows(&mut whole, 1).await;
        let (rest, _) = rows(&mut whole, 1).await;
        let mut resumed = GeneratorSource::new("shop", &given).unwrap();
        resumed.start(Some(position.clone())).await.unwrap();
        assert_eq!(keys(&rows(&mut resumed, 1).await.0), keys(&rest));
        assert_ne!(keys(&first), keys(&rest));
        let mut other = GeneratorSource::new("shop", &options(&[("seed", "2")])).unwrap();
        assert!(matches!(other.start(Some(position)).await, Err(Error::Lost { .. })));
    }

    #[tokio::test]
    async fn a_limit_ends_it() {
        let mut source = GeneratorSource::new("shop", &options(&[("rate", "0"), ("rows", "1000")])).unwrap();
        while !source.is_over() {
            source.next().await.unwrap();
        }
        assert!((1000..1010).contains(&source.position.rows));
        assert!(source.next().await.unwrap().records.is_empty());
    }

    #[test]
    fn the_rate_holds() {
        let check = |rate: u64, step: Duration, seconds: f64, expect: f64| {
            let (mut made, mut budget) = (0.0, 0.0);
            for _ in 0..(seconds / step.as_secs_f64()).round() as usize {
                budget = allowance(budget, step, rate);
                while budget >= 1.0 {
                    (made, budget) = (made + 4.0, budget - 4.0);
                }
            }
            assert!((made - expect).abs() <= expect * 0.01 + 4.0, "{made} rows, {expect} expected");
        };
        check(500, STEP, 10.0, 5000.0);
        check(3, STEP, 100.0, 300.0);
        // After a pause at most a tenth of a second's rows are made up for.
        check(500, Duration::from_secs(5), 5.0, 50.0);
    }

    #[tokio::test]
    async fn its_records_decode() {
        let mut source = GeneratorSource::new("shop", &options(&[("rate", "0"), ("rows", "9000")])).unwrap();
        let (records, _) = rows(&mut source, 2).await;
        let formats = crate::format::formats();
        let format = formats.iter().find(|format| format.name() == "debezium-json").unwrap();
        for (index, relation) in source.relations.iter().enumerate() {
            let schema = Some(Arc::clone(&relation.schema));
            let decode = format.decode(schema, &relation.key, &Options::new()).unwrap();
            let views: Vec<log::RecordView> = (0..)
                .zip(records.iter().filter(|(table, _)| *table == index))
                .map(|(offset, (_, record))| log::RecordView {
                    offset: log::Offset(offset),
                    timestamp_ms: 0,
                    key: record.key.clone(),
                    value: record.value.clone(),
                    headers: bytes::Bytes::from_static(&[0]),
                })
                .collect();
            let partition = log::TopicPartition { topic: log::TopicId::default(), partition: 0 };
            let decoded = decode.decode(partition, &views).unwrap();
            assert!(decoded.ops.contains(&RowOp::Upsert) && decoded.unchanged.is_empty());
            assert_eq!(decoded.ops.contains(&RowOp::Delete), index == 1, "cancelled orders go early");
        }
    }

    #[test]
    fn wrong_options_are_named() {
        for given in [options(&[("rate", "fast")]), options(&[("colour", "red")])] {
            assert!(matches!(GeneratorSource::new("shop", &given), Err(Error::User { .. })));
        }
    }
}
