//! DescribeConfigs, AlterConfigs and IncrementalAlterConfigs: topics have options that change while they are open, the
//! broker has settings that are read at its start.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::Broker;
use super::connection::Peer;
use super::refusal::Refusal;
use super::settings::{Entry, of_broker, of_topic};
use super::topics::check_not_taken;
use crate::cluster::access::{Error, TopicConfig};
use crate::cluster::alter::{AlterConfig, AlterConfigOp, AlterKind};
use crate::cluster::config;
use crate::cluster::names::check_name;
use crate::wire::configs::{
    AlterConfigsRequest, AlterConfigsResource, AlterConfigsResourceResponse, AlterConfigsResponse,
    DescribeConfigsRequest, DescribeConfigsResource, DescribeConfigsResponse, DescribeConfigsResult,
    IncrementalAlterConfigsRequest, IncrementalAlterConfigsResource, IncrementalAlterConfigsResponse, operation,
    resource,
};
use crate::wire::error_code::ErrorCode;
use crate::wire::primitive::Str;

/// Resources that one request describes. With synonyms and words one takes about 8 KiB: 40 MiB in all.
const DESCRIBED_MAX: usize = 5_000;

/// A type and a name.
type Resource = (i8, Str);

impl Broker {
    pub(super) fn describe_configs(&self, peer: &Peer, request: DescribeConfigsRequest) -> DescribeConfigsResponse {
        let mut seen = BTreeSet::new();
        let mut results = Vec::with_capacity(request.resources.len());
        for asked in request.resources {
            let entries = if seen.len() >= DESCRIBED_MAX {
                Err(Refusal::new(ErrorCode::InvalidRequest, "one request describes no more than 5000 resources"))
            } else if !seen.insert((asked.resource_type, asked.resource_name.0.clone())) {
                Err(Refusal::new(ErrorCode::InvalidRequest, "the request names this resource more than once"))
            } else {
                self.entries(peer, &asked)
            };
            let (synonyms, words) = (request.include_synonyms, request.include_documentation);
            results.push(match entries {
                Ok(entries) => DescribeConfigsResult {
                    resource_type: asked.resource_type,
                    resource_name: asked.resource_name,
                    configs: entries.into_iter().map(|entry| entry.describe(synonyms, words)).collect(),
                    ..DescribeConfigsResult::default()
                },
                Err(refusal) => DescribeConfigsResult {
                    error_code: refusal.code.code(),
                    error_message: refusal.text(),
                    resource_type: asked.resource_type,
                    resource_name: asked.resource_name,
                    configs: Vec::new(),
                },
            });
        }
        DescribeConfigsResponse { results, ..DescribeConfigsResponse::default() }
    }

    /// The options that were asked for; all, where none is named.
    fn entries(&self, peer: &Peer, asked: &DescribeConfigsResource) -> Result<Vec<Entry>, Refusal> {
        let name = asked.resource_name.text();
        let mut entries = match asked.resource_type {
            resource::TOPIC => {
                check_name(&name)?;
                let topic = self.backend.topic(&name).ok_or_else(|| Error::UnknownTopic(name.into_owned()))?;
                of_topic(&topic.config)
            }
            // What all brokers have in common beside their own settings: there is nothing of that kind.
            resource::BROKER if name.is_empty() => Vec::new(),
            resource::BROKER => {
                let node = self.backend.node_id();
                if name.parse() != Ok(node) {
                    let message = format!("this is broker {node}, it knows no other's settings");
                    return Err(Refusal::new(ErrorCode::InvalidRequest, message));
                }
                of_broker(&self.config, node, (&peer.host, peer.port))
            }
            other => return Err(unknown_type(other)),
        };
        if let Some(names) = asked.configuration_keys.as_ref().filter(|names| !names.is_empty()) {
            let names: BTreeSet<&[u8]> = names.iter().map(|name| &name.0[..]).collect();
            entries.retain(|entry| names.contains(entry.name.as_bytes()));
        }
        Ok(entries)
    }

    pub(super) async fn alter_configs(&self, request: AlterConfigsRequest) -> AlterConfigsResponse {
        let asked = request.resources.into_iter().map(|asked| {
            let alter = replacement(&asked);
            ((asked.resource_type, asked.resource_name), alter)
        });
        let responses = self.alter_all(asked.collect(), request.validate_only).await;
        AlterConfigsResponse { responses, ..AlterConfigsResponse::default() }
    }

    pub(super) async fn incremental_alter_configs(
        &self,
        request: IncrementalAlterConfigsRequest,
    ) -> IncrementalAlterConfigsResponse {
        let asked = request.resources.into_iter().map(|asked| {
            let alter = operations(&asked);
            ((asked.resource_type, asked.resource_name), alter)
        });
        let responses = self.alter_all(asked.collect(), request.validate_only).await;
        IncrementalAlterConfigsResponse { responses, ..IncrementalAlterConfigsResponse::default() }
    }

    /// Each resource is altered by itself, as a whole or not at all.
    async fn alter_all(
        &self,
        asked: Vec<(Resource, Result<AlterConfig, Refusal>)>,
        validate: bool,
    ) -> Vec<AlterConfigsResourceResponse> {
        let mut seen = BTreeSet::new();
        let resources = asked.iter().map(|((resource_type, name), _)| (*resource_type, name.0.clone()));
        let twice: BTreeSet<(i8, Bytes)> = resources.filter(|resource| !seen.insert(resource.clone())).collect();
        let mut responses = Vec::with_capacity(asked.len());
        for ((resource_type, resource_name), alter) in asked {
            let result = match alter {
                _ if twice.contains(&(resource_type, resource_name.0.clone())) => {
                    Err(Refusal::new(ErrorCode::InvalidRequest, "the request names this resource more than once"))
                }
                Ok(alter) => self.alter(resource_type, &resource_name, alter, validate).await,
                Err(refusal) => Err(refusal),
            };
            let refusal = result.as_ref().err();
            responses.push(AlterConfigsResourceResponse {
                error_code: refusal.map_or(ErrorCode::None, |refusal| refusal.code).code(),
                error_message: refusal.and_then(Refusal::text),
                resource_type,
                resource_name,
            });
        }
        responses
    }

    async fn alter(&self, resource_type: i8, name: &Str, alter: AlterConfig, validate: bool) -> Result<(), Refusal> {
        match resource_type {
            resource::TOPIC => {}
            resource::BROKER => {
                let message = "the settings of a broker are read when it starts, they cannot be altered";
                return Err(Refusal::new(ErrorCode::InvalidRequest, message));
            }
            other => return Err(unknown_type(other)),
        }
        let name = name.text();
        check_name(&name)?;
        let topic = self.backend.topic(&name).ok_or_else(|| Error::UnknownTopic(name.into_owned()))?;
        check_not_taken(&topic)?;
        let alter = without_own(alter, &topic.config)?;
        if validate {
            alter.apply(&topic.config)?;
        } else {
            self.backend.alter_topic(&topic.name, alter).await?;
        }
        Ok(())
    }
}

fn unknown_type(resource_type: i8) -> Refusal {
    let message = format!("resources of type {resource_type} have no configuration here");
    Refusal::new(ErrorCode::InvalidRequest, message)
}

/// Every option once, and with a value where it needs one.
fn check_options<'a>(options: impl Iterator<Item = (&'a Str, bool)>) -> Result<(), Refusal> {
    let mut seen = BTreeSet::new();
    for (name, complete) in options {
        if !seen.insert(&name.0[..]) {
            let message = format!("the option {} is named more than once", name.text());
            return Err(Refusal::new(ErrorCode::InvalidRequest, message));
        }
        if !complete {
            let message = format!("the option {} needs a value", name.text());
            return Err(Refusal::new(ErrorCode::InvalidRequest, message));
        }
    }
    Ok(())
}

fn replacement(asked: &AlterConfigsResource) -> Result<AlterConfig, Refusal> {
    check_options(asked.configs.iter().map(|option| (&option.name, option.value.is_some())))?;
    let value = |value: &Option<Str>| value.as_ref().map(|value| value.text().into_owned()).unwrap_or_default();
    let pairs = asked.configs.iter().map(|option| (option.name.text().into_owned(), value(&option.value)));
    Ok(AlterConfig::Replace(pairs.collect::<TopicConfig>()))
}

fn operations(asked: &IncrementalAlterConfigsResource) -> Result<AlterConfig, Refusal> {
    let complete = asked.configs.iter().map(|option| {
        let value = option.value.is_some() || option.config_operation == operation::DELETE;
        (&option.name, value)
    });
    check_options(complete)?;
    let ops = asked.configs.iter().map(|option| {
        let value = option.value.as_ref().map(|value| value.text().into_owned()).unwrap_or_default();
        let kind = match option.config_operation {
            operation::SET => AlterKind::Set(value),
            operation::DELETE => AlterKind::Delete,
            operation::APPEND => AlterKind::Append(value),
            operation::SUBTRACT => AlterKind::Subtract(value),
            other => {
                let message = format!("there is no operation {other} on options");
                return Err(Refusal::new(ErrorCode::InvalidRequest, message));
            }
        };
        Ok(AlterConfigOp { name: option.name.text().into_owned(), kind })
    });
    ops.collect::<Result<_, _>>().map(AlterConfig::Incremental)
}

/// Clients send back what they were told, all of it: options that they cannot set are passed over when they are to have
/// the value they have, and refused with any other.
fn without_own(alter: AlterConfig, now: &TopicConfig) -> Result<AlterConfig, Refusal> {
    let check = |name: &str, value: &str| {
        if config::value(now, name) == value {
            return Ok(());
        }
        let (name, value) = (name.to_owned(), value.to_owned());
        Err(Refusal::from(Error::InvalidConfig { name, value, reason: "no client sets it".to_owned() }))
    };
    match alter {
        AlterConfig::Replace(mut config) => {
            for name in config::OWN {
                config.remove(*name).map_or(Ok(()), |value| check(name, &value))?;
            }
            Ok(AlterConfig::Replace(config))
        }
        AlterConfig::Incremental(mut ops) => {
            for op in ops.extract_if(.., |op| config::OWN.contains(&op.name.as_str())) {
                match &op.kind {
                    AlterKind::Delete => check(&op.name, "")?,
                    AlterKind::Set(value) | AlterKind::Append(value) | AlterKind::Subtract(value) => {
                        check(&op.name, value)?;
                    }
                }
            }
            Ok(AlterConfig::Incremental(ops))
        }
    }
}
