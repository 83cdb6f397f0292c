//! [`World`]: what the catalog's tables are filled from, and [`table`], which fills them.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanBuilder, Float32Builder, Int16Builder, Int32Builder, Int64Builder, ListBuilder, RecordBatch,
    StringBuilder, TimestampMicrosecondBuilder,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use datafusion::datasource::MemTable;

use super::shapes::{EMPTY, FILLED, INFORMATION};
use crate::error::{Error, Result};
use crate::query::pgtype::{self, PG_TYPE, TYPES};

/// Object ids below this are PostgreSQL's own.
const FIRST_OID: i64 = 16_384;
pub const OWNER_OID: i64 = 10;
const NAMESPACE_PG_CATALOG: i64 = 11;
const NAMESPACE_PUBLIC: i64 = 2_200;
const NAMESPACE_INFORMATION: i64 = 13_000;
const TABLESPACE: i64 = 1_663;
const AM_HEAP: i64 = 2;
const AM_BTREE: i64 = 403;

/// One relation of the database the client is connected to.
pub struct WorldRelation {
    pub schema: String,
    pub name: String,
    /// `pg_class.relkind`: `r` table, `m` materialized view, `f` a topic without a declaration.
    pub kind: char,
    pub columns: SchemaRef,
    /// Indices of the primary key's columns.
    pub key: Vec<usize>,
    /// The query of a view.
    pub definition: Option<String>,
}

/// Everything the catalog's tables and functions tell of.
pub struct World {
    pub database: String,
    pub user: String,
    pub databases: Vec<String>,
    pub relations: Vec<WorldRelation>,
    /// Name, value, meaning.
    pub settings: Vec<(String, String, String)>,
}

impl World {
    /// Schemas in order, each with its oid.
    pub fn schemas(&self) -> Vec<(i64, String)> {
        let mut all = vec![
            (NAMESPACE_PG_CATALOG, "pg_catalog".to_owned()),
            (NAMESPACE_PUBLIC, "public".to_owned()),
            (NAMESPACE_INFORMATION, "information_schema".to_owned()),
        ];
        for relation in &self.relations {
            if !all.iter().any(|(_, name)| *name == relation.schema) {
                let oid = NAMESPACE_INFORMATION + all.len() as i64;
                all.push((oid, relation.schema.clone()));
            }
        }
        all
    }

    fn schema_oid(&self, name: &str) -> i64 {
        self.schemas().into_iter().find(|(_, n)| n == name).map_or(0, |(oid, _)| oid)
    }

    /// The oid of a relation by its place in `relations`; its primary key's index is the odd one behind.
    pub fn oid(place: usize) -> i64 {
        FIRST_OID + 2 * place as i64
    }

    fn index_oid(place: usize) -> i64 {
        Self::oid(place) + 1
    }

    /// The relation an oid names, and whether its index is meant.
    pub fn by_oid(&self, oid: i64) -> Option<(&WorldRelation, bool)> {
        let place = usize::try_from(oid.checked_sub(FIRST_OID)?).ok()?;
        self.relations.get(place / 2).map(|relation| (relation, place % 2 == 1))
    }

    /// The oid of a relation by its name as written: `orders`, `public.orders`, `"Odd Name"`.
    pub fn oid_of(&self, name: &str) -> Option<i64> {
        let parts: Vec<String> = name
            .split('.')
            .map(|part| match part.strip_prefix('"').and_then(|p| p.strip_suffix('"')) {
                Some(quoted) => quoted.to_owned(),
                None => part.trim().to_lowercase(),
            })
            .collect();
        if let [schema, table] = parts.as_slice()
            && schema == "pg_catalog"
        {
            return system_oid(table);
        }
        let found = self.relations.iter().position(|r| match parts.as_slice() {
            [table] => r.name == *table,
            [schema, table] => r.schema == *schema && r.name == *table,
            [database, schema, table] => *database == self.database && r.schema == *schema && r.name == *table,
            _ => false,
        });
        found.map(Self::oid).or_else(|| parts.last().and_then(|table| system_oid(table)))
    }
}

impl WorldRelation {
    pub fn key_name(&self) -> String {
        format!("{}_pkey", self.name)
    }

    /// `(a, b)`
    pub fn key_columns(&self) -> String {
        let names: Vec<&str> = self.key.iter().map(|k| self.columns.field(*k).name().as_str()).collect();
        format!("({})", names.join(", "))
    }
}

/// The catalog's own tables have small made-up oids, so that `'pg_class'::regclass` means something.
fn system_oid(name: &str) -> Option<i64> {
    let all = || FILLED.iter().chain(EMPTY).map(|(n, _)| *n);
    match name {
        "pg_class" => Some(1_259),
        "pg_type" => Some(1_247),
        "pg_attribute" => Some(1_249),
        "pg_proc" => Some(1_255),
        "pg_namespace" => Some(2_615),
        _ => all().position(|n| n == name).map(|place| 3_000 + place as i64),
    }
}

/// Whether a table of this name never has rows.
pub fn is_empty(name: &str) -> bool {
    EMPTY.iter().any(|(n, _)| *n == name)
}

/// The table `schema.name` of the catalog, filled; `schema` is `pg_catalog` or `information_schema`.
pub fn table(world: &World, schema: &str, name: &str) -> Result<Option<Arc<MemTable>>> {
    let list: &[&[(&str, &str)]] = if schema == "information_schema" { &[INFORMATION] } else { &[FILLED, EMPTY] };
    let Some((_, shape)) = list.iter().flat_map(|l| l.iter()).find(|(n, _)| *n == name) else { return Ok(None) };
    let columns: Vec<(&str, &str)> = shape.split_whitespace().filter_map(|c| c.split_once(':')).collect();
    let rows = if schema == "information_schema" { information_rows(world, name) } else { rows(world, name) };
    let fields: Vec<Field> = columns.iter().map(|(name, kind)| field(name, kind)).collect();
    let arrays = columns.iter().map(|(name, kind)| column(name, kind, &rows)).collect::<Result<Vec<_>>>()?;
    let schema: SchemaRef = Arc::new(Schema::new(fields));
    let batch = RecordBatch::try_new(Arc::clone(&schema), arrays)?;
    Ok(Some(Arc::new(MemTable::try_new(schema, vec![vec![batch]])?)))
}

/// A value of a row; what a row does not name is 0, false, empty or NULL.
enum Value {
    Int(i64),
    Bool(bool),
    Text(String),
    Ints(Vec<i64>),
}

impl From<i64> for Value {
    fn from(v: i64) -> Self {
        Self::Int(v)
    }
}

impl From<bool> for Value {
    fn from(v: bool) -> Self {
        Self::Bool(v)
    }
}

impl From<&str> for Value {
    fn from(v: &str) -> Self {
        Self::Text(v.to_owned())
    }
}

impl From<String> for Value {
    fn from(v: String) -> Self {
        Self::Text(v)
    }
}

type Row = BTreeMap<&'static str, Value>;

macro_rules! row {
    ($($name:ident: $value:expr),* $(,)?) => {
        Row::from([$((stringify!($name), Value::from($value))),*])
    };
}

fn field(name: &str, kind: &str) -> Field {
    let list = |item| DataType::List(Arc::new(Field::new("item", item, true)));
    let data_type = match kind {
        "oid" | "int8" => DataType::Int64,
        "int4" => DataType::Int32,
        "int2" => DataType::Int16,
        "bool" => DataType::Boolean,
        "float4" => DataType::Float32,
        "timestamptz" => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        "text[]" => list(DataType::Utf8),
        "int2[]" => list(DataType::Int16),
        "oid[]" => list(DataType::Int64),
        _ => DataType::Utf8,
    };
    let field = Field::new(name, data_type, true);
    match kind {
        "oid" | "name" | "char" => field.with_metadata([(PG_TYPE.to_owned(), kind.to_owned())].into()),
        _ => field,
    }
}

fn column(name: &str, kind: &str, rows: &[Row]) -> Result<ArrayRef> {
    let int = |row: &Row| match row.get(name) {
        Some(Value::Int(v)) => *v,
        _ => 0,
    };
    let text = |row: &Row| match row.get(name) {
        Some(Value::Text(v)) => Some(v.clone()),
        // Names and codes are never null, descriptions are.
        _ if kind == "text" => None,
        _ => Some(String::new()),
    };
    let ints = |row: &Row| match row.get(name) {
        Some(Value::Ints(v)) => Some(v.clone()),
        _ => None,
    };
    macro_rules! numbers {
        ($builder:ty, $to:ty) => {{
            let mut builder = <$builder>::with_capacity(rows.len());
            rows.iter().for_each(|row| builder.append_value(int(row) as $to));
            Arc::new(builder.finish()) as ArrayRef
        }};
    }
    Ok(match kind {
        "oid" | "int8" => numbers!(Int64Builder, i64),
        "int4" => numbers!(Int32Builder, i32),
        "int2" => numbers!(Int16Builder, i16),
        "float4" => numbers!(Float32Builder, f32),
        "bool" => {
            let mut builder = BooleanBuilder::with_capacity(rows.len());
            rows.iter().for_each(|row| builder.append_value(matches!(row.get(name), Some(Value::Bool(true)))));
            Arc::new(builder.finish())
        }
        "timestamptz" => {
            let mut builder = TimestampMicrosecondBuilder::new().with_timezone("UTC");
            builder.append_nulls(rows.len());
            Arc::new(builder.finish())
        }
        "int2[]" => {
            let mut builder = ListBuilder::new(Int16Builder::new());
            for row in rows {
                builder.append_option(ints(row).map(|v| v.into_iter().map(|v| Some(v as i16)).collect::<Vec<_>>()));
            }
            Arc::new(builder.finish())
        }
        "oid[]" => {
            let mut builder = ListBuilder::new(Int64Builder::new());
            for row in rows {
                builder.append_option(ints(row).map(|v| v.into_iter().map(Some).collect::<Vec<_>>()));
            }
            Arc::new(builder.finish())
        }
        "text[]" => {
            let mut builder = ListBuilder::new(StringBuilder::new());
            rows.iter().for_each(|_| builder.append_null());
            Arc::new(builder.finish())
        }
        "text" | "name" | "char" => {
            let mut builder = StringBuilder::new();
            rows.iter().for_each(|row| builder.append_option(text(row)));
            Arc::new(builder.finish())
        }
        other => return Err(Error::bug(format!("the catalog has no columns of type {other}"))),
    })
}

fn rows(world: &World, name: &str) -> Vec<Row> {
    match name {
        "pg_am" => vec![
            row! { oid: AM_HEAP, amname: "heap", amtype: "t" },
            row! { oid: AM_BTREE, amname: "btree", amtype: "i" },
        ],
        "pg_namespace" => {
            let schema = |(oid, name)| row! { oid: oid, nspname: name, nspowner: OWNER_OID };
            world.schemas().into_iter().map(schema).collect()
        }
        "pg_database" => (world.databases.iter().enumerate())
            .map(|(i, name)| {
                row! {
                    oid: 5 + i as i64, datname: name.as_str(), datdba: OWNER_OID, encoding: 6, datlocprovider: "c",
                    datallowconn: true, datconnlimit: -1, dattablespace: TABLESPACE, datcollate: "C", datctype: "C.UTF-8",
                }
            })
            .collect(),
        "pg_roles" => vec![row! {
            rolname: world.user.as_str(), rolsuper: true, rolinherit: true, rolcreaterole: true, rolcreatedb: true,
            rolcanlogin: true, rolconnlimit: -1, rolbypassrls: true, oid: OWNER_OID,
        }],
        "pg_user" => vec![row! {
            usename: world.user.as_str(), usesysid: OWNER_OID, usecreatedb: true, usesuper: true, usebypassrls: true,
        }],
        "pg_tablespace" => vec![row! { oid: TABLESPACE, spcname: "pg_default", spcowner: OWNER_OID }],
        "pg_class" => class_rows(world),
        "pg_attribute" => attribute_rows(world),
        "pg_index" | "pg_constraint" => key_rows(world, name),
        "pg_type" => TYPES.iter().map(type_row).collect(),
        "pg_settings" => (world.settings.iter())
            .map(|(name, value, help)| {
                row! {
                    name: name.as_str(), setting: value.as_str(), short_desc: help.as_str(), category: "riverrun",
                    context: "user", vartype: "string", source: "default", boot_val: value.as_str(),
                    reset_val: value.as_str(),
                }
            })
            .collect(),
        "pg_tables" => of_kind(world, 'r', |r| {
            row! { schemaname: r.schema.as_str(), tablename: r.name.as_str(), tableowner: world.user.as_str(), hasindexes: !r.key.is_empty() }
        }),
        "pg_matviews" => of_kind(world, 'm', |r| {
            row! {
                schemaname: r.schema.as_str(), matviewname: r.name.as_str(), matviewowner: world.user.as_str(),
                ispopulated: true, definition: r.definition.clone().unwrap_or_default(),
            }
        }),
        _ => Vec::new(),
    }
}

fn of_kind(world: &World, kind: char, row: impl Fn(&WorldRelation) -> Row) -> Vec<Row> {
    world.relations.iter().filter(|r| r.kind == kind).map(row).collect()
}

fn class_rows(world: &World) -> Vec<Row> {
    let mut rows = Vec::new();
    for (place, relation) in world.relations.iter().enumerate() {
        let schema = world.schema_oid(&relation.schema);
        rows.push(row! {
            oid: World::oid(place), relname: relation.name.as_str(), relnamespace: schema, relowner: OWNER_OID,
            relam: if relation.kind == 'f' { 0 } else { AM_HEAP }, reltuples: -1, relhasindex: !relation.key.is_empty(),
            relpersistence: "p", relkind: relation.kind.to_string(), relnatts: relation.columns.fields().len() as i64,
            relispopulated: true, relreplident: "d",
        });
        if !relation.key.is_empty() {
            rows.push(row! {
                oid: World::index_oid(place), relname: relation.key_name(), relnamespace: schema, relowner: OWNER_OID,
                relam: AM_BTREE, relpersistence: "p", relkind: "i", relnatts: relation.key.len() as i64,
                relispopulated: true, relreplident: "n",
            });
        }
    }
    rows
}

fn attribute_rows(world: &World) -> Vec<Row> {
    let mut rows = Vec::new();
    for (place, relation) in world.relations.iter().enumerate() {
        for (number, field) in relation.columns.fields().iter().enumerate() {
            let pg = pgtype::of(field);
            rows.push(row! {
                attrelid: World::oid(place), attname: field.name().as_str(), atttypid: i64::from(pg.oid),
                attstattarget: -1, attlen: i64::from(pg.len), attnum: number as i64 + 1,
                atttypmod: i64::from(pg.modifier), attbyval: pg.len > 0 && pg.len <= 8, attalign: "i", attstorage: "p",
                attnotnull: !field.is_nullable() || relation.key.contains(&number), attislocal: true,
            });
        }
    }
    rows
}

fn key_rows(world: &World, name: &str) -> Vec<Row> {
    let keyed = world.relations.iter().enumerate().filter(|(_, r)| !r.key.is_empty());
    keyed
        .map(|(place, relation)| {
            let columns = Value::Ints(relation.key.iter().map(|k| *k as i64 + 1).collect());
            if name == "pg_index" {
                let len = relation.key.len() as i64;
                let mut row = row! {
                    indexrelid: World::index_oid(place), indrelid: World::oid(place), indnatts: len, indnkeyatts: len,
                    indisunique: true, indisprimary: true, indimmediate: true, indisvalid: true, indisready: true,
                    indislive: true,
                };
                row.insert("indkey", columns);
                return row;
            }
            let mut row = row! {
                oid: World::index_oid(place), conname: relation.key_name(),
                connamespace: world.schema_oid(&relation.schema), contype: "p", convalidated: true,
                conrelid: World::oid(place), conindid: World::index_oid(place), conislocal: true, connoinherit: true,
            };
            row.insert("conkey", columns);
            row
        })
        .collect()
}

fn type_row(t: &pgtype::TypeName) -> Row {
    let (input, output) = match t.element {
        0 => (format!("{}in", t.name), format!("{}out", t.name)),
        _ => ("array_in".to_owned(), "array_out".to_owned()),
    };
    row! {
        oid: i64::from(t.oid), typname: t.name, typnamespace: NAMESPACE_PG_CATALOG, typowner: OWNER_OID,
        typlen: i64::from(t.len), typbyval: t.len > 0 && t.len <= 8, typtype: if t.name == "unknown" { "p" } else { "b" },
        typcategory: t.category.to_string(), typisdefined: true, typdelim: ",", typelem: i64::from(t.element),
        typarray: i64::from(t.array), typinput: input, typoutput: output, typalign: "i", typstorage: "p", typtypmod: -1,
    }
}

fn information_rows(world: &World, name: &str) -> Vec<Row> {
    let database = world.database.as_str();
    match name {
        "schemata" => (world.schemas().into_iter())
            .map(|(_, schema)| row! { catalog_name: database, schema_name: schema, schema_owner: world.user.as_str() })
            .collect(),
        "tables" => (world.relations.iter())
            .map(|r| {
                let kind = match r.kind {
                    'm' => "VIEW",
                    'f' => "FOREIGN",
                    _ => "BASE TABLE",
                };
                row! {
                    table_catalog: database, table_schema: r.schema.as_str(), table_name: r.name.as_str(),
                    table_type: kind, is_insertable_into: if r.kind == 'r' { "YES" } else { "NO" }, is_typed: "NO",
                }
            })
            .collect(),
        "views" => of_kind(world, 'm', |r| {
            row! {
                table_catalog: database, table_schema: r.schema.as_str(), table_name: r.name.as_str(),
                view_definition: r.definition.clone().unwrap_or_default(), check_option: "NONE", is_updatable: "NO",
                is_insertable_into: "NO",
            }
        }),
        "columns" => world.relations.iter().flat_map(|r| information_columns(database, r)).collect(),
        "table_constraints" => keyed(
            world,
            |r, _| {
                row! {
                    constraint_catalog: database, constraint_schema: r.schema.as_str(), constraint_name: r.key_name(),
                    table_catalog: database, table_schema: r.schema.as_str(), table_name: r.name.as_str(),
                    constraint_type: "PRIMARY KEY", is_deferrable: "NO", initially_deferred: "NO", enforced: "YES",
                }
            },
            false,
        ),
        "key_column_usage" => keyed(
            world,
            |r, place| {
                row! {
                    constraint_catalog: database, constraint_schema: r.schema.as_str(), constraint_name: r.key_name(),
                    table_catalog: database, table_schema: r.schema.as_str(), table_name: r.name.as_str(),
                    column_name: r.columns.field(r.key[place]).name().as_str(), ordinal_position: place as i64 + 1,
                }
            },
            true,
        ),
        _ => Vec::new(),
    }
}

/// Rows for relations with a key: one each, or one for each column of it.
fn keyed(world: &World, row: impl Fn(&WorldRelation, usize) -> Row, each_column: bool) -> Vec<Row> {
    let mut rows = Vec::new();
    for relation in world.relations.iter().filter(|r| !r.key.is_empty()) {
        let places = if each_column { relation.key.len() } else { 1 };
        rows.extend((0..places).map(|place| row(relation, place)));
    }
    rows
}

fn information_columns(database: &str, relation: &WorldRelation) -> Vec<Row> {
    let describe = |(number, field): (usize, &Arc<Field>)| {
        let pg = pgtype::of(field);
        let known = pgtype::by_oid(pg.oid);
        let nullable = field.is_nullable() && !relation.key.contains(&number);
        let mut row = row! {
            table_catalog: database, table_schema: relation.schema.as_str(), table_name: relation.name.as_str(),
            column_name: field.name().as_str(), ordinal_position: number as i64 + 1,
            is_nullable: if nullable { "YES" } else { "NO" }, data_type: known.map_or("text", |t| t.sql),
            udt_catalog: database, udt_schema: "pg_catalog", udt_name: known.map_or("text", |t| t.name),
            is_identity: "NO", is_generated: "NEVER", is_updatable: if relation.kind == 'r' { "YES" } else { "NO" },
        };
        if let DataType::Decimal128(precision, scale) = field.data_type() {
            row.insert("numeric_precision", i64::from(*precision).into());
            row.insert("numeric_scale", i64::from(*scale).into());
        }
        row
    };
    relation.columns.fields().iter().enumerate().map(describe).collect()
}
