//! The catalog's functions: what psql and drivers call on the way to a description.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::datatypes::{DataType, Field};
use datafusion::common::ScalarValue;
use datafusion::error::Result as DfResult;
use datafusion::execution::FunctionRegistry;
use datafusion::execution::context::SessionState;
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, TypeSignature, Volatility,
};

use super::tables::{OWNER_OID, World};
use crate::error::{Error, Result, sqlstate};
use crate::query::pgtype;

type Body = Arc<dyn Fn(&[ScalarValue]) -> DfResult<ScalarValue> + Send + Sync>;

/// A function of any number of arguments, computed row by row: these are for small catalogs.
struct CatalogFunction {
    name: &'static str,
    returns: DataType,
    signature: Signature,
    body: Body,
}

impl fmt::Debug for CatalogFunction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CatalogFunction").field(&self.name).finish()
    }
}

impl PartialEq for CatalogFunction {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name && Arc::ptr_eq(&self.body, &other.body)
    }
}

impl Eq for CatalogFunction {}

impl Hash for CatalogFunction {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

impl ScalarUDFImpl for CatalogFunction {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arguments: &[DataType]) -> DfResult<DataType> {
        Ok(self.returns.clone())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        let scalars: Option<Vec<ScalarValue>> =
            (args.args.iter()).map(|a| if let ColumnarValue::Scalar(v) = a { Some(v.clone()) } else { None }).collect();
        if let Some(values) = scalars {
            return Ok(ColumnarValue::Scalar((self.body)(&values)?));
        }
        let arrays: Vec<ArrayRef> = ColumnarValue::values_to_arrays(&args.args)?;
        let mut out = Vec::with_capacity(args.number_rows);
        for row in 0..args.number_rows {
            let values: Vec<_> = arrays.iter().map(|a| ScalarValue::try_from_array(a, row)).collect::<DfResult<_>>()?;
            out.push((self.body)(&values)?);
        }
        if out.is_empty() {
            return Ok(ColumnarValue::Array(arrow::array::new_empty_array(&self.returns)));
        }
        Ok(ColumnarValue::Array(ScalarValue::iter_to_array(out)?))
    }
}

fn function(
    name: &'static str,
    returns: DataType,
    body: impl Fn(&[ScalarValue]) -> DfResult<ScalarValue> + Send + Sync + 'static,
) -> Arc<ScalarUDF> {
    let any = TypeSignature::OneOf(vec![TypeSignature::Nullary, TypeSignature::VariadicAny]);
    let signature = Signature::new(any, Volatility::Stable);
    Arc::new(ScalarUDF::from(CatalogFunction { name, returns, signature, body: Arc::new(body) }))
}

fn text(value: Option<String>) -> DfResult<ScalarValue> {
    Ok(ScalarValue::Utf8(value))
}

/// The integer of an argument, whatever its width; oids may come as text.
fn integer(values: &[ScalarValue], index: usize) -> Option<i64> {
    match values.get(index)?.cast_to(&DataType::Int64) {
        Ok(ScalarValue::Int64(value)) => value,
        _ => None,
    }
}

fn string(values: &[ScalarValue], index: usize) -> Option<String> {
    values.get(index)?.try_as_str().flatten().map(str::to_owned)
}

/// Everything is visible, and everybody may do everything.
const TRUE: &[&str] = &[
    "pg_table_is_visible",
    "pg_type_is_visible",
    "pg_function_is_visible",
    "pg_opclass_is_visible",
    "pg_operator_is_visible",
    "pg_collation_is_visible",
    "pg_conversion_is_visible",
    "pg_ts_config_is_visible",
    "pg_ts_dict_is_visible",
    "pg_ts_parser_is_visible",
    "pg_ts_template_is_visible",
    "has_table_privilege",
    "has_schema_privilege",
    "has_database_privilege",
    "has_column_privilege",
    "has_any_column_privilege",
    "has_sequence_privilege",
    "has_function_privilege",
];

/// What is asked of objects that do not exist here.
const NULL: &[&str] = &[
    "pg_get_expr",
    "obj_description",
    "col_description",
    "shobj_description",
    "pg_get_partkeydef",
    "pg_get_triggerdef",
    "pg_get_ruledef",
    "pg_get_functiondef",
    "pg_get_function_result",
    "pg_get_function_arguments",
    "pg_get_function_identity_arguments",
    "pg_get_statisticsobjdef_columns",
    "pg_get_serial_sequence",
    "pg_tablespace_location",
    "inet_server_addr",
    "inet_client_addr",
];

/// Sizes are not told.
const ZERO: &[&str] = &[
    "pg_table_size",
    "pg_relation_size",
    "pg_total_relation_size",
    "pg_indexes_size",
    "pg_database_size",
    "pg_tablespace_size",
];

/// Adds the functions that need to know nothing of the database.
pub fn register(state: &mut SessionState) -> Result<()> {
    let mut all = vec![
        function("format_type", DataType::Utf8, |v| {
            let modifier = integer(v, 1).and_then(|m| i32::try_from(m).ok()).unwrap_or(-1);
            text(integer(v, 0).and_then(|oid| {
                let oid = u32::try_from(oid).ok()?;
                Some(pgtype::format_type(oid, modifier).unwrap_or_else(|| "???".into()))
            }))
        }),
        function("pg_encoding_to_char", DataType::Utf8, |_| text(Some("UTF8".into()))),
        function("pg_size_pretty", DataType::Utf8, |v| text(integer(v, 0).map(|bytes| format!("{bytes} bytes")))),
        function("quote_ident", DataType::Utf8, |v| text(string(v, 0).map(|name| quote_ident(&name)))),
        function("convert_from", DataType::Utf8, |v| match v.first() {
            Some(ScalarValue::Binary(Some(bytes))) => match std::str::from_utf8(bytes) {
                Ok(value) => text(Some(value.to_owned())),
                Err(_) => {
                    let message = "invalid byte sequence for encoding \"UTF8\"";
                    Err(Error::new(sqlstate::INVALID_TEXT_REPRESENTATION, message).into())
                }
            },
            _ => text(None),
        }),
        function("version", DataType::Utf8, |_| {
            text(Some(concat!("PostgreSQL 15.0 (riverrun ", env!("CARGO_PKG_VERSION"), ")").into()))
        }),
        function("pg_is_in_recovery", DataType::Boolean, |_| Ok(ScalarValue::from(false))),
        function("pg_relation_is_publishable", DataType::Boolean, |_| Ok(ScalarValue::from(false))),
        function("pg_backend_pid", DataType::Int32, |_| Ok(ScalarValue::Int32(Some(1)))),
    ];
    all.extend(TRUE.iter().map(|name| function(name, DataType::Boolean, |_| Ok(ScalarValue::from(true)))));
    all.extend(NULL.iter().map(|name| function(name, DataType::Utf8, |_| text(None))));
    all.extend(ZERO.iter().map(|name| function(name, DataType::Int64, |_| Ok(ScalarValue::Int64(Some(0))))));
    for function in all {
        state.register_udf(function)?;
    }
    Ok(())
}

/// Names of the functions that [`register_world`] adds.
pub const OF_WORLD: &[&str] = &[
    "current_catalog",
    "current_database",
    "current_role",
    "current_schema",
    "current_schemas",
    "current_setting",
    "current_user",
    "pg_get_constraintdef",
    "pg_get_indexdef",
    "pg_get_userbyid",
    "pg_get_viewdef",
    "pg_regclass",
    "pg_regnamespace",
    "pg_regtype",
    "session_user",
    "to_regclass",
    "user",
];

/// Adds the functions that tell of the database and the session.
pub fn register_world(state: &mut SessionState, world: &Arc<World>) -> Result<()> {
    for name in OF_WORLD {
        state.register_udf(of_world(name, Arc::clone(world)))?;
    }
    Ok(())
}

fn of_world(name: &'static str, world: Arc<World>) -> Arc<ScalarUDF> {
    let names = || DataType::List(Arc::new(Field::new("item", DataType::Utf8, true)));
    match name {
        "current_catalog" | "current_database" => {
            function(name, DataType::Utf8, move |_| text(Some(world.database.clone())))
        }
        "current_schema" => function(name, DataType::Utf8, |_| text(Some("public".into()))),
        "current_schemas" => function(name, names(), |v| {
            let implicit = matches!(v.first(), Some(ScalarValue::Boolean(Some(true))));
            let all = if implicit { &["pg_catalog", "public"][..] } else { &["public"][..] };
            let values: Vec<ScalarValue> = all.iter().map(|n| ScalarValue::from(*n)).collect();
            Ok(ScalarValue::List(ScalarValue::new_list_nullable(&values, &DataType::Utf8)))
        }),
        "current_setting" => function(name, DataType::Utf8, move |v| current_setting(&world, v)),
        "pg_get_constraintdef" => function(name, DataType::Utf8, move |v| {
            let found = integer(v, 0).and_then(|oid| world.by_oid(oid));
            text(found.map(|(relation, _)| format!("PRIMARY KEY {}", relation.key_columns())))
        }),
        "pg_get_indexdef" => function(name, DataType::Utf8, move |v| {
            let found = integer(v, 0).and_then(|oid| world.by_oid(oid));
            text(found.map(|(relation, _)| {
                let (schema, table, key) = (&relation.schema, &relation.name, relation.key_name());
                format!("CREATE UNIQUE INDEX {key} ON {schema}.{table} USING btree {}", relation.key_columns())
            }))
        }),
        "pg_get_viewdef" => function(name, DataType::Utf8, move |v| {
            let oid = integer(v, 0).or_else(|| string(v, 0).and_then(|name| world.oid_of(&name)));
            text(oid.and_then(|oid| world.by_oid(oid)).and_then(|(relation, _)| relation.definition.clone()))
        }),
        "pg_regclass" => function(name, DataType::Utf8, move |v| {
            text(integer(v, 0).map(|oid| match world.by_oid(oid) {
                Some((relation, true)) => relation.key_name(),
                Some((relation, false)) if relation.schema == "public" => quote_ident(&relation.name),
                Some((relation, false)) => format!("{}.{}", quote_ident(&relation.schema), quote_ident(&relation.name)),
                None if oid == 0 => "-".into(),
                None => oid.to_string(),
            }))
        }),
        "pg_regnamespace" => function(name, DataType::Utf8, move |v| {
            let schemas = world.schemas();
            text(integer(v, 0).map(|oid| {
                schemas.iter().find(|(o, _)| *o == oid).map_or_else(|| oid.to_string(), |(_, name)| name.clone())
            }))
        }),
        "pg_regtype" => function(name, DataType::Utf8, |v| {
            text(integer(v, 0).and_then(|oid| u32::try_from(oid).ok()).map(|oid| match oid {
                0 => "-".into(),
                _ => pgtype::format_type(oid, -1).unwrap_or_else(|| oid.to_string()),
            }))
        }),
        "to_regclass" => {
            function(name, DataType::Utf8, move |v| text(string(v, 0).filter(|name| world.oid_of(name).is_some())))
        }
        "pg_get_userbyid" => function(name, DataType::Utf8, move |v| {
            text(integer(v, 0).map(|oid| match oid {
                OWNER_OID => world.user.clone(),
                _ => format!("unknown (OID={oid})"),
            }))
        }),
        // current_user, current_role, session_user, user
        _ => function(name, DataType::Utf8, move |_| text(Some(world.user.clone()))),
    }
}

fn current_setting(world: &World, values: &[ScalarValue]) -> DfResult<ScalarValue> {
    let name = string(values, 0).unwrap_or_default();
    let missing_ok = matches!(values.get(1), Some(ScalarValue::Boolean(Some(true))));
    match world.settings.iter().find(|(n, ..)| n.eq_ignore_ascii_case(&name)) {
        Some((_, value, _)) => text(Some(value.clone())),
        None if missing_ok => text(None),
        None => {
            let message = format!("unrecognized configuration parameter \"{name}\"");
            Err(Error::new(sqlstate::UNDEFINED_OBJECT, message).into())
        }
    }
}

fn quote_ident(name: &str) -> String {
    let plain = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    if plain { name.to_owned() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}
