//! [`PgType`]: how a column of Arrow is named to PostgreSQL's clients, and which Arrow type a parameter of theirs gets.

use arrow::datatypes::{DataType, Field, IntervalUnit, TimeUnit};

use crate::types::ColumnType;

/// Field metadata that names the PostgreSQL type where Arrow's type says less.
pub const PG_TYPE: &str = "pg_type";

/// A PostgreSQL type as a row description carries it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PgType {
    pub oid: u32,
    /// Bytes of a value, -1 when it varies.
    pub len: i16,
    /// `atttypmod`: precision and scale of numerics, the most characters of texts, else -1.
    pub modifier: i32,
}

/// Object ids of PostgreSQL's built-in types.
pub mod oid {
    pub const BOOL: u32 = 16;
    pub const BYTEA: u32 = 17;
    pub const CHAR: u32 = 18;
    pub const NAME: u32 = 19;
    pub const INT8: u32 = 20;
    pub const INT2: u32 = 21;
    pub const INT4: u32 = 23;
    pub const REGPROC: u32 = 24;
    pub const TEXT: u32 = 25;
    pub const OID: u32 = 26;
    pub const JSON: u32 = 114;
    pub const FLOAT4: u32 = 700;
    pub const FLOAT8: u32 = 701;
    pub const UNKNOWN: u32 = 705;
    pub const BOOL_ARRAY: u32 = 1000;
    pub const CHAR_ARRAY: u32 = 1002;
    pub const NAME_ARRAY: u32 = 1003;
    pub const INT2_ARRAY: u32 = 1005;
    pub const INT4_ARRAY: u32 = 1007;
    pub const TEXT_ARRAY: u32 = 1009;
    pub const INT8_ARRAY: u32 = 1016;
    pub const FLOAT4_ARRAY: u32 = 1021;
    pub const FLOAT8_ARRAY: u32 = 1022;
    pub const OID_ARRAY: u32 = 1028;
    pub const BPCHAR: u32 = 1042;
    pub const VARCHAR: u32 = 1043;
    pub const DATE: u32 = 1082;
    pub const TIME: u32 = 1083;
    pub const TIMESTAMP: u32 = 1114;
    pub const TIMESTAMPTZ: u32 = 1184;
    pub const INTERVAL: u32 = 1186;
    pub const NUMERIC_ARRAY: u32 = 1231;
    pub const NUMERIC: u32 = 1700;
    pub const REGCLASS: u32 = 2205;
    pub const REGTYPE: u32 = 2206;
    pub const UUID: u32 = 2950;
    pub const JSONB: u32 = 3802;
    pub const REGNAMESPACE: u32 = 4089;
}

/// One built-in type: what `pg_type` and `format_type` say of it.
pub struct TypeName {
    pub oid: u32,
    /// `pg_type.typname`.
    pub name: &'static str,
    /// What `format_type` prints, which is also what people write.
    pub sql: &'static str,
    pub len: i16,
    /// `pg_type.typcategory`.
    pub category: char,
    /// Type of the elements, 0 when it is no array.
    pub element: u32,
    /// The array type over it, 0 when there is none here.
    pub array: u32,
}

const fn base(oid: u32, name: &'static str, sql: &'static str, len: i16, category: char, array: u32) -> TypeName {
    TypeName { oid, name, sql, len, category, element: 0, array }
}

const fn array(oid: u32, name: &'static str, sql: &'static str, element: u32) -> TypeName {
    TypeName { oid, name, sql, len: -1, category: 'A', element, array: 0 }
}

/// Every type a column or a parameter may have, by oid.
pub static TYPES: &[TypeName] = &[
    base(oid::BOOL, "bool", "boolean", 1, 'B', oid::BOOL_ARRAY),
    base(oid::BYTEA, "bytea", "bytea", -1, 'U', 0),
    base(oid::CHAR, "char", "\"char\"", 1, 'Z', oid::CHAR_ARRAY),
    base(oid::NAME, "name", "name", 64, 'S', oid::NAME_ARRAY),
    base(oid::INT8, "int8", "bigint", 8, 'N', oid::INT8_ARRAY),
    base(oid::INT2, "int2", "smallint", 2, 'N', oid::INT2_ARRAY),
    base(oid::INT4, "int4", "integer", 4, 'N', oid::INT4_ARRAY),
    base(oid::REGPROC, "regproc", "regproc", 4, 'N', 0),
    base(oid::TEXT, "text", "text", -1, 'S', oid::TEXT_ARRAY),
    base(oid::OID, "oid", "oid", 4, 'N', oid::OID_ARRAY),
    base(oid::JSON, "json", "json", -1, 'U', 0),
    base(oid::FLOAT4, "float4", "real", 4, 'N', oid::FLOAT4_ARRAY),
    base(oid::FLOAT8, "float8", "double precision", 8, 'N', oid::FLOAT8_ARRAY),
    base(oid::UNKNOWN, "unknown", "unknown", -2, 'X', 0),
    array(oid::BOOL_ARRAY, "_bool", "boolean[]", oid::BOOL),
    array(oid::CHAR_ARRAY, "_char", "\"char\"[]", oid::CHAR),
    array(oid::NAME_ARRAY, "_name", "name[]", oid::NAME),
    array(oid::INT2_ARRAY, "_int2", "smallint[]", oid::INT2),
    array(oid::INT4_ARRAY, "_int4", "integer[]", oid::INT4),
    array(oid::TEXT_ARRAY, "_text", "text[]", oid::TEXT),
    array(oid::INT8_ARRAY, "_int8", "bigint[]", oid::INT8),
    array(oid::FLOAT4_ARRAY, "_float4", "real[]", oid::FLOAT4),
    array(oid::FLOAT8_ARRAY, "_float8", "double precision[]", oid::FLOAT8),
    array(oid::OID_ARRAY, "_oid", "oid[]", oid::OID),
    base(oid::BPCHAR, "bpchar", "character", -1, 'S', 0),
    base(oid::VARCHAR, "varchar", "character varying", -1, 'S', 0),
    base(oid::DATE, "date", "date", 4, 'D', 0),
    base(oid::TIME, "time", "time without time zone", 8, 'D', 0),
    base(oid::TIMESTAMP, "timestamp", "timestamp without time zone", 8, 'D', 0),
    base(oid::TIMESTAMPTZ, "timestamptz", "timestamp with time zone", 8, 'D', 0),
    base(oid::INTERVAL, "interval", "interval", 16, 'T', 0),
    array(oid::NUMERIC_ARRAY, "_numeric", "numeric[]", oid::NUMERIC),
    base(oid::NUMERIC, "numeric", "numeric", -1, 'N', oid::NUMERIC_ARRAY),
    base(oid::REGCLASS, "regclass", "regclass", 4, 'N', 0),
    base(oid::REGTYPE, "regtype", "regtype", 4, 'N', 0),
    base(oid::UUID, "uuid", "uuid", 16, 'U', 0),
    base(oid::JSONB, "jsonb", "jsonb", -1, 'U', 0),
    base(oid::REGNAMESPACE, "regnamespace", "regnamespace", 4, 'N', 0),
];

pub fn by_oid(oid: u32) -> Option<&'static TypeName> {
    TYPES.iter().find(|t| t.oid == oid)
}

fn by_name(name: &str) -> Option<&'static TypeName> {
    TYPES.iter().find(|t| t.name == name || t.sql == name)
}

/// The type of a column, by its metadata and its Arrow type.
pub fn of(field: &Field) -> PgType {
    if let Some(known) = field.metadata().get(PG_TYPE).and_then(|name| by_name(name)) {
        return PgType { oid: known.oid, len: known.len, modifier: modifier(field.data_type()) };
    }
    if let Some((length, blank)) = ColumnType::of(field).length() {
        let modifier = i32::try_from(length + 4).unwrap_or(-1);
        return PgType { oid: if blank { oid::BPCHAR } else { oid::VARCHAR }, len: -1, modifier };
    }
    of_data_type(field.data_type())
}

/// The type of values of this Arrow type, without metadata.
pub fn of_data_type(data_type: &DataType) -> PgType {
    let oid = match data_type {
        DataType::Boolean => oid::BOOL,
        DataType::Int8 | DataType::UInt8 | DataType::Int16 => oid::INT2,
        DataType::UInt16 | DataType::Int32 => oid::INT4,
        DataType::UInt32 | DataType::Int64 | DataType::UInt64 => oid::INT8,
        DataType::Float16 | DataType::Float32 => oid::FLOAT4,
        DataType::Float64 => oid::FLOAT8,
        DataType::Decimal32(..) | DataType::Decimal64(..) | DataType::Decimal128(..) | DataType::Decimal256(..) => {
            oid::NUMERIC
        }
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => oid::BYTEA,
        DataType::Date32 | DataType::Date64 => oid::DATE,
        DataType::Time32(_) | DataType::Time64(_) => oid::TIME,
        DataType::Timestamp(_, None) => oid::TIMESTAMP,
        DataType::Timestamp(_, Some(_)) => oid::TIMESTAMPTZ,
        DataType::Interval(_) | DataType::Duration(_) => oid::INTERVAL,
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            match by_oid(of(item).oid) {
                Some(element) if element.array != 0 => element.array,
                _ => oid::TEXT_ARRAY,
            }
        }
        DataType::Dictionary(_, values) => return of_data_type(values),
        _ => oid::TEXT,
    };
    let len = by_oid(oid).map_or(-1, |t| t.len);
    PgType { oid, len, modifier: modifier(data_type) }
}

/// `numeric` without a scale is Decimal128(38, 10) here; it has no modifier, as in PostgreSQL.
fn modifier(data_type: &DataType) -> i32 {
    match data_type {
        DataType::Decimal128(38, 10) => -1,
        DataType::Decimal128(precision, scale) if *scale >= 0 => {
            ((i32::from(*precision) << 16) | i32::from(*scale)) + 4
        }
        _ => -1,
    }
}

/// What `format_type(oid, modifier)` prints.
pub fn format_type(oid: u32, modifier: i32) -> Option<String> {
    let known = by_oid(oid)?;
    if oid == oid::NUMERIC && modifier >= 4 {
        let packed = modifier - 4;
        return Some(format!("numeric({},{})", packed >> 16, packed & 0xffff));
    }
    if matches!(oid, oid::VARCHAR | oid::BPCHAR) && modifier >= 4 {
        return Some(format!("{}({})", known.sql, modifier - 4));
    }
    Some(known.sql.to_owned())
}

/// The Arrow type in which a parameter of the PostgreSQL type comes; `None` when it is not known here, or left open.
pub fn parameter(oid: u32) -> Option<DataType> {
    Some(match oid {
        oid::BOOL => DataType::Boolean,
        oid::INT2 => DataType::Int16,
        oid::INT4 => DataType::Int32,
        oid::INT8 | oid::OID | oid::REGCLASS | oid::REGTYPE | oid::REGNAMESPACE | oid::REGPROC => DataType::Int64,
        oid::FLOAT4 => DataType::Float32,
        oid::FLOAT8 => DataType::Float64,
        oid::NUMERIC => DataType::Decimal128(38, 10),
        oid::TEXT | oid::VARCHAR | oid::BPCHAR | oid::NAME | oid::CHAR | oid::JSON | oid::JSONB | oid::UUID => {
            DataType::Utf8
        }
        oid::BYTEA => DataType::Binary,
        oid::DATE => DataType::Date32,
        oid::TIME => DataType::Time64(TimeUnit::Microsecond),
        oid::TIMESTAMP => DataType::Timestamp(TimeUnit::Microsecond, None),
        oid::TIMESTAMPTZ => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        oid::INTERVAL => DataType::Interval(IntervalUnit::MonthDayNano),
        oid::INT2_ARRAY => list(DataType::Int16),
        oid::INT4_ARRAY => list(DataType::Int32),
        oid::INT8_ARRAY | oid::OID_ARRAY => list(DataType::Int64),
        oid::TEXT_ARRAY | oid::NAME_ARRAY => list(DataType::Utf8),
        _ => return None,
    })
}

/// As a column: with the name of the type where Arrow's says less.
pub fn parameter_field(oid: u32) -> Option<Field> {
    let field = Field::new("", parameter(oid)?, true);
    let named = matches!(oid, oid::JSON | oid::JSONB | oid::UUID).then(|| by_oid(oid)).flatten();
    Some(match named {
        Some(known) => field.with_metadata([(PG_TYPE.to_owned(), known.name.to_owned())].into()),
        None => field,
    })
}

fn list(item: DataType) -> DataType {
    DataType::List(std::sync::Arc::new(Field::new("item", item, true)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_modifiers() {
        let check = |data_type: DataType, metadata: Option<&str>, expect: &str| {
            let mut field = Field::new("c", data_type, true);
            if let Some(name) = metadata {
                field.set_metadata([(PG_TYPE.to_owned(), name.to_owned())].into());
            }
            let pg = of(&field);
            assert_eq!(format_type(pg.oid, pg.modifier).as_deref(), Some(expect));
        };
        check(DataType::Int64, None, "bigint");
        check(DataType::Decimal128(12, 2), None, "numeric(12,2)");
        check(DataType::Decimal128(38, 10), None, "numeric");
        check(DataType::Utf8, Some("jsonb"), "jsonb");
        check(DataType::Utf8, Some("hstore"), "text");
        check(DataType::Utf8, Some("character varying(3)"), "character varying(3)");
        check(DataType::Utf8, Some("character(1)"), "character(1)");
        check(DataType::Int64, Some("oid"), "oid");
        check(DataType::Timestamp(TimeUnit::Nanosecond, Some("UTC".into())), None, "timestamp with time zone");
        check(list(DataType::Int64), None, "bigint[]");
    }
}
