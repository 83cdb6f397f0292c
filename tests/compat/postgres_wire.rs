//! psql, psycopg and tokio-postgres against the PostgreSQL port.

use std::net::TcpStream;
use std::process::Command;

use futures::StreamExt;
use tokio_postgres::SimpleQueryMessage;
use tokio_postgres::types::Type;

use crate::support::clients::{psql, python, run};
use crate::support::program::{Program, binary};
use crate::support::{Scratch, block_on, wait_for};

fn clicks() -> (Scratch, Program) {
    let scratch = Scratch::new("wire");
    let program = Program::start(&scratch.path().join("data"));
    program.execute(
        "CREATE TABLE clicks (id BIGINT PRIMARY KEY, user_id INT, url TEXT, cost NUMERIC(10,2), score DOUBLE PRECISION,
            ok BOOLEAN, at TIMESTAMP, seen TIMESTAMPTZ, day DATE, tag UUID, doc JSONB, raw BYTEA, small SMALLINT, part REAL, t TIME)
         WITH (topic = 'clicks', format = 'json');
         CREATE MATERIALIZED VIEW by_user AS SELECT user_id, count(*) AS n, sum(cost) AS cost FROM clicks GROUP BY user_id;
         INSERT INTO clicks (id, user_id, url, cost, score, ok, at, seen, day, tag, doc, small, part, t) VALUES
            (1, 7, '/a', 1.50, 0.25, true, '2024-01-02 03:04:05.678', '2024-01-02 03:04:05+02', '2024-02-29',
             'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '{\"k\": 1}', 3, 1.5, '23:59:59.5'),
            (2, 7, 'it''s', 2.25, NULL, false, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
            (3, 8, NULL, -0.01, 2.5, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);",
    );
    (scratch, program)
}

#[test]
fn psql_describes_lists_and_selects() {
    let (_scratch, program) = clicks();
    let ask = |arguments: &[&str]| psql(program.postgres, "riverrun", arguments);
    assert_eq!(ask(&["-Atc", "SELECT * FROM by_user ORDER BY user_id"]), "7|2|3.75\n8|1|-0.01\n");
    assert_eq!(
        ask(&["-Atc", "SELECT at, seen, day, tag, doc, t, score, part FROM clicks WHERE id = 1"]),
        "2024-01-02 03:04:05.678|2024-01-02 01:04:05+00|2024-02-29|a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11|{\"k\": 1}|23:59:59.5|0.25|1.5\n"
    );
    let described = ask(&["-c", "\\d clicks"]);
    for part in
        ["user_id", "integer", "numeric(10,2)", "timestamp without time zone", "uuid", "jsonb", "double precision"]
    {
        assert!(described.contains(part), "\\d clicks lacks {part}:\n{described}");
    }
    let listed = ask(&["-c", "\\d"]);
    assert!(
        listed.contains("clicks") && listed.contains("by_user") && listed.contains("materialized view"),
        "{listed}"
    );
    let tables = ask(&["-c", "\\dt"]);
    assert!(tables.contains("clicks") && !tables.contains("by_user"), "{tables}");
    assert!(ask(&["-c", "\\dm"]).contains("by_user"));
    assert!(ask(&["-c", "\\l"]).contains("riverrun"));
    assert!(ask(&["-c", "\\dn"]).contains("public"));
    let all = ask(&["-c", "\\d public.*"]);
    assert!(all.contains("\"public.clicks\"") && all.contains("\"public.clicks_pkey\""), "{all}");
    for what in ["\\db", "\\db+", "\\dc", "\\dF", "\\dFd", "\\dFp", "\\dFt", "\\drds", "\\ddp", "\\dl", "\\deu"] {
        ask(&["-c", what]);
    }
    assert!(ask(&["-c", "BEGIN; SELECT 1; COMMIT"]).contains("COMMIT"));
    assert!(ask(&["-c", "EXPLAIN SELECT * FROM by_user"]).contains("by_user"));
    for what in ["TABLES", "VIEWS", "SOURCES", "SINKS", "JOBS", "TOPICS"] {
        ask(&["-c", &format!("SHOW {what}")]);
    }
}

#[test]
fn psql_connects_to_a_source_as_a_database() {
    let scratch = Scratch::new("shop");
    let program = Program::start(&scratch.path().join("data"));
    program.execute("CREATE SOURCE shop WITH (connector = 'generator', rate = '2000')");
    let ask = |arguments: &[&str]| psql(program.postgres, "shop", arguments);
    wait_for("orders", 30, || (ask(&["-Atc", "SELECT count(*) > 10 FROM public.orders"]) == "t\n").then_some(()));
    assert!(ask(&["-c", "\\dt"]).contains("orders"));
    let described = ask(&["-c", "\\d public.orders"]);
    assert!(described.contains("customer_id"), "{described}");
    ask(&["-Atc", "SELECT * FROM orders LIMIT 1"]);
    ask(&["-Atc", "SELECT count(*) FROM shop.public.orders"]);
}

#[test]
fn errors_say_what_and_where() {
    let (_scratch, program) = clicks();
    let check = |sql: &str, state: &str, part: &str| {
        let error = block_on(async { program.connect().await.batch_execute(sql).await.expect_err(sql) });
        let error = error.as_db_error().unwrap_or_else(|| panic!("{sql}: {error:?}"));
        let text = format!("{} {:?} {:?}", error.message(), error.detail(), error.hint());
        assert_eq!(error.code().code(), state, "{sql}: {text}");
        assert!(text.contains(part), "{sql}: {text}");
    };
    check("SELECT nothing FROM clicks", "42703", "nothing");
    check("SELECT * FROM nowhere", "42P01", "nowhere");
    check("SELEC 1", "42601", "SELEC");
    check("CREATE TABLE clicks (a INT) WITH (topic = 'clicks', format = 'json')", "42P07", "clicks");
    check("DROP TABLE clicks", "2BP01", "by_user");
    check("SUBSCRIBE by_user", "0A000", "SUBSCRIBE");
    check(
        "CREATE TABLE w (at TIMESTAMP, WATERMARK FOR at AS at) WITH (topic = 'w', format = 'json')",
        "0A000",
        "WATERMARK",
    );
    check(
        "CREATE MATERIALIZED VIEW w AS SELECT a.id FROM clicks a LEFT JOIN clicks b ON a.id = b.id",
        "0A000",
        "LEFT JOIN",
    );
    check("CREATE MATERIALIZED VIEW w AS SELECT random() AS r FROM clicks", "0A000", "random");
    check("CREATE MATERIALIZED VIEW w AS SELECT id, row_number() OVER (ORDER BY id) AS r FROM clicks", "0A000", "OVER");
    check(
        "CREATE MATERIALIZED VIEW w AS SELECT count(*) AS n FROM TABLE(TUMBLE(TABLE clicks, DESCRIPTOR(at), INTERVAL '1' MINUTE))",
        "0A000",
        "TUMBLE",
    );
    check("CREATE TABLE w (a INT) WITH (topic = 'w', format = 'jsn')", "42704", "json");
    check("SELECT 'foo'::regproc::oid", "42883", "function \"foo\" does not exist");
    check("INSERT INTO by_user VALUES (1, 2, 3)", "42809", "by_user");
    check("INSERT INTO clicks (id, small) VALUES (9, 70000)", "22003", "smallint out of range");
    // psql points at the place.
    let out = Command::new("psql")
        .args(["-X", "-h", "127.0.0.1", "-p", &program.postgres.port().to_string(), "-U", "x", "-d", "riverrun"])
        .args(["-c", "SELECT id, nothing FROM clicks"])
        .output()
        .expect("psql");
    let text = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(text.contains("LINE 1:") && text.contains('^'), "{text}");
}

#[test]
fn tokio_postgres_prepares_binds_and_reads_binary() {
    let (_scratch, program) = clicks();
    block_on(async {
        let client = program.connect().await;
        let lookup = client.prepare("SELECT n, cost::text FROM by_user WHERE user_id = $1").await.expect("prepared");
        assert_eq!(lookup.params(), [Type::INT4]);
        for (user, n, cost) in [(7, 2_i64, "3.75"), (8, 1, "-0.01")] {
            let row = client.query_one(&lookup, &[&user]).await.expect("one row");
            assert_eq!((row.get::<_, i64>(0), row.get::<_, &str>(1)), (n, cost));
        }
        assert!(client.query_opt(&lookup, &[&9]).await.expect("no row").is_none());
        let row = client
            .query_one("SELECT id, user_id, url, score, ok, small, part, raw FROM clicks WHERE id = $1", &[&1_i64])
            .await
            .expect("one row");
        assert_eq!(row.get::<_, i64>(0), 1);
        assert_eq!(row.get::<_, i32>(1), 7);
        assert_eq!(row.get::<_, &str>(2), "/a");
        assert_eq!(row.get::<_, f64>(3), 0.25);
        assert!(row.get::<_, bool>(4));
        assert_eq!(row.get::<_, i16>(5), 3);
        assert_eq!(row.get::<_, f32>(6), 1.5);
        assert_eq!(row.get::<_, Option<Vec<u8>>>(7), None);
        // What was inserted is read at once.
        for id in 100..120_i64 {
            client.execute("INSERT INTO clicks (id, user_id, cost) VALUES ($1, 9, 1)", &[&id]).await.expect("inserted");
            let row = client.query_one("SELECT n FROM by_user WHERE user_id = 9", &[]).await.expect("one row");
            assert_eq!(row.get::<_, i64>(0), id - 99);
        }
        let failed =
            client.query("SELECT 1 / (user_id - user_id) FROM clicks", &[]).await.expect_err("division by zero");
        assert_eq!(failed.code().expect("a state").code(), "22012");
        client.query_one("SELECT 1", &[]).await.expect("the connection goes on");
    });
}

#[test]
fn psycopg_reads_every_type() {
    let (_scratch, program) = clicks();
    let script = r#"
import sys, psycopg, datetime, decimal, uuid
with psycopg.connect(sys.argv[1], autocommit=True) as c:
    for binary in (False, True):
        cur = c.cursor(binary=binary)
        row = cur.execute("SELECT cost, score, ok, at, seen, day, tag, doc, t, small, raw FROM clicks WHERE id = %s", (1,)).fetchone()
        assert row[0] == decimal.Decimal("1.50") and row[1] == 0.25 and row[2] is True, row
        assert row[3] == datetime.datetime(2024, 1, 2, 3, 4, 5, 678000), row
        assert row[4] == datetime.datetime(2024, 1, 2, 1, 4, 5, tzinfo=datetime.timezone.utc), row
        assert row[5] == datetime.date(2024, 2, 29) and row[6] == uuid.UUID("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"), row
        assert row[7] == {"k": 1} and row[8] == datetime.time(23, 59, 59, 500000) and row[9] == 3 and row[10] is None, row
        assert cur.execute("SELECT sum(cost) FROM clicks").fetchone()[0] == decimal.Decimal("3.74")
with psycopg.connect(sys.argv[1]) as c:
    with c.transaction():
        assert c.execute("SELECT count(*) FROM clicks").fetchone()[0] == 3
    assert c.execute("SELECT id FROM clicks WHERE url = ANY(%s) ORDER BY id", (["/a", "it's"],)).fetchall() == [(1,), (2,)]
    assert c.execute("SELECT id FROM clicks WHERE user_id = ANY(%s) ORDER BY id", ([7],)).fetchall() == [(1,), (2,)]
    assert c.execute("SELECT id FROM clicks WHERE user_id <> ALL(%s) ORDER BY id", ([7],)).fetchall() == [(3,)]
    # Rows inserted in a transaction are written when it commits: reading them before is refused, not answered wrongly.
    c.execute("INSERT INTO clicks (id, user_id) VALUES (50, 50)")
    try:
        c.execute("SELECT count(*) FROM by_user")
        raise AssertionError("read before it was written")
    except psycopg.errors.FeatureNotSupported as e:
        assert "autocommit" in e.diag.message_hint, e
    c.rollback()
    c.execute("INSERT INTO clicks (id, user_id) VALUES (51, 51)")
    c.commit()
    assert c.execute("SELECT n FROM by_user WHERE user_id > 49").fetchall() == [(1,)]
    c.prepare_threshold = 0
    for user, n in ((7, 2), (8, 1)):
        assert c.execute("SELECT n FROM by_user WHERE user_id = %s", (user,), prepare=True).fetchone() == (n,)
print("ok")
"#;
    let url = format!("host=127.0.0.1 port={} user=someone dbname=riverrun", program.postgres.port());
    assert_eq!(python(script, &[&url]).trim(), "ok");
}

#[test]
fn objects_and_jobs_survive_a_restart() {
    let (scratch, program) = clicks();
    program.execute("CREATE MATERIALIZED VIEW spent AS SELECT sum(cost) AS cost FROM by_user");
    program.execute("CREATE SINK copy FROM by_user WITH (connector = 'topic', topic = 'users-copied')");
    program.kill();
    let program = Program::start(&scratch.path().join("data"));
    let spent = || program.rows("SELECT cost FROM spent")[0][0].clone();
    assert_eq!(spent().as_deref(), Some("3.74"));
    program.execute("INSERT INTO clicks (id, user_id, cost) VALUES (4, 8, 1)");
    assert_eq!(spent().as_deref(), Some("4.74"));
    wait_for("the sink", 30, || {
        let records = crate::support::clients::consume(program.kafka, "users-copied");
        let last = records.iter().rev().find(|r| r.key.as_deref() == Some("{\"user_id\":8}"))?.json()?;
        (last["cost"].as_str() == Some("0.99")).then_some(())
    });
    program.execute("DROP SINK copy; DROP MATERIALIZED VIEW spent; DROP MATERIALIZED VIEW by_user");
    let program_again = {
        program.stop();
        Program::start(&scratch.path().join("data"))
    };
    assert_eq!(program_again.rows("SELECT count(*) FROM clicks"), [[Some("4".to_owned())]]);
    assert!(!format!("{:?}", program_again.rows("SHOW VIEWS")).contains("by_user"));
    assert!(!format!("{:?}", program_again.rows("SHOW TOPICS")).contains("by_user"));
}

#[test]
fn a_running_query_is_told_of_the_stop() {
    let (_scratch, program) = clicks();
    block_on(async {
        let client = program.connect().await;
        let rows = client.simple_query_raw("SELECT * FROM generate_series(1, 1000000000)").await.expect("it begins");
        let mut rows = std::pin::pin!(rows);
        let mut seen = 0;
        while seen < 10 {
            seen += u64::from(matches!(rows.next().await.expect("more"), Ok(SimpleQueryMessage::Row(_))));
        }
        let address = program.postgres;
        let stopping = std::thread::spawn(move || program.stop());
        // Nothing is read meanwhile: the connection is driven by this thread.
        wait_for("the stop to begin", 10, || TcpStream::connect(address).is_err().then_some(()));
        let error = loop {
            match rows.next().await.expect("an end that is told") {
                Ok(_) => {}
                Err(error) => break error,
            }
        };
        let told = error.as_db_error().unwrap_or_else(|| panic!("{error:?}"));
        assert_eq!((told.severity(), told.code().code()), ("FATAL", "57P01"), "{told}");
        let took = stopping.join().expect("a clean stop");
        assert!(took.as_secs() < 5, "a clean stop took {took:?}");
    });
}

#[test]
fn the_programs_own_client_prints_tables_and_json() {
    let (_scratch, program) = clicks();
    let out = run(Command::new(binary()).args([
        "sql",
        "--pg-addr",
        &program.postgres.to_string(),
        "-c",
        "SELECT * FROM by_user ORDER BY 1",
    ]));
    let text = String::from_utf8(out.stdout).expect("utf-8");
    assert!(text.contains("user_id") && text.contains("3.75"), "{text}");
    let out = run(Command::new(binary()).args([
        "sql",
        "--pg-addr",
        &program.postgres.to_string(),
        "-o",
        "json",
        "-c",
        "SELECT user_id, n FROM by_user ORDER BY 1",
    ]));
    let json: serde_json::Value = serde_json::from_slice(&out.stdout).expect("json");
    assert_eq!(json[0]["user_id"].to_string().trim_matches('"'), "7");
    let failed = Command::new(binary())
        .args(["sql", "--pg-addr", &program.postgres.to_string(), "-c", "SELECT nothing FROM clicks"])
        .output()
        .expect("ran");
    assert_eq!(failed.status.code(), Some(3), "a thing that is not there");
    assert!(String::from_utf8_lossy(&failed.stderr).contains("nothing"));
}
