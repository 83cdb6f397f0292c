//! Malformed, truncated and oversized frames end their own connection and nothing else.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::support::Scratch;
use crate::support::program::Program;
use crate::support::random::Random;

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("the listener is there");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("socket");
    stream
}

/// ApiVersions v0 with correlation id 7.
const API_VERSIONS: &[u8] = &[0, 0, 0, 10, 0, 18, 0, 0, 0, 0, 0, 7, 0xff, 0xff];

fn answers(address: SocketAddr) {
    let mut stream = connect(address);
    stream.write_all(API_VERSIONS).expect("sent");
    let mut head = [0; 10];
    stream.read_exact(&mut head).expect("an answer");
    assert_eq!(&head[4..10], &[0, 0, 0, 7, 0, 0], "correlation id and no error");
}

/// Sends the bytes and reads until the other side closes.
fn closes(address: SocketAddr, bytes: &[u8], what: &str) {
    let mut stream = connect(address);
    // The other side may close before it has read everything.
    let _ = stream.write_all(bytes);
    let mut sink = Vec::new();
    let end = stream.read_to_end(&mut sink);
    let reset = end.as_ref().is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionReset);
    assert!(end.is_ok() || reset, "{what}: {end:?}");
}

fn frame(body: &[u8]) -> Vec<u8> {
    [&i32::try_from(body.len()).expect("small").to_be_bytes()[..], body].concat()
}

fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let line = status.lines().find(|l| l.starts_with("VmRSS")).expect("VmRSS");
    line.split_whitespace().nth(1).expect("a number").parse().expect("a number")
}

#[test]
fn bad_kafka_frames_end_their_own_connection_only() {
    let scratch = Scratch::new("hostile");
    let program = Program::start(&scratch.path().join("data"));
    let kafka = program.kafka;
    let mut bystander = connect(kafka);
    answers(kafka);
    let before = resident_kib(program.pid());

    closes(kafka, &(-1_i32).to_be_bytes(), "negative size");
    closes(kafka, &i32::MAX.to_be_bytes(), "size of 2 GiB");
    closes(kafka, &frame(&[]), "empty frame");
    closes(kafka, &frame(&[0x27, 0x0f, 0, 0, 0, 0, 0, 1, 0xff, 0xff]), "unknown API");
    closes(kafka, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP");
    closes(kafka, &[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3], "TLS hello");
    // Metadata v1 that says it names 2^31 - 1 topics.
    closes(kafka, &frame(&[0, 3, 0, 1, 0, 0, 0, 1, 0xff, 0xff, 0x7f, 0xff, 0xff, 0xff]), "array longer than its frame");
    let mut random = Random::new(11);
    for n in 0..300 {
        // A known API with an arbitrary body.
        let api = [0_u8, 1, 2, 3, 18, 19, 20, 21, 22, 23, 32, 33, 37, 44][random.below(14) as usize];
        let mut body = vec![0, api, 0, random.below(14) as u8, 0, 0, 0, 1, 0xff, 0xff];
        body.extend((0..random.below(200)).map(|_| random.below(256) as u8));
        let mut stream = connect(kafka);
        let _ = stream.write_all(&frame(&body));
        drop(stream);
        if n % 50 == 0 {
            answers(kafka);
        }
    }
    // A frame that never ends keeps nobody else waiting.
    let mut slow = connect(kafka);
    slow.write_all(&[0, 0, 1, 0, 0, 3]).expect("sent");
    answers(kafka);
    bystander.write_all(API_VERSIONS).expect("sent");
    let mut head = [0; 10];
    bystander.read_exact(&mut head).expect("a connection that was there before is still served");
    let grown = resident_kib(program.pid()).saturating_sub(before);
    assert!(grown < 64 * 1024, "bad frames cost {grown} KiB");
}

#[test]
fn bad_postgres_frames_end_their_own_connection_only() {
    let scratch = Scratch::new("hostile-pg");
    let program = Program::start(&scratch.path().join("data"));
    let address = program.postgres;
    let before = resident_kib(program.pid());
    let startup = [&[0, 0, 0, 23, 0, 3, 0, 0][..], b"user\0someone\0\0\0"].concat();
    closes(address, &[0x7f, 0xff, 0xff, 0xff, 0, 3, 0, 0], "startup of 2 GiB");
    closes(address, &[0, 0, 0, 4], "startup without a version");
    closes(address, &[&startup[..], &[b'Q', 0x7f, 0xff, 0xff, 0xff]].concat(), "query of 2 GiB");
    closes(address, &[&startup[..], &[b'Q', 0, 0, 0, 0]].concat(), "query of no length");
    closes(address, &[&startup[..], &[b'~', 0, 0, 0, 4]].concat(), "unknown message");
    assert_eq!(program.rows("SELECT 1"), [[Some("1".to_owned())]]);
    let grown = resident_kib(program.pid()).saturating_sub(before);
    assert!(grown < 64 * 1024, "bad frames cost {grown} KiB");
}
