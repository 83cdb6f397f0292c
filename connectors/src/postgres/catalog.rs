//! What the server's catalog says of the tables a source captures.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::datatypes::Schema;
use engine::io::{self, SourceRelation};
use tokio_postgres::Client;

use super::choice::Tables;
use super::error::{Error, user};
use super::protocol::walsender::quoted;
use super::rows::types::{Kind, field};

/// A captured table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    pub oid: u32,
    pub schema: String,
    pub name: String,
    pub partitioned: bool,
    /// In order of their numbers; generated columns are not among them.
    pub columns: Vec<Column>,
    /// Indices of the key columns, in key order: the primary key, or the columns of the index that REPLICA IDENTITY
    /// names where that does not hold the primary key. Empty: the whole row is the identity.
    pub key: Vec<usize>,
    /// The identity lets updates and deletes be published.
    pub identified: bool,
    /// `d` default, `n` nothing, `f` full, `i` index.
    pub replica_identity: char,
    pub selectable: bool,
    pub owned: bool,
    pub generated: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    pub name: String,
    /// As RELATION messages name it: a domain's own, not its base type's.
    pub type_oid: u32,
    /// What the values are read as: a domain's base type.
    pub base_oid: u32,
    pub base_mod: i32,
    pub base_name: String,
}

impl Column {
    pub fn kind(&self) -> Kind {
        Kind::of(self.base_oid)
    }
}

impl Table {
    pub fn full_name(&self) -> String {
        format!("{}.{}", self.schema, self.name)
    }

    /// Quoted for SQL.
    pub fn sql_name(&self) -> String {
        format!("{}.{}", quoted(&self.schema), quoted(&self.name))
    }

    /// What is said when the key has gone.
    pub fn keyless(&self) -> String {
        let columns: Vec<&str> = self.key.iter().map(|&at| self.columns[at].name.as_str()).collect();
        format!("the key ({}) of table {} was dropped or changed", columns.join(", "), self.full_name())
    }

    pub fn relation(&self) -> SourceRelation {
        let fields: Vec<_> =
            self.columns.iter().map(|c| field(&c.name, c.base_oid, c.base_mod, &c.base_name)).collect();
        SourceRelation {
            schema_name: self.schema.clone(),
            name: self.name.clone(),
            schema: Arc::new(Schema::new(fields)),
            key: self.key.clone(),
            format: "debezium-json",
        }
    }
}

const TABLES: &str = "
    SELECT c.oid, n.nspname::text, c.relname::text, c.relkind::text, c.relreplident::text, c.relpersistence::text,
           coalesce(has_table_privilege(c.oid, 'SELECT') AND has_schema_privilege(n.oid, 'USAGE'), false),
           coalesce(pg_has_role(c.relowner, 'USAGE'), false),
           CASE WHEN c.relkind = 'p' THEN (
               SELECT coalesce(bool_and(l.relreplident = 'f'
                   OR l.relreplident = 'd' AND EXISTS (SELECT FROM pg_index i
                      WHERE i.indrelid = l.oid AND i.indisprimary AND i.indimmediate)
                   OR l.relreplident = 'i' AND EXISTS (SELECT FROM pg_index i
                      WHERE i.indrelid = l.oid AND i.indisreplident AND i.indimmediate)), true)
               FROM pg_partition_tree(c.oid) p JOIN pg_class l ON l.oid = p.relid WHERE p.isleaf AND l.relkind = 'r')
           ELSE true END
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND NOT c.relispartition
      AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
    ORDER BY 2, 3";

const COLUMNS: &str = "
    SELECT attrelid, attnum, attname::text, atttypid, atttypmod, attgenerated <> ''
    FROM pg_attribute WHERE attrelid = ANY($1) AND attnum > 0 AND NOT attisdropped ORDER BY 1, 2";

const TYPES: &str = "
    WITH RECURSIVE base (oid, name, kind, base, base_mod) AS (
        SELECT oid, typname::text, typtype::text, typbasetype, typtypmod FROM pg_type WHERE oid = ANY($1)
        UNION
        SELECT t.oid, t.typname::text, t.typtype::text, t.typbasetype, t.typtypmod
        FROM base JOIN pg_type t ON base.kind = 'd' AND t.oid = base.base)
    SELECT oid, name, kind, base, base_mod FROM base";

const INDEXES: &str = "
    SELECT indrelid, indisprimary, indisreplident, (string_to_array(indkey::text, ' ')::int2[])[1:indnkeyatts]
    FROM pg_index
    WHERE indrelid = ANY($1) AND (indisprimary OR indisreplident) AND indisvalid AND indimmediate";

const UNIQUE: &str = "
    SELECT attrelid, false, array_agg(attname::text)
    FROM pg_attribute WHERE attrelid = ANY($1) AND attnum > 0 AND NOT attisdropped GROUP BY attrelid
    UNION ALL
    SELECT i.indrelid, true, array_agg(a.attname::text)
    FROM pg_index i
    CROSS JOIN LATERAL unnest((string_to_array(i.indkey::text, ' ')::int2[])[1:i.indnkeyatts]) k
    JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k
    WHERE i.indrelid = ANY($1) AND i.indisunique AND i.indisvalid AND i.indimmediate
      AND i.indpred IS NULL AND i.indexprs IS NULL
    GROUP BY i.indexrelid, i.indrelid";

/// A table in which the key that it had when it was captured is no longer unique. Where a column of it is gone or
/// renamed, the stream says so with the next change.
pub async fn keyless<'a>(client: &Client, tables: &[&'a Table]) -> Result<Option<&'a Table>, Error> {
    let oids: Vec<u32> = tables.iter().map(|table| table.oid).collect();
    let rows = client.query(UNIQUE, &[&oids]).await?;
    let sets: Vec<(u32, bool, Vec<String>)> = rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect();
    let is_keyless = |table: &&&Table| {
        let key: Vec<&String> = table.key.iter().map(|&at| &table.columns[at].name).collect();
        let mut of_table = sets.iter().filter(|(oid, ..)| *oid == table.oid);
        let there = |(_, index, columns): &(u32, bool, Vec<String>)| !index && key.iter().all(|c| columns.contains(c));
        let unique =
            |(_, index, columns): &(u32, bool, Vec<String>)| *index && columns.iter().all(|c| key.contains(&c));
        !key.is_empty() && of_table.clone().any(there) && !of_table.any(unique)
    };
    Ok(tables.iter().find(is_keyless).copied())
}

/// The tables chosen, by name. A table that is named but is not there, or cannot be captured, is an error; one that a
/// pattern merely meets is left out where it cannot be.
pub async fn find(client: &Client, tables: &Tables) -> Result<Vec<Table>, io::Error> {
    let rows = client.query(TABLES, &[]).await.map_err(Error::from)?;
    let mut found: BTreeMap<u32, Table> = BTreeMap::new();
    let mut order = Vec::new();
    let mut refused: HashMap<(String, String), &'static str> = HashMap::new();
    for row in &rows {
        let (schema, name): (String, String) = (row.get(1), row.get(2));
        if !tables.matches(&schema, &name) {
            continue;
        }
        let kind: String = row.get(3);
        let persistence: String = row.get(5);
        let reason = refusal(&kind, &persistence);
        if let Some(reason) = reason {
            refused.insert((schema, name), reason);
            continue;
        }
        let replica_identity: String = row.get(4);
        let table = Table {
            oid: row.get(0),
            schema,
            name,
            partitioned: kind == "p",
            columns: Vec::new(),
            key: Vec::new(),
            identified: row.get(8),
            replica_identity: replica_identity.chars().next().unwrap_or('n'),
            selectable: row.get(6),
            owned: row.get(7),
            generated: Vec::new(),
        };
        order.push(table.oid);
        found.insert(table.oid, table);
    }
    check_named(tables, &found, &refused)?;
    describe(client, &mut found).await?;
    let mut captured: Vec<Table> = order.iter().filter_map(|oid| found.remove(oid)).collect();
    if let Some(bare) = captured.iter().find(|table| table.columns.is_empty())
        && tables.named().any(|(schema, name)| bare.schema == schema && bare.name == name)
    {
        return Err(user(format!("{} has no columns to capture", bare.full_name()), "leave it out"));
    }
    captured.retain(|table| !table.columns.is_empty());
    match captured.is_empty() {
        true => Err(user(
            "no table matches the option tables, or all are excluded",
            "for example tables = 'public.*' or 'public.orders, public.items'",
        )),
        false => Ok(captured),
    }
}

/// Why a relation has no changes to capture.
fn refusal(kind: &str, persistence: &str) -> Option<&'static str> {
    match (kind, persistence) {
        ("v", _) => Some("is a view"),
        ("m", _) => Some("is a materialized view"),
        ("f", _) => Some("is a foreign table"),
        (_, "u") => Some("is unlogged"),
        (_, "t") => Some("is temporary"),
        _ => None,
    }
}

/// Every table that the options name is there and can be captured.
fn check_named(
    tables: &Tables,
    found: &BTreeMap<u32, Table>,
    refused: &HashMap<(String, String), &'static str>,
) -> Result<(), io::Error> {
    for (schema, name) in tables.named() {
        if found.values().any(|table| table.schema == schema && table.name == name) {
            continue;
        }
        return Err(match refused.get(&(schema.to_owned(), name.to_owned())) {
            Some(reason) => user(
                format!("{schema}.{name} {reason}: its changes are not in the write-ahead log"),
                "name ordinary, logged tables",
            ),
            None => user(
                format!("table {schema}.{name} does not exist"),
                "names are spelt as in the database; * matches any part",
            ),
        });
    }
    Ok(())
}

/// Fills in columns and keys.
async fn describe(client: &Client, tables: &mut BTreeMap<u32, Table>) -> Result<(), Error> {
    let oids: Vec<u32> = tables.keys().copied().collect();
    let columns = client.query(COLUMNS, &[&oids]).await?;
    let types: Vec<u32> = columns.iter().map(|row| row.get(3)).collect();
    let types = Types::read(client, &types).await?;
    // Attribute numbers of the columns kept, for the indexes.
    let mut numbers: HashMap<u32, Vec<i16>> = HashMap::new();
    for row in &columns {
        let oid: u32 = row.get(0);
        let table = tables.get_mut(&oid).expect("only columns of these tables were asked for");
        if row.get(5) {
            table.generated.push(row.get(2));
            continue;
        }
        let type_oid = row.get(3);
        let (base_oid, base_mod, base_name) = types.base(type_oid, row.get(4));
        table.columns.push(Column { name: row.get(2), type_oid, base_oid, base_mod, base_name });
        numbers.entry(oid).or_default().push(row.get(1));
    }
    let mut primary: HashMap<u32, Vec<usize>> = HashMap::new();
    let mut identity: HashMap<u32, Vec<usize>> = HashMap::new();
    for row in &client.query(INDEXES, &[&oids]).await? {
        let oid: u32 = row.get(0);
        let attributes: Vec<i16> = row.get(3);
        let place = |number: &i16| numbers.get(&oid)?.iter().position(|at| at == number);
        // A key on a generated column cannot be seen in the stream: no key then.
        let Some(key) = attributes.iter().map(place).collect::<Option<Vec<usize>>>() else { continue };
        if row.get(1) {
            primary.insert(oid, key.clone());
        }
        if row.get(2) {
            identity.insert(oid, key);
        }
    }
    for table in tables.values_mut() {
        let primary = primary.remove(&table.oid);
        let index = identity.remove(&table.oid);
        let (key, identified) = key_of(table.replica_identity, primary, index);
        table.key = key;
        table.identified &= identified;
    }
    Ok(())
}

/// The key of a relation, and whether the server lets its updates and deletes be published.
fn key_of(replica_identity: char, primary: Option<Vec<usize>>, index: Option<Vec<usize>>) -> (Vec<usize>, bool) {
    match (replica_identity, primary, index) {
        ('f', primary, _) => (primary.unwrap_or_default(), true),
        ('d', Some(primary), _) => (primary, true),
        ('i', Some(primary), Some(index)) if primary.iter().all(|column| index.contains(column)) => (primary, true),
        ('i', _, Some(index)) => (index, true),
        (_, primary, _) => (primary.unwrap_or_default(), false),
    }
}

/// Types by oid: name, and for domains what they are based on.
struct Types(HashMap<u32, (String, Option<(u32, i32)>)>);

impl Types {
    async fn read(client: &Client, oids: &[u32]) -> Result<Types, Error> {
        let rows = client.query(TYPES, &[&oids]).await?;
        let entry = |row: &tokio_postgres::Row| {
            let kind: String = row.get(2);
            let base = (kind == "d").then(|| (row.get(3), row.get(4)));
            (row.get(0), (row.get(1), base))
        };
        Ok(Types(rows.iter().map(entry).collect()))
    }

    /// Base type, its modifier and its name; a domain's modifier is that of the innermost definition that has one.
    fn base(&self, mut oid: u32, mut type_mod: i32) -> (u32, i32, String) {
        // Domains nest; the server allows no cycle, the bound does not rely on it.
        for _ in 0..64 {
            match self.0.get(&oid) {
                Some((_, Some((base, base_mod)))) => {
                    oid = *base;
                    type_mod = if *base_mod >= 0 { *base_mod } else { type_mod };
                }
                Some((name, None)) => return (oid, type_mod, name.clone()),
                None => break,
            }
        }
        (oid, type_mod, "unknown".to_owned())
    }
}
