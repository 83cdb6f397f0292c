//! What stays whole: topics that belong to sources and tables, and everything when a creation fails.

use crate::support::clients::{python, try_text_rows};
use crate::support::program::Program;
use crate::support::{Scratch, block_on, wait_for};

/// Produces one record, then deletes the topic: `written deleted`, each the word yes or the error.
fn write_and_delete(program: &Program, topic: &str) -> String {
    let script = r#"
import sys
from confluent_kafka import Producer, KafkaException
from confluent_kafka.admin import AdminClient
broker, topic = sys.argv[1:3]
said = []
producer = Producer({"bootstrap.servers": broker, "message.timeout.ms": 10000})
producer.produce(topic, b'{"a": 1}', on_delivery=lambda e, m: said.append("yes" if e is None else e.name()))
producer.flush(20)
admin = AdminClient({"bootstrap.servers": broker})
try:
    admin.delete_topics([topic], operation_timeout=10)[topic].result(20)
    said.append("yes")
except KafkaException as e:
    said.append(e.args[0].name() + ": " + e.args[0].str())
print(" ".join(said))
"#;
    python(script, &[&program.kafka.to_string(), topic]).trim().to_owned()
}

fn error_of(program: &Program, sql: &str) -> String {
    block_on(async {
        let error = program.connect().await.batch_execute(sql).await.expect_err(sql);
        let db = error.as_db_error().unwrap_or_else(|| panic!("{error:?}"));
        format!("{} {} {}", db.code().code(), db.message(), db.detail().unwrap_or_default())
    })
}

#[test]
fn kafka_clients_leave_topics_of_sources_and_tables_alone() {
    let scratch = Scratch::new("protected");
    let data = scratch.path().join("data");
    let program = Program::start(&data);
    program.execute("CREATE SOURCE shop WITH (connector = 'generator', rate = '100')");
    program.execute("CREATE TABLE clicks (a INT) WITH (topic = 'clicks', format = 'json')");
    let refused = "TOPIC_AUTHORIZATION_FAILED";
    let check = |program: &Program| {
        let source = write_and_delete(program, "shop.public.orders");
        assert!(source.starts_with(&format!("{refused} {refused}")), "{source}");
        let table = write_and_delete(program, "clicks");
        assert!(table.starts_with(&format!("yes {refused}")), "{table}");
        let topics = format!("{:?}", program.rows("SHOW TOPICS"));
        assert!(topics.contains("writer=source shop") && topics.contains("used_by=table clicks"), "{topics}");
    };
    check(&program);
    program.kill();
    let program = Program::start(&data);
    check(&program);
    // The source itself writes on.
    let orders = || program.rows("SELECT count(*) FROM shop.public.orders")[0][0].clone();
    let before = orders();
    wait_for("more orders", 30, || (orders() != before).then_some(()));
    program.execute("CREATE TABLE same (a INT) WITH (topic = 'shop.public.orders', format = 'json')");
    assert!(error_of(&program, "INSERT INTO same VALUES (1)").contains("source shop"));
    program.execute("DROP TABLE same; DROP SOURCE shop; DROP TABLE clicks");
    assert_eq!(write_and_delete(&program, "shop.public.orders"), "yes yes");
    assert_eq!(write_and_delete(&program, "clicks"), "yes yes");
}

#[test]
fn a_failed_creation_leaves_nothing() {
    let scratch = Scratch::new("failed");
    let program = Program::start(&scratch.path().join("data"));
    program.execute("CREATE TABLE t (a INT NOT NULL, b TEXT) WITH (topic = 't', format = 'json')");
    program.execute("CREATE MATERIALIZED VIEW v AS SELECT b, count(*) AS n FROM t GROUP BY b");
    program.execute("INSERT INTO t VALUES (1, 'x')");
    let script = r#"
import sys
from confluent_kafka import Producer
producer = Producer({"bootstrap.servers": sys.argv[1]})
producer.produce("t", b'{"a": null, "b": "y"}')
producer.flush(20)
"#;
    python(script, &[&program.kafka.to_string()]);
    // The record is named by its place, the value by its column.
    let stopped = wait_for("the view to stop", 30, || {
        let sql = "SELECT * FROM v";
        let error = block_on(async { try_text_rows(&program.connect().await, sql).await }).err()?;
        error.as_db_error().map(|e| format!("{} {}", e.message(), e.detail().unwrap_or_default()))
    });
    for part in ["topic t partition 0", "offset 1", "\"a\"", "NOT NULL"] {
        assert!(stopped.contains(part), "{stopped} lacks {part}");
    }
    let error = error_of(&program, "CREATE MATERIALIZED VIEW w AS SELECT a FROM t");
    assert!(error.starts_with("55000 t has stopped") && error.contains("offset 1"), "{error}");
    assert!(error_of(&program, "CREATE SINK s FROM v WITH (connector = 'topic', topic = 'w')").starts_with("55000"));
    assert!(error_of(&program, "SELECT * FROM w").starts_with("42P01"));
    let topics = format!("{:?}", program.rows("SHOW TOPICS"));
    assert!(!topics.contains("\"w\""), "{topics}");
    assert!(!format!("{:?}", program.rows("SHOW SINKS")).contains("\"s\""));
}
