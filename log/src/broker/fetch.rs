//! Fetch: whole batches as they are stored, with long polling.

use std::time::Duration;

use bytes::Bytes;

use super::Broker;
use super::refusal::Refusal;
use crate::cluster::access::{Bounds, Error, Isolation};
use crate::cluster::backend::{EpochEnd, Fetched};
use crate::record::codec::Codec;
use crate::record::{Batch, LeaderEpoch, Offset, TopicId, TopicPartition};
use crate::wire::error_code::ErrorCode;
use crate::wire::fetch::{
    AbortedTransaction, EpochEndOffset, FetchPartition, FetchRequest, FetchResponse, FetchTopic,
    FetchableTopicResponse, PartitionData,
};
use crate::wire::primitive::Records;

/// The first version whose readers know zstd.
const ZSTD_FROM: i16 = 10;
/// Session epochs of a reader that has no session, and of one that asks for a new one.
const SESSIONLESS: [i32; 2] = [-1, 0];

/// What one look at all partitions found.
#[derive(Default)]
struct Pass {
    responses: Vec<FetchableTopicResponse>,
    bytes: usize,
    /// Somebody must be told at once: of an error, or that what it read is not what is here.
    urgent: bool,
    /// Where the visible part of each partition ended.
    ends: Vec<(TopicPartition, Offset)>,
    /// `bytes` and what is there but had no room: waiting does not make more of it.
    available: usize,
}

/// What is left to give to the partitions that come next, and how.
struct Limits {
    version: i16,
    isolation: Isolation,
    bytes_left: usize,
}

impl Broker {
    /// Sessions are not kept: the session id is always 0, and every request names all its partitions.
    pub(super) async fn fetch(&self, version: i16, request: FetchRequest) -> FetchResponse {
        if request.session_id != 0 || !SESSIONLESS.contains(&request.session_epoch) {
            let error_code = ErrorCode::FetchSessionIdNotFound.code();
            return FetchResponse { error_code, ..FetchResponse::default() };
        }
        let isolation = if request.isolation_level == 1 { Isolation::Committed } else { Isolation::Uncommitted };
        let wait = Duration::from_millis(request.max_wait_ms.max(0) as u64)
            .min(self.config.fetch_wait_max)
            .min(self.config.idle_max / 2);
        let deadline = self.env.monotonic() + wait;
        let bytes_left = usize::try_from(request.max_bytes).unwrap_or(0).min(self.config.fetch_bytes_max);
        // No answer is larger than `bytes_left`: more is not waited for.
        let bytes_min = usize::try_from(request.min_bytes).unwrap_or(0).min(bytes_left);
        loop {
            let mut pass = self.read(&request, Limits { version, isolation, bytes_left }).await;
            let rest = deadline.saturating_sub(self.env.monotonic());
            let enough = pass.urgent || pass.available >= bytes_min;
            if enough || rest.is_zero() || !self.wait(rest, std::mem::take(&mut pass.ends), isolation).await {
                return FetchResponse { responses: pass.responses, ..FetchResponse::default() };
            }
        }
    }

    /// False when the time has passed and nothing came.
    async fn wait(&self, time: Duration, ends: Vec<(TopicPartition, Offset)>, isolation: Isolation) -> bool {
        if ends.is_empty() {
            self.env.sleep(time).await;
            return false;
        }
        self.env.timeout(time, self.backend.wait_any(ends, isolation)).await.is_some()
    }

    async fn read(&self, request: &FetchRequest, mut limits: Limits) -> Pass {
        let mut pass = Pass::default();
        for topic in &request.topics {
            let id = self.fetch_topic(limits.version, topic);
            let mut partitions = Vec::with_capacity(topic.partitions.len());
            for asked in &topic.partitions {
                let data = match id {
                    Ok(id) => self.read_partition(id, asked, &mut limits, &mut pass).await,
                    Err(code) => Err(Refusal::new(code, "")),
                };
                partitions.push(data.unwrap_or_else(|refusal| {
                    pass.urgent = true;
                    PartitionData {
                        partition_index: asked.partition,
                        error_code: refusal.code.code(),
                        high_watermark: -1,
                        ..PartitionData::default()
                    }
                }));
            }
            let (name, topic_id) = (topic.topic.clone(), topic.topic_id);
            pass.responses.push(FetchableTopicResponse { topic: name, topic_id, partitions });
        }
        pass
    }

    fn fetch_topic(&self, version: i16, topic: &FetchTopic) -> Result<TopicId, ErrorCode> {
        if version >= 13 {
            let found = self.backend.topic_by_id(TopicId(topic.topic_id.0));
            found.map(|topic| topic.id).ok_or(ErrorCode::UnknownTopicId)
        } else {
            let found = self.backend.topic(&topic.topic.text());
            found.map(|topic| topic.id).ok_or(ErrorCode::UnknownTopicOrPartition)
        }
    }

    async fn read_partition(
        &self,
        topic: TopicId,
        asked: &FetchPartition,
        limits: &mut Limits,
        pass: &mut Pass,
    ) -> Result<PartitionData, Refusal> {
        let partition = TopicPartition { topic, partition: asked.partition };
        let bounds = self.backend.bounds(partition)?;
        check_epoch(asked.current_leader_epoch, bounds.epoch)?;
        if let Some(known) = self.diverging(partition, asked, &bounds)? {
            pass.urgent = true;
            let diverging_epoch = EpochEndOffset { epoch: known.epoch.0, end_offset: known.end.0 };
            let nothing = Fetched { batches: Vec::new(), bounds, aborted: Vec::new() };
            let data = partition_data(asked.partition, nothing, limits.isolation);
            return Ok(PartitionData { diverging_epoch, ..data });
        }
        let from = Offset(asked.fetch_offset);
        let bytes_max = usize::try_from(asked.partition_max_bytes).unwrap_or(0).min(limits.bytes_left);
        let mut found = if bytes_max == 0 && pass.bytes > 0 {
            Fetched { batches: Vec::new(), bounds, aborted: Vec::new() }
        } else {
            self.backend.fetch_raw(partition, from, bytes_max, limits.isolation).await?
        };
        // The first batch of an answer goes out however large it is, those of later partitions only where there is room.
        if pass.bytes > 0 && found.batches.first().is_some_and(|batch| batch.size() > bytes_max) {
            found.batches.clear();
        }
        if limits.version < ZSTD_FROM && found.batches.iter().any(|batch| matches!(batch.codec(), Ok(Codec::Zstd))) {
            return Err(Refusal::new(ErrorCode::UnsupportedCompressionType, "zstd needs Fetch 10 or later"));
        }
        let end = visible_end(&found.bounds, limits.isolation);
        let cut = found.batches.last().map_or(from, Batch::next_offset) < end;
        pass.ends.push((partition, end));
        let data = partition_data(asked.partition, found, limits.isolation);
        let size = data.records.size();
        pass.bytes += size;
        pass.available += if cut { size.max(bytes_max) } else { size };
        limits.bytes_left = limits.bytes_left.saturating_sub(size);
        Ok(data)
    }

    /// A reader that says in which epoch it read last is told where that ended here, if it read something else.
    fn diverging(
        &self,
        partition: TopicPartition,
        asked: &FetchPartition,
        bounds: &Bounds,
    ) -> Result<Option<EpochEnd>, Refusal> {
        if asked.last_fetched_epoch < 0 {
            return Ok(None);
        }
        let (start, end) = (bounds.start, bounds.high_watermark);
        let known = self.backend.epoch_end(partition, LeaderEpoch(asked.last_fetched_epoch))?;
        match known.filter(|_| asked.fetch_offset >= start.0) {
            Some(known) => {
                let diverges = known.epoch.0 < asked.last_fetched_epoch || known.end.0 < asked.fetch_offset;
                Ok(diverges.then_some(known))
            }
            None => Err(Error::OutOfRange { offset: Offset(asked.fetch_offset), start, end }.into()),
        }
    }
}

/// A reader that knows an older or a newer leader than we are must ask anew; -1 knows none.
pub(super) fn check_epoch(known: i32, current: LeaderEpoch) -> Result<(), Refusal> {
    match known {
        ..0 => Ok(()),
        known if known < current.0 => Err(Refusal::new(ErrorCode::FencedLeaderEpoch, "the leader epoch is over")),
        known if known > current.0 => Err(Refusal::new(ErrorCode::UnknownLeaderEpoch, "no such leader epoch yet")),
        _ => Ok(()),
    }
}

pub(super) fn visible_end(bounds: &Bounds, isolation: Isolation) -> Offset {
    match isolation {
        Isolation::Uncommitted => bounds.high_watermark,
        Isolation::Committed => bounds.last_stable,
    }
}

fn partition_data(index: i32, found: Fetched, isolation: Isolation) -> PartitionData {
    let Fetched { batches, bounds, mut aborted } = found;
    let mut records = Records::default();
    for batch in &batches {
        records.push(Bytes::copy_from_slice(batch.header()));
        records.push(batch.body().clone());
    }
    // Readers walk the list beside the records and miss what is out of order.
    aborted.sort_by_key(|transaction| transaction.first_offset);
    let aborted = aborted.iter().map(|transaction| AbortedTransaction {
        producer_id: transaction.producer_id,
        first_offset: transaction.first_offset.0,
    });
    PartitionData {
        partition_index: index,
        high_watermark: bounds.high_watermark.0,
        last_stable_offset: bounds.last_stable.0,
        log_start_offset: bounds.start.0,
        aborted_transactions: (isolation == Isolation::Committed).then(|| aborted.collect()),
        records,
        ..PartitionData::default()
    }
}
