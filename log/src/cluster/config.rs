//! The options a topic may have: one table for checking, for defaults, and for what clients are told of them.
//!
//! Names and defaults are Kafka's; `flush`, `record.validation`, [`USED_BY`] and [`WRITER`] are ours. An option that is
//! not listed is refused.

use super::access::{Error, TopicConfig};
use crate::store::config::PartitionConfig;

/// One option of a topic.
pub struct ConfigSpec {
    pub name: &'static str,
    pub default: &'static str,
    /// The name under which a Kafka broker says the default; none for options that are ours alone.
    pub broker_name: Option<&'static str>,
    /// What it does, in a sentence or two.
    pub doc: &'static str,
    kind: Kind,
}

/// What kind of value an option has, as Kafka tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueType {
    Boolean,
    String,
    Int,
    Long,
    Double,
    List,
}

enum Kind {
    /// A 32-bit integer not below this.
    Int(i32),
    /// A 64-bit integer not below this.
    Long(i64),
    /// Any 64-bit integer.
    AnyLong,
    /// A number between 0 and 1.
    Ratio,
    /// True or false, however written.
    Flag,
    /// False, however written; true is Kafka's and not served.
    OnlyFalse,
    OneOf(&'static [&'static str]),
    /// Comma separated, each one of these; or nothing at all.
    ListOf(&'static [&'static str]),
    /// Anything, on one line.
    Text,
}

use Kind::{AnyLong, Flag, Int, ListOf, Long, OneOf, OnlyFalse, Ratio, Text};

/// Who alone writes the topic, as people would name it (`view spend`); empty: everybody. Set by whoever creates the topic
/// in process; Kafka clients can neither set it nor write, alter or delete such a topic.
pub const WRITER: &str = "riverrun.writer";

/// Who reads the topic, as people would name it (`table clicks`); empty: nobody known. Set in process; Kafka clients can
/// neither set it nor grow or delete such a topic, but write it.
pub const USED_BY: &str = "riverrun.used_by";

/// Options that only this program sets: whatever clients do to the others, these stay.
pub(crate) const OWN: &[&str] = &[USED_BY, WRITER];

const FOREVER: &str = "9223372036854775807";

/// An option of Kafka's.
const fn kafkas(
    name: &'static str,
    default: &'static str,
    kind: Kind,
    broker_name: &'static str,
    doc: &'static str,
) -> ConfigSpec {
    ConfigSpec { name, default, broker_name: Some(broker_name), doc, kind }
}

const fn ours(name: &'static str, default: &'static str, kind: Kind, doc: &'static str) -> ConfigSpec {
    ConfigSpec { name, default, broker_name: None, doc, kind }
}

/// All options, by name.
pub const TOPIC_CONFIGS: &[ConfigSpec] = &[
    kafkas(
        "cleanup.policy",
        "delete",
        ListOf(&["compact", "delete"]),
        "log.cleanup.policy",
        "What happens to old records: delete drops them by time and size, compact keeps the last of each key; nothing: they stay.",
    ),
    kafkas(
        "compression.type",
        "producer",
        OneOf(&["producer"]),
        "compression.type",
        "Batches are kept as their producer has packed them.",
    ),
    kafkas(
        "delete.retention.ms",
        "86400000",
        Long(0),
        "log.cleaner.delete.retention.ms",
        "How long compaction keeps a tombstone for readers to see.",
    ),
    kafkas(
        "file.delete.delay.ms",
        "60000",
        Long(0),
        "log.segment.delete.delay.ms",
        "Taken and without effect: a file goes when recovery does not need it any more.",
    ),
    ours(
        "flush",
        "group",
        OneOf(&["group", "os"]),
        "When a write is acknowledged: group waits for the disk; os does not, safe against a kill, not against power loss.",
    ),
    kafkas(
        "flush.messages",
        FOREVER,
        Long(1),
        "log.flush.interval.messages",
        "Taken and without effect: see the option flush.",
    ),
    kafkas("flush.ms", FOREVER, Long(0), "log.flush.interval.ms", "Taken and without effect: see the option flush."),
    kafkas(
        "index.interval.bytes",
        "4096",
        Int(0),
        "log.index.interval.bytes",
        "So many bytes of a segment lie between two entries of its index.",
    ),
    kafkas(
        "max.compaction.lag.ms",
        FOREVER,
        Long(1),
        "log.cleaner.max.compaction.lag.ms",
        "The longest time a record stays out of compaction.",
    ),
    kafkas(
        "max.message.bytes",
        "1048588",
        Int(0),
        "message.max.bytes",
        "The largest batch that is taken, as it comes.",
    ),
    kafkas(
        "message.timestamp.after.max.ms",
        "3600000",
        Long(0),
        "log.message.timestamp.after.max.ms",
        "How far in the future the timestamp of a record may lie. Without effect for LogAppendTime.",
    ),
    kafkas(
        "message.timestamp.before.max.ms",
        FOREVER,
        Long(0),
        "log.message.timestamp.before.max.ms",
        "How far in the past the timestamp of a record may lie. Without effect for LogAppendTime.",
    ),
    kafkas(
        "message.timestamp.type",
        "CreateTime",
        OneOf(&["CreateTime", "LogAppendTime"]),
        "log.message.timestamp.type",
        "Whose clock records bear: their producer's, or the broker's when it appends them.",
    ),
    kafkas(
        "min.cleanable.dirty.ratio",
        "0.5",
        Ratio,
        "log.cleaner.min.cleanable.ratio",
        "Compaction works when at least this part of the log has not been through it.",
    ),
    kafkas(
        "min.compaction.lag.ms",
        "0",
        Long(0),
        "log.cleaner.min.compaction.lag.ms",
        "The shortest time a record stays out of compaction.",
    ),
    kafkas(
        "min.insync.replicas",
        "1",
        Int(1),
        "min.insync.replicas",
        "So many replicas must have a record before it is acknowledged to a producer that asks for all.",
    ),
    kafkas(
        "preallocate",
        "false",
        Flag,
        "log.preallocate",
        "Taken and without effect: the write-ahead log is pre-written.",
    ),
    ours(
        "record.validation",
        "full",
        OneOf(&["full", "header"]),
        "How far a batch is checked when it comes: every record, or the header and checksum alone.",
    ),
    kafkas(
        "retention.bytes",
        "-1",
        AnyLong,
        "log.retention.bytes",
        "A partition larger than this drops its oldest segments; negative: however large.",
    ),
    kafkas(
        "retention.ms",
        "604800000",
        Long(-1),
        "log.retention.ms",
        "Segments are dropped when their newest record is older than this; -1: however old.",
    ),
    ours(USED_BY, "", Text, "Who reads the topic, tables; empty: nobody known. Clients cannot set it."),
    ours(WRITER, "", Text, "Who alone writes the topic, a view or a sink; empty: everybody. Clients cannot set it."),
    kafkas(
        "segment.bytes",
        "1073741824",
        Int(1_048_576),
        "log.segment.bytes",
        "A segment ends at about this size. Retention drops whole segments.",
    ),
    kafkas(
        "segment.index.bytes",
        "10485760",
        Int(4),
        "log.index.size.max.bytes",
        "Taken and without effect: an index is as large as it must be.",
    ),
    kafkas(
        "segment.jitter.ms",
        "0",
        Long(0),
        "log.roll.jitter.ms",
        "A segment ends up to this much before segment.ms, each at a time of its own, so that not all end at once.",
    ),
    kafkas(
        "segment.ms",
        "604800000",
        Long(1),
        "log.roll.ms",
        "A segment ends after this time even when it is not full.",
    ),
    kafkas(
        "unclean.leader.election.enable",
        "false",
        OnlyFalse,
        "unclean.leader.election.enable",
        "A replica that lacks acknowledged records never leads by itself.",
    ),
];

/// Bytes of a value. All options together are one record of the topics' journal.
pub const VALUE_BYTES_MAX: usize = 1_000;

impl ConfigSpec {
    pub fn value_type(&self) -> ValueType {
        match self.kind {
            Int(_) => ValueType::Int,
            Long(_) | AnyLong => ValueType::Long,
            Ratio => ValueType::Double,
            Flag | OnlyFalse => ValueType::Boolean,
            OneOf(_) | Text => ValueType::String,
            ListOf(_) => ValueType::List,
        }
    }
}

impl Kind {
    /// What is wrong with a value, in the words of Kafka's brokers.
    fn check(&self, value: &str) -> Result<(), String> {
        let at_least = |number: i64, least: i64| {
            if number < least { Err(format!("Value must be at least {least}")) } else { Ok(()) }
        };
        let one_of = |value: &str, values: &[&str]| {
            let there = values.contains(&value);
            if there { Ok(()) } else { Err(format!("String must be one of: {}", values.join(", "))) }
        };
        match self {
            Int(least) => match value.parse::<i32>() {
                Ok(number) => at_least(number.into(), (*least).into()),
                Err(_) => Err("Not a number of type INT".to_owned()),
            },
            Long(_) | AnyLong => match (value.parse::<i64>(), self) {
                (Ok(number), Long(least)) => at_least(number, *least),
                (Ok(_), _) => Ok(()),
                (Err(_), _) => Err("Not a number of type LONG".to_owned()),
            },
            Ratio => match value.parse::<f64>() {
                Ok(number) if (0.0..=1.0).contains(&number) => Ok(()),
                Ok(number) if number < 0.0 => at_least(-1, 0),
                Ok(number) if number > 1.0 => Err("Value must be no more than 1".to_owned()),
                _ => Err("Not a number of type DOUBLE".to_owned()),
            },
            Flag | OnlyFalse if value.eq_ignore_ascii_case("false") => Ok(()),
            Flag if value.eq_ignore_ascii_case("true") => Ok(()),
            OnlyFalse if value.eq_ignore_ascii_case("true") => {
                Err("a replica that lacks acknowledged records never leads by itself here".to_owned())
            }
            Flag | OnlyFalse => Err("Expected value to be either true or false".to_owned()),
            OneOf(values) => one_of(value, values),
            ListOf(_) if value.is_empty() => Ok(()),
            ListOf(values) => value.split(',').map(str::trim).try_for_each(|item| match item {
                "" => Err("values must not be empty".to_owned()),
                item => one_of(item, values),
            }),
            Text if !value.contains(char::is_control) => Ok(()),
            Text => Err("it is no short line of text".to_owned()),
        }
    }
}

/// The option of this name.
pub fn spec(name: &str) -> Option<&'static ConfigSpec> {
    TOPIC_CONFIGS.iter().find(|spec| spec.name == name)
}

/// Every option is known and has a value it can have, beside the others; [`Error::InvalidConfig`] or
/// [`Error::UnknownConfig`] names the first that has not.
pub fn check(config: &TopicConfig) -> Result<(), Error> {
    if let Some((name, _)) = config.iter().find(|(_, value)| value.len() > VALUE_BYTES_MAX) {
        return refused(name, "", format!("it is longer than {VALUE_BYTES_MAX} bytes"));
    }
    check_values(config)?;
    let (least, most) = ("min.compaction.lag.ms", "max.compaction.lag.ms");
    let (least_ms, most_ms) = (integer(config, least), integer(config, most));
    if least_ms > most_ms {
        let reason = format!("conflict topic config setting {least} ({least_ms}) > {most} ({most_ms})");
        return refused(least, value(config, least), reason);
    }
    Ok(())
}

/// What everybody counts on who asks for a value, whatever else was asked of it when it was set.
pub(crate) fn check_values(config: &TopicConfig) -> Result<(), Error> {
    for (name, value) in config {
        match spec(name).map(|spec| spec.kind.check(value.trim())) {
            Some(Ok(())) => {}
            Some(Err(reason)) => return refused(name, value, reason),
            None => return Err(Error::UnknownConfig { name: name.clone() }),
        }
    }
    Ok(())
}

fn refused(name: &str, value: &str, reason: String) -> Result<(), Error> {
    let (name, value) = (name.to_owned(), value.to_owned());
    Err(Error::InvalidConfig { name, value, reason })
}

/// The value of a listed option, its default where the topic says nothing.
pub fn value<'a>(config: &'a TopicConfig, name: &str) -> &'a str {
    let default = || spec(name).map(|spec| spec.default);
    config.get(name).map(|value| value.trim()).or_else(default).expect("callers name options of the table")
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
    has_policy(config, "compact")
}

/// Whether old records are deleted, by time, by size or on request.
pub fn is_deleted(config: &TopicConfig) -> bool {
    has_policy(config, "delete")
}

fn has_policy(config: &TopicConfig, policy: &str) -> bool {
    value(config, "cleanup.policy").split(',').any(|item| item.trim() == policy)
}

impl PartitionConfig {
    /// What a topic's checked configuration means for its partitions.
    pub(crate) fn of(config: &TopicConfig) -> PartitionConfig {
        let bytes = |name| integer(config, name).clamp(0, i64::from(i32::MAX)) as u32;
        PartitionConfig {
            log_append_time: value(config, "message.timestamp.type") == "LogAppendTime",
            segment_bytes: bytes("segment.bytes"),
            segment_ms: integer(config, "segment.ms"),
            segment_jitter_ms: integer(config, "segment.jitter.ms"),
            index_interval_bytes: bytes("index.interval.bytes"),
            retention_ms: integer(config, "retention.ms"),
            retention_bytes: integer(config, "retention.bytes"),
            delete: is_deleted(config),
            compact: is_compacted(config),
            delete_retention_ms: integer(config, "delete.retention.ms"),
            min_compaction_lag_ms: integer(config, "min.compaction.lag.ms"),
            max_compaction_lag_ms: integer(config, "max.compaction.lag.ms"),
            min_cleanable_dirty_ratio: value(config, "min.cleanable.dirty.ratio").parse().expect("it is checked"),
            flush_os: value(config, "flush") == "os",
        }
    }
}

#[cfg(test)]
mod tests;
