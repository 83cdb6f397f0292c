//! kcat, confluent-kafka and kafka-python produce and consume at explicit offsets, byte for byte, in every codec.

use std::io::Write;
use std::process::{Command, Stdio};

use crate::support::clients::{consume, python, run};
use crate::support::program::{Program, binary};
use crate::support::random::Random;
use crate::support::{Scratch, wait_for};

#[test]
fn confluent_kafka_writes_and_reads_100_000_records_in_every_codec() {
    let scratch = Scratch::new("confluent");
    let program = Program::start(&scratch.path().join("data"));
    let script = r#"
import hashlib, random, sys
from confluent_kafka import Consumer, Producer, TopicPartition, OFFSET_BEGINNING
from confluent_kafka.admin import AdminClient, NewTopic
broker = sys.argv[1]
admin = AdminClient({"bootstrap.servers": broker})
def record(i): return hashlib.sha256(b"%d" % i).digest() * 32  # 1,024 bytes
codecs = ["none", "gzip", "snappy", "lz4", "zstd"]
for t, f in admin.create_topics([NewTopic("t-" + c, 3, 1) for c in codecs]).items(): f.result(10)
for codec in codecs:
    topic, failed, offsets = "t-" + codec, [], {0: [], 1: [], 2: []}
    n = 100_000 if codec in ("none", "zstd") else 5_000
    producer = Producer({"bootstrap.servers": broker, "compression.type": codec, "enable.idempotence": codec != "gzip",
                         "queue.buffering.max.kbytes": 65536, "linger.ms": 5})
    def done(err, msg):
        if err: failed.append(str(err))
        else: offsets[msg.partition()].append((msg.offset(), int(msg.key())))
    for i in range(n):
        while True:
            try:
                producer.produce(topic, record(i), key=b"%d" % i, partition=i % 3, headers=[("h", b"1"), ("h", None)], on_delivery=done)
                break
            except BufferError: producer.poll(0.1)
        producer.poll(0)
    assert producer.flush(120) == 0 and not failed, failed[:3]
    for p in offsets: assert sorted(o for o, _ in offsets[p]) == list(range(len(offsets[p]))), (codec, p)
    consumer = Consumer({"bootstrap.servers": broker, "group.id": "none", "enable.auto.commit": False, "enable.partition.eof": True,
                         "isolation.level": "read_committed"})
    for p in range(3):
        low, high = consumer.get_watermark_offsets(TopicPartition(topic, p), timeout=10)
        assert (low, high) == (0, len(offsets[p])), (codec, p, low, high)
    start = 7
    consumer.assign([TopicPartition(topic, p, start) for p in range(3)])
    seen, eofs = [start] * 3, set()
    while len(eofs) < 3:
        m = consumer.poll(20)
        assert m is not None, (codec, seen)
        if m.error():
            assert m.error().code() == -191, m.error()
            eofs.add(m.partition())
            continue
        p, i = m.partition(), int(m.key())
        assert m.offset() == seen[p], (codec, p, m.offset(), seen[p])
        assert i == m.offset() * 3 + p and m.value() == record(i), (codec, i)
        assert m.headers() == [("h", b"1"), ("h", None)], m.headers()
        seen[p] += 1
    assert sum(seen) == n, (codec, seen)
    consumer.close()
for t, f in admin.delete_topics(["t-" + c for c in codecs], operation_timeout=10).items(): f.result(10)
assert not [t for t in admin.list_topics(timeout=10).topics if t.startswith("t-")]
print("ok")
"#;
    assert_eq!(python(script, &[&program.kafka.to_string()]).trim(), "ok");
}

/// The client above packs with lz4 only for brokers with consumer groups; this one does for all.
#[test]
fn kafka_python_writes_and_reads_lz4() {
    let scratch = Scratch::new("kafka-python");
    let data = scratch.path().join("data");
    let program = Program::start(&data);
    let script = r#"
import sys
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import KafkaAdminClient, NewTopic
broker, n = sys.argv[1], 20_000
KafkaAdminClient(bootstrap_servers=broker).create_topics([NewTopic("packed", 2, 1)])
def value(i): return b"value %d " % i * 100
producer = KafkaProducer(bootstrap_servers=broker, compression_type="lz4", enable_idempotence=True, linger_ms=5)
sent = [producer.send("packed", key=b"%d" % i, value=value(i), partition=i % 2, headers=[("h", b"1")]) for i in range(n)]
producer.flush(60)
assert [f.get(10).offset for f in sent] == [i // 2 for i in range(n)]
consumer = KafkaConsumer(bootstrap_servers=broker, isolation_level="read_committed", consumer_timeout_ms=20_000)
partitions = [TopicPartition("packed", p) for p in range(2)]
assert consumer.end_offsets(partitions) == {p: n // 2 for p in partitions}
consumer.assign(partitions)
start = 7
for p in partitions: consumer.seek(p, start)
seen = [start, start]
for m in consumer:
    i = m.offset * 2 + m.partition
    assert m.offset == seen[m.partition], (m.partition, m.offset, seen)
    assert (m.key, m.value, m.headers) == (b"%d" % i, value(i), [("h", b"1")]), i
    seen[m.partition] += 1
    if sum(seen) == n: break
assert sum(seen) == n, seen
print("ok")
"#;
    assert_eq!(python(script, &[&program.kafka.to_string()]).trim(), "ok");
    let by_kcat = consume(program.kafka, "packed");
    assert!(
        by_kcat.len() == 20_000 && by_kcat.iter().all(|r| r.value.as_ref().is_some_and(|v| v.starts_with("value ")))
    );

    // Stored as they came: not unpacked, nor packed anew.
    program.stop();
    let dump = run(Command::new(binary()).args(["log", "dump"]).arg(&data)).stdout;
    let dump = String::from_utf8(dump).expect("utf-8");
    let batches: Vec<_> = dump.lines().filter(|line| line.starts_with("packed-")).collect();
    assert!(!batches.is_empty() && batches.iter().all(|line| line.contains(" codec=lz4 ")), "{dump}");
}

#[test]
fn kcat_reads_back_what_it_wrote() {
    let scratch = Scratch::new("kcat");
    let data = scratch.path().join("data");
    let program = Program::start(&data);
    program.execute("CREATE TABLE lines (line TEXT) WITH (topic = 'lines', format = 'json')");
    let mut random = Random::new(5);
    let mut text = Vec::new();
    for i in 0..100_000_u32 {
        let mut line = format!("{i}:");
        while line.len() < 1000 {
            line += &format!("{:016x}", random.next());
        }
        writeln!(text, "{}", &line[..1000]).expect("memory");
    }
    let broker = program.kafka.to_string();
    let mut child = Command::new("kcat")
        .args(["-b", &broker, "-t", "lines", "-p", "0", "-P", "-X", "acks=all"])
        .stdin(Stdio::piped())
        .spawn()
        .expect("kcat");
    child.stdin.take().expect("piped").write_all(&text).expect("kcat reads");
    assert!(child.wait().expect("kcat").success());
    let read = |broker: &str, offset: &str| {
        run(Command::new("kcat").args(["-b", broker, "-t", "lines", "-p", "0", "-C", "-o", offset, "-e", "-q"])).stdout
    };
    assert!(read(&broker, "beginning") == text, "what was read is not what was written");
    let half = text.split_inclusive(|b| *b == b'\n').skip(50_000).flatten().copied().collect::<Vec<_>>();
    assert!(read(&broker, "50000") == half, "reading from an offset starts there");
    let listed = String::from_utf8(run(Command::new("kcat").args(["-b", &broker, "-L"])).stdout).expect("utf-8");
    assert!(listed.contains("topic \"lines\" with 1 partitions"), "{listed}");

    // Acknowledged is durable: a kill loses nothing.
    program.kill();
    let program = Program::start(&data);
    let again = wait_for("the broker", 30, || Some(read(&program.kafka.to_string(), "beginning")));
    assert!(again == text, "a kill has changed the log");
    let took = program.stop();
    assert!(took.as_secs() < 5, "a clean stop took {took:?}");
}
