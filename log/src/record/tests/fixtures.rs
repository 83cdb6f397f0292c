//! Batches as they were first stored: they are read for ever, and built the same way.

use bytes::Bytes;

use super::super::batch::Producer;
use super::super::build::{Frame, Marker};
use super::super::codec::Codec;
use super::super::{Batch, Header, LeaderEpoch, NewRecord, Offset};
use super::bytes_of;
use crate::fixtures::{BATCHES, section, sections};

const T0: i64 = 1_700_000_000_000;

fn load(name: &str) -> Batch {
    let mut bytes = Bytes::from(section(BATCHES, name));
    let batch = Batch::split_from(&mut bytes).unwrap().unwrap();
    assert!(bytes.is_empty(), "{name}");
    assert_eq!(bytes_of(&batch), section(BATCHES, name), "{name}");
    batch
}

/// The records of all plain batches: two, five milliseconds apart.
fn records() -> Vec<NewRecord> {
    let header = |value: Option<&'static str>| Header { key: "h".into(), value: value.map(Bytes::from) };
    let headers = vec![header(Some("1")), header(None)];
    vec![
        NewRecord { key: Some("k0".into()), value: Some("v0".into()), headers, timestamp_ms: Some(T0) },
        NewRecord { timestamp_ms: Some(T0 + 5), ..NewRecord::default() },
    ]
}

fn built(producer: Option<Producer>, base: i64) -> Batch {
    let frame = Frame { now_ms: 0, producer, transactional: producer.is_some(), batch_bytes_max: 1 << 20 };
    let mut batch = Batch::build(&records(), &frame).unwrap();
    batch.place(Offset(base), LeaderEpoch(5));
    batch
}

/// Offsets, times of the header, count and producer.
fn check(batch: &Batch, offsets: (i64, i64), times: (i64, i64), count: u32, producer: Option<(i64, i16, i32)>) {
    assert_eq!((batch.base_offset().0, batch.last_offset().0), offsets);
    assert_eq!((batch.base_timestamp_ms(), batch.max_timestamp_ms()), times);
    assert_eq!((batch.record_count(), batch.leader_epoch()), (count, LeaderEpoch(5)));
    assert_eq!(batch.producer().map(|p| (p.id, p.epoch, p.base_sequence)), producer);
}

/// Log append time, transactional, control.
fn flags(batch: &Batch) -> [bool; 3] {
    [batch.is_log_append_time(), batch.is_transactional(), batch.is_control()]
}

fn check_records(batch: &Batch, times: [i64; 2]) {
    let found: Vec<_> = batch.records().unwrap().map(Result::unwrap).collect();
    assert_eq!(found.len(), 2);
    for (index, (found, record)) in found.iter().zip(records()).enumerate() {
        assert_eq!(found.offset.0, batch.base_offset().0 + index as i64);
        assert_eq!(found.timestamp_ms, times[index]);
        assert_eq!((&found.key, &found.value), (&record.key, &record.value));
        assert_eq!(found.headers().unwrap(), record.headers);
    }
}

#[test]
fn plain_ones() {
    let plain = load("plain");
    check(&plain, (1_000, 1_001), (T0, T0 + 5), 2, None);
    assert_eq!((flags(&plain), plain.codec().unwrap(), plain.delete_horizon_ms()), ([false; 3], Codec::None, None));
    check_records(&plain, [T0, T0 + 5]);
    assert_eq!(built(None, 1_000), plain);

    let transactional = load("transactional");
    check(&transactional, (1_002, 1_003), (T0, T0 + 5), 2, Some((7, 3, 11)));
    assert_eq!(flags(&transactional), [false, true, false]);
    check_records(&transactional, [T0, T0 + 5]);
    assert_eq!(built(Some(Producer { id: 7, epoch: 3, base_sequence: 11 }), 1_002), transactional);

    let stamped = load("log append time");
    check(&stamped, (1_006, 1_007), (T0, T0 + 77), 2, None);
    assert_eq!(flags(&stamped), [true, false, false]);
    check_records(&stamped, [T0 + 77; 2]);
    let mut batch = built(None, 1_006);
    batch.stamp_log_append_time(T0 + 77);
    assert_eq!(batch, stamped);
}

#[test]
fn what_compaction_leaves() {
    let horizon_ms = T0 + 86_400_000;
    let cleaned = load("delete horizon");
    check(&cleaned, (1_008, 1_009), (horizon_ms, T0 + 5), 2, None);
    assert_eq!(cleaned.delete_horizon_ms(), Some(horizon_ms));
    check_records(&cleaned, [T0, T0 + 5]);
    let batch = built(None, 1_008);
    assert_eq!(batch.rebuild(batch.sift(|_| true).unwrap(), Some(horizon_ms)).unwrap(), cleaned);

    let emptied = load("emptied");
    check(&emptied, (1_010, 1_011), (-1, T0 + 5), 0, Some((7, 4, 0)));
    assert_eq!(emptied.records().unwrap().count(), 0);
    assert_eq!(built(Some(Producer { id: 7, epoch: 4, base_sequence: 0 }), 1_010).emptied(), emptied);
}

#[test]
fn markers() {
    for (name, commit) in [("commit", true), ("abort", false)] {
        let loaded = load(name);
        check(&loaded, (1_004, 1_004), (T0 + 9, T0 + 9), 1, Some((7, 4, -1)));
        assert_eq!(flags(&loaded), [false, true, true]);
        let marker = Marker { commit, coordinator_epoch: 12 };
        assert_eq!(loaded.marker().unwrap(), Some(marker));
        let mut batch = Batch::build_marker(7, 4, marker, T0 + 9);
        batch.place(Offset(1_004), LeaderEpoch(5));
        assert_eq!(batch, loaded);
    }
}

/// Compressors may pack otherwise one day: only reading is for ever.
#[test]
fn packed_ones() {
    for codec in [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
        let batch = load(&codec.to_string());
        check(&batch, (2_000, 2_003), (T0, T0 + 3), 4, None);
        assert_eq!(batch.codec().unwrap(), codec);
        for (index, record) in batch.records().unwrap().map(Result::unwrap).enumerate() {
            assert_eq!((record.offset.0, record.timestamp_ms), (2_000 + index as i64, T0 + index as i64));
            assert_eq!(record.key, Some(format!("key {index}").into()));
            assert_eq!(record.value, Some("value ".repeat(10).into()));
            assert_eq!(record.headers().unwrap(), vec![]);
        }
    }
    assert_eq!(sections(BATCHES).len(), 11, "every batch is looked at");
}

/// Neither the base offset nor anything but the checksum keeps somebody from writing these.
#[test]
fn offsets_and_producers_that_no_log_has_are_refused() {
    let refused = |change: &dyn Fn(&mut Batch)| {
        let mut batch = load("transactional");
        change(&mut batch);
        batch.seal();
        Batch::split_from(&mut bytes_of(&batch)).unwrap_err().to_string()
    };
    for base in [-1, i64::MIN, i64::MAX, Offset::LIMIT.0, Offset::LIMIT.0 + 1] {
        let why = refused(&|batch| batch.header[..8].copy_from_slice(&base.to_be_bytes()));
        assert!(why.contains("offsets"), "{base}: {why}");
    }
    for delta in [-1, i32::MIN] {
        let why = refused(&|batch| batch.header[23..27].copy_from_slice(&delta.to_be_bytes()));
        assert!(why.contains("offsets"), "{delta}: {why}");
    }
    assert!(refused(&|batch| batch.header[51..53].copy_from_slice(&(-1i16).to_be_bytes())).contains("producer"));
    assert!(refused(&|batch| batch.header[53..57].copy_from_slice(&(-1i32).to_be_bytes())).contains("producer"));
}
