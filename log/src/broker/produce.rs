//! Produce and InitProducerId.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::connection::{Answer, Answering};
use super::refusal::Refusal;
use super::topics::check_not_taken;
use super::{Broker, time_of};
use crate::cluster::access::{Error, Topic};
use crate::cluster::backend::{Appended, Appending};
use crate::cluster::config;
use crate::record::check::{Rules, Timestamps, Validation};
use crate::record::codec::Codec;
use crate::record::{Batch, TopicId, TopicPartition};
use crate::wire::error_code::ErrorCode;
use crate::wire::primitive::{Str, Uuid};
use crate::wire::produce::{
    BatchIndexAndErrorMessage, InitProducerIdRequest, InitProducerIdResponse, LeaderIdAndEpoch,
    PartitionProduceResponse, ProduceRequest, ProduceResponse, TopicProduceData, TopicProduceResponse,
};

/// Batches from this size on are checked beside the connection's task, which may then still send.
const OFFLOAD_BYTES_MIN: usize = 128 << 10;
/// The first version in which producers and consumers know zstd.
const ZSTD_FROM: i16 = 7;

/// The parts of a request, each queued or refused.
struct Started {
    name: Str,
    id: Uuid,
    partitions: Vec<(i32, Result<Appending, Refusal>)>,
}

impl Broker {
    /// Checks the batches and queues them in order. What it returns is done when they are durable.
    pub(super) async fn start_produce(broker: &Arc<Broker>, version: i16, request: ProduceRequest) -> Answering {
        let acks = request.acks;
        let mut started = Vec::with_capacity(request.topic_data.len());
        let refused = match acks {
            _ if request.transactional_id.is_some() => {
                Some(Refusal::new(ErrorCode::InvalidTxnState, "transactions of Kafka clients are not served"))
            }
            -1..=1 => None,
            _ => Some(Refusal::new(ErrorCode::InvalidRequiredAcks, "acks is none of -1, 0 and 1")),
        };
        for data in request.topic_data {
            let topic = refused.clone().map_or_else(|| broker.produce_topic(version, &data), Err);
            let mut partitions = Vec::with_capacity(data.partition_data.len());
            for part in data.partition_data {
                let queued = match &topic {
                    Ok(topic) => broker.queue(version, topic, part.index, part.records).await,
                    Err(refusal) => Err(refusal.clone()),
                };
                partitions.push((part.index, queued));
            }
            started.push(Started { name: data.name, id: data.topic_id, partitions });
        }
        let time = time_of(request.timeout_ms);
        let broker = Arc::clone(broker);
        Box::pin(async move { broker.finish_produce(started, acks, time).await })
    }

    fn produce_topic(&self, version: i16, data: &TopicProduceData) -> Result<Topic, Refusal> {
        let topic = if version >= 13 {
            let unknown = || Refusal::new(ErrorCode::UnknownTopicId, "no topic has this id");
            self.backend.topic_by_id(TopicId(data.topic_id.0)).ok_or_else(unknown)?
        } else {
            let unknown = || Refusal::from(Error::UnknownTopic(data.name.text().into_owned()));
            self.backend.topic(&data.name.text()).ok_or_else(unknown)?
        };
        check_not_taken(&topic)?;
        Ok(topic)
    }

    async fn queue(
        &self,
        version: i16,
        topic: &Topic,
        index: i32,
        records: Option<Bytes>,
    ) -> Result<Appending, Refusal> {
        let partition = TopicPartition { topic: topic.id, partition: index };
        if !(0..topic.partitions).contains(&index) {
            return Err(Error::UnknownPartition(partition).into());
        }
        let empty = || Refusal::new(ErrorCode::InvalidRecord, "a request brings one batch for each partition");
        let bytes = records.filter(|bytes| !bytes.is_empty()).ok_or_else(empty)?;
        let batch = self.check(bytes, rules(topic, self.env.now_ms())).await?;
        accept(version, &batch)?;
        Ok(self.backend.append_raw(partition, batch).await?)
    }

    async fn check(&self, bytes: Bytes, rules: Rules) -> Result<Batch, Refusal> {
        let batch = if bytes.len() < OFFLOAD_BYTES_MIN {
            Batch::check(bytes, &rules)
        } else {
            self.env.offload(move || Batch::check(bytes, &rules)).await
        };
        Ok(batch?)
    }

    async fn finish_produce(&self, started: Vec<Started>, acks: i16, time: Duration) -> Answer {
        let deadline = self.env.monotonic() + time;
        let mut failed = false;
        let mut responses = Vec::with_capacity(started.len());
        for topic in started {
            let mut partition_responses = Vec::with_capacity(topic.partitions.len());
            for (index, queued) in topic.partitions {
                let outcome = match queued {
                    Ok(appending) => self.outcome(appending, deadline).await,
                    Err(refusal) => Err(refusal),
                };
                failed |= outcome.is_err();
                partition_responses.push(partition_response(index, outcome));
            }
            responses.push(TopicProduceResponse { name: topic.name, topic_id: topic.id, partition_responses });
        }
        match acks {
            0 if failed => Answer::Close,
            0 => Answer::Nothing,
            _ => Answer::Send(ProduceResponse { responses, ..ProduceResponse::default() }.into()),
        }
    }

    async fn outcome(&self, appending: Appending, deadline: Duration) -> Result<Appended, Refusal> {
        let rest = deadline.saturating_sub(self.env.monotonic());
        match self.env.timeout(rest, appending).await {
            Some(Ok(outcome)) => Ok(outcome?),
            Some(Err(_)) => Err(Error::Unknown.into()),
            None => Err(Refusal::new(ErrorCode::RequestTimedOut, "not durable within the time of the request")),
        }
    }

    /// Every idempotent producer gets an id of its own; what it had before does not matter (KIP-360 asks no more of a
    /// producer without a transactional id).
    pub(super) async fn init_producer_id(&self, request: InitProducerIdRequest) -> InitProducerIdResponse {
        let refused = |code: ErrorCode| InitProducerIdResponse { error_code: code.code(), ..Default::default() };
        if let Some(id) = request.transactional_id {
            tracing::warn!(transactional_id = %id.text(), "transactions of Kafka clients are not served, refused");
            return refused(ErrorCode::InvalidRequest);
        }
        match self.backend.new_producer_id().await {
            Ok(producer_id) => InitProducerIdResponse { producer_id, ..Default::default() },
            Err(error) => refused(Refusal::from(error).code),
        }
    }
}

/// What a well-formed batch must be besides to be taken from a client.
fn accept(version: i16, batch: &Batch) -> Result<(), Refusal> {
    if batch.is_control() {
        return Err(Refusal::new(ErrorCode::InvalidRecord, "clients write no control batches"));
    }
    if batch.is_transactional() {
        return Err(Refusal::new(ErrorCode::InvalidTxnState, "transactions of Kafka clients are not served"));
    }
    if batch.codec()? == Codec::Zstd && version < ZSTD_FROM {
        return Err(Refusal::new(ErrorCode::UnsupportedCompressionType, "zstd needs Produce 7 or later"));
    }
    Ok(())
}

fn rules(topic: &Topic, now_ms: i64) -> Rules {
    let full = config::value(&topic.config, "record.validation") == "full";
    Rules {
        validation: if full { Validation::Full } else { Validation::Header },
        batch_bytes_max: usize::try_from(config::integer(&topic.config, "max.message.bytes")).unwrap_or_default(),
        key_required: config::is_compacted(&topic.config),
        timestamps: timestamps(topic, now_ms),
    }
}

/// The broker's own time is always good.
fn timestamps(topic: &Topic, now_ms: i64) -> Timestamps {
    if config::value(&topic.config, "message.timestamp.type") == "LogAppendTime" {
        return Timestamps::ANY;
    }
    let bound = |name| config::integer(&topic.config, name);
    Timestamps {
        least_ms: now_ms.saturating_sub(bound("message.timestamp.before.max.ms")),
        most_ms: now_ms.saturating_add(bound("message.timestamp.after.max.ms")),
    }
}

fn partition_response(index: i32, outcome: Result<Appended, Refusal>) -> PartitionProduceResponse {
    match outcome {
        Ok(appended) => PartitionProduceResponse {
            index,
            base_offset: appended.base_offset.0,
            log_append_time_ms: appended.log_append_time_ms.unwrap_or(-1),
            log_start_offset: appended.log_start.0,
            ..PartitionProduceResponse::default()
        },
        Err(refusal) => PartitionProduceResponse {
            index,
            error_code: refusal.code.code(),
            base_offset: -1,
            record_errors: refusal.record.map(|record| record_error(record, &refusal)).into_iter().collect(),
            error_message: refusal.text(),
            current_leader: LeaderIdAndEpoch::default(),
            ..PartitionProduceResponse::default()
        },
    }
}

fn record_error(record: u32, refusal: &Refusal) -> BatchIndexAndErrorMessage {
    let batch_index = i32::try_from(record).expect("records of a batch are counted in 31 bits");
    BatchIndexAndErrorMessage { batch_index, batch_index_error_message: refusal.text() }
}
