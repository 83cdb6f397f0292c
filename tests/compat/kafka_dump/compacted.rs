//! The same over segments that compaction has written anew: gaps, batches with fewer records or none, delete horizons, and
//! the files beside them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{
    Batch, Segment, a_changed_byte_is_seen, all_files_are_sound, files_below, has_end, is_dumped, newest_lines,
    partition_of, segments, transactions_agree,
};
use crate::support::broker::Broker;
use crate::support::clients::python;
use crate::support::kafka_tools::{Depth, Dumped, KafkaTools, asked_for};
use crate::support::program::Program;
use crate::support::{Scratch, block_on, wait_for};

const COMPACT_ALWAYS_MS: &str = "100";
const COMPACT_NEVER_MS: &str = "86400000";

/// Rows of a table with the key `k`, by clients: keys that come again and again, keys that are deleted, in all codecs.
/// Prints the id of the topic, then each acknowledged record.
const WRITE: &str = r#"
import json, random, sys
from confluent_kafka import Producer, TopicCollection
from confluent_kafka.admin import AdminClient, NewTopic
broker, topic, retention, round = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
admin, rng = AdminClient({"bootstrap.servers": broker}), random.Random(round)
if topic not in admin.list_topics(timeout=10).topics:
    config = {"cleanup.policy": "compact", "segment.bytes": "1048576", "min.cleanable.dirty.ratio": "0.1", "delete.retention.ms": retention}
    admin.create_topics([NewTopic(topic, 1, 1, config=config)])[topic].result(10)
print(admin.describe_topics(TopicCollection([topic]))[topic].result(10).topic_id)
for codec in ["none", "gzip", "snappy", "zstd"]:
    producer = Producer({"bootstrap.servers": broker, "compression.type": codec, "batch.size": 16384, "linger.ms": 5,
                         "enable.idempotence": codec != "none"})
    def done(err, msg):
        assert not err, err
        text = lambda b: None if b is None else b.decode()
        print(json.dumps([msg.offset(), text(msg.key()), text(msg.value())]))
    for i in range(1500):
        k = "gone-%d-%d" % (round, i // 20) if i % 10 == 3 else "%s-%d" % (codec, i * i % 101)
        key = json.dumps({"k": k}, separators=(",", ":"))
        value = None if i % 20 == 13 else json.dumps({"k": k, "line": rng.randbytes(rng.randrange(200, 800)).hex()}, separators=(",", ":"))
        producer.produce(topic, value, key, on_delivery=done)
        producer.poll(0)
    assert producer.flush(60) == 0
"#;

/// Key and value by offset.
type Records = BTreeMap<i64, (Option<String>, Option<String>)>;

#[test]
fn kafkas_dump_tool_agrees_with_what_compaction_leaves() {
    if !asked_for("kafkas_dump_tool_agrees_with_what_compaction_leaves") {
        return;
    }
    let tools = KafkaTools::get();
    // Where tombstones and markers stay, and where they go at once.
    for retention_ms in ["86400000", "0"] {
        let scratch = Scratch::new("dump-compacted");
        let data = scratch.path().join("data");
        let (topic_id, written) = write(&data, retention_ms);
        all_files_are_sound(&tools, &data);
        let partition = partition_of(&data, &topic_id);
        let segments = segments(&partition);
        let (compacted, others): (Vec<_>, Vec<_>) = segments.iter().partition(|segment| is_compacted(segment));
        assert!(!compacted.is_empty() && !others.is_empty(), "{} and {}", compacted.len(), others.len());
        let files: Vec<PathBuf> = files_below(&partition).into_iter().filter(|file| is_dumped(file)).collect();
        let dumped = tools.dump(&files, Depth::Records);
        batches_agree(&segments, &dumped);
        only_gaps_are_complained_of(&segments, &dumped);
        records_agree(&segments, &dumped, &written, retention_ms != "0");
        indexes_agree(&segments, &dumped);
        transactions_agree(&segments, &dumped);
        producers_agree(&segments, &dumped);
        epochs_agree(&segments, &partition);
        a_changed_byte_is_seen(&tools, compacted[0], scratch.path());
    }
}

fn is_compacted(segment: &Segment) -> bool {
    segment.log.to_string_lossy().contains("/compacted-")
}

/// Three lives; in the first two compaction works. The transactions of the last one stay as they were written.
fn write(data: &Path, retention_ms: &str) -> (String, Records) {
    let mut written = Records::new();
    let program = start(data, COMPACT_ALWAYS_MS);
    by_clients(&program, retention_ms, "0", &mut written);
    transactions(&program);
    by_clients(&program, retention_ms, "1", &mut written);
    settled(data, &program);
    program.stop();
    let program = start(data, COMPACT_ALWAYS_MS);
    by_clients(&program, retention_ms, "2", &mut written);
    settled(data, &program);
    program.stop();
    let program = start(data, COMPACT_NEVER_MS);
    transactions(&program);
    // What comes behind pushes them into a segment that is sealed, and only such a one has an index of them.
    let topic_id = by_clients(&program, retention_ms, "3", &mut written);
    program.stop();
    (topic_id, written)
}

fn start(data: &Path, compact_every_ms: &str) -> Program {
    let settings =
        [("RIVERRUN_LOG__WAL_FILE_BYTES", "1048576"), ("RIVERRUN_LOG__COMPACT_CHECK_INTERVAL_MS", compact_every_ms)];
    Program::start_with(data, &settings)
}

/// Returns the id of the topic.
fn by_clients(program: &Program, retention_ms: &str, round: &str, written: &mut Records) -> String {
    let printed = python(WRITE, &[&program.kafka.to_string(), "rows", retention_ms, round]);
    let (topic_id, lines) = printed.split_once('\n').expect("the topic's id, then records");
    written.extend(lines.lines().map(|line| {
        let record: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}"));
        let text = |at: usize| record[at].as_str().map(str::to_owned);
        (record[0].as_i64().expect("an offset"), (text(1), text(2)))
    }));
    topic_id.to_owned()
}

/// One that is committed, and one that is aborted with a row of it in the log: the second row is larger than a batch may
/// be; whether it had got as far as to write the first one is chance. While the table is there nothing is compacted.
fn transactions(program: &Program) {
    program.execute("CREATE TABLE rows (k TEXT PRIMARY KEY, line TEXT) WITH (topic = 'rows', format = 'json')");
    let half = format!("INSERT INTO rows VALUES ('aborted', 'gone'), ('large', '{}')", "x".repeat(1_100_000));
    wait_for("a row of an aborted transaction", 60, || {
        let refused = block_on(async { program.connect().await.batch_execute(&half).await });
        assert!(refused.is_err(), "a record over max.message.bytes");
        newest_lines(program, "rows").contains(r#""line":"gone""#).then_some(())
    });
    program
        .execute("BEGIN; INSERT INTO rows VALUES ('a', '1'); INSERT INTO rows VALUES ('b', '2'), ('a', '3'); COMMIT");
    program.execute("DROP TABLE rows");
}

/// Compaction has nothing left to do, and no file is left of what it has replaced.
fn settled(data: &Path, program: &Program) {
    let topic = Broker::connect(program.kafka).topic_id("rows").expect("connected").expect("it is there");
    let partition = data.join("topics").join(topic).join("0");
    let (mut before, mut since) = (0, std::time::Instant::now());
    wait_for("compaction to come to rest", 60, || {
        let passes = Program::said(data).matches("compacted partition=").count();
        if passes != before {
            (before, since) = (passes, std::time::Instant::now());
        }
        let logs = files_below(&partition).into_iter().filter(|file| has_end(file, &["log"]));
        let logs: Vec<PathBuf> = logs.collect();
        let bases: BTreeSet<_> = logs.iter().map(|log| log.file_name().expect("a file").to_owned()).collect();
        let rest = since.elapsed() > std::time::Duration::from_secs(1);
        (passes > 0 && rest && bases.len() == logs.len()).then_some(())
    });
}

/// The tool sees the batches that stand in the files, in the order of their offsets, and their checksums hold.
fn batches_agree(segments: &[Segment], dumped: &Dumped) {
    let mut next = 0;
    for segment in segments {
        let file = dumped.file(&segment.log);
        let seen: Vec<Batch> = file.with("baseOffset").map(Batch::dumped).collect();
        assert_eq!(seen, segment.batches, "{}", segment.log.display());
        assert!(file.with("baseOffset").all(|line| line.text("isvalid") == Some("true")));
        assert!(segment.base >= next, "{} begins before the end of the one before", segment.log.display());
        next = segment.base;
        for batch in &segment.batches {
            assert!(batch.base_offset >= next, "{batch:?}");
            next = batch.last_offset + 1;
        }
    }
    let compacted: Vec<&Batch> = segments.iter().filter(|s| is_compacted(s)).flat_map(|s| &s.batches).collect();
    assert!(
        compacted.iter().any(|batch| batch.records < batch.last_offset - batch.base_offset + 1),
        "nothing has gone"
    );
    // It stays, as with Kafka, when the tombstones it was given for have gone.
    assert!(compacted.iter().any(|batch| batch.delete_horizon_ms.is_some()), "no delete horizon");
}

/// Offsets that are not there any more: of these, and of nothing else, the tool says that they are missing.
fn only_gaps_are_complained_of(segments: &[Segment], dumped: &Dumped) {
    let mut gaps = BTreeSet::new();
    for file in segments.iter().map(|segment| dumped.file(&segment.log)) {
        let offsets: Vec<i64> =
            file.with("keySize").chain(file.with("endTxnMarker")).map(|l| l.number("offset")).collect();
        let offsets: BTreeSet<i64> = offsets.into_iter().collect();
        let pairs = offsets.iter().zip(offsets.iter().skip(1));
        gaps.extend(
            pairs.filter(|(one, next)| **one + 1 != **next).map(|(one, next)| format!("  {one} is followed by {next}")),
        );
    }
    assert!(gaps.len() > 10, "{} gaps", gaps.len());
    let complaints = dumped.complaints.iter().filter(|line| !line.starts_with("Non-consecutive offsets in "));
    assert_eq!(complaints.cloned().collect::<BTreeSet<_>>(), gaps);
}

/// Every record that the tool sees was written so; of each key the last is there, a deleted key as a tombstone or not at
/// all.
fn records_agree(segments: &[Segment], dumped: &Dumped, written: &Records, tombstones: bool) {
    let (mut seen, mut in_transactions) = (Records::new(), Vec::new());
    let (mut transactional, mut first_cleaned) = (false, false);
    for line in segments.iter().flat_map(|segment| &dumped.file(&segment.log).lines) {
        let text = |name: &str| line.text(name).map(str::to_owned);
        if line.text("compresscodec").is_some() {
            let batch = Batch::dumped(line);
            (transactional, first_cleaned) = (batch.transactional, batch.delete_horizon_ms.is_some());
        } else if transactional && line.text("endTxnMarker").is_none() {
            in_transactions.push(text("payload").expect("a row"));
        } else if line.text("keySize").is_some() && !transactional {
            let due = first_cleaned && text("payload").is_none();
            assert!(tombstones || !due, "the tombstone at {} is still there", line.number("offset"));
            seen.insert(line.number("offset"), (text("key"), text("payload")));
        }
    }
    let mut last: BTreeMap<&str, i64> = BTreeMap::new();
    for (offset, (key, _)) in written {
        last.insert(key.as_deref().expect("a key"), *offset);
    }
    for (offset, record) in &seen {
        assert_eq!(Some(record), written.get(offset), "offset {offset}");
    }
    let mut deleted = 0;
    for (key, offset) in last {
        let value = &written[&offset].1;
        match seen.get(&offset) {
            Some(_) => {}
            None if value.is_none() && !tombstones => deleted += 1,
            None => panic!("{key} at {offset} is lost: {value:?}"),
        }
    }
    assert_eq!(deleted > 0, !tombstones, "{deleted} tombstones have gone");
    assert!(seen.len() < written.len() / 2, "{} of {} are left", seen.len(), written.len());
    let of = |line: &str| in_transactions.iter().filter(|row| row.contains(&format!("\"line\":\"{line}\""))).count();
    // Of the first ones the last rows of the one that was committed; the second ones, which compaction has not come to.
    assert_eq!((of("1"), of("3"), of("gone")), (1, 2, 1), "{in_transactions:?}");
}

/// What stands in the indexes the tool has checked against the log. The last entry of a time index is the largest.
fn indexes_agree(segments: &[Segment], dumped: &Dumped) {
    let (_active, sealed) = segments.split_last().expect("segments");
    for segment in sealed {
        let bytes: i64 = segment.batches.iter().map(|batch| batch.size).sum();
        let index = dumped.file(&segment.beside("index"));
        assert!(bytes < 10_000 || !index.lines.is_empty(), "{}", segment.log.display());
        let times = dumped.file(&segment.beside("timeindex"));
        let largest =
            segment.batches.iter().filter(|batch| batch.records > 0).map(|batch| batch.max_timestamp_ms).max();
        assert_eq!(times.lines.last().map(|line| line.number("timestamp")), largest, "{}", segment.log.display());
    }
}

/// A snapshot knows of each producer at least what the batches before it tell, and nothing of what comes behind.
fn producers_agree(segments: &[Segment], dumped: &Dumped) {
    let mut snapshots = 0;
    for segment in &segments[1..] {
        let lines = &dumped.file(&segment.beside("snapshot")).lines;
        let known: BTreeMap<i64, Option<i64>> = lines
            .iter()
            .map(|line| (line.number("producerId"), line.text("lastOffset").map(|_| line.number("lastOffset"))))
            .collect();
        assert!(known.values().flatten().all(|last| *last < segment.base), "{known:?} before {}", segment.base);
        let before = || segments.iter().flat_map(|s| &s.batches).filter(|batch| batch.last_offset < segment.base);
        // A marker may have raised the epoch: nothing is remembered of the one before.
        let epochs: BTreeMap<_, _> = before().map(|batch| (batch.producer_id, batch.producer_epoch)).collect();
        let is_newest = |batch: &&Batch| epochs[&batch.producer_id] == batch.producer_epoch;
        for batch in before().filter(|batch| batch.producer_id >= 0 && !batch.control).filter(is_newest) {
            let last = known.get(&batch.producer_id).copied().flatten();
            assert!(last >= Some(batch.last_offset), "{batch:?}, but {last:?} before {}", segment.base);
        }
        snapshots += known.len();
    }
    assert!(snapshots > 0);
}

/// The dump tool has no eye for this file: epochs begin before the batches that are left of them.
fn epochs_agree(segments: &[Segment], partition: &Path) {
    let text = std::fs::read_to_string(partition.join("leader-epoch-checkpoint")).expect("epochs");
    let starts: Vec<(i64, i64)> = text
        .lines()
        .skip(2)
        .map(|line| {
            let (epoch, start) = line.split_once(' ').expect("two numbers");
            (epoch.parse().expect("a number"), start.parse().expect("a number"))
        })
        .collect();
    assert!(starts.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 < pair[1].1), "{text}");
    for batch in segments.iter().flat_map(|segment| &segment.batches) {
        let epoch = starts.iter().rfind(|(_, start)| *start <= batch.base_offset).expect("an epoch").0;
        assert_eq!(epoch, batch.leader_epoch, "{batch:?}");
    }
}
