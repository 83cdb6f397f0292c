//! [`Rounding`]: `round`, `trunc`, `ceil`, `floor` and `sign` as PostgreSQL has them: a numeric comes out with as many
//! digits behind its point as asked for, a double is rounded to even.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Float64Array};
use arrow::compute::kernels::arity;
use arrow::datatypes::{DataType, Decimal128Type, Field, FieldRef, Float64Type, Int64Type};
use arrow::error::ArrowError;
use datafusion::common::tree_node::Transformed;
use datafusion::common::{ScalarValue, exec_err, internal_err, plan_err};
use datafusion::error::Result as DfResult;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use crate::types::DIGITS_MAX;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Half away from zero for numerics, half to even for doubles.
    Round,
    Trunc,
    Ceil,
    Floor,
    Sign,
}

/// How many digits stay behind the point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Digits {
    /// Read off the call while it is planned.
    Open,
    Known(i64),
    /// Each row has its own: the result is as wide as the argument.
    PerRow,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Rounding {
    mode: Mode,
    digits: Digits,
    signature: Signature,
}

impl Rounding {
    pub fn new(mode: Mode) -> Self {
        Self { mode, digits: Digits::Open, signature: Signature::user_defined(Volatility::Immutable) }
    }

    /// Fixes the digits of a planned call: what optimising makes of the second argument changes the type no more.
    pub fn pin(function: ScalarFunction) -> Transformed<Expr> {
        let pinned = match function.func.inner().downcast_ref::<Self>() {
            Some(open) if open.digits == Digits::Open => {
                let literal = match function.args.get(1) {
                    Some(Expr::Literal(value, _)) => Some(Some(value)),
                    Some(_) => Some(None),
                    None => None,
                };
                Self { digits: digits(literal), ..open.clone() }
            }
            _ => return Transformed::no(Expr::ScalarFunction(function)),
        };
        let func = Arc::new(ScalarUDF::from(pinned));
        Transformed::yes(Expr::ScalarFunction(ScalarFunction { func, ..function }))
    }

    fn decimal_type(&self, digits: Digits, precision: u8, scale: i8) -> DataType {
        let max = i64::from(DIGITS_MAX);
        let (whole, scale) = (i64::from(precision) - i64::from(scale), i64::from(scale));
        let out_scale = match (self.mode, digits) {
            (Mode::Sign, _) => return DataType::Decimal128(1, 0),
            (Mode::Round | Mode::Trunc, Digits::Known(digits)) => digits.clamp(0, max),
            (Mode::Round | Mode::Trunc, _) => scale,
            (Mode::Ceil | Mode::Floor, _) => 0,
        };
        // What is rounded up may have a digit more.
        let precision = (whole + 1 + out_scale).clamp(1, max);
        DataType::Decimal128(precision as u8, out_scale as i8)
    }
}

/// The second argument as far as it is known: none, not a literal, or a literal.
fn digits(argument: Option<Option<&ScalarValue>>) -> Digits {
    let literal = match argument {
        None => return Digits::Known(0),
        Some(literal) => literal.and_then(|value| value.cast_to(&DataType::Int64).ok()),
    };
    match literal {
        Some(ScalarValue::Int64(Some(digits))) => Digits::Known(digits),
        Some(ScalarValue::Int64(None)) => Digits::Known(0),
        _ => Digits::PerRow,
    }
}

impl ScalarUDFImpl for Rounding {
    fn name(&self) -> &str {
        match self.mode {
            Mode::Round => "round",
            Mode::Trunc => "trunc",
            Mode::Ceil => "ceil",
            Mode::Floor => "floor",
            Mode::Sign => "sign",
        }
    }

    fn aliases(&self) -> &[String] {
        static CEILING: std::sync::LazyLock<Vec<String>> = std::sync::LazyLock::new(|| vec!["ceiling".to_string()]);
        if self.mode == Mode::Ceil { &CEILING } else { &[] }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> DfResult<Vec<DataType>> {
        let with_digits = matches!(self.mode, Mode::Round | Mode::Trunc);
        let two = match types {
            [_] => false,
            [_, digits] if with_digits && (digits.is_integer() || digits.is_null()) => true,
            _ => return plan_err!("function {} takes a number", self.name()),
        };
        let number = match &types[0] {
            decimal @ DataType::Decimal128(_, scale) if *scale >= 0 => decimal.clone(),
            DataType::Decimal32(digits, scale) | DataType::Decimal64(digits, scale) if *scale >= 0 => {
                DataType::Decimal128(*digits, *scale)
            }
            integer if integer.is_integer() && two => DataType::Decimal128(19, 0),
            // PostgreSQL rounds integers as doubles.
            other if other.is_integer() || other.is_floating() || other.is_null() => DataType::Float64,
            DataType::Utf8 => DataType::Float64,
            other => return plan_err!("function {}({other}) does not exist", self.name()),
        };
        Ok(if two { vec![number, DataType::Int64] } else { vec![number] })
    }

    fn return_type(&self, _types: &[DataType]) -> DfResult<DataType> {
        internal_err!("the type of {} comes with its arguments", self.name())
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> DfResult<FieldRef> {
        let digits = match self.digits {
            Digits::Open => digits(args.scalar_arguments.get(1).copied()),
            known => known,
        };
        let to = match args.arg_fields.first().map(|field| field.data_type()) {
            Some(DataType::Decimal128(precision, scale)) => self.decimal_type(digits, *precision, *scale),
            _ => DataType::Float64,
        };
        let nullable = args.arg_fields.iter().any(|field| field.is_nullable());
        Ok(Arc::new(Field::new(self.name(), to, nullable)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        let scalar = args.args.iter().all(|a| matches!(a, ColumnarValue::Scalar(_)));
        let arrays = ColumnarValue::values_to_arrays(&args.args)?;
        let Some(number) = arrays.first() else { return exec_err!("{} takes a number", self.name()) };
        let out = match args.return_field.data_type() {
            DataType::Decimal128(precision, scale) => decimals(self.mode, number, arrays.get(1), (*precision, *scale))?,
            _ => doubles(self.mode, number, arrays.get(1))?,
        };
        Ok(match scalar {
            true => ColumnarValue::Scalar(ScalarValue::try_from_array(&out, 0)?),
            false => ColumnarValue::Array(out),
        })
    }
}

fn decimals(mode: Mode, values: &ArrayRef, digits: Option<&ArrayRef>, to: (u8, i8)) -> Result<ArrayRef, ArrowError> {
    let values = values.as_primitive::<Decimal128Type>();
    let scale = i64::from(values.scale());
    let limit = 10i128.pow(to.0.into());
    let one = |value: i128, digits: i64| {
        if mode == Mode::Sign {
            return Ok(value.signum());
        }
        let at = digits.min(i64::from(to.1)).min(scale);
        let rounded = match u32::try_from(scale - at).ok().and_then(|n| 10i128.checked_pow(n)) {
            Some(unit) => rounded(mode, value, unit).checked_mul(unit),
            // The unit is larger than every number.
            None => Some(0),
        };
        let (from, shift) = (i64::from(to.1) - scale, (i64::from(to.1) - scale).unsigned_abs() as u32);
        let shifted = rounded.and_then(|value| match from >= 0 {
            true => value.checked_mul(10i128.checked_pow(shift)?),
            false => Some(value / 10i128.checked_pow(shift)?),
        });
        shifted.filter(|value| -limit < *value && *value < limit).ok_or_else(|| {
            ArrowError::ArithmeticOverflow(format!("the rounded value does not fit numeric({},{})", to.0, to.1))
        })
    };
    let out = match digits {
        None => arity::try_unary::<_, _, Decimal128Type>(values, |value| one(value, 0))?,
        Some(digits) => arity::try_binary(values, digits.as_primitive::<Int64Type>(), one)?,
    };
    Ok(Arc::new(out.with_precision_and_scale(to.0, to.1)?))
}

/// In units of `unit`.
fn rounded(mode: Mode, value: i128, unit: i128) -> i128 {
    let (whole, rest) = (value / unit, value % unit);
    let away = match mode {
        Mode::Round => rest != 0 && rest.abs() >= unit - rest.abs(),
        Mode::Ceil => rest > 0,
        Mode::Floor => rest < 0,
        Mode::Trunc | Mode::Sign => false,
    };
    if away { whole + value.signum() } else { whole }
}

fn doubles(mode: Mode, values: &ArrayRef, digits: Option<&ArrayRef>) -> Result<ArrayRef, ArrowError> {
    let values = values.as_primitive::<Float64Type>();
    let one = |value: f64| match mode {
        Mode::Round => value.round_ties_even(),
        Mode::Trunc => value.trunc(),
        Mode::Ceil => value.ceil(),
        Mode::Floor => value.floor(),
        Mode::Sign if value == 0.0 || value.is_nan() => value,
        Mode::Sign => value.signum(),
    };
    let Some(digits) = digits else {
        return Ok(Arc::new(values.unary::<_, Float64Type>(one)));
    };
    // PostgreSQL rounds a double only to a whole number; here it may have digits.
    let out: Float64Array = arity::binary(values, digits.as_primitive::<Int64Type>(), |value, digits| {
        let unit = 10f64.powi(digits.clamp(-308, 308) as i32);
        let scaled = value * unit;
        match (scaled.is_finite() && unit != 0.0, mode) {
            (true, Mode::Round) => scaled.round() / unit,
            (true, _) => scaled.trunc() / unit,
            (false, _) => value,
        }
    })?;
    Ok(Arc::new(out))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(mode: Mode, (value, precision, scale): (i128, u8, i8), digits: Option<i64>, expect: &str) {
        let function = Rounding::new(mode);
        let argument = digits.map(|digits| ScalarValue::Int64(Some(digits)));
        let known = super::digits(argument.as_ref().map(Some));
        let DataType::Decimal128(p, s) = function.decimal_type(known, precision, scale) else { panic!("no decimal") };
        let numbers = arrow::array::Decimal128Array::from(vec![value]).with_precision_and_scale(precision, scale);
        let digits = argument.map(|digits| digits.to_array().expect("an array"));
        let out = decimals(mode, &(Arc::new(numbers.expect("it fits")) as ArrayRef), digits.as_ref(), (p, s));
        let out =
            out.map(|out| out.as_primitive::<Decimal128Type>().value_as_string(0)).unwrap_or_else(|e| e.to_string());
        assert_eq!(out, expect);
    }

    #[test]
    fn numerics_have_the_digits_asked_for() {
        check(Mode::Round, (1234, 4, 2), None, "12");
        check(Mode::Round, (1250, 4, 2), None, "13");
        check(Mode::Round, (-1250, 4, 2), None, "-13");
        check(Mode::Round, (1234, 4, 2), Some(1), "12.3");
        check(Mode::Round, (1234, 4, 2), Some(5), "12.34000");
        check(Mode::Round, (1234, 4, 2), Some(-1), "10");
        check(Mode::Round, (9999, 4, 2), Some(1), "100.0");
        check(Mode::Round, (1234, 4, 2), Some(-9), "0");
        check(
            Mode::Round,
            (10i128.pow(37), 38, 0),
            Some(5),
            "Arithmetic overflow: the rounded value does not fit numeric(38,5)",
        );
        check(Mode::Trunc, (-1999, 4, 3), Some(2), "-1.99");
        check(Mode::Ceil, (995, 3, 1), None, "100");
        check(Mode::Floor, (-995, 3, 1), None, "-100");
        check(Mode::Ceil, (-12, 2, 1), None, "-1");
        check(Mode::Sign, (-12, 2, 1), None, "-1");
    }

    #[test]
    fn doubles_round_to_even() {
        let check = |mode, value: f64, digits: Option<i64>, expect: f64| {
            let values = Arc::new(Float64Array::from(vec![value])) as ArrayRef;
            let digits = digits.map(|d| Arc::new(arrow::array::Int64Array::from(vec![d])) as ArrayRef);
            let out = doubles(mode, &values, digits.as_ref()).expect("a double");
            assert_eq!(out.as_primitive::<Float64Type>().value(0), expect);
        };
        check(Mode::Round, 2.5, None, 2.0);
        check(Mode::Round, 3.5, None, 4.0);
        check(Mode::Round, -0.5, None, 0.0);
        check(Mode::Round, 2.345, Some(1), 2.3);
        check(Mode::Sign, -7.5, None, -1.0);
        check(Mode::Trunc, -1.9, None, -1.0);
    }
}
