//! Formats as seen through their seam: what is written reads back, what is wrong is named, nothing panics.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch};
use arrow::datatypes::{
    DataType, Field, Float32Type, Float64Type, Schema, SchemaRef, TimeUnit, TimestampMicrosecondType,
};
use arrow::util::display::array_value_to_string;
use bytes::Bytes;
use engine::codec::{Decode, Decoded, Encode, Format, RowOp};
use engine::delta::Delta;
use log::{NewRecord, Offset, RecordView, TopicPartition};
use proptest::prelude::*;

use super::formats;

fn format(name: &str) -> Arc<dyn Format> {
    formats().into_iter().find(|format| format.name() == name).unwrap()
}

fn schema(fields: &[(&str, DataType)]) -> SchemaRef {
    Arc::new(Schema::new(fields.iter().map(|(n, t)| Field::new(*n, t.clone(), true)).collect::<Vec<_>>()))
}

fn decoder(name: &str, schema: &SchemaRef, key: &[usize]) -> Box<dyn Decode> {
    format(name).decode(Some(Arc::clone(schema)), key, &BTreeMap::new()).unwrap()
}

fn encoder(name: &str, schema: &SchemaRef, key: Option<&[usize]>, append_only: bool) -> Box<dyn Encode> {
    format(name).encode(Arc::clone(schema), key, append_only, &BTreeMap::new()).unwrap()
}

fn partition() -> TopicPartition {
    TopicPartition { topic: log::TopicId([7; 16]), partition: 3 }
}

fn records(pairs: &[(Option<&str>, Option<&str>)]) -> Vec<RecordView> {
    let bytes = |text: &Option<&str>| text.map(|text| Bytes::copy_from_slice(text.as_bytes()));
    let record = |(offset, (key, value)): (i64, &(Option<&str>, Option<&str>))| RecordView {
        offset: Offset(offset),
        timestamp_ms: 1_700_000_000_000 + offset,
        key: bytes(key),
        value: bytes(value),
        headers: Bytes::from_static(&[0]),
    };
    (100..).zip(pairs).map(record).collect()
}

fn stored(records: Vec<NewRecord>) -> Vec<RecordView> {
    let record = |(offset, record): (i64, NewRecord)| RecordView {
        offset: Offset(offset),
        timestamp_ms: 0,
        key: record.key,
        value: record.value,
        headers: Bytes::new(),
    };
    (0..).zip(records).map(record).collect()
}

/// Rows as text: the op's first letter and the values, `~` for null.
fn show(decoded: &Decoded) -> Vec<String> {
    let cell = |column: &ArrayRef, row| match column.data_type() {
        _ if column.is_null(row) => "~".to_owned(),
        DataType::Timestamp(..) => column.as_primitive::<TimestampMicrosecondType>().value(row).to_string(),
        _ => array_value_to_string(column, row).unwrap(),
    };
    let row = |(row, op): (usize, &RowOp)| {
        let values: Vec<String> = decoded.rows.columns().iter().map(|column| cell(column, row)).collect();
        format!("{}:{}", &format!("{op:?}")[..1], values.join(","))
    };
    decoded.ops.iter().enumerate().map(row).collect()
}

/// Decodes (key, value) pairs of a relation (id bigint, name text, price numeric(10,2)).
fn check(name: &str, key: &[usize], pairs: &[(Option<&str>, Option<&str>)], expect: Result<&[&str], &str>) {
    let schema = schema(&[("id", DataType::Int64), ("name", DataType::Utf8), ("price", DataType::Decimal128(10, 2))]);
    let decoded = decoder(name, &schema, key).decode(partition(), &records(pairs));
    match (decoded, expect) {
        (Ok(decoded), Ok(expect)) => assert_eq!(show(&decoded), expect, "{pairs:?}"),
        (Err(error), Err(expect)) => assert!(error.to_string().contains(expect), "{error} does not say {expect:?}"),
        (Ok(decoded), Err(expect)) => panic!("{:?} instead of {expect:?}", show(&decoded)),
        (Err(error), Ok(_)) => panic!("{error} at {pairs:?}"),
    }
}

#[test]
fn json_appends_rows() {
    let value = |text| [(None, Some(text))];
    check("json", &[], &value(r#"{"id":1,"name":"a","price":"1.50"}"#), Ok(&["I:1,a,1.50"]));
    check("json", &[], &value(r#"{"price":2.5,"more":[1],"id":-7,"name":null}"#), Ok(&["I:-7,~,2.50"]));
    check("json", &[], &value(r#"{"name":"\u00e9\n\"x"}"#), Ok(&["I:~,é\n\"x,~"]));
    check("json", &[], &[(Some("k"), None)], Ok(&[]));
    check("json", &[], &value(r#"{"id":"1"}"#), Err(r#"offset 100 cannot be decoded: column "id": "1" is no bigint"#));
    check("json", &[], &value(r#"{"id":1.5}"#), Err("1.5 is no bigint"));
    check("json", &[], &value(r#"{"id":9223372036854775808}"#), Err("out of the range of bigint"));
    check("json", &[], &value(r#"{"name":1}"#), Err("column \"name\": 1 is no text"));
    check("json", &[], &value(r#"{"price":1.005}"#), Err("1.005 has more digits behind the point than numeric(10,2)"));
    check("json", &[], &value(r#"{"price":"NaN"}"#), Err("only finite values"));
    check("json", &[], &value("[1]"), Err("expected a JSON object"));
    check("json", &[], &value(r#"{"id":1} x"#), Err("trailing characters"));
}

/// A column declared NOT NULL: the record is named, not a batch of them; what a delete or an update leaves out is none.
#[test]
fn a_null_where_none_may_be_names_its_record() {
    let fields = vec![Field::new("id", DataType::Int64, false), Field::new("name", DataType::Utf8, false)];
    let schema: SchemaRef = Arc::new(Schema::new(fields));
    let check = |name: &str, key: &[usize], pairs: &[(Option<&str>, Option<&str>)], expect: Result<usize, i64>| {
        let decoded = decoder(name, &schema, key).decode(partition(), &records(pairs));
        assert_eq!(decoded.map(|d| d.ops.len()).map_err(|e| e.offset.0), expect, "{name} {pairs:?}");
    };
    let good = (None, Some(r#"{"id":1,"name":"a"}"#));
    check("json", &[], &[good, (None, Some(r#"{"id":2,"name":null}"#))], Err(101));
    check("json", &[0], &[good, (Some("1"), None), (Some("2"), Some(r#"{"id":2}"#))], Err(102));
    check("json", &[0], &[good, (Some("1"), None)], Ok(2));
    let created = (None, Some(r#"{"op":"c","after":{"id":1,"name":"a"}}"#));
    check("debezium-json", &[0], &[created, (None, Some(r#"{"op":"u","after":{"id":1,"name":null}}"#))], Err(101));
    check("debezium-json", &[0], &[created, (None, Some(r#"{"op":"u","after":{"id":1}}"#))], Ok(2));
    check("debezium-json", &[0], &[created, (Some("1"), Some(r#"{"op":"d","before":null}"#))], Ok(2));
}

#[test]
fn json_upserts_by_key() {
    let key = &[0];
    check("json", key, &[(None, Some(r#"{"id":1,"name":"a"}"#))], Ok(&["U:1,a,~"]));
    check("json", key, &[(Some(r#"{"id":1}"#), Some(r#"{"name":"a"}"#))], Ok(&["U:1,a,~"]));
    check("json", key, &[(Some("5"), None)], Ok(&["D:5,~,~"]));
    check("json", key, &[(Some(r#"{"schema":{},"payload":{"id":5}}"#), None)], Ok(&["D:5,~,~"]));
    check("json", key, &[(None, None)], Ok(&[]));
    check("json", key, &[(None, Some(r#"{"name":"a"}"#))], Err(r#"the key column "id" is missing or null"#));
    check("json", key, &[(Some("x"), None)], Err("neither an object nor a JSON value"));
    check("json", &[0, 1], &[(Some(r#"{"name":"n","id":2}"#), None)], Ok(&["D:2,n,~"]));
    check("json", &[0, 1], &[(Some("2"), None)], Err("the key is not valid"));
}

#[test]
fn debezium_follows_the_envelope() {
    let key = Some(r#"{"id":1}"#);
    let check = |op: &str, before: &str, after: &str, expect| {
        let value = format!(r#"{{"before":{before},"after":{after},"source":{{"lsn":1}},"op":"{op}","ts_ms":1}}"#);
        check("debezium", &[0], &[(key, Some(&value)), (key, None)], expect);
    };
    let row = r#"{"id":1,"name":"a","price":"1.00"}"#;
    check("c", "null", row, Ok(&["U:1,a,1.00"]));
    check("r", "null", row, Ok(&["U:1,a,1.00"]));
    check("u", r#"{"id":9}"#, row, Ok(&["U:1,a,1.00"]));
    check("d", row, "null", Ok(&["D:1,~,~"]));
    check("t", "null", "null", Ok(&["T:~,~,~"]));
    check("m", "null", "null", Ok(&[]));
    check("x", "null", row, Err("op \"x\" is none of"));
    check("c", "null", "null", Err("after is missing"));
    check("u", "null", r#"{"id":1,"price":"NaN"}"#, Err("only finite values"));
}

#[test]
fn debezium_reads_wrapped_and_odd_records() {
    let wrapped = r#"{"schema":{"type":"struct"},"payload":{"op":"d","before":{"id":4,"name":"x"}}}"#;
    check("debezium-json", &[0], &[(None, Some(wrapped))], Ok(&["D:4,~,~"]));
    check("debezium-json", &[0], &[(Some(r#"{"payload":{"id":5}}"#), Some(wrapped))], Err("\"id\" is missing"));
    let key = r#"{"schema":{},"payload":{"id":5}}"#;
    check("debezium-json", &[0], &[(Some(key), Some(wrapped))], Ok(&["D:5,~,~"]));
    check("debezium-json", &[0], &[(None, Some(r#"{"schema":null,"payload":null}"#)), (None, Some("null"))], Ok(&[]));
    check("debezium-json", &[0], &[(None, Some(r#"{"id":1}"#))], Err("no Debezium envelope"));
    check("debezium-json", &[0], &[(None, Some(r#"{"op":"u","after":{"name":"a"}}"#))], Err("\"id\" is missing"));
}

#[test]
fn debezium_notes_what_is_unchanged() {
    let schema = schema(&[("id", DataType::Int64), ("a", DataType::Utf8), ("b", DataType::Binary)]);
    let decode = |key: &[usize], value: &str| {
        decoder("debezium", &schema, key).decode(partition(), &records(&[(None, Some(value))])).unwrap()
    };
    let decoded = decode(&[0], r#"{"op":"u","after":{"id":1,"a":"__debezium_unavailable_value"}}"#);
    assert_eq!((show(&decoded), decoded.unchanged), (vec!["U:1,~,~".to_owned()], vec![(0, 1), (0, 2)]));
    let placeholder = r#"{"op":"c","after":{"id":1,"b":"X19kZWJleml1bV91bmF2YWlsYWJsZV92YWx1ZQ=="}}"#;
    let decoded = decode(&[0], placeholder);
    assert_eq!((show(&decoded), decoded.unchanged), (vec!["U:1,~,~".to_owned()], vec![(0, 2)]));
    let decoded = decode(
        &[],
        r#"{"op":"u","before":{"id":1,"a":"x","b":"YWI="},"after":{"id":2,"a":"__debezium_unavailable_value"}}"#,
    );
    assert_eq!((show(&decoded), decoded.unchanged), (vec!["R:1,x,6162".to_owned(), "I:2,x,6162".to_owned()], vec![]));
}

#[test]
fn debezium_fills_nothing_of_a_moved_row() {
    let schema = schema(&[("id", DataType::Int64), ("a", DataType::Utf8)]);
    let mut record = records(&[(None, Some(r#"{"op":"c","after":{"id":1}}"#))]);
    let decode = decoder("debezium", &schema, &[0]);
    assert_eq!(decode.decode(partition(), &record).unwrap().unchanged, []);
    let mut headers = vec![2, 34];
    headers.extend_from_slice(b"__debezium.oldkey");
    headers.extend_from_slice(&[4, b'{', b'}']);
    record[0].headers = Bytes::from(headers);
    assert_eq!(decode.decode(partition(), &record).unwrap().unchanged, [(0, 1)]);
}

#[test]
fn debezium_without_a_key_is_a_multiset() {
    let change = r#"{"op":"u","before":{"id":1,"name":"a","price":"1"},"after":{"id":1,"name":"b","price":"1"}}"#;
    check("debezium", &[], &[(None, Some(change))], Ok(&["R:1,a,1.00", "I:1,b,1.00"]));
    check("debezium", &[], &[(None, Some(r#"{"op":"d","before":{"id":1}}"#))], Ok(&["R:1,~,~"]));
    check("debezium", &[], &[(None, Some(r#"{"op":"d","before":null}"#))], Err("REPLICA IDENTITY FULL"));
}

#[test]
fn raw_shows_the_record() {
    let decode = format("raw").decode(None, &[], &BTreeMap::new()).unwrap();
    let decoded = decode.decode(partition(), &records(&[(Some("k"), Some("v")), (None, None)])).unwrap();
    let expect = ["I:6b,76,[],3,100,1700000000100000", "I:~,~,[],3,101,1700000000101000"];
    assert_eq!(show(&decoded), expect);
    let text = schema(&[("value", DataType::Utf8), ("key", DataType::Utf8)]);
    let keyed = decoder("raw", &text, &[1]);
    let decoded = keyed.decode(partition(), &records(&[(Some("k"), Some("v")), (Some("k"), None)])).unwrap();
    assert_eq!(show(&decoded), ["U:v,k", "D:~,k"]);
    assert!(format("raw").decode(Some(text), &[0], &BTreeMap::new()).is_err());
    assert!(format("raw").decode(Some(schema(&[("id", DataType::Int64)])), &[], &BTreeMap::new()).is_err());
}

#[test]
fn unknown_options_and_types_are_refused() {
    let options = BTreeMap::from([("colour".to_owned(), "red".to_owned())]);
    let list = schema(&[("a", DataType::Date64)]);
    for format in formats() {
        let error = format.decode(Some(schema(&[("key", DataType::Utf8)])), &[], &options).err().unwrap();
        assert!(error.contains("no option \"colour\""), "{error}");
        assert!(format.decode(Some(Arc::clone(&list)), &[], &BTreeMap::new()).is_err());
    }
}

/// (key, value) of the records an encoder makes of a delta over (k text, v bigint).
fn encoded(
    name: &str,
    key: Option<&[usize]>,
    rows: &[(&str, i64, i64)],
    totals: Option<&[i64]>,
) -> Result<Vec<String>, String> {
    let schema = schema(&[("k", DataType::Utf8), ("v", DataType::Int64)]);
    let texts: ArrayRef = Arc::new(arrow::array::StringArray::from_iter_values(rows.iter().map(|row| row.0)));
    let values: ArrayRef = Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.1)));
    let batch = RecordBatch::try_new(Arc::clone(&schema), vec![texts, values]).unwrap();
    let delta = Delta::weighted(batch, Int64Array::from_iter_values(rows.iter().map(|row| row.2)));
    let append_only = rows.iter().all(|row| row.2 > 0) && totals.is_none();
    let encode = encoder(name, &schema, key, append_only);
    let mut out = Vec::new();
    let totals = totals.map(|totals| Int64Array::from(totals.to_vec()));
    encode.encode(17, &delta, totals.as_ref(), &mut out).map_err(|error| error.to_string())?;
    let text = |bytes: &Option<Bytes>| bytes.as_ref().map_or("~".into(), |b| String::from_utf8(b.to_vec()).unwrap());
    assert!(out.iter().all(|r| r.headers[0].key == "epoch" && r.headers[0].value.as_deref() == Some(b"17")));
    Ok(out.iter().map(|record| format!("{} {}", text(&record.key), text(&record.value))).collect())
}

#[test]
fn json_writes_one_record_a_key() {
    let rows = [("a", 1, -1), ("b", 5, 1), ("a", 2, 1), ("c", 3, -1)];
    let expect = [r#"{"k":"a"} {"k":"a","v":2}"#, r#"{"k":"b"} {"k":"b","v":5}"#, r#"{"k":"c"} ~"#];
    assert_eq!(encoded("json", Some(&[0]), &rows, None).unwrap(), expect);
    assert_eq!(encoded("json", Some(&[]), &rows[1..2], None).unwrap(), [r#"{} {"k":"b","v":5}"#]);
    assert!(encoded("json", Some(&[0]), &[("a", 1, 1), ("a", 2, 1)], None).unwrap_err().contains(r#"{"k":"a"}"#));
    assert!(encoded("json", Some(&[0]), &[("a", 1, 2)], None).is_err());
}

#[test]
fn json_without_a_key_counts() {
    let rows = [("a", 1, 2), ("b", 1, -1)];
    let expect = [r#"{"k":"a","v":1} {"k":"a","v":1,"_count":5}"#, r#"{"k":"b","v":1} ~"#];
    assert_eq!(encoded("json", None, &rows, Some(&[5, 0])).unwrap(), expect);
    assert_eq!(encoded("json", None, &rows[..1], None).unwrap(), [r#"~ {"k":"a","v":1}"#; 2]);
}

#[test]
fn debezium_writes_envelopes() {
    let rows = [("a", 1, -1), ("a", 2, 1), ("c", 3, -1), ("d", 4, 1)];
    let tail =
        |op| format!(r#""source":{{"connector":"riverrun","epoch":17}},"op":"{op}","ts_ms":null,"transaction":null}}"#);
    let expect = [
        format!(r#"{{"k":"a"}} {{"before":{{"k":"a","v":1}},"after":{{"k":"a","v":2}},{}"#, tail("u")),
        format!(r#"{{"k":"c"}} {{"before":{{"k":"c","v":3}},"after":null,{}"#, tail("d")),
        r#"{"k":"c"} ~"#.to_owned(),
        format!(r#"{{"k":"d"}} {{"before":null,"after":{{"k":"d","v":4}},{}"#, tail("c")),
    ];
    assert_eq!(encoded("debezium", Some(&[0]), &rows, None).unwrap(), expect);
    assert_eq!(encoded("debezium", None, &rows[..1], None).unwrap().len(), 1);
}

/// One column of every type, and rows of any values.
fn every_type() -> SchemaRef {
    let micros = TimeUnit::Microsecond;
    let json = [("pg_type".to_owned(), "jsonb".to_owned())].into_iter().collect();
    let mut fields: Vec<Field> = schema(&[
        ("bool", DataType::Boolean),
        ("int2", DataType::Int16),
        ("int4", DataType::Int32),
        ("int8", DataType::Int64),
        ("float4", DataType::Float32),
        ("float8", DataType::Float64),
        ("numeric", DataType::Decimal128(38, 10)),
        ("text", DataType::Utf8),
        ("bytea", DataType::Binary),
        ("date", DataType::Date32),
        ("time", DataType::Time64(micros)),
        ("timestamp", DataType::Timestamp(micros, None)),
        ("timestamptz", DataType::Timestamp(micros, Some("UTC".into()))),
    ])
    .fields()
    .iter()
    .map(|field| field.as_ref().clone())
    .collect();
    fields.push(Field::new("js\"on", DataType::Utf8, true).with_metadata(json));
    Arc::new(Schema::new(fields))
}

fn rows() -> impl Strategy<Value = RecordBatch> {
    use arrow::array::*;
    fn some<T: std::fmt::Debug + 'static>(of: impl Strategy<Value = T> + 'static) -> BoxedStrategy<Vec<Option<T>>> {
        prop::collection::vec(prop::option::weighted(0.8, of), 4).boxed()
    }
    let micros = -9_000_000_000_000_000_000i64..9_000_000_000_000_000_000;
    let numeric = -(10i128.pow(38) - 1)..10i128.pow(38);
    let small = (
        some(any::<bool>()),
        some(any::<i16>()),
        some(any::<i32>()),
        some(any::<i64>()),
        some(any::<f32>()),
        some(any::<f64>()),
    );
    let large = (
        some(numeric),
        some(any::<String>()),
        some(any::<Vec<u8>>()),
        some(any::<i32>()),
        some(0..86_400_000_000i64),
        some(micros.clone()),
        some(micros),
        some(any::<String>()),
    );
    (small, large).prop_map(|((b, i2, i4, i8, f4, f8), (n, t, y, d, h, ts, tz, j))| {
        let columns: Vec<ArrayRef> = vec![
            Arc::new(BooleanArray::from(b)),
            Arc::new(Int16Array::from(i2)),
            Arc::new(Int32Array::from(i4)),
            Arc::new(Int64Array::from(i8)),
            Arc::new(Float32Array::from(f4)),
            Arc::new(Float64Array::from(f8)),
            Arc::new(Decimal128Array::from(n).with_precision_and_scale(38, 10).unwrap()),
            Arc::new(StringArray::from(t)),
            Arc::new(BinaryArray::from_iter(y)),
            Arc::new(Date32Array::from(d)),
            Arc::new(Time64MicrosecondArray::from(h)),
            Arc::new(TimestampMicrosecondArray::from(ts)),
            Arc::new(TimestampMicrosecondArray::from(tz).with_timezone("UTC")),
            Arc::new(StringArray::from(j)),
        ];
        RecordBatch::try_new(every_type(), columns).unwrap()
    })
}

fn round_trip(name: &str, batch: &RecordBatch) {
    let mut out = Vec::new();
    encoder(name, &every_type(), None, true).encode(1, &Delta::appended(batch.clone()), None, &mut out).unwrap();
    let decoded = decoder(name, &every_type(), &[]).decode(partition(), &stored(out)).unwrap();
    assert_eq!(decoded.ops, vec![RowOp::Insert; batch.num_rows()]);
    for (column, (there, back)) in batch.columns().iter().zip(decoded.rows.columns()).enumerate() {
        // NaN payloads are not kept, and NaN is not equal to itself.
        let same = match there.data_type() {
            DataType::Float64 => {
                let same = |(a, b): (Option<f64>, Option<f64>)| {
                    a == b || (a.is_some_and(f64::is_nan) && b.is_some_and(f64::is_nan))
                };
                there.as_primitive::<Float64Type>().iter().zip(back.as_primitive::<Float64Type>()).all(same)
            }
            DataType::Float32 => {
                let same = |(a, b): (Option<f32>, Option<f32>)| {
                    a == b || (a.is_some_and(f32::is_nan) && b.is_some_and(f32::is_nan))
                };
                there.as_primitive::<Float32Type>().iter().zip(back.as_primitive::<Float32Type>()).all(same)
            }
            _ => there == back,
        };
        assert!(same, "column {column} through {name}: {there:?} became {back:?}");
    }
}

proptest! {
    #[test]
    fn what_is_written_reads_back(batch in rows()) {
        round_trip("json", &batch);
        round_trip("debezium", &batch);
    }

    #[test]
    fn hostile_bytes_never_panic(key in any::<Vec<u8>>(), value in any::<Vec<u8>>(), json in r#"[{}\[\],:"a-z0-9\\ .]{0,80}"#) {
        for format in formats() {
            for columns in [&[][..], &[0]] {
                let schema = if format.name() == "raw" { schema(&[("key", DataType::Utf8)]) } else { every_type() };
                let decode = format.decode(Some(schema), columns, &BTreeMap::new()).unwrap();
                let mut record = records(&[(Some(&json), Some(&json))]);
                let _ = decode.decode(partition(), &record);
                record[0].key = Some(Bytes::from(key.clone()));
                record[0].value = Some(Bytes::from(value.clone()));
                record[0].headers = Bytes::from(value.clone());
                let _ = decode.decode(partition(), &record);
            }
        }
    }

    #[test]
    fn any_value_in_any_column_is_an_error_at_worst(column in 0usize..14, value in r#"(-?[0-9]{1,40}(\.[0-9]{1,20})?(e-?[0-9]{1,4})?|"[-0-9:TZ.+a-z=]{0,30}"|true|\[\]|\{\})"#) {
        let schema = every_type();
        let name = serde_json::to_string(schema.field(column).name()).unwrap();
        for text in [format!("{{{name}:{value}}}"), format!(r#"{{"op":"c","after":{{{name}:{value}}}}}"#)] {
            for format in ["json", "debezium"] {
                let _ = decoder(format, &schema, &[]).decode(partition(), &records(&[(None, Some(&text))]));
            }
        }
    }
}
