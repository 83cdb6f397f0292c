//! JSON: [`Member`], the operators `->` and `->>`, and the one text of a `jsonb`, by which two of them are equal.
//!
//! A `jsonb` is written as PostgreSQL writes it: members by the length of their names, then by their bytes, the last of
//! equal names; numbers as numerics. A `json` stays as it came.

use std::collections::HashMap;
use std::fmt::Write;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, StringArray};
use arrow::datatypes::{DataType, Field, FieldRef, Int64Type};
use datafusion::common::{ScalarValue, exec_err, internal_err};
use datafusion::error::Result as DfResult;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::error::{Error, Result, sqlstate};
use crate::types::PG_TYPE;

/// How large an exponent may be for a number to be written out.
const EXPONENT_MAX: i64 = 1000;

/// `json -> key` and `json ->> key`: the member of an object with a name, or of an array with a number from 0 or, from
/// its end, from -1. NULL where there is none.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Member {
    as_text: bool,
    signature: Signature,
}

/// The key of [`Member`].
enum Key<'a> {
    Name(&'a str),
    Index(i64),
}

impl Member {
    pub fn call(as_text: bool, json: Expr, key: Expr) -> Expr {
        let member = Self { as_text, signature: Signature::user_defined(Volatility::Immutable) };
        Expr::ScalarFunction(ScalarFunction::new_udf(Arc::new(ScalarUDF::from(member)), vec![json, key]))
    }

    fn of(&self, json: &str, key: &Key<'_>) -> Result<Option<String>> {
        let found = match (json.trim_start().as_bytes().first(), key) {
            (Some(b'{'), Key::Name(name)) => {
                let mut members: HashMap<String, &RawValue> = serde_json::from_str(json).map_err(invalid)?;
                members.remove(*name).map(RawValue::get)
            }
            (Some(b'['), Key::Index(index)) => {
                let elements: Vec<&RawValue> = serde_json::from_str(json).map_err(invalid)?;
                let index = if *index < 0 { index.checked_add_unsigned(elements.len() as u64) } else { Some(*index) };
                let index = index.and_then(|index| usize::try_from(index).ok());
                index.and_then(|index| elements.get(index).copied()).map(RawValue::get)
            }
            _ => None,
        };
        match found {
            Some("null") if self.as_text => Ok(None),
            Some(text) if self.as_text && text.starts_with('"') => {
                serde_json::from_str(text).map(Some).map_err(invalid)
            }
            found => Ok(found.map(str::to_string)),
        }
    }
}

fn invalid(error: serde_json::Error) -> Error {
    let message = "invalid input syntax for type json";
    Error::new(sqlstate::INVALID_TEXT_REPRESENTATION, message).detail(error.to_string())
}

impl ScalarUDFImpl for Member {
    fn name(&self) -> &str {
        if self.as_text { "->>" } else { "->" }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> DfResult<Vec<DataType>> {
        let key = match types.get(1) {
            Some(integer) if integer.is_integer() => DataType::Int64,
            _ => DataType::Utf8,
        };
        Ok(vec![DataType::Utf8, key])
    }

    fn return_type(&self, _types: &[DataType]) -> DfResult<DataType> {
        internal_err!("the type of {} comes with its field", self.name())
    }

    /// A member is of the type of the whole, a text of none.
    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> DfResult<FieldRef> {
        let field = Field::new(self.name(), DataType::Utf8, true);
        let of = args.arg_fields.first().and_then(|whole| whole.metadata().get(PG_TYPE).cloned());
        Ok(Arc::new(match of {
            Some(pg_type) if !self.as_text => field.with_metadata(HashMap::from([(PG_TYPE.to_string(), pg_type)])),
            _ => field,
        }))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        let scalar = args.args.iter().all(|a| matches!(a, ColumnarValue::Scalar(_)));
        let arrays = ColumnarValue::values_to_arrays(&args.args)?;
        let [json, keys] = arrays.as_slice() else { return exec_err!("{} takes two values", self.name()) };
        let json = json.as_string::<i32>();
        let key = |row: usize| match keys.data_type() {
            DataType::Int64 => Key::Index(keys.as_primitive::<Int64Type>().value(row)),
            _ => Key::Name(keys.as_string::<i32>().value(row)),
        };
        let member = |row: usize| match json.is_null(row) || keys.is_null(row) {
            true => Ok(None),
            false => self.of(json.value(row), &key(row)),
        };
        answer((0..json.len()).map(member).collect::<Result<_>>()?, scalar)
    }
}

fn answer(texts: StringArray, scalar: bool) -> DfResult<ColumnarValue> {
    let out: ArrayRef = Arc::new(texts);
    Ok(match scalar {
        true => ColumnarValue::Scalar(ScalarValue::try_from_array(&out, 0)?),
        false => ColumnarValue::Array(out),
    })
}

/// A text that two `jsonb` have in common when they are equal: as [`jsonb`], and numbers without zeros at their end.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Comparable(Signature);

impl Comparable {
    pub fn call(jsonb: Expr) -> Expr {
        let function = Self(Signature::exact(vec![DataType::Utf8], Volatility::Immutable));
        Expr::ScalarFunction(ScalarFunction::new_udf(Arc::new(ScalarUDF::from(function)), vec![jsonb]))
    }
}

impl ScalarUDFImpl for Comparable {
    fn name(&self) -> &str {
        "jsonb_comparable"
    }

    fn signature(&self) -> &Signature {
        &self.0
    }

    fn return_type(&self, _types: &[DataType]) -> DfResult<DataType> {
        Ok(DataType::Utf8)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        let scalar = args.args.iter().all(|a| matches!(a, ColumnarValue::Scalar(_)));
        let arrays = ColumnarValue::values_to_arrays(&args.args)?;
        let [json] = arrays.as_slice() else { return exec_err!("{} takes one value", self.name()) };
        let texts = json.as_string::<i32>().iter().map(|text| text.map(|text| written(text, true)).transpose());
        answer(texts.collect::<Result<_>>()?, scalar)
    }
}

/// The text of a `jsonb`.
pub fn jsonb(text: &str) -> Result<String> {
    written(text, false)
}

fn written(text: &str, comparable: bool) -> Result<String> {
    let mut out = String::with_capacity(text.len());
    write(&serde_json::from_str(text).map_err(invalid)?, comparable, &mut out)?;
    Ok(out)
}

fn write(value: &Value, comparable: bool, out: &mut String) -> Result<()> {
    match value {
        Value::Number(number) => out.push_str(&numeric(&number.to_string(), comparable)),
        Value::Array(elements) => {
            for (i, element) in elements.iter().enumerate() {
                out.push_str(if i == 0 { "[" } else { ", " });
                write(element, comparable, out)?;
            }
            out.push_str(if elements.is_empty() { "[]" } else { "]" });
        }
        Value::Object(members) => {
            let mut members: Vec<_> = members.iter().collect();
            members.sort_by_key(|(name, _)| (name.len(), name.as_str()));
            for (i, (name, member)) in members.iter().enumerate() {
                out.push_str(if i == 0 { "{" } else { ", " });
                quote(name, out);
                out.push_str(": ");
                write(member, comparable, out)?;
            }
            out.push_str(if members.is_empty() { "{}" } else { "}" });
        }
        Value::String(text) if text.contains('\0') => {
            let error = Error::new(UNTRANSLATABLE_CHARACTER, "unsupported Unicode escape sequence");
            return Err(error.detail("\\u0000 cannot be converted to text."));
        }
        Value::String(text) => quote(text, out),
        Value::Bool(_) | Value::Null => out.push_str(&value.to_string()),
    }
    Ok(())
}

const UNTRANSLATABLE_CHARACTER: &str = "22P05";

/// As PostgreSQL's `escape_json`.
fn quote(text: &str, out: &mut String) {
    out.push('"');
    for char in text.chars() {
        match char {
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            control if control < ' ' => {
                write!(out, "\\u{:04x}", u32::from(control)).expect("a string takes everything");
            }
            other => out.push(other),
        }
    }
    out.push('"');
}

/// A number of JSON as a numeric is written: without an exponent and without zeros before it.
fn numeric(text: &str, comparable: bool) -> String {
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let (sign, mantissa) = mantissa.strip_prefix('-').map_or(("", mantissa), |rest| ("-", rest));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{whole}{fraction}");
    let exponent = match exponent.parse::<i64>() {
        Ok(exponent) if exponent.abs() <= EXPONENT_MAX => exponent,
        _ => return text.to_string(),
    };
    // Where the point stands in the digits.
    let point = whole.len() as i64 + exponent;
    let (before, after) = match usize::try_from(point) {
        Ok(point) if point >= digits.len() => (format!("{digits}{}", "0".repeat(point - digits.len())), String::new()),
        Ok(point) => (digits[..point].to_string(), digits[point..].to_string()),
        Err(_) => (String::new(), format!("{}{digits}", "0".repeat(point.unsigned_abs() as usize))),
    };
    let before = before.trim_start_matches('0');
    let after = if comparable { after.trim_end_matches('0') } else { &after };
    let is_zero = before.is_empty() && after.bytes().all(|digit| digit == b'0');
    let (sign, before) = (if is_zero { "" } else { sign }, if before.is_empty() { "0" } else { before });
    if after.is_empty() { format!("{sign}{before}") } else { format!("{sign}{before}.{after}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_text_of_a_jsonb() {
        let check = |text: &str, expect: &str| assert_eq!(jsonb(text).expect(text), expect);
        check("{\"bb\":1, \"a\" : [1.50,true,null],\"bb\":2}", "{\"a\": [1.50, true, null], \"bb\": 2}");
        check("[]", "[]");
        check(" {} ", "{}");
        check("\"\\u00e9\\n\\u0001\\/\"", "\"é\\n\\u0001/\"");
        check("[1e2, -1.5E-3, 12.5e1, -0, 0.00, 1E1]", "[100, -0.0015, 125, 0, 0.00, 10]");
        let same = |a: &str, b: &str| written(a, true).expect(a) == written(b, true).expect(b);
        assert!(same("{\"b\":1.0,\"a\":2}", "{\"a\":2e0,\"b\":1}"));
        assert!(!same("{\"b\":1}", "{\"b\":\"1\"}"));
        assert_eq!(jsonb("{").map_err(|e| e.code), Err("22P02"));
        assert_eq!(jsonb("\"\\u0000\"").map_err(|e| e.code), Err("22P05"));
    }

    #[test]
    fn members() {
        let check = |as_text: bool, json: &str, key: Key<'_>, expect: Option<&str>| {
            let member = Member { as_text, signature: Signature::user_defined(Volatility::Immutable) };
            assert_eq!(member.of(json, &key).expect(json).as_deref(), expect);
        };
        check(false, "{\"a\": {\"b\": [1,  2]}}", Key::Name("a"), Some("{\"b\": [1,  2]}"));
        check(true, "{\"a\": \"x\\ny\"}", Key::Name("a"), Some("x\ny"));
        check(false, "{\"a\": \"x\"}", Key::Name("a"), Some("\"x\""));
        check(true, "{\"a\": null}", Key::Name("a"), None);
        check(false, "{\"a\": null}", Key::Name("a"), Some("null"));
        check(false, "{\"a\": 1, \"a\": 2}", Key::Name("a"), Some("2"));
        check(true, "[1, 2.50, \"x\"]", Key::Index(1), Some("2.50"));
        check(true, "[1, 2, \"x\"]", Key::Index(-1), Some("x"));
        check(true, "[1]", Key::Index(-2), None);
        check(true, "[1]", Key::Name("0"), None);
        check(true, "{\"0\": 1}", Key::Index(0), None);
        check(true, "7", Key::Name("a"), None);
    }
}
