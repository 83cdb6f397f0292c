//! [`Name`]: where an object stands: database (a source, or `riverrun`), schema, name.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, sqlstate};

/// The database of everything that belongs to no source.
pub const DATABASE: &str = "riverrun";
/// The schema of what is written without one.
pub const SCHEMA: &str = "public";

/// A full name. Folding and quoting are done.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Name {
    pub database: String,
    pub schema: String,
    pub name: String,
}

impl Name {
    pub fn new(database: &str, schema: &str, name: &str) -> Self {
        Self { database: database.to_string(), schema: schema.to_string(), name: name.to_string() }
    }

    /// The name that `parts` (one to three) mean in a session connected to `database`.
    pub fn resolve(parts: &[String], database: &str) -> Result<Self> {
        match parts {
            [name] => Ok(Self::new(database, SCHEMA, name)),
            [schema, name] => Ok(Self::new(database, schema, name)),
            [database, schema, name] => Ok(Self::new(database, schema, name)),
            _ => Err(Error::new(sqlstate::SYNTAX_ERROR, format!("improper relation name: {}", parts.join(".")))
                .hint("a name is [[database.]schema.]name")),
        }
    }

    /// The topic that holds the relation of this name: `clicks`, `shop.public.orders`.
    pub fn topic(&self) -> String {
        match (self.database.as_str(), self.schema.as_str()) {
            (DATABASE, SCHEMA) => self.name.clone(),
            (DATABASE, schema) => format!("{schema}.{}", self.name),
            (database, schema) => format!("{database}.{schema}.{}", self.name),
        }
    }
}

/// As short as it can be written from the default database, unquoted.
impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.topic())
    }
}
