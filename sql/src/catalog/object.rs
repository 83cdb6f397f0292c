//! [`Object`]: one definition: its text, the facts resolved from it, and what it rests on.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::common::{Constraint, Constraints};
use engine::graph::RelationId;
use serde::{Deserialize, Serialize};

use super::Name;
use crate::error::Result;
use crate::types::ColumnType;

/// A created object. Its id is never used again, also after it is dropped.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Object {
    pub id: RelationId,
    pub name: Name,
    /// The statement that created it; empty for the tables of a source.
    pub sql: String,
    /// What has to stand as long as it stands.
    pub depends_on: Vec<RelationId>,
    pub kind: Kind,
}

/// An object to be created; it gets its id by being created.
#[derive(Clone, Debug)]
pub struct Draft {
    pub name: Name,
    pub sql: String,
    pub depends_on: Vec<RelationId>,
    pub kind: Kind,
}

/// Names are unique within a class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    Source,
    /// Tables and views.
    Relation,
    Sink,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Source(Source),
    Table(Table),
    View(View),
    Sink(Sink),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    pub connector: String,
    pub options: BTreeMap<String, String>,
}

/// A relation over a topic that somebody else writes: a source, INSERT, any Kafka client.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Table {
    pub columns: Vec<Column>,
    /// Indices of the primary key's columns; empty without one.
    pub key: Vec<usize>,
    /// Every record is one more row; otherwise later records change and delete earlier rows.
    pub append_only: bool,
    pub topic: String,
    /// The topic it was created over: one of the same name that comes later is another.
    pub topic_id: log::TopicId,
    pub format: String,
    /// Options of the format.
    pub options: BTreeMap<String, String>,
    pub on_error: OnError,
    /// The name of the source that captures it.
    pub source: Option<String>,
}

/// What a record that cannot be decoded does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnError {
    /// The views over it stop and name the offset.
    #[default]
    Fail,
    /// It is put aside in a topic of its own.
    DeadLetter,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct View {
    pub columns: Vec<Column>,
    /// `Some(&[])` is the key `{}` of a relation of one row; `None`: the whole row is the key.
    pub key: Option<Vec<usize>>,
    pub append_only: bool,
    pub topic: String,
    pub topic_id: log::TopicId,
    pub format: String,
    /// Options of the format.
    pub options: BTreeMap<String, String>,
    /// The text of the query.
    pub query: String,
    /// The database that short names in the query belong to.
    pub database: String,
    /// What it reads, with the columns there were when it was planned: later ones stay invisible to it.
    pub inputs: Vec<PinnedInput>,
    pub plan_version: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PinnedInput {
    pub relation: RelationId,
    pub columns: Vec<Column>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sink {
    pub from: RelationId,
    pub connector: String,
    pub options: BTreeMap<String, String>,
    /// The topic it writes, for the connector `topic`.
    pub topic: Option<String>,
    pub topic_id: Option<log::TopicId>,
    pub format: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Column {
    pub name: String,
    /// PostgreSQL's name of the type, `numeric(10,2)`.
    pub type_name: String,
    pub nullable: bool,
}

impl Column {
    /// An error when columns cannot have the field's type.
    pub fn of(field: &Field) -> Result<Self> {
        let type_name = ColumnType::of(field).name()?;
        Ok(Self { name: field.name().clone(), type_name, nullable: field.is_nullable() })
    }

    pub fn all_of(schema: &Schema) -> Result<Vec<Self>> {
        schema.fields().iter().map(|field| Self::of(field)).collect()
    }

    pub fn field(&self) -> Result<Field> {
        Ok(ColumnType::parse(&self.type_name)?.field(&self.name, self.nullable))
    }
}

/// Arrow's schema of columns.
pub fn schema(columns: &[Column]) -> Result<SchemaRef> {
    let fields: Vec<Field> = columns.iter().map(Column::field).collect::<Result<_>>()?;
    Ok(Arc::new(Schema::new(fields)))
}

impl Kind {
    pub fn class(&self) -> Class {
        match self {
            Self::Source(_) => Class::Source,
            Self::Table(_) | Self::View(_) => Class::Relation,
            Self::Sink(_) => Class::Sink,
        }
    }

    /// The word that errors name it by.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Source(_) => "source",
            Self::Table(_) => "table",
            Self::View(_) => "materialized view",
            Self::Sink(_) => "sink",
        }
    }
}

impl Object {
    /// Columns of a table or view.
    pub fn columns(&self) -> Option<&[Column]> {
        match &self.kind {
            Kind::Table(table) => Some(&table.columns),
            Kind::View(view) => Some(&view.columns),
            Kind::Source(_) | Kind::Sink(_) => None,
        }
    }

    /// Arrow's schema of a table or view.
    pub fn schema(&self) -> Result<SchemaRef> {
        schema(self.columns().unwrap_or_default())
    }

    /// The key of a table or view: `None` when the whole row is.
    pub fn key(&self) -> Option<&[usize]> {
        match &self.kind {
            Kind::Table(table) if !table.key.is_empty() => Some(&table.key),
            Kind::View(view) => view.key.as_deref(),
            _ => None,
        }
    }

    /// What a planner may rest on: the primary key of a table, its columns at the places `key`. A view's key may hold
    /// nulls, so it is none.
    pub fn constraints(&self, key: Option<&[usize]>) -> Constraints {
        match (&self.kind, key) {
            (Kind::Table(_), Some(key)) => Constraints::new_unverified(vec![Constraint::PrimaryKey(key.to_vec())]),
            _ => Constraints::default(),
        }
    }

    /// Whether rows only come.
    pub fn append_only(&self) -> bool {
        match &self.kind {
            Kind::Table(table) => table.append_only,
            Kind::View(view) => view.append_only,
            Kind::Source(_) | Kind::Sink(_) => false,
        }
    }

    /// The topic of a table, a view or a topic sink.
    pub fn topic(&self) -> Option<&str> {
        match &self.kind {
            Kind::Table(table) => Some(&table.topic),
            Kind::View(view) => Some(&view.topic),
            Kind::Sink(sink) => sink.topic.as_deref(),
            Kind::Source(_) => None,
        }
    }
}
