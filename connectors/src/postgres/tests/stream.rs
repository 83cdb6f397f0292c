//! The hand-over from snapshot to stream, transactions, back-pressure and progress.

use super::*;

const SHOP: &str = "CREATE TABLE customers (id bigint PRIMARY KEY, name text NOT NULL, n int NOT NULL);
    CREATE TABLE orders (id bigint PRIMARY KEY, customer bigint, n int NOT NULL);
    CREATE TABLE noise (id bigint PRIMARY KEY);
    INSERT INTO customers SELECT i, 'name ' || i, 0 FROM generate_series(1, 3000) i;
    INSERT INTO orders SELECT i, i % 7, 0 FROM generate_series(1, 20000) i;";

/// A client that changes rows at random until told to stop: inserts, updates, deletes, key updates, rollbacks,
/// savepoints. Keys of worker `w` are `w` modulo 4, so that the workers never wait for each other.
async fn work(client: Client, worker: u64, stop: Arc<std::sync::atomic::AtomicBool>) -> u64 {
    let mut seed = 0x9E37_79B9_7F4A_7C15 ^ worker;
    let mut random = move |below: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed % below
    };
    let mut transactions = 0;
    while !stop.load(std::sync::atomic::Ordering::Relaxed) {
        let mut sql = String::from("BEGIN;");
        for _ in 0..1 + random(5) {
            let (table, tag) = [("customers", "name"), ("orders", "customer")][random(2) as usize];
            let id = random(1500) * 4 + worker;
            let new = (random(1500) + 5000) * 4 + worker;
            let filler = if tag == "name" { "'x\ty'" } else { "7" };
            sql.push_str(&match random(6) {
                0 => format!("INSERT INTO {table} (id, {tag}, n) VALUES ({new}, {filler}, 1) ON CONFLICT DO NOTHING;"),
                1 => format!("DELETE FROM {table} WHERE id = {id};"),
                2 => format!("UPDATE {table} SET id = {new} WHERE id = {id} AND NOT EXISTS (SELECT FROM {table} WHERE id = {new});"),
                3 => format!("SAVEPOINT s; DELETE FROM {table} WHERE id = {id}; ROLLBACK TO s;"),
                _ => format!("UPDATE {table} SET n = n + 1 WHERE id = {id};"),
            });
        }
        sql.push_str(if random(8) == 0 { "ROLLBACK" } else { "COMMIT" });
        // A deadlock with the large transaction is one more rollback.
        match client.batch_execute(&sql).await {
            Ok(()) => transactions += 1,
            Err(_) => client.batch_execute("ROLLBACK").await.unwrap(),
        }
    }
    transactions
}

async fn table(client: &Client, name: &str) -> BTreeMap<String, Json> {
    let sql = format!("SELECT json_build_object('id', id)::text, row_to_json(t)::text FROM {name} t");
    let row = |row: tokio_postgres::Row| {
        let (key, value): (String, String) = (row.get(0), row.get(1));
        (key.replace(" : ", ":"), serde_json::from_str(&value).unwrap())
    };
    client.query(&sql, &[]).await.unwrap().into_iter().map(row).collect()
}

/// Snapshot and stream under load, killed again and again; then the fold of each topic is the table.
async fn under_load(database: &str, kills: usize) {
    let (server, client) = setup(database, SHOP).await;
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let mut workers = tokio::task::JoinSet::new();
    for worker in 0..4 {
        workers.spawn(work(server.client(database).await, worker, Arc::clone(&stop)));
    }
    let options = server.options(database, &[("tables", "public.orders, public.customers")]);
    let mut capture = Capture::start(database, options).await;
    for kill in 0..kills {
        for _ in 0..(kill * 7) % 11 {
            capture.step().await.unwrap();
        }
        let deadline = Deadline::new();
        while let Err(error) = capture.restart().await {
            deadline.check(&message(&error));
        }
    }
    while !capture.snapshot_done {
        capture.step().await.unwrap();
    }
    let large = "BEGIN; UPDATE orders SET n = n + 1; DELETE FROM customers WHERE id % 2 = 0; COMMIT";
    let deadline = Deadline::new();
    while client.batch_execute(large).await.is_err() {
        deadline.check("the large transaction");
        client.batch_execute("ROLLBACK").await.unwrap();
    }
    for _ in 0..20 {
        capture.step().await.unwrap();
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let transactions: u64 = workers.join_all().await.into_iter().sum();
    assert!(transactions > 10);
    capture.settle(&client).await.unwrap();
    for name in ["customers", "orders"] {
        assert!(capture.fold(name) == table(&client, name).await, "the fold of {name} is not the table");
    }
    capture.source.remove().await.unwrap();
    let left = "SELECT (SELECT count(*) FROM pg_replication_slots WHERE database = current_database())
                     + (SELECT count(*) FROM pg_publication)";
    assert_eq!(client.query_one(left, &[]).await.unwrap().get::<_, i64>(0), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn snapshot_and_stream_join_without_gap_or_double() {
    under_load("load", 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_lose_nothing_and_repeat_nothing() {
    under_load("kills", 12).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_huge_transaction_flows_in_chunks_and_is_committed_as_one() {
    let (server, client) = setup("huge", SHOP).await;
    let mut capture = Capture::snapshot("huge", server.options("huge", &[])).await;
    let from = capture.log.len();
    client.batch_execute("UPDATE orders SET n = n + 1; ").await.unwrap();
    let (mut chunks, deadline) = (0, Deadline::new());
    while capture.log.len() == from {
        deadline.check("the transaction");
        capture.step().await.unwrap();
        chunks += 1;
        let largest: usize = capture.open.len().max(capture.log.len() - from);
        assert!(largest <= 20_000);
    }
    assert!(chunks >= 5, "{chunks} chunks");
    assert_eq!(capture.log.len() - from, 20_000);
    capture.source.remove().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_hears_from_us_while_downstream_stalls() {
    let (server, client) = setup("stalled", "CREATE TABLE fat (id int PRIMARY KEY, v text)").await;
    let mut options = server.options("stalled", &[]);
    let url = format!("{}?options=-c%20wal_sender_timeout%3D2s", options["url"]);
    options.insert("url".into(), url);
    let mut capture = Capture::snapshot("stalled", options).await;
    // More than the channel and the sockets' buffers hold: the server cannot go on sending.
    let many = "INSERT INTO fat SELECT i, repeat('x', 4000) FROM generate_series(1, 10000) i";
    client.batch_execute(many).await.unwrap();
    capture.step().await.unwrap();
    // For five times the server's patience nobody takes anything; it goes by the server's clock.
    let heard = "SELECT clock_timestamp() > (SELECT xact_commit_at FROM since) + interval '10 s'
                    AND (SELECT sent_lsn < pg_current_wal_lsn() FROM pg_stat_replication WHERE application_name = 'riverrun stalled')";
    client.batch_execute("CREATE TEMP TABLE since AS SELECT clock_timestamp() AS xact_commit_at").await.unwrap();
    let deadline = Deadline::new();
    while !client.query_one(heard, &[]).await.unwrap().get::<_, Option<bool>>(0).expect("the stream is still there") {
        deadline.check("ten seconds");
        client.batch_execute("SELECT pg_sleep(0.2)").await.unwrap();
    }
    capture.settle(&client).await.unwrap();
    assert_eq!(capture.log.len(), 10_000);
    capture.source.remove().await.unwrap();
}

async fn confirmed(client: &Client, slot: &str) -> Lsn {
    let sql = "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = $1";
    client.query_one(sql, &[&slot]).await.unwrap().get::<_, String>(0).parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_slot_moves_while_captured_tables_are_idle_and_never_beyond_what_is_durable() {
    let (server, client) = setup("idle", SHOP).await;
    let mut capture = Capture::snapshot("idle", server.options("idle", &[("tables", "public.orders")])).await;
    let from = capture.log.len();
    client.batch_execute("INSERT INTO noise SELECT generate_series(1, 50000)").await.unwrap();
    capture.settle(&client).await.unwrap();
    assert_eq!(capture.log.len(), from);
    let deadline = Deadline::new();
    while confirmed(&client, "riverrun_idle").await < capture.end() {
        deadline.check("the slot to move");
        tokio::task::yield_now().await;
    }

    // Read, but not durable: the slot stays.
    let before = capture.end();
    client.batch_execute("UPDATE orders SET n = n + 1").await.unwrap();
    let deadline = Deadline::new();
    let mut seen = 0;
    while seen < 20_000 {
        deadline.check("the rows");
        seen += capture.source.next().await.unwrap().records.len();
    }
    let reported =
        "SELECT write_lsn >= $1::text::pg_lsn FROM pg_stat_replication WHERE application_name = 'riverrun idle'";
    let deadline = Deadline::new();
    while !client
        .query_one(reported, &[&current_lsn(&client).await.to_string()])
        .await
        .unwrap()
        .get::<_, Option<bool>>(0)
        .unwrap_or(false)
    {
        deadline.check("a report");
        let _ = tokio::time::timeout(Duration::from_millis(10), capture.source.next()).await;
    }
    assert!(confirmed(&client, "riverrun_idle").await <= before);
    // And they come again.
    capture.restart().await.unwrap();
    capture.settle(&client).await.unwrap();
    assert!(capture.fold("orders") == table(&client, "orders").await);
    capture.source.remove().await.unwrap();
}
