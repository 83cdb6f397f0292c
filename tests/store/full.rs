//! A disk that is full: producers are told to come again, the rest is served, nothing acknowledged is lost, whether the
//! program is killed meanwhile or not; and when there is room all goes on.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use super::actors::{Produced, Producer, logs};
use super::history::{At, History, Kept, Told, brief, check};
use super::power::{Volume, cuts_asked_for};
use crate::support::broker::Broker;
use crate::support::clients::run;
use crate::support::program::{Program, binary};
use crate::support::requests::{REQUEST_TIMED_OUT, UNKNOWN_TOPIC_OR_PARTITION};
use crate::support::{Scratch, free_port, wait_for};

/// What the program leaves to itself, and what it keeps in memory: little, on a small disk.
const SETTINGS: [(&str, &str); 3] = [
    ("RIVERRUN_LOG__WAL_FILE_BYTES", "4194304"),
    ("RIVERRUN_LOG__TAIL_BYTES", "8388608"),
    ("RIVERRUN_LOG__DISK_RESERVE_BYTES", "33554432"),
];
const DISK: &str = "256M";
const FILLER: u64 = 40 << 20;
const BALLAST: usize = 40;
const PRODUCED: [Produced; 2] = [produced("a"), produced("b")];

const fn produced(writer: &'static str) -> Produced {
    Produced { writer, topic: "filled", partitions: 2, keyed: false, rate: 10_000 }
}

#[test]
fn a_full_disk_loses_nothing_and_serves_the_rest() {
    if cuts_asked_for("a_full_disk_loses_nothing_and_serves_the_rest").is_none() {
        return;
    }
    let scratch = Scratch::new("full");
    let volume = Volume::new(scratch.path(), DISK);
    let (data, filler) = (volume.data(), volume.mount_point.join("filler"));
    reserve(&filler, FILLER);
    let (kafka, postgres) = (free_port(), free_port());
    let start = || Program::start_with_at(&data, kafka, postgres, &SETTINGS);
    let program = start();
    let mut probe = Probe { broker: Broker::connect(program.kafka), history: History::default(), next: 0 };
    for (topic, partitions) in [("filled", 2), ("probe", 1), ("ballast", 1)] {
        probe.broker.create_topic(topic, partitions, &[("segment.bytes", "1048576")]).expect("connected").expect("new");
    }
    let megabyte = "x".repeat(1_000_000);
    for _ in 0..BALLAST {
        probe.broker.produce("ballast", 0, std::slice::from_ref(&megabyte)).expect("connected").expect("room");
    }
    let mut producers = PRODUCED.map(|topic| Producer::start(program.kafka, topic));

    probe.until_full();
    probe.others_are_served(&program);
    program.kill();
    let program = start();
    probe.broker = Broker::connect(program.kafka);
    probe.until_full();
    probe.others_are_served(&program);

    // Room, by the deletion of a topic; it fills up again.
    let before = probe.end_of("filled");
    probe.broker.delete_topic("ballast").expect("connected").expect("a deletion has room");
    probe.until_taken();
    wait_for("producers to go on", 60, || (probe.end_of("filled") > before + 100).then_some(()));
    probe.until_full();

    // Not even the reserve is left.
    let rest = volume.mount_point.join("rest");
    fill_up(&rest);
    probe.others_are_served(&program);
    program.kill();
    let program = start();
    probe.broker = Broker::connect(program.kafka);
    probe.until_full();
    probe.others_are_served(&program);

    // Room, by somebody else. Who writes on would fill it before everybody is told.
    producers.iter_mut().for_each(Producer::finish);
    std::fs::remove_file(rest).expect("the rest");
    std::fs::remove_file(filler).expect("the filler");
    probe.until_taken();
    let mut history = probe.history;
    producers.into_iter().for_each(|producer| producer.stop(&mut history));
    let partitions: Vec<At> = [("filled", 0), ("filled", 1), ("probe", 0)].map(|(t, p)| (t.to_owned(), p)).into();
    let logs = logs(program.kafka, &partitions);
    let checked = check(&history, &logs, |_| Kept::Everything).unwrap_or_else(|wrong| panic!("{wrong}"));
    println!("{checked:?}");
    assert!(checked.acknowledged > 10_000, "{checked:?}");
    program.stop();
    let verified = run(Command::new(binary()).args(["log", "verify"]).arg(&data));
    assert!(!verified.stdout.is_empty());
}

fn reserve(file: &Path, bytes: u64) {
    run(Command::new("fallocate").args(["-l", &bytes.to_string()]).arg(file));
}

/// Takes all there is; less than a block may be left.
fn fill_up(file: &Path) {
    let out = Command::new("dd").args(["if=/dev/zero", "bs=4096"]).arg(format!("of={}", file.display())).output();
    assert!(!out.expect("dd").status.success(), "the disk has no end");
}

/// A writer that tells what it is told.
struct Probe {
    broker: Broker,
    history: History,
    next: usize,
}

impl Probe {
    /// Writes one record. Whether it was taken; else it was told to come again, and nothing else.
    fn is_taken(&mut self) -> bool {
        let at = || ("probe".to_owned(), 0);
        let value = format!("probe.{}.{}", self.next, "x".repeat(1000));
        self.next += 1;
        self.history.tried.entry(at()).or_default().push(brief(&value));
        match self.broker.produce("probe", 0, std::slice::from_ref(&value)).expect("connected") {
            Ok(offset) => self.history.acknowledged.push(Told { at: at(), offset, value: brief(&value) }),
            Err(REQUEST_TIMED_OUT) => return false,
            Err(code) => panic!("error {code} is no reason to come again"),
        }
        true
    }

    fn until_full(&mut self) {
        wait_for("the disk to be full", 120, || (!self.is_taken()).then_some(()));
    }

    fn until_taken(&mut self) {
        wait_for("room to be used", 120, || self.is_taken().then_some(()));
    }

    fn end_of(&mut self, topic: &str) -> i64 {
        self.broker.bounds(topic, 0).expect("connected").expect("bounds").1
    }

    /// Topics come and go, what is there is read, SQL answers.
    fn others_are_served(&mut self, program: &Program) {
        assert!(self.broker.topic_id("filled").expect("connected").is_ok());
        self.broker.create_topic("small", 3, &[]).expect("connected").expect("metadata has room");
        self.broker.delete_topic("small").expect("connected").expect("a deletion has room");
        assert_eq!(self.broker.topic_id("small").expect("connected"), Err(UNKNOWN_TOPIC_OR_PARTITION));
        let records = self.broker.topic("probe").records;
        let value = |value: Option<String>| brief(&value.expect("a value"));
        let there: BTreeMap<i64, String> = records.into_iter().map(|r| (r.offset, value(r.value))).collect();
        for told in &self.history.acknowledged {
            assert_eq!(there.get(&told.offset), Some(&told.value), "offset {}", told.offset);
        }
        assert!(!program.rows("SHOW TOPICS").is_empty());
    }
}
