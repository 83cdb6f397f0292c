//! The built program as a child process: started on free ports, stopped, or killed.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::block_on;

pub struct Program {
    child: Child,
    pub kafka: SocketAddr,
    pub postgres: SocketAddr,
    pub http: SocketAddr,
}

/// A program that has been started and may not be ready yet.
pub struct Starting(Child);

impl Starting {
    /// SIGKILL; whether it came before the ready line.
    pub fn kill(mut self) -> bool {
        self.0.kill().expect("still there");
        self.0.wait().expect("killed");
        let mut said = String::new();
        self.0.stdout.take().expect("piped").read_to_string(&mut said).expect("stdout");
        said.is_empty()
    }

    /// Waits for the ready line.
    pub fn ready(mut self) -> Program {
        let mut line = String::new();
        BufReader::new(self.0.stdout.take().expect("piped")).read_line(&mut line).expect("stdout");
        if line.is_empty() {
            let status = self.0.wait().expect("ended");
            panic!("riverrun ended before it was ready: {status}");
        }
        let address = |name: &str| -> SocketAddr {
            let rest = line.split(&format!("{name} ")).nth(1).unwrap_or_else(|| panic!("no {name} in {line:?}"));
            rest.trim().split(',').next().expect("first").trim().parse().unwrap_or_else(|e| panic!("{line:?}: {e}"))
        };
        assert!(line.starts_with("riverrun ready: "), "{line:?}");
        Program { kafka: address("kafka"), postgres: address("postgres"), http: address("http"), child: self.0 }
    }
}

pub fn binary() -> &'static str {
    env!("CARGO_BIN_EXE_riverrun")
}

impl Program {
    /// Starts on any free ports.
    pub fn spawn(data: &Path) -> Starting {
        Self::spawn_at(data, "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0", &[])
    }

    /// Starts with at most this many open files.
    pub fn start_with_open_files(data: &Path, files: u32, settings: &[(&str, &str)]) -> Self {
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("ulimit -n {files} && exec \"$0\" \"$@\""), binary()]);
        Self::run(shell, data, "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0", settings).ready()
    }

    fn spawn_at(data: &Path, kafka: &str, postgres: &str, http: &str, settings: &[(&str, &str)]) -> Starting {
        Self::run(Command::new(binary()), data, kafka, postgres, http, settings)
    }

    fn run(
        mut command: Command,
        data: &Path,
        kafka: &str,
        postgres: &str,
        http: &str,
        settings: &[(&str, &str)],
    ) -> Starting {
        let log =
            std::fs::OpenOptions::new().create(true).append(true).open(data.with_extension("log")).expect("log file");
        let child = command
            .args(["dev", "--kafka-addr", kafka, "--pg-addr", postgres, "--http-addr", http, "--data-dir"])
            .arg(data)
            .envs(settings.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|e| panic!("{}: {e}", binary()));
        Starting(child)
    }

    pub fn start(data: &Path) -> Self {
        Self::spawn(data).ready()
    }

    /// Starts with the Kafka listener on this port, so that a client outlives a kill.
    pub fn start_at(data: &Path, kafka_port: u16) -> Self {
        Self::at(data, &format!("127.0.0.1:{kafka_port}"), "127.0.0.1:0", "127.0.0.1:0")
    }

    pub fn at(data: &Path, kafka: &str, postgres: &str, http: &str) -> Self {
        Self::spawn_at(data, kafka, postgres, http, &[]).ready()
    }

    /// Starts with settings as environment variables.
    pub fn start_with(data: &Path, settings: &[(&str, &str)]) -> Self {
        Self::spawn_at(data, "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0", settings).ready()
    }

    /// The same, with listeners on these ports, so that clients outlive a kill.
    pub fn start_with_at(data: &Path, kafka_port: u16, postgres_port: u16, settings: &[(&str, &str)]) -> Self {
        let (kafka, postgres) = (format!("127.0.0.1:{kafka_port}"), format!("127.0.0.1:{postgres_port}"));
        Self::spawn_at(data, &kafka, &postgres, "127.0.0.1:0", settings).ready()
    }

    /// Starts another binary than the one that was built for the tests, on any free ports.
    pub fn start_binary(binary: &str, data: &Path, settings: &[(&str, &str)]) -> Self {
        let any = "127.0.0.1:0";
        Self::run(Command::new(binary), data, any, any, any, settings).ready()
    }

    /// What all programs on these data have said on stderr so far.
    pub fn said(data: &Path) -> String {
        let bytes = std::fs::read(data.with_extension("log")).expect("the log file");
        String::from_utf8_lossy(&bytes).into_owned()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL: nothing of the process's own runs any more.
    pub fn kill(mut self) {
        self.child.kill().expect("still there");
        self.child.wait().expect("killed");
    }

    /// SIGTERM; returns how long it took to end cleanly.
    pub fn stop(mut self) -> Duration {
        let began = Instant::now();
        let sent = Command::new("kill").arg(self.child.id().to_string()).status().expect("kill");
        assert!(sent.success());
        let status = self.child.wait().expect("ended");
        assert!(status.success(), "riverrun ended with {status}");
        began.elapsed()
    }

    pub fn url(&self) -> String {
        format!("postgres://someone@{}/riverrun", self.postgres)
    }

    pub async fn connect(&self) -> tokio_postgres::Client {
        super::postgres::connect(&self.url()).await
    }

    pub fn execute(&self, sql: &str) {
        block_on(async { self.connect().await.batch_execute(sql).await.unwrap_or_else(|e| panic!("{sql}: {e:?}")) });
    }

    pub fn rows(&self, sql: &str) -> Vec<Vec<Option<String>>> {
        block_on(async { super::clients::text_rows(&self.connect().await, sql).await })
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
