//! One program's record of itself, checked whole: its timeline, its inputs, what its views have put out.

use super::replay::{self, View};
use super::timeline::{self, Cut, Epoch, Whole};
use crate::support::broker::{Broker, Record, Topic};
use crate::support::clients::consume;
use crate::support::program::Program;
use crate::support::random::Random;

/// What [`check`] has looked at.
#[derive(Debug, Default)]
pub struct Seen {
    pub comparisons: usize,
    /// Comparisons whose answer was another than at the epoch before.
    pub moved: usize,
    /// Comparisons at epochs in which the view has put out nothing.
    pub quiet: usize,
    /// Tampered topics that were found out.
    pub tampered: usize,
    pub whole: Whole,
}

/// Creates the views and waits until each of them takes part in the timeline.
pub fn create(program: &Program, views: &mut [View]) {
    for view in views {
        program.execute(&view.create);
        program.rows(&format!("SELECT * FROM {} LIMIT 1", view.name));
        view.from = timeline::newest(program.kafka);
    }
}

/// Checks everything, at rest: the newest epoch has been shown. `inputs` as in [`replay::answers`]; `transaction` as in
/// [`timeline::check_whole`].
pub fn check(
    program: &Program,
    views: &[View],
    topics: &[&Topic],
    random: &mut Random,
    transaction: impl Fn(&Record) -> Option<String>,
    inputs: impl Fn(&Cut) -> Vec<(String, String)>,
) -> Seen {
    let mut broker = Broker::connect(program.kafka);
    let epochs = timeline::read(&mut broker);
    let newest = epochs.last().expect("an epoch");
    for topic in topics {
        same_as_kcat(program, topic);
        assert!(topic.records.iter().all(|record| newest.cut.holds(topic, record)), "{} is at rest", topic.name);
    }
    let whole = timeline::check_whole(&epochs, topics, &transaction).unwrap_or_else(|e| panic!("{e}"));
    let mut seen = Seen { whole, ..Seen::default() };
    check_that_a_torn_cut_is_seen(&epochs, topics, &transaction);
    let answers = replay::answers(program, &epochs, views, inputs);
    for view in views {
        let topic = broker.topic(&view.name);
        same_as_kcat(program, &topic);
        replay::check_epochs(&topic);
        let answers = &answers[&view.name];
        let found = replay::compare(&topic, answers).unwrap_or_else(|e| panic!("{e}"));
        println!("{}: {found:?}", view.name);
        assert!(found.epochs >= 100, "{}: {found:?}", view.name);
        seen.comparisons += found.epochs;
        seen.moved += found.moved;
        seen.quiet += found.quiet;
        seen.tampered += replay::check_that_tampering_is_seen(&topic, answers, random);
    }
    println!("{seen:?}");
    assert!(seen.moved >= 100 && seen.quiet > 0 && seen.tampered >= views.len(), "{seen:?}");
    seen
}

/// kcat at isolation level read_committed reads the same records.
fn same_as_kcat(program: &Program, topic: &Topic) {
    let mut theirs: Vec<_> = consume(program.kafka, &topic.name)
        .into_iter()
        .map(|r| (r.offset, r.key.unwrap_or_default(), r.value))
        .collect();
    let ours = topic.records.iter().cloned();
    let mut ours: Vec<_> = ours.map(|r| (r.offset, r.key.unwrap_or_default(), r.value)).collect();
    ours.sort();
    theirs.sort();
    assert!(ours == theirs, "{}: {} records, {} by kcat", topic.name, ours.len(), theirs.len());
}

/// The check of cuts can fail: it does when a cut that holds a transaction ends one record earlier.
fn check_that_a_torn_cut_is_seen(epochs: &[Epoch], topics: &[&Topic], transaction: impl Fn(&Record) -> Option<String>) {
    let mut torn = 0;
    for topic in topics {
        for part in topic.transactions.iter().filter(|part| part.committed).take(3) {
            let mut epochs = epochs.to_vec();
            let holds = |epoch: &Epoch| epoch.cut.end(topic, part.partition) > part.marker;
            let at = epochs.iter().position(holds).expect("every transaction belongs to an epoch");
            epochs[at].cut.0.insert((topic.id.clone(), part.partition), part.marker);
            assert!(timeline::check_whole(&epochs, topics, &transaction).is_err(), "{part:?} torn is as good");
            torn += 1;
        }
    }
    assert!(torn > 0, "no transaction to tear");
}
