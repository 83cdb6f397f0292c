//! Compacted topics as clients see them: by and by each key has its last value only, and what was deleted is gone,
//! whatever the program dies of in between.

use std::collections::BTreeMap;
use std::process::Command;

use crate::support::clients::{Read, consume, python, run};
use crate::support::program::{Program, binary};
use crate::support::{Scratch, free_port, wait_for};

/// Small files, and looked at often.
const SETTINGS: [(&str, &str); 2] =
    [("RIVERRUN_LOG__WAL_FILE_BYTES", "1048576"), ("RIVERRUN_LOG__COMPACT_CHECK_INTERVAL_MS", "50")];

/// Keys that are written again and again, and keys that are written and deleted for good in the round before the last.
const WRITE: &str = r#"
import sys
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic
broker, round = sys.argv[1], int(sys.argv[2])
if round == 0:
    config = {"cleanup.policy": "compact", "segment.bytes": "1048576", "min.cleanable.dirty.ratio": "0.2", "delete.retention.ms": "300"}
    admin = AdminClient({"bootstrap.servers": broker})
    for f in admin.create_topics([NewTopic("keyed", 1, 1, config=config)]).values(): f.result(10)
failed = []
def done(err, msg):
    if err: failed.append(str(err))
producer = Producer({"bootstrap.servers": broker, "compression.type": ["none", "zstd", "gzip", "none"][round],
                     "enable.idempotence": round != 2, "linger.ms": 5})
def produce(key, value):
    while True:
        try:
            producer.produce("keyed", value, key=key, on_delivery=done)
            return
        except BufferError: producer.poll(0.1)
if round < 3:
    for i in range(20): produce("gone %d" % i, None if round == 2 else "soon")
for i in range(6_000):
    produce("key %d" % (i * 7919 % 400), "%d %d " % (round, i) + "x" * 1000)
    producer.poll(0)
assert producer.flush(60) == 0 and not failed, failed[:3]
"#;

#[test]
fn each_key_keeps_its_last_value_over_kills() {
    let scratch = Scratch::new("compaction");
    let data = scratch.path().join("data");
    let (kafka, postgres) = (free_port(), free_port());
    for round in 0..4 {
        let program = Program::start_with_at(&data, kafka, postgres, &SETTINGS);
        python(WRITE, &[&program.kafka.to_string(), &round.to_string()]);
        // In the midst of whatever it does in the background, the last time too.
        program.kill();
    }
    let program = Program::start_with_at(&data, kafka, postgres, &SETTINGS);
    // The active segment, and what is not dirty enough for a pass, is at most two segments of a thousand records.
    let records = wait_for("the topic to be compacted", 120, || {
        let records = consume(program.kafka, "keyed");
        let gone = records.iter().any(|record| record.key.as_deref().is_some_and(|key| key.starts_with("gone")));
        (records.len() < 400 + 2 * 1100 && !gone).then_some(records)
    });
    let mut newest: BTreeMap<&str, &Read> = BTreeMap::new();
    for pair in records.windows(2) {
        assert!(pair[0].offset < pair[1].offset, "offsets go up");
    }
    for record in &records {
        newest.insert(record.key.as_deref().expect("every record has a key"), record);
    }
    assert_eq!(newest.len(), 400);
    for i in 5_600..6_000 {
        let record = newest[&*format!("key {}", i * 7919 % 400)];
        let value = record.value.as_deref().expect("it was not deleted");
        assert!(value.starts_with(&format!("3 {i} ")), "key {}: {value:.20}", i * 7919 % 400);
    }
    assert_eq!(records.last().map(|record| record.offset), Some(4 * 6_000 + 3 * 20 - 1));
    program.stop();
    let verified = run(Command::new(binary()).args(["log", "verify"]).arg(&data));
    assert!(!verified.stdout.is_empty());
    let compacted = std::fs::read_dir(data.join("topics")).expect("topics").flatten();
    let compacted = compacted.filter_map(|topic| std::fs::read_dir(topic.path().join("0")).ok()).flatten().flatten();
    let compacted = compacted.filter(|entry| entry.file_name().to_string_lossy().starts_with("compacted-"));
    assert!(compacted.count() > 0, "something was compacted");
}
