//! Compaction against a naive model, under any order of writes, transactions, passes, waits and restarts.

mod examples;
mod model;
mod properties;
mod readers;
mod world;

use std::cell::Cell;

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestError, TestRng, TestRunner};

use self::world::{Happened, Pass, Step, World, pass, step};
use super::Mutant;

type Run = (i64, Vec<Step>, Pass);

fn runs() -> impl Strategy<Value = Run> {
    let retention_ms = prop_oneof![Just(0i64), Just(5), Just(30), Just(1_000_000)];
    (retention_ms, prop::collection::vec(step(), 1..70), pass())
}

fn check((retention_ms, steps, last): &Run, mutant: Option<Mutant>) -> Result<Happened, TestCaseError> {
    let mut world = World::new(*retention_ms, mutant);
    for step in steps {
        world.run(step)?;
    }
    world.run(&Step::Clean(*last))?;
    Ok(world.happened)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn passes_do_what_the_model_does(run in runs()) {
        check(&run, None)?;
    }
}

fn runner(cases: u32) -> TestRunner {
    let config = Config { cases, max_shrink_iters: 0, failure_persistence: None, ..Config::default() };
    TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha))
}

#[test]
fn the_runs_reach_every_rule() {
    let total = Cell::new([0; 8]);
    let add = |run: Run| {
        let happened = check(&run, None)?.all();
        total.set(std::array::from_fn(|kind| total.get()[kind] + happened[kind]));
        Ok(())
    };
    runner(60).run(&runs(), add).expect("as in the other runs");
    assert!(total.get().iter().all(|&times| times >= 10), "{total:?}");
}

/// The same runs with the fault built in: the properties find it, and for what it is.
#[test]
fn a_lost_producer_state_is_found() {
    let found = runner(60).run(&runs(), |run| check(&run, Some(Mutant::ProducerStateLost)).map(drop));
    let Err(TestError::Fail(reason, _)) = found else { panic!("the fault was not found: {found:?}") };
    assert!(reason.message().contains("verdict"), "{reason}");
}
