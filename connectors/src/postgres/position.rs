//! Where a PostgreSQL source stands, as stored in the log: a place in the write-ahead log, and of what server and tables.

use engine::io;
use serde::{Deserialize, Serialize};

use super::catalog::Table;
use super::error::lost;
use super::protocol::lsn::Lsn;

/// JSON in the log. Everything committed before `end` is stored; a transaction whose commit record lies at or after
/// `end` is not. Transactions are told apart by their commit record alone: row events of several transactions interleave
/// in the write-ahead log, and from PostgreSQL 17 on one may begin where the commit before it ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    pub version: u32,
    /// System identifier of the server's data directory.
    pub system: String,
    pub database: String,
    pub slot: String,
    /// Commit record of the last transaction stored.
    pub commit: Lsn,
    pub end: Lsn,
    pub tables: Vec<Captured>,
}

/// A table as it was when it was captured: oid, number of its columns, fingerprint of them. Columns added later stand
/// behind these; any other change is seen by the fingerprint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Captured(pub u32, pub usize, pub String);

pub const VERSION: u32 = 1;

impl Position {
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a structure of numbers and strings is JSON")
    }

    pub fn from_bytes(bytes: &[u8]) -> Result<Position, io::Error> {
        let position: Position = serde_json::from_slice(bytes).map_err(|error| {
            let hint = "it was written by another version or is damaged; drop the source and create it again";
            lost(format!("the stored position cannot be read: {error}"), hint)
        })?;
        match position.version {
            VERSION => Ok(position),
            other => Err(lost(
                format!("the stored position has version {other}, this program reads {VERSION}"),
                "run the version that wrote it, or drop the source and create it again",
            )),
        }
    }
}

impl Captured {
    /// The first `columns` columns of a table.
    pub fn new(table: &Table, columns: usize) -> Captured {
        Captured(table.oid, columns, fingerprint(table, columns))
    }
}

/// FNV-1a over names and types of the columns and the key: stable for ever, and no secret.
fn fingerprint(table: &Table, columns: usize) -> String {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    let mut feed = |bytes: &[u8]| {
        for &byte in bytes.iter().chain(&[0xff]) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    };
    feed(table.schema.as_bytes());
    feed(table.name.as_bytes());
    for column in table.columns.iter().take(columns) {
        feed(column.name.as_bytes());
        feed(column.base_name.as_bytes());
        if column.base_oid == NUMERIC {
            feed(&column.base_mod.to_be_bytes());
        }
    }
    for at in &table.key {
        feed(&at.to_be_bytes());
    }
    format!("{hash:016x}")
}

/// The one type whose modifier decides its Arrow type.
pub const NUMERIC: u32 = 1700;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_reads_back_and_a_strange_one_is_lost() {
        let position = Position {
            version: VERSION,
            system: "7".into(),
            database: "shop".into(),
            slot: "riverrun_shop".into(),
            commit: Lsn(5),
            end: Lsn(6),
            tables: vec![Captured(16384, 2, "00".into())],
        };
        assert_eq!(Position::from_bytes(&position.to_bytes()).unwrap(), position);
        let other = Position { version: 2, ..position };
        for bad in [&other.to_bytes()[..], b"", b"{}"] {
            assert!(matches!(Position::from_bytes(bad), Err(io::Error::Lost { .. })));
        }
    }
}
