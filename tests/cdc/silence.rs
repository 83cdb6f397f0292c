//! A server that says nothing any more is noticed, and a source that has caught up says so.

use crate::support::postgres::Postgres;
use crate::support::program::Program;
use crate::support::{Scratch, signal, wait_for};

/// State, lag and detail of the one source.
fn source(program: &Program) -> (String, i64, String) {
    let row = program.rows("SHOW SOURCES").pop().expect("a source");
    let text = |at: usize| row[at].clone().unwrap_or_default();
    (text(2), text(5).parse().expect("milliseconds"), text(6))
}

fn wait_for_rows(program: &Program, count: usize) {
    wait_for("the rows", 60, || (program.rows("SELECT id FROM shop.public.t").len() == count).then_some(()));
}

#[test]
fn a_silent_server_is_noticed_and_a_source_at_rest_has_no_lag() {
    let server = Postgres::start();
    server.down("fast");
    server.up_with("-c wal_sender_timeout=3s");
    server.execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)");
    let scratch = Scratch::new("silence");
    let data = scratch.path().join("data");
    let program = Program::start(&data);
    program.execute(&format!(
        "CREATE SOURCE shop WITH (connector = 'postgres', url = '{}', tables = 'public.t')",
        server.url()
    ));
    wait_for_rows(&program, 1);

    // A change made while nobody listened is old when it comes; the lag is over when nothing follows.
    program.stop();
    server.execute("INSERT INTO t VALUES (2); SELECT pg_sleep(1.5)");
    let program = Program::start(&data);
    wait_for_rows(&program, 2);
    wait_for("the lag to go", 60, || (source(&program).1 == 0).then_some(()));
    assert_eq!(source(&program).0, "running");

    let pid = server.rows("SELECT pid::text FROM pg_stat_replication")[0][0].clone().expect("a walsender");
    signal("STOP", &pid);
    server.execute("INSERT INTO t VALUES (3)");
    let detail = wait_for("the silence to be noticed", 60, || {
        let (state, _, detail) = source(&program);
        (state == "retrying").then_some(detail)
    });
    signal("CONT", &pid);
    assert!(!detail.is_empty());
    assert!(Program::said(&data).contains("has said nothing for 3s"), "{}", Program::said(&data));
    wait_for_rows(&program, 3);
    wait_for("the source to run again", 60, || (source(&program).0 == "running").then_some(()));
}
