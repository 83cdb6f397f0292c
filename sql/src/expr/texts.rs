//! Functions of texts are of texts alone: a number or a time is to be cast, where DataFusion would make a text of it.

use arrow::datatypes::DataType;
use datafusion::common::DFSchema;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{Expr, ExprSchemable};

use crate::error::{Error, Result, sqlstate};
use crate::types::ColumnType;

/// DataFusion's names of functions whose first argument is a text, and what PostgreSQL calls them where that differs.
const FUNCTIONS: &[(&str, &str)] = &[
    ("ascii", "ascii"),
    ("bit_length", "bit_length"),
    ("btrim", "btrim"),
    ("character_length", "length"),
    ("initcap", "initcap"),
    ("left", "left"),
    ("lower", "lower"),
    ("lpad", "lpad"),
    ("ltrim", "ltrim"),
    ("md5", "md5"),
    ("octet_length", "octet_length"),
    ("repeat", "repeat"),
    ("replace", "replace"),
    ("reverse", "reverse"),
    ("right", "right"),
    ("rpad", "rpad"),
    ("rtrim", "rtrim"),
    ("split_part", "split_part"),
    ("starts_with", "starts_with"),
    ("strpos", "strpos"),
    ("substr", "substr"),
    ("translate", "translate"),
    ("upper", "upper"),
];

/// Refuses a function of texts over something else.
pub fn check(expr: &Expr, schema: &DFSchema) -> Result<()> {
    let Expr::ScalarFunction(ScalarFunction { func, args }) = expr else { return Ok(()) };
    let Some((_, name)) = FUNCTIONS.iter().find(|(name, _)| *name == func.name()) else { return Ok(()) };
    // Outer columns and open parameters have no type here.
    let Some(Ok(data_type)) = args.first().map(|arg| arg.get_type(schema)) else { return Ok(()) };
    let is_other = data_type.is_numeric()
        || matches!(data_type, DataType::Boolean | DataType::Date32 | DataType::Timestamp(..) | DataType::Time64(_));
    if !is_other {
        return Ok(());
    }
    let given = args.iter().map(|arg| match arg.get_type(schema) {
        Ok(data_type) => {
            ColumnType { data_type: data_type.clone(), pg_type: None }.name().unwrap_or(data_type.to_string())
        }
        Err(_) => "unknown".to_string(),
    });
    let message = format!("function {name}({}) does not exist", given.collect::<Vec<_>>().join(", "));
    Err(Error::new(sqlstate::UNDEFINED_FUNCTION, message).hint("add a type cast: column::type"))
}
