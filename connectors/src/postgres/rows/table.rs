//! A captured table while it is captured: the columns pinned when the source began, the shape that the stream last
//! announced, and how its rows become changes.

use super::super::catalog::Table;
use super::super::error::Error;
use super::super::position::NUMERIC;
use super::super::protocol::lsn::Lsn;
use super::super::protocol::pgoutput::{Datum, RelationMessage, Tuple};
use super::source_block::names;
use super::types::Kind;
use crate::cdc::Relation;
use crate::change::Value;

/// A captured table with the columns it had then, and its place in [`engine::io::Source::relations`].
#[derive(Clone, Debug)]
pub struct Pinned {
    pub index: usize,
    pub table: Table,
}

/// One shape of a captured table.
#[derive(Clone, Debug)]
pub struct Live {
    pub relation: Relation,
    /// The names of the source block.
    pub names: Vec<u8>,
    kinds: Vec<Kind>,
}

impl Live {
    /// The pinned shape: what the snapshot reads.
    pub fn pinned(Pinned { index, table }: &Pinned) -> Live {
        let columns = table.columns.iter().map(|column| column.name.clone());
        Live {
            relation: Relation::new(*index, table.full_name(), columns, table.key.clone()),
            names: names(&table.schema, &table.name),
            kinds: table.columns.iter().map(|column| column.kind()).collect(),
        }
    }

    /// The shape a RELATION message announces. Added columns are carried as further fields; a pinned column that is
    /// gone or is read otherwise, or another table in its place, is an error that names it.
    pub fn announced(Pinned { index, table }: &Pinned, message: &RelationMessage<'_>) -> Result<Live, Error> {
        let name = table.full_name();
        if (message.schema, message.name) != (table.schema.as_str(), table.name.as_str()) {
            let (schema, new) = (message.schema, message.name);
            return Err(Error::Changed(format!("table {name} was renamed to {schema}.{new}")));
        }
        for pinned in &table.columns {
            let column = &pinned.name;
            let Some(now) = message.columns.iter().find(|now| now.name == column) else {
                return Err(Error::Changed(format!("column {column} of table {name} was dropped or renamed")));
            };
            let modifier_changed =
                pinned.type_oid == NUMERIC && now.type_oid == NUMERIC && now.type_mod != pinned.base_mod;
            if now.type_oid != pinned.type_oid || modifier_changed {
                return Err(Error::Changed(format!("the type of column {column} of table {name} was changed")));
            }
        }
        // Under the default identity the announced columns are the primary key's. What other identities hold says
        // nothing of the key: that is looked up.
        if message.replica_identity == b'd' && !table.key.is_empty() && !is_key(table, message) {
            return Err(Error::Changed(table.keyless()));
        }
        let place = |column: &str| message.columns.iter().position(|now| now.name == column);
        let key = table.key.iter().map(|&at| place(&table.columns[at].name).expect("found above")).collect();
        let kind = |now: &super::super::protocol::pgoutput::ColumnMessage<'_>| {
            let pinned = table.columns.iter().find(|pinned| pinned.name == now.name);
            pinned.map_or(Kind::of(now.type_oid), |pinned| pinned.kind())
        };
        Ok(Live {
            relation: Relation::new(*index, name, message.columns.iter().map(|now| now.name.to_owned()), key),
            names: names(&table.schema, &table.name),
            kinds: message.columns.iter().map(kind).collect(),
        })
    }

    /// Whether the message leaves open if the captured key still is one.
    pub fn in_doubt(Pinned { table, .. }: &Pinned, message: &RelationMessage<'_>) -> bool {
        let by_index = matches!(message.replica_identity, b'd' | b'i');
        !(table.key.is_empty() || by_index && is_key(table, message))
    }

    pub fn width(&self) -> usize {
        self.kinds.len()
    }

    /// Reads one value of column `at`.
    pub fn read<'a>(&self, at: usize, text: &'a [u8], lsn: Lsn) -> Result<Value<'a>, Error> {
        self.kinds[at].read(text).map_err(|reason| Error::Value {
            lsn,
            relation: self.relation.name.clone(),
            column: self.relation.column(at).to_owned(),
            text: String::from_utf8_lossy(&text[..text.len().min(64)]).into_owned(),
            reason,
        })
    }

    /// Reads a row image. Of an old image with the key alone (`K`), what is not key is absent: PostgreSQL sends null for
    /// it, which says nothing.
    pub fn image<'a>(
        &self,
        tuple: Tuple<'a>,
        identity: &[bool],
        lsn: Lsn,
        row: &mut Vec<Value<'a>>,
    ) -> Result<(), Error> {
        if tuple.width() != self.width() {
            let name = &self.relation.name;
            return Err(Error::Protocol(format!("a row of {name} with {} of {} columns", tuple.width(), self.width())));
        }
        row.clear();
        for (at, datum) in tuple.columns().enumerate() {
            row.push(match datum {
                Datum::Null if tuple.kind == b'K' && !identity[at] => Value::Absent,
                Datum::Null => Value::Null,
                Datum::Unchanged => Value::Absent,
                Datum::Text(text) => self.read(at, text, lsn)?,
                Datum::Binary(_) => return Err(Error::Protocol("a binary value, which was not asked for".into())),
            });
        }
        Ok(())
    }
}

/// Whether the announced identity is exactly the captured key.
fn is_key(table: &Table, message: &RelationMessage<'_>) -> bool {
    let held = |name: &str| table.key.iter().any(|&at| table.columns[at].name == name);
    let identity = message.columns.iter().filter(|column| column.identity);
    identity.clone().count() == table.key.len() && identity.clone().all(|column| held(column.name))
}
