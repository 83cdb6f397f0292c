//! Health, readiness and metrics over HTTP.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use crate::support::Scratch;
use crate::support::program::Program;

fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).expect("the listener is there");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").expect("sent");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("an answer");
    let status = text.split_whitespace().nth(1).expect("a status").parse().expect("a number");
    (status, text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
}

#[test]
fn health_readiness_and_metrics_are_served() {
    let scratch = Scratch::new("http");
    let program = Program::start(&scratch.path().join("data"));
    program.execute("CREATE TABLE t (a INT) WITH (topic = 't', format = 'json')");
    program.execute("CREATE MATERIALIZED VIEW v AS SELECT sum(a) AS a FROM t");
    program.execute("INSERT INTO t VALUES (1), (2)");
    assert_eq!(get(program.http, "/healthz").0, 200);
    let (status, body) = get(program.http, "/readyz");
    assert_eq!(status, 200, "{body}");
    let (status, body) = get(program.http, "/metrics");
    assert_eq!(status, 200);
    for line in body.lines().filter(|l| !l.starts_with('#') && !l.is_empty()) {
        let (name, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line}"));
        assert!(name.starts_with("riverrun_") || name.starts_with("kafka_"), "{line}");
        assert!(value.parse::<f64>().is_ok(), "{line}");
    }
    assert!(body.contains("riverrun_view_freshness_seconds"), "{body}");
    assert_eq!(get(program.http, "/nothing").0, 404);
}
