//! SIGKILLs while idempotent producers and transactions write, segments roll, retention and requests take from the front,
//! compaction works, and topics are deleted and created again; and on request power cuts, on a file system of their own.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::actors::{Actor, Produced, Producer, Seen, logs, reader, transactions};
use super::census::Census;
use super::compacted::{Passes, passes};
use super::damage::check_that_damage_is_seen;
use super::deletions::{Deletions, deletions};
use super::history::{At, Checked, History, Kept, Transaction, check};
use super::lives::Life;
use super::power::{Volume, cuts_asked_for};
use super::recreate::{Courses, recreate};
use crate::support::broker::Broker;
use crate::support::clients::run;
use crate::support::program::{Program, binary};
use crate::support::random::Random;
use crate::support::{Scratch, free_port, wait_for};

const SEED: u64 = 31;
/// `RIVERRUN_TEST_KILLS` asks for more.
const KILLS: u64 = 12;

/// Small files, so that much rolls, is sealed, captured by checkpoints, compacted and removed in a short time.
const SETTINGS: [(&str, &str); 3] = [
    ("RIVERRUN_LOG__WAL_FILE_BYTES", "1048576"),
    ("RIVERRUN_LOG__RETENTION_CHECK_INTERVAL_MS", "200"),
    ("RIVERRUN_LOG__COMPACT_CHECK_INTERVAL_MS", "100"),
];

type ConfigOption = (&'static str, &'static str);
/// Segments end at their least size, or soon.
const SMALL: ConfigOption = ("segment.bytes", "1048576");
const SHORT: ConfigOption = ("segment.ms", "400");
const DIRTY: ConfigOption = ("min.cleanable.dirty.ratio", "0.1");
const TOMBSTONES: ConfigOption = ("delete.retention.ms", "300");
/// Topics, their partitions and configurations.
const TOPICS: [(&str, i32, &[ConfigOption]); 8] = [
    ("plain", 3, &[SMALL]),
    ("trimmed", 3, &[SMALL, ("retention.bytes", "1048576")]),
    ("cut", 2, &[SMALL, SHORT]),
    ("keyed", 2, &[("cleanup.policy", "compact"), SHORT, DIRTY, TOMBSTONES]),
    (
        "keyed-trimmed",
        2,
        &[("cleanup.policy", "compact,delete"), ("retention.bytes", "65536"), SHORT, DIRTY, TOMBSTONES],
    ),
    ("one", 1, &[SMALL]),
    ("other", 1, &[SMALL]),
    ("latest", 1, &[("cleanup.policy", "compact"), SHORT, DIRTY, TOMBSTONES]),
];
const COMPACTED: [&str; 3] = ["keyed", "keyed-trimmed", "latest"];
/// Of these topics there is now one, and now none.
const AGAIN: [&str; 3] = ["again", "once-more", "anew"];

/// Writer, topic, whether by key.
const PRODUCED: [(&str, &str, bool); 7] = [
    ("a", "plain", false),
    ("b", "plain", false),
    ("c", "trimmed", false),
    ("d", "trimmed", false),
    ("e", "cut", false),
    ("f", "keyed", true),
    ("g", "keyed-trimmed", true),
];
/// Records in a second of each producer.
const RATE: u32 = 1200;

fn kept(topic: &str) -> Kept {
    match topic {
        "trimmed" => Kept::FromTheStart,
        "cut" => Kept::FromWhereAsked,
        "keyed" | "latest" => Kept::LastOfEachKey { trimmed: false },
        "keyed-trimmed" => Kept::LastOfEachKey { trimmed: true },
        _ => Kept::Everything,
    }
}

fn partitions() -> Vec<At> {
    TOPICS.iter().flat_map(|(topic, n, _)| (0..*n).map(|partition| ((*topic).to_owned(), partition))).collect()
}

fn of_topics(topics: &[&str]) -> Vec<At> {
    partitions().into_iter().filter(|(topic, _)| topics.contains(&topic.as_str())).collect()
}

fn create_topics(program: &Program) {
    let mut broker = Broker::connect(program.kafka);
    for (topic, partitions, config) in TOPICS {
        broker.create_topic(topic, partitions, config).expect("connected").expect("created");
    }
    for table in ["one", "other"] {
        program.execute(&format!("CREATE TABLE {table} (line TEXT) WITH (topic = '{table}', format = 'json')"));
    }
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
    let Some(cuts) = cuts_asked_for("what_clients_were_told_holds_over_power_cuts") else { return };
    let scratch = Scratch::new("power");
    let volume = Volume::new(scratch.path(), "4G");
    let data = volume.data();
    let cut = |program: Program| {
        volume.cut(program);
        volume.mount_again();
    };
    live(&data, cuts, cut).unwrap_or_else(|wrong| panic!("{wrong}"));
}

/// Clients at work while the program dies again and again; then their histories against what is there.
fn live(data: &Path, deaths: u64, mut die: impl FnMut(Program)) -> Result<(), String> {
    let (kafka, postgres) = (free_port(), free_port());
    let start = || Program::start_with_at(data, kafka, postgres, &SETTINGS);
    let mut program = start();
    create_topics(&program);
    let clients = Clients::start(&program);
    let mut census = Census::default();
    let mut random = Random::new(SEED);
    for _ in 0..deaths {
        let seen = clients.steps();
        wait_for("clients to go on", 60, || clients.have_gone_on(seen).then_some(()));
        // A moment drawn from the seed. What is tested does not depend on its length.
        std::thread::sleep(Duration::from_millis(random.below(300)));
        die(program);
        census.take(data);
        program = start();
    }
    enough_has_happened(&program, data, &mut census);
    let history = clients.stop(&program);
    let logs = logs(program.kafka, &partitions());
    let checked = check(&history, &logs, kept)?;
    println!("{checked:?}\n{census:?}");
    let Checked { acknowledged, read, bounds, transactions, deletions, compacted, lives, .. } = checked;
    assert!(acknowledged > 5000 && read > 5000 && transactions > 50 && bounds > 1000, "{checked:?}");
    assert!(deletions > 20 && lives.lives > 10 && lives.deaths_survived > 0, "{checked:?}");
    assert!(compacted.passes > 20 && compacted.gone > 1000 && compacted.deleted > 0, "{checked:?}");
    check_that_damage_is_seen(&history, &logs, kept);
    wait_for("deleted topics to leave nothing behind", 60, || {
        let left = |life: &Life| life.deleted.is_some() && data.join("topics").join(&life.id).exists();
        (!history.lives.iter().any(left)).then_some(())
    });
    program.stop();
    let verified = run(std::process::Command::new(binary()).args(["log", "verify"]).arg(data));
    assert!(!verified.stdout.is_empty());
    Ok(())
}

/// However slow the machine: everybody has written enough, segments were rolled, retention and deletions have been
/// everywhere that they should, and compaction too.
fn enough_has_happened(program: &Program, data: &Path, census: &mut Census) {
    let mut broker = Broker::connect(program.kafka);
    wait_for("records to come and go", 120, || {
        let enough = partitions().iter().all(|(topic, partition)| {
            let (start, end) = broker.bounds(topic, *partition).expect("connected").expect("bounds");
            let least = if ["one", "other", "latest"].contains(&topic.as_str()) { 100 } else { 2000 };
            end > least && (start > 0 || !["trimmed", "cut", "keyed-trimmed"].contains(&topic.as_str()))
        });
        census.take(data);
        let compacted = COMPACTED.iter().all(|topic| {
            let id = broker.topic_id(topic).expect("connected").expect("it is there");
            census.has_compacted(&data.join("topics").join(id))
        });
        (enough && compacted && census.all_has_happened(data)).then_some(())
    });
}

/// Everybody at work.
struct Clients {
    producers: Vec<Producer>,
    reading: Actor<Seen>,
    writing: Actor<Vec<Transaction>>,
    passing: Actor<Passes>,
    deleting: Actor<Deletions>,
    again: Actor<Courses>,
}

impl Clients {
    fn start(program: &Program) -> Clients {
        let at: SocketAddr = program.kafka;
        let partitions_of = |topic| TOPICS.iter().find(|(name, ..)| *name == topic).expect("in the list").1;
        let produced = PRODUCED.map(|(writer, topic, keyed)| {
            Producer::start(at, Produced { writer, topic, partitions: partitions_of(topic), keyed, rate: RATE })
        });
        Clients {
            producers: produced.into(),
            reading: reader(at, partitions()),
            writing: transactions(program.postgres, ["one", "other"], "latest"),
            passing: passes(at, of_topics(&COMPACTED)),
            deleting: deletions(at, of_topics(&["cut", "keyed-trimmed"]), Random::new(SEED + 1)),
            again: recreate(at, &AGAIN, SEED + 2),
        }
    }

    fn steps(&self) -> [u64; 3] {
        [&self.reading.steps, &self.writing.steps, &self.again.steps].map(|steps| steps.load(Ordering::Relaxed))
    }

    fn have_gone_on(&self, since: [u64; 3]) -> bool {
        self.steps().iter().zip(since).all(|(now, then)| *now > then + 3)
    }

    /// Ends them all, and gives what they know.
    fn stop(self, program: &Program) -> History {
        let mut history = History { transactions: self.writing.stop(), ..History::default() };
        self.producers.into_iter().for_each(|producer| producer.stop(&mut history));
        let Deletions { deletions, bounds } = self.deleting.stop();
        let seen = self.reading.stop();
        history.read = seen.read;
        history.bounds = seen.bounds.into_iter().chain(bounds).collect();
        history.deletions = deletions;
        history.passes = self.passing.stop().done;
        history.lives = self.again.stop().end(&mut Broker::connect(program.kafka));
        for Transaction { values, row, .. } in &history.transactions {
            for topic in ["one", "other"] {
                history.tried.entry((topic.to_owned(), 0)).or_default().extend(values.iter().cloned());
            }
            history.tried.entry(("latest".to_owned(), 0)).or_default().extend(row.clone());
        }
        history
    }
}
