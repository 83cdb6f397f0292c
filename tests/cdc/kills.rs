//! The same shop while riverrun is killed at seeded moments and PostgreSQL is restarted: nothing missing, nothing twice.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::expected::{check_at_rest, create_views};
use super::workload::{Clients, create, large_transaction};
use crate::support::postgres::Postgres;
use crate::support::program::Program;
use crate::support::random::Random;
use crate::support::{Scratch, wait_for};

const SEED: u64 = 7;
const KILLS_IN_SNAPSHOT: u32 = 5;
const KILLS_IN_RECOVERY: u32 = 4;
const KILLS_IN_STREAM: u32 = 11;
const BEGINS: &str = "the snapshot begins";

#[test]
fn killed_at_twenty_moments_nothing_is_missing_and_nothing_twice() {
    let mut random = Random::new(SEED);
    let server = Postgres::start();
    create(&server);
    let scratch = Scratch::new("kills");
    let data = scratch.path().join("data");
    let clients = Clients::start(&server, SEED, 10);

    let mut program = begin(&server, &data);
    let mut wait_ms_max = 300;
    for _ in 0..KILLS_IN_SNAPSHOT {
        program = kill_in_snapshot(&server, program, &data, &mut random, &mut wait_ms_max);
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
    wait_for("the snapshot to begin", 60, || said_since(&data, 0, BEGINS).then_some(()));
    program.stop();
    let seen = Program::said(&data).len();
    let program = Program::start(&data);
    assert!(begins_anew(&data, seen), "the snapshot was over before the stop");
    wait_for("the snapshot", 120, || {
        let rows = program.rows("SELECT count(*) FROM shop.public.customers");
        (rows == [[Some("400000".to_owned())]]).then_some(())
    });
}

/// A kill after the snapshot has begun and before it is committed: the next start says that one begins, and is returned.
fn kill_in_snapshot(
    server: &Postgres,
    mut program: Program,
    data: &Path,
    random: &mut Random,
    wait_ms_max: &mut u64,
) -> Program {
    let mut seen = 0;
    for _ in 0..50 {
        wait_for("the snapshot to begin", 60, || said_since(data, seen, BEGINS).then_some(()));
        pause(random, *wait_ms_max);
        program.kill();
        seen = Program::said(data).len();
        program = Program::start(data);
        if begins_anew(data, seen) {
            return program;
        }
        // Too late: another snapshot, and sooner this time, as fast as this machine wants it.
        *wait_ms_max = (*wait_ms_max * 2 / 3).max(1);
        program.kill();
        forget(server, data);
        seen = Program::said(data).len();
        program = begin(server, data);
    }
    panic!("the snapshot is over before a kill can reach it");
}

/// Whether the program that started when `before` bytes had been said began a snapshot, and not where one had ended.
fn begins_anew(data: &Path, before: usize) -> bool {
    wait_for("snapshot or stream", 60, || {
        let anew = said_since(data, before, BEGINS);
        (anew || said_since(data, before, "the stream goes on")).then_some(anew)
    })
}

fn said_since(data: &Path, before: usize, text: &str) -> bool {
    Program::said(data)[before..].contains(text)
}

/// A kill after recovery has begun and before the program is ready.
fn kill_in_recovery(data: &Path, random: &mut Random) {
    let mut wait_ms_max = 100;
    for _ in 0..50 {
        let before = Program::said(data).len();
        let starting = Program::spawn(data);
        wait_for("recovery", 60, || said_since(data, before, "the log is recovering").then_some(()));
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
