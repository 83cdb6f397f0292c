//! How DataFusion is set up wherever it plans.

use std::sync::Arc;

use datafusion::config::ConfigOptions;
use datafusion::execution::FunctionRegistry;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::{AggregateUDF, ScalarUDF};
use datafusion::optimizer::{Analyzer, AnalyzerRule};
use datafusion::sql::planner::ParserOptions;
use engine::operator::aggregate::function::Function;

use super::aggregate::Total;
use super::arithmetic::Arithmetic;
use super::casts::{Casts, PlainTypes};
use super::chars::ToChar;
use super::common::CommonTypes;
use super::logarithm::Logarithm;
use super::operators::Operators;
use super::part::Part;
use super::rounding::{Mode, Rounding};
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

/// What makes a plan PostgreSQL's: DataFusion's own rules between ours.
pub fn analyzer_rules() -> Vec<Arc<dyn AnalyzerRule + Send + Sync>> {
    let mut rules: Vec<Arc<dyn AnalyzerRule + Send + Sync>> = vec![Arc::new(CommonTypes)];
    rules.extend(Analyzer::new().rules);
    rules.push(Arc::new(Casts));
    rules.push(Arc::new(PlainTypes));
    rules
}

/// Replaces DataFusion's `sum`, `avg`, `min` and `max`, its operators on numbers and what rounds them.
pub fn install(state: &mut SessionState) -> Result<()> {
    for function in [Function::Sum, Function::Avg, Function::Min, Function::Max] {
        state.register_udaf(Arc::new(AggregateUDF::from(Total::new(function))))?;
    }
    for mode in [Mode::Round, Mode::Trunc, Mode::Ceil, Mode::Floor, Mode::Sign] {
        state.register_udf(Arc::new(ScalarUDF::from(Rounding::new(mode))))?;
    }
    for name in ["ln", "log", "log10", "exp", "power"] {
        state.register_udf(Arc::new(ScalarUDF::from(Logarithm::new(name))))?;
    }
    state.register_udf(Arc::new(ScalarUDF::from(Arithmetic::modulo())))?;
    state.register_udf(Arc::new(ScalarUDF::from(Part::date_part())))?;
    state.register_udf(Arc::new(ScalarUDF::from(ToChar::default())))?;
    state.register_expr_planner(Arc::new(Operators))?;
    Ok(())
}
