//! Writers that work while the program's timeline grows, and kills in between.

use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::timeline;
use crate::support::program::Program;
use crate::support::random::Random;
use crate::support::{block_on, wait_for};

/// Steps taken one after the other on a thread of its own, until it is told to stop or one says that it has failed.
pub struct Writer {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<()>,
}

impl Writer {
    pub fn start(mut step: impl FnMut() -> bool + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || while !stopped.load(Ordering::Relaxed) && step() {});
        Self { stop, thread }
    }

    fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("a writer failed");
    }
}

/// Lets writers work until the timeline has grown by `epochs`, with `kills` SIGKILLs spread over that time. `begin` starts
/// the writers after each start of the program, given the number of kills before it.
pub fn grow(
    mut program: Program,
    data: &Path,
    (epochs, kills): (u64, u64),
    random: &mut Random,
    mut begin: impl FnMut(&Program, u64) -> Writer,
) -> Program {
    let from = timeline::newest(program.kafka);
    for killed in 0..=kills {
        let writer = begin(&program, killed);
        let target = from + epochs * (killed + 1) / (kills + 1);
        wait_for("epochs", 60, || {
            assert!(!writer.thread.is_finished(), "the writer has failed");
            (timeline::newest(program.kafka) >= target).then_some(())
        });
        if killed == kills {
            writer.stop();
            break;
        }
        // A moment drawn from the seed. What is tested does not depend on its length.
        std::thread::sleep(Duration::from_millis(random.below(30)));
        program.kill();
        writer.stop();
        program = Program::start(data);
    }
    program
}

/// Executes statements; false when the program is gone.
pub fn execute(url: &str, sql: &str) -> bool {
    block_on(async {
        let Ok((client, connection)) = tokio_postgres::connect(url, tokio_postgres::NoTls).await else { return false };
        tokio::spawn(connection);
        match client.batch_execute(sql).await {
            Ok(()) => true,
            Err(e) if e.as_db_error().is_none() => false,
            Err(e) => panic!("{sql}: {e:?}"),
        }
    })
}

/// Writes `key|value` lines with kcat, which places keys as Java's clients do; an empty key or value is null. False when
/// the program is gone.
pub fn produce(kafka: SocketAddr, topic: &str, lines: &str) -> bool {
    let mut child = Command::new("kcat")
        .args(["-b", &kafka.to_string(), "-t", topic, "-P", "-K", "|", "-Z", "-X", "acks=all"])
        .args(["-X", "enable.idempotence=true", "-X", "message.timeout.ms=2000"])
        .args(["-X", "topic.partitioner=murmur2_random"])
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("kcat");
    let sent = child.stdin.take().expect("piped").write_all(lines.as_bytes()).is_ok();
    child.wait().expect("kcat ends").success() && sent
}
