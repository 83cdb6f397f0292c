//! Every type and its boundary values: the row of the snapshot is the row of the stream, byte for byte.

use super::*;

/// (type, values as SQL literals, expected JSON where it matters).
const COLUMNS: &[(&str, &[(&str, &str)])] = &[
    ("boolean", &[("true", "true"), ("false", "false")]),
    ("smallint", &[("-32768", "-32768"), ("32767", "32767")]),
    ("integer", &[("-2147483648", "-2147483648"), ("0", "0")]),
    ("bigint", &[("-9223372036854775808", "-9223372036854775808"), ("9223372036854775807", "9223372036854775807")]),
    (
        "real",
        &[
            ("'3.4028235e38'", "3.4028235e+38"),
            ("'1e-45'", "1e-45"),
            ("'NaN'", "\"NaN\""),
            ("'-0'", "-0"),
            ("0.1", "0.1"),
        ],
    ),
    (
        "double precision",
        &[
            ("'1.7976931348623157e308'", "1.7976931348623157e+308"),
            ("'5e-324'", "5e-324"),
            ("'-Infinity'", "\"-Infinity\""),
            ("'Infinity'", "\"Infinity\""),
            ("0.1::float8 + 0.2::float8", "0.30000000000000004"),
        ],
    ),
    (
        "numeric",
        &[("'NaN'", "\"NaN\""), ("'1e40'", "\"10000000000000000000000000000000000000000\""), ("0.000", "\"0.000\"")],
    ),
    ("numeric(10,2)", &[("-12345678.9", "\"-12345678.90\""), ("0", "\"0.00\"")]),
    (
        "text",
        &[
            ("''", "\"\""),
            ("E'a\\tb\\nc\\\\d\\re\"\\b\\f\\x01'", r#""a\tb\nc\\d\re\"\u0008\u000c\u0001""#),
            ("'\\N'", r#""\\N""#),
            ("'été 💧 \u{2028}'", "\"été 💧 \u{2028}\""),
        ],
    ),
    ("varchar(5)", &[("'abc'", "\"abc\"")]),
    ("char(5)", &[("'abc'", "\"abc  \"")]),
    ("name", &[("'n'", "\"n\"")]),
    ("bytea", &[("''", "\"\""), ("'\\x00ff10'", "\"AP8Q\""), ("'\\x5c0a09'", "\"XAoJ\"")]),
    ("uuid", &[("'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'", "\"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11\"")]),
    (
        "date",
        &[
            ("'1970-01-02'", "1"),
            ("'0001-01-01'", "-719162"),
            ("'5874897-12-31'", "2145042905"),
            ("'infinity'", "\"infinity\""),
            ("'-infinity'", "\"-infinity\""),
            ("'0044-03-15 BC'", "\"0044-03-15 BC\""),
        ],
    ),
    ("time", &[("'00:00:00'", "0"), ("'24:00:00'", "86400000000"), ("'04:05:06.789'", "14706789000")]),
    ("time(0)", &[("'23:59:58'", "86398000000")]),
    (
        "timestamp",
        &[
            ("'1970-01-01 00:00:00.000001'", "1"),
            ("'1969-12-31 23:59:59.999999'", "-1"),
            ("'294276-12-31 23:59:59.999999'", "\"294276-12-31 23:59:59.999999\""),
            ("'-infinity'", "\"-infinity\""),
            ("'4713-01-01 00:00:00 BC'", "\"4713-01-01 00:00:00 BC\""),
        ],
    ),
    (
        "timestamptz",
        &[
            ("'2024-02-29 12:00:00.5+05:30'", "\"2024-02-29T06:30:00.500000Z\""),
            ("'0001-01-01 00:00:00+00'", "\"0001-01-01T00:00:00.000000Z\""),
            ("'9999-12-31 23:59:59.999999+00'", "\"9999-12-31T23:59:59.999999Z\""),
            ("'10000-01-01 00:00:00+00'", "\"10000-01-01 00:00:00+00\""),
            ("'infinity'", "\"infinity\""),
        ],
    ),
    ("json", &[("'{\"b\": 1,  \"b\":2}'", r#""{\"b\": 1,  \"b\":2}""#)]),
    ("jsonb", &[("'{\"b\": 1,  \"b\":2}'", r#""{\"b\": 2}""#)]),
    ("interval", &[("'1 year 2 mons 3 days 04:05:06.78'", "\"1 year 2 mons 3 days 04:05:06.78\"")]),
    ("oid", &[("4294967295", "\"4294967295\"")]),
    ("int[]", &[("'{{1,NULL},{3,4}}'", "\"{{1,NULL},{3,4}}\""), ("'{}'", "\"{}\"")]),
    ("text[]", &[("ARRAY['a\tb', 'c\"d', NULL]", "\"{\\\"a\\tb\\\",\\\"c\\\\\\\"d\\\",NULL}\"")]),
    ("mood", &[("'so, so'", "\"so, so\"")]),
    ("price", &[("12.5", "\"12.500\"")]),
    ("pair", &[("ROW(1, 'x y')", "\"(1,\\\"x y\\\")\"")]),
    ("int4range", &[("'[1,5)'", "\"[1,5)\"")]),
    ("inet", &[("'10.0.0.1/8'", "\"10.0.0.1/8\"")]),
    ("bit(3)", &[("B'101'", "\"101\"")]),
    ("timetz", &[("'04:05:06+05:30'", "\"04:05:06+05:30\"")]),
    ("point", &[("'(0.1,2)'", "\"(0.1,2)\"")]),
    ("tsvector", &[("'a b'", "\"'a' 'b'\"")]),
    ("xml", &[("'<a>&lt;</a>'", "\"<a>&lt;</a>\"")]),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn snapshot_row_is_stream_row() {
    let types = "CREATE TYPE mood AS ENUM ('sad', 'so, so'); CREATE DOMAIN price0 AS numeric(8,3);
                 CREATE DOMAIN price AS price0; CREATE TYPE pair AS (a int, b text);";
    let names: Vec<String> = (0..COLUMNS.len()).map(|at| format!("\"c{at} \"\"\\é\"")).collect();
    let declared: Vec<String> = COLUMNS.iter().zip(&names).map(|((kind, _), name)| format!("{name} {kind}")).collect();
    let table = format!(
        "CREATE TABLE v (id int PRIMARY KEY, {}, doubled int GENERATED ALWAYS AS (id * 2) STORED)",
        declared.join(", ")
    );
    let (server, client) = setup("vals", &format!("{types} {table}")).await;
    // Row n holds every type's n-th value, and null where it has none; the last holds nothing but nulls.
    let count = 1 + COLUMNS.iter().map(|(_, values)| values.len()).max().unwrap();
    let mut inserts = String::new();
    for row in 0..count {
        let literal = |(_, values): &(&str, &[(&'static str, &str)])| values.get(row).map_or("NULL", |(sql, _)| sql);
        let values: Vec<&str> = COLUMNS.iter().map(literal).collect();
        inserts.push_str(&format!("INSERT INTO v (id, {}) VALUES ({row}, {});", names.join(", "), values.join(", ")));
    }
    client.batch_execute(&inserts).await.unwrap();

    let mut capture = Capture::snapshot("vals", server.options("vals", &[])).await;
    let from = capture.log.len();
    assert_eq!(from, count);
    client.batch_execute(&format!("DELETE FROM v; {inserts}")).await.unwrap();
    capture.settle(&client).await.unwrap();
    let created: Vec<usize> =
        (from..capture.log.len()).filter(|at| text(&capture, *at).contains("\"op\":\"c\"")).collect();
    assert_eq!(created.len(), count);
    for (row, streamed) in created.into_iter().enumerate() {
        let (snapshot, stream) = (after(&text(&capture, row)), after(&text(&capture, streamed)));
        assert_eq!(snapshot, stream, "row {row}");
        for (at, (kind, values)) in COLUMNS.iter().enumerate() {
            let expect = values.get(row).map_or("null", |(_, expect)| expect);
            let field = format!(",\"c{at} \\\"\\\\é\":{expect}");
            assert!(stream.contains(&field), "row {row}: {kind} is not {expect} in {stream}");
        }
        assert!(!stream.contains("doubled"));
        serde_json::from_str::<Json>(&stream).unwrap();
    }
    capture.source.remove().await.unwrap();
}

fn text(capture: &Capture, at: usize) -> String {
    String::from_utf8(capture.log[at].1.value.as_ref().map_or(Vec::new(), |value| value.to_vec())).unwrap()
}

/// The text of the `after` image.
fn after(envelope: &str) -> String {
    let from = envelope.find("\"after\":").unwrap() + 8;
    envelope[from..envelope.rfind(",\"source\":").unwrap()].to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn text_that_is_not_utf8_stops_the_source_and_is_named() {
    let server = Server::shared();
    let admin = server.client("postgres").await;
    admin.batch_execute("DROP DATABASE IF EXISTS ascii").await.unwrap();
    admin.batch_execute("CREATE DATABASE ascii ENCODING 'SQL_ASCII' TEMPLATE template0").await.unwrap();
    let client = server.client("ascii").await;
    client.batch_execute("CREATE TABLE t (id int PRIMARY KEY, name text); INSERT INTO t VALUES (1, convert_from('\\xff', 'SQL_ASCII'))").await.unwrap();
    let mut capture = Capture::start("ascii", server.options("ascii", &[])).await;
    let error = message(&capture.step().await.unwrap_err());
    assert_says(&error, &["user:", "public.t", "22021", "UTF8"]);
    capture.source.remove().await.unwrap();
}
