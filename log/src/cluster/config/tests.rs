//! The table of options: what is taken, what is refused and how, and what a partition is told.

use super::*;

#[test]
fn defaults_pass_and_others_are_refused() {
    let all = TOPIC_CONFIGS.iter().map(|spec| (spec.name.to_owned(), spec.default.to_owned())).collect();
    check(&all).unwrap();
    assert!(TOPIC_CONFIGS.is_sorted_by_key(|spec| spec.name));
    assert_eq!(integer(&TopicConfig::new(), "max.message.bytes"), 1_048_588);
    assert!(!is_compacted(&TopicConfig::new()));
    assert!(is_deleted(&TopicConfig::new()));
}

/// The words are those of `LogConfig.validate` of Kafka 4.3.1, but for the last ones: values that it takes.
#[test]
fn values_are_refused_as_kafka_refuses_them() {
    const GOLDEN: &[(&str, &str, &str)] = &[
        ("cleanup.policy", "zip", "String must be one of: compact, delete"),
        ("cleanup.policy", "", ""),
        ("cleanup.policy", "compact,compact", ""),
        ("cleanup.policy", "compact, delete", ""),
        ("cleanup.policy", "compact,", "values must not be empty"),
        ("retention.ms", "-2", "Value must be at least -1"),
        ("retention.ms", "x", "Not a number of type LONG"),
        ("retention.ms", "", "Not a number of type LONG"),
        ("retention.ms", " 5 ", ""),
        ("retention.ms", "+5", ""),
        ("retention.bytes", "-2", ""),
        ("segment.bytes", "1048575", "Value must be at least 1048576"),
        ("segment.bytes", "2147483648", "Not a number of type INT"),
        ("segment.ms", "0", "Value must be at least 1"),
        ("segment.jitter.ms", "-1", "Value must be at least 0"),
        ("min.cleanable.dirty.ratio", "2", "Value must be no more than 1"),
        ("min.cleanable.dirty.ratio", "-1", "Value must be at least 0"),
        ("min.cleanable.dirty.ratio", "x", "Not a number of type DOUBLE"),
        ("preallocate", "yes", "Expected value to be either true or false"),
        ("preallocate", "TRUE", ""),
        ("unclean.leader.election.enable", "maybe", "Expected value to be either true or false"),
        ("message.timestamp.type", "Now", "String must be one of: CreateTime, LogAppendTime"),
        ("message.timestamp.type", "createtime", "String must be one of: CreateTime, LogAppendTime"),
        ("message.timestamp.before.max.ms", "-1", "Value must be at least 0"),
        ("message.timestamp.after.max.ms", "-1", "Value must be at least 0"),
        ("min.insync.replicas", "0", "Value must be at least 1"),
        ("max.message.bytes", "-1", "Value must be at least 0"),
        ("delete.retention.ms", "-1", "Value must be at least 0"),
        ("flush.messages", "0", "Value must be at least 1"),
        ("flush.ms", "-1", "Value must be at least 0"),
        ("file.delete.delay.ms", "-1", "Value must be at least 0"),
        ("index.interval.bytes", "-1", "Value must be at least 0"),
        ("segment.index.bytes", "3", "Value must be at least 4"),
        ("max.compaction.lag.ms", "0", "Value must be at least 1"),
        // Ours alone.
        ("compression.type", "zstd", "String must be one of: producer"),
        (
            "unclean.leader.election.enable",
            "true",
            "a replica that lacks acknowledged records never leads by itself here",
        ),
        ("min.cleanable.dirty.ratio", "NaN", "Not a number of type DOUBLE"),
    ];
    for (name, value, expect) in GOLDEN {
        let found = check(&TopicConfig::from([((*name).to_owned(), (*value).to_owned())]));
        let found = found.err().map(|error| match error {
            Error::InvalidConfig { name: of, value: at, reason } if of == *name && at == *value => reason,
            other => panic!("{name}={value}: {other:?}"),
        });
        assert_eq!(found.unwrap_or_default(), *expect, "{name}={value}");
    }
    let unknown = check(&TopicConfig::from([("no.such".to_owned(), "1".to_owned())])).unwrap_err();
    assert!(matches!(&unknown, Error::UnknownConfig { name } if name == "no.such"), "{unknown:?}");
    let lags = |least: &str, most: &str| {
        let options = [("min.compaction.lag.ms", least), ("max.compaction.lag.ms", most)];
        check(&options.map(|(name, value)| (name.to_owned(), value.to_owned())).into())
    };
    lags("5", "5").unwrap();
    let refused = lags("6", "5").unwrap_err().to_string();
    assert!(refused.ends_with("min.compaction.lag.ms (6) > max.compaction.lag.ms (5)"), "{refused}");
}

#[test]
fn options_are_told_with_type_and_words() {
    for spec in TOPIC_CONFIGS {
        assert!(spec.doc.ends_with('.') && spec.doc.len() < 200, "{}", spec.name);
    }
    for (name, value_type) in [
        ("cleanup.policy", ValueType::List),
        ("max.message.bytes", ValueType::Int),
        ("min.cleanable.dirty.ratio", ValueType::Double),
        ("message.timestamp.type", ValueType::String),
        ("retention.ms", ValueType::Long),
        ("unclean.leader.election.enable", ValueType::Boolean),
        (WRITER, ValueType::String),
    ] {
        assert_eq!(spec(name).unwrap().value_type(), value_type, "{name}");
    }
}

#[test]
fn a_partition_is_told_what_its_topic_says() {
    const DAY_MS: i64 = 24 * 3600 * 1000;
    let default = PartitionConfig {
        log_append_time: false,
        segment_bytes: 1 << 30,
        segment_ms: 7 * DAY_MS,
        segment_jitter_ms: 0,
        index_interval_bytes: 4096,
        retention_ms: 7 * DAY_MS,
        retention_bytes: -1,
        delete: true,
        compact: false,
        delete_retention_ms: DAY_MS,
        min_compaction_lag_ms: 0,
        max_compaction_lag_ms: i64::MAX,
        min_cleanable_dirty_ratio: 0.5,
        flush_os: false,
    };
    let one = |name: &str, value: &str| {
        let config = TopicConfig::from([(name.to_owned(), value.to_owned())]);
        check(&config).unwrap();
        PartitionConfig::of(&config)
    };
    assert_eq!(PartitionConfig::of(&TopicConfig::new()), default);
    for (name, value, expect) in [
        ("message.timestamp.type", "LogAppendTime", PartitionConfig { log_append_time: true, ..default }),
        ("segment.bytes", "2147483647", PartitionConfig { segment_bytes: i32::MAX as u32, ..default }),
        ("segment.ms", "1", PartitionConfig { segment_ms: 1, ..default }),
        ("segment.jitter.ms", "8", PartitionConfig { segment_jitter_ms: 8, ..default }),
        ("index.interval.bytes", "3", PartitionConfig { index_interval_bytes: 3, ..default }),
        ("retention.ms", "-1", PartitionConfig { retention_ms: -1, ..default }),
        ("retention.bytes", "4", PartitionConfig { retention_bytes: 4, ..default }),
        ("cleanup.policy", "compact", PartitionConfig { delete: false, compact: true, ..default }),
        ("cleanup.policy", "compact, delete", PartitionConfig { compact: true, ..default }),
        ("delete.retention.ms", "5", PartitionConfig { delete_retention_ms: 5, ..default }),
        ("min.compaction.lag.ms", "6", PartitionConfig { min_compaction_lag_ms: 6, ..default }),
        ("max.compaction.lag.ms", "7", PartitionConfig { max_compaction_lag_ms: 7, ..default }),
        ("min.cleanable.dirty.ratio", "0.25", PartitionConfig { min_cleanable_dirty_ratio: 0.25, ..default }),
        ("flush", "os", PartitionConfig { flush_os: true, ..default }),
        ("retention.ms", " +9 ", PartitionConfig { retention_ms: 9, ..default }),
        ("cleanup.policy", "", PartitionConfig { delete: false, ..default }),
        ("retention.ms", "604800000", default),
    ] {
        assert_eq!(one(name, value), expect, "{name}={value}");
    }
}
