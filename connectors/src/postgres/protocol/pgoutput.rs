//! Messages of the output plugin `pgoutput`, protocol version 1, text format: bytes to borrowed structures.
//!
//! Source of the layout: PostgreSQL documentation, "Logical Replication Message Formats". All integers are big-endian,
//! names end with a zero byte. A tuple is `count: i16`, then for each column `n` (null), `u` (unchanged TOAST), or
//! `t`/`b` with `length: i32` and that many bytes.

use super::lsn::Lsn;

/// Bytes that are no message of the protocol.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} at byte {at} of a replication message that begins {head}")]
pub struct Malformed {
    what: &'static str,
    at: usize,
    /// The first bytes in hexadecimal.
    head: String,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Message<'a> {
    Begin {
        commit_lsn: Lsn,
        commit_us: i64,
        xid: u32,
    },
    Commit {
        commit_lsn: Lsn,
        end_lsn: Lsn,
        commit_us: i64,
    },
    Origin {
        lsn: Lsn,
        name: &'a str,
    },
    Relation(RelationMessage<'a>),
    Type {
        oid: u32,
    },
    Insert {
        relation: u32,
        new: Tuple<'a>,
    },
    Update {
        relation: u32,
        old: Option<Tuple<'a>>,
        new: Tuple<'a>,
    },
    Delete {
        relation: u32,
        old: Tuple<'a>,
    },
    Truncate {
        relations: Vec<u32>,
    },
    /// A message of `pg_logical_emit_message`; not asked for, known all the same.
    Logical,
}

#[derive(Debug, PartialEq, Eq)]
pub struct RelationMessage<'a> {
    pub oid: u32,
    pub schema: &'a str,
    pub name: &'a str,
    /// `d` default, `n` nothing, `f` full, `i` index.
    pub replica_identity: u8,
    pub columns: Vec<ColumnMessage<'a>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ColumnMessage<'a> {
    /// Part of the replica identity.
    pub identity: bool,
    pub name: &'a str,
    pub type_oid: u32,
    pub type_mod: i32,
}

/// A row image whose bounds have been checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuple<'a> {
    /// `K` key columns only, `O` old row, `N` new row.
    pub kind: u8,
    count: u16,
    body: &'a [u8],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Datum<'a> {
    Null,
    Unchanged,
    Text(&'a [u8]),
    Binary(&'a [u8]),
}

impl<'a> Tuple<'a> {
    /// Number of columns.
    pub fn width(&self) -> usize {
        usize::from(self.count)
    }

    pub fn columns(&self) -> impl Iterator<Item = Datum<'a>> + use<'a> {
        let mut reader = Reader { bytes: self.body, at: 0 };
        (0..self.count).map_while(move |_| reader.datum().ok())
    }
}

/// Reads one message; bytes left over are an error.
pub fn parse(bytes: &[u8]) -> Result<Message<'_>, Malformed> {
    let mut reader = Reader { bytes, at: 0 };
    let message = match reader.u8()? {
        b'B' => Message::Begin { commit_lsn: Lsn(reader.u64()?), commit_us: reader.time()?, xid: reader.u32()? },
        b'C' => {
            reader.u8()?;
            Message::Commit { commit_lsn: Lsn(reader.u64()?), end_lsn: Lsn(reader.u64()?), commit_us: reader.time()? }
        }
        b'O' => Message::Origin { lsn: Lsn(reader.u64()?), name: reader.name()? },
        b'R' => Message::Relation(reader.relation()?),
        b'Y' => {
            let oid = reader.u32()?;
            reader.name()?;
            reader.name()?;
            Message::Type { oid }
        }
        b'I' => {
            let relation = reader.u32()?;
            Message::Insert { relation, new: reader.tuple(b"N")? }
        }
        b'U' => {
            let relation = reader.u32()?;
            let first = reader.tuple(b"KON")?;
            match first.kind {
                b'N' => Message::Update { relation, old: None, new: first },
                _ => Message::Update { relation, old: Some(first), new: reader.tuple(b"N")? },
            }
        }
        b'D' => {
            let relation = reader.u32()?;
            Message::Delete { relation, old: reader.tuple(b"KO")? }
        }
        b'T' => {
            let count = reader.u32()? as usize;
            reader.u8()?;
            if count > reader.left() / 4 {
                return Err(reader.malformed("more relations than bytes"));
            }
            Message::Truncate { relations: (0..count).map(|_| reader.u32()).collect::<Result<_, _>>()? }
        }
        b'M' => return Ok(Message::Logical),
        _ => return Err(reader.malformed("unknown message type")),
    };
    match reader.left() {
        0 => Ok(message),
        _ => Err(reader.malformed("bytes left over")),
    }
}

/// Checked reading from the front.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    #[cold]
    fn malformed(&self, what: &'static str) -> Malformed {
        let head = self.bytes.iter().take(32).map(|byte| format!("{byte:02x}")).collect();
        Malformed { what, at: self.at, head }
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        if count > self.left() {
            return Err(self.malformed("message ends early"));
        }
        let taken = &self.bytes[self.at..self.at + count];
        self.at += count;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        Ok(self.take(N)?.try_into().expect("take gives what was asked for"))
    }

    fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(self.array::<1>()?[0])
    }

    fn u16(&mut self) -> Result<u16, Malformed> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    fn u32(&mut self) -> Result<u32, Malformed> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, Malformed> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    /// Microseconds since 1970.
    fn time(&mut self) -> Result<i64, Malformed> {
        Ok(super::lsn::from_pg_us(i64::from_be_bytes(self.array()?)))
    }

    fn name(&mut self) -> Result<&'a str, Malformed> {
        let rest = &self.bytes[self.at..];
        let end = rest.iter().position(|&byte| byte == 0).ok_or_else(|| self.malformed("name without end"))?;
        let name = std::str::from_utf8(&rest[..end]).map_err(|_| self.malformed("name that is not UTF-8"))?;
        self.at += end + 1;
        Ok(name)
    }

    fn relation(&mut self) -> Result<RelationMessage<'a>, Malformed> {
        let oid = self.u32()?;
        let schema = match self.name()? {
            "" => "pg_catalog",
            schema => schema,
        };
        let name = self.name()?;
        let replica_identity = self.u8()?;
        let count = usize::from(self.u16()?);
        let mut columns = Vec::with_capacity(count.min(self.left() / 10));
        for _ in 0..count {
            columns.push(ColumnMessage {
                identity: self.u8()? & 1 != 0,
                name: self.name()?,
                type_oid: self.u32()?,
                type_mod: i32::from_be_bytes(self.array()?),
            });
        }
        Ok(RelationMessage { oid, schema, name, replica_identity, columns })
    }

    fn tuple(&mut self, kinds: &[u8]) -> Result<Tuple<'a>, Malformed> {
        let kind = self.u8()?;
        if !kinds.contains(&kind) {
            return Err(self.malformed("unknown kind of tuple"));
        }
        let count = self.u16()?;
        let from = self.at;
        for _ in 0..count {
            self.datum()?;
        }
        Ok(Tuple { kind, count, body: &self.bytes[from..self.at] })
    }

    fn datum(&mut self) -> Result<Datum<'a>, Malformed> {
        match self.u8()? {
            b'n' => Ok(Datum::Null),
            b'u' => Ok(Datum::Unchanged),
            b't' => self.sized().map(Datum::Text),
            b'b' => self.sized().map(Datum::Binary),
            _ => Err(self.malformed("unknown kind of column")),
        }
    }

    fn sized(&mut self) -> Result<&'a [u8], Malformed> {
        let length = self.u32()? as usize;
        self.take(length)
    }
}
