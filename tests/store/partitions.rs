//! Idle partitions cost next to nothing: no open file, no thread, under 4 KiB of memory each, in the life in which they
//! were written and in the next.

use std::path::Path;

use crate::support::Scratch;
use crate::support::broker::Broker;
use crate::support::program::Program;
use crate::support::wait_for;

const PARTITIONS_OF_A_TOPIC: i32 = 1_000;
const BYTES_MAX: i64 = 4096;

/// What is in memory anyway, and what is open, is little: files of the log are small, and so is the tail.
const SETTINGS: [(&str, &str); 2] =
    [("RIVERRUN_LOG__WAL_FILE_BYTES", "1048576"), ("RIVERRUN_LOG__TAIL_BYTES", "1048576")];

/// The topic that is written in between.
const BUSY: &str = "busy";
/// The id of the topics' own topic, and of those alike.
const METADATA: &str = "00000000000000000000000000000001";

#[derive(Clone, Copy, Debug)]
struct Use {
    /// Of its own, not of files.
    memory: i64,
    files: usize,
    /// Of partitions, those that are written in between and the program's own left out.
    idle_files: usize,
    threads: usize,
}

#[test]
fn idle_partitions_cost_next_to_nothing() {
    // On request only: it takes its time.
    let Ok(asked) = std::env::var("RIVERRUN_TEST_PARTITIONS") else { return };
    let partitions: i32 = asked.parse().expect("RIVERRUN_TEST_PARTITIONS");
    let scratch = Scratch::new("partitions");
    let (data, other) = (scratch.path().join("data"), scratch.path().join("other"));
    let program = Program::start_with(&data, &SETTINGS);
    let mut broker = Broker::connect(program.kafka);
    broker.create_topic(BUSY, 1, &[]).expect("connected").expect("created");
    // What is taken once, however many partitions there are, is taken for the first of them.
    create(&mut broker, 0);
    let before = settled(&mut broker, &program);
    for topic in 1..=partitions / PARTITIONS_OF_A_TOPIC {
        create(&mut broker, topic);
    }
    let after = settled(&mut broker, &program);
    check("in the life that wrote them", before, after, partitions);
    // What a clean stop writes for Kafka's tools is not measured here.
    program.kill();
    let program = Program::start_with(&data, &SETTINGS);
    let again = settled(&mut Broker::connect(program.kafka), &program);
    drop(program);
    let program = Program::start_with(&other, &SETTINGS);
    let mut broker = Broker::connect(program.kafka);
    broker.create_topic(BUSY, 1, &[]).expect("connected").expect("created");
    create(&mut broker, 0);
    check("in the next", settled(&mut broker, &program), again, partitions);
}

/// One more topic, with a record in each of its partitions.
fn create(broker: &mut Broker, topic: i32) {
    let name = format!("idle-{topic}");
    broker.create_topic(&name, PARTITIONS_OF_A_TOPIC, &[]).expect("connected").expect("created");
    let value = [format!("{topic} {}", "x".repeat(100))];
    let batches: Vec<_> = (0..PARTITIONS_OF_A_TOPIC).map(|partition| (partition, &value[..])).collect();
    for said in broker.produce_all(&name, &batches).expect("connected") {
        assert_eq!(said, Ok(0));
    }
}

/// Writes somewhere else until everything that was written before is in its segment and in a checkpoint, and out of the
/// memory for what is new; what is in use then.
fn settled(broker: &mut Broker, program: &Program) -> Use {
    let busy = broker.topic_id(BUSY).expect("connected").expect("it is there");
    let value = ["x".repeat(100_000)];
    for _ in 0..120 {
        broker.produce(BUSY, 0, &value).expect("connected").expect("taken");
    }
    wait_for("checkpoints to come to an end", 100, || {
        let used = used(program, &busy);
        (used.idle_files == 0).then_some(used)
    })
}

fn used(program: &Program, busy: &str) -> Use {
    let process = Path::new("/proc").join(program.pid().to_string());
    let status = std::fs::read_to_string(process.join("status")).expect("a process");
    let number = |name: &str| -> i64 {
        let line =
            status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{name}: {status}"));
        line.split_whitespace().next().expect("a number").parse().expect("a number")
    };
    let files = std::fs::read_dir(process.join("fd")).expect("a process").flatten();
    // One may be closed meanwhile.
    let files: Vec<_> = files.filter_map(|file| std::fs::read_link(file.path()).ok()).collect();
    let idle = files.iter().filter(|file| {
        let file = file.to_string_lossy();
        file.contains("/topics/") && !file.contains(busy) && !file.contains(METADATA)
    });
    Use {
        memory: number("RssAnon:") * 1024,
        files: files.len(),
        idle_files: idle.count(),
        threads: number("Threads:") as usize,
    }
}

fn check(when: &str, before: Use, after: Use, partitions: i32) {
    let each = (after.memory - before.memory) / i64::from(partitions);
    println!("{partitions} partitions, {when}: {each} bytes each; {before:?}, {after:?}");
    assert!(each < BYTES_MAX, "{each} bytes each, {when}");
    assert!(after.files <= before.files + 20, "{before:?}, {after:?}, {when}");
    // A pool may have grown to its bound.
    assert!(after.threads <= before.threads + 16, "{before:?}, {after:?}, {when}");
}
