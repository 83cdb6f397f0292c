//! kcat and confluent-kafka produce and consume at explicit offsets, byte for byte, in every codec.

use std::io::Write;
use std::process::{Command, Stdio};

use crate::support::clients::{python, run};
use crate::support::program::Program;
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
