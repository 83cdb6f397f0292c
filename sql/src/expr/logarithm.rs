//! [`Logarithm`]: `ln`, `log`, `exp` and `power` of doubles with PostgreSQL's errors, where DataFusion's go on with infinities.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Float64Array};
use arrow::datatypes::{DataType, Float64Type};
use datafusion::common::{ScalarValue, exec_err, plan_err};
use datafusion::error::Result as DfResult;
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility};

use super::arithmetic::in_range;
use crate::error::{Error, Result, sqlstate};

#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Logarithm {
    name: &'static str,
    signature: Signature,
}

impl Logarithm {
    /// `ln`, `log`, `log10`, `exp` or `power`.
    pub fn new(name: &'static str) -> Self {
        Self { name, signature: Signature::user_defined(Volatility::Immutable) }
    }

    fn of(&self, arguments: &[f64]) -> Result<f64> {
        match (self.name, arguments) {
            ("exp", [value]) => in_range(value.exp(), value.is_finite(), value.is_finite()),
            ("power", [base, exponent]) => power(*base, *exponent),
            ("ln", [value]) => Ok(positive(*value)?.ln()),
            ("log", [base, value]) => {
                let (base, value) = (positive(*base)?, positive(*value)?);
                match base.ln() == 0.0 {
                    true => Err(Error::new(sqlstate::DIVISION_BY_ZERO, "division by zero")),
                    false => Ok(value.ln() / base.ln()),
                }
            }
            (_, [value]) => Ok(positive(*value)?.log10()),
            _ => Err(Error::bug("a logarithm of several values")),
        }
    }
}

fn power(base: f64, exponent: f64) -> Result<f64> {
    let refuse = |what: &str| Err(Error::new(sqlstate::INVALID_ARGUMENT_FOR_POWER_FUNCTION, what));
    if base == 0.0 && exponent < 0.0 {
        return refuse("zero raised to a negative power is undefined");
    }
    if base < 0.0 && base.is_finite() && exponent.is_finite() && exponent.fract() != 0.0 {
        return refuse("a negative number raised to a non-integer power yields a complex result");
    }
    let finite = base.is_finite() && exponent.is_finite();
    in_range(base.powf(exponent), finite, finite && base != 0.0)
}

fn positive(value: f64) -> Result<f64> {
    let refuse = |what: &str| {
        let message = format!("cannot take logarithm of {what}");
        Err(Error::new(sqlstate::INVALID_ARGUMENT_FOR_LOGARITHM, message))
    };
    match value {
        0.0 => refuse("zero"),
        negative if negative < 0.0 => refuse("a negative number"),
        other => Ok(other),
    }
}

impl ScalarUDFImpl for Logarithm {
    fn name(&self) -> &str {
        self.name
    }

    fn aliases(&self) -> &[String] {
        static POW: std::sync::LazyLock<[String; 1]> = std::sync::LazyLock::new(|| ["pow".to_string()]);
        if self.name == "power" { &*POW } else { &[] }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> DfResult<Vec<DataType>> {
        let takes = match self.name {
            "log" => 1..=2,
            "power" => 2..=2,
            _ => 1..=1,
        };
        let number = |t: &DataType| t.is_numeric() || t.is_null() || *t == DataType::Utf8;
        match takes.contains(&types.len()) && types.iter().all(number) {
            true => Ok(vec![DataType::Float64; types.len()]),
            false => plan_err!("function {} takes a number", self.name),
        }
    }

    fn return_type(&self, _types: &[DataType]) -> DfResult<DataType> {
        Ok(DataType::Float64)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        let scalar = args.args.iter().all(|a| matches!(a, ColumnarValue::Scalar(_)));
        let arrays = ColumnarValue::values_to_arrays(&args.args)?;
        let out: Float64Array = match arrays.as_slice() {
            [one] => {
                let values = one.as_primitive::<Float64Type>().iter();
                values.map(|v| v.map(|v| self.of(&[v])).transpose()).collect::<Result<_>>()?
            }
            [base, value] => {
                let pairs = base.as_primitive::<Float64Type>().iter().zip(value.as_primitive::<Float64Type>());
                pairs.map(|(b, v)| b.zip(v).map(|(b, v)| self.of(&[b, v])).transpose()).collect::<Result<_>>()?
            }
            _ => return exec_err!("{} takes one number or two", self.name),
        };
        let out: ArrayRef = Arc::new(out);
        Ok(match scalar {
            true => ColumnarValue::Scalar(ScalarValue::try_from_array(&out, 0)?),
            false => ColumnarValue::Array(out),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logarithms() {
        let check = |name, arguments: &[f64], expect: Result<f64, &str>| {
            assert_eq!(Logarithm::new(name).of(arguments).map_err(|e| e.code), expect);
        };
        check("ln", &[1.0], Ok(0.0));
        check("ln", &[0.0], Err("2201E"));
        check("log10", &[-1.0], Err("2201E"));
        check("log", &[100.0], Ok(2.0));
        check("log", &[2.0, 64.0], Ok(6.0));
        check("log", &[1.0, 64.0], Err("22012"));
        check("exp", &[1000.0], Err("22003"));
        check("exp", &[-1000.0], Err("22003"));
        check("exp", &[f64::NEG_INFINITY], Ok(0.0));
        check("power", &[2.0, 10.0], Ok(1024.0));
        check("power", &[1e300, 2.0], Err("22003"));
        check("power", &[1e-300, 2.0], Err("22003"));
        check("power", &[f64::INFINITY, 2.0], Ok(f64::INFINITY));
        check("power", &[0.0, -1.0], Err("2201F"));
        check("power", &[-8.0, 0.5], Err("2201F"));
    }
}
