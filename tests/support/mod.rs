//! What every test here uses: scratch directories, real servers on free ports, and waiting for a condition.

pub mod broker;
pub mod clients;
pub mod kafka_tools;
pub mod postgres;
pub mod program;
pub mod random;
pub mod requests;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// A directory of this test's own, removed when dropped (kept after a failure, for reading).
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new(name: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("riverrun-test-{name}-{}-{n}", std::process::id()));
        std::fs::create_dir_all(&path).expect("scratch directory");
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // The test has passed; a leftover directory would be no failure of it.
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }
}

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("bound").port()
}

/// Asks until `probe` gives a value; fails the test after `seconds` with what was waited for.
pub fn wait_for<T>(what: &str, seconds: u64, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(seconds);
    loop {
        if let Some(value) = probe() {
            return value;
        }
        assert!(Instant::now() < deadline, "waited {seconds} s for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Sends a signal to a process, by its name: `STOP`, `CONT`.
pub fn signal(name: &str, pid: &str) {
    let sent = std::process::Command::new("kill").args(["-s", name, pid]).status().expect("kill");
    assert!(sent.success(), "kill -s {name} {pid}: {sent}");
}

/// Runs async client code.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime").block_on(future)
}
