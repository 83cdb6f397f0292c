//! The options of a PostgreSQL source.

use std::collections::BTreeMap;
use std::time::Duration;

use engine::io::{Error, OptionSpec, Options};
use tokio_postgres::config::{Host, SslMode};

use super::choice::Tables;
use super::error::user;
use super::protocol::walsender::SESSION;
use crate::options::resolve;

/// PostgreSQL cuts names at this many bytes; a slot's longer name is an error.
const NAME_BYTES_MAX: usize = 63;
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

const fn spec(
    name: &'static str,
    aliases: &'static [&'static str],
    default: Option<&'static str>,
    help: &'static str,
) -> OptionSpec {
    OptionSpec { name, aliases, required: false, default, help, secret: false }
}

/// The option table.
pub const OPTIONS: &[OptionSpec] = &[
    OptionSpec {
        name: "url",
        aliases: &[],
        required: false,
        default: None,
        help: "postgres://user:password@host:port/database, or libpq's key=value form",
        secret: true,
    },
    spec("hostname", &["database.hostname"], None, "host of the server, instead of a url"),
    spec("port", &["database.port"], None, "port of the server, instead of a url; 5432 when not given"),
    spec("username", &["database.user", "user"], None, "role to connect as, instead of a url"),
    OptionSpec {
        name: "password",
        aliases: &["database.password"],
        required: false,
        default: None,
        help: "password of the role, instead of or in addition to a url",
        secret: true,
    },
    spec("database", &["database.dbname", "dbname"], None, "database to capture, instead of a url"),
    spec(
        "tables",
        &["table.include.list"],
        Some("public.*"),
        "tables to capture, as schema.table with * for any part of a name, separated by commas",
    ),
    spec(
        "exclude",
        &["table.exclude.list"],
        None,
        "tables to leave out of those chosen by tables, in the same form: 'public.log, public.tmp_*'",
    ),
    spec("slot.name", &[], None, "replication slot; riverrun_<source> when not given"),
    spec("publication.name", &[], None, "publication; riverrun_<source> when not given"),
    spec("plugin.name", &[], Some("pgoutput"), "output plugin; only pgoutput"),
    spec("snapshot.mode", &[], Some("initial"), "only initial: the tables as they are, then their changes"),
    spec("decimal.handling.mode", &[], Some("string"), "only string: numerics are strings of their digits"),
    spec(
        "provide.transaction.metadata",
        &[],
        Some("false"),
        "whether records carry the id of their transaction and their place in it",
    ),
];

/// A PostgreSQL source as its options say.
#[derive(Clone, Debug)]
pub struct Settings {
    pub source: String,
    pub server: tokio_postgres::Config,
    pub tables: Tables,
    pub slot: String,
    pub publication: String,
    pub transaction_metadata: bool,
    pub pace: Pace,
}

/// How often things happen; tests make them happen sooner.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// At least this often the server hears from us; less when its `wal_sender_timeout` asks for it.
    pub status: Duration,
    /// While nothing is captured, a new position is handed over at least this often, or when the log has grown by
    /// `idle_bytes`.
    pub idle: Duration,
    pub idle_bytes: u64,
    /// How long making a slot may wait for open transactions, and making a publication for locks.
    pub slot_patience: Duration,
    /// How often it is looked whether the captured tables are still published and have their keys.
    pub watch: Duration,
    /// How long it is waited until a transaction that may have changed a captured table can be seen.
    pub visible: Duration,
}

impl Default for Pace {
    fn default() -> Pace {
        Pace {
            status: Duration::from_secs(1),
            idle: Duration::from_secs(10),
            idle_bytes: 16 << 20,
            slot_patience: Duration::from_secs(60),
            watch: Duration::from_secs(2),
            visible: Duration::from_secs(5),
        }
    }
}

impl Settings {
    pub fn new(source: &str, options: &Options) -> Result<Settings, Error> {
        let options = resolve(OPTIONS, options)?;
        for (name, only) in
            [("plugin.name", "pgoutput"), ("snapshot.mode", "initial"), ("decimal.handling.mode", "string")]
        {
            if options[name] != only {
                return Err(user(
                    format!("{name} = {:?} is not supported", options[name]),
                    format!("leave {name} out, or give {only:?}"),
                ));
            }
        }
        let default_name = format!("riverrun_{source}");
        let slot = options.get("slot.name").unwrap_or(&default_name).clone();
        let valid = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        if slot.is_empty() || slot.len() > NAME_BYTES_MAX || !slot.chars().all(valid) {
            return Err(user(
                format!("{slot:?} cannot be the name of a replication slot"),
                "give slot.name: lower-case letters, digits and underscores, at most 63 of them",
            ));
        }
        let publication = options.get("publication.name").unwrap_or(&default_name).clone();
        if publication.is_empty() || publication.len() > NAME_BYTES_MAX || publication.contains('\0') {
            return Err(user(
                format!("{publication:?} cannot be the name of a publication"),
                "give publication.name: at most 63 bytes",
            ));
        }
        let transaction_metadata = match options["provide.transaction.metadata"].as_str() {
            "true" => true,
            "false" => false,
            other => {
                let message = format!("provide.transaction.metadata = {other:?} is neither true nor false");
                return Err(user(message, "give true or false"));
            }
        };
        Ok(Settings {
            source: source.to_owned(),
            server: server(source, &options)?,
            tables: Tables::new(&options["tables"], options.get("exclude").map(String::as_str))?,
            slot,
            publication,
            transaction_metadata,
            pace: Pace::default(),
        })
    }

    /// The `application_name` of the replication connection: it tells our own walsender from others.
    pub fn application(&self) -> String {
        format!("riverrun {}", self.source)
    }
}

fn server(source: &str, options: &BTreeMap<&'static str, String>) -> Result<tokio_postgres::Config, Error> {
    let mut config = match options.get("url") {
        // The parser's message may hold a part of the url, and so of the password: it is not passed on.
        Some(url) => url.parse().map_err(|_| {
            user(
                "the url cannot be read",
                "write postgres://user:password@host:port/database; escape special characters as %XX",
            )
        })?,
        None if options.contains_key("hostname") => tokio_postgres::Config::new(),
        None => return Err(user("option \"url\" is missing", "url: postgres://user:password@host:port/database")),
    };
    if options.contains_key("url") && ["hostname", "port"].iter().any(|name| options.contains_key(name)) {
        return Err(user("both url and hostname or port are given", "give one of them"));
    }
    if let Some(host) = options.get("hostname") {
        config.host(host);
    }
    if let Some(port) = options.get("port") {
        config.port(port.parse().map_err(|_| user(format!("port {port:?} is no port"), "give 1 to 65535"))?);
    }
    if let Some(name) = options.get("username") {
        config.user(name);
    }
    if let Some(password) = options.get("password") {
        config.password(password);
    }
    if let Some(database) = options.get("database") {
        config.dbname(database);
    }
    if config.get_hosts().len() + config.get_hostaddrs().len() == 0 {
        config.host("localhost");
    }
    if config.get_hosts().len() > 1 || config.get_hostaddrs().len() > 1 {
        return Err(user(
            "the url names several hosts",
            "name the one whose changes are to be captured: a slot lives on one server",
        ));
    }
    let tcp = matches!(config.get_hosts().first(), None | Some(Host::Tcp(_)));
    if tcp && !matches!(config.get_ssl_mode(), SslMode::Disable | SslMode::Prefer) {
        return Err(user(
            "TLS to PostgreSQL is not supported yet",
            "use sslmode=disable over a network you trust, or connect through a tunnel",
        ));
    }
    if config.get_user().is_none() {
        return Err(user("the url names no user", "write postgres://user:password@host:port/database"));
    }
    config.ssl_mode(SslMode::Disable);
    if config.get_connect_timeout().is_none() {
        config.connect_timeout(CONNECT_TIMEOUT);
    }
    let session = match config.get_options() {
        Some(given) => format!("{given} {SESSION}"),
        None => SESSION.to_owned(),
    };
    config.options(session).application_name(format!("riverrun {source} (sql)"));
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(pairs: &[(&str, &str)]) -> Options {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn options_are_checked() {
        let url = ("url", "postgres://me:secret@127.0.0.1:5432/shop");
        let settings = Settings::new("shop", &options(&[url])).unwrap();
        assert_eq!((settings.slot.as_str(), settings.publication.as_str()), ("riverrun_shop", "riverrun_shop"));
        assert!(settings.tables.matches("public", "orders"));
        let settings = Settings::new("shop", &options(&[url, ("table.exclude.list", "public.log")])).unwrap();
        assert!(settings.tables.matches("public", "orders") && !settings.tables.matches("public", "log"));
        for bad in [
            &[("tables", "public.*")][..],
            &[url, ("nonsense", "1")],
            &[url, ("tables", "a.b"), ("table.include.list", "a.b")],
            &[url, ("exclude", "")],
            &[url, ("tables", "a.b, a.c"), ("exclude", "a.?")],
            &[url, ("plugin.name", "wal2json")],
            &[url, ("slot.name", "Not-Valid")],
            &[url, ("provide.transaction.metadata", "maybe")],
            &[("url", "postgres://me@a,b/shop")],
            &[("url", "postgres://me@a/shop?sslmode=require")],
            &[("url", "postgres://a/shop")],
            &[("url", "postgres://me:secret@a:port/x")],
        ] {
            let error = Settings::new("shop", &options(bad)).unwrap_err();
            assert!(matches!(error, Error::User { .. }), "{bad:?}: {error}");
            assert!(!format!("{error:?}").contains("sec"), "{error:?} shows the password");
        }
        assert!(Settings::new("Shop", &options(&[url])).is_err(), "no default slot name for upper case");
        let parts = &[("database.hostname", "db"), ("database.user", "me"), ("database.password", "x")];
        assert_eq!(Settings::new("shop", &options(parts)).unwrap().server.get_user(), Some("me"));
    }
}
