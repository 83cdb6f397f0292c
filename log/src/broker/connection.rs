//! One connection: frames in, answers out, both in order.
//!
//! Requests are read ahead and started in order. Produce requests overlap: each takes its place in the log's queue when
//! it is started and is answered when that is durable. Any other request is started when all before it are answered, and
//! nothing is started behind it until it is: a client sees what it would see if they ran one by one.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Buf;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tracing::{debug, warn};

use super::{Broker, BrokerConfig, MEMORY_UNIT};
use crate::env::net::Stream;
use crate::wire::api::{Api, Header, Request, RequestError, Response, decode_request, encode_response};
use crate::wire::frame::FrameReader;
use crate::wire::primitive::Segments;

/// Who is at the other end, and where it reached us.
pub(super) struct Peer {
    pub from: SocketAddr,
    pub host: String,
    pub port: u16,
}

/// What becomes of a request in the end.
pub(super) enum Answer {
    Send(Response),
    /// The client asked for none.
    Nothing,
    /// It cannot be told of an error in any other way.
    Close,
}

pub(super) type Answering = Pin<Box<dyn Future<Output = Answer> + Send>>;

struct InFlight {
    header: Header,
    answer: Answering,
    read_at: Duration,
    /// Held until the answer is made.
    _memory: OwnedSemaphorePermit,
}

type Permit = Pin<Box<dyn Future<Output = OwnedSemaphorePermit> + Send>>;

struct Connection {
    broker: Arc<Broker>,
    peer: Arc<Peer>,
    frames: FrameReader,
    /// Memory for the frame at the front of `frames`, and since when it is claimed.
    memory: Option<(OwnedSemaphorePermit, Duration)>,
    waiting: Option<Permit>,
    in_flight: VecDeque<InFlight>,
    out: Segments,
    /// Nothing more is read: the client has ended, or has sent what is none of the protocol.
    ended: bool,
    /// When something has last come or gone.
    active_at: Duration,
}

/// Answers are made only while less than this waits to be sent.
const OUT_BYTES_MAX: usize = 1 << 20;

/// Serves the connection until it ends, or `stop` turns true.
pub(super) async fn run(broker: Arc<Broker>, stream: Stream, peer: Peer, mut stop: watch::Receiver<bool>) {
    let (mut read, mut write) = tokio::io::split(stream);
    let frames = FrameReader::new(broker.config.request_bytes_max);
    let mut connection = Connection {
        peer: Arc::new(peer),
        frames,
        memory: None,
        waiting: None,
        in_flight: VecDeque::new(),
        out: Segments::default(),
        ended: false,
        active_at: broker.env.monotonic(),
        broker,
    };
    connection.serve(&mut read, &mut write, &mut stop).await;
    // The other end may be gone already.
    let _ = write.shutdown().await;
}

impl Connection {
    async fn serve(
        &mut self,
        read: &mut ReadHalf<Stream>,
        write: &mut WriteHalf<Stream>,
        stop: &mut watch::Receiver<bool>,
    ) {
        let tick = self.broker.config.idle_max.min(self.broker.config.request_time_max) / 4;
        let mut ticking = Box::pin(self.broker.env.sleep(tick));
        loop {
            self.start_requests().await;
            if self.is_over() {
                return;
            }
            let may_read = self.may_read();
            let Connection { frames, waiting, in_flight, out, broker, .. } = self;
            let may_answer = !in_flight.is_empty() && out.remaining() < OUT_BYTES_MAX;
            tokio::select! {
                biased;
                _ = stop.changed(), if !self.ended => self.end(true),
                sent = write.write_buf(out), if out.has_remaining() => match sent {
                    Ok(bytes) if bytes > 0 => broker.metrics.sent(bytes),
                    _ => return,
                },
                answer = async { in_flight.front_mut().expect("one is in flight").answer.as_mut().await },
                    if may_answer => {
                    if !self.answered(answer) {
                        return;
                    }
                }
                permit = async { waiting.as_mut().expect("one is waited for").as_mut().await },
                    if waiting.is_some() => {
                    self.waiting = None;
                    self.memory = Some((permit, self.broker.env.monotonic()));
                }
                got = async { read.read_buf(frames.room()).await }, if may_read => match got {
                    Ok(0) => self.end(false),
                    Ok(bytes) => broker.metrics.received(bytes),
                    Err(error) => {
                        debug!(from = %self.peer.from, %error, "kafka connection broke");
                        return;
                    }
                },
                () = &mut ticking => {
                    if self.is_stuck() {
                        return;
                    }
                    ticking = Box::pin(self.broker.env.sleep(tick));
                    continue;
                }
            }
            self.active_at = self.broker.env.monotonic();
        }
    }

    /// Nothing at all has happened for too long, or a request that others wait for memory with does not come whole.
    fn is_stuck(&self) -> bool {
        let now = self.broker.env.monotonic();
        let BrokerConfig { idle_max, request_time_max, .. } = self.broker.config;
        let idle = now.saturating_sub(self.active_at) >= idle_max;
        let slow = self.memory.as_ref().is_some_and(|(_, since)| now.saturating_sub(*since) >= request_time_max);
        if idle || slow && !self.frames.is_whole() {
            debug!(from = %self.peer.from, idle, "kafka connection closed");
            return true;
        }
        false
    }

    /// Takes requests off the read buffer and starts them, as far as order and limits let it.
    async fn start_requests(&mut self) {
        while self.may_start() {
            match self.frames.length() {
                Ok(None) => return,
                Ok(Some(length)) => {
                    if !self.claim_memory(length) {
                        return;
                    }
                }
                Err(error) => return self.fail(&error),
            }
            match self.frames.next_frame() {
                Ok(None) => return,
                Ok(Some(frame)) => {
                    let (memory, _) = self.memory.take().expect("memory was claimed for the frame");
                    match decode_request(frame) {
                        Ok((header, request)) => self.start(header, request, memory).await,
                        Err(error) => self.refuse(error, memory),
                    }
                }
                Err(error) => return self.fail(&error),
            }
        }
    }

    /// Nothing is started behind a request that is not a Produce.
    fn may_start(&self) -> bool {
        self.in_flight.len() < self.broker.config.requests_in_flight_max
            && self.in_flight.back().is_none_or(|last| last.header.api == Api::Produce)
    }

    /// False: it has to be waited for.
    fn claim_memory(&mut self, length: usize) -> bool {
        if self.memory.is_some() {
            return true;
        }
        if self.waiting.is_some() {
            return false;
        }
        let units = length.div_ceil(MEMORY_UNIT) as u32;
        let memory = Arc::clone(&self.broker.request_memory);
        if let Ok(permit) = Arc::clone(&memory).try_acquire_many_owned(units) {
            self.memory = Some((permit, self.broker.env.monotonic()));
            return true;
        }
        self.waiting =
            Some(Box::pin(
                async move { memory.acquire_many_owned(units).await.expect("the semaphore is never closed") },
            ));
        false
    }

    async fn start(&mut self, header: Header, request: Request, memory: OwnedSemaphorePermit) {
        let read_at = self.broker.env.monotonic();
        let answer = match request {
            Request::Produce(request) => Broker::start_produce(&self.broker, header.version, request).await,
            request => {
                let (broker, peer, version) = (Arc::clone(&self.broker), Arc::clone(&self.peer), header.version);
                Box::pin(async move { Answer::Send(broker.respond(&peer, version, request).await) })
            }
        };
        self.in_flight.push_back(InFlight { header, answer, read_at, _memory: memory });
    }

    /// A request that cannot be served ends the connection, but for ApiVersions of a version to come: its answer is how a
    /// client learns what we speak.
    fn refuse(&mut self, error: RequestError, memory: OwnedSemaphorePermit) {
        let RequestError::UnsupportedVersion { api: Api::ApiVersions, correlation_id, .. } = error else {
            return self.fail(&error);
        };
        let header = Header { api: Api::ApiVersions, version: 0, correlation_id, client_id: None };
        let answer: Answering = Box::pin(async { Answer::Send(super::discovery::unsupported_api_versions().into()) });
        let read_at = self.broker.env.monotonic();
        self.in_flight.push_back(InFlight { header, answer, read_at, _memory: memory });
    }

    /// What was taken in before is still answered.
    fn fail(&mut self, error: &dyn std::error::Error) {
        self.broker.metrics.malformed();
        let source = error.source().map(ToString::to_string).unwrap_or_default();
        warn!(from = %self.peer.from, %error, source, "kafka connection closed");
        self.end(true);
    }

    /// Reads no more; `all`: nor takes what is read already.
    fn end(&mut self, all: bool) {
        self.ended = true;
        if all {
            self.frames = FrameReader::new(0);
            self.memory = None;
            self.waiting = None;
        }
    }

    /// All that is owed has been sent; nobody waits for a long poll any more.
    fn is_over(&self) -> bool {
        self.ended
            && self.waiting.is_none()
            && !self.out.has_remaining()
            && self.in_flight.front().is_none_or(|first| first.header.api == Api::Fetch)
    }

    /// Reads one frame beyond those that may start, so that the end of the stream is seen.
    fn may_read(&self) -> bool {
        !self.ended && self.waiting.is_none() && !self.frames.is_whole()
    }

    /// False: the connection ends.
    fn answered(&mut self, answer: Answer) -> bool {
        let InFlight { header, read_at, .. } = self.in_flight.pop_front().expect("its answer has just come");
        self.broker.metrics.answered(header.api, self.broker.env.monotonic().saturating_sub(read_at));
        match answer {
            Answer::Send(response) => {
                self.out.append(encode_response(&response, header.version, header.correlation_id))
            }
            Answer::Nothing => {}
            Answer::Close => return false,
        }
        true
    }
}

impl Broker {
    async fn respond(&self, peer: &Peer, version: i16, request: Request) -> Response {
        match request {
            Request::Produce(_) => unreachable!("it is started, not just answered"),
            Request::Fetch(request) => self.fetch(version, request).await.into(),
            Request::ListOffsets(request) => self.list_offsets(version, request).await.into(),
            Request::Metadata(request) => self.metadata(peer, version, request).await.into(),
            Request::ApiVersions(request) => self.api_versions(version, &request).into(),
            Request::CreateTopics(request) => self.create_topics(request).await.into(),
            Request::DeleteTopics(request) => self.delete_topics(version, request).await.into(),
            Request::DeleteRecords(request) => self.delete_records(request).await.into(),
            Request::InitProducerId(request) => self.init_producer_id(request).await.into(),
            Request::OffsetForLeaderEpoch(request) => self.offset_for_leader_epoch(request).into(),
            Request::DescribeConfigs(request) => self.describe_configs(peer, request).into(),
            Request::AlterConfigs(request) => self.alter_configs(request).await.into(),
            Request::CreatePartitions(request) => self.create_partitions(request).await.into(),
            Request::IncrementalAlterConfigs(request) => self.incremental_alter_configs(request).await.into(),
        }
    }
}
