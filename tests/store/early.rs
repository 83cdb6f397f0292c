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

/// Bytes of a record: so many that a cut often falls in between a write and its sync.
const RECORD: usize = 2_000_000;
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
    let mut acknowledged = BTreeMap::new();
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
        broker.create_topic(&topic(cut), 1, &options).expect("connected").expect("created");
        let producing = produce(program.kafka, cut);
        wait_for("acknowledgements", 60, || (producing.steps.load(Ordering::Relaxed) > 5).then_some(()));
        // A moment drawn from the seed. What is tested does not depend on its length.
        std::thread::sleep(Duration::from_millis(random.below(50)));
        volume.cut(program);
        volume.mount_again();
        acknowledged = producing.stop();
    }
    None
}

/// Each cut has its own.
fn topic(cut: u64) -> String {
    format!("early-{cut}")
}

/// Writes one record after the other, values unlike each other, and keeps those that are acknowledged, by offset.
fn produce(kafka: SocketAddr, cut: u64) -> Actor<BTreeMap<i64, String>> {
    let mut broker = Broker::connect(kafka);
    let mut n = 0;
    Actor::start(BTreeMap::new(), move |acknowledged| {
        let value = format!("{cut}.{n}.{}", "x".repeat(RECORD));
        n += 1;
        match broker.produce(&topic(cut), 0, std::slice::from_ref(&value)) {
            Ok(Ok(offset)) => acknowledged.insert(offset, value).is_none(),
            // The disk is gone, or the program. Nobody was told anything.
            Ok(Err(_)) | Err(_) => false,
        }
    })
}

/// What is not there, or is not what it was.
fn lost(broker: &mut Broker, cut: u64, acknowledged: &BTreeMap<i64, String>) -> Option<String> {
    if acknowledged.is_empty() {
        return None;
    }
    let records = broker.topic(&topic(cut)).records;
    let there: BTreeMap<i64, &str> =
        records.iter().map(|record| (record.offset, record.value.as_deref().expect("a value"))).collect();
    let lost: Vec<_> =
        acknowledged.iter().filter(|(offset, value)| there.get(offset).copied() != Some(value.as_str())).collect();
    let (offset, value) = lost.first()?;
    let (count, all, is) = (lost.len(), acknowledged.len(), there.get(offset));
    Some(format!("{count} of {all}: {value:.12} was acknowledged at {offset}, {is:.12?} is there"))
}
