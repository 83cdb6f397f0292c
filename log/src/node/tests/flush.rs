//! `flush=os`: acknowledged and visible when it is written, whatever becomes of the sync.

use super::*;

/// Appends to a topic with this option while the next sync fails; gives whether that was acknowledged and what is there
/// after the end of the process, or of the power.
fn check(seed: u64, flush: &str, power_cut: bool) -> (bool, Vec<String>) {
    let disk = SimDisk::new(seed);
    let env = Env::simulated(seed).with_disk(Arc::new(disk.clone()));
    env.run(async {
        let node = open(&env).await;
        let a = topic(&node, "a").await;
        let log = node.log(a).unwrap();
        log.append(vec![record("1")]).await.unwrap();
        node.configure_topic("a", [("flush".to_owned(), Some(flush.to_owned()))].into()).await.unwrap();
        disk.plan(Damage::SyncFails { operation: disk.operations() + 1, how: SyncFailure::Clean });
        let acknowledged = match log.append(vec![record("2")]).await {
            Ok(offset) => {
                assert_eq!((offset, log.bounds().high_watermark), (Offset(1), Offset(2)), "seed {seed}");
                true
            }
            Err(Error::Closed(_)) => false,
            Err(other) => panic!("seed {seed}: {other}"),
        };
        node.fatal().wait_for(Option::is_some).await.unwrap();
        assert!(log.append(vec![record("3")]).await.is_err());
        if power_cut {
            disk.crash();
        } else {
            disk.heal();
        }
        env.drop_tasks();
        drop(node);
        let node = open(&env).await;
        let found = all(&node, a, Isolation::Committed).await;
        let next = node.log(a).unwrap().append(vec![record("4")]).await.unwrap();
        assert_eq!(next, Offset(found.len() as i64));
        (acknowledged, found)
    })
}

#[test]
fn a_write_that_was_not_synced_outlives_the_process_and_not_the_power() {
    let (mut acknowledged, mut lost) = (0, 0);
    for seed in 0..40 {
        let (answered, found) = check(seed, "os", false);
        if answered {
            acknowledged += 1;
            assert_eq!(found, ["1", "2"], "seed {seed}");
        }
        let (answered, found) = check(seed, "os", true);
        assert!(found == ["1"] || found == ["1", "2"], "seed {seed}: {found:?}");
        lost += usize::from(answered && found.len() == 1);
        let (answered, _) = check(seed, "group", false);
        assert!(!answered, "seed {seed}: without a sync nothing is acknowledged");
    }
    assert!(acknowledged > 10 && lost > 0, "{acknowledged} were acknowledged, {lost} lost with the power");
}
