//! Passes on a disk that has little room or none: they leave the reserve alone, wait, and go on when there is room.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::check::check;
use super::check_stored;
use super::examples::{fill, offsets, open, topic};
use super::world::{World, config};
use crate::env::{Disk, Open, SimDisk};
use crate::{Env, Error};

const PAGE: u64 = 4096;
const MANY: u64 = 1 << 30;
/// Looks happen every 15 seconds.
const ROUNDS: Duration = Duration::from_secs(50);

fn free_pages(disk: &dyn Disk) -> u64 {
    disk.free_bytes(Path::new("/")).unwrap() / PAGE
}

/// What happened to a pass.
#[derive(Debug, Default)]
struct Counts {
    done: usize,
    full: usize,
    /// Something was replaced, and no checkpoint found room for it.
    waited: usize,
}

fn run(seed: u64, counts: &mut Counts) {
    let mut world = World::new(seed);
    let env = world.env.clone();
    let reserve = world.random(2) * 12;
    world.config.reserve_bytes = reserve * PAGE;
    env.run(async {
        world.open().await;
        for _ in 0..world.random(120) + 60 {
            world.step().await;
        }
        world.all_durable().await;
        let node = world.node();
        // Nothing but the pass takes room from now on.
        node.checkpoint().await.unwrap();
        node.checkpoint().await.unwrap();
        world.disk.set_capacity(Some(MANY * PAGE));
        let used = MANY - free_pages(&world.disk);
        world.disk.set_capacity(Some((used + reserve + world.random(25)) * PAGE));
        env.sleep(Duration::from_millis(200)).await;
        let least = Arc::new(AtomicU64::new(u64::MAX));
        let seen = Arc::clone(&least);
        world.disk.watch(move |_, copy| {
            seen.fetch_min(free_pages(&copy()), Ordering::Relaxed);
        });
        let compacted = env.timeout(ROUNDS, node.compact()).await.expect("a pass ends");
        match &compacted {
            Ok(()) => counts.done += 1,
            Err(Error::Busy(_)) => counts.full += 1,
            Err(error) => panic!("{error}"),
        }
        assert_eq!(*node.fatal().borrow(), None);
        // One group's files beside each other: the log, three indexes, a snapshot, and the checkpoint behind it.
        let least = least.load(Ordering::Relaxed);
        assert!(least.saturating_add(8) >= reserve, "{least} pages were left of a reserve of {reserve}");
        check(&world).await;
        // By itself, again and again; then there is room.
        env.sleep(ROUNDS).await;
        check(&world).await;
        let before = world.disk.image().len();
        world.disk.set_capacity(None);
        env.sleep(ROUNDS).await;
        counts.waited += usize::from(compacted.is_err() && world.disk.image().len() < before);
        env.timeout(ROUNDS, node.compact()).await.expect("a pass ends").unwrap();
        check(&world).await;
        drop(node);
        // Whatever is open is aborted.
        world.close().await;
        world.open().await;
        world.node().compact().await.unwrap();
        check(&world).await;
        world.close().await;
        check_stored(&world);
    });
}

/// What a crash has left of a pass goes from a full disk, too: that gives room.
#[test]
fn what_is_left_of_a_pass_is_removed_from_a_full_disk() {
    let disk = SimDisk::new(1);
    let env = Env::simulated(1).with_disk(Arc::new(disk.clone()));
    env.run(async {
        let node = open(&env, config()).await;
        let at = topic(&node, &[]).await;
        fill(&node, at, 60).await;
        node.shutdown().await;
        drop(node);
        let directory = format!("/data/topics/{:032x}/0/compacted-7", u128::from_be_bytes(at.topic.0));
        let left = Path::new(&directory).join("00000000000000000000.log");
        disk.create_dir(Path::new(&directory)).unwrap();
        let file = disk.open(&left, Open::Create).unwrap();
        file.write_at(0, &[std::io::IoSlice::new(&[1; 10 * PAGE as usize])]).unwrap();
        drop(file);
        disk.set_capacity(Some(0));
        let node = open(&env, config()).await;
        env.sleep(ROUNDS).await;
        assert!(disk.bytes(&left).is_none());
        assert_eq!(offsets(&node, at).await.len(), 60, "nothing was written anew");
        disk.set_capacity(None);
        env.sleep(ROUNDS).await;
        assert!(offsets(&node, at).await.len() < 20);
        node.shutdown().await;
    });
}

#[test]
fn a_pass_that_finds_no_room_leaves_the_reserve_and_goes_on_when_there_is_some() {
    let mut counts = Counts::default();
    for seed in 0..60 {
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(seed, &mut counts)));
        caught.unwrap_or_else(|_| panic!("seed {seed}"));
    }
    assert!(counts.done > 5 && counts.full > 10 && counts.waited > 5, "{counts:?}");
}
