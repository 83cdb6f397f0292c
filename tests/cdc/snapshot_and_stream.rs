//! Eight clients change three tables during the snapshot and after it; at rest everything is equal.

use super::expected::{check_at_rest, create_views};
use super::workload::{Clients, create, large_transaction};
use crate::support::postgres::Postgres;
use crate::support::program::Program;
use crate::support::{Scratch, wait_for};

#[test]
fn topics_and_views_equal_the_tables_that_changed_meanwhile() {
    let server = Postgres::start();
    create(&server);
    let scratch = Scratch::new("cdc");
    let program = Program::start(&scratch.path().join("data"));
    let clients = Clients::start(&server, 42, 5);
    wait_for("clients at work", 30, || (clients.done.load(std::sync::atomic::Ordering::Relaxed) > 200).then_some(()));
    program.execute(&format!(
        "CREATE SOURCE shop WITH (connector = 'postgres', url = '{}', tables = 'public.customers, public.orders, public.payments')",
        server.url()
    ));
    create_views(&program);
    large_transaction(&server);
    let seen = clients.done.load(std::sync::atomic::Ordering::Relaxed);
    wait_for("clients to go on", 60, || {
        (clients.done.load(std::sync::atomic::Ordering::Relaxed) > seen + 2000).then_some(())
    });
    clients.stop();
    check_at_rest(&server, &program);
    let published = server.rows("SELECT pubname, schemaname || '.' || tablename FROM pg_publication_tables ORDER BY 2");
    let expected = ["public.customers", "public.orders", "public.payments"]
        .map(|table| vec![Some("riverrun_shop".to_owned()), Some(table.to_owned())]);
    assert_eq!(published, expected, "the chosen tables are published, and no others");

    let took = program.stop();
    assert!(took.as_secs() < 5, "a clean stop took {took:?}");
    // What was stopped goes on where it was.
    let program = Program::start(&scratch.path().join("data"));
    server.execute("UPDATE customers SET region = 'moved', version = version + 1 WHERE id BETWEEN 20 AND 40");
    check_at_rest(&server, &program);
    program.execute("DROP MATERIALIZED VIEW totals");
    assert_eq!(server.rows("SELECT count(*) FROM pg_replication_slots")[0][0].as_deref(), Some("1"));
}
