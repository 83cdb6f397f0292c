//! The broker as a client sees it, over the simulated network.

mod client;
mod configs;
mod epochs;
mod partitions;
mod reads;
mod requests;
mod writes;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use self::client::Client;
use super::{BrokerConfig, ServerHandle, serve};
use crate::cluster::access::{NewTopic, Topic};
use crate::cluster::backend::Backend;
use crate::cluster::config;
use crate::env::Env;
use crate::node::{Node, NodeConfig};
use crate::record::batch::Producer;
use crate::record::build::Frame;
use crate::record::{Batch, NewRecord};

/// A node with the topics `one` (1 partition), `three` (3) and `compact`, and its broker.
struct Fixture {
    env: Env,
    backend: Arc<dyn Backend>,
    server: ServerHandle,
}

impl Fixture {
    async fn start(env: Env, config: BrokerConfig) -> Fixture {
        let backend = backend(&env).await;
        for (name, partitions, option) in [
            ("one", 1, None),
            ("three", 3, None),
            ("compact", 1, Some(("cleanup.policy", "compact"))),
            ("stamped", 1, Some(("message.timestamp.type", "LogAppendTime"))),
            ("view", 1, Some((config::WRITER, "view spend"))),
            ("used", 1, Some((config::USED_BY, "table used"))),
        ] {
            let config = option.map(|(name, value)| (name.to_owned(), value.to_owned())).into_iter().collect();
            backend.create_topic(NewTopic { name: name.to_owned(), partitions, config }).await.unwrap();
        }
        let listener = env.listen("127.0.0.1:0").await.unwrap();
        let server = serve(&env, listener, Arc::clone(&backend), config);
        Fixture { env, backend, server }
    }

    async fn client(&self) -> Client {
        Client::connect(&self.env, self.server.local_address()).await
    }

    fn topic(&self, name: &str) -> Topic {
        self.backend.topic(name).unwrap()
    }
}

async fn backend(env: &Env) -> Arc<dyn Backend> {
    Node::open(env.clone(), Path::new("/data"), NodeConfig::default()).await.unwrap()
}

/// Runs a test against a broker with the default limits.
fn with_broker<F: Future<Output = ()>>(test: impl FnOnce(Fixture) -> F) {
    with_config(BrokerConfig::default(), test);
}

fn with_config<F: Future<Output = ()>>(config: BrokerConfig, test: impl FnOnce(Fixture) -> F) {
    let env = Env::simulated(7);
    env.run(async {
        let fixture = Fixture::start(env.clone(), config).await;
        test(fixture).await;
    });
}

/// One batch of records with these values, of now.
fn batch(env: &Env, values: &[&str]) -> Batch {
    batch_of(env, values, None, false)
}

fn batch_of(env: &Env, values: &[&str], producer: Option<Producer>, transactional: bool) -> Batch {
    let record = |value: &&str| NewRecord { value: Some(value.to_string().into()), ..NewRecord::default() };
    let records: Vec<_> = values.iter().map(record).collect();
    let frame = Frame { now_ms: env.now_ms(), producer, transactional, batch_bytes_max: 1 << 20 };
    Batch::build(&records, &frame).unwrap()
}

const SECOND: Duration = Duration::from_secs(1);
