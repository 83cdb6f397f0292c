//! The first failed write or sync ends the node, whichever it is: nothing is acknowledged behind it, nothing is tried
//! again, and what was acknowledged before is there after the next start. A failed read costs nothing either.

use std::path::Path;
use std::sync::Arc;

use super::clients::{STEPS, record, run_clients};
use super::model::{Shared, lock, partitions, verify};
use super::{SHAPES, config};
use crate::env::{Damage, SimDisk, SyncFailure};
use crate::node::Node;
use crate::store::Acknowledge;
use crate::{Cluster, Env, Error};

/// What went wrong in a life with this damage and in the next; whether the damage was met.
pub(super) fn check(seed: u64, damage: Damage) -> (Vec<String>, bool) {
    let disk = SimDisk::new(seed);
    let env = Env::simulated(seed).with_disk(Arc::new(disk.clone()));
    let model = Shared::default();
    disk.plan(damage);
    env.run(async {
        if let Err(error) = one_life(&env, &disk, &model, damage).await
            && !matches!(error, Error::Io(_) | Error::Closed(_) | Error::Unknown)
        {
            lock(&model).failures.push(format!("unexpected: {error}"));
        }
    });
    env.drop_tasks();
    let met = disk.planned() == 0;
    if seed.is_multiple_of(3) {
        disk.heal();
    } else {
        disk.crash();
    }
    env.run(async {
        let node = Node::open(env.clone(), Path::new("/data"), config(Acknowledge::AfterSync)).await;
        match node {
            Ok(node) => {
                if let Err(error) = verify(&node, &model).await {
                    lock(&model).failures.push(format!("cannot read: {error}"));
                }
            }
            Err(error) => lock(&model).failures.push(format!("cannot open: {error}")),
        }
    });
    env.drop_tasks();
    let failures = std::mem::take(&mut lock(&model).failures);
    (failures, met)
}

async fn one_life(env: &Env, disk: &SimDisk, model: &Shared, damage: Damage) -> Result<(), Error> {
    let node = Node::open(env.clone(), Path::new("/data"), config(Acknowledge::AfterSync)).await?;
    run_clients(env, &node, model, STEPS).await;
    let fatal = node.fatal().borrow().clone();
    let expect = disk.planned() == 0 && ends_the_node(damage);
    if expect && fatal.is_none() {
        let told = format!("{damage:?}, met: {}; the node says {fatal:?}", disk.planned() == 0);
        lock(model).failures.push(told);
    }
    for partition in partitions(&node, "x").await.into_iter().filter(|_| expect) {
        let more = node.log(partition)?.append(vec![record("behind")]).await;
        if !matches!(more, Err(Error::Closed(_))) {
            lock(model).failures.push(format!("behind {damage:?} an append says {more:?}"));
        }
    }
    Ok(())
}

/// Whether it is told at once. A failure that only a later sync reports may meet none.
fn ends_the_node(damage: Damage) -> bool {
    match damage {
        Damage::SyncFails { how, .. } => how != SyncFailure::Unseen,
        Damage::WriteFails { .. } => true,
        _ => false,
    }
}

/// The operation at which to fail and how, by number.
pub(super) fn damage(number: u64) -> Damage {
    let operation = 1 + number * 7 % 400;
    match number % 5 {
        0 => Damage::WriteFails { operation },
        1 => Damage::ReadFails { operation },
        shape => Damage::SyncFails { operation, how: SHAPES[shape as usize - 2] },
    }
}

#[test]
fn a_failed_write_or_sync_ends_the_node_wherever_it_comes() {
    let mut met = 0;
    for number in 0..500 {
        let (failures, hit) = check(number, damage(number));
        assert!(failures.is_empty(), "check({number}, {:?}): {failures:#?}", damage(number));
        met += usize::from(hit);
    }
    assert!(met > 250, "only {met} of 500 damages were met");
}
