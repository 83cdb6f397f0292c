//! Crashes: at any operation of the disk, and what must hold afterwards.

use log::env::Damage;

use super::harness::{Change, LONG, Session, Setup, World, commits, epochs, open_node};
use super::model::VIEWS;

/// A sequence of changes that is the same for the same seed.
struct Changes(u64);

impl Changes {
    fn next(&mut self, below: i64) -> i64 {
        // xorshift64 (Marsaglia 2003).
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % below as u64) as i64
    }

    fn transaction(&mut self) -> Vec<Change> {
        let size = 1 + self.next(8);
        let change = |_| match self.next(4) {
            0 => ("events", self.next(5), Some(self.next(100))),
            1 => ("accounts", self.next(20), None),
            _ => ("accounts", self.next(20), Some(self.next(1000))),
        };
        (0..size).map(change).collect()
    }
}

async fn work(session: &mut Session, changes: &mut Changes, transactions: usize) -> Result<(), String> {
    for _ in 0..transactions {
        session.write(&changes.transaction()).await?;
    }
    Ok(())
}

#[test]
fn views_follow_their_inputs() {
    for seed in 1..4 {
        let world = World::new(seed);
        world.run(async {
            let mut session = world.open(&Setup::default()).await;
            session.caught_up(&VIEWS).await.unwrap();
            let mut changes = Changes(seed);
            for _ in 0..20 {
                session.write(&changes.transaction()).await.unwrap();
                session.check(&VIEWS).await;
            }
            session.check_prefixes(&VIEWS).await;
        });
    }
}

/// Whether a crash has left the newest epoch in commit records only.
async fn timeline_is_behind(world: &World) -> bool {
    let node = open_node(&world.env).await.unwrap();
    let newest = epochs(&*node).await.last().map_or(0, |epoch| epoch.number);
    commits(&*node).await.values().any(|commit| commit.epoch > newest)
}

#[test]
fn a_crash_at_any_moment_loses_nothing_and_doubles_nothing() {
    let mut behind = 0;
    for seed in 1..25 {
        let world = World::new(seed);
        let mut changes = Changes(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        for round in 0..6 {
            // The first ones hit recovery and backfill, the later ones the following.
            let operation = 1 + changes.next(40 + 60 * round) as u64;
            world.disk.plan(Damage::PowerCut { operation });
            // The power goes in the middle of it; everything fails from there on, or waits for ever.
            let setup = Setup { workers: 1 + (seed as usize + round as usize) % 3, ..Setup::default() };
            let cut_off = async {
                let mut session = world.try_open(&setup).await?;
                work(&mut session, &mut changes, 40).await
            };
            let _: Option<Result<(), String>> = world.run(world.env.timeout(LONG, cut_off));
            world.crash();
            behind += usize::from(world.run(timeline_is_behind(&world)));
            world.crash();
        }
        world.run(async {
            let mut session = world.open(&Setup::default()).await;
            session.caught_up(&VIEWS).await.unwrap();
            session.check(&VIEWS).await;
            work(&mut session, &mut changes, 3).await.unwrap();
            session.check(&VIEWS).await;
            session.check_prefixes(&VIEWS).await;
        });
    }
    assert!(behind > 0, "no crash came between a commit and the timeline's record");
}

#[test]
fn digests_do_not_depend_on_workers_or_epochs() {
    let digests = |seed, workers| {
        let world = World::new(seed);
        world.run(async {
            let mut session = world.open(&Setup { workers, ..Setup::default() }).await;
            session.caught_up(&VIEWS).await.unwrap();
            work(&mut session, &mut Changes(77), 25).await.unwrap();
            let commits = session.commits().await;
            commits.into_iter().map(|(id, commit)| (id, commit.digest)).collect::<Vec<_>>()
        })
    };
    let one = digests(1, 1);
    assert_eq!(one.len(), VIEWS.len());
    assert_eq!(one, digests(2, 3));
    assert_eq!(one, digests(3, 5));
}

#[test]
fn a_start_with_other_workers_goes_on() {
    let world = World::new(5);
    let mut changes = Changes(5);
    for workers in [1, 3, 2] {
        world.run(async {
            let mut session = world.open(&Setup { workers, ..Setup::default() }).await;
            session.caught_up(&VIEWS).await.unwrap();
            work(&mut session, &mut changes, 10).await.unwrap();
            session.check(&VIEWS).await;
            session.engine.shutdown().await;
        });
        world.env.drop_tasks();
    }
}

#[test]
fn another_plan_version_stops_the_job_and_says_so() {
    let world = World::new(6);
    world.run(async {
        let mut session = world.open(&Setup::default()).await;
        session.caught_up(&VIEWS).await.unwrap();
        work(&mut session, &mut Changes(6), 3).await.unwrap();
    });
    world.crash();
    world.run(async {
        let session = world.open(&Setup { plan_version: 2, ..Setup::default() }).await;
        let error = session.caught_up(&["sums"]).await.unwrap_err();
        assert!(error.contains("made by plan version 1, this program plans version 2"), "{error}");
        let error = session.caught_up(&["total"]).await.unwrap_err();
        assert!(error.contains("plan version"), "{error}");
    });
}
