//! Casts as PostgreSQL's: to integers they round, and text has one form in Arrow.

use std::sync::Arc;

use arrow::array::{ArrayRef, ArrowPrimitiveType, AsArray, PrimitiveArray};
use arrow::compute::cast_with_options;
use arrow::compute::{CastOptions, kernels::arity};
use arrow::datatypes::{DataType, Decimal128Type, Float64Type, Int16Type, Int32Type, Int64Type, TimeUnit};
use arrow::error::ArrowError;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::{DFSchema, ScalarValue, exec_err};
use datafusion::error::Result as DfResult;
use datafusion::logical_expr::expr::{Cast, ScalarFunction};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ExprSchemable, LogicalPlan, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
    Volatility,
};
use datafusion::optimizer::AnalyzerRule;

use super::arithmetic::{Op, call};

/// Makes casts from floats and decimals to integers round, where Arrow's cut off, and checks the minus before an
/// integer, where DataFusion's wraps around.
#[derive(Debug)]
pub struct RoundingCasts;

impl AnalyzerRule for RoundingCasts {
    fn analyze(&self, plan: LogicalPlan, _config: &ConfigOptions) -> DfResult<LogicalPlan> {
        plan.transform_up_with_subqueries(|plan| {
            let inputs: Vec<&LogicalPlan> = plan.inputs();
            let schema = match inputs.is_empty() {
                true => DFSchema::empty(),
                false => merge_schema(&inputs),
            };
            let names = NamePreserver::new(&plan);
            plan.map_expressions(|expr| {
                let name = names.save(&expr);
                let expr = expr.transform_up(|expr| rounding(expr, &schema))?;
                Ok(expr.update_data(|expr| name.restore(expr)))
            })
        })
        .data()
    }

    fn name(&self) -> &str {
        "rounding_casts"
    }
}

fn rounding(expr: Expr, schema: &DFSchema) -> DfResult<Transformed<Expr>> {
    let (inner, field) = match expr {
        Expr::Cast(Cast { expr: inner, field }) => (inner, field),
        Expr::Negative(inner) => return Ok(negative(*inner, schema)),
        other => return Ok(Transformed::no(other)),
    };
    let to = field.data_type();
    // An expression over an outer query's columns has no type here; such casts stay as they are.
    let from = inner.get_type(schema).ok();
    let integer = matches!(to, DataType::Int16 | DataType::Int32 | DataType::Int64);
    let fraction = from.is_some_and(|t| t.is_floating() || matches!(t, DataType::Decimal128(..)));
    if !(integer && fraction) {
        return Ok(Transformed::no(Expr::Cast(Cast { expr: inner, field })));
    }
    let function = Arc::new(ScalarUDF::from(ToInteger::of(to.clone())));
    Ok(Transformed::yes(Expr::ScalarFunction(ScalarFunction::new_udf(function, vec![*inner]))))
}

fn negative(inner: Expr, schema: &DFSchema) -> Transformed<Expr> {
    let zero = match inner.get_type(schema) {
        Ok(DataType::Int16) => ScalarValue::Int16(Some(0)),
        Ok(DataType::Int32) => ScalarValue::Int32(Some(0)),
        Ok(DataType::Int64) => ScalarValue::Int64(Some(0)),
        _ => return Transformed::no(Expr::Negative(Box::new(inner))),
    };
    Transformed::yes(call(Op::Subtract, Expr::Literal(zero, None), inner))
}

/// A float or decimal to the nearest integer of a type: floats by banker's rounding, decimals half away from zero.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct ToInteger {
    to: DataType,
    name: &'static str,
    signature: Signature,
}

impl Default for ToInteger {
    fn default() -> Self {
        Self::of(DataType::Int64)
    }
}

impl ToInteger {
    fn of(to: DataType) -> Self {
        let name = match to {
            DataType::Int16 => "smallint",
            DataType::Int32 => "integer",
            _ => "bigint",
        };
        Self { to, name, signature: Signature::any(1, Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for ToInteger {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _types: &[DataType]) -> DfResult<DataType> {
        Ok(self.to.clone())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        let [value] = args.args.as_slice() else { return exec_err!("a cast takes one value") };
        let scalar = matches!(value, ColumnarValue::Scalar(_));
        let array = value.to_array(args.number_rows.max(1))?;
        let out = match self.to {
            DataType::Int16 => round_to::<Int16Type>(&array, self.name)?,
            DataType::Int32 => round_to::<Int32Type>(&array, self.name)?,
            _ => round_to::<Int64Type>(&array, self.name)?,
        };
        Ok(match scalar {
            true => ColumnarValue::Scalar(ScalarValue::try_from_array(&out, 0)?),
            false => ColumnarValue::Array(out),
        })
    }
}

fn round_to<T: ArrowPrimitiveType>(array: &ArrayRef, name: &str) -> Result<ArrayRef, ArrowError>
where
    T::Native: TryFrom<i128>,
{
    let fit = |value: i128, shown: &dyn Fn() -> String| {
        T::Native::try_from(value)
            .map_err(|_| ArrowError::ArithmeticOverflow(format!("{} is out of range for {name}", shown())))
    };
    let out: PrimitiveArray<T> = match array.data_type() {
        DataType::Decimal128(_, scale) if *scale >= 0 => {
            let unit = 10i128.pow(scale.unsigned_abs().into());
            arity::try_unary(array.as_primitive::<Decimal128Type>(), |value| {
                let (whole, rest) = (value / unit, value % unit);
                let away = rest.abs() >= unit - rest.abs();
                fit(if away { whole + value.signum() } else { whole }, &|| whole.to_string())
            })?
        }
        _ => {
            let strict = CastOptions { safe: false, ..CastOptions::default() };
            let floats = cast_with_options(array, &DataType::Float64, &strict)?;
            arity::try_unary(floats.as_primitive::<Float64Type>(), |value| {
                // Beyond 2^63 every float is out of range, NaN too.
                let rounded = value.round_ties_even();
                let known = if rounded.abs() <= 9.3e18 { rounded as i128 } else { i128::MAX };
                fit(known, &|| value.to_string())
            })?
        }
    };
    Ok(Arc::new(out))
}

/// Casts what a projection gives to the types that columns have: DataFusion's functions also give views of text,
/// unsigned numbers and other units of time.
#[derive(Debug)]
pub struct PlainTypes;

impl AnalyzerRule for PlainTypes {
    fn analyze(&self, plan: LogicalPlan, _config: &ConfigOptions) -> DfResult<LogicalPlan> {
        plan.transform_up_with_subqueries(|plan| {
            if !matches!(plan, LogicalPlan::Projection(_)) {
                return Ok(Transformed::no(plan));
            }
            let schema = merge_schema(&plan.inputs());
            let names = NamePreserver::new(&plan);
            let changed = plan.map_expressions(|expr| {
                let plain = expr.get_type(&schema).ok().and_then(|t| plain(&t));
                let Some(to) = plain else { return Ok(Transformed::no(expr)) };
                let name = names.save(&expr);
                Ok(Transformed::yes(name.restore(Expr::Cast(Cast::new(Box::new(expr), to)))))
            })?;
            match changed.transformed {
                true => changed.map_data(LogicalPlan::recompute_schema),
                false => Ok(changed),
            }
        })
        .data()
    }

    fn name(&self) -> &str {
        "plain_types"
    }
}

/// The type that columns have instead of this one.
fn plain(data_type: &DataType) -> Option<DataType> {
    let micros = TimeUnit::Microsecond;
    Some(match data_type {
        DataType::Utf8View | DataType::LargeUtf8 => DataType::Utf8,
        DataType::BinaryView | DataType::LargeBinary | DataType::FixedSizeBinary(_) => DataType::Binary,
        DataType::Int8 | DataType::UInt8 => DataType::Int16,
        DataType::UInt16 => DataType::Int32,
        DataType::UInt32 | DataType::UInt64 => DataType::Int64,
        DataType::Float16 => DataType::Float32,
        DataType::Date64 => DataType::Date32,
        DataType::Time32(_) | DataType::Time64(TimeUnit::Nanosecond) => DataType::Time64(micros),
        DataType::Timestamp(unit, None) if *unit != micros => DataType::Timestamp(micros, None),
        DataType::Timestamp(unit, Some(zone)) if *unit != micros || zone.as_ref() != "UTC" => {
            DataType::Timestamp(micros, Some("UTC".into()))
        }
        DataType::Null => DataType::Utf8,
        _ => return None,
    })
}
