//! Views that come later, wait, fail alone and go.

use std::time::Duration;

use tokio::sync::watch;

use super::harness::{ACCOUNTS, LONG, Setup, World, id};
use super::model::VIEWS;
use crate::io::Gate;
use crate::job::{Error, JobState};

const OTHERS: [&str; 4] = ["sums", "total", "events_copy", "pairs"];

#[test]
fn a_view_that_comes_later_shows_everything() {
    let world = World::new(1);
    world.run(async {
        let setup = Setup { views: vec!["even", "events_copy"], ..Setup::default() };
        let mut session = world.open(&setup).await;
        let changes: Vec<_> = (0..200).map(|k| ("accounts", k, Some(k * 3))).collect();
        session.write(&changes).await.unwrap();
        session.write(&[("events", 1, Some(1)), ("events", 1, Some(1)), ("accounts", 7, None)]).await.unwrap();
        for view in ["sums", "total", "pairs"] {
            let topic = log::NewTopic { name: view.into(), partitions: 1, config: Default::default() };
            session.cluster.create_topic(topic).await.unwrap();
            session.engine.add_view(session.view(view, &setup)).await.unwrap();
        }
        session.caught_up(&VIEWS).await.unwrap();
        session.check(&VIEWS).await;
        session.write(&[("accounts", 3, Some(1)), ("events", 2, Some(2))]).await.unwrap();
        session.check(&VIEWS).await;
        session.check_prefixes(&VIEWS).await;
    });
}

#[test]
fn nothing_is_shown_before_the_snapshot_is_whole() {
    let world = World::new(2);
    world.run(async {
        let (open, gate) = watch::channel(Gate::Closed { progress: "half".into() });
        let mut session = world.open(&Setup { gate: Some(gate), ..Setup::default() }).await;
        session.write(&[("accounts", 1, Some(4)), ("events", 1, Some(1))]).await.unwrap();
        session.caught_up(&["events_copy"]).await.unwrap();
        let waiting = session.engine.caught_up(&[id("total")], Duration::from_secs(1)).await.unwrap_err();
        assert!(matches!(&waiting, Error::NotCaughtUp { progress, .. } if progress.contains("half")), "{waiting}");
        assert!(session.engine.store(ACCOUNTS).is_err());
        assert!(session.engine.store(id("even")).is_err());
        for view in ["even", "sums", "total", "pairs"] {
            assert!(session.records(view, None).await.is_empty(), "{view} has put something out");
        }
        session.write(&[("accounts", 2, Some(6))]).await.unwrap();
        open.send_replace(Gate::Open);
        session.caught_up(&VIEWS).await.unwrap();
        session.engine.caught_up(&[ACCOUNTS], LONG).await.unwrap();
        session.check(&VIEWS).await;
        session.check_prefixes(&VIEWS).await;
    });
}

#[test]
fn a_failing_job_stops_alone() {
    for (error_at, panic_at, says) in [(Some(66), None, "66 is forbidden"), (None, Some(66), "has panicked")] {
        let world = World::new(3);
        world.run(async {
            let mut session = world.open(&Setup { error_at, panic_at, ..Setup::default() }).await;
            session.caught_up(&VIEWS).await.unwrap();
            session.write(&[("accounts", 1, Some(4))]).await.unwrap();
            session.write(&[("accounts", 2, Some(66)), ("accounts", 3, Some(2))]).await.unwrap();
            session.write(&[("accounts", 4, Some(8))]).await.unwrap();
            session.check(&OTHERS).await;
            let error = session.engine.store(id("even")).err().unwrap().to_string();
            assert!(error.contains(says), "{error}");
            let jobs = session.engine.jobs();
            let failed = jobs.iter().filter(|job| matches!(job.state, JobState::Failed { .. }));
            assert_eq!(failed.map(|job| job.id).collect::<Vec<_>>(), [id("even")]);
            session.check_prefixes(&OTHERS).await;
            assert_eq!(session.records("even", None).await.len(), 1, "nothing of the epoch that failed");
        });
    }
}

#[test]
fn an_undecodable_record_is_named_and_stops_what_reads_it() {
    let world = World::new(4);
    world.run(async {
        let mut session = world.open(&Setup::default()).await;
        session.caught_up(&VIEWS).await.unwrap();
        session.write(&[("accounts", 1, Some(4)), ("events", 9, Some(9))]).await.unwrap();
        let events = session.cluster.topic("events").unwrap();
        let at = log::TopicPartition { topic: events.id, partition: 0 };
        let bad = log::NewRecord { key: Some("x".into()), ..log::NewRecord::default() };
        let offset = session.cluster.log(at).unwrap().append(vec![bad]).await.unwrap();
        let error = loop {
            if let Err(error) = session.engine.store(id("events_copy")) {
                break error.to_string();
            }
            world.env.sleep(Duration::from_millis(1)).await;
        };
        let names = |error: &str| error.contains("events partition 0") && error.contains(&format!("{}", offset.0));
        assert!(names(&error), "{error}");
        let error = session.engine.store(id("pairs")).err().unwrap().to_string();
        assert!(error.contains("it reads events_copy") && names(&error), "{error}");
        session.write(&[("accounts", 2, Some(6))]).await.unwrap();
        session.check(&["even", "sums", "total"]).await;
    });
}

#[test]
fn a_removed_view_leaves_nothing_and_its_inputs_are_kept_from_removal() {
    let world = World::new(7);
    world.run(async {
        let mut session = world.open(&Setup::default()).await;
        session.caught_up(&VIEWS).await.unwrap();
        session.write(&[("accounts", 1, Some(4))]).await.unwrap();
        let error = session.engine.remove(id("sums")).await.unwrap_err();
        assert!(matches!(&error, Error::HasDependents { dependents, .. } if dependents == &["total"]), "{error}");
        session.engine.remove(id("total")).await.unwrap();
        session.engine.remove(id("sums")).await.unwrap();
        assert!(matches!(session.engine.store(id("sums")).err(), Some(Error::UnknownRelation(_))));
        let commits = session.commits().await;
        assert!(!commits.contains_key(&id("sums")) && commits.contains_key(&id("even")));
        session.write(&[("accounts", 2, Some(4))]).await.unwrap();
        session.check(&["even", "pairs"]).await;
    });
}

#[test]
fn a_pinned_epoch_stays_readable() {
    let world = World::new(8);
    world.run(async {
        let mut session = world.open(&Setup::default()).await;
        session.caught_up(&VIEWS).await.unwrap();
        session.write(&[("accounts", 1, Some(4))]).await.unwrap();
        let pin = session.engine.pin();
        for v in 0..50 {
            session.write(&[("accounts", 1, Some(v))]).await.unwrap();
        }
        assert_eq!(session.shown("total", pin.epoch()), [((0, 4), 1)].into());
        assert_eq!(session.shown("total", session.engine.pin().epoch()), [((0, 49), 1)].into());
    });
}
