//! Administration by clients nobody here wrote: options of topics, more partitions, deleted records, leader epochs.

use std::io::Write;
use std::process::{Command, Stdio};

use crate::support::clients::{python, run};
use crate::support::program::Program;
use crate::support::{Scratch, free_port, wait_for};

#[test]
fn confluent_kafka_administers_topics() {
    let scratch = Scratch::new("admin");
    let data = scratch.path().join("data");
    let program = Program::start(&data);
    program.execute(
        "CREATE TABLE clicks (id BIGINT PRIMARY KEY, user_id INT) WITH (topic = 'clicks', format = 'json');
         CREATE MATERIALIZED VIEW owned AS SELECT user_id, count(*) AS n FROM clicks GROUP BY user_id",
    );
    let script = r#"
import sys
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition, OFFSET_END
from confluent_kafka.admin import AdminClient, AlterConfigOpType as Op, ConfigEntry, ConfigResource, ConfigSource, NewPartitions, NewTopic
broker = sys.argv[1]
admin = AdminClient({"bootstrap.servers": broker})
TOPIC, BROKER = ConfigResource.Type.TOPIC, ConfigResource.Type.BROKER
def one(futures):
    (future,) = futures.values()
    return future.result(20)
def refused(code, futures):
    try: one(futures)
    except KafkaException as e: assert e.args[0].code() == code, e
    else: raise AssertionError("not refused with %s" % code)
def described(kind, name): return one(admin.describe_configs([ConfigResource(kind, name)]))
def altered(name, *ops, **how):
    entries = [ConfigEntry(option, value, incremental_operation=op) for option, op, value in ops]
    return admin.incremental_alter_configs([ConfigResource(TOPIC, name, incremental_configs=entries)], **how)
def options(name): return {n: e.value for n, e in described(TOPIC, name).items() if e.source == ConfigSource.DYNAMIC_TOPIC_CONFIG.value}

one(admin.create_topics([NewTopic("a", 1, 1, config={"retention.ms": "-1", "segment.bytes": "1048576"})]))
found = described(TOPIC, "a")
assert options("a") == {"retention.ms": "-1", "segment.bytes": "1048576"}, options("a")
assert found["cleanup.policy"].value == "delete" and found["cleanup.policy"].is_default, found["cleanup.policy"]
synonyms = found["retention.ms"].synonyms
assert synonyms["log.retention.ms"].value == "604800000" and synonyms["retention.ms"].value == "-1", synonyms
assert found["riverrun.writer"].is_read_only and not found["retention.ms"].is_read_only
settings = described(BROKER, str(next(iter(admin.list_topics(timeout=10).brokers))))
assert settings["num.partitions"].value == "1" and settings["log.retention.ms"].is_read_only, settings["num.partitions"]
refused(KafkaError.UNKNOWN_TOPIC_OR_PART, admin.describe_configs([ConfigResource(TOPIC, "none")]))

ops = [("cleanup.policy", Op.APPEND, "compact"), ("segment.bytes", Op.DELETE, None), ("retention.ms", Op.SET, "3600000")]
one(altered("a", *ops, validate_only=True))
assert options("a") == {"retention.ms": "-1", "segment.bytes": "1048576"}
one(altered("a", *ops))
assert options("a") == {"cleanup.policy": "delete,compact", "retention.ms": "3600000"}, options("a")
one(altered("a", ("cleanup.policy", Op.SUBTRACT, "compact")))
assert options("a")["cleanup.policy"] == "delete", options("a")
refused(KafkaError.INVALID_CONFIG, altered("a", ("retention.ms", Op.SET, "soon")))
refused(KafkaError.INVALID_CONFIG, altered("a", ("no.such", Op.SET, "1")))
refused(KafkaError.TOPIC_AUTHORIZATION_FAILED, altered("owned", ("retention.ms", Op.SET, "1")))
# The older way: read all, modify one, write all back.
whole = {n: e.value for n, e in described(TOPIC, "a").items()}
whole["segment.ms"] = "60000"
one(admin.alter_configs([ConfigResource(TOPIC, "a", set_config=whole)]))
assert {n: e.value for n, e in described(TOPIC, "a").items()} == whole
one(admin.alter_configs([ConfigResource(TOPIC, "a", set_config={"retention.ms": "-1"})]))
assert options("a") == {"retention.ms": "-1"}, options("a")

def produce(partition, values, timestamp=0):
    producer, failed = Producer({"bootstrap.servers": broker}), []
    def done(error, message):
        if error: failed.append(str(error))
    for value in values: producer.produce("a", value, partition=partition, timestamp=timestamp, on_delivery=done)
    assert producer.flush(20) == 0 and not failed, failed
def read(partition, offset):
    consumer = Consumer({"bootstrap.servers": broker, "group.id": "none", "enable.auto.commit": False, "enable.partition.eof": True})
    consumer.assign([TopicPartition("a", partition, offset)])
    got = []
    while True:
        m = consumer.poll(20)
        assert m is not None
        if m.error():
            assert m.error().code() == KafkaError._PARTITION_EOF, m.error()
            consumer.close()
            return got
        got.append(m)

# An open partition follows: the broker's time instead of the producer's, and back.
produce(0, [b"0"], timestamp=1000)
one(altered("a", ("message.timestamp.type", Op.SET, "LogAppendTime")))
produce(0, [b"1"], timestamp=1000)
one(altered("a", ("message.timestamp.type", Op.DELETE, None)))
produce(0, [b"2"], timestamp=1000)
assert [m.timestamp()[1] == 1000 for m in read(0, 0)] == [True, False, True]

one(admin.create_partitions([NewPartitions("a", 3)], validate_only=True))
assert len(admin.list_topics("a", timeout=10).topics["a"].partitions) == 1
one(admin.create_partitions([NewPartitions("a", 3)]))
assert len(admin.list_topics("a", timeout=10).topics["a"].partitions) == 3
refused(KafkaError.INVALID_PARTITIONS, admin.create_partitions([NewPartitions("a", 2)]))
refused(KafkaError.TOPIC_AUTHORIZATION_FAILED, admin.create_partitions([NewPartitions("owned", 2)]))
produce(2, [b"%d" % i for i in range(1000)])
assert [m.value() for m in read(2, 0)] == [b"%d" % i for i in range(1000)]

def deleted(topic, partition, offset): return admin.delete_records([TopicPartition(topic, partition, offset)])
assert one(deleted("a", 2, 700)).low_watermark == 700
assert one(deleted("a", 2, 100)).low_watermark == 700
assert one(deleted("a", 0, OFFSET_END)).low_watermark == 3
refused(KafkaError.OFFSET_OUT_OF_RANGE, deleted("a", 2, 1001))
refused(KafkaError.TOPIC_AUTHORIZATION_FAILED, deleted("owned", 0, 0))
one(altered("a", ("cleanup.policy", Op.SET, "compact")))
refused(KafkaError.POLICY_VIOLATION, deleted("a", 2, 800))
assert [m.offset() for m in read(2, 700)] == list(range(700, 1000))
consumer = Consumer({"bootstrap.servers": broker, "group.id": "none"})
assert consumer.get_watermark_offsets(TopicPartition("a", 2), timeout=10) == (700, 1000)
assert consumer.get_watermark_offsets(TopicPartition("a", 0), timeout=10) == (3, 3)
consumer.close()
print("ok")
"#;
    assert_eq!(python(script, &[&program.kafka.to_string()]).trim(), "ok");

    // Partition 2 of the topic holds 700 to 1000 now, and so it does after a kill.
    let offsets = |program: &Program| {
        let broker = program.kafka.to_string();
        let mut kcat = Command::new("kcat");
        kcat.args(["-b", &broker, "-t", "a", "-p", "2", "-C", "-o", "beginning", "-e", "-q", "-f", "%o %s\n"]);
        String::from_utf8(run(&mut kcat).stdout).expect("utf-8")
    };
    let kept: String = (700..1000).map(|i| format!("{i} {i}\n")).collect();
    assert_eq!(offsets(&program), kept);
    program.kill();
    let program = Program::start(&data);
    assert_eq!(offsets(&program), kept);
    let script = r#"
import sys
from confluent_kafka.admin import AdminClient, ConfigResource, ConfigSource
admin = AdminClient({"bootstrap.servers": sys.argv[1]})
(future,) = admin.describe_configs([ConfigResource(ConfigResource.Type.TOPIC, "a")]).values()
print({n: e.value for n, e in future.result(20).items() if e.source == ConfigSource.DYNAMIC_TOPIC_CONFIG.value},
      len(admin.list_topics("a", timeout=10).topics["a"].partitions))
"#;
    let found = python(script, &[&program.kafka.to_string()]);
    assert_eq!(found.trim(), "{'cleanup.policy': 'compact', 'retention.ms': '-1'} 3", "a kill takes nothing back");
}

/// Writes the numbers of the range, one record each.
fn write(broker: &str, topic: &str, numbers: std::ops::Range<u32>) {
    let mut child = Command::new("kcat")
        .args(["-b", broker, "-t", topic, "-p", "0", "-P", "-X", "acks=all"])
        .stdin(Stdio::piped())
        .spawn()
        .expect("kcat");
    let lines: String = numbers.map(|i| format!("{i}\n")).collect();
    child.stdin.take().expect("piped").write_all(lines.as_bytes()).expect("kcat reads");
    assert!(child.wait().expect("kcat").success());
}

/// Reads 200 records and tells the file `half` when there have been 100.
const LIVE: &str = r#"
import sys
from confluent_kafka import Consumer, KafkaError, TopicPartition
broker, half = sys.argv[1:]
consumer = Consumer({"bootstrap.servers": broker, "group.id": "none", "enable.auto.commit": False, "auto.offset.reset": "error",
                     "reconnect.backoff.max.ms": 500})
consumer.assign([TopicPartition("lives", 0, 0)])
got = []
while len(got) < 200:
    m = consumer.poll(60)
    assert m is not None, len(got)
    if m.error():
        # The broker is away for a while.
        assert m.error().code() in (KafkaError._ALL_BROKERS_DOWN, KafkaError._TRANSPORT), m.error()
        continue
    got.append((m.offset(), m.value(), m.leader_epoch()))
    if len(got) == 100: open(half, "w").close()
assert [(o, v) for o, v, _ in got] == [(i, b"%d" % i) for i in range(200)]
epochs = sorted({e for _, _, e in got})
assert len(epochs) == 2 and [e for _, _, e in got] == [epochs[0]] * 100 + [epochs[1]] * 100, epochs
consumer.close()
print(*epochs)
"#;

/// Begins at an offset that was read in an epoch.
const VALIDATED: &str = r#"
import sys
from confluent_kafka import Consumer, KafkaError, TopicPartition
broker, old, new = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
def first(offset, epoch, reset):
    consumer = Consumer({"bootstrap.servers": broker, "group.id": "none", "enable.auto.commit": False, "auto.offset.reset": reset})
    consumer.assign([TopicPartition("lives", 0, offset, "", epoch)])
    m = consumer.poll(20)
    consumer.close()
    assert m is not None, (offset, epoch)
    return m.error().code() if m.error() else (m.offset(), m.leader_epoch())
assert first(50, old, "error") == (50, old)
assert first(100, old, "error") == (100, new)
assert first(150, new, "error") == (150, new)
# Offset 150 was never written in the older epoch: that log was another one from 100 on.
assert first(150, old, "error") == KafkaError._AUTO_OFFSET_RESET
assert first(150, old, "earliest") == (100, new)
print("ok")
"#;

#[test]
fn readers_live_through_a_kill_and_notice_another_log() {
    let scratch = Scratch::new("epochs");
    let data = scratch.path().join("data");
    let port = free_port();
    let program = Program::start_at(&data, port);
    let (broker, half) = (program.kafka.to_string(), scratch.path().join("half"));
    program.execute("CREATE TABLE lives (line TEXT) WITH (topic = 'lives', format = 'json')");
    let (program, epochs) = std::thread::scope(|scope| {
        let reader = scope.spawn(|| python(LIVE, &[&broker, &half.display().to_string()]));
        write(&broker, "lives", 0..100);
        wait_for("the reader", 60, || half.exists().then_some(()));
        program.kill();
        let program = Program::start_at(&data, port);
        write(&broker, "lives", 100..200);
        (program, reader.join().expect("the reader has read all"))
    });
    let epochs: Vec<&str> = epochs.split_whitespace().collect();
    assert_eq!(python(VALIDATED, &[&program.kafka.to_string(), epochs[0], epochs[1]]).trim(), "ok");
}
