//! What the program promises about dying: one process a data directory, and acknowledged is durable under SIGKILL.

use std::process::Command;

use crate::support::clients::{consume, python};
use crate::support::program::{Program, binary};
use crate::support::random::Random;
use crate::support::{Scratch, block_on, free_port, wait_for};

#[test]
fn a_second_process_on_the_same_data_is_refused() {
    let scratch = Scratch::new("lock");
    let data = scratch.path().join("data");
    let program = Program::start(&data);
    let second = Command::new(binary())
        .args([
            "dev",
            "--kafka-addr",
            "127.0.0.1:0",
            "--pg-addr",
            "127.0.0.1:0",
            "--http-addr",
            "127.0.0.1:0",
            "--data-dir",
        ])
        .arg(&data)
        .output()
        .expect("ran");
    assert!(!second.status.success());
    let text = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(text.contains("data"), "{text}");
    assert_eq!(program.rows("SELECT 1"), [[Some("1".to_owned())]]);
}

#[test]
fn other_addresses_need_a_word() {
    let scratch = Scratch::new("insecure");
    let out = Command::new(binary())
        .args([
            "dev",
            "--kafka-addr",
            "0.0.0.0:0",
            "--pg-addr",
            "127.0.0.1:0",
            "--http-addr",
            "127.0.0.1:0",
            "--data-dir",
        ])
        .arg(scratch.path().join("data"))
        .output()
        .expect("ran");
    assert!(!out.status.success());
    assert!(String::from_utf8_lossy(&out.stderr).contains("--insecure"));
}

#[test]
fn a_port_that_is_taken_is_seen_before_anything_is_touched() {
    let scratch = Scratch::new("taken");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let taken = taken.local_addr().expect("bound").to_string();
    for flag in ["--kafka-addr", "--pg-addr", "--http-addr"] {
        let data = scratch.path().join("data");
        let mut command = Command::new(binary());
        command.arg("dev").arg("--data-dir").arg(&data);
        for other in ["--kafka-addr", "--pg-addr", "--http-addr"] {
            command.args([other, if other == flag { &taken } else { "127.0.0.1:0" }]);
        }
        let out = command.output().expect("ran");
        assert_eq!(out.status.code(), Some(1));
        let text = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(text.contains(&taken) && text.contains("hint"), "{text}");
        assert!(!data.exists(), "{flag}: the data directory was made");
    }
}

/// Clock ticks the process has used.
fn used(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("a process");
    let fields: Vec<&str> = stat.rsplit(')').next().expect("fields").split_whitespace().collect();
    fields[11..13].iter().map(|ticks| ticks.parse::<u64>().expect("ticks")).sum()
}

/// The clean stop has its own limit and is a failure beyond it, so that success says that it took less.
#[test]
fn a_stop_does_not_wait_for_a_heavy_query() {
    let scratch = Scratch::new("heavy");
    let program = Program::start(&scratch.path().join("data"));
    program.execute("CREATE TABLE t (i BIGINT) WITH (topic = 't', format = 'json')");
    let values: Vec<String> = (0..3000).map(|i| format!("({i})")).collect();
    program.execute(&format!("INSERT INTO t VALUES {}", values.join(", ")));
    let url = program.url();
    let query = std::thread::spawn(move || {
        block_on(async {
            let client = crate::support::postgres::connect(&url).await;
            client.simple_query("SELECT count(*) FROM t a, t b, t c WHERE a.i + b.i + c.i = -1").await.is_err()
        })
    });
    let before = used(program.pid());
    wait_for("the query to be at work", 60, || (used(program.pid()) > before + 100).then_some(()));
    program.stop();
    assert!(query.join().expect("the client"), "the query was over before the stop");
}

/// Where few files may be open, many partitions are written all the same, and recovered.
#[test]
fn more_partitions_than_files_may_be_open() {
    let scratch = Scratch::new("files");
    let data = scratch.path().join("data");
    let start = || Program::start_with_open_files(&data, 400, &[("RIVERRUN_LOG__WAL_FILE_BYTES", "4194304")]);
    let write = |program: &Program, round: &str| {
        let script = r#"
import sys
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic
broker, round = sys.argv[1:]
if round == "0":
    admin = AdminClient({"bootstrap.servers": broker})
    for f in admin.create_topics([NewTopic("wide", 600, 1)]).values(): f.result(60)
failed = []
p = Producer({"bootstrap.servers": broker, "enable.idempotence": True})
for n in range(10):
    for i in range(600): p.produce("wide", "%s %d %d %s" % (round, n, i, "x" * 1000), partition=i, on_delivery=lambda e, m: failed.append(str(e)) if e else None)
    assert p.flush(60) == 0 and not failed, failed[:3]
"#;
        python(script, &[&program.kafka.to_string(), round]);
    };
    let program = start();
    write(&program, "0");
    program.kill();
    let program = start();
    write(&program, "1");
    let records = consume(program.kafka, "wide");
    assert_eq!(records.len(), 2 * 10 * 600);
    let open = std::fs::read_dir(format!("/proc/{}/fd", program.pid())).expect("its files").count();
    assert!(open < 400, "{open} files are open");
}

/// An idempotent producer goes on through SIGKILLs; what it was told is there is there, once, in order.
#[test]
fn what_is_acknowledged_survives_kills() {
    let scratch = Scratch::new("acked");
    let data = scratch.path().join("data");
    let port = free_port();
    let mut program = Program::start_at(&data, port);
    program.execute("CREATE TABLE t (i BIGINT) WITH (topic = 't', format = 'json')");
    let broker = format!("127.0.0.1:{port}");
    let producer = std::thread::spawn(move || {
        let script = r#"
import sys
from confluent_kafka import Producer
acked = []
p = Producer({"bootstrap.servers": sys.argv[1], "enable.idempotence": True, "linger.ms": 1, "batch.num.messages": 200,
              "queue.buffering.max.messages": 2000, "reconnect.backoff.max.ms": 100, "message.timeout.ms": 120000})
for i in range(60000):
    while True:
        try:
            p.produce("t", '{"i": %d}' % i, partition=0, on_delivery=lambda e, m: acked.append((m.offset(), m.value())) if not e else sys.exit(str(e)))
            break
        except BufferError: p.poll(0.05)
    p.poll(0)
assert p.flush(120) == 0
for offset, value in acked: print(offset, value.decode())
"#;
        python(script, &[&broker])
    });
    let mut random = Random::new(9);
    for _ in 0..6 {
        std::thread::sleep(std::time::Duration::from_millis(100 + random.below(500)));
        program.kill();
        program = Program::start_at(&data, port);
    }
    let acked = producer.join().expect("the producer got through");
    let records = consume(program.kafka, "t");
    let values: Vec<_> = records.iter().map(|r| r.value.clone().expect("a value")).collect();
    let wanted: Vec<_> = (0..60_000).map(|i| format!("{{\"i\": {i}}}")).collect();
    assert!(
        values == wanted,
        "{} records, first out of order {:?}",
        values.len(),
        values.iter().zip(&wanted).find(|(a, b)| a != b)
    );
    for line in acked.lines() {
        let (offset, value) = line.split_once(' ').expect("two words");
        let offset: usize = offset.parse().expect("a number");
        assert_eq!(records[offset].value.as_deref(), Some(value), "offset {offset}");
    }
}
