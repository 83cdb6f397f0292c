//! The options a topic may have: one table for checking, defaults and what CreateTopics answers.
//!
//! Names and defaults are Kafka's; `flush`, `record.validation`, [`USED_BY`] and [`WRITER`] are ours. An option that is not listed is
//! refused.

use super::access::{Error, TopicConfig};

/// One option of a topic.
pub struct ConfigSpec {
    pub name: &'static str,
    pub default: &'static str,
    kind: Kind,
}

enum Kind {
    /// An integer not below this.
    Integer(i64),
    /// A number between 0 and 1.
    Ratio,
    OneOf(&'static [&'static str]),
    /// Comma separated, each one of these, at least one.
    ListOf(&'static [&'static str]),
    /// Anything, on one line.
    Text,
}

use Kind::{Integer, ListOf, OneOf, Ratio, Text};

/// Who alone writes the topic, as people would name it (`view spend`); empty: everybody. Set by whoever creates the topic
/// in process; Kafka clients can neither set it nor write or delete such a topic.
pub const WRITER: &str = "riverrun.writer";

const FLAG: Kind = OneOf(&["false", "true"]);
const FOREVER: &str = "9223372036854775807";

/// Who reads the topic, as people would name it (`table clicks`); empty: nobody known. Set in process; Kafka clients can
/// neither set it nor delete such a topic, but write it.
pub const USED_BY: &str = "riverrun.used_by";

/// Options that may change while the topic stands.
pub(crate) const CHANGEABLE: &[&str] = &[USED_BY, WRITER];

const fn spec(name: &'static str, default: &'static str, kind: Kind) -> ConfigSpec {
    ConfigSpec { name, default, kind }
}

/// All options, by name.
pub const TOPIC_CONFIGS: &[ConfigSpec] = &[
    spec("cleanup.policy", "delete", ListOf(&["compact", "delete"])),
    // Batches are kept as their producer packed them.
    spec("compression.type", "producer", OneOf(&["producer"])),
    spec("delete.retention.ms", "86400000", Integer(0)),
    spec("file.delete.delay.ms", "60000", Integer(0)),
    // `os`: acknowledged after the write, safe against a kill, not against power loss.
    spec("flush", "group", OneOf(&["group", "os"])),
    spec("flush.messages", FOREVER, Integer(1)),
    spec("flush.ms", FOREVER, Integer(0)),
    spec("index.interval.bytes", "4096", Integer(0)),
    spec("max.compaction.lag.ms", FOREVER, Integer(1)),
    spec("max.message.bytes", "1048588", Integer(0)),
    spec("message.timestamp.after.max.ms", "3600000", Integer(0)),
    spec("message.timestamp.before.max.ms", FOREVER, Integer(0)),
    spec("message.timestamp.type", "CreateTime", OneOf(&["CreateTime", "LogAppendTime"])),
    spec("min.cleanable.dirty.ratio", "0.5", Ratio),
    spec("min.compaction.lag.ms", "0", Integer(0)),
    spec("min.insync.replicas", "1", Integer(1)),
    spec("preallocate", "false", FLAG),
    spec("record.validation", "full", OneOf(&["full", "header"])),
    spec("retention.bytes", "-1", Integer(-1)),
    spec("retention.ms", "604800000", Integer(-1)),
    spec(USED_BY, "", Text),
    spec(WRITER, "", Text),
    spec("segment.bytes", "1073741824", Integer(1_048_576)),
    spec("segment.index.bytes", "10485760", Integer(4)),
    spec("segment.jitter.ms", "0", Integer(0)),
    spec("segment.ms", "604800000", Integer(1)),
    spec("unclean.leader.election.enable", "false", OneOf(&["false"])),
];

impl Kind {
    fn check(&self, value: &str) -> Result<(), &'static str> {
        match self {
            Integer(min) => match value.parse::<i64>() {
                Ok(number) if number >= *min => Ok(()),
                Ok(_) => Err("it is too small"),
                Err(_) => Err("it is no integer"),
            },
            Ratio => match value.parse::<f64>() {
                Ok(number) if (0.0..=1.0).contains(&number) => Ok(()),
                _ => Err("it is no number between 0 and 1"),
            },
            OneOf(values) if values.contains(&value) => Ok(()),
            ListOf(values) if value.split(',').all(|item| values.contains(&item.trim())) => Ok(()),
            OneOf(_) | ListOf(_) => Err("it is none of the values there are"),
            Text if value.len() <= 1_000 && !value.contains(char::is_control) => Ok(()),
            Text => Err("it is no short line of text"),
        }
    }
}

/// Every option is known and has a value it can have; [`Error::InvalidConfig`] names the first that has not.
pub fn check(config: &TopicConfig) -> Result<(), Error> {
    for (name, value) in config {
        let spec = TOPIC_CONFIGS.iter().find(|spec| spec.name == name);
        let result = spec.map_or(Err("there is no such option"), |spec| spec.kind.check(value));
        result.map_err(|reason| Error::InvalidConfig { name: name.clone(), value: value.clone(), reason })?;
    }
    Ok(())
}

/// The value of a listed option, its default where the topic says nothing.
pub fn value<'a>(config: &'a TopicConfig, name: &str) -> &'a str {
    let default = || TOPIC_CONFIGS.iter().find(|spec| spec.name == name).map(|spec| spec.default);
    config.get(name).map(String::as_str).or_else(default).expect("callers name options of the table")
}

/// Who alone writes the topic, where that is said.
pub fn writer(config: &TopicConfig) -> Option<&str> {
    Some(value(config, WRITER)).filter(|writer| !writer.is_empty())
}

/// Who reads the topic, where that is said.
pub fn used_by(config: &TopicConfig) -> Option<&str> {
    Some(value(config, USED_BY)).filter(|user| !user.is_empty())
}

/// As [`value`], of an option that is an integer.
pub fn integer(config: &TopicConfig, name: &str) -> i64 {
    value(config, name).parse().expect("integers are checked when they are set")
}

/// Whether compaction works on the topic: its records then need keys.
pub fn is_compacted(config: &TopicConfig) -> bool {
    value(config, "cleanup.policy").split(',').any(|policy| policy.trim() == "compact")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_pass_and_others_are_refused() {
        let all = TOPIC_CONFIGS.iter().map(|spec| (spec.name.to_owned(), spec.default.to_owned())).collect();
        check(&all).unwrap();
        assert!(TOPIC_CONFIGS.is_sorted_by_key(|spec| spec.name));
        let one = |name: &str, value: &str| check(&TopicConfig::from([(name.to_owned(), value.to_owned())]));
        one("cleanup.policy", "compact,delete").unwrap();
        for (name, value) in [
            ("cleanup.policy", ""),
            ("retention.ms", "-2"),
            ("retention.ms", "1d"),
            ("min.cleanable.dirty.ratio", "2"),
            ("compression.type", "zstd"),
            ("no.such", "1"),
        ] {
            assert!(matches!(one(name, value), Err(Error::InvalidConfig { .. })), "{name}={value}");
        }
        assert_eq!(integer(&TopicConfig::new(), "max.message.bytes"), 1_048_588);
        assert!(!is_compacted(&TopicConfig::new()));
    }
}
