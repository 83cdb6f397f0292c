//! Tables that change their form, while we look and while we do not.

use engine::io::Connector;

use super::super::Postgres;
use super::*;

async fn captured(database: &str) -> (Arc<Server>, Client, Capture) {
    let (server, client) = setup(database, "").await;
    let capture = anew(&server, &client, database).await;
    (server, client, capture)
}

/// The table as it was at first, captured anew.
async fn anew(server: &Server, client: &Client, database: &str) -> Capture {
    let table = "DROP TABLE IF EXISTS t; CREATE TABLE t (id int PRIMARY KEY, v numeric(10,2), w text);
                 INSERT INTO t VALUES (1, 1, 'a')";
    client.batch_execute(table).await.unwrap();
    Capture::snapshot(database, server.options(database, &[("publication.name", "p")])).await
}

/// The error that ends the stream.
async fn ends(capture: &mut Capture) -> String {
    let deadline = Deadline::new();
    loop {
        deadline.check("the stream to end");
        if let Err(error) = capture.step().await {
            return message(&error);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_added_column_is_a_further_field_and_stays_one_after_a_restart() {
    let (_server, client, mut capture) = captured("added").await;
    let from = capture.log.len();
    client.batch_execute("ALTER TABLE t ADD extra date; INSERT INTO t VALUES (2, 2, 'b', '1970-01-03')").await.unwrap();
    capture.settle(&client).await.unwrap();
    let expect = r#"0 c {"id":2} null {"id":2,"v":"2.00","w":"b","extra":2}"#;
    assert_eq!(capture.lines(from), [expect]);
    capture.restart().await.unwrap();
    client.batch_execute("DELETE FROM t WHERE id = 2; INSERT INTO t VALUES (2, 2, 'b', '1970-01-03')").await.unwrap();
    capture.settle(&client).await.unwrap();
    assert_eq!(capture.lines(from + 3), [expect]);
    capture.source.remove().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_table_stops_the_source_and_is_named() {
    for (database, sql, parts) in [
        ("dropped", "ALTER TABLE t DROP w", ["column w", "public.t", "dropped"]),
        ("renamed", "ALTER TABLE t RENAME w TO x", ["column w", "public.t", "renamed"]),
        ("retyped", "ALTER TABLE t ALTER w TYPE varchar(9)", ["type of column w", "public.t", "changed"]),
        ("rescaled", "ALTER TABLE t ALTER v TYPE numeric(12,3)", ["type of column v", "public.t", "changed"]),
        ("moved", "ALTER TABLE t RENAME TO u; ALTER TABLE u RENAME id TO id2", ["public.t", "renamed to", "public.u"]),
    ] {
        let (_server, client, mut capture) = captured(database).await;
        client.batch_execute(sql).await.unwrap();
        let table = if database == "moved" { "u" } else { "t" };
        client.batch_execute(&format!("DELETE FROM {table}")).await.unwrap();
        let error = ends(&mut capture).await;
        assert_says(&error, &["lost:"]);
        assert_says(&error, &parts);
        // It does not mend itself.
        let error = match capture.restart().await {
            Err(error) => message(&error),
            Ok(()) => ends(&mut capture).await,
        };
        assert_says(&error, &["lost:"]);
        capture.source.remove().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replaced_table_is_seen_while_it_runs_and_at_the_next_start() {
    let (_server, client, mut capture) = captured("replaced").await;
    client.batch_execute("DROP TABLE t; CREATE TABLE t (id int PRIMARY KEY, v numeric(10,2), w text)").await.unwrap();
    assert_says(&ends(&mut capture).await, &["lost:", "public.t", "no longer in the publication"]);
    let error = message(&capture.restart().await.unwrap_err());
    assert_says(&error, &["lost:", "dropped, replaced"]);
    capture.source.remove().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_comes_later_is_left_out_and_one_that_went_is_named() {
    let (server, client) = setup("later", "CREATE TABLE b (id int PRIMARY KEY); INSERT INTO b VALUES (1)").await;
    let options = server.options("later", &[]);
    let kept = |names: &[&str]| names.iter().map(|name| ("public".to_owned(), (*name).to_owned())).collect();
    // Before the first snapshot and at a later start; `a` stands before `b` and has no key.
    client.batch_execute("CREATE TABLE a (id int)").await.unwrap();
    let mut capture = Capture::start_of("later", options, &kept(&["b"])).await;
    while !capture.snapshot_done {
        capture.step().await.unwrap();
    }
    client.batch_execute("CREATE TABLE c (id int PRIMARY KEY); INSERT INTO c VALUES (1)").await.unwrap();
    capture.restart().await.unwrap();
    client.batch_execute("INSERT INTO a VALUES (7); INSERT INTO b VALUES (2)").await.unwrap();
    capture.settle(&client).await.unwrap();
    assert_eq!(capture.lines(0), [r#"0 r {"id":1} null {"id":1}"#, r#"0 c {"id":2} null {"id":2}"#]);

    let error = capture.source.keep(&kept(&["b", "gone"])).unwrap_err();
    assert_says(&message(&error), &["lost:", "public.gone", "dropped"]);
    capture.source.remove().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_goes_is_noticed_before_the_next_change_and_without_one() {
    let gone = "ALTER TABLE t DROP CONSTRAINT t_pkey";
    let full = "ALTER TABLE t REPLICA IDENTITY FULL";
    let change = "INSERT INTO t VALUES (1, 3, 'c'); INSERT INTO t VALUES (1, 4, 'c')";
    let (server, client) = setup("keyless", "").await;
    for (watched, sql) in [
        (false, format!("{gone}; {change}")),
        (false, format!("{full}; {gone}; {change}")),
        (false, format!("{full}; UPDATE t SET w = 'b'; {gone}; {change}")),
        (false, format!("ALTER TABLE t REPLICA IDENTITY NOTHING; {gone}; {change}")),
        (false, format!("{gone}, ADD PRIMARY KEY (v); INSERT INTO t VALUES (1, 3, 'c')")),
        (false, format!("{full}; {gone}; CREATE UNIQUE INDEX ON t (id) WHERE v < 2; {change}")),
        (true, gone.to_owned()),
        (true, format!("{full}; {gone}; CREATE UNIQUE INDEX ON t (id, v)")),
    ] {
        let mut capture = anew(&server, &client, "keyless").await;
        if !watched {
            capture.source.settings.pace.watch = Duration::from_secs(3600);
            again(&mut capture, &client).await;
        }
        client.batch_execute(&sql).await.unwrap();
        let error = ends(&mut capture).await;
        assert_says(&error, &["lost:", "key (id) of table public.t was dropped or changed", "drop the source"]);
        let wrong: Vec<String> = capture.lines(1).into_iter().filter(|line| line.contains(r#""w":"c""#)).collect();
        assert_eq!(wrong, [""; 0], "{sql}");
        assert_says(&message(&capture.restart().await.unwrap_err()), &["lost:", "public.t"]);
        capture.source.remove().await.unwrap();
    }
}

/// A server with synchronous standbys of these names, a client that does not wait for them, and the table captured there.
async fn replicated(standbys: &str, database: &str) -> (Server, Client, Capture) {
    let server = Server::start();
    let admin = server.database(database).await;
    admin.batch_execute(&format!("ALTER SYSTEM SET synchronous_standby_names = {standbys}")).await.unwrap();
    server.stop("fast");
    server.boot();
    let client = server.client(database).await;
    client.batch_execute("SET synchronous_commit = local").await.unwrap();
    let mut capture = anew(&server, &client, database).await;
    client.batch_execute("ALTER TABLE t REPLICA IDENTITY FULL").await.unwrap();
    // Nothing but a doubt has it look.
    capture.source.settings.pace.watch = Duration::from_secs(3600);
    capture.source.settings.pace.visible = Duration::from_secs(3600);
    again(&mut capture, &client).await;
    (server, client, capture)
}

/// Starts with the settings that the source has now.
async fn again(capture: &mut Capture, client: &Client) {
    let deadline = Deadline::new();
    // The former connection may hold the slot a little longer.
    while capture.source.start(capture.position.clone()).await.is_err() || capture.settle(client).await.is_err() {
        deadline.check("the stream to go on");
    }
}

/// A transaction that waits for the standbys, on a connection of its own.
async fn write_through(server: &Server, database: &str, sql: &'static str) -> tokio::task::JoinHandle<()> {
    let writer = server.client(database).await;
    tokio::spawn(async move { writer.batch_execute(sql).await.unwrap() })
}

/// A server whose standbys do not answer sends what it has committed, but shows it to nobody yet.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_goes_is_noticed_by_a_stream_that_is_ahead_of_what_others_see() {
    let (server, client, mut capture) = replicated("nobody", "ahead").await;
    let gone = "ALTER TABLE t DROP CONSTRAINT t_pkey; INSERT INTO t VALUES (1, 3, 'c')";
    let writing = write_through(&server, "ahead", gone).await;

    // The source looks again and again while the writer waits; then the writer no longer has to.
    let looks = "SELECT l.query_start::text FROM pg_stat_activity l, pg_stat_activity w
                 WHERE l.application_name = 'riverrun ahead (sql)' AND w.wait_event = 'SyncRep'
                 AND l.query_start > w.query_start";
    let deadline = Deadline::new();
    let mut seen = BTreeSet::new();
    while seen.len() < 10 {
        deadline.check("the source to look");
        tokio::select! {
            biased;
            stepped = capture.step() => stepped.unwrap(),
            row = client.query_opt(looks, &[]) => seen.extend(row.unwrap().map(|row| row.get::<_, String>(0))),
        }
        assert_eq!(capture.lines(1), [""; 0]);
    }
    client.batch_execute("ALTER SYSTEM RESET synchronous_standby_names").await.unwrap();
    client.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    let error = ends(&mut capture).await;
    assert_says(&error, &["lost:", "key (id) of table public.t was dropped or changed"]);
    assert_eq!(capture.lines(1), [""; 0]);
    writing.await.unwrap();
}

/// What it waits for would wait for it: a commit is confirmed when the source has it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_is_a_synchronous_standby_does_not_wait_for_itself() {
    let (server, client, mut capture) = replicated("'*'", "standby").await;
    let found = Postgres.check("standby", &capture.options).await.unwrap();
    let warned = found.iter().find(|finding| finding.what.contains("synchronous_standby_names")).unwrap();
    assert!(warned.warning && warned.what.contains("is *: commits may wait for this source"), "{warned:?}");
    // Of this table's key the stream says nothing; but nobody has changed it.
    let writing = write_through(&server, "standby", "INSERT INTO t VALUES (2, 2, 'b')").await;
    let deadline = Deadline::new();
    while !writing.is_finished() {
        deadline.check("the commit to be confirmed");
        capture.step().await.unwrap();
    }
    assert_eq!(capture.lines(1), [r#"0 c {"id":2} null {"id":2,"v":"2.00","w":"b"}"#]);

    // This may have changed it. Once nobody waits any more it is seen whether it did.
    capture.source.settings.pace.visible = Duration::ZERO;
    capture.source.settings.pace.watch = Duration::from_millis(200);
    again(&mut capture, &client).await;
    let writing = write_through(&server, "standby", "TRUNCATE t; INSERT INTO t VALUES (3, 3, 'c')").await;
    let deadline = Deadline::new();
    while !writing.is_finished() {
        deadline.check("the commit to be confirmed");
        capture.step().await.unwrap();
    }
    capture.settle(&client).await.unwrap();
    assert_eq!(capture.lines(3), [r#"0 c {"id":3} null {"id":3,"v":"3.00","w":"c"}"#]);
    let writing = write_through(&server, "standby", "ALTER TABLE t DROP CONSTRAINT t_pkey; DELETE FROM t").await;
    let error = ends(&mut capture).await;
    assert_says(&error, &["lost:", "key (id) of table public.t was dropped or changed"]);
    writing.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_stays_one_goes_on() {
    let (server, client) = setup("keyed", "").await;
    for sql in [
        "BEGIN; ALTER TABLE t DROP CONSTRAINT t_pkey; ALTER TABLE t ADD PRIMARY KEY (id); COMMIT",
        "ALTER TABLE t RENAME CONSTRAINT t_pkey TO other",
        "ALTER TABLE t REPLICA IDENTITY FULL",
        "ALTER TABLE t REPLICA IDENTITY NOTHING",
        "CREATE UNIQUE INDEX other ON t (id); ALTER TABLE t REPLICA IDENTITY USING INDEX other",
        "ALTER TABLE t REPLICA IDENTITY FULL; CREATE UNIQUE INDEX ON t (id); ALTER TABLE t DROP CONSTRAINT t_pkey",
    ] {
        let mut capture = anew(&server, &client, "keyed").await;
        client.batch_execute(sql).await.unwrap();
        client.batch_execute("INSERT INTO t VALUES (2, 2, 'b')").await.unwrap();
        capture.settle(&client).await.unwrap();
        assert_eq!(capture.lines(1), [r#"0 c {"id":2} null {"id":2,"v":"2.00","w":"b"}"#], "{sql}");
        capture.source.remove().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_that_are_not_published_any_more_are_noticed_while_it_runs() {
    let cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'riverrun pub (sql)'";
    let (server, client) = setup("pub", "").await;
    for (sql, part) in [
        ("ALTER PUBLICATION p DROP TABLE t".to_owned(), "public.t was taken out"),
        ("ALTER PUBLICATION p DROP TABLE t; ALTER PUBLICATION p ADD TABLE t".to_owned(), "public.t was for a while"),
        ("ALTER PUBLICATION p SET TABLE t WHERE (id > 5)".to_owned(), "public.t has a row filter"),
        ("ALTER PUBLICATION p SET TABLE t (id, v)".to_owned(), "public.t has a row filter or a column list"),
        ("ALTER PUBLICATION p SET (publish = 'insert, delete')".to_owned(), "no longer publishes every"),
        ("ALTER PUBLICATION p SET (publish_via_partition_root = false)".to_owned(), "no longer publishes every"),
        ("DROP PUBLICATION p".to_owned(), "is gone"),
        (format!("{cut}; ALTER PUBLICATION p DROP TABLE t"), "public.t was taken out"),
    ] {
        let mut capture = anew(&server, &client, "pub").await;
        client.batch_execute("INSERT INTO t VALUES (2)").await.unwrap();
        capture.settle(&client).await.unwrap();
        for statement in sql.split("; ") {
            client.batch_execute(statement).await.unwrap();
        }
        assert_says(&ends(&mut capture).await, &["lost:", part, "publication p", "create it again"]);
        capture.source.remove().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_key_is_never_invented() {
    let (_server, client, mut capture) = captured("identity").await;
    // An identity that holds more is used; one that does not hold the key stops the source at the first change that
    // needs it.
    let from = capture.log.len();
    client.batch_execute("ALTER TABLE t REPLICA IDENTITY FULL; UPDATE t SET w = 'b'").await.unwrap();
    capture.settle(&client).await.unwrap();
    assert_eq!(capture.lines(from), [r#"0 u {"id":1} {"id":1,"v":"1.00","w":"a"} {"id":1,"v":"1.00","w":"b"}"#]);
    client
        .batch_execute(
            "ALTER TABLE t ALTER w SET NOT NULL; CREATE UNIQUE INDEX other ON t (w);
             ALTER TABLE t REPLICA IDENTITY USING INDEX other; INSERT INTO t VALUES (2, 2, 'c')",
        )
        .await
        .unwrap();
    capture.settle(&client).await.unwrap();
    assert_eq!(capture.lines(from + 1), [r#"0 c {"id":2} null {"id":2,"v":"2.00","w":"c"}"#]);
    client.batch_execute("DELETE FROM t WHERE w = 'c'").await.unwrap();
    let error = ends(&mut capture).await;
    assert_says(&error, &["lost:", "public.t", "key column id", "REPLICA IDENTITY"]);
    capture.source.remove().await.unwrap();
}
