//! One change of one row as a database reports it, before it is written as a record: [`Change`], made of [`Value`]s.
//!
//! Every path into the log, snapshot and stream, of every database, goes through this model and through the one writer
//! in `cdc::json`; so a row has one rendering, wherever it came from.

/// What happened to a row, by Debezium's letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Read by a snapshot.
    Read,
    Create,
    Update,
    Delete,
    /// All rows of the relation are gone.
    Truncate,
}

impl Op {
    pub fn letter(self) -> &'static str {
        match self {
            Op::Read => "r",
            Op::Create => "c",
            Op::Update => "u",
            Op::Delete => "d",
            Op::Truncate => "t",
        }
    }
}

/// One column of one row image, borrowed from the bytes it arrived in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// The database did not send it: unchanged in `after`, no part of the identity in `before`. It is left out of the
    /// image; it is never null.
    Absent,
    Null,
    Bool(bool),
    Int(i64),
    /// A number in JSON's own grammar, as the database wrote it.
    Number(&'a str),
    /// Becomes a JSON string: text, decimals, uuid, json, and whatever has no rendering of its own.
    Text(&'a str),
    /// Bytes as pairs of lower-case hexadecimal digits; becomes base64.
    Hex(&'a str),
    /// Bytes; becomes base64.
    Bytes(&'a [u8]),
    /// Microseconds since 1970, UTC, years 0001 to 9999; becomes an ISO 8601 string with six digits and `Z`.
    Instant(i64),
}

/// One change. Images are in the order of the relation's columns.
#[derive(Clone, Copy, Debug)]
pub struct Change<'a> {
    pub op: Op,
    /// The row before, as far as the database tells it.
    pub before: Option<&'a [Value<'a>]>,
    pub after: Option<&'a [Value<'a>]>,
}

/// An empty row with the room of a used one, whatever bytes that borrowed from.
pub fn emptied<'b>(mut row: Vec<Value<'_>>) -> Vec<Value<'b>> {
    row.clear();
    // Collecting in place keeps the allocation.
    row.into_iter().map(|_| Value::Null).collect()
}
