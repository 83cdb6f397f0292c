//! The command line. Data goes to stdout, all else to stderr; each kind of failure has its exit code.

mod bench;
mod demo;
mod dev;
mod render;
mod sql;
mod store;

use std::fmt;
use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

use crate::config::Config;

/// A durable log that speaks the Kafka protocol, change data capture and incremental SQL views, in one binary.
#[derive(Debug, Parser)]
#[command(name = "riverrun", version, after_help = EXIT_CODES)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not found, 4 exists already, 5 not allowed, \
     6 cannot connect, 130 interrupted.\nRIVERRUN_LOG sets what is logged, e.g. info,log::store=debug.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Everything on loopback; data in ./riverrun-data
    Dev(ServerArguments),
    /// A built-in shop, its changes in topics, a view that follows: no database needed
    Demo(DemoArguments),
    /// A client for SQL: statements from -c, -f or standard input
    Sql(SqlArguments),
    /// A data directory read offline: dump, verify
    Log(store::LogArguments),
    /// How fast this machine is with it
    Bench(bench::BenchArguments),
}

#[derive(Args, Debug, Default)]
struct ServerArguments {
    /// Where the data lies [default: ./riverrun-data]
    #[arg(long, value_name = "DIRECTORY")]
    data_dir: Option<PathBuf>,
    /// Where Kafka clients connect; port 0 takes any free one [default: 127.0.0.1:9092]
    #[arg(long, value_name = "HOST:PORT")]
    kafka_addr: Option<String>,
    /// Where PostgreSQL clients connect [default: 127.0.0.1:5433]
    #[arg(long, value_name = "HOST:PORT")]
    pg_addr: Option<String>,
    /// Where health and metrics are served [default: 127.0.0.1:8080]
    #[arg(long, value_name = "HOST:PORT")]
    http_addr: Option<String>,
    /// A TOML file of settings
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Listen on addresses that others can reach, without authentication and TLS
    #[arg(long)]
    insecure: bool,
}

#[derive(Args, Debug)]
struct DemoArguments {
    #[command(flatten)]
    server: ServerArguments,
    /// End after this time, e.g. 10s or 2m
    #[arg(long = "for", value_name = "TIME", value_parser = duration)]
    time: Option<Duration>,
}

#[derive(Args, Debug)]
struct SqlArguments {
    /// A statement to run; may be given several times
    #[arg(short = 'c', long, value_name = "STATEMENT")]
    command: Vec<String>,
    /// A file of statements to run; - is standard input
    #[arg(short = 'f', long, value_name = "FILE")]
    file: Vec<PathBuf>,
    /// Where the server listens for PostgreSQL clients
    #[arg(long, value_name = "HOST:PORT", env = "RIVERRUN_POSTGRES__ADDR", default_value = "127.0.0.1:5433")]
    pg_addr: String,
    /// The database: riverrun or a source
    #[arg(short = 'd', long, default_value = "riverrun")]
    database: String,
    /// How results are printed; in json every value is a string or null
    #[arg(short = 'o', long, value_enum, default_value_t = render::Output::Table)]
    output: render::Output,
}

/// What ends the program with something other than 0.
#[derive(Debug)]
struct Failure {
    code: u8,
    message: String,
    hint: Option<String>,
}

impl Failure {
    fn new(code: u8, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: None }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.message)?;
        self.hint.iter().try_for_each(|hint| write!(f, "\n  hint: {hint}"))
    }
}

impl From<crate::config::Error> for Failure {
    fn from(error: crate::config::Error) -> Self {
        Self { code: 2, message: error.message, hint: error.hint }
    }
}

impl From<crate::server::Error> for Failure {
    fn from(error: crate::server::Error) -> Self {
        let hint = error.hint().map(str::to_owned);
        Self { code: 1, message: crate::server::chain(&error), hint }
    }
}

/// Reads the command line and does what it says, in a runtime of its own.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: no threads to run on: {error}");
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(run(arguments));
    // What still runs has had its time in the clean stop; it ends with the process, and nothing is freed before.
    std::mem::forget(runtime);
    code
}

async fn run(arguments: Arguments) -> ExitCode {
    let result = match arguments.command {
        Command::Dev(arguments) => {
            log_to_stderr("info");
            dev::run(&arguments).await
        }
        Command::Demo(arguments) => {
            log_to_stderr("warn");
            demo::run(&arguments).await
        }
        Command::Sql(arguments) => {
            log_to_stderr("warn");
            sql::run(&arguments).await
        }
        Command::Log(arguments) => {
            log_to_stderr("error");
            store::run(&arguments)
        }
        Command::Bench(arguments) => {
            log_to_stderr("warn");
            bench::run(&arguments).await
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::from(failure.code)
        }
    }
}

impl ServerArguments {
    /// The configuration with these flags on top.
    fn config(&self, env: &log::Env) -> Result<Config, Failure> {
        let data_dir = self.data_dir.as_ref().map(|path| path.display().to_string());
        let flags = [
            ("data.dir", &data_dir),
            ("kafka.addr", &self.kafka_addr),
            ("postgres.addr", &self.pg_addr),
            ("http.addr", &self.http_addr),
        ];
        let flags: Vec<(&str, String)> =
            flags.into_iter().filter_map(|(path, flag)| Some((path, flag.clone()?))).collect();
        let config = Config::load(env.disk().as_ref(), self.config.as_deref(), std::env::vars(), &flags)?;
        config.check_exposure(self.insecure)?;
        Ok(config)
    }
}

/// Returns when the process is asked to end, by SIGTERM or SIGINT.
async fn asked_to_stop() -> Result<(), Failure> {
    let no_handler = |error| Failure::new(1, format!("cannot listen to signals: {error}"));
    let mut terminate = signal(SignalKind::terminate()).map_err(no_handler)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(no_handler)?;
    tokio::select! {
        biased;
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

/// Logs go to stderr, filtered by RIVERRUN_LOG.
fn log_to_stderr(default: &str) {
    let filter = std::env::var("RIVERRUN_LOG").unwrap_or_else(|_| default.to_owned());
    let filter = tracing_subscriber::EnvFilter::builder().parse_lossy(filter);
    let ansi = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    // A second call, in tests, changes nothing.
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(ansi).try_init();
}

/// `10s`, `2m`, `1h`, `500ms`, or seconds without a unit.
fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let wrong = || format!("{text:?} is no time; write it as 10s, 2m, 1h or 500ms");
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let unit_ms = match unit {
        "ms" => 1,
        "" | "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(wrong()),
    };
    number.checked_mul(unit_ms).map(Duration::from_millis).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn times_have_units() {
        assert_eq!(duration("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        for text in ["", "s", "10x", "-1s", "99999999999999999999h"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
