//! A source that has stopped is seen wherever one looks: in the lists, in the metrics, in the error of a SELECT.

use std::io::{Read, Write};

use crate::support::postgres::Postgres;
use crate::support::program::Program;
use crate::support::{Scratch, block_on, wait_for};

fn source(server: &Postgres) -> String {
    format!("CREATE SOURCE shop WITH (connector = 'postgres', url = '{}', tables = 'public.*')", server.url())
}

/// State and detail of the only row of a list.
fn state(program: &Program, list: &str, at: usize) -> (String, String) {
    let row = program.rows(list).pop().expect("a row");
    (row[at].clone().expect("a state"), row.last().cloned().flatten().unwrap_or_default())
}

fn metrics(program: &Program) -> String {
    let mut stream = std::net::TcpStream::connect(program.http).expect("the listener is there");
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").expect("sent");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("an answer");
    text
}

#[test]
fn what_rests_on_a_failed_source_says_so() {
    let server = Postgres::start();
    let scratch = Scratch::new("stalled");
    let program = Program::start(&scratch.path().join("data"));
    server.execute("CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t VALUES (1, 1)");
    program.execute(&source(&server));
    program.execute("CREATE MATERIALIZED VIEW total AS SELECT sum(v) AS v FROM shop.public.t");
    program.execute("CREATE MATERIALIZED VIEW more AS SELECT v + 1 AS v FROM total");
    wait_for("the view", 30, || (program.rows("SELECT v FROM more") == [[Some("2".to_owned())]]).then_some(()));
    assert_eq!(state(&program, "SHOW TABLES", 4).0, "running");
    let body = metrics(&program);
    assert!(body.contains("riverrun_view_freshness_seconds{view=\"more\"} 0"), "{body}");

    server.execute("ALTER TABLE t DROP CONSTRAINT t_pkey; INSERT INTO t VALUES (1, 7)");
    wait_for("the source to fail", 30, || (state(&program, "SHOW SOURCES", 2).0 == "failed").then_some(()));
    let lists = [("SHOW TABLES", 4), ("SHOW VIEWS", 3), ("SHOW JOBS", 3)];
    for (list, at) in lists {
        let (state, detail) = state(&program, list, at);
        assert_eq!(state, "stalled", "{list}");
        for part in ["source shop has failed", "key (id)", "public.t", "drop the source"] {
            assert!(detail.contains(part), "{list}: {detail:?} lacks {part:?}");
        }
    }
    let body = metrics(&program);
    for line in [
        "riverrun_view_freshness_seconds{view=\"more\"} +Inf",
        "riverrun_view_freshness_seconds{view=\"total\"} +Inf",
        "riverrun_cdc_lag_seconds{source=\"shop\"} +Inf",
    ] {
        assert!(body.contains(line), "{body}\nlacks {line}");
    }
    // What was true before the change still stands.
    assert_eq!(program.rows("SELECT v FROM more"), [[Some("2".to_owned())]]);
}

#[test]
fn a_source_that_fails_before_its_snapshot_is_named_by_who_waits_for_it() {
    let server = Postgres::start();
    let scratch = Scratch::new("before");
    let program = Program::start(&scratch.path().join("data"));
    server.execute("CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE other (id int PRIMARY KEY)");
    block_on(async {
        // A slot waits for transactions that are open: there is no snapshot before this one ends.
        let open = server.connect().await;
        open.batch_execute("BEGIN; INSERT INTO other VALUES (1)").await.expect("opened");
        let client = program.connect().await;
        client.batch_execute(&source(&server)).await.expect("created");
        server.connect().await.batch_execute("ALTER TABLE t DROP CONSTRAINT t_pkey").await.expect("altered");
        open.batch_execute("COMMIT").await.expect("committed");
    });
    wait_for("the source to fail", 30, || (state(&program, "SHOW SOURCES", 2).0 == "failed").then_some(()));
    let text = block_on(async {
        let error = program.connect().await.simple_query("SELECT * FROM shop.public.t").await.expect_err("no snapshot");
        let db = error.as_db_error().unwrap_or_else(|| panic!("{error:?}"));
        format!("{} {}", db.message(), db.detail().unwrap_or_default())
    });
    assert!(text.contains("the source has failed") && text.contains("public.t"), "{text}");
}
