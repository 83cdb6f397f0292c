//! Batches there and back: own builder and reader, the `kafka-protocol` crate as second opinion, damage of every kind.

mod fixtures;

use std::io::Write;

use bytes::{Bytes, BytesMut};
use kafka_protocol::records::{
    Compression, RecordBatchDecoder, RecordBatchEncoder, RecordEncodeOptions, TimestampType,
};
use proptest::prelude::*;

use super::batch::Producer;
use super::build::{Frame, Marker};
use super::check::{Rules, Timestamps, Validation};
use super::codec::Codec;
use super::{Batch, BatchError, Header, LeaderEpoch, NewRecord, Offset};
use crate::wire::tests::measured;

const RULES: Rules =
    Rules { validation: Validation::Full, batch_bytes_max: 1 << 20, key_required: false, timestamps: Timestamps::ANY };
const FRAME: Frame = Frame { now_ms: 7, producer: None, transactional: false, batch_bytes_max: 1 << 20 };

fn bytes_of(batch: &Batch) -> Bytes {
    let mut out = Vec::new();
    batch.write_to(&mut out);
    Bytes::from(out)
}

fn sample() -> Vec<NewRecord> {
    let header = |key: &str, value: Option<&str>| Header {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: value.map(|value| Bytes::copy_from_slice(value.as_bytes())),
    };
    vec![
        NewRecord { key: Some("k".into()), value: Some("v".into()), headers: vec![], timestamp_ms: Some(1_000) },
        NewRecord { key: None, value: None, headers: vec![header("a", None)], timestamp_ms: Some(-5) },
        NewRecord {
            key: Some("".into()),
            value: Some("x".repeat(300).into()),
            headers: vec![header("a", Some("1")), header("a", Some("2"))],
            timestamp_ms: None,
        },
    ]
}

fn assert_same(batch: &Batch, records: &[NewRecord], now_ms: i64) {
    let found: Vec<_> = batch.records().unwrap().map(Result::unwrap).collect();
    assert_eq!(found.len(), records.len());
    for (index, (found, record)) in found.iter().zip(records).enumerate() {
        assert_eq!(found.offset.0, batch.base_offset().0 + index as i64);
        assert_eq!(found.timestamp_ms, record.timestamp_ms.unwrap_or(now_ms));
        assert_eq!((&found.key, &found.value), (&record.key, &record.value));
        assert_eq!(found.headers().unwrap(), record.headers);
    }
}

#[test]
fn built_batch_reads_back() {
    let producer = Producer { id: 9, epoch: 2, base_sequence: 40 };
    let frame = Frame { producer: Some(producer), transactional: true, ..FRAME };
    let mut batch = Batch::build(&sample(), &frame).unwrap();
    batch.place(Offset(100), LeaderEpoch(3));
    let mut bytes = bytes_of(&batch);
    assert_eq!(Batch::check(bytes.clone(), &RULES).unwrap(), batch);
    assert_eq!(Batch::split_from(&mut bytes.slice(..bytes.len() - 1)).unwrap(), None);
    assert_eq!(Batch::split_from(&mut bytes).unwrap().unwrap(), batch);
    assert!(bytes.is_empty());
    assert_same(&batch, &sample(), 7);
    assert_eq!((batch.last_offset(), batch.leader_epoch()), (Offset(102), LeaderEpoch(3)));
    assert_eq!(batch.producer(), Some(producer));
    assert_eq!((batch.is_transactional(), batch.is_control()), (true, false));
    assert_eq!((batch.base_timestamp_ms(), batch.max_timestamp_ms()), (1_000, 1_000));
}

#[test]
fn log_append_time_reseals() {
    let mut batch = Batch::build(&sample(), &FRAME).unwrap();
    batch.stamp_log_append_time(5_000);
    batch.check_sum().unwrap();
    assert!(batch.records().unwrap().all(|record| record.unwrap().timestamp_ms == 5_000));
    assert!(matches!(Batch::check(bytes_of(&batch), &RULES), Err(BatchError::Malformed(_))));
}

#[test]
fn marker_is_kafkas() {
    for commit in [false, true] {
        let marker = Marker { commit, coordinator_epoch: 12 };
        let batch = Batch::build_marker(4, 1, marker, 99);
        assert_eq!(batch.marker().unwrap(), Some(marker));
        assert_eq!(batch.producer().unwrap().base_sequence, -1);
        let record = &decode_theirs(bytes_of(&batch))[0];
        assert!(record.control && record.transactional);
        assert_eq!(record.key.as_deref(), Some(&[0, 0, 0, u8::from(commit)][..]));
        assert_eq!(record.value.as_deref(), Some(&[0, 0, 0, 0, 0, 12][..]));
    }
}

fn decode_theirs(mut bytes: Bytes) -> Vec<kafka_protocol::records::Record> {
    RecordBatchDecoder::decode(&mut bytes).unwrap().records
}

fn theirs() -> Vec<kafka_protocol::records::Record> {
    (0..50)
        .map(|index| kafka_protocol::records::Record {
            transactional: false,
            control: false,
            delete_horizon: false,
            partition_leader_epoch: 0,
            producer_id: 5,
            producer_epoch: 0,
            timestamp_type: TimestampType::Creation,
            offset: index,
            sequence: index as i32,
            timestamp: 1_700_000_000_000 + index,
            key: Some(Bytes::from(format!("key {index}"))),
            value: Some(Bytes::from(format!("value {index} value value value"))),
            headers: Default::default(),
        })
        .collect()
}

/// What the other implementation writes, packed by hand for each codec.
fn packed(codec: i16, plain: &[u8]) -> Vec<u8> {
    match codec {
        0 => plain.to_vec(),
        1 => {
            // Two members, as a client that flushes in between writes them.
            let mut out = Vec::new();
            for part in plain.chunks(plain.len() / 2 + 1) {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                encoder.write_all(part).unwrap();
                out.extend(encoder.finish().unwrap());
            }
            out
        }
        2 => snap::raw::Encoder::new().compress_vec(plain).unwrap(),
        3 => {
            let mut encoder = lz4_flex::frame::FrameEncoder::new(Vec::new());
            encoder.write_all(plain).unwrap();
            encoder.finish().unwrap()
        }
        4 => zstd::stream::encode_all(plain, 3).unwrap(),
        _ => {
            let mut out = b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01".to_vec();
            for part in plain.chunks(100) {
                let block = snap::raw::Encoder::new().compress_vec(part).unwrap();
                out.extend((block.len() as u32).to_be_bytes());
                out.extend(block);
            }
            out
        }
    }
}

fn repack(batch: &Batch, codec: i16) -> Batch {
    let body = packed(codec, batch.body());
    let mut header = batch.header;
    header[8..12].copy_from_slice(&(49 + body.len() as i32).to_be_bytes());
    header[21..23].copy_from_slice(&codec.min(4).to_be_bytes());
    if codec == 5 {
        header[21..23].copy_from_slice(&2i16.to_be_bytes());
    }
    let mut batch = Batch { header, body: body.into() };
    batch.seal();
    batch
}

#[test]
fn every_codec_reads() {
    for codec in 0..=5 {
        let batch = repack(&Batch::build(&sample(), &FRAME).unwrap(), codec);
        let batch = Batch::check(bytes_of(&batch), &RULES).unwrap();
        assert_same(&batch, &sample(), 7);
    }
}

#[test]
fn agrees_with_the_other_implementation() {
    let mut buf = BytesMut::new();
    let options = RecordEncodeOptions { version: 2, compression: Compression::None };
    RecordBatchEncoder::encode(&mut buf, &theirs(), &options).unwrap();
    let batch = Batch::check(buf.freeze(), &RULES).unwrap();
    for (ours, theirs) in batch.records().unwrap().zip(theirs()) {
        let ours = ours.unwrap();
        assert_eq!((ours.offset.0, ours.timestamp_ms), (theirs.offset, theirs.timestamp));
        assert_eq!((ours.key, ours.value), (theirs.key, theirs.value));
    }
    let mut batch = Batch::build(&sample(), &FRAME).unwrap();
    batch.place(Offset(10), LeaderEpoch(1));
    let found = decode_theirs(bytes_of(&batch));
    for (index, (found, record)) in found.iter().zip(sample()).enumerate() {
        assert_eq!(found.offset, 10 + index as i64);
        assert_eq!(found.timestamp, record.timestamp_ms.unwrap_or(7));
        assert_eq!((&found.key, &found.value), (&record.key, &record.value));
    }
}

#[test]
fn bombs_are_refused() {
    let plain = vec![0u8; 5 << 20];
    for codec in [1, 3, 4] {
        let body = Bytes::from(packed(codec, &plain));
        let result = Codec::from_attributes(codec).unwrap().unpack(&body);
        assert!(matches!(result, Err(BatchError::Expands { .. })), "codec {codec}");
    }
    // A snappy block of six bytes that claims four gigabytes.
    let claim = Bytes::from_static(&[0xff, 0xff, 0xff, 0xff, 0x0f, 0]);
    assert!(Codec::Snappy.unpack(&claim).is_err());
}

/// What cannot be made smaller, the same for the same seed.
fn noise(length: usize) -> Vec<u8> {
    let mut seed = 0x9e37_79b9_7f4a_7c15u64;
    let mut byte = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 56) as u8
    };
    (0..length).map(|_| byte()).collect()
}

/// An lz4 frame of the largest block size: what many clients name whatever they send.
fn lz4_frame(plain: &[u8], linked: bool) -> Vec<u8> {
    let mode = if linked { lz4_flex::frame::BlockMode::Linked } else { lz4_flex::frame::BlockMode::Independent };
    let info = lz4_flex::frame::FrameInfo::new()
        .block_size(lz4_flex::frame::BlockSize::Max4MB)
        .block_mode(mode)
        .block_checksums(true)
        .content_checksum(true)
        .content_size(Some(plain.len() as u64));
    let mut encoder = lz4_flex::frame::FrameEncoder::with_frame_info(info, Vec::new());
    encoder.write_all(plain).unwrap();
    encoder.finish().unwrap()
}

/// Besides what it hands out, which grows by doubling and has its own limit.
#[test]
fn no_codec_allocates_more_than_twice_its_input_and_a_mebibyte() {
    let check = |what: &str, codec: Codec, packed: Vec<u8>, plain: Option<&[u8]>| {
        let packed = Bytes::from(packed);
        let (result, allocated) = measured(|| codec.unpack(&packed));
        let out = match (&result, plain) {
            (Ok(out), Some(plain)) => {
                assert!(out == plain, "{what}: {} of {} bytes", out.len(), plain.len());
                out.len()
            }
            (Err(BatchError::Expands { limit }), None) => *limit,
            (Err(_), None) => 0,
            (found, _) => panic!("{what}: {:?}", found.as_ref().map(Bytes::len)),
        };
        let most = 2 * packed.len() + (1 << 20) + 5 * out;
        assert!(allocated <= most, "{what}: {allocated} for {} bytes in and {out} out", packed.len());
    };
    let (text, noise) = (b"a record like the one before ".repeat(40_000), noise(2 << 20));
    for (number, codec) in [(1, Codec::Gzip), (2, Codec::Snappy), (3, Codec::Lz4), (4, Codec::Zstd), (5, Codec::Snappy)]
    {
        for plain in [&noise[..300], &noise, &text, &text[..3_000]] {
            check("honest", codec, packed(number, plain), Some(plain));
        }
        check("cut", codec, packed(number, &noise[..5_000])[..4_000].to_vec(), None);
        if number != 5 {
            check("bomb", codec, packed(number, &vec![0; 70 << 20]), None);
        }
    }
    for plain in [&noise[..10], &noise, &text] {
        check("lz4, linked", Codec::Lz4, lz4_frame(plain, true), Some(plain));
        check("lz4, large blocks", Codec::Lz4, lz4_frame(plain, false), Some(plain));
        let twice = [lz4_frame(plain, true), lz4_frame(plain, false)].concat();
        check("lz4, two frames", Codec::Lz4, twice, Some(&plain.repeat(2)));
    }
    // 2 MiB are claimed, as far as the ratio allows, and none are there.
    let mut claim = vec![0x80, 0x80, 0x80, 0x01];
    claim.resize(40_000, 0);
    check("snappy, a claim", Codec::Snappy, claim, None);
    // A frame of one block that claims all a block may hold and says nothing.
    let frame = [0x04, 0x22, 0x4d, 0x18, 0x60, 0x70, 0x73, 4, 0, 0, 0, 0xf0, 0xff, 0xff, 0xff, 0, 0, 0, 0];
    check("lz4, a claim", Codec::Lz4, frame.to_vec(), None);
}

#[test]
fn rules_are_kept() {
    let good = Batch::build(&sample(), &FRAME).unwrap();
    let check = |change: &dyn Fn(&mut Batch), rules: Rules| {
        let mut batch = good.clone();
        change(&mut batch);
        batch.header[8..12].copy_from_slice(&(49 + batch.body.len() as i32).to_be_bytes());
        batch.seal();
        Batch::check(bytes_of(&batch), &rules)
    };
    let header = Rules { validation: Validation::Header, ..RULES };
    assert!(check(&|_| (), header).is_ok());
    assert!(check(&|_| (), Rules { key_required: true, ..RULES }).is_err());
    assert!(check(&|_| (), Rules { batch_bytes_max: good.size() - 1, ..RULES }).is_err());
    assert!(check(&|b| b.header[16] = 1, header).is_err());
    assert!(check(&|b| b.header[22] = 5, header).is_err());
    assert!(check(&|b| b.header[26] = 9, header).is_err());
    assert!(check(&|b| b.header[60] = 4, header).is_err());
    assert!(check(&|b| b.header[43..51].fill(0), header).is_err(), "a producer without epoch and sequence");
    assert!(check(&|b| b.header[51..57].fill(0), header).is_ok(), "zeros without a producer");
    assert!(check(&|b| b.header[22] = 1 << 4, header).is_err());
    assert!(check(&|b| b.body = b.body.slice(..b.body.len() - 1), header).is_err(), "a record is cut");
    assert!(check(&|b| b.body = [&b.body[..], &[0]].concat().into(), header).is_err(), "bytes behind the records");
    let mut bytes = bytes_of(&good).to_vec();
    *bytes.last_mut().unwrap() ^= 1;
    assert!(matches!(Batch::check(bytes.into(), &header), Err(BatchError::Checksum { .. })));
    // A wrong maximum timestamp is put right.
    let put_right = check(&|b| b.set_max_timestamp(77), RULES).unwrap();
    assert_eq!(put_right, good);
}

/// Every record's own, under full validation; of the header the first's and the largest. A record may have none.
#[test]
fn timestamps_out_of_range_are_refused_by_record() {
    let check = |times: [i64; 3], validation, expect: Option<u32>| {
        let record = |timestamp_ms: &i64| NewRecord { timestamp_ms: Some(*timestamp_ms), ..NewRecord::default() };
        let batch = Batch::build(&times.iter().map(record).collect::<Vec<_>>(), &FRAME).unwrap();
        let rules = Rules { validation, timestamps: Timestamps { least_ms: 10, most_ms: 20 }, ..RULES };
        let refused = match Batch::check(bytes_of(&batch), &rules) {
            Ok(_) => None,
            Err(BatchError::Timestamp { index, timestamp_ms, least_ms: 10, most_ms: 20 }) => {
                Some((index, timestamp_ms))
            }
            Err(other) => panic!("{other:?}"),
        };
        assert_eq!(refused, expect.map(|index| (index, times[index as usize])), "{times:?} {validation:?}");
    };
    for validation in [Validation::Full, Validation::Header] {
        check([10, 15, 20], validation, None);
        check([15, -1, 15], validation, None);
        check([-1, -1, -1], validation, None);
        check([9, 15, 20], validation, Some(0));
        check([10, 15, 21], validation, Some(2));
        check([10, 9, 20], validation, if validation == Validation::Full { Some(1) } else { None });
    }
    check([10, 21, 15], Validation::Full, Some(1));
    check([-2, 15, 15], Validation::Full, Some(0));
}

/// A count that the records do not bear out gives offsets without records.
#[test]
fn counts_are_checked_without_unpacking() {
    let header = Rules { validation: Validation::Header, ..RULES };
    let claim = |codec: i16, count: i32| {
        let mut batch = repack(&Batch::build(&sample(), &FRAME).unwrap(), codec);
        batch.header[23..27].copy_from_slice(&(count - 1).to_be_bytes());
        batch.header[57..61].copy_from_slice(&count.to_be_bytes());
        batch.seal();
        Batch::check(bytes_of(&batch), &header).is_ok()
    };
    assert_eq!([1, 2, 3, 4, i32::MAX].map(|count| claim(0, count)), [false, false, true, false, false]);
    for codec in 1..=5 {
        assert!(claim(codec, 3), "codec {codec}");
        // Four mebibytes are what so small a batch may become, and a record has seven bytes.
        assert!(claim(codec, (4 << 20) / 7), "codec {codec}");
        assert!(!claim(codec, (4 << 20) / 7 + 1), "codec {codec}");
        assert!(!claim(codec, i32::MAX), "codec {codec}");
    }
    // Records too short to be any, as many as the bytes allow.
    let mut batch = Batch::build(&sample(), &FRAME).unwrap();
    let count = batch.body.len() as i32;
    batch.body = vec![0; count as usize].into();
    batch.header[23..27].copy_from_slice(&(count - 1).to_be_bytes());
    batch.header[57..61].copy_from_slice(&count.to_be_bytes());
    batch.seal();
    assert!(Batch::check(bytes_of(&batch), &header).is_err());
}

proptest! {
    /// Mutated batches with a valid checksum give errors or records, never a panic or an endless loop.
    #[test]
    fn damage_never_panics(
        codec in 0i16..=5,
        cut in 0usize..400,
        changes in prop::collection::vec((0usize..400, any::<u8>()), 0..6),
    ) {
        let mut batch = repack(&Batch::build(&sample(), &FRAME).unwrap(), codec);
        let mut body = batch.body.to_vec();
        for (at, value) in changes {
            if at < 40 {
                batch.header[21 + at] = value;
            } else if let Some(byte) = body.get_mut(at - 40) {
                *byte = value;
            }
        }
        body.truncate(body.len().saturating_sub(cut.saturating_sub(200)));
        batch.header[8..12].copy_from_slice(&(49 + body.len() as i32).to_be_bytes());
        batch.body = body.into();
        batch.seal();
        if let Ok(batch) = Batch::check(bytes_of(&batch), &RULES) {
            prop_assert_eq!(batch.records().unwrap().filter(Result::is_ok).count() as u32, batch.record_count());
            let _ = batch.marker();
        }
        if let Ok(records) = batch.records() {
            prop_assert!(records.take(1_000_000).count() < 1_000_000);
        }
    }

    #[test]
    fn any_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Batch::check(bytes.clone().into(), &RULES);
        let _ = Batch::split_from(&mut bytes.into());
    }
}
