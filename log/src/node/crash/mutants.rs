//! Each deliberate fault is found by one of the crash tests; `tests/run --mutants` runs this.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::images::Seen;
use super::{check_seed, damage, errors, full, images};
use crate::env::mutant::{Mutant, on};
use crate::store::Acknowledge;

/// Who is asked, cheapest first.
fn found(mutant: Mutant) -> Option<String> {
    let by = |what: &str, found: &dyn Fn() -> Option<String>| {
        let found = on::with(mutant, || catch_unwind(AssertUnwindSafe(found)));
        let found = found.unwrap_or_else(|_| Some("a panic".to_owned()));
        found.map(|found| format!("{what}: {}", found.lines().take(3).collect::<Vec<_>>().join(" ")))
    };
    let errors = || {
        (0..500).find_map(|number| {
            let (failures, _) = errors::check(number, errors::damage(number));
            (!failures.is_empty()).then(|| format!("check({number}): {failures:?}"))
        })
    };
    let full = || (0..30).find_map(|seed| Some(full::check(seed)).filter(|f| !f.is_empty()).map(|f| format!("{f:?}")));
    let lives = || {
        (0..400).find_map(|seed| {
            let failures = check_seed(seed, Acknowledge::AfterSync).failures;
            (!failures.is_empty()).then(|| format!("check_seed({seed}): {failures:?}"))
        })
    };
    let images = |seeds: Range<u64>| seeds.into_iter().find_map(|seed| images::check_run(seed, &Seen::default()).err());
    by("images", &|| images(0..6))
        .or_else(|| by("damage", &|| (0..20).find_map(|seed| damage::check_run(seed, 60).err())))
        .or_else(|| by("full disk", &full))
        .or_else(|| by("errors", &errors))
        .or_else(|| by("lives", &lives))
        .or_else(|| by("more images", &|| images(6..60)))
}

#[test]
fn every_mutant_is_found() {
    let mutants = [
        Mutant::SyncRetried,
        Mutant::NewLogFileUnnamed,
        Mutant::UsedLogFileUnnamed,
        Mutant::CheckpointUnnamed,
        Mutant::CheckpointCountsUnfinished,
        Mutant::SegmentsUnnamed,
        Mutant::DamageTakenForTheEnd,
        Mutant::GroupChecksumIgnored,
        Mutant::CheckpointForgetsProducers,
        Mutant::CheckpointForgetsOpenTransactions,
        Mutant::CheckpointForgetsAborted,
        Mutant::CheckpointBeforeSync,
        Mutant::SmallEndsForgotten,
        Mutant::LogReleasedEarly,
        Mutant::SegmentsRemovedEarly,
        Mutant::LastGroupNotWrittenAgain,
        Mutant::EpochNotRaised,
        Mutant::RepeatAnsweredEarly,
        Mutant::EndAnsweredEarly,
        Mutant::MarkersBeforeDecision,
        Mutant::WritebackErrorIgnored,
        Mutant::FullDiskForgets,
        Mutant::AcknowledgedBeforeSync,
    ];
    let mut missed = Vec::new();
    for mutant in mutants {
        match found(mutant) {
            Some(by) => println!("{mutant:?} is found by {by}"),
            None => missed.push(mutant),
        }
    }
    assert!(missed.is_empty(), "not found: {missed:?}");
}
