//! The same shop while riverrun is killed at seeded moments and PostgreSQL is restarted: nothing missing, nothing twice.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::expected::{check_at_rest, create_views};
use super::workload::{Clients, create, large_transaction};
use crate::support::clients::holds_anything;
use crate::support::postgres::Postgres;
use crate::support::program::Program;
use crate::support::random::Random;
use crate::support::{Scratch, wait_for};

const SEED: u64 = 7;
const KILLS_IN_SNAPSHOT: u32 = 5;
const KILLS_IN_RECOVERY: u32 = 4;
const KILLS_IN_STREAM: u32 = 11;

#[test]
fn killed_at_twenty_moments_nothing_is_missing_and_nothing_twice() {
    let mut random = Random::new(SEED);
    let server = Postgres::start();
    create(&server);
    let scratch = Scratch::new("kills");
    let data = scratch.path().join("data");
    let clients = Clients::start(&server, SEED, 10);

    let mut program = begin(&server, &data);
    let mut in_snapshot = 0;
    let mut tries = 0;
    let mut wait_ms_max = 150;
    while in_snapshot < KILLS_IN_SNAPSHOT {
        tries += 1;
        assert!(tries < 100, "the snapshot is over before a kill can reach it ({in_snapshot} did)");
        pause(&mut random, wait_ms_max);
        program.kill();
        // Whether the kill came before the snapshot's one commit, the log itself says when it is back.
        program = Program::start(&data);
        if !holds_anything(program.kafka, "shop.public.customers") {
            in_snapshot += 1;
        } else if in_snapshot < KILLS_IN_SNAPSHOT {
            // Too late: sooner next time, as fast as this machine wants it.
            wait_ms_max = (wait_ms_max * 2 / 3).max(8);
            program.kill();
            forget(&server, &data);
            program = begin(&server, &data);
        }
    }
    create_views(&program);
    wait_for("the first state of a view", 120, || {
        (!program.rows("SELECT * FROM spend LIMIT 1").is_empty()).then_some(())
    });

    for n in 0..KILLS_IN_STREAM {
        let seen = clients.done.load(Ordering::Relaxed);
        if n == 3 {
            large_transaction(&server);
        }
        if n == 2 {
            server.down("fast");
            server.up();
        }
        if n == 6 {
            server.down("immediate");
            server.up();
        }
        wait_for("clients to go on", 60, || (clients.done.load(Ordering::Relaxed) > seen + 50).then_some(()));
        pause(&mut random, 600);
        program.kill();
        if n < KILLS_IN_RECOVERY {
            let starting = Program::spawn(&data);
            pause(&mut random, 150);
            starting.kill();
        }
        program = Program::start(&data);
    }
    clients.stop();
    check_at_rest(&server, &program);
}

/// A moment drawn from the seed. What is tested does not depend on its length.
fn pause(random: &mut Random, ms_max: u64) {
    std::thread::sleep(Duration::from_millis(random.below(ms_max)));
}

fn begin(server: &Postgres, data: &Path) -> Program {
    let program = Program::start(data);
    program.execute(&format!(
        "CREATE SOURCE shop WITH (connector = 'postgres', url = '{}', tables = 'public.customers, public.orders, public.payments')",
        server.url()
    ));
    program
}

/// Removes the data directory and what the source left in PostgreSQL, so that another snapshot can begin.
fn forget(server: &Postgres, data: &Path) {
    std::fs::remove_dir_all(data).expect("the data directory");
    wait_for("the killed connection to be gone", 30, || {
        server.rows("SELECT 1 FROM pg_replication_slots WHERE active").is_empty().then_some(())
    });
    server.execute("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots; DROP PUBLICATION IF EXISTS riverrun_shop");
}
