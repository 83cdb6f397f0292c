//! A stream recorded from PostgreSQL 15, through decoder and session without a server.

use proptest::prelude::*;

use super::super::catalog::{Column, Table};
use super::super::error::Error;
use super::super::position::{Captured, Position, VERSION};
use super::super::protocol::lsn::Lsn;
use super::super::protocol::pgoutput::{self, Datum, Message};
use super::super::rows::table::Pinned;
use super::super::session::Session;

/// Place and message, as `pg_logical_slot_peek_binary_changes` gives them, of:
/// insert, insert, update with unchanged TOAST, update of the key, delete; insert, update, delete under full identity;
/// TRUNCATE of both tables; a logical message; an insert replicated from elsewhere.
const STREAM: &[(u64, &str)] = &[
    (0x152_E7E8, "42000000000152ead0000303f323a833b3000002da"),
    (
        0x152_E7E8,
        "52000040007075626c69630074006400030169640000000017ffffffff006e616d650000000019ffffffff006269670000000019ffffffff",
    ),
    (0x152_E7E8, "49000040004e000374000000013174000000036f6e65740000000178"),
    (0x152_E8E0, "49000040004e00037400000001326e7400000000"),
    (0x152_E998, "55000040004e000374000000013174000000034f4e4575"),
    (0x152_E9F8, "55000040004b00037400000001326e6e4e00037400000001336e7400000000"),
    (0x152_EA90, "44000040004b00037400000001336e6e"),
    (0x152_EB00, "4300000000000152ead0000000000152eb00000303f323a833b3"),
    (0x152_EB00, "42000000000152ebe0000303f323a83dec000002db"),
    (0x152_EB00, "52000040077075626c696300660066000201760000000017ffffffff0164000000043affffffff"),
    (0x152_EB00, "49000040074e0002740000000131740000000a323032342d30322d3239"),
    (
        0x152_EB40,
        "55000040074f0002740000000131740000000a323032342d30322d32394e0002740000000132740000000a323032342d30322d3239",
    ),
    (0x152_EB98, "44000040074f0002740000000132740000000a323032342d30322d3239"),
    (0x152_EC10, "4300000000000152ebe0000000000152ec10000303f323a83dec"),
    (0x152_F9D0, "42000000000152fa00000303f323a84740000002dc"),
    (
        0x152_F9D0,
        "52000040007075626c69630074006400030169640000000017ffffffff006e616d650000000019ffffffff006269670000000019ffffffff",
    ),
    (0x152_F9D0, "52000040077075626c696300660066000201760000000017ffffffff0164000000043affffffff"),
    (0x152_F9D0, "5400000002000000400000004007"),
    (0x152_FBA8, "4300000000000152fa00000000000152fba8000303f323a84740"),
    (0x152_FBE0, "42000000000152fbe0000303f323a86c7d000002dd"),
    (0x152_FBE0, "4d01000000000152fbe070000000000163"),
    (0x152_FC10, "4300000000000152fbe0000000000152fc10000303f323a86c7d"),
    (0x152_FC10, "42000000000152fc500002b0d5d4e94000000002de"),
    (0x152_FC10, "4f00000000000000ab656c7365776865726500"),
    (0x152_FC10, "52000040077075626c696300660066000201760000000017ffffffff0164000000043affffffff"),
    (0x152_FC10, "49000040074e00027400000001356e"),
    (0x152_FC98, "4300000000000152fc50000000000152fc980002b0d5d4e94000"),
];

/// Commit records of the transactions above that change rows, and where they end.
const COMMITS: [(u64, u64); 4] =
    [(0x152_EAD0, 0x152_EB00), (0x152_EBE0, 0x152_EC10), (0x152_FA00, 0x152_FBA8), (0x152_FC50, 0x152_FC98)];

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

fn table(oid: u32, name: &str, identity: char, key: &[usize], columns: &[(&str, u32)]) -> Table {
    let column = |(name, oid): &(&str, u32)| Column {
        name: (*name).into(),
        type_oid: *oid,
        base_oid: *oid,
        base_mod: -1,
        base_name: String::new(),
    };
    Table {
        oid,
        schema: "public".into(),
        name: name.into(),
        partitioned: false,
        columns: columns.iter().map(column).collect(),
        key: key.to_vec(),
        identified: true,
        replica_identity: identity,
        selectable: true,
        owned: true,
        generated: Vec::new(),
    }
}

fn session(end: u64) -> Session {
    let tables = [
        table(0x4000, "t", 'd', &[0], &[("id", 23), ("name", 25), ("big", 25)]),
        table(0x4007, "f", 'f', &[], &[("v", 23), ("d", 1082)]),
    ];
    let position = Position {
        version: VERSION,
        system: "1".into(),
        database: "db".into(),
        slot: "s".into(),
        commit: Lsn(0),
        end: Lsn(end),
        tables: tables.iter().map(|table| Captured::new(table, table.columns.len())).collect(),
    };
    let pinned = tables.into_iter().enumerate().map(|(index, table)| Pinned { index, table });
    Session::new("shop", pinned.collect(), position, false)
}

/// Feeds the stream and takes after every message; gives the records as lines and the ends handed over.
fn played(mut session: Session) -> (Vec<String>, Vec<u64>) {
    let (mut lines, mut ends) = (Vec::new(), Vec::new());
    for (start, hex) in STREAM {
        session.message(Lsn(*start), &bytes(hex), 0).unwrap();
        if !session.is_whole() {
            continue;
        }
        let batch = session.take();
        for (relation, record) in batch.records {
            let text =
                |bytes: Option<bytes::Bytes>| bytes.map_or("null".into(), |b| String::from_utf8(b.to_vec()).unwrap());
            let value = text(record.value);
            let value = value.find(",\"source\"").map_or(value.as_str(), |at| &value[..at]);
            lines.push(format!("{relation} {} {value}", text(record.key)));
        }
        ends.push(Position::from_bytes(&batch.position.unwrap()).unwrap().end.0);
    }
    (lines, ends)
}

#[test]
fn the_recorded_stream_becomes_records() {
    let (lines, ends) = played(session(1));
    assert_eq!(
        lines,
        [
            r#"0 {"id":1} {"before":null,"after":{"id":1,"name":"one","big":"x"}"#,
            r#"0 {"id":2} {"before":null,"after":{"id":2,"name":null,"big":""}"#,
            r#"0 {"id":1} {"before":null,"after":{"id":1,"name":"ONE"}"#,
            r#"0 {"id":2} {"before":{"id":2},"after":null"#,
            r#"0 {"id":2} null"#,
            r#"0 {"id":3} {"before":null,"after":{"id":3,"name":null,"big":""}"#,
            r#"0 {"id":3} {"before":{"id":3},"after":null"#,
            r#"0 {"id":3} null"#,
            r#"1 null {"before":null,"after":{"v":1,"d":19782}"#,
            r#"1 null {"before":{"v":1,"d":19782},"after":{"v":2,"d":19782}"#,
            r#"1 null {"before":{"v":2,"d":19782},"after":null"#,
            r#"0 null {"before":null,"after":null"#,
            r#"1 null {"before":null,"after":null"#,
            r#"1 null {"before":null,"after":{"v":5,"d":null}"#,
        ]
    );
    assert_eq!(ends, COMMITS.map(|(_, end)| end));
}

/// A commit ends where the next transaction's first row begins: places of rows say nothing of what is stored.
#[test]
fn what_is_stored_is_told_by_commit_records_alone() {
    let (all, _) = played(session(1));
    for (stored, (_, end)) in COMMITS.iter().enumerate() {
        let (rest, ends) = played(session(*end));
        let skipped = [8, 11, 13, 14][stored];
        assert_eq!(rest, all[skipped..]);
        assert_eq!(ends.len(), 3 - stored);
    }
    // A position inside the second transaction, before its commit record: it comes whole.
    assert_eq!(played(session(0x152_EB40)).0, all[8..]);
    assert_eq!(played(session(COMMITS[1].0)).0, all[8..]);
    assert_eq!(played(session(COMMITS[1].0 + 1)).0, all[11..]);
}

#[test]
fn progress_counts_only_between_transactions() {
    let mut session = session(1);
    session.progress(Lsn(100));
    assert_eq!(session.idle_bytes(), 99);
    session.message(Lsn(STREAM[0].0), &bytes(STREAM[0].1), 0).unwrap();
    session.progress(Lsn(u64::MAX));
    assert_eq!(session.idle_bytes(), 0);
    assert!(!session.is_whole() && session.take().position.is_none());
    for (start, hex) in &STREAM[1..8] {
        session.message(Lsn(*start), &bytes(hex), 0).unwrap();
    }
    assert!(session.is_whole());
    let position = Position::from_bytes(&session.take().position.unwrap()).unwrap();
    assert_eq!((position.commit.0, position.end.0), COMMITS[0]);
}

#[test]
fn what_breaks_the_order_is_an_error() {
    for (messages, part) in [
        (&[2][..], "outside of a transaction"),
        (&[1], "announced outside of a transaction"),
        (&[0, 2], "not announced"),
        (&[0, 8], "inside of another"),
        (&[7], "ends no transaction"),
        (&[0, 13], "ends no transaction"),
    ] {
        let mut session = session(1);
        let mut last = Ok(());
        for &at in messages {
            last = session.message(Lsn(STREAM[at].0), &bytes(STREAM[at].1), 0);
        }
        assert!(last.unwrap_err().to_string().contains(part), "{part}");
    }
    assert!(matches!(session(1).message(Lsn(1), b"?", 0), Err(Error::Malformed(_))));
}

#[test]
fn a_tuple_is_read() {
    let update = bytes(STREAM[4].1);
    let Message::Update { relation: 0x4000, old: None, new } = pgoutput::parse(&update).unwrap() else { panic!() };
    assert_eq!(new.columns().collect::<Vec<_>>(), [Datum::Text(b"1"), Datum::Text(b"ONE"), Datum::Unchanged]);
    for cut in 0..update.len() {
        assert!(pgoutput::parse(&update[..cut]).is_err());
    }
}

proptest! {
    /// Damaged streams end in errors, never in a panic, and whatever is handed over ends with a commit.
    #[test]
    fn no_damage_panics(at in 0..STREAM.len(), byte in 0usize..120, bits: u8, swap in 0..STREAM.len()) {
        let mut session = session(1);
        let mut order: Vec<usize> = (0..STREAM.len()).collect();
        order.swap(at, swap);
        for index in order {
            let mut message = bytes(STREAM[index].1);
            if index == at {
                let place = byte % message.len();
                message[place] ^= bits;
            }
            if session.message(Lsn(STREAM[index].0), &message, 0).is_err() {
                break;
            }
            let batch = session.is_full().then(|| session.take());
            prop_assert!(batch.is_none());
        }
    }
}
