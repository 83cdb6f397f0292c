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
        wait_for("the snapshot to copy", 60, || {
            (copies(&server) || holds_anything(program.kafka, "shop.public.customers")).then_some(())
        });
        pause(&mut random, wait_ms_max);
        let copying = copies(&server);
        program.kill();
        // Whether the kill came before the snapshot's one commit, the log itself says when it is back.
        program = Program::start(&data);
        let committed = holds_anything(program.kafka, "shop.public.customers");
        if copying && !committed {
            in_snapshot += 1;
        } else if committed && in_snapshot < KILLS_IN_SNAPSHOT {
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
            kill_in_recovery(&data, &mut random);
        }
        program = Program::start(&data);
    }
    clients.stop();
    check_at_rest(&server, &program);
}

/// The clean stop has its own limit and is a failure beyond it, so that success says that it took less.
#[test]
fn a_stop_in_the_snapshot_is_clean_and_the_next_start_begins_anew() {
    let server = Postgres::start();
    server.execute(
        "CREATE TABLE customers (id int PRIMARY KEY, t text); CREATE TABLE orders (id int); CREATE TABLE payments (id int);
         ALTER TABLE orders REPLICA IDENTITY FULL; ALTER TABLE payments REPLICA IDENTITY FULL;
         INSERT INTO customers SELECT i, repeat('x', 100) FROM generate_series(1, 400000) i",
    );
    let scratch = Scratch::new("stop");
    let data = scratch.path().join("data");
    let program = begin(&server, &data);
    wait_for("the snapshot to copy", 60, || copies(&server).then_some(()));
    program.stop();
    let program = Program::start(&data);
    assert!(!holds_anything(program.kafka, "shop.public.customers"), "the snapshot was over before the stop");
    wait_for("the snapshot", 120, || {
        let rows = program.rows("SELECT count(*) FROM shop.public.customers");
        (rows == [[Some("400000".to_owned())]]).then_some(())
    });
}

/// Whether a table is being copied.
fn copies(server: &Postgres) -> bool {
    !server.rows("SELECT 1 FROM pg_stat_progress_copy WHERE command = 'COPY TO'").is_empty()
}

/// A kill after recovery has begun and before the program is ready.
fn kill_in_recovery(data: &Path, random: &mut Random) {
    let mut wait_ms_max = 100;
    for _ in 0..50 {
        let before = Program::said(data).len();
        let starting = Program::spawn(data);
        wait_for("recovery", 60, || Program::said(data)[before..].contains("the log is recovering").then_some(()));
        pause(random, wait_ms_max);
        if starting.kill() {
            return;
        }
        // Too late: sooner next time, as fast as this machine wants it.
        wait_ms_max = (wait_ms_max * 2 / 3).max(1);
    }
    panic!("recovery is over before a kill can reach it");
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
