//! SIGKILLs while idempotent producers and transactions write, segments roll, and retention takes from the front; and on
//! request power cuts, on a file system of their own.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::actors::{Producer, logs, reader, transactions};
use super::history::{At, History, Kept, check, check_that_damage_is_seen};
use super::power::Volume;
use crate::support::broker::Broker;
use crate::support::clients::python;
use crate::support::program::Program;
use crate::support::random::Random;
use crate::support::{Scratch, free_port, wait_for};

const SEED: u64 = 31;
/// `RIVERRUN_TEST_KILLS` asks for more.
const KILLS: u64 = 12;
/// Asks for power cuts: how many.
const POWER_CUTS: &str = "RIVERRUN_TEST_POWER_CUTS";
const PARTITIONS: i32 = 3;

/// Small files, so that much rolls, is sealed, captured by checkpoints and removed in a short time.
const SETTINGS: [(&str, &str); 2] =
    [("RIVERRUN_LOG__WAL_FILE_BYTES", "1048576"), ("RIVERRUN_LOG__RETENTION_CHECK_INTERVAL_MS", "200")];

fn kept(topic: &str) -> Kept {
    if topic == "trimmed" { Kept::FromTheStart } else { Kept::Everything }
}

fn start(data: &Path, kafka: u16, postgres: u16) -> Program {
    Program::start_with_at(data, kafka, postgres, &SETTINGS)
}

fn create_topics(program: &Program) -> Vec<At> {
    let script = r#"
import sys
from confluent_kafka.admin import AdminClient, NewTopic
admin = AdminClient({"bootstrap.servers": sys.argv[1]})
small = {"segment.bytes": "1048576"}
topics = [NewTopic("plain", 3, 1, config=small), NewTopic("trimmed", 3, 1, config={**small, "retention.bytes": "1048576"}),
          NewTopic("one", 1, 1, config=small), NewTopic("other", 1, 1, config=small)]
for f in admin.create_topics(topics).values(): f.result(10)
"#;
    python(script, &[&program.kafka.to_string()]);
    for table in ["one", "other"] {
        program.execute(&format!("CREATE TABLE {table} (line TEXT) WITH (topic = '{table}', format = 'json')"));
    }
    let parts = |topic: &str, n: i32| (0..n).map(|p| (topic.to_owned(), p)).collect::<Vec<_>>();
    [parts("plain", PARTITIONS), parts("trimmed", PARTITIONS), parts("one", 1), parts("other", 1)].concat()
}

#[test]
fn what_clients_were_told_holds_over_kills() {
    let scratch = Scratch::new("history");
    let data = scratch.path().join("data");
    let kills = std::env::var("RIVERRUN_TEST_KILLS").map_or(KILLS, |n| n.parse().expect("RIVERRUN_TEST_KILLS"));
    live(&data, kills, Program::kill).unwrap_or_else(|wrong| panic!("{wrong}"));
}

/// What was not synced is gone, whoever had been told of it.
#[test]
fn what_clients_were_told_holds_over_power_cuts() {
    let Ok(cuts) = std::env::var(POWER_CUTS) else {
        println!("no power cuts: tests/run --power CUTS");
        return;
    };
    let scratch = Scratch::new("power");
    let volume = Volume::new(scratch.path());
    let data = volume.mount_point.join("data");
    let cut = |program: Program| {
        volume.cut();
        program.kill();
        volume.mount_again();
    };
    live(&data, cuts.parse().expect(POWER_CUTS), cut).unwrap_or_else(|wrong| panic!("{wrong}"));
}

/// Clients at work while the program dies again and again; then their histories against what is there.
fn live(data: &Path, deaths: u64, mut die: impl FnMut(Program)) -> Result<(), String> {
    let (kafka, postgres) = (free_port(), free_port());
    let mut program = start(data, kafka, postgres);
    let partitions = create_topics(&program);
    let at: SocketAddr = program.kafka;

    let producers: Vec<Producer> = [("a", "plain"), ("b", "plain"), ("c", "trimmed"), ("d", "trimmed")]
        .map(|(name, topic)| Producer::start(at, name, topic, PARTITIONS, 1500))
        .into();
    let reading = reader(at, partitions.clone());
    let writing = transactions(program.postgres, ["one", "other"]);
    let mut random = Random::new(SEED);
    for _ in 0..deaths {
        let seen = (reading.steps.load(Ordering::Relaxed), writing.steps.load(Ordering::Relaxed));
        wait_for("clients to go on", 60, || {
            let now = (reading.steps.load(Ordering::Relaxed), writing.steps.load(Ordering::Relaxed));
            (now.0 > seen.0 + 3 && now.1 > seen.1 + 3).then_some(())
        });
        // A moment drawn from the seed. What is tested does not depend on its length.
        std::thread::sleep(Duration::from_millis(random.below(300)));
        die(program);
        program = start(data, kafka, postgres);
    }
    // However slow the machine: enough is written, and retention has been everywhere that it should.
    let mut broker = Broker::connect(program.kafka);
    wait_for("records to come and go", 120, || {
        let mut bounds =
            |(topic, partition): &At| broker.bounds(topic, *partition).expect("connected").expect("bounds");
        let enough = partitions.iter().all(|at| bounds(at).1 > if at.1 + 1 < PARTITIONS { 100 } else { 2000 });
        let trimmed = partitions.iter().all(|at| at.0 != "trimmed" || bounds(at).0 > 0);
        (enough && trimmed).then_some(())
    });
    let mut history = History { transactions: writing.stop(), ..History::default() };
    producers.into_iter().for_each(|producer| producer.stop(&mut history));
    let seen = reading.stop();
    (history.read, history.bounds) = (seen.read, seen.bounds);
    for (values, _) in &history.transactions {
        for topic in ["one", "other"] {
            history.tried.entry((topic.to_owned(), 0)).or_default().extend(values.iter().cloned());
        }
    }

    let logs = logs(program.kafka, &partitions);
    let checked = check(&history, &logs, kept)?;
    println!("{checked:?}: {} records", checked.records);
    assert!(
        checked.acknowledged > 5000 && checked.read > 5000 && checked.transactions > 50 && checked.bounds > 1000,
        "{checked:?}"
    );
    check_that_damage_is_seen(&history, &logs, kept);
    program.stop();
    let verified = crate::support::clients::run(
        std::process::Command::new(crate::support::program::binary()).args(["log", "verify"]).arg(data),
    );
    assert!(!verified.stdout.is_empty());
    Ok(())
}
