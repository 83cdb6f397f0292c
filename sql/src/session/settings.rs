//! What `SET` and `SHOW` know: the settings of a session, by PostgreSQL's names.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::error::{Error, Result, nearest, sqlstate};

/// The version told to clients: the PostgreSQL whose behaviour and catalog are followed.
pub const SERVER_VERSION: &str = concat!("15.0 (riverrun ", env!("CARGO_PKG_VERSION"), ")");

/// What a setting may be.
enum Kind {
    /// Any text.
    Free,
    /// One of these, whatever the case; the first spelling given is the one shown.
    OneOf(&'static [&'static str]),
    Bool,
    /// Within these bounds.
    Integer(i64, i64),
    /// Milliseconds, or a number with a unit; 0 is "none".
    Time,
    /// Shown, never set.
    Fixed,
}

struct Spec {
    /// As shown.
    name: &'static str,
    default: &'static str,
    kind: Kind,
    /// Told to the client at the start and with every change.
    reported: bool,
    help: &'static str,
}

const fn spec(name: &'static str, default: &'static str, kind: Kind, reported: bool, help: &'static str) -> Spec {
    Spec { name, default, kind, reported, help }
}

use Kind::{Bool, Fixed, Free, Integer, OneOf, Time};

static SPECS: &[Spec] = &[
    spec("application_name", "", Free, true, "name of the client program"),
    spec("bytea_output", "hex", OneOf(&["hex"]), false, "how bytea is shown as text"),
    spec("client_encoding", "UTF8", OneOf(&["UTF8", "UTF-8", "unicode"]), true, "encoding of the client"),
    spec("client_min_messages", "notice", Free, false, "accepted, all messages are sent"),
    spec(
        "DateStyle",
        "ISO, MDY",
        OneOf(&["ISO, MDY", "ISO", "ISO, YMD", "ISO, DMY"]),
        true,
        "dates are shown in ISO form",
    ),
    spec("default_transaction_isolation", "read committed", OneOf(LEVELS), false, "each statement reads one epoch"),
    spec("default_transaction_read_only", "off", Bool, true, "whether transactions may not write"),
    spec("escape_string_warning", "on", Bool, false, "accepted without effect"),
    spec("extra_float_digits", "1", Integer(-15, 3), false, "floats are always shown exactly"),
    spec("idle_in_transaction_session_timeout", "0", Time, false, "accepted without effect"),
    spec("in_hot_standby", "off", Fixed, true, "this server takes writes"),
    spec("integer_datetimes", "on", Fixed, true, "times are 64-bit integers"),
    spec("IntervalStyle", "postgres", OneOf(&["postgres"]), true, "how intervals are shown"),
    spec("is_superuser", "on", Fixed, true, "there are no roles"),
    spec("jit", "off", Bool, false, "accepted without effect"),
    spec("lc_collate", "C", Fixed, false, "text sorts by its bytes"),
    spec("lc_ctype", "C.UTF-8", Fixed, false, "character classes"),
    spec("lc_messages", "C", Free, false, "accepted without effect"),
    spec("lock_timeout", "0", Time, false, "accepted without effect"),
    spec("max_identifier_length", "255", Fixed, false, "bytes of a name"),
    spec("riverrun.wait_timeout", "10s", Time, false, "longest wait for a relation that has not caught up"),
    spec("row_security", "off", Bool, false, "accepted without effect"),
    spec("search_path", "public", Free, false, "accepted: names are looked up in public"),
    spec("server_encoding", "UTF8", Fixed, true, "encoding of the server"),
    spec("server_version", SERVER_VERSION, Fixed, true, "version of PostgreSQL that is followed"),
    spec("server_version_num", "150000", Fixed, false, "the same as a number"),
    spec("session_authorization", "", Fixed, true, "name of the user"),
    spec("standard_conforming_strings", "on", OneOf(&["on", "true", "1", "yes"]), true, "backslashes are plain"),
    spec("statement_timeout", "0", Time, false, "longest run of a statement, 0 is none"),
    spec("synchronous_commit", "on", Free, false, "accepted: what is acknowledged is durable"),
    spec(
        "TimeZone",
        "UTC",
        OneOf(&["UTC", "Etc/UTC", "GMT", "Z", "0", "+0", "+00:00"]),
        true,
        "timestamps are shown in UTC",
    ),
    spec("transaction_isolation", "read committed", OneOf(LEVELS), false, "each statement reads one epoch"),
    spec("transaction_read_only", "off", Bool, false, "whether this transaction may not write"),
];

const LEVELS: &[&str] = &["read committed", "read uncommitted"];

/// One session's settings.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// What differs from the defaults, by the name as shown.
    set: BTreeMap<&'static str, String>,
    /// What stood there before `SET LOCAL`, to come back at the transaction's end.
    saved: BTreeMap<&'static str, Option<String>>,
    changed: Vec<&'static str>,
}

fn find(name: &str) -> Result<&'static Spec> {
    let canonical = match name {
        "time zone" => "timezone",
        other => other,
    };
    SPECS.iter().find(|s| s.name.eq_ignore_ascii_case(canonical)).ok_or_else(|| {
        let message = format!("unrecognized configuration parameter \"{name}\"");
        let error = Error::new(sqlstate::UNDEFINED_OBJECT, message);
        match nearest(&canonical.to_lowercase(), SPECS.iter().map(|s| s.name)) {
            Some(near) => error.hint(format!("did you mean \"{near}\"?")),
            None => error,
        }
    })
}

impl Settings {
    /// Settings of a new session of `user`.
    pub fn new(user: &str) -> Self {
        let mut settings = Self::default();
        settings.set.insert("session_authorization", user.to_owned());
        settings
    }

    pub fn get(&self, name: &str) -> Result<&str> {
        let spec = find(name)?;
        Ok(self.set.get(spec.name).map_or(spec.default, String::as_str))
    }

    /// The name as shown.
    pub fn name(name: &str) -> Result<&'static str> {
        Ok(find(name)?.name)
    }

    /// `None` is the default. `local` holds until [`Self::end_transaction`].
    pub fn set(&mut self, name: &str, value: Option<&str>, local: bool) -> Result<()> {
        let spec = find(name)?;
        let value = value.map(|v| check(spec, v)).transpose()?;
        if matches!(spec.kind, Fixed) {
            let message = format!("parameter \"{}\" cannot be changed", spec.name);
            return Err(Error::new(sqlstate::CANT_CHANGE_RUNTIME_PARAM, message));
        }
        if local {
            self.saved.entry(spec.name).or_insert_with(|| self.set.get(spec.name).cloned());
        }
        self.put(spec, value);
        Ok(())
    }

    /// A start-up parameter: what is not known is left out, as poolers and drivers send more than any server knows.
    pub fn set_at_start(&mut self, name: &str, value: &str) {
        if let Ok(spec) = find(name)
            && let Ok(value) = check(spec, value)
            && !matches!(spec.kind, Fixed)
        {
            self.put(spec, Some(value));
        }
        self.changed.clear();
    }

    fn put(&mut self, spec: &'static Spec, value: Option<String>) {
        let before = match value {
            Some(value) => self.set.insert(spec.name, value),
            None => self.set.remove(spec.name),
        };
        if spec.reported && before.as_ref() != self.set.get(spec.name) {
            self.changed.push(spec.name);
        }
    }

    pub fn reset_all(&mut self) {
        let settable = SPECS.iter().filter(|s| !matches!(s.kind, Fixed));
        for spec in settable {
            self.put(spec, None);
        }
        self.saved.clear();
    }

    pub fn end_transaction(&mut self) {
        for (name, value) in std::mem::take(&mut self.saved) {
            if let Ok(spec) = find(name) {
                self.put(spec, value);
            }
        }
    }

    /// Name, value and meaning of all settings.
    pub fn all(&self) -> Vec<(&'static str, &str, &'static str)> {
        SPECS.iter().map(|s| (s.name, self.set.get(s.name).map_or(s.default, String::as_str), s.help)).collect()
    }

    /// What a client is told when it starts.
    pub fn reported(&self) -> impl Iterator<Item = (&'static str, &str)> {
        SPECS.iter().filter(|s| s.reported).map(|s| (s.name, self.set.get(s.name).map_or(s.default, String::as_str)))
    }

    /// What has changed since the last call and has to be told.
    pub fn take_changed(&mut self) -> Vec<(&'static str, String)> {
        let changed = std::mem::take(&mut self.changed);
        changed.into_iter().map(|name| (name, self.get(name).unwrap_or_default().to_owned())).collect()
    }

    /// Whether a setting of the kind on or off is on.
    pub fn is_on(&self, name: &str) -> bool {
        self.get(name).is_ok_and(|value| value == "on")
    }

    /// A time setting; `None` for 0.
    pub fn time(&self, name: &str) -> Option<Duration> {
        self.get(name).ok().and_then(parse_time).filter(|t| !t.is_zero())
    }
}

/// The value in the form that is kept.
fn check(spec: &Spec, value: &str) -> Result<String> {
    let value = value.trim();
    let invalid = |hint: String| {
        let message = format!("invalid value for parameter \"{}\": \"{value}\"", spec.name);
        Error::new(sqlstate::INVALID_PARAMETER_VALUE, message).hint(hint)
    };
    match spec.kind {
        Free | Fixed => Ok(value.to_owned()),
        OneOf(allowed) => {
            let same = |a: &&&str| a.eq_ignore_ascii_case(value);
            match allowed.iter().find(same) {
                // Other spellings mean the first, but for isolation levels, which are kept as asked.
                Some(found) if spec.name.ends_with("isolation") => Ok((*found).to_owned()),
                Some(_) => Ok(spec.default.to_owned()),
                None => Err(invalid(format!("only {} is supported: {}", allowed[0], spec.help))),
            }
        }
        Bool => match value.to_ascii_lowercase().as_str() {
            "on" | "true" | "yes" | "1" => Ok("on".into()),
            "off" | "false" | "no" | "0" => Ok("off".into()),
            _ => Err(invalid("on or off was expected".into())),
        },
        Integer(min, max) => match value.parse::<i64>() {
            Ok(n) if (min..=max).contains(&n) => Ok(n.to_string()),
            _ => Err(invalid(format!("a number from {min} to {max} was expected"))),
        },
        Time => match parse_time(value) {
            Some(time) => Ok(show_time(time)),
            None => Err(invalid("valid units are \"ms\", \"s\", \"min\", \"h\" and \"d\"".into())),
        },
    }
}

fn parse_time(value: &str) -> Option<Duration> {
    let value = value.trim();
    let digits = value.find(|c: char| !c.is_ascii_digit()).unwrap_or(value.len());
    let number: u64 = value[..digits].parse().ok()?;
    let unit_ms = match value[digits..].trim() {
        "" | "ms" => 1,
        "s" => 1_000,
        "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    number.checked_mul(unit_ms).map(Duration::from_millis)
}

/// In the largest unit that divides it, as PostgreSQL shows times.
fn show_time(time: Duration) -> String {
    let ms = time.as_millis();
    let units = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "min"), (1_000, "s"), (1, "ms")];
    match units.iter().find(|(unit, _)| ms.is_multiple_of(*unit)) {
        Some((unit, name)) if ms > 0 => format!("{}{name}", ms / unit),
        _ => "0".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn set_show_and_report() {
        let mut settings = Settings::new("bob");
        settings.set("statement_timeout", Some("90000"), false).unwrap();
        assert_eq!(settings.get("statement_timeout").unwrap(), "90s");
        assert_eq!(settings.time("statement_timeout"), Some(Duration::from_secs(90)));
        settings.set("application_name", Some("app"), false).unwrap();
        assert_eq!(settings.take_changed(), [("application_name", "app".to_owned())]);
        settings.set("timezone", Some("etc/utc"), false).unwrap();
        assert_eq!(settings.get("TimeZone").unwrap(), "UTC");
        assert_eq!(settings.set("timezone", Some("Europe/Berlin"), false).unwrap_err().code, "22023");
        assert_eq!(settings.set("server_version", Some("9"), false).unwrap_err().code, "55P02");
        let error = settings.set("statement_timeot", Some("1"), false).unwrap_err();
        assert_eq!(error.hint.as_deref(), Some("did you mean \"statement_timeout\"?"));
    }

    #[test]
    fn local_settings_end_with_the_transaction() {
        let mut settings = Settings::new("bob");
        settings.set("statement_timeout", Some("1s"), false).unwrap();
        settings.set("statement_timeout", Some("2s"), true).unwrap();
        assert_eq!(settings.get("statement_timeout").unwrap(), "2s");
        settings.end_transaction();
        assert_eq!(settings.get("statement_timeout").unwrap(), "1s");
    }
}
