//! A PostgreSQL server for the tests: a scratch directory, a free port, gone when the last test lets go of it.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use engine::io::Options;
use tokio_postgres::{Client, NoTls};

/// Where Debian and others put the server's programs, newest last.
const PLACES: &[&str] = &["/usr/lib/postgresql", "/usr/local/lib/postgresql", "/opt/postgresql"];

const SETTINGS: &[&str] = &[
    "wal_level=logical",
    "max_replication_slots=20",
    "max_wal_senders=20",
    "fsync=off",
    "autovacuum=off",
    "listen_addresses=127.0.0.1",
    // Whatever the server's own settings are, the connector must set its own.
    "timezone=Asia/Kolkata",
    "datestyle=German",
    "intervalstyle=iso_8601",
    "bytea_output=escape",
    "extra_float_digits=0",
];

pub struct Server {
    folder: PathBuf,
    port: u16,
}

static SHARED: Mutex<Weak<Server>> = Mutex::new(Weak::new());

impl Server {
    /// The server that tests share; each makes its own database in it.
    pub fn shared() -> Arc<Server> {
        let mut shared = SHARED.lock().unwrap();
        if let Some(server) = shared.upgrade() {
            return server;
        }
        let server = Arc::new(Server::start());
        *shared = Arc::downgrade(&server);
        server
    }

    /// A server of one's own.
    pub fn start() -> Server {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let folder = std::env::temp_dir().join(format!("riverrun-pg-{}-{port}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        if root() {
            run(Command::new("chown").arg("postgres").arg(&folder));
        }
        let data = folder.join("data");
        run(program("initdb")
            .args(["--no-sync", "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "-D"])
            .arg(&data));
        let server = Server { folder, port };
        let hba = "local all all trust\n\
                   host all,replication scram 127.0.0.1/32 scram-sha-256\n\
                   host all,replication md5er 127.0.0.1/32 md5\n\
                   host all,replication clear 127.0.0.1/32 password\n\
                   host all,replication all 127.0.0.1/32 trust\n";
        std::fs::write(data.join("pg_hba.conf"), hba).unwrap();
        server.boot();
        server
    }

    pub fn boot(&self) {
        let mut options = format!("-p {} -k {}", self.port, self.folder.display());
        for setting in SETTINGS {
            options.push_str(&format!(" -c {setting}"));
        }
        run(program("pg_ctl")
            .args(["start", "-w", "-t", "60", "-o", &options, "-l"])
            .arg(self.folder.join("log"))
            .arg("-D")
            .arg(self.folder.join("data")));
    }

    /// `fast`, or `immediate`: as a crash.
    pub fn stop(&self, mode: &str) {
        run(program("pg_ctl").args(["stop", "-w", "-m", mode, "-D"]).arg(self.folder.join("data")));
    }

    pub fn socket_folder(&self) -> &Path {
        &self.folder
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn url(&self, user: &str, database: &str) -> String {
        format!("postgres://{user}@127.0.0.1:{}/{database}", self.port)
    }

    /// Makes a database and connects to it.
    pub async fn database(&self, name: &str) -> Client {
        let admin = self.client("postgres").await;
        admin.batch_execute(&format!("DROP DATABASE IF EXISTS {name}; ")).await.unwrap();
        admin.batch_execute(&format!("CREATE DATABASE {name}")).await.unwrap();
        self.client(name).await
    }

    pub async fn client(&self, database: &str) -> Client {
        let config: tokio_postgres::Config = self.url("postgres", database).parse().unwrap();
        let (client, connection) = config.connect(NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    }

    pub fn options(&self, database: &str, more: &[(&str, &str)]) -> Options {
        let mut options = Options::from([("url".to_owned(), self.url("postgres", database))]);
        options.extend(more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        options
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let mut stop = program("pg_ctl");
        stop.args(["stop", "-w", "-m", "immediate", "-D"]).arg(self.folder.join("data"));
        let _ = stop.stdout(Stdio::null()).stderr(Stdio::null()).status();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn root() -> bool {
    let id = Command::new("id").arg("-u").output().unwrap();
    id.stdout == b"0\n"
}

/// One of the server's programs; PostgreSQL refuses to run as root, so root runs it as `postgres`.
fn program(name: &str) -> Command {
    let versions = PLACES.iter().filter_map(|place| std::fs::read_dir(place).ok()).flatten().flatten();
    let mut found: Vec<PathBuf> =
        versions.map(|version| version.path().join("bin").join(name)).filter(|path| path.exists()).collect();
    found.sort();
    let Some(path) = found.pop() else {
        panic!("no PostgreSQL server found in {PLACES:?}: install the package postgresql (tests/run does)");
    };
    if !root() {
        return Command::new(path);
    }
    let mut command = Command::new("runuser");
    command.args(["-u", "postgres", "--"]).arg(path).current_dir("/");
    command
}

fn run(command: &mut Command) {
    let output = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Tests wait for conditions, never for times; this is when they give up.
pub struct Deadline(Instant);

impl Deadline {
    pub fn new() -> Deadline {
        Deadline(Instant::now() + Duration::from_secs(60))
    }

    #[track_caller]
    pub fn check(&self, what: &str) {
        assert!(Instant::now() < self.0, "gave up waiting for {what}");
    }
}
