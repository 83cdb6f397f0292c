//! The types of columns: PostgreSQL's names to Arrow's types and back. `numeric` without a scale is Decimal128(38, 10);
//! a type that Arrow has not travels as text, with its name in the field's metadata.

use std::collections::HashMap;

use arrow::datatypes::{DataType, Field, TimeUnit};
use datafusion::sql::sqlparser::ast::{CharacterLength, DataType as Sql, ExactNumberInfo, TimezoneInfo};

use crate::error::{Error, Result, sqlstate};

/// Key of the field metadata that holds the PostgreSQL type where Arrow's says less.
pub const PG_TYPE: &str = "pg_type";

/// Key of the field metadata that holds the type of a text that has a length, as `character varying(3)`. For everything
/// but assignments it is a text.
const TEXT_TYPE: &str = "text_type";

/// Digits that a numeric has at most.
pub const DIGITS_MAX: u8 = 38;
/// Columns that a list or a row may have, as in PostgreSQL.
pub const COLUMNS_MAX: usize = 1664;
/// Characters that a type may allow at most, as in PostgreSQL.
const CHARACTERS_MAX: u64 = 10_485_760;
/// Digits behind the point of a numeric without a scale.
pub const SCALE_DEFAULT: i8 = 10;

/// A column's type: Arrow's, and PostgreSQL's name where that says more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ColumnType {
    pub data_type: DataType,
    pub pg_type: Option<String>,
}

impl ColumnType {
    fn plain(data_type: DataType) -> Self {
        Self { data_type, pg_type: None }
    }

    fn named(name: &str) -> Self {
        Self { data_type: DataType::Utf8, pg_type: Some(name.to_string()) }
    }

    pub fn of(field: &Field) -> Self {
        let metadata = field.metadata();
        let pg_type = metadata.get(PG_TYPE).or_else(|| metadata.get(TEXT_TYPE)).cloned();
        Self { data_type: field.data_type().clone(), pg_type }
    }

    pub fn field(&self, name: &str, nullable: bool) -> Field {
        let field = Field::new(name, self.data_type.clone(), nullable);
        match &self.pg_type {
            Some(pg_type) => {
                let key = if self.length().is_some() { TEXT_TYPE } else { PG_TYPE };
                field.with_metadata(HashMap::from([(key.to_string(), pg_type.clone())]))
            }
            None => field,
        }
    }

    /// The most characters of a text, where the type says so, and whether blanks at its end count for nothing.
    pub fn length(&self) -> Option<(usize, bool)> {
        let (name, length) = self.pg_type.as_deref()?.strip_suffix(')')?.split_once('(')?;
        match name {
            "character varying" => Some((length.parse().ok()?, false)),
            "character" => Some((length.parse().ok()?, true)),
            _ => None,
        }
    }

    /// PostgreSQL's name: `bigint`, `numeric(10,2)`, `jsonb`. An error when there is no column of this type.
    pub fn name(&self) -> Result<String> {
        if let Some(name) = &self.pg_type {
            return Ok(name.clone());
        }
        Ok(match &self.data_type {
            DataType::Boolean => "boolean".into(),
            DataType::Int16 => "smallint".into(),
            DataType::Int32 => "integer".into(),
            DataType::Int64 => "bigint".into(),
            DataType::Float32 => "real".into(),
            DataType::Float64 => "double precision".into(),
            DataType::Decimal128(DIGITS_MAX, SCALE_DEFAULT) => "numeric".into(),
            DataType::Decimal128(digits, scale) => format!("numeric({digits},{scale})"),
            DataType::Utf8 => "text".into(),
            DataType::Binary => "bytea".into(),
            DataType::Date32 => "date".into(),
            DataType::Time64(TimeUnit::Microsecond) => "time".into(),
            DataType::Timestamp(TimeUnit::Microsecond, None) => "timestamp".into(),
            DataType::Timestamp(TimeUnit::Microsecond, Some(_)) => "timestamptz".into(),
            DataType::Interval(_) | DataType::Duration(_) => {
                return Err(Error::unsupported("a column of type interval"));
            }
            other => return Err(Error::unsupported(format!("a column of type {other}"))),
        })
    }

    /// What [`ColumnType::name`] gave.
    pub fn parse(name: &str) -> Result<Self> {
        Ok(Self::plain(match name {
            "boolean" => DataType::Boolean,
            "smallint" => DataType::Int16,
            "integer" => DataType::Int32,
            "bigint" => DataType::Int64,
            "real" => DataType::Float32,
            "double precision" => DataType::Float64,
            "numeric" => DataType::Decimal128(DIGITS_MAX, SCALE_DEFAULT),
            "text" => DataType::Utf8,
            "bytea" => DataType::Binary,
            "date" => DataType::Date32,
            "time" => DataType::Time64(TimeUnit::Microsecond),
            "timestamp" => timestamp(),
            "timestamptz" => timestamptz(),
            other => match other.strip_prefix("numeric(").and_then(|rest| rest.strip_suffix(')')) {
                Some(inside) => numeric_of_text(inside)
                    .ok_or_else(|| Error::bug(format!("the type {name} of a stored definition is not known")))?,
                None => return Ok(Self::named(other)),
            },
        }))
    }

    /// The type as written in a statement.
    pub fn from_sql(sql: &Sql) -> Result<Self> {
        let none = |zone: &TimezoneInfo| matches!(zone, TimezoneInfo::None | TimezoneInfo::WithoutTimeZone);
        Ok(Self::plain(match sql {
            Sql::Boolean | Sql::Bool => DataType::Boolean,
            Sql::SmallInt(None) | Sql::Int2(None) => DataType::Int16,
            Sql::Int(None) | Sql::Integer(None) | Sql::Int4(None) => DataType::Int32,
            Sql::BigInt(None) | Sql::Int8(None) => DataType::Int64,
            Sql::Real | Sql::Float4 => DataType::Float32,
            Sql::Float(ExactNumberInfo::Precision(1..=24)) => DataType::Float32,
            Sql::Float(ExactNumberInfo::None | ExactNumberInfo::Precision(25..=53))
            | Sql::Double(ExactNumberInfo::None)
            | Sql::DoublePrecision
            | Sql::Float8 => DataType::Float64,
            Sql::Numeric(info) | Sql::Decimal(info) | Sql::Dec(info) => numeric(info)?,
            Sql::Varchar(Some(length)) | Sql::CharacterVarying(Some(length)) | Sql::CharVarying(Some(length)) => {
                return text_of("character varying", length);
            }
            Sql::Char(Some(length)) | Sql::Character(Some(length)) => return text_of("character", length),
            Sql::Char(None) | Sql::Character(None) => return Ok(Self::named("character(1)")),
            Sql::Text | Sql::Varchar(None) | Sql::CharacterVarying(None) | Sql::CharVarying(None) | Sql::String(_) => {
                DataType::Utf8
            }
            Sql::Bytea => DataType::Binary,
            Sql::Date => DataType::Date32,
            Sql::Time(_, zone) if none(zone) => DataType::Time64(TimeUnit::Microsecond),
            Sql::Timestamp(_, zone) if none(zone) => timestamp(),
            Sql::Timestamp(..) => timestamptz(),
            Sql::Uuid => return Ok(Self::named("uuid")),
            Sql::JSON => return Ok(Self::named("json")),
            Sql::JSONB => return Ok(Self::named("jsonb")),
            Sql::Custom(name, modifiers) if modifiers.is_empty() => return custom(&name.to_string().to_lowercase()),
            other => return Err(unknown(&other.to_string())),
        }))
    }
}

fn text_of(name: &str, length: &CharacterLength) -> Result<ColumnType> {
    match length {
        CharacterLength::IntegerLength { length: length @ 1..=CHARACTERS_MAX, .. } => {
            Ok(ColumnType::named(&format!("{name}({length})")))
        }
        CharacterLength::IntegerLength { length, .. } => {
            let message = format!("the length {length} of {name} is not between 1 and {CHARACTERS_MAX}");
            Err(Error::new(sqlstate::INVALID_PARAMETER_VALUE, message))
        }
        CharacterLength::Max => Ok(ColumnType::plain(DataType::Utf8)),
    }
}

fn custom(name: &str) -> Result<ColumnType> {
    Ok(ColumnType::plain(match name.strip_prefix("pg_catalog.").unwrap_or(name) {
        "bool" => DataType::Boolean,
        "int2" => DataType::Int16,
        "int4" => DataType::Int32,
        "int8" => DataType::Int64,
        "float4" => DataType::Float32,
        "float8" => DataType::Float64,
        "text" | "varchar" | "bpchar" | "name" => DataType::Utf8,
        "timestamptz" => timestamptz(),
        _ => return Err(unknown(name)),
    }))
}

fn unknown(name: &str) -> Error {
    Error::new(sqlstate::UNDEFINED_OBJECT, format!("type \"{}\" does not exist", name.to_lowercase())).hint(
        "types here: boolean, smallint, integer, bigint, real, double precision, numeric, text, bytea, uuid, json, \
         jsonb, date, time, timestamp, timestamptz",
    )
}

fn timestamp() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, None)
}

pub fn timestamptz() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

fn numeric(info: &ExactNumberInfo) -> Result<DataType> {
    let (digits, scale) = match info {
        ExactNumberInfo::None => (u64::from(DIGITS_MAX), i64::from(SCALE_DEFAULT)),
        ExactNumberInfo::Precision(digits) => (*digits, 0),
        ExactNumberInfo::PrecisionAndScale(digits, scale) => (*digits, *scale),
    };
    match (u8::try_from(digits), i8::try_from(scale)) {
        (Ok(d @ 1..=DIGITS_MAX), Ok(s)) if s >= 0 && s as u8 <= d => Ok(DataType::Decimal128(d, s)),
        _ => Err(Error::unsupported(format!("numeric({digits},{scale})"))
            .hint(format!("a numeric has 1 to {DIGITS_MAX} digits, and at most as many behind the point"))),
    }
}

fn numeric_of_text(inside: &str) -> Option<DataType> {
    let (digits, scale) = inside.split_once(',')?;
    Some(DataType::Decimal128(digits.parse().ok()?, scale.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_there_and_back() {
        for name in [
            "boolean",
            "smallint",
            "integer",
            "bigint",
            "real",
            "double precision",
            "numeric",
            "numeric(12,2)",
            "text",
            "bytea",
            "date",
            "time",
            "timestamp",
            "timestamptz",
            "uuid",
            "jsonb",
            "hstore",
            "character varying(3)",
            "character(12)",
        ] {
            let column = ColumnType::parse(name).expect(name);
            assert_eq!(column.name().expect(name), name);
            assert_eq!(ColumnType::of(&column.field("c", true)), column);
        }
    }
}
