//! DescribeConfigs, AlterConfigs and IncrementalAlterConfigs.

use super::client::produce_request;
use super::*;
use crate::cluster::config::TOPIC_CONFIGS;
use crate::wire::api::Api;
use crate::wire::configs::{
    AlterConfigsRequest, AlterConfigsResource, AlterConfigsResponse, AlterableConfig, DescribeConfigsRequest,
    DescribeConfigsResource, DescribeConfigsResourceResult, DescribeConfigsResponse, DescribeConfigsResult,
    IncrementalAlterConfigsRequest, IncrementalAlterConfigsResource, IncrementalAlterConfigsResponse,
    IncrementalAlterableConfig, config_type, operation, resource, source,
};
use crate::wire::error_code::ErrorCode;
use crate::wire::primitive::Str;

fn resource_of(resource_type: i8, name: &str, keys: Option<&[&str]>) -> DescribeConfigsResource {
    let configuration_keys = keys.map(|keys| keys.iter().copied().map(Str::from).collect());
    DescribeConfigsResource { resource_type, resource_name: Str::from(name), configuration_keys }
}

async fn describe(
    client: &mut Client,
    version: i16,
    resources: Vec<DescribeConfigsResource>,
) -> Vec<DescribeConfigsResult> {
    let request = DescribeConfigsRequest { resources, include_synonyms: true, include_documentation: version >= 3 };
    client.call::<DescribeConfigsResponse>(Api::DescribeConfigs, version, &request).await.results
}

fn option<'a>(result: &'a DescribeConfigsResult, name: &str) -> &'a DescribeConfigsResourceResult {
    let found = result.configs.iter().find(|config| config.name.text() == name);
    found.unwrap_or_else(|| panic!("{name} is not in {result:?}"))
}

fn value(config: &DescribeConfigsResourceResult) -> String {
    config.value.as_ref().unwrap().text().into_owned()
}

/// Name, value and source of what gives an option a value.
fn synonyms(config: &DescribeConfigsResourceResult) -> Vec<(String, String, i8)> {
    let text = |text: &Str| text.text().into_owned();
    config.synonyms.iter().map(|one| (text(&one.name), text(one.value.as_ref().unwrap()), one.source)).collect()
}

#[test]
fn a_topic_tells_all_its_options() {
    with_broker(|fixture| async move {
        let mut client = fixture.client().await;
        for version in 1..=4 {
            let results = describe(&mut client, version, vec![resource_of(resource::TOPIC, "compact", None)]).await;
            let found = &results[0];
            assert_eq!((found.error_code, found.resource_type, &*found.resource_name.text()), (0, 2, "compact"));
            assert_eq!(found.configs.len(), TOPIC_CONFIGS.len(), "defaults are told too");
            let policy = option(found, "cleanup.policy");
            assert_eq!((value(policy), policy.config_source), ("compact".to_owned(), source::TOPIC));
            let own = ("cleanup.policy".to_owned(), "compact".to_owned(), source::TOPIC);
            let default = ("log.cleanup.policy".to_owned(), "delete".to_owned(), source::DEFAULT);
            assert_eq!(synonyms(policy), [own, default]);
            let retention = option(found, "retention.ms");
            assert_eq!((value(retention), retention.config_source), ("604800000".to_owned(), source::DEFAULT));
            assert_eq!(synonyms(retention), [("log.retention.ms".to_owned(), "604800000".to_owned(), source::DEFAULT)]);
            assert!(!retention.read_only && !retention.is_sensitive);
            assert!(option(found, config::WRITER).read_only);
            let types = (policy.config_type, retention.config_type);
            assert_eq!(types, if version >= 3 { (config_type::LIST, config_type::LONG) } else { (0, 0) });
            assert_eq!(retention.documentation.is_some(), version >= 3);
        }
        // No more than was asked for; an empty list names none, which is all.
        let keys: [Option<&[&str]>; 3] = [Some(&["retention.ms", "no.such"]), Some(&[]), Some(&["no.such"])];
        for (keys, count) in keys.into_iter().zip([1, TOPIC_CONFIGS.len(), 0]) {
            let results = describe(&mut client, 4, vec![resource_of(resource::TOPIC, "one", keys)]).await;
            assert_eq!((results[0].error_code, results[0].configs.len()), (0, count));
        }
        let request = DescribeConfigsRequest {
            resources: vec![resource_of(resource::TOPIC, "one", None)],
            ..DescribeConfigsRequest::default()
        };
        let plain: DescribeConfigsResponse = client.call(Api::DescribeConfigs, 4, &request).await;
        let retention = option(&plain.results[0], "retention.ms");
        assert!(retention.synonyms.is_empty() && retention.documentation.is_none());
    });
}

#[test]
fn the_broker_tells_its_settings_and_each_resource_is_answered_by_itself() {
    let config = BrokerConfig { partitions_default: 3, ..BrokerConfig::default() };
    with_config(config, |fixture| async move {
        let mut client = fixture.client().await;
        let node = fixture.backend.node_id().to_string();
        let resources = vec![
            resource_of(resource::BROKER, &node, None),
            resource_of(resource::BROKER, "", None),
            resource_of(resource::BROKER, "99", None),
            resource_of(resource::TOPIC, "none", None),
            resource_of(resource::TOPIC, "a b", None),
            resource_of(resource::TOPIC, "one", None),
            resource_of(resource::TOPIC, "one", None),
            resource_of(32, "group", None),
        ];
        let results = describe(&mut client, 4, resources).await;
        let codes: Vec<_> = results.iter().map(|result| result.error_code).collect();
        let (invalid, unknown) = (ErrorCode::InvalidRequest.code(), ErrorCode::UnknownTopicOrPartition.code());
        assert_eq!(codes, [0, 0, invalid, unknown, ErrorCode::InvalidTopic.code(), 0, invalid, invalid]);
        assert!(results.iter().all(|result| (result.error_code == 0) != result.error_message.is_some()));
        let broker = &results[0];
        assert!(broker.configs.iter().all(|config| config.read_only));
        let partitions = option(broker, "num.partitions");
        assert_eq!((value(partitions), partitions.config_source), ("3".to_owned(), source::STATIC_BROKER));
        assert_eq!(synonyms(partitions)[1], ("num.partitions".to_owned(), "1".to_owned(), source::DEFAULT));
        let retention = option(broker, "log.retention.ms");
        assert_eq!((value(retention), retention.config_source), ("604800000".to_owned(), source::DEFAULT));
        let address = fixture.server.local_address();
        assert_eq!(value(option(broker, "advertised.listeners")), format!("PLAINTEXT://{address}"));
        assert_eq!(value(option(broker, "broker.id")), node);
        assert!(results[1].configs.is_empty());
    });
}

/// Does operations on the options of one resource; gives the code.
async fn incremental(
    client: &mut Client,
    of: (i8, &str),
    ops: &[(&str, i8, Option<&str>)],
    validate_only: bool,
) -> i16 {
    let op = |&(name, config_operation, value): &(&str, i8, Option<&str>)| IncrementalAlterableConfig {
        name: Str::from(name),
        config_operation,
        value: value.map(Str::from),
    };
    let configs = ops.iter().map(op).collect();
    let resources =
        vec![IncrementalAlterConfigsResource { resource_type: of.0, resource_name: Str::from(of.1), configs }];
    let request = IncrementalAlterConfigsRequest { resources, validate_only };
    let mut codes = Vec::new();
    // A rehearsal can be had twice.
    for version in if validate_only { 0..=1 } else { 1..=1 } {
        let answer: IncrementalAlterConfigsResponse =
            client.call(Api::IncrementalAlterConfigs, version, &request).await;
        let response = &answer.responses[0];
        assert_eq!((response.resource_type, &*response.resource_name.text()), of);
        assert_eq!(response.error_code == 0, response.error_message.is_none());
        codes.push(response.error_code);
    }
    codes.dedup();
    assert_eq!(codes.len(), 1);
    codes[0]
}

#[test]
fn operations_alter_what_they_name_and_nothing_else() {
    with_broker(|fixture| async move {
        let mut client = fixture.client().await;
        let one = (resource::TOPIC, "one");
        let options = || fixture.topic("one").config;
        let expect = |pairs: &[(&str, &str)]| -> crate::TopicConfig {
            pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
        };
        let ops = [
            ("retention.ms", operation::SET, Some("1000")),
            ("cleanup.policy", operation::APPEND, Some("compact")),
            ("segment.ms", operation::DELETE, None),
        ];
        assert_eq!(incremental(&mut client, one, &ops, true).await, 0);
        assert_eq!(options(), expect(&[]), "a rehearsal changes nothing");
        assert_eq!(incremental(&mut client, one, &ops, false).await, 0);
        assert_eq!(options(), expect(&[("cleanup.policy", "delete,compact"), ("retention.ms", "1000")]));
        let ops = [
            ("cleanup.policy", operation::SUBTRACT, Some("delete")),
            ("retention.ms", operation::DELETE, None),
            (config::WRITER, operation::SET, Some("")),
        ];
        assert_eq!(incremental(&mut client, one, &ops, false).await, 0);
        assert_eq!(options(), expect(&[("cleanup.policy", "compact")]));
        let (invalid, refused) = (ErrorCode::InvalidRequest, ErrorCode::InvalidConfig);
        let twice = [("retention.ms", operation::SET, Some("1")), ("retention.ms", operation::DELETE, None)];
        let half = [("retention.ms", operation::SET, Some("1")), ("segment.ms", operation::SET, Some("x"))];
        let writer = [(config::WRITER, operation::SET, Some("me"))];
        let reader = [(config::USED_BY, operation::DELETE, None)];
        type Case<'a> = ((i8, &'a str), &'a [(&'a str, i8, Option<&'a str>)], ErrorCode);
        let cases: [Case<'_>; 15] = [
            (one, &twice, invalid),
            (one, &[("retention.ms", operation::SET, None)], invalid),
            (one, &[("retention.ms", 9, Some("1"))], invalid),
            (one, &half, refused),
            (one, &[("retention.ms", operation::APPEND, Some("1"))], refused),
            (one, &[("cleanup.policy", operation::APPEND, Some("zip"))], refused),
            (one, &[("no.such", operation::SET, Some("1"))], refused),
            (one, &[("no.such", operation::DELETE, None)], refused),
            (one, &writer, refused),
            ((resource::TOPIC, "used"), &reader, refused),
            ((resource::TOPIC, "none"), &half[..1], ErrorCode::UnknownTopicOrPartition),
            ((resource::TOPIC, "view"), &half[..1], ErrorCode::TopicAuthorizationFailed),
            ((resource::TOPIC, "__transaction_state"), &half[..1], ErrorCode::InvalidTopic),
            ((resource::BROKER, "1"), &half[..1], invalid),
            ((32, "group"), &half[..1], invalid),
        ];
        for (of, ops, code) in cases {
            for validate_only in [true, false] {
                assert_eq!(incremental(&mut client, of, ops, validate_only).await, code.code(), "{of:?} {ops:?}");
            }
        }
        assert_eq!(options(), expect(&[("cleanup.policy", "compact")]), "as a whole or not at all");
    });
}

async fn replace(client: &mut Client, version: i16, topics: &[&str], options: &[(&str, Option<&str>)]) -> Vec<i16> {
    let option =
        |&(name, value): &(&str, Option<&str>)| AlterableConfig { name: Str::from(name), value: value.map(Str::from) };
    let resource = |name: &&str| AlterConfigsResource {
        resource_type: resource::TOPIC,
        resource_name: Str::from(*name),
        configs: options.iter().map(option).collect(),
    };
    let request = AlterConfigsRequest { resources: topics.iter().map(resource).collect(), validate_only: false };
    let answer: AlterConfigsResponse = client.call(Api::AlterConfigs, version, &request).await;
    answer.responses.iter().map(|response| response.error_code).collect()
}

#[test]
fn the_older_way_replaces_all_and_takes_back_what_was_told() {
    with_broker(|fixture| async move {
        let mut client = fixture.client().await;
        for version in 0..=2 {
            let options = [("retention.ms", Some("5")), ("segment.ms", Some("6"))];
            assert_eq!(replace(&mut client, version, &["one"], &options).await, [0]);
            assert_eq!(fixture.topic("one").config.len(), 2);
            assert_eq!(replace(&mut client, version, &["one"], &[("segment.ms", Some("7"))]).await, [0]);
            let config = fixture.topic("one").config;
            assert_eq!((config.len(), &*config["segment.ms"]), (1, "7"), "what is not named is gone");
        }
        // Read, modify, write: everything comes back, defaults too.
        let results = describe(&mut client, 4, vec![resource_of(resource::TOPIC, "one", None)]).await;
        let all: Vec<_> = results[0].configs.iter().map(|config| (config.name.text(), value(config))).collect();
        let all: Vec<_> = all.iter().map(|(name, value)| (&**name, Some(value.as_str()))).collect();
        assert_eq!(replace(&mut client, 2, &["one", "three"], &all).await, [0, 0]);
        assert!(config::writer(&fixture.topic("one").config).is_none());
        assert_eq!(config::value(&fixture.topic("three").config, "segment.ms"), "7");
        let invalid = ErrorCode::InvalidRequest.code();
        assert_eq!(replace(&mut client, 2, &["one"], &[("segment.ms", None)]).await, [invalid]);
        assert_eq!(replace(&mut client, 2, &["one", "three", "one"], &[]).await, [invalid, 0, invalid]);
        let writer = [(config::WRITER, Some("me"))];
        assert_eq!(replace(&mut client, 2, &["one"], &writer).await, [ErrorCode::InvalidConfig.code()]);
        let kept = replace(&mut client, 2, &["view"], &[]).await;
        assert_eq!(kept, [ErrorCode::TopicAuthorizationFailed.code()]);
        // Who reads a topic is nothing that a client takes away, named or not.
        let reader = |value| [("segment.ms", Some("8")), (config::USED_BY, Some(value))];
        for options in [&reader("table used")[..], &reader("table used")[..1]] {
            assert_eq!(replace(&mut client, 2, &["used"], options).await, [0]);
            assert_eq!(config::used_by(&fixture.topic("used").config), Some("table used"));
        }
        assert_eq!(replace(&mut client, 2, &["used"], &reader("me")).await, [ErrorCode::InvalidConfig.code()]);
    });
}

#[test]
fn open_partitions_follow_the_configuration() {
    with_broker(|fixture| async move {
        let mut client = fixture.client().await;
        let one = (resource::TOPIC, "one");
        let sent = batch(&fixture.env, &["x".repeat(2_000).as_str()]);
        let request = produce_request("one", 1, &[(0, &sent)]);
        let before = client.produce(9, &request).await;
        assert_eq!((before.error_code, before.log_append_time_ms), (0, -1));
        let stamp = [("message.timestamp.type", operation::SET, Some("LogAppendTime"))];
        assert_eq!(incremental(&mut client, one, &stamp, false).await, 0);
        let stamped = client.produce(9, &request).await;
        assert!(stamped.log_append_time_ms >= fixture.env.now_ms() - 1_000, "{stamped:?}");
        let small = [("max.message.bytes", operation::SET, Some("1000"))];
        assert_eq!(incremental(&mut client, one, &small, false).await, 0);
        assert_eq!(client.produce(9, &request).await.error_code, ErrorCode::MessageTooLarge.code());
        let back =
            [("max.message.bytes", operation::DELETE, None), ("message.timestamp.type", operation::DELETE, None)];
        assert_eq!(incremental(&mut client, one, &back, false).await, 0);
        let after = client.produce(9, &request).await;
        assert_eq!((after.error_code, after.log_append_time_ms, after.base_offset), (0, -1, 2));
    });
}

/// Sends a record of this age to `one`; gives the code and the record that is at fault.
async fn aged(client: &mut Client, env: &crate::Env, age_ms: i64) -> (i16, Vec<i32>) {
    let frame = Frame { now_ms: 0, producer: None, transactional: false, batch_bytes_max: 1 << 20 };
    let record = |timestamp_ms| NewRecord { timestamp_ms: Some(timestamp_ms), ..NewRecord::default() };
    let now_ms = env.now_ms();
    let sent = Batch::build(&[record(now_ms), record(now_ms - age_ms), record(now_ms)], &frame).unwrap();
    let answer = client.produce(9, &produce_request("one", 1, &[(0, &sent)])).await;
    (answer.error_code, answer.record_errors.iter().map(|error| error.batch_index).collect())
}

#[test]
fn the_bounds_of_timestamps_are_those_of_now() {
    with_broker(|fixture| async move {
        let (mut client, env) = (fixture.client().await, fixture.env.clone());
        let one = (resource::TOPIC, "one");
        let refused = (ErrorCode::InvalidTimestamp.code(), vec![1]);
        assert_eq!(aged(&mut client, &env, 100_000).await, (0, vec![]));
        assert_eq!(aged(&mut client, &env, -3_700_000).await, refused, "an hour is the default");
        let (before, after) = ("message.timestamp.before.max.ms", "message.timestamp.after.max.ms");
        let narrow = [(before, operation::SET, Some("90000")), (after, operation::SET, Some("5000"))];
        assert_eq!(incremental(&mut client, one, &narrow, false).await, 0);
        assert_eq!(aged(&mut client, &env, 100_000).await, refused);
        assert_eq!(aged(&mut client, &env, 80_000).await, (0, vec![]));
        assert_eq!(aged(&mut client, &env, -8_000).await, refused);
        let header = [("record.validation", operation::SET, Some("header"))];
        assert_eq!(incremental(&mut client, one, &header, false).await, 0);
        assert_eq!(aged(&mut client, &env, -8_000).await.0, refused.0, "the largest is in the header");
        let stamp = [("message.timestamp.type", operation::SET, Some("LogAppendTime"))];
        assert_eq!(incremental(&mut client, one, &stamp, false).await, 0);
        assert_eq!(aged(&mut client, &env, -8_000).await, (0, vec![]));
        assert_eq!(aged(&mut client, &env, 100_000).await, (0, vec![]));
    });
}

#[test]
fn options_are_refused_in_kafkas_words() {
    with_broker(|fixture| async move {
        let mut client = fixture.client().await;
        for (name, value, expect) in [
            ("retention.ms", "-2", "Invalid value -2 for configuration retention.ms: Value must be at least -1"),
            (
                "cleanup.policy",
                "zip",
                "Invalid value zip for configuration cleanup.policy: String must be one of: compact, delete",
            ),
            ("no.such", "1", "Unknown topic config name: no.such"),
        ] {
            let config = IncrementalAlterableConfig {
                name: Str::from(name),
                config_operation: operation::SET,
                value: Some(Str::from(value)),
            };
            let resource = IncrementalAlterConfigsResource {
                resource_type: resource::TOPIC,
                resource_name: Str::from("one"),
                configs: vec![config],
            };
            let request = IncrementalAlterConfigsRequest { resources: vec![resource], validate_only: false };
            let answer: IncrementalAlterConfigsResponse = client.call(Api::IncrementalAlterConfigs, 1, &request).await;
            assert_eq!(answer.responses[0].error_message.as_ref().unwrap().text(), expect);
        }
    });
}

/// What is told of a long name or value fits into every version, nothing of it is kept, and topics can be had on.
#[test]
fn what_is_too_long_is_refused_in_few_words() {
    with_broker(|fixture| async move {
        let mut client = fixture.client().await;
        let invalid = ErrorCode::InvalidConfig.code();
        let config = fixture.topic("one").config;
        // A little too long, the longest string of the first versions, and more than a record of the journal may be when
        // each byte is escaped in it.
        for bytes in [1_001, 32_767, 12 << 20] {
            let number = format!("{}5", "0".repeat(bytes - 1));
            let escaped = format!("{}5", "\u{b}".repeat(bytes - 1));
            let items: String = (0..=bytes / 7).map(|n| format!("{n:06},")).collect();
            for (name, config_operation, value) in [
                ("retention.ms", operation::SET, &number),
                ("retention.ms", operation::SET, &escaped),
                ("cleanup.policy", operation::APPEND, &items),
                ("cleanup.policy", operation::SUBTRACT, &items),
            ] {
                let value = Some(Str::from(value.as_str()));
                let configs = vec![IncrementalAlterableConfig { name: Str::from(name), config_operation, value }];
                let (resource_type, resource_name) = (resource::TOPIC, Str::from("one"));
                let resources = vec![IncrementalAlterConfigsResource { resource_type, resource_name, configs }];
                let request = IncrementalAlterConfigsRequest { resources, validate_only: false };
                let answer: IncrementalAlterConfigsResponse =
                    client.call(Api::IncrementalAlterConfigs, 1, &request).await;
                let told = answer.responses[0].error_message.as_ref().map(|text| text.text().len());
                assert_eq!(answer.responses[0].error_code, invalid, "{name} of {bytes} bytes");
                assert!(told.is_some_and(|told| told < 3_000), "{told:?}");
            }
            if bytes <= 32_767 {
                assert_eq!(replace(&mut client, 0, &["one"], &[("retention.ms", Some(&number))]).await, [invalid]);
                assert_eq!(replace(&mut client, 0, &["one"], &[(&number, Some("1"))]).await, [invalid]);
            }
        }
        assert_eq!(fixture.topic("one").config, config);
        let ops = [("retention.ms", operation::SET, Some("5"))];
        assert_eq!(incremental(&mut client, (resource::TOPIC, "one"), &ops, false).await, 0);
    });
}
