//! What a change looks like as records: keys, images, tombstones.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_become_records() {
    let (server, client) = setup(
        "rows",
        "CREATE TABLE a (id int PRIMARY KEY, name text, big text);
         ALTER TABLE a ALTER big SET STORAGE EXTERNAL;
         CREATE TABLE b (y int, x int, v int, PRIMARY KEY (x, y));
         CREATE TABLE c (v int, w text);
         ALTER TABLE c REPLICA IDENTITY FULL;
         CREATE TABLE d (id int PRIMARY KEY, code text NOT NULL UNIQUE, v int);
         ALTER TABLE d REPLICA IDENTITY USING INDEX d_code_key;
         CREATE TABLE e (id int PRIMARY KEY, big text);
         ALTER TABLE e ALTER big SET STORAGE EXTERNAL;
         ALTER TABLE e REPLICA IDENTITY FULL;
         INSERT INTO a VALUES (1, 'one', NULL);
         INSERT INTO c VALUES (1, 'same'), (1, 'same');",
    )
    .await;
    let mut capture = Capture::snapshot("rows", server.options("rows", &[])).await;
    let keys: Vec<_> = capture.source.relations().iter().map(|relation| relation.key.clone()).collect();
    assert_eq!(keys, [vec![0], vec![1, 0], vec![], vec![1], vec![0]]);
    assert_eq!(
        capture.lines(0),
        [
            r#"0 r {"id":1} null {"id":1,"name":"one","big":null}"#,
            r#"2 r null null {"v":1,"w":"same"}"#,
            r#"2 r null null {"v":1,"w":"same"}"#,
        ]
    );

    let big = "x".repeat(10_000);
    let steps: &[(String, &[&str])] = &[
        (
            format!("INSERT INTO a VALUES (2, 'two', '{big}')"),
            &[&format!(r#"0 c {{"id":2}} null {{"id":2,"name":"two","big":"{big}"}}"#)],
        ),
        // What is unchanged and out of line is not sent: it is left out, not null and no magic word.
        ("UPDATE a SET name = 'deux' WHERE id = 2".into(), &[r#"0 u {"id":2} null {"id":2,"name":"deux"}"#]),
        (
            "UPDATE a SET id = 3 WHERE id = 1".into(),
            &[
                r#"0 d {"id":1} {"id":1} null"#,
                r#"0 - {"id":1}"#,
                r#"0 c {"id":3} null {"id":3,"name":"one","big":null}"#,
            ],
        ),
        ("DELETE FROM a WHERE id = 3".into(), &[r#"0 d {"id":3} {"id":3} null"#, r#"0 - {"id":3}"#]),
        ("INSERT INTO b VALUES (1, 2, 3)".into(), &[r#"1 c {"x":2,"y":1} null {"y":1,"x":2,"v":3}"#]),
        (
            "UPDATE b SET y = 5".into(),
            &[
                r#"1 d {"x":2,"y":1} {"y":1,"x":2} null"#,
                r#"1 - {"x":2,"y":1}"#,
                r#"1 c {"x":2,"y":5} null {"y":5,"x":2,"v":3}"#,
            ],
        ),
        (
            "UPDATE c SET v = 2 WHERE ctid = (SELECT min(ctid) FROM c)".into(),
            &[r#"2 u null {"v":1,"w":"same"} {"v":2,"w":"same"}"#],
        ),
        ("DELETE FROM c WHERE v = 1".into(), &[r#"2 d null {"v":1,"w":"same"} null"#]),
        ("INSERT INTO d VALUES (1, 'A', 1)".into(), &[r#"3 c {"code":"A"} null {"id":1,"code":"A","v":1}"#]),
        ("UPDATE d SET id = 2, v = 2".into(), &[r#"3 u {"code":"A"} null {"id":2,"code":"A","v":2}"#]),
        ("DELETE FROM d".into(), &[r#"3 d {"code":"A"} {"code":"A"} null"#, r#"3 - {"code":"A"}"#]),
        ("INSERT INTO e VALUES (1, repeat('y', 9000))".into(), &[]),
        ("TRUNCATE b, c".into(), &["1 t null null null", "2 t null null null"]),
    ];
    for (sql, expect) in steps {
        let from = capture.log.len();
        client.batch_execute(sql).await.unwrap();
        capture.settle(&client).await.unwrap();
        if !expect.is_empty() {
            assert_eq!(capture.lines(from), *expect, "{sql}");
        }
    }

    // The full identity carries the old row whole, and fills what is unchanged.
    let from = capture.log.len();
    client.batch_execute("UPDATE e SET id = 7").await.unwrap();
    capture.settle(&client).await.unwrap();
    let events = capture.events(from);
    let long = Json::String("y".repeat(9000));
    assert_eq!((&events[0].2["op"], &events[0].2["before"]["big"]), (&"d".into(), &long));
    assert_eq!((&events[2].2["op"], &events[2].2["after"]["big"]), (&"c".into(), &long));
    let header = |at: usize| capture.log[from + at].1.headers.first().cloned().map(|header| (header.key, header.value));
    assert_eq!(header(0), Some(("__debezium.newkey".into(), Some(r#"{"id":7}"#.into()))));
    assert_eq!(header(1), None);
    assert_eq!(header(2), Some(("__debezium.oldkey".into(), Some(r#"{"id":1}"#.into()))));
    capture.source.remove().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_envelope_is_debeziums() {
    let (server, client) =
        setup("envelope", "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1), (2), (3)").await;
    let options = server.options("envelope", &[("provide.transaction.metadata", "true"), ("tables", "public.t")]);
    let mut capture = Capture::snapshot("envelope", options).await;
    let marks: Vec<Json> = capture.events(0).iter().map(|(_, _, value)| value["source"]["snapshot"].clone()).collect();
    assert_eq!(marks, ["first", "true", "last"]);

    let from = capture.log.len();
    client.batch_execute("BEGIN; INSERT INTO t VALUES (4); UPDATE t SET id = 5 WHERE id = 4; COMMIT").await.unwrap();
    let xid: i64 = client.query_one("SELECT xmin::text::bigint FROM t WHERE id = 5", &[]).await.unwrap().get(0);
    capture.settle(&client).await.unwrap();
    let events = capture.events(from);
    assert_eq!(events.len(), 4);
    let (created, deleted) = (&events[0].2, &events[1].2);
    let source = &created["source"];
    for (field, expect) in [
        ("connector", Json::from("postgresql")),
        ("name", "envelope".into()),
        ("db", "envelope".into()),
        ("schema", "public".into()),
        ("table", "t".into()),
        ("snapshot", "false".into()),
        ("txId", xid.into()),
        ("xmin", Json::Null),
    ] {
        assert_eq!(source[field], expect, "{field}");
    }
    assert!(source["lsn"].as_u64().unwrap() < deleted["source"]["lsn"].as_u64().unwrap());
    assert_eq!(source["sequence"], format!("[null,\"{}\"]", source["lsn"]));
    assert_eq!(source["ts_us"].as_i64().unwrap() / 1000, source["ts_ms"].as_i64().unwrap());
    assert_eq!(capture.log[from].1.timestamp_ms, source["ts_ms"].as_i64());
    let id = created["transaction"]["id"].as_str().unwrap();
    assert!(id.starts_with(&format!("{xid}:")));
    let places: Vec<_> = [0, 1, 3].map(|at| events[at].2["transaction"].clone()).into();
    for (place, order) in places.iter().zip(1..) {
        assert_eq!(place, &serde_json::json!({"id": id, "total_order": order, "data_collection_order": order}));
    }
    capture.source.remove().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_are_captured_as_their_root() {
    let (server, client) = setup(
        "partitions",
        "CREATE TABLE p (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
         CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10);
         CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (10) TO (20);
         CREATE TABLE parent (id int PRIMARY KEY); CREATE TABLE child (PRIMARY KEY (id)) INHERITS (parent);
         CREATE VIEW seen AS SELECT * FROM p; CREATE UNLOGGED TABLE fleeting (id int PRIMARY KEY);
         INSERT INTO p VALUES (1, 'a'), (11, 'b'); INSERT INTO parent VALUES (1); INSERT INTO child VALUES (2)",
    )
    .await;
    let mut capture = Capture::snapshot("partitions", server.options("partitions", &[])).await;
    let names: Vec<&str> = capture.source.relations().iter().map(|relation| relation.name.as_str()).collect();
    assert_eq!(names, ["child", "p", "parent"]);
    client.batch_execute("UPDATE p SET id = 12, v = 'c' WHERE id = 1; INSERT INTO child VALUES (3)").await.unwrap();
    capture.settle(&client).await.unwrap();
    let rows = |name: &str| capture.fold(name).into_keys().collect::<Vec<_>>();
    assert_eq!(rows("p"), [r#"{"id":11}"#, r#"{"id":12}"#]);
    assert_eq!(rows("parent"), [r#"{"id":1}"#]);
    assert_eq!(rows("child"), [r#"{"id":2}"#, r#"{"id":3}"#]);
    capture.source.remove().await.unwrap();
}
