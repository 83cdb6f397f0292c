//! [`Context`]: what DataFusion's planner asks for: tables by name, functions, types, options.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, SchemaRef};
use datafusion::catalog::TableFunctionArgs;
use datafusion::common::TableReference;
use datafusion::config::ConfigOptions;
use datafusion::datasource::cte_worktable::CteWorkTable;
use datafusion::datasource::provider_as_source;
use datafusion::error::Result as DfResult;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::planner::{ContextProvider, ExprPlanner, RelationPlanner, TypePlanner};
use datafusion::logical_expr::{AggregateUDF, Expr, HigherOrderUDF, ScalarUDF, TableSource, WindowUDF};
use datafusion::sql::sqlparser::ast;

use super::casts::LENGTH;
use crate::error::{Error, Result, sqlstate};
use crate::types::ColumnType;

/// Finds a table by its name as written: one to three parts.
pub trait Names: Send + Sync {
    fn table(&self, name: &TableReference) -> Result<Option<Arc<dyn TableSource>>>;
}

/// One statement's view of the world while it is planned.
pub struct Context<'a> {
    pub state: &'a SessionState,
    pub names: &'a dyn Names,
}

impl ContextProvider for Context<'_> {
    fn get_table_source(&self, name: TableReference) -> DfResult<Arc<dyn TableSource>> {
        match self.names.table(&name)? {
            Some(table) => Ok(table),
            None => Err(Error::new(sqlstate::UNDEFINED_TABLE, format!("relation \"{name}\" does not exist")).into()),
        }
    }

    fn get_table_function_source(&self, name: &str, args: Vec<Expr>) -> DfResult<Arc<dyn TableSource>> {
        match self.state.table_functions().get(name) {
            Some(function) => {
                let args = TableFunctionArgs::new(&args, self.state);
                Ok(provider_as_source(function.create_table_provider_with_args(args)?))
            }
            None => Err(Error::new(sqlstate::UNDEFINED_FUNCTION, format!("function {name} does not exist")).into()),
        }
    }

    fn create_cte_work_table(&self, name: &str, schema: SchemaRef) -> DfResult<Arc<dyn TableSource>> {
        Ok(provider_as_source(Arc::new(CteWorkTable::new(name, schema))))
    }

    fn get_expr_planners(&self) -> &[Arc<dyn ExprPlanner>] {
        self.state.expr_planners()
    }

    fn get_relation_planners(&self) -> &[Arc<dyn RelationPlanner>] {
        self.state.relation_planners()
    }

    fn get_type_planner(&self) -> Option<Arc<dyn TypePlanner>> {
        Some(Arc::new(Types))
    }

    fn get_function_meta(&self, name: &str) -> Option<Arc<ScalarUDF>> {
        self.state.scalar_functions().get(name).cloned()
    }

    fn get_higher_order_meta(&self, name: &str) -> Option<Arc<HigherOrderUDF>> {
        self.state.higher_order_functions().get(name).cloned()
    }

    fn get_aggregate_meta(&self, name: &str) -> Option<Arc<AggregateUDF>> {
        self.state.aggregate_functions().get(name).cloned()
    }

    fn get_window_meta(&self, name: &str) -> Option<Arc<WindowUDF>> {
        self.state.window_functions().get(name).cloned()
    }

    fn get_variable_type(&self, _names: &[String]) -> Option<DataType> {
        None
    }

    fn options(&self) -> &ConfigOptions {
        self.state.config_options()
    }

    fn udf_names(&self) -> Vec<String> {
        self.state.scalar_functions().keys().cloned().collect()
    }

    fn higher_order_function_names(&self) -> Vec<String> {
        self.state.higher_order_functions().keys().cloned().collect()
    }

    fn udaf_names(&self) -> Vec<String> {
        self.state.aggregate_functions().keys().cloned().collect()
    }

    fn udwf_names(&self) -> Vec<String> {
        self.state.window_functions().keys().cloned().collect()
    }
}

/// The types of casts and typed literals, as those of columns; DataFusion knows the others (intervals).
#[derive(Debug)]
struct Types;

impl TypePlanner for Types {
    fn plan_type_field(&self, sql_type: &ast::DataType) -> DfResult<Option<FieldRef>> {
        match sql_type {
            ast::DataType::Array(ast::ArrayElemTypeDef::SquareBracket(inner, _)) => {
                let Some(element) = self.plan_type_field(inner)? else { return Ok(None) };
                let item = Field::new("item", element.data_type().clone(), true);
                Ok(Some(Arc::new(Field::new("", DataType::List(Arc::new(item)), true))))
            }
            ast::DataType::Interval { .. } => Ok(None),
            other => match (catalog_type(other), characters(other)) {
                (Some(data_type), _) => Ok(Some(Arc::new(Field::new("", data_type, true)))),
                (None, Some(length)) => {
                    let length = HashMap::from([(LENGTH.to_string(), length.to_string())]);
                    Ok(Some(Arc::new(Field::new("", DataType::Utf8, true).with_metadata(length))))
                }
                (None, None) => Ok(Some(Arc::new(ColumnType::from_sql(other)?.field("", true)))),
            },
        }
    }
}

/// The most characters of a value of this type; `char` alone is one.
pub(super) fn characters(sql_type: &ast::DataType) -> Option<u64> {
    use ast::DataType::{Char, CharVarying, Character, CharacterVarying, Varchar};
    match sql_type {
        Char(None) | Character(None) => Some(1),
        Char(Some(ast::CharacterLength::IntegerLength { length, .. }))
        | Character(Some(ast::CharacterLength::IntegerLength { length, .. }))
        | Varchar(Some(ast::CharacterLength::IntegerLength { length, .. }))
        | CharacterVarying(Some(ast::CharacterLength::IntegerLength { length, .. }))
        | CharVarying(Some(ast::CharacterLength::IntegerLength { length, .. })) => Some(*length),
        _ => None,
    }
}

/// The types that only PostgreSQL's own catalog has: object ids as numbers, the rest as text.
fn catalog_type(sql_type: &ast::DataType) -> Option<DataType> {
    let name = match sql_type {
        ast::DataType::Regclass => return Some(DataType::Int64),
        ast::DataType::Custom(name, _) => name.0.last()?.to_string().trim_matches('"').to_lowercase(),
        _ => return None,
    };
    match name.as_str() {
        "oid" | "regclass" | "regtype" | "regproc" | "regprocedure" | "regnamespace" | "regrole" | "xid" => {
            Some(DataType::Int64)
        }
        "char" | "citext" | "inet" | "cidr" | "unknown" | "pg_node_tree" => Some(DataType::Utf8),
        _ => None,
    }
}
