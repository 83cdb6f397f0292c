//! Every message in every version against the `kafka-protocol` crate, both ways; damage; bounds on memory.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use bytes::{Buf, Bytes, BytesMut};
use kafka_protocol::messages as theirs;
use kafka_protocol::protocol::{Decodable, Encodable, Message};
use proptest::prelude::*;

use super::api::{Api, Request, RequestError, decode_request, encode_response};
use super::frame::FrameReader;
use super::primitive::{DecodeError, Form, Reader, Records, Str, Uuid, Wire, Writer};
use super::{configs, discovery, fetch, offsets, produce, topics};

/// A small stream of numbers, the same for the same seed.
pub(crate) struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 24
    }
}

/// A random value in which only fields that the version carries are set.
pub(crate) trait Sample: Sized {
    fn sample(random: &mut Random, version: i16) -> Self;
}

macro_rules! samples {
    ($($type:ty: $random:ident => $value:expr;)*) => {
        $(impl Sample for $type {
            fn sample($random: &mut Random, _: i16) -> Self {
                $value
            }
        })*
    };
}

samples! {
    i8: random => random.next() as i8;
    i16: random => random.next() as i16;
    i32: random => random.next() as i32;
    i64: random => random.next() as i64;
    bool: random => random.next().is_multiple_of(2);
    Uuid: random => Uuid(std::array::from_fn(|_| random.next() as u8));
    Str: random => Str::from(format!("name-{}", random.next() % 1_000_000));
    Option<Bytes>: random => (!random.next().is_multiple_of(4)).then(|| Bytes::from(vec![7; random.next() as usize % 900]));
    Records: random => {
        let mut records = Records::default();
        (0..random.next() % 3).for_each(|_| records.push(Bytes::from(vec![9; random.next() as usize % 900])));
        records
    };
}

impl Sample for Option<Str> {
    fn sample(random: &mut Random, version: i16) -> Self {
        (!random.next().is_multiple_of(4)).then(|| Str::sample(random, version))
    }
}

impl<T: Sample> Sample for Vec<T> {
    fn sample(random: &mut Random, version: i16) -> Self {
        (0..random.next() % 4).map(|_| T::sample(random, version)).collect()
    }
}

impl<T: Sample> Sample for Option<Vec<T>> {
    fn sample(random: &mut Random, version: i16) -> Self {
        (!random.next().is_multiple_of(4)).then(|| Vec::sample(random, version))
    }
}

fn encode<T: Wire>(value: &T, form: Form) -> Bytes {
    let mut to = Writer::default();
    value.encode(&mut to, form);
    let mut frame = to.into_frame();
    frame.advance(4);
    let size = frame.remaining();
    frame.copy_to_bytes(size)
}

fn decode<T: Wire>(bytes: Bytes, form: Form) -> Result<T, DecodeError> {
    let mut from = Reader::new(bytes);
    let value = T::decode(&mut from, form)?;
    from.finish()?;
    Ok(value)
}

/// The integers and flags of a debug form with the name before each: the same for equal messages of both crates.
fn facts(debug: &str) -> Vec<String> {
    let words: Vec<_> = debug.split(|c: char| !(c.is_alphanumeric() || "_-:.".contains(c))).collect();
    let is_fact = |word: &str| word.parse::<i64>().is_ok() || word == "true" || word == "false";
    let mut facts = Vec::new();
    let mut name = "";
    for word in words.into_iter().filter(|word| !word.is_empty()) {
        if is_fact(word) {
            facts.push(format!("{name}{word}"));
        } else if word.ends_with(':') {
            name = word;
        }
    }
    facts
}

/// Ours to theirs and back must change neither a byte nor a value, nor the meaning of a number.
fn check<Ours, Theirs>(api: Api, versions: std::ops::RangeInclusive<i16>)
where
    Ours: Wire + Sample + PartialEq + std::fmt::Debug,
    Theirs: Message + Encodable + Decodable + std::fmt::Debug,
{
    let theirs_range = Theirs::VERSIONS;
    let mut seen = 0;
    for version in versions.clone() {
        if version < theirs_range.min || version > theirs_range.max {
            continue;
        }
        seen += 1;
        let form = api.form(version);
        for seed in 0..200 {
            let ours = Ours::sample(&mut Random(seed), version);
            let bytes = encode(&ours, form);
            let context = || format!("{ours:?} version {version}");
            assert_eq!(decode::<Ours>(bytes.clone(), form).as_ref(), Ok(&ours), "{}", context());
            let mut rest = bytes.clone();
            let theirs = Theirs::decode(&mut rest, version).unwrap_or_else(|e| panic!("{e}: {}", context()));
            assert!(rest.is_empty(), "{}", context());
            let theirs_facts = facts(&format!("{theirs:?}").replace("unknown_tagged_fields", ""));
            for fact in facts(&format!("{ours:?}")) {
                assert!(theirs_facts.contains(&fact) || is_shown_otherwise(&fact), "{fact} is not in {theirs:?}");
            }
            let mut back = BytesMut::new();
            theirs.encode(&mut back, version).unwrap();
            assert_eq!(back, bytes, "{}", context());
        }
    }
    assert!(seen > 0 && seen + 2 > versions.count(), "the other crate knows the versions");
}

/// Our debug form shows ids and records in another way.
fn is_shown_otherwise(fact: &str) -> bool {
    ["topic_id:", "replica_directory_id:", "size:"].iter().any(|name| fact.starts_with(name))
}

#[test]
fn messages_agree_with_the_other_implementation() {
    check::<produce::ProduceRequest, theirs::ProduceRequest>(Api::Produce, 3..=13);
    check::<produce::ProduceResponse, theirs::ProduceResponse>(Api::Produce, 3..=13);
    check::<fetch::FetchRequest, theirs::FetchRequest>(Api::Fetch, 4..=18);
    check::<fetch::FetchResponse, theirs::FetchResponse>(Api::Fetch, 4..=18);
    check::<offsets::ListOffsetsRequest, theirs::ListOffsetsRequest>(Api::ListOffsets, 1..=11);
    check::<offsets::ListOffsetsResponse, theirs::ListOffsetsResponse>(Api::ListOffsets, 1..=11);
    check::<discovery::MetadataRequest, theirs::MetadataRequest>(Api::Metadata, 0..=13);
    check::<discovery::MetadataResponse, theirs::MetadataResponse>(Api::Metadata, 0..=13);
    check::<discovery::ApiVersionsRequest, theirs::ApiVersionsRequest>(Api::ApiVersions, 0..=4);
    check::<discovery::ApiVersionsResponse, theirs::ApiVersionsResponse>(Api::ApiVersions, 0..=4);
    check::<topics::CreateTopicsRequest, theirs::CreateTopicsRequest>(Api::CreateTopics, 2..=7);
    check::<topics::CreateTopicsResponse, theirs::CreateTopicsResponse>(Api::CreateTopics, 2..=7);
    check::<topics::DeleteTopicsRequest, theirs::DeleteTopicsRequest>(Api::DeleteTopics, 1..=6);
    check::<topics::DeleteTopicsResponse, theirs::DeleteTopicsResponse>(Api::DeleteTopics, 1..=6);
    check::<produce::InitProducerIdRequest, theirs::InitProducerIdRequest>(Api::InitProducerId, 0..=5);
    check::<produce::InitProducerIdResponse, theirs::InitProducerIdResponse>(Api::InitProducerId, 0..=5);
}

#[test]
fn messages_of_administration_agree_with_the_other_implementation() {
    use configs::{AlterConfigsRequest, AlterConfigsResponse, DescribeConfigsRequest, DescribeConfigsResponse};
    use configs::{IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse};
    use offsets::{DeleteRecordsRequest, DeleteRecordsResponse};
    use offsets::{OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse};
    use topics::{CreatePartitionsRequest, CreatePartitionsResponse};
    check::<DeleteRecordsRequest, theirs::DeleteRecordsRequest>(Api::DeleteRecords, 0..=2);
    check::<DeleteRecordsResponse, theirs::DeleteRecordsResponse>(Api::DeleteRecords, 0..=2);
    check::<OffsetForLeaderEpochRequest, theirs::OffsetForLeaderEpochRequest>(Api::OffsetForLeaderEpoch, 2..=4);
    check::<OffsetForLeaderEpochResponse, theirs::OffsetForLeaderEpochResponse>(Api::OffsetForLeaderEpoch, 2..=4);
    check::<DescribeConfigsRequest, theirs::DescribeConfigsRequest>(Api::DescribeConfigs, 1..=4);
    check::<DescribeConfigsResponse, theirs::DescribeConfigsResponse>(Api::DescribeConfigs, 1..=4);
    check::<AlterConfigsRequest, theirs::AlterConfigsRequest>(Api::AlterConfigs, 0..=2);
    check::<AlterConfigsResponse, theirs::AlterConfigsResponse>(Api::AlterConfigs, 0..=2);
    check::<CreatePartitionsRequest, theirs::CreatePartitionsRequest>(Api::CreatePartitions, 0..=3);
    check::<CreatePartitionsResponse, theirs::CreatePartitionsResponse>(Api::CreatePartitions, 0..=3);
    let api = Api::IncrementalAlterConfigs;
    check::<IncrementalAlterConfigsRequest, theirs::IncrementalAlterConfigsRequest>(api, 0..=1);
    check::<IncrementalAlterConfigsResponse, theirs::IncrementalAlterConfigsResponse>(api, 0..=1);
}

/// A request as a client of the other crate sends it, header and all.
fn request_frame(api: Api, version: i16, body: &[u8]) -> Bytes {
    let mut frame = BytesMut::new();
    let header_version = if api.form(version).flexible { 2 } else { 1 };
    theirs::RequestHeader::default()
        .with_request_api_key(api as i16)
        .with_request_api_version(version)
        .with_correlation_id(77)
        .with_client_id(Some("client".to_owned().into()))
        .encode(&mut frame, header_version)
        .unwrap();
    frame.extend_from_slice(body);
    frame.freeze()
}

fn sample_frame(api: Api, version: i16, seed: u64) -> Bytes {
    let random = &mut Random(seed);
    let form = api.form(version);
    let body = match api {
        Api::Produce => encode(&produce::ProduceRequest::sample(random, version), form),
        Api::Fetch => encode(&fetch::FetchRequest::sample(random, version), form),
        Api::ListOffsets => encode(&offsets::ListOffsetsRequest::sample(random, version), form),
        Api::Metadata => encode(&discovery::MetadataRequest::sample(random, version), form),
        Api::ApiVersions => encode(&discovery::ApiVersionsRequest::sample(random, version), form),
        Api::CreateTopics => encode(&topics::CreateTopicsRequest::sample(random, version), form),
        Api::DeleteTopics => encode(&topics::DeleteTopicsRequest::sample(random, version), form),
        Api::InitProducerId => encode(&produce::InitProducerIdRequest::sample(random, version), form),
        Api::DeleteRecords => encode(&offsets::DeleteRecordsRequest::sample(random, version), form),
        Api::OffsetForLeaderEpoch => encode(&offsets::OffsetForLeaderEpochRequest::sample(random, version), form),
        Api::DescribeConfigs => encode(&configs::DescribeConfigsRequest::sample(random, version), form),
        Api::AlterConfigs => encode(&configs::AlterConfigsRequest::sample(random, version), form),
        Api::CreatePartitions => encode(&topics::CreatePartitionsRequest::sample(random, version), form),
        Api::IncrementalAlterConfigs => encode(&configs::IncrementalAlterConfigsRequest::sample(random, version), form),
    };
    request_frame(api, version, &body)
}

#[test]
fn headers_are_kafkas() {
    for &api in Api::ALL {
        for version in (0..=api.advertised().1).filter(|&version| api.serves(version)) {
            let (header, _) = decode_request(sample_frame(api, version, 1)).unwrap();
            assert_eq!((header.api, header.version, header.correlation_id), (api, version, 77));
            assert_eq!(header.client_id.unwrap().text(), "client");
        }
    }
    let frame = request_frame(Api::Produce, 2, &[]);
    assert!(matches!(decode_request(frame), Err(RequestError::UnsupportedVersion { .. })));
    let frame = Bytes::from_static(&[0, 99, 0, 0, 0, 0, 0, 1]);
    assert_eq!(decode_request(frame), Err(RequestError::UnknownApi { key: 99 }));
    // As librdkafka 2.16 asks for all topics.
    let frame = request_frame(Api::Metadata, 13, &[0, 0, 0, 0, 1, 0, 0]);
    let (_, request) = decode_request(frame).unwrap();
    assert!(matches!(request, Request::Metadata(discovery::MetadataRequest { topics: None, .. })));
    // ApiVersions answers with the oldest header, others with tagged fields behind the correlation id.
    let mut answer = encode_response(&discovery::ApiVersionsResponse::default().into(), 3, 5);
    assert_eq!(answer.copy_to_bytes(answer.remaining())[..], b"\0\0\0\x0c\0\0\0\x05\0\0\x01\0\0\0\0\0"[..]);
    let mut answer = encode_response(&produce::InitProducerIdResponse::default().into(), 2, 5);
    assert_eq!(answer.copy_to_bytes(9)[..], b"\0\0\0\x16\0\0\0\x05\0"[..]);
}

#[test]
fn every_cut_is_an_error() {
    for &api in Api::ALL {
        for version in (0..=api.advertised().1).filter(|&version| api.serves(version)) {
            let frame = sample_frame(api, version, 4);
            for length in 0..frame.len() {
                assert!(decode_request(frame.slice(..length)).is_err(), "{api:?} {version} cut at {length}");
            }
        }
    }
}

#[test]
fn frames_are_bounded() {
    let mut reader = FrameReader::new(10_000);
    assert_eq!(reader.next_frame(), Ok(None));
    for length in [6_000, 3, 0] {
        let mut bytes = (length as i32).to_be_bytes().to_vec();
        bytes.extend(vec![1; length]);
        for part in bytes.chunks(1_000) {
            assert_eq!(reader.next_frame(), Ok(None));
            assert!(reader.room().capacity() <= 64 << 10);
            reader.room().extend_from_slice(part);
        }
        assert!(reader.is_whole());
        assert_eq!(reader.next_frame().unwrap().unwrap().len(), length);
        assert!(!reader.is_whole());
    }
    for length in [10_001, -1] {
        let mut reader = FrameReader::new(10_000);
        reader.room().extend_from_slice(&i32::to_be_bytes(length));
        assert_eq!(reader.next_frame().unwrap_err().length, length);
    }
    let mut reader = FrameReader::new(100 << 20);
    reader.room().extend_from_slice(&i32::to_be_bytes(100 << 20));
    assert!(reader.room().capacity() < 1 << 20, "a length alone buys no memory");
}

proptest! {
    #[test]
    fn damaged_requests_never_panic(
        which in 0..Api::ALL.len(),
        version in 0i16..19,
        seed in any::<u64>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let api = Api::ALL[which];
        prop_assume!(api.serves(version));
        let mut frame = sample_frame(api, version, seed).to_vec();
        for (at, value) in changes {
            let at = at.index(frame.len());
            frame[at] = value;
        }
        let frame = Bytes::from(frame);
        let (result, allocated) = measured(|| decode_request(frame.clone()));
        prop_assert!(allocated <= 2 * frame.len() + (1 << 20));
        drop(result);
    }

    #[test]
    fn any_bytes_never_panic(key in 0i16..50, version in 0i16..19, bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let mut frame = key.to_be_bytes().to_vec();
        frame.extend(version.to_be_bytes());
        frame.extend([0, 0, 0, 1, 0xff, 0xff]);
        frame.extend(bytes);
        let _ = decode_request(frame.into());
    }
}

/// Counts what the running thread asks for, so that tests beside it do not disturb.
struct Counting;

thread_local! {
    static ALLOCATED: Cell<usize> = const { Cell::new(0) };
    static LARGEST: Cell<usize> = const { Cell::new(0) };
}

#[expect(unsafe_code, reason = "a global allocator cannot be written without it; it only counts and passes on")]
// SAFETY: every call goes on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = ALLOCATED.try_with(|allocated| allocated.set(allocated.get() + layout.size()));
        let _ = LARGEST.try_with(|largest| largest.set(largest.get().max(layout.size())));
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the pointer came from `alloc` above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// What `run` gives, and how many bytes it asked for in all.
pub(crate) fn measured<T>(run: impl FnOnce() -> T) -> (T, usize) {
    let before = ALLOCATED.with(Cell::get);
    let result = run();
    (result, ALLOCATED.with(Cell::get) - before)
}

/// What `run` gives, and the most bytes it asked for at once.
pub(crate) fn largest<T>(run: impl FnOnce() -> T) -> (T, usize) {
    LARGEST.set(0);
    let result = run();
    (result, LARGEST.get())
}

/// The greediest frames there are: arrays as long as the bytes can hold, or longer, in every message and version.
#[test]
fn no_decoder_allocates_more_than_twice_its_input_and_a_mebibyte() {
    let sizes = [10_000, 600_000];
    for &api in Api::ALL {
        for version in (0..=api.advertised().1).filter(|&version| api.serves(version)) {
            for size in sizes {
                for fill in [0u8, 1, 2, 0xff] {
                    for prefix in [0, 1, 3, 9, 21, 26] {
                        let mut body = vec![0; prefix];
                        let count = (size / 8) as u32;
                        body.extend(if fill % 2 == 0 { count } else { u32::MAX >> 1 }.to_be_bytes());
                        body.resize(size, fill);
                        let frame = request_frame(api, version, &body);
                        let length = frame.len();
                        let (result, allocated) = measured(|| decode_request(frame));
                        assert!(allocated <= 2 * length + (1 << 20), "{api:?} {version}: {allocated} of {length}");
                        drop(result);
                    }
                }
            }
        }
    }
}

#[test]
fn many_partitions_are_served() {
    let partitions = vec![fetch::FetchPartition::default(); 15_000];
    let request = fetch::FetchRequest {
        topics: vec![fetch::FetchTopic { partitions, ..Default::default() }],
        ..Default::default()
    };
    for version in 4..=18 {
        let body = encode(&request, Api::Fetch.form(version));
        let (_, found) = decode_request(request_frame(Api::Fetch, version, &body)).unwrap();
        let Request::Fetch(found) = found else { panic!("another request: {found:?}") };
        assert_eq!(found.topics[0].partitions.len(), 15_000);
    }
}
