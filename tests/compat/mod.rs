//! Clients of the two wires: Kafka's (kcat, confluent-kafka, raw frames) and PostgreSQL's (psql, psycopg, tokio-postgres).

mod hostile;
mod http;
mod kafka;
mod postgres_wire;
mod protected;
