//! The block `source` of the envelope, as Debezium's PostgreSQL connector writes it, from pieces rendered as seldom as
//! they change: once a source, once a transaction, once a relation.

use super::super::protocol::lsn::Lsn;
use crate::cdc::json;

/// The pieces that change with the transaction.
#[derive(Debug)]
pub struct SourceBlock {
    /// `{"version":…,"connector":"postgresql","name":…,"ts_ms":`
    head: Vec<u8>,
    database: String,
    /// `…,"snapshot":…,"db":…,"sequence":"[…,\"` up to the event's LSN.
    before_lsn: Vec<u8>,
    /// `\"]","ts_us":…,"ts_ns":…,` up to the relation's names.
    after_lsn: Vec<u8>,
    /// `…,"lsn":` after the transaction id.
    transaction: Vec<u8>,
    tail: Vec<u8>,
}

/// `"schema":"public","table":"orders","txId":`
pub fn names(schema: &str, table: &str) -> Vec<u8> {
    let mut out = b"\"schema\":".to_vec();
    json::string(&mut out, schema);
    out.extend_from_slice(b",\"table\":");
    json::string(&mut out, table);
    out.extend_from_slice(b",\"txId\":");
    out
}

/// Debezium's marks of where a record stands in the snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// In the stream.
    False,
    First,
    True,
    Last,
}

impl SourceBlock {
    pub fn new(source: &str, database: &str) -> SourceBlock {
        let mut head = b"{\"version\":".to_vec();
        json::string(&mut head, env!("CARGO_PKG_VERSION"));
        head.extend_from_slice(b",\"connector\":\"postgresql\",\"name\":");
        json::string(&mut head, source);
        head.extend_from_slice(b",\"ts_ms\":");
        SourceBlock {
            head,
            database: database.to_owned(),
            before_lsn: Vec::new(),
            after_lsn: Vec::new(),
            transaction: Vec::new(),
            tail: Vec::new(),
        }
    }

    /// A transaction begins. `last_commit`: the commit before it; `origin`: where it was replicated from.
    pub fn begin(&mut self, commit_us: i64, xid: Option<u32>, last_commit: Option<Lsn>, origin: Option<(&str, Lsn)>) {
        self.transaction.clear();
        match xid {
            Some(xid) => json::uint(&mut self.transaction, u64::from(xid)),
            None => self.transaction.extend_from_slice(b"null"),
        }
        self.transaction.extend_from_slice(b",\"lsn\":");
        self.tail.clear();
        self.tail.extend_from_slice(b",\"xmin\":null");
        if let Some((name, lsn)) = origin {
            self.tail.extend_from_slice(b",\"origin\":");
            json::string(&mut self.tail, name);
            self.tail.extend_from_slice(b",\"origin_lsn\":");
            json::uint(&mut self.tail, lsn.0);
        }
        self.tail.push(b'}');
        self.after_lsn.clear();
        self.after_lsn.extend_from_slice(b"\\\"]\",\"ts_us\":");
        json::int(&mut self.after_lsn, commit_us);
        self.after_lsn.extend_from_slice(b",\"ts_ns\":");
        json::int(&mut self.after_lsn, commit_us.saturating_mul(1000));
        self.after_lsn.push(b',');
        self.mark(commit_us, Mark::False, last_commit);
    }

    /// Sets what comes before the LSN.
    pub fn mark(&mut self, commit_us: i64, mark: Mark, last_commit: Option<Lsn>) {
        let out = &mut self.before_lsn;
        out.clear();
        json::int(out, commit_us.div_euclid(1000));
        out.extend_from_slice(b",\"snapshot\":\"");
        out.extend_from_slice(match mark {
            Mark::False => b"false",
            Mark::First => b"first",
            Mark::True => b"true",
            Mark::Last => b"last",
        });
        out.extend_from_slice(b"\",\"db\":");
        json::string(out, &self.database);
        out.extend_from_slice(b",\"sequence\":\"[");
        match last_commit {
            Some(lsn) => {
                out.extend_from_slice(b"\\\"");
                json::uint(out, lsn.0);
                out.extend_from_slice(b"\\\"");
            }
            None => out.extend_from_slice(b"null"),
        }
        out.extend_from_slice(b",\\\"");
    }

    /// Writes the block of one event.
    pub fn write(&self, out: &mut Vec<u8>, names: &[u8], lsn: Lsn) {
        out.extend_from_slice(&self.head);
        out.extend_from_slice(&self.before_lsn);
        json::uint(out, lsn.0);
        out.extend_from_slice(&self.after_lsn);
        out.extend_from_slice(names);
        out.extend_from_slice(&self.transaction);
        json::uint(out, lsn.0);
        out.extend_from_slice(&self.tail);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(block: &SourceBlock, expect: &str) {
        let mut out = Vec::new();
        block.write(&mut out, &names("public", "orders"), Lsn(100));
        let written: serde_json::Value = serde_json::from_slice(&out).unwrap();
        let mut expected: serde_json::Value = serde_json::from_str(expect).unwrap();
        expected["version"] = env!("CARGO_PKG_VERSION").into();
        assert_eq!(written, expected);
    }

    #[test]
    fn the_block_is_debeziums() {
        let mut block = SourceBlock::new("shop", "store");
        block.begin(1_700_000_000_123_456, Some(7), Some(Lsn(90)), Some(("other", Lsn(3))));
        check(
            &block,
            r#"{"connector":"postgresql","name":"shop","ts_ms":1700000000123,"snapshot":"false","db":"store",
                "sequence":"[\"90\",\"100\"]","ts_us":1700000000123456,"ts_ns":1700000000123456000,
                "schema":"public","table":"orders","txId":7,"lsn":100,"xmin":null,"origin":"other","origin_lsn":3}"#,
        );
        block.begin(0, None, None, None);
        block.mark(0, Mark::Last, None);
        check(
            &block,
            r#"{"connector":"postgresql","name":"shop","ts_ms":0,"snapshot":"last","db":"store",
                "sequence":"[null,\"100\"]","ts_us":0,"ts_ns":0,
                "schema":"public","table":"orders","txId":null,"lsn":100,"xmin":null}"#,
        );
    }
}
