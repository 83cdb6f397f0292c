//! How DataFusion is set up wherever it plans.

use std::sync::Arc;

use datafusion::config::ConfigOptions;
use datafusion::execution::FunctionRegistry;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::{AggregateUDF, ScalarUDF};
use datafusion::sql::planner::ParserOptions;

use super::aggregate::Total;
use super::casts::{PlainTypes, RoundingCasts, ToInteger};
use super::operators::Operators;
use crate::error::Result;

/// The options that planning rests on.
pub fn settings(options: &mut ConfigOptions) {
    options.sql_parser.parse_float_as_decimal = true;
    options.sql_parser.map_string_types_to_utf8view = false;
    options.sql_parser.collect_spans = true;
    options.execution.time_zone = Some("UTC".into());
}

pub fn parser_options() -> ParserOptions {
    ParserOptions {
        parse_float_as_decimal: true,
        map_string_types_to_utf8view: false,
        collect_spans: true,
        support_varchar_with_length: true,
        ..ParserOptions::new()
    }
}

/// Replaces DataFusion's `sum` and `avg`, its operators on numbers, and its casts to integers.
pub fn install(state: &mut SessionState) -> Result<()> {
    state.register_udaf(Arc::new(AggregateUDF::from(Total::sum())))?;
    state.register_udaf(Arc::new(AggregateUDF::from(Total::avg())))?;
    state.register_udf(Arc::new(ScalarUDF::from(ToInteger::default())))?;
    state.register_expr_planner(Arc::new(Operators))?;
    state.add_analyzer_rule(Arc::new(RoundingCasts));
    state.add_analyzer_rule(Arc::new(PlainTypes));
    Ok(())
}
