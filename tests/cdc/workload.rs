//! A shop in PostgreSQL and eight clients that change it in every way: inserts, updates, deletes, changed keys,
//! rollbacks, savepoints, and one transaction of 50,000 rows.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use crate::support::postgres::Postgres;
use crate::support::random::Random;

pub const CLIENTS: u64 = 8;

/// Three tables, 100,000 rows.
pub fn create(server: &Postgres) {
    server.execute(
        "CREATE TABLE customers (id bigint PRIMARY KEY, name text, region varchar(8) NOT NULL, credit numeric(12,2),
            score float8, active boolean, joined timestamptz, version int NOT NULL);
         CREATE TABLE orders (id bigint PRIMARY KEY, customer_id bigint, amount numeric(12,2), qty int, note text,
            placed timestamp, due date, version int NOT NULL);
         CREATE TABLE payments (order_id bigint, line smallint, paid numeric(10,3), method char(5), tag uuid, doc jsonb,
            raw bytea, at time, ratio real, version int NOT NULL, PRIMARY KEY (order_id, line));
         CREATE TABLE untouched (id int PRIMARY KEY, t text);
         INSERT INTO customers SELECT i, CASE WHEN i % 13 <> 0 THEN 'name ' || (i * 7919 % 10000) END, 'r' || (i % 7),
            (i % 1000) * 1.25, (i % 400) * 0.25, i % 3 = 0, timestamptz '2024-01-01 00:00:00.123456+00' + i * interval '1 minute', 1
            FROM generate_series(1, 10000) i;
         INSERT INTO orders SELECT i, i * 31 % 10000 + 1, (i % 100000) / 100.0, i % 9, CASE WHEN i % 5 <> 0 THEN 'note \"' || i || '\" \\ é' END,
            timestamp '2024-06-01' + i * interval '1 second', date '2024-01-01' + (i % 365)::int, 1 FROM generate_series(1, 50000) i;
         INSERT INTO payments SELECT i / 2 + 1, i % 2, i / 7.0, 'm' || (i % 4), md5(i::text)::uuid,
            jsonb_build_object('i', i, 'x', ARRAY[1, 2]), decode(md5(i::text), 'hex'), time '00:00' + (i % 86400) * interval '1 second',
            (i % 64) * 0.5, 1 FROM generate_series(1, 40000) i;
         ANALYZE;",
    );
}

/// Clients at work until told to stop. `done` counts finished transactions.
pub struct Clients {
    stop: Arc<AtomicBool>,
    pub done: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Clients {
    /// Each client makes a transaction about every `pause_ms`; connections that break are made anew.
    pub fn start(server: &Postgres, seed: u64, pause_ms: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let done = Arc::new(AtomicU64::new(0));
        let threads = (0..CLIENTS)
            .map(|n| {
                let (stop, done, url) = (Arc::clone(&stop), Arc::clone(&done), server.url());
                std::thread::spawn(move || {
                    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
                    runtime.block_on(client(&url, seed + n, n, pause_ms, &stop, &done));
                })
            })
            .collect();
        Self { stop, done, threads }
    }

    pub fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().expect("a client failed");
        }
    }
}

async fn client(url: &str, seed: u64, n: u64, pause_ms: u64, stop: &AtomicBool, done: &AtomicU64) {
    let mut random = Random::new(seed);
    let mut fresh = 1_000_000 * (n + 1);
    let mut connection = None;
    while !stop.load(Ordering::Relaxed) {
        let sql = transaction(&mut random, &mut fresh);
        if connection.is_none() {
            // While the server restarts there is nobody to connect to.
            connection = match tokio_postgres::connect(url, tokio_postgres::NoTls).await {
                Ok((client, driver)) => {
                    tokio::spawn(driver);
                    Some(client)
                }
                Err(_) => None,
            };
        }
        let lost = match &connection {
            Some(client) => match client.batch_execute(&sql).await {
                Ok(()) => false,
                // A conflict with another client (deadlock, duplicate key): its transaction is over without effect.
                Err(e) if e.code().is_some() && !client.is_closed() => client.batch_execute("ROLLBACK").await.is_err(),
                Err(_) => true,
            },
            None => true,
        };
        if lost {
            connection = None;
        }
        done.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(std::time::Duration::from_millis(pause_ms)).await;
    }
}

/// One transaction of one to four statements.
fn transaction(random: &mut Random, fresh: &mut u64) -> String {
    let mut sql = String::from("BEGIN;");
    for _ in 0..=random.below(4) {
        sql += &statement(random, fresh);
        if random.below(10) == 0 {
            sql += "SAVEPOINT s;";
            sql += &statement(random, fresh);
            sql += "ROLLBACK TO s;";
        }
    }
    sql += if random.below(10) == 0 { "ROLLBACK;" } else { "COMMIT;" };
    sql
}

fn statement(random: &mut Random, fresh: &mut u64) -> String {
    *fresh += 1;
    let (new, order, customer) = (*fresh, random.below(50_000) + 1, random.below(10_000) + 1);
    match random.below(12) {
        0 | 1 => format!(
            "INSERT INTO orders VALUES ({new}, {customer}, {}.{:02}, {}, 'new {new}', now()::timestamp(6), '2025-02-28', 1);",
            random.below(2000),
            random.below(100),
            random.below(12)
        ),
        2 => {
            format!("INSERT INTO customers VALUES ({new}, NULL, 'r{}', 12.50, 0.75, true, now(), 1);", random.below(9))
        }
        3 | 4 => format!(
            "UPDATE orders SET amount = amount + {}.25, qty = (qty + 1) % 12, version = version + 1 WHERE id = {order};",
            random.below(50)
        ),
        5 => format!(
            "UPDATE customers SET region = 'r{}', score = score + 0.25, version = version + 1 WHERE id = {customer};",
            random.below(9)
        ),
        6 => format!("DELETE FROM orders WHERE id = {order};"),
        7 => format!("DELETE FROM customers WHERE id = {customer};"),
        8 => format!("UPDATE orders SET id = {new}, version = version + 1 WHERE id = {order};"),
        9 => format!(
            "INSERT INTO payments VALUES ({new}, {}, {}.125, 'x', NULL, '{{\"k\": {new}}}', '\\x00ff', '23:59:59.5', 1.5, 1);",
            random.below(3),
            random.below(500)
        ),
        10 => format!(
            "UPDATE payments SET paid = paid - 1, doc = NULL, version = version + 1 WHERE order_id BETWEEN {order} AND {order} + 3;"
        ),
        _ => format!(
            "UPDATE payments SET line = line + 2, version = version + 1 WHERE order_id = {} AND line < 2;",
            order / 2
        ),
    }
}

/// 50,000 rows changed in one transaction.
pub fn large_transaction(server: &Postgres) {
    server.execute(
        "BEGIN;
         INSERT INTO orders SELECT 50000000 + i, i % 10000 + 1, i / 10.0, i % 5, repeat('x', 100), now()::timestamp, NULL, 1
            FROM generate_series(1, 30000) i;
         UPDATE orders SET qty = qty + 1, version = version + 1 WHERE id BETWEEN 50000001 AND 50015000;
         DELETE FROM orders WHERE id BETWEEN 50025001 AND 50030000;
         COMMIT;",
    );
}
