//! What DescribeConfigs tells of a topic's options and of the broker's settings.

use super::BrokerConfig;
use crate::cluster::access::TopicConfig;
use crate::cluster::config::{self, ConfigSpec, TOPIC_CONFIGS, ValueType};
use crate::wire::configs::{DescribeConfigsResourceResult, DescribeConfigsSynonym, config_type, source};
use crate::wire::primitive::Str;

/// One option or setting.
pub(super) struct Entry {
    pub name: &'static str,
    pub read_only: bool,
    /// The value that counts, and behind it those that would in its absence: under which name, what, and whence.
    values: Vec<(&'static str, String, i8)>,
    value_type: ValueType,
    doc: &'static str,
}

impl Entry {
    pub fn value(&self) -> &str {
        &self.values[0].1
    }

    /// Whence the value is: one of [`source`].
    pub fn source(&self) -> i8 {
        self.values[0].2
    }

    pub fn describe(self, synonyms: bool, words: bool) -> DescribeConfigsResourceResult {
        let synonym = |(name, value, source): &(&'static str, String, i8)| DescribeConfigsSynonym {
            name: Str::from(*name),
            value: Some(Str::from(value.as_str())),
            source: *source,
        };
        DescribeConfigsResourceResult {
            name: Str::from(self.name),
            value: Some(Str::from(self.value())),
            read_only: self.read_only,
            config_source: self.source(),
            is_sensitive: false,
            synonyms: if synonyms { self.values.iter().map(synonym).collect() } else { Vec::new() },
            config_type: type_code(self.value_type),
            documentation: words.then(|| Str::from(self.doc)),
        }
    }
}

fn type_code(value_type: ValueType) -> i8 {
    match value_type {
        ValueType::Boolean => config_type::BOOLEAN,
        ValueType::String => config_type::STRING,
        ValueType::Int => config_type::INT,
        ValueType::Long => config_type::LONG,
        ValueType::Double => config_type::DOUBLE,
        ValueType::List => config_type::LIST,
    }
}

/// All options of a topic, defaults too: clients write back what they read.
pub(super) fn of_topic(topic: &TopicConfig) -> Vec<Entry> {
    let entry = |spec: &ConfigSpec| {
        let own = topic.get(spec.name).map(|value| (spec.name, value.clone(), source::TOPIC));
        let default = (spec.broker_name.unwrap_or(spec.name), spec.default.to_owned(), source::DEFAULT);
        Entry {
            name: spec.name,
            read_only: config::OWN.contains(&spec.name),
            values: own.into_iter().chain([default]).collect(),
            value_type: spec.value_type(),
            doc: spec.doc,
        }
    };
    TOPIC_CONFIGS.iter().map(entry).collect()
}

/// The settings of this broker, and what topics get that say nothing. Nothing of that changes while it runs.
pub(super) fn of_broker(config: &BrokerConfig, node_id: i32, reached: (&str, u16)) -> Vec<Entry> {
    let default = BrokerConfig::default();
    let setting = |name, value: String, default: Option<String>, value_type, doc| {
        let whence = if default.as_ref() == Some(&value) { source::DEFAULT } else { source::STATIC_BROKER };
        let otherwise = default.filter(|_| whence != source::DEFAULT).map(|value| (name, value, source::DEFAULT));
        let values = [(name, value, whence)].into_iter().chain(otherwise).collect();
        Entry { name, read_only: true, values, value_type, doc }
    };
    let number = |name, of: fn(&BrokerConfig) -> u64, value_type, doc| {
        setting(name, of(config).to_string(), Some(of(&default).to_string()), value_type, doc)
    };
    let fixed =
        |name, value: &str, value_type, doc| setting(name, value.to_owned(), Some(value.to_owned()), value_type, doc);
    let (host, port) = reached;
    let (create, creates) = (config.auto_create_topics.to_string(), default.auto_create_topics.to_string());
    let mut entries = vec![
        setting(
            "advertised.listeners",
            format!("PLAINTEXT://{host}:{port}"),
            None,
            ValueType::List,
            "Where clients are told to connect.",
        ),
        setting(
            "auto.create.topics.enable",
            create,
            Some(creates),
            ValueType::Boolean,
            "Creates a topic that a client asks for, if the client agrees.",
        ),
        setting("broker.id", node_id.to_string(), None, ValueType::Int, "The number of this broker."),
        number(
            "connections.max.idle.ms",
            |config| config.idle_max.as_millis() as u64,
            ValueType::Long,
            "A connection on which nothing happens for so long is closed.",
        ),
        fixed("default.replication.factor", "1", ValueType::Int, "There is one broker, so one replica."),
        fixed("delete.topic.enable", "true", ValueType::Boolean, "Clients may delete topics that they may write."),
        number(
            "fetch.max.bytes",
            |config| config.fetch_bytes_max as u64,
            ValueType::Int,
            "Bytes of records in one answer, however much is asked for; one batch may pass it.",
        ),
        number(
            "max.connections",
            |config| config.connections_max as u64,
            ValueType::Int,
            "Connections beyond this are closed at once.",
        ),
        setting("node.id", node_id.to_string(), None, ValueType::Int, "The number of this broker."),
        number(
            "num.partitions",
            |config| config.partitions_default as u64,
            ValueType::Int,
            "Partitions of topics that are created without a number.",
        ),
        number(
            "socket.request.max.bytes",
            |config| config.request_bytes_max as u64,
            ValueType::Int,
            "Bytes of the largest request.",
        ),
    ];
    let of_topics = TOPIC_CONFIGS.iter().filter_map(|spec| Some((spec.broker_name?, spec)));
    entries.extend(of_topics.map(|(name, spec)| fixed(name, spec.default, spec.value_type(), spec.doc)));
    entries.sort_by_key(|entry| entry.name);
    entries
}
