//! [`Arithmetic`]: `+ - * / %` on numbers as PostgreSQL has them: checked, exact for decimals; overflow, underflow and
//! division by zero are errors for floats too.
//!
//! Decimals have at most 38 digits. A product keeps all digits behind the point up to 20, then as many as its factors;
//! a quotient has 16, or as many as its operands. What is cut off is rounded half away from zero.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Decimal128Array};
use arrow::compute::kernels::{arity, numeric};
use arrow::datatypes::{DataType, Decimal128Type, Float32Type, Float64Type, i256};
use arrow::error::ArrowError;
use datafusion::common::{exec_err, plan_err};
use datafusion::error::Result as DfResult;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use crate::error::{Error, sqlstate};
use crate::types::DIGITS_MAX;

/// Digits behind the point that a product keeps in any case.
const PRODUCT_SCALE: i8 = 20;
/// Digits behind the point of a quotient, at least.
const QUOTIENT_SCALE: i8 = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Op {
    Add,
    Subtract,
    Multiply,
    Divide,
    Modulo,
}

impl Op {
    fn symbol(self) -> &'static str {
        match self {
            Self::Add => "+",
            Self::Subtract => "-",
            Self::Multiply => "*",
            Self::Divide => "/",
            Self::Modulo => "%",
        }
    }

    /// The type of the result of two decimals.
    fn decimal_type(self, (p1, s1): (u8, i8), (p2, s2): (u8, i8)) -> (u8, i8) {
        let (whole1, whole2) = (i16::from(p1) - i16::from(s1), i16::from(p2) - i16::from(s2));
        let (whole, scale) = match self {
            Self::Add | Self::Subtract => (whole1.max(whole2) + 1, s1.max(s2)),
            Self::Multiply => (whole1 + whole2 + 1, (s1 + s2).min(PRODUCT_SCALE.max(s1).max(s2))),
            Self::Divide => (i16::from(DIGITS_MAX), QUOTIENT_SCALE.max(s1).max(s2)),
            Self::Modulo => (whole1.min(whole2), s1.max(s2)),
        };
        let digits = (whole + i16::from(scale)).clamp(1, i16::from(DIGITS_MAX));
        (digits as u8, scale)
    }
}

/// The function behind an operator, of two numbers that are brought to the same kind: integer, float or decimal.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Arithmetic {
    op: Op,
    as_function: Option<&'static str>,
    signature: Signature,
}

impl Arithmetic {
    pub fn new(op: Op) -> Self {
        Self { op, as_function: None, signature: Signature::user_defined(Volatility::Immutable) }
    }

    /// The operator `%` under the name of a function.
    pub fn modulo() -> Self {
        Self { as_function: Some("mod"), ..Self::new(Op::Modulo) }
    }

    fn written(&self, args: &[Expr], write: impl Fn(&Expr) -> String) -> String {
        let nested = |e: &Expr| match e {
            Expr::ScalarFunction(f) if f.func.inner().downcast_ref::<Self>().is_some() => format!("({})", write(e)),
            _ => write(e),
        };
        let parts: Vec<String> = args.iter().map(nested).collect();
        parts.join(&format!(" {} ", self.op.symbol()))
    }
}

impl ScalarUDFImpl for Arithmetic {
    fn name(&self) -> &str {
        self.as_function.unwrap_or(self.op.symbol())
    }

    fn display_name(&self, args: &[Expr]) -> DfResult<String> {
        Ok(self.written(args, ToString::to_string))
    }

    fn schema_name(&self, args: &[Expr]) -> DfResult<String> {
        Ok(self.written(args, |e| e.schema_name().to_string()))
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> DfResult<Vec<DataType>> {
        let [left, right] = types else { return plan_err!("{} takes two numbers", self.name()) };
        match common(left, right) {
            Some((left, right)) => Ok(vec![left, right]),
            None => plan_err!("{} of {left} and {right}", self.name()),
        }
    }

    fn return_type(&self, types: &[DataType]) -> DfResult<DataType> {
        match types {
            [DataType::Decimal128(p1, s1), DataType::Decimal128(p2, s2)] => {
                let (digits, scale) = self.op.decimal_type((*p1, *s1), (*p2, *s2));
                Ok(DataType::Decimal128(digits, scale))
            }
            [left, right] if left == right => Ok(left.clone()),
            other => exec_err!("{} of {other:?}", self.op.symbol()),
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        let scalar = args.args.iter().all(|a| matches!(a, ColumnarValue::Scalar(_)));
        let arrays = ColumnarValue::values_to_arrays(&args.args)?;
        let [left, right] = arrays.as_slice() else { return exec_err!("an operator takes two values") };
        let out = compute(self.op, left, right, args.return_field.data_type())?;
        match scalar {
            true => Ok(ColumnarValue::Scalar(datafusion::common::ScalarValue::try_from_array(&out, 0)?)),
            false => Ok(ColumnarValue::Array(out)),
        }
    }
}

/// `left op right`; both of the types that [`Arithmetic`] takes.
pub fn call(op: Op, left: Expr, right: Expr) -> Expr {
    let function = Arc::new(ScalarUDF::from(Arithmetic::new(op)));
    Expr::ScalarFunction(ScalarFunction::new_udf(function, vec![left, right]))
}

/// The types in which two numbers are computed with; `None` when one is no number.
pub fn common(left: &DataType, right: &DataType) -> Option<(DataType, DataType)> {
    use DataType::{Decimal128, Float32, Float64, Int16, Int32, Int64, Null};
    let plain = |t: &DataType| {
        Some(match t {
            DataType::Int8 | DataType::UInt8 | Int16 => Int16,
            DataType::UInt16 | Int32 => Int32,
            DataType::UInt32 | DataType::UInt64 | Int64 => Int64,
            DataType::Float16 | Float32 => Float32,
            Float64 => Float64,
            Decimal128(digits, scale) if *scale >= 0 => Decimal128(*digits, *scale),
            DataType::Decimal32(digits, scale) | DataType::Decimal64(digits, scale) if *scale >= 0 => {
                Decimal128(*digits, *scale)
            }
            DataType::Decimal256(_, scale) if *scale >= 0 => Decimal128(DIGITS_MAX, *scale),
            Null => Null,
            _ => return None,
        })
    };
    let (left, right) = (plain(left)?, plain(right)?);
    let decimal = |t: &DataType| match t {
        Int16 => Decimal128(5, 0),
        Int32 => Decimal128(10, 0),
        Int64 => Decimal128(19, 0),
        other => other.clone(),
    };
    Some(match (&left, &right) {
        (Null, Null) => return None,
        (Null, t) | (t, Null) => (t.clone(), t.clone()),
        (Decimal128(..), Decimal128(..)) => (left, right),
        (Decimal128(..), t) | (t, Decimal128(..)) if t.is_integer() => (decimal(&left), decimal(&right)),
        (Float32, Float32) => (Float32, Float32),
        (Float32 | Float64, _) | (_, Float32 | Float64) => (Float64, Float64),
        (Int64, _) | (_, Int64) => (Int64, Int64),
        (Int32, _) | (_, Int32) => (Int32, Int32),
        _ => (Int16, Int16),
    })
}

fn compute(op: Op, left: &ArrayRef, right: &ArrayRef, to: &DataType) -> Result<ArrayRef, ArrowError> {
    if let DataType::Decimal128(digits, scale) = to {
        let (left, right) = (left.as_primitive::<Decimal128Type>(), right.as_primitive::<Decimal128Type>());
        let out = decimal(op, left, right, (*digits, *scale))?;
        return Ok(Arc::new(out.with_precision_and_scale(*digits, *scale)?));
    }
    match (op, to) {
        (_, DataType::Float64) => {
            let (left, right) = (left.as_primitive::<Float64Type>(), right.as_primitive::<Float64Type>());
            Ok(Arc::new(arity::try_binary::<_, _, _, Float64Type>(left, right, |a, b| float(op, a, b, |out| out))?))
        }
        (_, DataType::Float32) => {
            let (left, right) = (left.as_primitive::<Float32Type>(), right.as_primitive::<Float32Type>());
            // Two single floats computed with as doubles and rounded once more are as if computed with directly.
            let single = |a, b| Ok(float(op, f64::from(a), f64::from(b), |out| f64::from(out as f32))? as f32);
            Ok(Arc::new(arity::try_binary::<_, _, _, Float32Type>(left, right, single)?))
        }
        (Op::Add, _) => numeric::add(left, right),
        (Op::Subtract, _) => numeric::sub(left, right),
        (Op::Multiply, _) => numeric::mul(left, right),
        (Op::Divide, _) => numeric::div(left, right),
        (Op::Modulo, _) => numeric::rem(left, right),
    }
}

/// IEEE 754, but what would become infinite or zero by its size alone is an error, as is division by zero.
fn float(op: Op, a: f64, b: f64, round: impl Fn(f64) -> f64) -> Result<f64, ArrowError> {
    if matches!(op, Op::Divide | Op::Modulo) && b == 0.0 && !a.is_nan() {
        return Err(ArrowError::DivideByZero);
    }
    let out = match op {
        Op::Add => a + b,
        Op::Subtract => a - b,
        Op::Multiply => a * b,
        Op::Divide => a / b,
        Op::Modulo => a % b,
    };
    let vanishes = match op {
        Op::Multiply => a != 0.0 && b != 0.0,
        Op::Divide => a != 0.0 && b.is_finite(),
        Op::Add | Op::Subtract | Op::Modulo => false,
    };
    let out = round(out);
    in_range(out, a.is_finite() && b.is_finite(), vanishes)
        .map_err(|error| ArrowError::from_external_error(Box::new(error)))
}

/// The result of a computation with floats: an error when it is infinite although what it was made of is `finite`, or
/// zero although it is not (`vanishes`). There is one NaN.
pub fn in_range(out: f64, finite: bool, vanishes: bool) -> Result<f64, Error> {
    let what = match () {
        () if out.is_nan() => return Ok(f64::NAN),
        () if out.is_infinite() && finite => "overflow",
        () if out == 0.0 && vanishes => "underflow",
        () => return Ok(out),
    };
    Err(Error::new(sqlstate::NUMERIC_VALUE_OUT_OF_RANGE, format!("value out of range: {what}")))
}

type Number = (u8, i8);

fn decimal(op: Op, left: &Decimal128Array, right: &Decimal128Array, to: Number) -> Result<Decimal128Array, ArrowError> {
    let (s1, s2) = (left.scale(), right.scale());
    let limit = 10i128.pow(to.0.into());
    let check = |value: Option<i128>, a: i128, b: i128| match value {
        Some(value) if -limit < value && value < limit => Ok(value),
        _ => Err(overflow(op, (a, s1), (b, s2), to)),
    };
    match op {
        Op::Add | Op::Subtract | Op::Modulo => {
            // Both at the result's scale, the larger of the two.
            let (up1, up2) = (power(to.1 - s1), power(to.1 - s2));
            arity::try_binary(left, right, |a, b| {
                let (x, y) = (a.checked_mul(up1), b.checked_mul(up2));
                let (Some(x), Some(y)) = (x, y) else { return Err(overflow(op, (a, s1), (b, s2), to)) };
                match op {
                    Op::Add => check(x.checked_add(y), a, b),
                    Op::Subtract => check(x.checked_sub(y), a, b),
                    _ if y == 0 => Err(ArrowError::DivideByZero),
                    _ => check(Some(x % y), a, b),
                }
            })
        }
        Op::Multiply => {
            let down = power(s1 + s2 - to.1);
            arity::try_binary(left, right, |a, b| match a.checked_mul(b) {
                Some(product) if down == 1 => check(Some(product), a, b),
                Some(product) => check(Some(divide_rounded(product, down)), a, b),
                None => {
                    let product = i256::from_i128(a).wrapping_mul(i256::from_i128(b));
                    check(divide_rounded_wide(product, down), a, b)
                }
            })
        }
        Op::Divide => {
            // At most 10^76, which 256 bits hold.
            let up = i256::from_i128(10).wrapping_pow((to.1 + s2 - s1).unsigned_abs().into());
            let up_narrow = up.to_i128();
            arity::try_binary(left, right, |a, b| match (b, up_narrow.and_then(|up| a.checked_mul(up))) {
                (0, _) => Err(ArrowError::DivideByZero),
                (_, Some(dividend)) => check(Some(divide_rounded(dividend, b)), a, b),
                (_, None) => {
                    let dividend = i256::from_i128(a).checked_mul(up);
                    check(dividend.and_then(|dividend| divide_rounded_wide(dividend, b)), a, b)
                }
            })
        }
    }
}

/// 10 to the power; scales differ by at most 38, and 10^38 fits.
fn power(exponent: i8) -> i128 {
    10i128.pow(exponent.unsigned_abs().into())
}

/// Half away from zero.
fn divide_rounded(dividend: i128, divisor: i128) -> i128 {
    let (whole, rest) = (dividend / divisor, dividend % divisor);
    if rest.unsigned_abs() >= divisor.unsigned_abs() - rest.unsigned_abs() {
        whole + if (dividend < 0) == (divisor < 0) { 1 } else { -1 }
    } else {
        whole
    }
}

/// As [`divide_rounded`]; `None` when the result does not fit 128 bits.
fn divide_rounded_wide(dividend: i256, divisor: i128) -> Option<i128> {
    let wide = i256::from_i128(divisor);
    let (whole, rest) = (dividend.wrapping_div(wide), dividend.wrapping_rem(wide));
    let (rest, wide) = (rest.wrapping_abs(), wide.wrapping_abs());
    let up = rest >= wide.wrapping_sub(rest);
    let step = if dividend.is_negative() == (divisor < 0) { i256::ONE } else { i256::MINUS_ONE };
    (if up { whole.wrapping_add(step) } else { whole }).to_i128()
}

fn overflow(op: Op, a: (i128, i8), b: (i128, i8), to: Number) -> ArrowError {
    let show = |(value, scale)| Decimal128Type::format_decimal_of(value, scale);
    let text = format!("{} {} {} does not fit numeric({},{})", show(a), op.symbol(), show(b), to.0, to.1);
    ArrowError::ArithmeticOverflow(text)
}

trait FormatDecimal {
    fn format_decimal_of(value: i128, scale: i8) -> String;
}

impl FormatDecimal for Decimal128Type {
    fn format_decimal_of(value: i128, scale: i8) -> String {
        use arrow::datatypes::DecimalType;
        Self::format_decimal(value, DIGITS_MAX, scale)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(values: &[i128], digits: u8, scale: i8) -> ArrayRef {
        Arc::new(Decimal128Array::from(values.to_vec()).with_precision_and_scale(digits, scale).expect("they fit"))
    }

    #[track_caller]
    fn check(op: Op, (a, s1): (i128, i8), (b, s2): (i128, i8), expect: &str) {
        let (left, right) = (numbers(&[a], 38, s1), numbers(&[b], 38, s2));
        let to =
            Arithmetic::new(op).return_type(&[left.data_type().clone(), right.data_type().clone()]).expect("a type");
        let got = match compute(op, &left, &right, &to) {
            Ok(out) => out.as_primitive::<Decimal128Type>().value_as_string(0),
            Err(e) => e.to_string(),
        };
        assert_eq!(got, expect);
    }

    #[test]
    fn floats() {
        let check = |op, a: f64, b: f64, expect: Result<f64, &str>| {
            let got = float(op, a, b, |out| out).map_err(|e| Error::from(e).message);
            assert_eq!(
                got.as_ref().map(|out| out.to_bits()),
                expect.map(f64::to_bits).map_err(str::to_string).as_ref().map(|out| *out)
            );
        };
        check(Op::Multiply, 1e308, 10.0, Err("value out of range: overflow"));
        check(Op::Multiply, f64::INFINITY, 10.0, Ok(f64::INFINITY));
        check(Op::Multiply, 1e-200, 1e-200, Err("value out of range: underflow"));
        check(Op::Multiply, 0.0, 1e-200, Ok(0.0));
        check(Op::Add, f64::MAX, f64::MAX, Err("value out of range: overflow"));
        check(Op::Add, -0.0, 0.0, Ok(0.0));
        check(Op::Subtract, f64::INFINITY, f64::INFINITY, Ok(f64::NAN));
        check(Op::Divide, 1.0, 0.0, Err("division by zero"));
        check(Op::Divide, f64::NAN, 0.0, Ok(f64::NAN));
        check(Op::Divide, 1e-300, 1e300, Err("value out of range: underflow"));
        check(Op::Divide, 1.0, f64::INFINITY, Ok(0.0));
        check(Op::Divide, 1e300, 1e-300, Err("value out of range: overflow"));
        let single = |out: f64| f64::from(out as f32);
        assert!(float(Op::Multiply, 1e30, 1e30, single).is_err() && float(Op::Multiply, 1e10, 1e10, single).is_ok());
    }

    #[test]
    fn decimals() {
        check(Op::Add, (150, 2), (25, 1), "4.00");
        check(Op::Subtract, (1, 0), (1, 2), "0.99");
        check(Op::Multiply, (-15, 1), (15, 1), "-2.25");
        check(Op::Multiply, (5, 20), (1, 1), "0.00000000000000000001");
        check(Op::Divide, (10, 0), (3, 0), "3.3333333333333333");
        check(Op::Divide, (-2, 0), (3, 0), "-0.6666666666666667");
        check(
            Op::Divide,
            (10i128.pow(30) + 1, 10),
            (-8 * 10i128.pow(10), 10),
            "-12500000000000000000.0000000000125000",
        );
        check(Op::Divide, (1, 0), (0, 0), "Divide by zero error");
        check(Op::Modulo, (-7, 0), (3, 0), "-1");
        let big = 10i128.pow(38) - 1;
        check(
            Op::Add,
            (big, 0),
            (1, 0),
            "Arithmetic overflow: 99999999999999999999999999999999999999 + 1 does not fit numeric(38,0)",
        );
    }
}
