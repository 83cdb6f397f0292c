//! Counters of the Kafka listener; the labels are the APIs of the one list.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::wire::api::Api;

/// Counts from the start of the listener on.
#[derive(Default)]
pub struct Metrics {
    apis: [ApiCounters; Api::ALL.len()],
    connections_open: AtomicU64,
    connections_total: AtomicU64,
    connections_refused: AtomicU64,
    requests_malformed: AtomicU64,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
}

#[derive(Default)]
struct ApiCounters {
    requests: AtomicU64,
    micros: AtomicU64,
}

/// One number, as Prometheus shows it: `name{api="…"} value`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    pub name: &'static str,
    /// Only ever one of [`Api::ALL`].
    pub api: Option<&'static str>,
    pub value: u64,
    /// Whether it only grows.
    pub counter: bool,
}

impl Metrics {
    pub(super) fn connected(&self) {
        self.connections_open.fetch_add(1, Relaxed);
        self.connections_total.fetch_add(1, Relaxed);
    }

    pub(super) fn disconnected(&self) {
        self.connections_open.fetch_sub(1, Relaxed);
    }

    pub(super) fn refused_connection(&self) {
        self.connections_refused.fetch_add(1, Relaxed);
    }

    pub(super) fn malformed(&self) {
        self.requests_malformed.fetch_add(1, Relaxed);
    }

    pub(super) fn received(&self, bytes: usize) {
        self.bytes_in.fetch_add(bytes as u64, Relaxed);
    }

    pub(super) fn sent(&self, bytes: usize) {
        self.bytes_out.fetch_add(bytes as u64, Relaxed);
    }

    /// A request has been answered, so long after it was read (a Fetch may have waited for data meanwhile).
    pub(super) fn answered(&self, api: Api, time: Duration) {
        let index = Api::ALL.iter().position(|&other| other == api).expect("the list holds every api");
        self.apis[index].requests.fetch_add(1, Relaxed);
        self.apis[index].micros.fetch_add(time.as_micros() as u64, Relaxed);
    }

    /// All numbers as they are now.
    pub fn samples(&self) -> Vec<Sample> {
        let plain = |name, value: &AtomicU64, counter| Sample { name, api: None, value: value.load(Relaxed), counter };
        let mut samples = vec![
            plain("riverrun_kafka_connections", &self.connections_open, false),
            plain("riverrun_kafka_connections_total", &self.connections_total, true),
            plain("riverrun_kafka_connections_refused_total", &self.connections_refused, true),
            plain("riverrun_kafka_requests_malformed_total", &self.requests_malformed, true),
            plain("riverrun_kafka_received_bytes_total", &self.bytes_in, true),
            plain("riverrun_kafka_sent_bytes_total", &self.bytes_out, true),
        ];
        for (api, counters) in Api::ALL.iter().zip(&self.apis) {
            let labelled = |name, value: &AtomicU64| Sample {
                name,
                api: Some(api.name()),
                value: value.load(Relaxed),
                counter: true,
            };
            samples.push(labelled("riverrun_kafka_requests_total", &counters.requests));
            samples.push(labelled("riverrun_kafka_request_micros_total", &counters.micros));
        }
        samples
    }
}
