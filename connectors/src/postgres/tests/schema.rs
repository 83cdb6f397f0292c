//! Tables that change their form, while we look and while we do not.

use super::*;

async fn captured(database: &str) -> (Arc<Server>, Client, Capture) {
    let (server, client) = setup(
        database,
        "CREATE TABLE t (id int PRIMARY KEY, v numeric(10,2), w text); INSERT INTO t VALUES (1, 1, 'a')",
    )
    .await;
    let capture = Capture::snapshot(database, server.options(database, &[])).await;
    (server, client, capture)
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
