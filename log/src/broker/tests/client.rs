//! A client that says exactly what a test tells it.

use std::net::SocketAddr;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::env::Env;
use crate::env::net::Stream;
use crate::record::Batch;
use crate::wire::api::Api;
use crate::wire::fetch::{FetchPartition, FetchRequest, FetchResponse, FetchTopic, PartitionData};
use crate::wire::primitive::{Form, Reader, Str, Wire, Writer};
use crate::wire::produce::{
    PartitionProduceData, PartitionProduceResponse, ProduceRequest, ProduceResponse, TopicProduceData,
};

pub struct Client {
    stream: Stream,
    correlation_id: i32,
    expected: i32,
}

impl Client {
    pub async fn connect(env: &Env, address: SocketAddr) -> Client {
        let stream = env.connect(&address.to_string()).await.unwrap();
        Client { stream, correlation_id: 0, expected: 0 }
    }

    pub async fn send_bytes(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// Sends a request and does not wait for the answer.
    pub async fn send(&mut self, api: Api, version: i16, body: &impl Wire) {
        let frame = self.frame(api, version, body);
        self.send_bytes(&frame).await;
    }

    pub fn frame(&mut self, api: Api, version: i16, body: &impl Wire) -> Vec<u8> {
        self.correlation_id += 1;
        let old = Form { version: 0, flexible: false };
        let form = api.form(version);
        let mut to = Writer::default();
        (api as i16).encode(&mut to, old);
        version.encode(&mut to, old);
        self.correlation_id.encode(&mut to, old);
        Some(Str::from("test")).encode(&mut to, old);
        if form.flexible {
            to.uvarint(0);
        }
        body.encode(&mut to, form);
        let mut frame = to.into_frame();
        let size = frame.remaining();
        frame.copy_to_bytes(size).to_vec()
    }

    /// The next answer, which must be that of the oldest request without one.
    pub async fn receive<T: Wire>(&mut self, api: Api, version: i16) -> T {
        self.expected += 1;
        let length = self.stream.read_i32().await.unwrap();
        let mut bytes = vec![0; length as usize];
        self.stream.read_exact(&mut bytes).await.unwrap();
        let form = api.form(version);
        let mut from = Reader::new(Bytes::from(bytes));
        assert_eq!(i32::decode(&mut from, form).unwrap(), self.expected, "answers come in order");
        if form.flexible && api != Api::ApiVersions {
            from.tagged(|_, _| Ok(false)).unwrap();
        }
        let body = T::decode(&mut from, form).unwrap();
        from.finish().unwrap();
        body
    }

    /// The request before this one gets no answer.
    pub fn expect_next(&mut self, correlation_id: i32) {
        self.expected = correlation_id - 1;
    }

    pub async fn call<T: Wire>(&mut self, api: Api, version: i16, body: &impl Wire) -> T {
        self.send(api, version, body).await;
        self.receive(api, version).await
    }

    /// Whether the other end has closed, without another byte.
    pub async fn is_closed(&mut self) -> bool {
        matches!(self.stream.read(&mut [0]).await, Ok(0) | Err(_))
    }

    pub async fn produce(&mut self, version: i16, request: &ProduceRequest) -> PartitionProduceResponse {
        let mut response: ProduceResponse = self.call(Api::Produce, version, request).await;
        response.responses.remove(0).partition_responses.remove(0)
    }

    /// Fetches from one partition; gives its data and the batches in it.
    pub async fn fetch(&mut self, version: i16, request: &FetchRequest) -> (PartitionData, Vec<Batch>) {
        let mut response: FetchResponse = self.call(Api::Fetch, version, request).await;
        let data = response.responses.remove(0).partitions.remove(0);
        let batches = batches(&data);
        (data, batches)
    }
}

pub fn batches(data: &PartitionData) -> Vec<Batch> {
    let mut to = Writer::default();
    data.records.encode(&mut to, Form { version: 4, flexible: false });
    let mut frame = to.into_frame();
    frame.advance(8);
    let size = frame.remaining();
    let mut bytes = frame.copy_to_bytes(size);
    std::iter::from_fn(|| Batch::split_from(&mut bytes).unwrap()).collect()
}

pub fn produce_request(topic: &str, acks: i16, parts: &[(i32, &Batch)]) -> ProduceRequest {
    let part = |(index, batch): &(i32, &Batch)| {
        let mut records = Vec::new();
        batch.write_to(&mut records);
        PartitionProduceData { index: *index, records: Some(records.into()) }
    };
    ProduceRequest {
        transactional_id: None,
        acks,
        timeout_ms: 5_000,
        topic_data: vec![TopicProduceData {
            name: Str::from(topic),
            partition_data: parts.iter().map(part).collect(),
            ..TopicProduceData::default()
        }],
    }
}

pub fn fetch_request(topic: &str, partition: i32, offset: i64) -> FetchRequest {
    let partitions = vec![FetchPartition {
        partition,
        fetch_offset: offset,
        partition_max_bytes: 1 << 20,
        ..FetchPartition::default()
    }];
    FetchRequest {
        min_bytes: 1,
        topics: vec![FetchTopic { topic: Str::from(topic), partitions, ..FetchTopic::default() }],
        ..FetchRequest::default()
    }
}
