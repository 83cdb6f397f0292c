//! [`Casts`]: casts as PostgreSQL's. Text is read and written in PostgreSQL's forms, numbers are rounded and checked,
//! and a cast to `varchar(n)` cuts off.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::types::{IntervalMonthDayNano, IntervalMonthDayNanoType};
use arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, AsArray, BinaryBuilder, BooleanArray, Float32Array, PrimitiveArray,
    StringArray, StringBuilder,
};
use arrow::compute::kernels::arity;
use arrow::compute::{CastOptions, cast, cast_with_options};
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, DurationMicrosecondType, Field, FieldRef, Float32Type, Float64Type,
    Int16Type, Int32Type, Int64Type, IntervalUnit, Time64MicrosecondType, TimeUnit, TimestampMicrosecondType,
};
use bytes::BytesMut;
use datafusion::common::config::ConfigOptions;
use datafusion::common::metadata::FieldMetadata;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::{DFSchema, ScalarValue, exec_err, internal_err};
use datafusion::error::Result as DfResult;
use datafusion::logical_expr::expr::{Cast, ScalarFunction};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ExprSchemable, LogicalPlan, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl,
    Signature, Volatility,
};
use datafusion::optimizer::AnalyzerRule;

use super::arithmetic::{Op, call};
use super::rounding::Rounding;
use super::{json, read, write};
use crate::error::{Error, Result, sqlstate};
use crate::types::{ColumnType, PG_TYPE};

/// Key of a cast's metadata: the most characters that its result has, as in `varchar(5)`.
pub const LENGTH: &str = "length";

const STRING_DATA_RIGHT_TRUNCATION: &str = "22001";
const DAY_US: i64 = 86_400_000_000;

/// Puts [`Convert`] in the place of the casts that Arrow would do in another way, and checks the minus before an
/// integer, where DataFusion's wraps around.
#[derive(Debug)]
pub struct Casts;

impl AnalyzerRule for Casts {
    fn analyze(&self, plan: LogicalPlan, _config: &ConfigOptions) -> DfResult<LogicalPlan> {
        plan.transform_up_with_subqueries(|plan| {
            let schema = merge_schema(&plan.inputs());
            let names = NamePreserver::new(&plan);
            plan.map_expressions(|expr| {
                let name = names.save(&expr);
                let expr = expr.transform_up(|expr| replaced(expr, &schema))?;
                Ok(expr.update_data(|expr| name.restore(expr)))
            })?
            .map_data(LogicalPlan::recompute_schema)
        })
        .data()
    }

    fn name(&self) -> &str {
        "casts"
    }
}

fn replaced(expr: Expr, schema: &DFSchema) -> DfResult<Transformed<Expr>> {
    let (inner, field) = match expr {
        Expr::Cast(Cast { expr: inner, field }) => (inner, field),
        Expr::Negative(inner) => return Ok(negative(*inner, schema)),
        Expr::ScalarFunction(function) => return Ok(Rounding::pin(function)),
        other => return Ok(Transformed::no(other)),
    };
    let keep = |inner, field| Ok(Transformed::no(Expr::Cast(Cast { expr: inner, field })));
    // An expression over an outer query's columns has no type here; such casts stay as they are.
    let Ok((_, from)) = inner.to_field(schema) else { return keep(inner, field) };
    let convert = Convert::of(&field);
    if !convert.differs(&from) {
        return keep(inner, field);
    }
    if let Expr::Literal(value, _) = inner.as_ref()
        && is_text(&value.data_type())
    {
        let value = ScalarValue::try_from_array(&convert.array(&value.to_array()?)?, 0)?;
        let metadata = convert.metadata();
        let metadata = (!metadata.is_empty()).then(|| FieldMetadata::from(metadata));
        return Ok(Transformed::yes(Expr::Literal(value, metadata)));
    }
    let function = Arc::new(ScalarUDF::from(convert));
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

fn is_text(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

/// A cast to one type. Numbers are rounded: floats by banker's rounding, decimals half away from zero.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Convert {
    to: DataType,
    /// PostgreSQL's type, where Arrow's says less.
    pg_type: Option<String>,
    length: Option<Length>,
    name: String,
    signature: Signature,
}

/// How many characters a text may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Length {
    /// The rest is cut off, as in a cast.
    Cut(usize),
    /// More than blanks beyond it are an error, as in a column; `blank`: blanks at the end are left out.
    Fit { length: usize, blank: bool },
}

impl Convert {
    /// To the type of `field`.
    pub fn of(field: &Field) -> Self {
        let column = ColumnType::of(field);
        let cut = field.metadata().get(LENGTH).and_then(|length| length.parse().ok()).map(Length::Cut);
        let length = cut.or(column.length().map(|(length, blank)| Length::Fit { length, blank }));
        let name = match &column.data_type {
            DataType::Interval(_) => "interval".to_string(),
            DataType::Timestamp(_, Some(_)) => "timestamp with time zone".to_string(),
            other => column.name().unwrap_or_else(|_| other.to_string()),
        };
        let fits = matches!(length, Some(Length::Fit { .. }));
        let ColumnType { data_type, pg_type } = column;
        let pg_type = pg_type.filter(|_| !fits);
        let signature = Signature::any(1, Volatility::Immutable);
        Self { to: data_type, pg_type, length, name, signature }
    }

    fn metadata(&self) -> HashMap<String, String> {
        self.pg_type.iter().map(|pg_type| (PG_TYPE.to_string(), pg_type.clone())).collect()
    }

    /// Whether the cast from `from` gives something else than Arrow's.
    fn differs(&self, from: &Field) -> bool {
        let source = from.data_type();
        if source.is_null() {
            return false;
        }
        let text = is_text(source);
        match &self.to {
            DataType::Utf8 => {
                let named = from.metadata().get(PG_TYPE);
                let kept = matches!(source, DataType::Decimal128(..)) || source.is_integer() || text;
                self.length.is_some() || !kept || named != self.pg_type.as_ref()
            }
            DataType::Int16 | DataType::Int32 | DataType::Int64 => {
                text || source.is_floating() || matches!(source, DataType::Decimal128(..))
            }
            DataType::Float32 => text || matches!(source, DataType::Float64),
            DataType::Decimal128(..) => text || source.is_floating(),
            DataType::Boolean
            | DataType::Float64
            | DataType::Binary
            | DataType::Date32
            | DataType::Time64(TimeUnit::Microsecond)
            | DataType::Timestamp(TimeUnit::Microsecond, _)
            | DataType::Interval(IntervalUnit::MonthDayNano) => text,
            _ => false,
        }
    }

    /// The values of `array` in the type.
    pub fn array(&self, array: &ArrayRef) -> Result<ArrayRef> {
        if is_text(array.data_type()) {
            let texts = cast(array, &DataType::Utf8)?;
            return self.of_text(texts.as_string());
        }
        let strict = CastOptions { safe: false, ..CastOptions::default() };
        Ok(match (&self.to, array.data_type()) {
            (DataType::Utf8, _) => self.of_text(&to_text(array)?)?,
            (DataType::Int16, t) if t.is_floating() || t.is_decimal() => round_to::<Int16Type>(array, &self.name)?,
            (DataType::Int32, t) if t.is_floating() || t.is_decimal() => round_to::<Int32Type>(array, &self.name)?,
            (DataType::Int64, t) if t.is_floating() || t.is_decimal() => round_to::<Int64Type>(array, &self.name)?,
            (DataType::Float32, DataType::Float64) => to_single(array.as_primitive())?,
            (DataType::Decimal128(..), t) if t.is_floating() => self.of_text(&digits(array)?)?,
            (to, _) => cast_with_options(array, to, &strict)?,
        })
    }

    fn of_text(&self, texts: &StringArray) -> Result<ArrayRef> {
        let array: ArrayRef = match &self.to {
            DataType::Utf8 => match (self.pg_type.as_deref(), self.length) {
                (Some("uuid"), _) => Arc::new(map_text(texts, read::uuid)?),
                (Some("jsonb"), _) => Arc::new(map_text(texts, json::jsonb)?),
                (Some("json"), _) => {
                    texts.iter().flatten().try_for_each(read::json)?;
                    Arc::new(texts.clone())
                }
                (_, Some(length)) => Arc::new(map_text(texts, |text| length.of(text, &self.name))?),
                _ => Arc::new(texts.clone()),
            },
            DataType::Boolean => {
                let values = texts.iter().map(|text| text.map(read::boolean).transpose());
                Arc::new(values.collect::<Result<BooleanArray>>()?)
            }
            DataType::Binary => {
                let mut out = BinaryBuilder::with_capacity(texts.len(), texts.values().len());
                for text in texts {
                    out.append_option(text.map(read::bytes).transpose()?);
                }
                Arc::new(out.finish())
            }
            DataType::Int16 => read_all::<Int16Type>(texts, |text| read::integer(text, &self.name))?,
            DataType::Int32 => read_all::<Int32Type>(texts, |text| read::integer(text, &self.name))?,
            DataType::Int64 => read_all::<Int64Type>(texts, |text| read::integer(text, &self.name))?,
            DataType::Float32 => read_all::<Float32Type>(texts, read::real)?,
            DataType::Float64 => read_all::<Float64Type>(texts, read::double)?,
            DataType::Decimal128(digits, scale) => {
                read_all::<Decimal128Type>(texts, |text| read::decimal(text, *digits, *scale))?
            }
            DataType::Date32 => read_all::<Date32Type>(texts, read::date)?,
            DataType::Time64(TimeUnit::Microsecond) => read_all::<Time64MicrosecondType>(texts, read::time)?,
            DataType::Timestamp(TimeUnit::Microsecond, zone) => {
                read_all::<TimestampMicrosecondType>(texts, |text| read::timestamp(text, zone.is_some()))?
            }
            DataType::Interval(IntervalUnit::MonthDayNano) => {
                read_all::<IntervalMonthDayNanoType>(texts, read_interval)?
            }
            other => {
                let strict = CastOptions { safe: false, ..CastOptions::default() };
                cast_with_options(texts, other, &strict)?
            }
        };
        if array.data_type() == &self.to {
            return Ok(array);
        }
        // Only the digits of a decimal and the zone of a timestamp are still missing.
        let data = array.to_data().into_builder().data_type(self.to.clone()).build()?;
        Ok(arrow::array::make_array(data))
    }
}

impl ScalarUDFImpl for Convert {
    fn name(&self) -> &str {
        &self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _types: &[DataType]) -> DfResult<DataType> {
        internal_err!("the type of a cast comes with its field")
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> DfResult<FieldRef> {
        let nullable = args.arg_fields.iter().any(|field| field.is_nullable());
        Ok(Arc::new(Field::new(&self.name, self.to.clone(), nullable).with_metadata(self.metadata())))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        let [value] = args.args.as_slice() else { return exec_err!("a cast takes one value") };
        Ok(match value {
            ColumnarValue::Scalar(value) => {
                ColumnarValue::Scalar(ScalarValue::try_from_array(&self.array(&value.to_array()?)?, 0)?)
            }
            ColumnarValue::Array(array) => ColumnarValue::Array(self.array(array)?),
        })
    }
}

impl Length {
    fn of(self, text: &str, name: &str) -> Result<String> {
        let (length, text) = match self {
            Self::Cut(length) => return Ok(text.chars().take(length).collect()),
            Self::Fit { length, blank: true } => (length, text.trim_end_matches(' ')),
            Self::Fit { length, blank: false } => (length, text),
        };
        match text.char_indices().nth(length) {
            None => Ok(text.to_string()),
            Some((end, _)) if text[end..].bytes().all(|byte| byte == b' ') => Ok(text[..end].to_string()),
            Some(_) => Err(Error::new(STRING_DATA_RIGHT_TRUNCATION, format!("value too long for type {name}"))),
        }
    }
}

/// Brings values to a column's type, as `INSERT` does.
pub fn assign(array: &ArrayRef, from: &Field, to: &Field) -> Result<ArrayRef> {
    let convert = Convert::of(to);
    if convert.differs(from) {
        return convert.array(array);
    }
    let strict = CastOptions { safe: false, ..CastOptions::default() };
    Ok(cast_with_options(array, to.data_type(), &strict)?)
}

/// The digits of floats that a decimal takes over, as in PostgreSQL: 15 of a double, 6 of a real.
fn digits(floats: &ArrayRef) -> Result<StringArray> {
    if let Some(reals) = floats.as_primitive_opt::<Float32Type>() {
        return Ok(reals.iter().map(|real| real.map(|real| format!("{real:.5e}"))).collect());
    }
    let doubles = cast(floats, &DataType::Float64)?;
    let doubles = doubles.as_primitive::<Float64Type>();
    Ok(doubles.iter().map(|double| double.map(|double| format!("{double:.14e}"))).collect())
}

fn map_text(texts: &StringArray, map: impl Fn(&str) -> Result<String>) -> Result<StringArray> {
    texts.iter().map(|text| text.map(&map).transpose()).collect()
}

fn read_all<T: ArrowPrimitiveType>(texts: &StringArray, read: impl Fn(&str) -> Result<T::Native>) -> Result<ArrayRef> {
    let values = texts.iter().map(|text| text.map(&read).transpose()).collect::<Result<Vec<_>>>()?;
    Ok(Arc::new(PrimitiveArray::<T>::from_iter(values)))
}

fn read_interval(text: &str) -> Result<IntervalMonthDayNano> {
    let (months, days, us) = read::interval(text)?;
    let nanoseconds = us.checked_mul(1000).ok_or_else(|| {
        Error::new(sqlstate::INTERVAL_FIELD_OVERFLOW, format!("interval field value out of range: \"{text}\""))
    })?;
    Ok(IntervalMonthDayNano { months, days, nanoseconds })
}

/// The values in PostgreSQL's text form.
fn to_text(array: &ArrayRef) -> Result<StringArray> {
    let micros = TimeUnit::Microsecond;
    let again = |to: DataType| to_text(&cast(array, &to)?);
    match array.data_type() {
        DataType::Boolean => texts(array.as_boolean().iter(), |v, out| write::print(out, format_args!("{v}"))),
        DataType::Float32 => {
            texts(array.as_primitive::<Float32Type>().iter(), |v, out| write::float(write::Float::Single(v), out))
        }
        DataType::Float64 => {
            texts(array.as_primitive::<Float64Type>().iter(), |v, out| write::float(write::Float::Double(v), out))
        }
        DataType::Binary => texts(array.as_binary::<i32>().iter(), write::bytes),
        DataType::Date32 => texts(array.as_primitive::<Date32Type>().iter(), |v, out| write::date(i64::from(v), out)),
        DataType::Time64(TimeUnit::Microsecond) => {
            texts(array.as_primitive::<Time64MicrosecondType>().iter(), write::time)
        }
        DataType::Timestamp(TimeUnit::Microsecond, zone) => {
            let utc = zone.is_some();
            let values = array.as_primitive::<TimestampMicrosecondType>().iter();
            texts(values, |v, out| write::timestamp(v, utc, out))
        }
        DataType::Interval(IntervalUnit::MonthDayNano) => {
            let values = array.as_primitive::<IntervalMonthDayNanoType>().iter();
            texts(values, |v, out| write::interval(v.months, v.days, v.nanoseconds / 1000, out))
        }
        DataType::Duration(TimeUnit::Microsecond) => {
            let values = array.as_primitive::<DurationMicrosecondType>().iter();
            texts(values, |us, out| write::interval(0, (us / DAY_US) as i32, us % DAY_US, out))
        }
        DataType::Timestamp(_, zone) => again(DataType::Timestamp(micros, zone.clone())),
        DataType::Time32(_) | DataType::Time64(_) => again(DataType::Time64(micros)),
        DataType::Duration(_) => again(DataType::Duration(micros)),
        DataType::Interval(_) => again(DataType::Interval(IntervalUnit::MonthDayNano)),
        DataType::Float16 => again(DataType::Float32),
        DataType::Date64 => again(DataType::Date32),
        DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => again(DataType::Binary),
        DataType::List(_) | DataType::LargeList(_) | DataType::FixedSizeList(..) | DataType::Struct(_) => {
            Err(Error::unsupported("a cast of an array or a row to text"))
        }
        _ => Ok(cast(array, &DataType::Utf8)?.as_string().clone()),
    }
}

fn texts<V>(values: impl Iterator<Item = Option<V>>, write: impl Fn(V, &mut BytesMut)) -> Result<StringArray> {
    let mut out = StringBuilder::new();
    let mut text = BytesMut::new();
    for value in values {
        let Some(value) = value else {
            out.append_null();
            continue;
        };
        text.clear();
        write(value, &mut text);
        out.append_value(std::str::from_utf8(&text).map_err(|e| Error::bug("a text form is no text").caused_by(e))?);
    }
    Ok(out.finish())
}

fn to_single(doubles: &PrimitiveArray<Float64Type>) -> Result<ArrayRef> {
    let single = |value: f64| {
        let single = value as f32;
        let what = match () {
            () if single.is_infinite() && value.is_finite() => "overflow",
            () if single == 0.0 && value != 0.0 => "underflow",
            () => return Ok(single),
        };
        Err(Error::new(sqlstate::NUMERIC_VALUE_OUT_OF_RANGE, format!("value out of range: {what}")))
    };
    let values = doubles.iter().map(|value| value.map(single).transpose());
    Ok(Arc::new(values.collect::<Result<Float32Array>>()?))
}

fn round_to<T: ArrowPrimitiveType>(array: &ArrayRef, name: &str) -> Result<ArrayRef>
where
    T::Native: TryFrom<i128>,
{
    let fit = |value: i128| {
        T::Native::try_from(value).map_err(|_| {
            arrow::error::ArrowError::from_external_error(Box::new(Error::new(
                sqlstate::NUMERIC_VALUE_OUT_OF_RANGE,
                format!("{name} out of range"),
            )))
        })
    };
    let out: PrimitiveArray<T> = match array.data_type() {
        DataType::Decimal128(_, scale) if *scale >= 0 => {
            let unit = 10i128.pow(scale.unsigned_abs().into());
            arity::try_unary(array.as_primitive::<Decimal128Type>(), |value| {
                let (whole, rest) = (value / unit, value % unit);
                let away = rest.abs() >= unit - rest.abs();
                fit(if away { whole + value.signum() } else { whole })
            })?
        }
        _ => {
            let strict = CastOptions { safe: false, ..CastOptions::default() };
            let floats = cast_with_options(array, &DataType::Float64, &strict)?;
            arity::try_unary(floats.as_primitive::<Float64Type>(), |value| {
                // Beyond 2^63 every float is out of range, NaN too.
                let rounded = value.round_ties_even();
                fit(if rounded.abs() <= 9.3e18 { rounded as i128 } else { i128::MAX })
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
pub fn plain(data_type: &DataType) -> Option<DataType> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(from: ArrayRef, to: DataType, expect: Result<&str, &str>) {
        let convert = Convert::of(&Field::new("", to, true));
        let text = Convert::of(&Field::new("", DataType::Utf8, true));
        let got = convert.array(&from).and_then(|array| text.array(&array));
        let got = got.as_ref().map(|array| array.as_string::<i32>().value(0)).map_err(|e| e.code);
        assert_eq!(got, expect);
    }

    #[test]
    fn casts() {
        let texts = |text: &str| Arc::new(StringArray::from(vec![text])) as ArrayRef;
        let double = |value: f64| Arc::new(arrow::array::Float64Array::from(vec![value])) as ArrayRef;
        let utc = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
        check(texts("99999999999"), DataType::Int32, Err("22003"));
        check(texts("abc"), DataType::Int32, Err("22P02"));
        check(texts("1.005"), DataType::Decimal128(10, 2), Ok("1.01"));
        check(texts("2024-05-06 07:08+02"), utc, Ok("2024-05-06 05:08:00+00"));
        check(texts("2024-05-06"), DataType::Timestamp(TimeUnit::Microsecond, None), Ok("2024-05-06 00:00:00"));
        check(texts("yes"), DataType::Boolean, Ok("true"));
        check(texts("\\x00ff"), DataType::Binary, Ok("\\x00ff"));
        check(texts("1 day 2 hours"), DataType::Interval(IntervalUnit::MonthDayNano), Ok("1 day 02:00:00"));
        check(double(2.5), DataType::Int32, Ok("2"));
        check(double(1e10), DataType::Int32, Err("22003"));
        check(double(1e40), DataType::Float32, Err("22003"));
        check(double(1e20), DataType::Float64, Ok("1e+20"));
    }
}
