//! [`Span`]: how long an interval is, by which PostgreSQL compares intervals: a month has 30 days, a day 24 hours.

use std::sync::Arc;

use arrow::array::types::{IntervalMonthDayNano, IntervalMonthDayNanoType};
use arrow::array::{Array, ArrayRef, AsArray, Int64Array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, DurationMicrosecondType, IntervalUnit, TimeUnit};
use arrow::error::ArrowError;
use datafusion::common::{ScalarValue, exec_err, plan_err};
use datafusion::error::Result as DfResult;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

const DAY_US: i64 = 86_400_000_000;

/// In microseconds.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Span {
    signature: Signature,
}

/// The length of an interval, to compare with another's.
pub fn span(interval: Expr) -> Expr {
    let function = Span { signature: Signature::user_defined(Volatility::Immutable) };
    Expr::ScalarFunction(ScalarFunction::new_udf(Arc::new(ScalarUDF::from(function)), vec![interval]))
}

impl ScalarUDFImpl for Span {
    fn name(&self) -> &str {
        "span"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> DfResult<Vec<DataType>> {
        match types {
            [DataType::Duration(_)] => Ok(vec![DataType::Duration(TimeUnit::Microsecond)]),
            [DataType::Interval(_) | DataType::Utf8 | DataType::Null] => {
                Ok(vec![DataType::Interval(IntervalUnit::MonthDayNano)])
            }
            other => plan_err!("an interval cannot be compared with {other:?}"),
        }
    }

    fn return_type(&self, _types: &[DataType]) -> DfResult<DataType> {
        Ok(DataType::Int64)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        let [value] = args.args.as_slice() else { return exec_err!("one interval was expected") };
        Ok(match value {
            ColumnarValue::Scalar(value) => {
                ColumnarValue::Scalar(ScalarValue::try_from_array(&micros(&value.to_array()?)?, 0)?)
            }
            ColumnarValue::Array(array) => ColumnarValue::Array(micros(array)?),
        })
    }
}

fn micros(array: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    if matches!(array.data_type(), DataType::Duration(_)) {
        let durations = cast(array, &DataType::Duration(TimeUnit::Microsecond))?;
        return cast(&durations.as_primitive::<DurationMicrosecondType>(), &DataType::Int64);
    }
    let length = |v: IntervalMonthDayNano| {
        let days = i64::from(v.months).checked_mul(30)?.checked_add(v.days.into())?;
        days.checked_mul(DAY_US)?.checked_add(v.nanoseconds / 1000)
    };
    let overflow = || ArrowError::ArithmeticOverflow("an interval is too long to be compared".to_string());
    let intervals = array.as_primitive::<IntervalMonthDayNanoType>();
    let out = intervals.iter().map(|v| v.map(|v| length(v).ok_or_else(overflow)).transpose());
    Ok(Arc::new(out.collect::<Result<Int64Array, _>>()?))
}
