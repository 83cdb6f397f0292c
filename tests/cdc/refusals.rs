//! What cannot work is refused before anything is created, with the fix in the message; what is lost is said aloud.

use crate::support::postgres::Postgres;
use crate::support::program::Program;
use crate::support::{Scratch, block_on, wait_for};

/// The error of a statement as one text: message, detail and hint.
fn error_of(program: &Program, sql: &str) -> String {
    block_on(async {
        let client = program.connect().await;
        let error = client.batch_execute(sql).await.expect_err(sql);
        let db = error.as_db_error().unwrap_or_else(|| panic!("{error:?}"));
        format!("{} {} {}", db.message(), db.detail().unwrap_or_default(), db.hint().unwrap_or_default())
    })
}

fn source(server: &Postgres, tables: &str) -> String {
    format!("CREATE SOURCE shop WITH (connector = 'postgres', url = '{}', tables = '{tables}')", server.url())
}

#[test]
fn the_doctor_names_what_is_missing_and_its_fix() {
    let server = Postgres::start();
    let scratch = Scratch::new("doctor");
    let program = Program::start(&scratch.path().join("data"));
    server.execute(
        "CREATE TABLE keyed (id int PRIMARY KEY, t text); CREATE TABLE keyless (t text);
         CREATE ROLE weak LOGIN; GRANT SELECT ON keyed TO weak;",
    );
    let check = |sql: &str, wanted: &[&str]| {
        let text = error_of(&program, sql);
        for part in wanted {
            assert!(text.contains(part), "{sql}\n{text}\nlacks {part:?}");
        }
    };
    check(&source(&server, "public.keyless"), &["keyless", "REPLICA IDENTITY FULL"]);
    check(&source(&server, "public.nowhere"), &["nowhere"]);
    let weak = source(&server, "public.keyed").replace("postgres@", "weak@");
    check(&weak, &["REPLICATION"]);
    check(
        "CREATE SOURCE shop WITH (connector = 'postgres', url = 'postgres://postgres@127.0.0.1:1/postgres', tables = 'public.*')",
        &["127.0.0.1"],
    );
    check("CREATE SOURCE shop WITH (connector = 'postgres', url = 'x', tabels = 'public.*')", &["tabels", "tables"]);
    check("CREATE SOURCE shop WITH (connector = 'postgress')", &["postgress", "postgres"]);
    assert!(server.rows("SELECT * FROM pg_replication_slots").is_empty(), "a refused source left a slot");
    assert!(server.rows("SELECT * FROM pg_publication").is_empty(), "a refused source left a publication");

    server.down("fast");
    server.up_with("-c wal_level=replica");
    check(&source(&server, "public.keyed"), &["wal_level", "logical"]);
}

#[test]
fn a_numeric_that_is_not_a_number_stops_the_view_and_names_it() {
    let server = Postgres::start();
    let scratch = Scratch::new("nan");
    let program = Program::start(&scratch.path().join("data"));
    server.execute("CREATE TABLE t (id int PRIMARY KEY, n numeric(10,2)); INSERT INTO t VALUES (1, 1.5)");
    program.execute(&source(&server, "public.t"));
    program.execute("CREATE MATERIALIZED VIEW total AS SELECT sum(n) AS n FROM shop.public.t");
    wait_for("the view", 30, || (program.rows("SELECT n FROM total") == [[Some("1.50".to_owned())]]).then_some(()));
    server.execute("INSERT INTO t VALUES (2, 'NaN')");
    let text = wait_for("the view to stop", 30, || {
        block_on(async {
            let client = program.connect().await;
            client.simple_query("SELECT n FROM total").await.err().map(|e| format!("{:?}", e.as_db_error()))
        })
    });
    assert!(text.contains("NaN"), "{text}");
}

#[test]
fn a_slot_that_is_gone_stops_the_source_and_is_said_aloud() {
    let server = Postgres::start();
    let scratch = Scratch::new("slot");
    let data = scratch.path().join("data");
    let program = Program::start(&data);
    server.execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)");
    program.execute(&source(&server, "public.t"));
    wait_for("the snapshot", 30, || (program.rows("SELECT id FROM shop.public.t").len() == 1).then_some(()));
    program.stop();
    server.execute("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots; INSERT INTO t VALUES (2)");
    let program = Program::start(&data);
    let sources = wait_for("the source to stop", 30, || {
        let text = format!("{:?}", program.rows("SHOW SOURCES"));
        (text.contains("slot")).then_some(text)
    });
    assert!(sources.contains("riverrun_shop"), "{sources}");
    assert!(server.rows("SELECT * FROM pg_replication_slots").is_empty(), "a new slot was made in silence");
}

#[test]
fn a_source_that_does_not_run_is_dropped_with_its_slot() {
    let server = Postgres::start();
    let scratch = Scratch::new("dropped");
    let data = scratch.path().join("data");
    let program = Program::start(&data);
    server.execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)");
    program.execute(&source(&server, "public.*"));
    wait_for("the snapshot", 30, || (program.rows("SELECT id FROM shop.public.t").len() == 1).then_some(()));
    program.stop();
    server.execute("ALTER PUBLICATION riverrun_shop DROP TABLE t");
    let program = Program::start(&data);
    wait_for("the source to fail", 30, || {
        format!("{:?}", program.rows("SHOW SOURCES")).contains("failed").then_some(())
    });
    program.execute("DROP SOURCE shop");
    assert!(server.rows("SELECT * FROM pg_replication_slots").is_empty(), "the slot stays");
    assert!(server.rows("SELECT * FROM pg_publication").is_empty(), "the publication stays");
    program.execute(&source(&server, "public.*"));
    wait_for("the new snapshot", 30, || (program.rows("SELECT id FROM shop.public.t").len() == 1).then_some(()));
}

#[test]
fn a_table_that_comes_later_is_left_out_and_said_aloud() {
    let server = Postgres::start();
    let scratch = Scratch::new("later");
    let data = scratch.path().join("data");
    let program = Program::start(&data);
    server.execute("CREATE TABLE b (id int PRIMARY KEY); INSERT INTO b VALUES (1)");
    program.execute(&source(&server, "public.*"));
    program.execute("CREATE MATERIALIZED VIEW n AS SELECT count(*) AS n FROM shop.public.b");
    let counts = |program: &Program, count: &str| {
        wait_for("the view", 30, || (program.rows("SELECT n FROM n") == [[Some(count.to_owned())]]).then_some(()));
    };
    counts(&program, "1");
    server.execute("CREATE TABLE a (id int); CREATE TABLE c (id int PRIMARY KEY)");
    program.stop();
    let program = Program::start(&data);
    server.execute("INSERT INTO a VALUES (5); INSERT INTO c VALUES (5); INSERT INTO b VALUES (2)");
    counts(&program, "2");
    assert_eq!(program.rows("SHOW SOURCES")[0][2].as_deref(), Some("running"));
    let said = Program::said(&data);
    for table in ["public.a", "public.c"] {
        let line = said.lines().find(|line| line.contains(table)).unwrap_or_else(|| panic!("no {table} in {said}"));
        assert!(line.contains("WARN") && line.contains("is not captured"), "{line}");
    }
}

#[test]
fn an_idle_source_lets_the_server_recycle_its_log() {
    let server = Postgres::start();
    let scratch = Scratch::new("idle");
    let program = Program::start(&scratch.path().join("data"));
    server.execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1); CREATE TABLE other (x text)");
    program.execute(&source(&server, "public.t"));
    wait_for("the snapshot", 30, || (program.rows("SELECT id FROM shop.public.t").len() == 1).then_some(()));
    server.execute("INSERT INTO other SELECT repeat('x', 1000) FROM generate_series(1, 20000)");
    let end = server.rows("SELECT pg_current_wal_lsn()")[0][0].clone().expect("an lsn");
    wait_for("the slot to pass what other tables wrote", 60, || {
        let sql = format!("SELECT 1 FROM pg_replication_slots WHERE confirmed_flush_lsn >= '{end}'");
        (!server.rows(&sql).is_empty()).then_some(())
    });
}
