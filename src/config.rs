//! The configuration: defaults, a file, the environment and flags laid over each other, each key checked against the
//! defaults, which are the list of what exists.

use std::fmt;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::num::{NonZeroU64, NonZeroUsize};
use std::path::{Path, PathBuf};

use log::env::{Disk, Open, read_full};
use serde::Deserialize;
use toml::{Table, Value};

/// The defaults with their reasons.
pub const DEFAULTS: &str = include_str!("defaults.toml");

/// Variables of the environment that name a setting begin so: `RIVERRUN_SECTION__KEY`.
const PREFIX: &str = "RIVERRUN_";

/// Longest file of settings or statements that is read.
const TEXT_BYTES_MAX: usize = 64 << 20;

/// All settings, checked.
#[derive(Clone, Debug, Deserialize)]
pub struct Config {
    pub data: Data,
    pub log: Log,
    pub kafka: Kafka,
    pub postgres: Postgres,
    pub sql: Sql,
    pub http: Http,
    pub engine: Engine,
    pub stop: Stop,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Data {
    pub dir: PathBuf,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Log {
    pub shards: usize,
    pub wal_file_bytes: u64,
    pub wal_group_bytes: usize,
    pub tail_bytes: usize,
    pub pending_bytes: usize,
    pub cold_reads: NonZeroUsize,
    pub cold_read_bytes: NonZeroUsize,
    pub disk_reserve_bytes: u64,
    pub retention_check_interval_ms: NonZeroU64,
    pub producer_expiration_ms: NonZeroU64,
    pub compact_map_bytes: usize,
    pub compact_bytes_per_second: u64,
    pub compact_check_interval_ms: NonZeroU64,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Kafka {
    pub addr: String,
    pub connections_max: usize,
    pub request_bytes_max: usize,
    pub request_memory_bytes: usize,
    pub auto_create_topics: bool,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Postgres {
    pub addr: String,
    pub connections_max: usize,
    pub message_bytes_max: usize,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Sql {
    pub threads: usize,
    pub memory_bytes_max: usize,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Http {
    pub addr: String,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Engine {
    pub workers: usize,
    pub epoch_interval_ms_min: u64,
    pub slice_bytes_max: usize,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Stop {
    pub timeout_ms_max: u64,
}

/// A setting that cannot be: message, and what to do.
#[derive(Debug, thiserror::Error)]
pub struct Error {
    pub message: String,
    pub hint: Option<String>,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error {
    fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None }
    }

    fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl Config {
    /// Reads the file from `disk`, if one is given, and lays `environment` and `flags` (`section.key`, value) over it.
    pub fn load(
        disk: &dyn Disk,
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
        flags: &[(&str, String)],
    ) -> Result<Self, Error> {
        let mut settings: Table = DEFAULTS.parse().expect("the embedded defaults are valid");
        if let Some(path) = file {
            let text = read_text(disk, path)
                .map_err(|error| Error::new(format!("cannot read {}: {error}", path.display())))?;
            lay_file(&mut settings, &text, &path.display().to_string())?;
        }
        for (name, value) in environment {
            // Only names with a section are settings; RIVERRUN_LOG is not.
            let Some((section, key)) = name.strip_prefix(PREFIX).and_then(|rest| rest.split_once("__")) else {
                continue;
            };
            let path = format!("{}.{}", section.to_ascii_lowercase(), key.to_ascii_lowercase());
            lay_text(&mut settings, &path, &value, &name)?;
        }
        for (path, value) in flags {
            lay_text(&mut settings, path, value, path)?;
        }
        settings.try_into().map_err(|error| Error::new(format!("the configuration is not valid: {}", error.message())))
    }

    /// Refuses addresses that others can reach, unless `insecure`: there is neither authentication nor TLS.
    pub fn check_exposure(&self, insecure: bool) -> Result<(), Error> {
        for (name, addr) in [("kafka", &self.kafka.addr), ("postgres", &self.postgres.addr), ("http", &self.http.addr)]
        {
            let at =
                resolve(addr).map_err(|error| Error::new(format!("{name}.addr {addr:?} is no address: {error}")))?;
            if !insecure && !at.ip().is_loopback() {
                let message = format!("{name}.addr {addr} can be reached from other machines, by anybody");
                return Err(Error::new(message).hint(
                    "there is no authentication and no TLS yet: listen on 127.0.0.1, or say --insecure if that is meant",
                ));
            }
        }
        Ok(())
    }
}

/// A small text file, whole.
pub fn read_text(disk: &dyn Disk, path: &Path) -> io::Result<String> {
    let file = disk.open(path, Open::Read)?;
    let len = usize::try_from(file.len()?).ok().filter(|len| *len <= TEXT_BYTES_MAX);
    let mut bytes = vec![0; len.ok_or_else(|| io::Error::other(format!("it is over {TEXT_BYTES_MAX} bytes")))?];
    read_full(file.as_ref(), 0, &mut bytes)?;
    String::from_utf8(bytes).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// The first address of `host:port`.
pub fn resolve(addr: &str) -> io::Result<SocketAddr> {
    let nothing = || io::Error::other("it resolves to nothing");
    addr.to_socket_addrs()?.next().ok_or_else(nothing)
}

fn lay_file(settings: &mut Table, text: &str, name: &str) -> Result<(), Error> {
    let file: Table = text.parse().map_err(|error: toml::de::Error| {
        let line = error.span().map_or(0, |span| text[..span.start].lines().count().max(1));
        Error::new(format!("{name}, line {line}: {}", error.message()))
    })?;
    for (section, value) in file {
        let Value::Table(keys) = value else {
            return Err(unknown(settings, &section, name));
        };
        for (key, value) in keys {
            let path = format!("{section}.{key}");
            let Some(slot) = slot(settings, &path) else { return Err(unknown(settings, &path, name)) };
            if slot.type_str() != value.type_str() {
                let (want, have) = (slot.type_str(), value.type_str());
                return Err(Error::new(format!("{name}: {path} is of type {want}, not {have}")));
            }
            *slot = value;
        }
    }
    Ok(())
}

fn lay_text(settings: &mut Table, path: &str, text: &str, name: &str) -> Result<(), Error> {
    let Some(slot) = slot(settings, path) else { return Err(unknown(settings, path, name)) };
    let value = match slot {
        Value::Integer(_) => text.replace('_', "").parse().map(Value::Integer).ok(),
        Value::Boolean(_) => text.parse().map(Value::Boolean).ok(),
        Value::Float(_) => text.parse().map(Value::Float).ok(),
        _ => Some(Value::String(text.to_owned())),
    };
    let want = slot.type_str();
    *slot = value.ok_or_else(|| Error::new(format!("{name}: {text:?} is no {want}")))?;
    Ok(())
}

fn slot<'s>(settings: &'s mut Table, path: &str) -> Option<&'s mut Value> {
    let (section, key) = path.split_once('.')?;
    settings.get_mut(section)?.as_table_mut()?.get_mut(key)
}

fn unknown(settings: &Table, path: &str, name: &str) -> Error {
    let known = settings.iter().flat_map(|(section, keys)| {
        keys.as_table().into_iter().flat_map(Table::keys).map(move |key| format!("{section}.{key}"))
    });
    let known: Vec<String> = known.collect();
    let error = Error::new(format!("{name}: there is no setting {path:?}"));
    match known
        .iter()
        .min_by_key(|known| distance(known, path))
        .filter(|known| distance(known, path) <= 1 + path.len() / 3)
    {
        Some(near) => error.hint(format!("did you mean {near}?")),
        None => error.hint(format!("the settings are {}", known.join(", "))),
    }
}

/// Letters to insert, delete or replace to make one of the other (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, a) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, b) in b.iter().enumerate() {
            let cost = (diagonal + usize::from(a != *b)).min(row[j] + 1).min(row[j + 1] + 1);
            diagonal = std::mem::replace(&mut row[j + 1], cost);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(file: &str, environment: &[(&str, &str)], flags: &[(&str, String)]) -> Result<Config, Error> {
        let disk = log::Env::memory().disk();
        let path = Path::new("/riverrun.toml");
        disk.open(path, Open::Create).unwrap().write_at(0, &[io::IoSlice::new(file.as_bytes())]).unwrap();
        let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Config::load(disk.as_ref(), Some(path), environment, flags)
    }

    #[test]
    fn later_layers_win() {
        let config = load("", &[], &[]).unwrap();
        assert_eq!((config.kafka.addr.as_str(), config.http.addr.as_str()), ("127.0.0.1:9092", "127.0.0.1:8080"));
        let file = "[kafka]\naddr = 'a:1'\n[postgres]\naddr = 'a:2'\nconnections_max = 7\n[http]\naddr = 'a:3'";
        let environment =
            [("RIVERRUN_POSTGRES__ADDR", "b:2"), ("RIVERRUN_HTTP__ADDR", "b:3"), ("RIVERRUN_LOG", "debug")];
        let config = load(file, &environment, &[("http.addr", "c:3".into())]).unwrap();
        assert_eq!((config.kafka.addr.as_str(), config.postgres.addr.as_str()), ("a:1", "b:2"));
        assert_eq!((config.http.addr.as_str(), config.postgres.connections_max), ("c:3", 7));
    }

    #[test]
    fn what_is_not_there_is_named() {
        let check = |file: &str, environment: &[(&str, &str)], message: &str, hint: &str| {
            let error = load(file, environment, &[]).unwrap_err();
            assert!(error.message.contains(message), "{}", error.message);
            assert!(error.hint.as_deref().unwrap_or_default().contains(hint), "{:?}", error.hint);
        };
        check("[kafka]\nadr = 'x'", &[], "no setting \"kafka.adr\"", "did you mean kafka.addr?");
        check("[colours]\nred = 1", &[], "no setting \"colours.red\"", "the settings are data.dir");
        check("[kafka]\naddr = 1", &[], "kafka.addr is of type string, not integer", "");
        check("[kafka\n", &[], "line 1", "");
        check("", &[("RIVERRUN_ENGINE__WORKER", "2")], "no setting \"engine.worker\"", "engine.workers");
        check("", &[("RIVERRUN_ENGINE__WORKERS", "two")], "\"two\" is no integer", "");
        check("[engine]\nworkers = -1", &[], "not valid", "");
    }

    #[test]
    fn only_loopback_without_saying_so() {
        let with = |addr: &str| load("", &[], &[("postgres.addr", addr.into())]).unwrap();
        with("127.0.0.1:0").check_exposure(false).unwrap();
        with("[::1]:5433").check_exposure(false).unwrap();
        assert!(with("0.0.0.0:5433").check_exposure(false).unwrap_err().hint.unwrap().contains("--insecure"));
        with("0.0.0.0:5433").check_exposure(true).unwrap();
        assert!(with("nowhere").check_exposure(true).is_err());
    }
}
