//! Apache Kafka's own dump tool reads the segments of a data directory and agrees with what clients wrote. Needs a JVM:
//! `tests/run --jvm`.

mod compacted;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::support::clients::{python, run};
use crate::support::kafka_tools::{Depth, Dumped, KafkaTools, Line, asked_for};
use crate::support::program::Program;
use crate::support::random::Random;
use crate::support::{Scratch, block_on, wait_for};

const TOPIC: &str = "dumped";
/// Rows of transactions as they stand in the topic.
const ABORTED: &str = r#"{"line":"gone"}"#;
const COMMITTED: [&str; 2] = [r#"{"line":"kept"}"#, r#"{"line":"kept-too"}"#];

/// Segments of 1 MiB, the least that Kafka allows, and at least three of them: values of random hexadecimal digits,
/// said twice so that every codec packs them, none to less than a quarter. Prints the id of the topic, then each
/// acknowledged record.
const WRITE: &str = r#"
import json, random, sys
from confluent_kafka import Producer, TopicCollection
from confluent_kafka.admin import AdminClient, NewTopic
broker, topic, codecs = sys.argv[1], sys.argv[2], sys.argv[3:]
admin, rng = AdminClient({"bootstrap.servers": broker}), random.Random(codecs[0])
if topic not in admin.list_topics(timeout=10).topics:
    admin.create_topics([NewTopic(topic, 1, 1, config={"segment.bytes": "1048576"})])[topic].result(10)
print(admin.describe_topics(TopicCollection([topic]))[topic].result(10).topic_id)
for codec in codecs:
    producer = Producer({"bootstrap.servers": broker, "compression.type": codec, "batch.size": 16384, "linger.ms": 5,
                         "enable.idempotence": codec != "none"})
    def done(err, msg, names):
        assert not err, err
        text = lambda b: None if b is None else b.decode()
        print(json.dumps([msg.offset(), text(msg.key()), text(msg.value()), names]))
    for i in range(2500):
        key, value = ("%s-%d" % (codec, i)).encode(), 2 * rng.randbytes(rng.randrange(50, 350)).hex().encode()
        if i % 10 == 3: key = None
        if i % 10 == 4: value = None
        headers = [("h", b"1"), ("i", None)] if i % 10 == 5 else []
        report = lambda err, msg, names=[name for name, _ in headers]: done(err, msg, names)
        producer.produce(topic, value, key, headers=headers, on_delivery=report)
        producer.poll(0)
    assert producer.flush(60) == 0
"#;

/// A record as its producer had it acknowledged.
#[derive(Debug, PartialEq, Eq)]
struct Record {
    offset: i64,
    key: Option<String>,
    value: Option<String>,
    headers: String,
}

/// The files of one segment, its batches as they stand in the `.log`.
struct Segment {
    base: i64,
    log: PathBuf,
    batches: Vec<Batch>,
}

/// What a batch's first bytes say.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Batch {
    position: i64,
    base_offset: i64,
    last_offset: i64,
    size: i64,
    leader_epoch: i64,
    crc: i64,
    max_timestamp_ms: i64,
    producer_id: i64,
    producer_epoch: i64,
    base_sequence: i64,
    records: i64,
    transactional: bool,
    control: bool,
    delete_horizon_ms: Option<i64>,
}

#[test]
fn kafkas_dump_tool_agrees_with_what_was_written() {
    if !asked_for("kafkas_dump_tool_agrees_with_what_was_written") {
        return;
    }
    let tools = KafkaTools::get();
    let scratch = Scratch::new("dump");
    let data = scratch.path().join("data");
    let (topic_id, acknowledged) = write(&tools, &data);
    all_files_are_sound(&tools, &data);
    let partition = partition_of(&data, &topic_id);
    let segments = segments(&partition);
    assert!(segments.len() >= 3, "{} segments", segments.len());
    let files: Vec<PathBuf> = files_below(&partition).into_iter().filter(|file| is_dumped(file)).collect();
    let dumped = tools.dump(&files, Depth::Records);
    assert_eq!(dumped.complaints, Vec::<String>::new());
    batches_agree(&segments, &dumped);
    records_agree(&segments, &dumped, &acknowledged);
    indexes_agree(&segments, &dumped);
    transactions_agree(&segments, &dumped);
    producers_agree(&segments, &dumped);
    epochs_agree(&segments, &partition);
    a_changed_byte_is_seen(&tools, &segments[1], scratch.path());
}

/// Two lives of the program: records in every codec, a committed transaction and aborted ones. Gives the id of the
/// topic and what the Kafka clients had acknowledged, by offset.
fn write(tools: &KafkaTools, data: &Path) -> (String, Vec<Record>) {
    let program = Program::start(data);
    let (topic_id, mut acknowledged) = by_confluent(&program, &["none", "gzip"]);
    // The client above packs with lz4 only for brokers with consumer groups, and Java frames snappy otherwise.
    for codec in ["lz4", "snappy"] {
        acknowledged.extend(by_java(tools, &program, codec, acknowledged.len() as i64));
    }
    program.stop();
    let program = Program::start(data);
    program.execute(&format!("CREATE TABLE {TOPIC} (line TEXT) WITH (topic = '{TOPIC}', format = 'json')"));
    program.execute(&format!("INSERT INTO {TOPIC} VALUES ('kept'), ('kept-too')"));
    // The second row is larger than a batch may be, so the transaction is aborted; whether it had got as far as to
    // write the first one is chance.
    let half = format!("INSERT INTO {TOPIC} VALUES ('gone'), ('{}')", "x".repeat(1_100_000));
    wait_for("a row of an aborted transaction", 60, || {
        let refused = block_on(async { program.connect().await.batch_execute(&half).await });
        assert!(refused.is_err(), "a record over max.message.bytes");
        newest_lines(&program, TOPIC).contains(ABORTED).then_some(())
    });
    acknowledged.extend(by_confluent(&program, &["snappy", "zstd"]).1);
    program.stop();
    acknowledged.sort_by_key(|record| record.offset);
    (topic_id, acknowledged)
}

fn by_confluent(program: &Program, codecs: &[&str]) -> (String, Vec<Record>) {
    let broker = program.kafka.to_string();
    let printed = python(WRITE, &[&[broker.as_str(), TOPIC], codecs].concat());
    let (topic_id, records) = printed.split_once('\n').expect("the topic's id, then records");
    (topic_id.to_owned(), records.lines().map(Record::parse).collect())
}

/// Writes as the only writer of a partition that ends at `from`.
fn by_java(tools: &KafkaTools, program: &Program, codec: &str, from: i64) -> Vec<Record> {
    let mut random = Random::new(from as u64);
    let record = |offset: i64| {
        let half: String = (0..5 + random.below(35)).map(|_| format!("{:016x}", random.next())).collect();
        let (key, value) = (Some(format!("{codec}-{offset}")), Some(half.repeat(2)));
        Record { offset, key, value, headers: "[]".to_owned() }
    };
    let records: Vec<Record> = (from..from + 2500).map(record).collect();
    let field = |field: &Option<String>| field.clone().expect("both are there");
    let lines: String = records.iter().map(|r| format!("{}\t{}\n", field(&r.key), field(&r.value))).collect();
    tools.produce(program.kafka, TOPIC, codec, &lines);
    records
}

/// What stands at the end of the topic, committed or not.
fn newest_lines(program: &Program, topic: &str) -> String {
    let out = run(Command::new("kcat")
        .args(["-b", &program.kafka.to_string(), "-t", topic, "-p", "0", "-C", "-o", "-100", "-e", "-q"])
        .args(["-X", "isolation.level=read_uncommitted"]));
    String::from_utf8(out.stdout).expect("utf-8")
}

/// Whatever lies in the directory, internal topics too.
fn all_files_are_sound(tools: &KafkaTools, data: &Path) {
    let files: Vec<PathBuf> = files_below(&data.join("topics")).into_iter().filter(|file| is_dumped(file)).collect();
    let dumped = tools.dump(&files, Depth::Batches);
    assert_eq!(dumped.complaints, Vec::<String>::new());
    assert_eq!(dumped.files.len(), files.len());
    for line in dumped.files.iter().flat_map(|file| file.with("isvalid")) {
        assert_eq!(line.text("isvalid"), Some("true"), "{line:?}");
    }
    let indexes: Vec<PathBuf> = files.into_iter().filter(|file| has_end(file, &["index", "timeindex"])).collect();
    let dumped = tools.dump(&indexes, Depth::IndexSanity);
    assert_eq!(dumped.complaints, Vec::<String>::new());
    assert_eq!(dumped.files.len(), indexes.len());
}

/// The tool sees the batches that stand in the files, end to end, and their checksums hold.
fn batches_agree(segments: &[Segment], dumped: &Dumped) {
    let mut next = 0;
    for segment in segments {
        let file = dumped.file(&segment.log);
        let seen: Vec<Batch> = file.with("baseOffset").map(Batch::dumped).collect();
        assert_eq!(seen, segment.batches, "{}", segment.log.display());
        assert!(file.with("baseOffset").all(|line| line.text("isvalid") == Some("true")));
        assert_eq!(segment.base, next, "a segment begins where the one before ends");
        for batch in &segment.batches {
            assert_eq!(batch.base_offset, next, "{batch:?}");
            next = batch.last_offset + 1;
        }
    }
}

/// The tool sees each acknowledged record at its offset, and nothing else but the transactions.
fn records_agree(segments: &[Segment], dumped: &Dumped, acknowledged: &[Record]) {
    let (mut plain, mut in_transactions, mut codecs) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
    for file in segments.iter().map(|segment| dumped.file(&segment.log)) {
        let mut transactional = false;
        for line in &file.lines {
            if let Some(codec) = line.text("compresscodec") {
                codecs.insert(codec);
                transactional = line.text("isTransactional") == Some("true");
            } else if transactional {
                in_transactions.insert(line.text("endTxnMarker").or(line.text("payload")).expect("a marker or a row"));
            } else if line.text("keySize").is_some() {
                plain.push(Record::dumped(line));
            }
        }
    }
    assert_eq!(plain.len(), acknowledged.len());
    for (seen, acknowledged) in plain.iter().zip(acknowledged) {
        assert_eq!(seen, acknowledged);
    }
    assert_eq!(in_transactions, BTreeSet::from([ABORTED, COMMITTED[0], COMMITTED[1], "ABORT", "COMMIT"]));
    assert_eq!(codecs, BTreeSet::from(["none", "gzip", "snappy", "lz4", "zstd"]));
}

/// Sealed segments have their indexes; what stands in them the tool has checked against the log.
fn indexes_agree(segments: &[Segment], dumped: &Dumped) {
    let (_active, sealed) = segments.split_last().expect("segments");
    for segment in sealed {
        assert!(!dumped.file(&segment.beside("index")).lines.is_empty(), "{}", segment.log.display());
        let times = dumped.file(&segment.beside("timeindex"));
        let last = times.lines.last().unwrap_or_else(|| panic!("{}", times.path.display()));
        let largest = segment.batches.iter().map(|batch| batch.max_timestamp_ms).max();
        assert_eq!(Some(last.number("timestamp")), largest, "the last entry holds the largest timestamp");
    }
}

/// Each aborted transaction, and no other, is noted beside its marker, with what was stable then by the batches.
fn transactions_agree(segments: &[Segment], dumped: &Dumped) {
    let (mut expect, mut noted) = (Vec::new(), Vec::new());
    let mut open = BTreeMap::new();
    for segment in segments {
        let markers = dumped.file(&segment.log).with("endTxnMarker");
        let markers: BTreeMap<i64, Option<&str>> =
            markers.map(|line| (line.number("offset"), line.text("endTxnMarker"))).collect();
        for batch in segment.batches.iter().filter(|batch| batch.transactional) {
            if !batch.control {
                open.entry(batch.producer_id).or_insert(batch.base_offset);
            } else if let Some(first) = open.remove(&batch.producer_id) {
                let marker = batch.base_offset;
                let stable = open.values().copied().min().unwrap_or(marker + 1);
                let aborted = (segment.base, batch.producer_id, first, marker, stable);
                expect.extend((markers[&marker] == Some("ABORT")).then_some(aborted));
            }
        }
        let index = dumped.files.iter().find(|file| file.path == segment.beside("txnindex"));
        noted.extend(index.iter().flat_map(|file| &file.lines).map(|line| {
            let [producer, first] = ["producerId", "firstOffset"].map(|name| line.number(name));
            let [last, stable] = ["lastOffset", "lastStableOffset"].map(|name| line.number(name));
            (segment.base, producer, first, last, stable)
        }));
    }
    assert!(open.is_empty() && !expect.is_empty(), "{open:?} {expect:?}");
    assert_eq!(noted, expect);
}

/// Each segment but the first has a snapshot: the newest batch of each producer before it, by the batches themselves.
fn producers_agree(segments: &[Segment], dumped: &Dumped) {
    for segment in &segments[1..] {
        let mut newest: BTreeMap<i64, (i64, Option<[i64; 3]>)> = BTreeMap::new();
        let before = segments.iter().flat_map(|s| &s.batches).filter(|batch| batch.last_offset < segment.base);
        for batch in before.filter(|batch| batch.producer_id >= 0) {
            let known = newest.entry(batch.producer_id).or_insert((batch.producer_epoch, None));
            if known.0 != batch.producer_epoch {
                *known = (batch.producer_epoch, None);
            }
            if !batch.control {
                let delta = batch.last_offset - batch.base_offset;
                known.1 = Some([batch.base_sequence + delta, batch.last_offset, delta]);
            }
        }
        let seen = dumped.file(&segment.beside("snapshot")).lines.iter().map(|line| {
            let batch = || ["lastSequence", "lastOffset", "offsetDelta"].map(|name| line.number(name));
            let batch = line.text("lastSequence").is_some().then(batch);
            (line.number("producerId"), (line.number("producerEpoch"), batch))
        });
        assert_eq!(seen.collect::<BTreeMap<_, _>>(), newest, "before offset {}", segment.base);
    }
}

/// The dump tool has no eye for this file.
fn epochs_agree(segments: &[Segment], partition: &Path) {
    let mut expect = BTreeMap::new();
    for batch in segments.iter().flat_map(|segment| &segment.batches) {
        expect.entry(batch.leader_epoch).or_insert(batch.base_offset);
    }
    let lines: String = expect.iter().map(|(epoch, start)| format!("{epoch} {start}\n")).collect();
    let text = std::fs::read_to_string(partition.join("leader-epoch-checkpoint")).expect("epochs");
    assert_eq!(text, format!("0\n{}\n{lines}", expect.len()));
}

/// The judge is awake: one bit in the records of a copy, and the tool says so.
fn a_changed_byte_is_seen(tools: &KafkaTools, segment: &Segment, scratch: &Path) {
    let mut bytes = std::fs::read(&segment.log).expect("a segment");
    let batch = segment.batches.last().expect("batches");
    bytes[(batch.position + batch.size - 1) as usize] ^= 1;
    let copy = scratch.join(segment.log.file_name().expect("a file"));
    std::fs::write(&copy, bytes).expect("scratch");
    let dumped = tools.dump(std::slice::from_ref(&copy), Depth::Batches);
    let last: Option<&Line> = dumped.file(&copy).with("isvalid").last();
    assert_eq!(last.and_then(|line| line.text("isvalid")), Some("false"));
}

fn has_end(file: &Path, ends: &[&str]) -> bool {
    file.extension().is_some_and(|end| ends.iter().any(|wanted| end == *wanted))
}

fn is_dumped(file: &Path) -> bool {
    has_end(file, &["log", "index", "timeindex", "txnindex", "snapshot"])
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(&next).unwrap_or_else(|e| panic!("{}: {e}", next.display())).flatten() {
            if entry.path().is_dir() { folders.push(entry.path()) } else { found.push(entry.path()) }
        }
    }
    found.sort();
    found
}

/// Partition 0 of the topic with this id. The client writes ids in ordinary base64, Kafka in the one safe in URLs.
fn partition_of(data: &Path, topic_id: &str) -> PathBuf {
    let metadata = format!("version: 0\ntopic_id: {}", topic_id.replace('+', "-").replace('/', "_"));
    let is_its = |file: &PathBuf| {
        file.ends_with("0/partition.metadata") && std::fs::read_to_string(file).is_ok_and(|text| text == metadata)
    };
    let file = files_below(&data.join("topics")).into_iter().find(is_its);
    let file = file.unwrap_or_else(|| panic!("no partition.metadata names topic {topic_id}"));
    file.parent().expect("in a directory").to_owned()
}

fn segments(partition: &Path) -> Vec<Segment> {
    let logs = files_below(partition).into_iter().filter(|file| has_end(file, &["log"]));
    let segment = |log: PathBuf| {
        let base = log.file_stem().and_then(|name| name.to_str()?.parse().ok()).expect("a base offset");
        let bytes = std::fs::read(&log).expect("a segment");
        let mut batches: Vec<Batch> = Vec::new();
        let mut at = 0;
        while at < bytes.len() {
            batches.push(Batch::stored(&bytes, at));
            at += batches.last().map_or(0, |batch| batch.size as usize);
        }
        Segment { base, log, batches }
    };
    let mut segments: Vec<Segment> = logs.map(segment).collect();
    segments.sort_by_key(|segment| segment.base);
    segments
}

impl Segment {
    fn beside(&self, end: &str) -> PathBuf {
        self.log.with_extension(end)
    }
}

impl Batch {
    /// From the bytes at `at`, by Kafka's documentation of its record batch.
    fn stored(bytes: &[u8], at: usize) -> Batch {
        let number = |from: usize, len: usize| {
            let bytes = &bytes[at + from..][..len];
            let extended = if bytes[0] & 0x80 == 0 { 0 } else { -1 };
            bytes.iter().fold(extended, |sum: i64, byte| sum << 8 | i64::from(*byte))
        };
        Batch {
            position: at as i64,
            base_offset: number(0, 8),
            size: number(8, 4) + 12,
            leader_epoch: number(12, 4),
            crc: number(17, 4) & 0xffff_ffff,
            transactional: number(21, 2) & 0x10 != 0,
            control: number(21, 2) & 0x20 != 0,
            last_offset: number(0, 8) + number(23, 4),
            max_timestamp_ms: number(35, 8),
            producer_id: number(43, 8),
            producer_epoch: number(51, 2),
            base_sequence: number(53, 4),
            records: number(57, 4),
            // It stands where the first timestamp stood.
            delete_horizon_ms: (number(21, 2) & 0x40 != 0).then(|| number(27, 8)),
        }
    }

    fn dumped(line: &Line) -> Batch {
        Batch {
            position: line.number("position"),
            base_offset: line.number("baseOffset"),
            last_offset: line.number("lastOffset"),
            size: line.number("size"),
            leader_epoch: line.number("partitionLeaderEpoch"),
            crc: line.number("crc"),
            max_timestamp_ms: line.number("CreateTime"),
            producer_id: line.number("producerId"),
            producer_epoch: line.number("producerEpoch"),
            base_sequence: line.number("baseSequence"),
            records: line.number("count"),
            transactional: line.text("isTransactional") == Some("true"),
            control: line.text("isControl") == Some("true"),
            delete_horizon_ms: line.text("deleteHorizonMs").and_then(|text| {
                let number = text.strip_prefix("OptionalLong[")?.strip_suffix(']')?;
                Some(number.parse().unwrap_or_else(|e| panic!("{text}: {e}")))
            }),
        }
    }
}

impl Record {
    fn parse(json: &str) -> Record {
        let value: Value = serde_json::from_str(json).unwrap_or_else(|e| panic!("{json}: {e}"));
        let text = |at: usize| value[at].as_str().map(str::to_owned);
        let headers = value[3].as_array().expect("names of headers").iter().filter_map(Value::as_str);
        Record {
            offset: value[0].as_i64().expect("an offset"),
            key: text(1),
            value: text(2),
            headers: format!("[{}]", headers.collect::<Vec<_>>().join(",")),
        }
    }

    fn dumped(line: &Line) -> Record {
        let text = |name: &str| line.text(name).map(str::to_owned);
        Record {
            offset: line.number("offset"),
            key: text("key"),
            value: text("payload"),
            headers: text("headerKeys").expect("names of headers"),
        }
    }
}
