//! Clients of the two wires: Kafka's (kcat, confluent-kafka, raw frames) and PostgreSQL's (psql, psycopg, tokio-postgres);
//! and Kafka's own tool for the files.

mod compaction;
mod hostile;
mod http;
mod kafka;
mod kafka_admin;
mod kafka_dump;
mod postgres_wire;
mod protected;
