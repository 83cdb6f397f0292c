//! A node is stopped while its disk is full: that ends soon, whatever waits for room at that time, and nothing that was
//! acknowledged is lost.

use std::sync::Arc;
use std::time::Duration;

use super::{PAGE, create, free_pages, open, used_pages};
use crate::env::SimDisk;
use crate::node::Node;
use crate::node::crash::clients::{STEPS, record, run_clients};
use crate::node::crash::model::{Shared, lock, verify};
use crate::{Cluster, Env, Error};

/// How long a stop may take.
const STOP_MAX: Duration = Duration::from_secs(5);

/// How the node ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Stop,
    /// The node is let go.
    Drop,
}

struct Outcome {
    failures: Vec<String>,
    /// No page was left at the end.
    full: bool,
}

/// Fills the disk, alone.
async fn appends(node: &Node) {
    let Ok(at) = create(node, "appends").await else { return };
    for number in 0.. {
        match node.log(at).unwrap().append(vec![record(&format!("{number:300}"))]).await {
            Ok(_) | Err(Error::Busy(_)) => node.env.sleep(Duration::from_millis(5)).await,
            Err(_) => return,
        }
    }
}

fn check(seed: u64) -> Outcome {
    let disk = SimDisk::new(seed);
    let env = Env::simulated(seed).with_disk(Arc::new(disk.clone()));
    let model = Shared::default();
    let fail = |what: String| lock(&model).failures.push(what);
    let mut full = false;
    let random = |below: u64| env.random_u64() % below;
    let reserve = random(2) * 20 * PAGE;
    let end = if random(4) == 0 { End::Drop } else { End::Stop };
    let lived = env.run(async {
        let node = open(&env, reserve).await?;
        run_clients(&env, &node, &model, random(STEPS)).await;
        disk.set_capacity(Some((used_pages(&disk) + random(25)) * PAGE));
        let work = |name, node: &Arc<Node>| {
            let (env, node, model) = (env.clone(), Arc::clone(node), Arc::clone(&model));
            env.clone().spawn(name, async move {
                match name {
                    "clients" if end == End::Stop => run_clients(&env, &node, &model, 2 * STEPS).await,
                    "clients" => appends(&node).await,
                    "checkpoints" => {
                        while !matches!(node.checkpoint().await, Err(Error::Closed(_))) {
                            env.sleep(Duration::from_millis(70)).await;
                        }
                    }
                    _ => {
                        while !matches!(node.compact().await, Err(Error::Closed(_))) {
                            env.sleep(Duration::from_millis(90)).await;
                        }
                    }
                }
            })
        };
        let tasks = ["clients", "checkpoints", "passes"].map(|name| work(name, &node));
        env.sleep(Duration::from_millis(random(3000))).await;
        full = free_pages(&disk) == 0;
        if let Some(reason) = &*node.fatal().borrow() {
            fail(format!("a full disk ended the node: {reason}"));
        }
        if end == End::Drop {
            tasks.iter().for_each(crate::env::Task::abort);
        } else if env.timeout(STOP_MAX, node.shutdown()).await.is_none() {
            fail("the stop does not end".to_owned());
        }
        for task in tasks {
            if env.timeout(STOP_MAX, task).await.is_none() {
                fail("somebody still waits".to_owned());
            }
        }
        drop(node);
        // The directory is free again.
        disk.set_capacity(None);
        let again = async {
            loop {
                match open(&env, 0).await {
                    Err(Error::Busy(_)) => env.sleep(Duration::from_millis(50)).await,
                    opened => return opened,
                }
            }
        };
        match env.timeout(STOP_MAX, again).await {
            None => fail("the directory stays locked".to_owned()),
            Some(node) => verify(&*node?, &model).await?,
        }
        Ok::<(), Error>(())
    });
    if let Err(error) = lived {
        fail(error.to_string());
    }
    env.drop_tasks();
    let failures = std::mem::take(&mut lock(&model).failures);
    Outcome { failures, full }
}

#[test]
fn a_stop_ends_on_a_full_disk() {
    let mut full = 0;
    for seed in 0..150 {
        let outcome = check(seed);
        assert!(outcome.failures.is_empty(), "check({seed}): {:#?}", outcome.failures);
        full += usize::from(outcome.full);
    }
    assert!(full > 40, "only {full} of 150 disks were full");
}
