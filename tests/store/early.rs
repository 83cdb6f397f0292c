//! Power cuts find out a program that acknowledges before it has synced, and find nothing in the one that waits.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::actors::Actor;
use super::power::{Volume, cuts_asked_for};
use crate::support::broker::Broker;
use crate::support::program::{Program, binary};
use crate::support::random::Random;
use crate::support::{Scratch, wait_for};

/// Partitions, each written by one client, and bytes of a record: so many that a cut often falls in between a write and
/// its sync.
const PARTITIONS: i32 = 4;
const RECORD: usize = 1_000_000;
/// The fault is to be found within so many.
const CUTS: u64 = 20;
/// Names the binary with the deliberate faults compiled in; tests/run builds it.
const MUTANTS: &str = "RIVERRUN_TEST_MUTANTS";

#[test]
fn power_cuts_find_out_what_is_acknowledged_before_the_sync() {
    if cuts_asked_for("power_cuts_find_out_what_is_acknowledged_before_the_sync").is_none() {
        return;
    }
    let mutants = std::env::var(MUTANTS).unwrap_or_else(|_| panic!("{MUTANTS} is not set: tests/run --power"));
    let early = [("RIVERRUN_MUTANT", "acknowledged-before-sync")];
    let found = first_loss(&mutants, &early);
    println!("acknowledged before the sync: {found:?}");
    assert!(found.is_some(), "{CUTS} power cuts do not find out what is acknowledged before the sync");
    // The same binary without the fault, and the one that everybody uses.
    assert_eq!(first_loss(&mutants, &[]), None);
    assert_eq!(first_loss(binary(), &[]), None);
}

/// After which cut something is missing that was acknowledged before, and what.
fn first_loss(binary: &str, settings: &[(&str, &str)]) -> Option<(u64, String)> {
    let scratch = Scratch::new("early");
    let volume = Volume::new(scratch.path(), "8G");
    let data = volume.data();
    let mut random = Random::new(17);
    let mut acknowledged: Vec<BTreeMap<i64, String>> = Vec::new();
    for cut in 1..=CUTS + 1 {
        let program = Program::start_binary(binary, &data, settings);
        let mut broker = Broker::connect(program.kafka);
        if let Some(lost) = lost(&mut broker, cut - 1, &acknowledged) {
            return Some((cut - 1, lost));
        }
        if cut > CUTS {
            break;
        }
        let options = [("max.message.bytes", "4000000")];
        broker.create_topic(&topic(cut), PARTITIONS, &options).expect("connected").expect("created");
        let producing: Vec<_> = (0..PARTITIONS).map(|partition| produce(program.kafka, cut, partition)).collect();
        let is_at_work = |one: &Actor<_>| one.steps.load(Ordering::Relaxed) > 5;
        wait_for("acknowledgements", 60, || producing.iter().all(is_at_work).then_some(()));
        // A moment drawn from the seed. What is tested does not depend on its length.
        std::thread::sleep(Duration::from_millis(random.below(50)));
        volume.cut(program);
        volume.mount_again();
        acknowledged = producing.into_iter().map(Actor::stop).collect();
    }
    None
}

/// Each cut has its own.
fn topic(cut: u64) -> String {
    format!("early-{cut}")
}

/// Writes one record after the other, values unlike each other, and keeps those that are acknowledged, by offset.
fn produce(kafka: SocketAddr, cut: u64, partition: i32) -> Actor<BTreeMap<i64, String>> {
    let mut broker = Broker::connect(kafka);
    let mut n = 0;
    Actor::start(BTreeMap::new(), move |acknowledged| {
        let value = format!("{cut}.{n}.{}", "x".repeat(RECORD));
        n += 1;
        match broker.produce(&topic(cut), partition, std::slice::from_ref(&value)) {
            Ok(Ok(offset)) => acknowledged.insert(offset, value).is_none(),
            // The disk is gone, or the program. Nobody was told anything.
            Ok(Err(_)) | Err(_) => false,
        }
    })
}

/// What is not there, or is not what it was, of what was acknowledged in the partitions.
fn lost(broker: &mut Broker, cut: u64, acknowledged: &[BTreeMap<i64, String>]) -> Option<String> {
    if acknowledged.is_empty() {
        return None;
    }
    let records = broker.topic(&topic(cut)).records;
    let there: BTreeMap<(i32, i64), &str> = records
        .iter()
        .map(|record| ((record.partition, record.offset), record.value.as_deref().expect("a value")))
        .collect();
    let all =
        (0..).zip(acknowledged).flat_map(|(partition, of)| of.iter().map(move |(at, value)| ((partition, *at), value)));
    let lost: Vec<_> = all.filter(|(at, value)| there.get(at).copied() != Some(value.as_str())).collect();
    let (at, value) = lost.first()?;
    let (count, is) = (lost.len(), there.get(at));
    Some(format!("{count} records: {value:.12} was acknowledged at {at:?}, {is:.12?} is there"))
}
