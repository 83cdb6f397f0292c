//! Clients nobody here wrote: tokio-postgres, psql, kcat and Python's confluent-kafka and psycopg.

use std::net::SocketAddr;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tokio_postgres::SimpleQueryMessage;

/// Rows as text, by the simple protocol.
pub async fn text_rows(client: &tokio_postgres::Client, sql: &str) -> Vec<Vec<Option<String>>> {
    try_text_rows(client, sql).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"))
}

pub async fn try_text_rows(
    client: &tokio_postgres::Client,
    sql: &str,
) -> Result<Vec<Vec<Option<String>>>, tokio_postgres::Error> {
    let messages = client.simple_query(sql).await?;
    Ok(messages
        .into_iter()
        .filter_map(|m| match m {
            SimpleQueryMessage::Row(row) => Some((0..row.len()).map(|i| row.get(i).map(str::to_owned)).collect()),
            _ => None,
        })
        .collect())
}

/// Runs a command to its end and gives its output; fails the test when it fails.
pub fn run(command: &mut Command) -> Output {
    let out = command.stdin(Stdio::null()).output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(
        out.status.success(),
        "{command:?}: {}\n{}\n{}",
        out.status,
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    );
    out
}

pub fn psql(address: SocketAddr, database: &str, arguments: &[&str]) -> String {
    String::from_utf8(psql_output(address, database, arguments).stdout).expect("utf-8")
}

/// What psql prints, notices and warnings included.
pub fn psql_output(address: SocketAddr, database: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new("psql");
    command.args(["-X", "-h", &address.ip().to_string(), "-p", &address.port().to_string(), "-d", database]);
    command.args(["-U", "someone", "-v", "ON_ERROR_STOP=1"]).args(arguments).env("PGCONNECT_TIMEOUT", "10");
    run(&mut command)
}

/// One record as kcat's `-J` prints it.
#[derive(Clone, Debug)]
pub struct Read {
    pub offset: i64,
    pub key: Option<String>,
    pub value: Option<String>,
    /// Names and values alternate.
    pub headers: Vec<String>,
}

impl Read {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.chunks(2).find(|h| h[0] == name).map(|h| h[1].as_str())
    }

    pub fn json(&self) -> Option<Value> {
        self.value.as_ref().map(|v| serde_json::from_str(v).unwrap_or_else(|e| panic!("{v}: {e}")))
    }
}

/// All committed records of a topic from its beginning to its present end, by kcat.
pub fn consume(kafka: SocketAddr, topic: &str) -> Vec<Read> {
    let out = run(Command::new("kcat")
        .args(["-b", &kafka.to_string(), "-t", topic, "-C", "-o", "beginning", "-e", "-q", "-J"])
        .args(["-X", "isolation.level=read_committed"]));
    let text = String::from_utf8(out.stdout).expect("utf-8");
    text.lines()
        .map(|line| {
            let v: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}"));
            let text = |name: &str| v.get(name).and_then(Value::as_str).map(str::to_owned);
            Read {
                offset: v["offset"].as_i64().expect("offset"),
                key: text("key"),
                value: text("payload"),
                headers: v["headers"]
                    .as_array()
                    .map(|h| h.iter().map(|x| x.as_str().unwrap_or_default().to_owned()).collect())
                    .unwrap_or_default(),
            }
        })
        .collect()
}

/// Runs a Python script with the test environment's interpreter.
pub fn python(script: &str, arguments: &[&str]) -> String {
    let python = std::env::var("RIVERRUN_TEST_PYTHON")
        .unwrap_or_else(|_| panic!("RIVERRUN_TEST_PYTHON is not set: run tests/run, it makes the environment"));
    let out = run(Command::new(python).arg("-c").arg(script).args(arguments));
    String::from_utf8(out.stdout).expect("utf-8")
}
