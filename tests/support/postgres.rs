//! A PostgreSQL server in a scratch directory, on a free port, with logical decoding on.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::{Scratch, block_on, free_port};

pub struct Postgres {
    scratch: Scratch,
    bin: PathBuf,
    pub port: u16,
    as_user: Option<&'static str>,
}

impl Postgres {
    pub fn start() -> Self {
        let bin = PathBuf::from(std::env::var("RIVERRUN_TEST_PG_BIN").unwrap_or_else(|_| newest_bin()));
        assert!(
            bin.join("initdb").exists(),
            "no PostgreSQL server at {}: run tests/run, it installs one",
            bin.display()
        );
        // The server refuses to run as root.
        let root = Command::new("id").arg("-u").output().is_ok_and(|o| o.stdout.starts_with(b"0\n"));
        let server = Self { scratch: Scratch::new("pg"), bin, port: free_port(), as_user: root.then_some("postgres") };
        if let Some(user) = server.as_user {
            run(Command::new("chown").arg(user).arg(server.scratch.path()));
        }
        let data = server.data();
        run(server
            .command("initdb")
            .args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "-N", "-D"])
            .arg(data));
        server.up();
        server
    }

    fn data(&self) -> PathBuf {
        self.scratch.path().join("data")
    }

    fn command(&self, program: &str) -> Command {
        let path = self.bin.join(program);
        let mut command = match self.as_user {
            Some(user) => {
                let mut c = Command::new("runuser");
                c.args(["-u", user, "--"]).arg(path);
                c
            }
            None => Command::new(path),
        };
        command.current_dir(self.scratch.path());
        command
    }

    pub fn up(&self) {
        self.up_with("");
    }

    /// Starts the server with further `-c name=value` settings.
    pub fn up_with(&self, further: &str) {
        let options = format!(
            "-p {} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c wal_level=logical -c fsync=off \
             -c max_wal_senders=10 -c max_replication_slots=10 -c max_connections=60 -c log_min_messages=warning {further}",
            self.port
        );
        let log = self.scratch.path().join("log");
        run(self
            .command("pg_ctl")
            .args(["-w", "-t", "60", "-D"])
            .arg(self.data())
            .arg("-l")
            .arg(log)
            .args(["-o", &options, "start"]));
    }

    /// `mode` as pg_ctl has it: `fast` or `immediate` (a crash).
    pub fn down(&self, mode: &str) {
        run(self.command("pg_ctl").args(["-w", "-t", "60", "-D"]).arg(self.data()).args(["-m", mode, "stop"]));
    }

    pub fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }

    /// A connection, its driver on the current runtime.
    pub async fn connect(&self) -> tokio_postgres::Client {
        connect(&self.url()).await
    }

    pub fn execute(&self, sql: &str) {
        block_on(async { self.connect().await.batch_execute(sql).await.unwrap_or_else(|e| panic!("{sql}: {e:?}")) });
    }

    /// Rows as text, in the order of the query.
    pub fn rows(&self, sql: &str) -> Vec<Vec<Option<String>>> {
        block_on(async { super::clients::text_rows(&self.connect().await, sql).await })
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let _ = self.command("pg_ctl").arg("-D").arg(self.data()).args(["-m", "immediate", "stop"]).output();
    }
}

pub async fn connect(url: &str) -> tokio_postgres::Client {
    let (client, connection) =
        tokio_postgres::connect(url, tokio_postgres::NoTls).await.unwrap_or_else(|e| panic!("{url}: {e:?}"));
    tokio::spawn(connection);
    client
}

fn newest_bin() -> String {
    let mut found: Vec<_> = std::fs::read_dir("/usr/lib/postgresql")
        .map(|dirs| dirs.flatten().map(|d| d.path().join("bin")).collect())
        .unwrap_or_default();
    found.sort();
    found.pop().unwrap_or_default().display().to_string()
}

fn run(command: &mut Command) {
    let out = command.stdin(Stdio::null()).output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(
        out.status.success(),
        "{command:?}: {}{}",
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    );
}
