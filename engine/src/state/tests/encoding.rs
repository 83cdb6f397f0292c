//! The encoding: bytes fixed for ever, the order of the values, the way back, damage is an error.

use std::sync::Arc;

use arrow::array::*;
use arrow::datatypes::{DataType, TimeUnit};
use proptest::prelude::*;

use crate::state::decoding::{decode, describe, split};
use crate::state::digest::{Digest, hash, shard};
use crate::state::encoding::Encoded;

/// One row of every type, twice: values and nulls.
fn every_type() -> Vec<ArrayRef> {
    let decimal = Decimal128Array::from(vec![Some(-12_345), None]).with_precision_and_scale(38, 10).unwrap();
    vec![
        Arc::new(BooleanArray::from(vec![Some(true), None])),
        Arc::new(Int16Array::from(vec![Some(-2), None])),
        Arc::new(Int32Array::from(vec![Some(3), None])),
        Arc::new(Int64Array::from(vec![Some(i64::MIN), None])),
        Arc::new(Float32Array::from(vec![Some(1.5), None])),
        Arc::new(Float64Array::from(vec![Some(-1.5), None])),
        Arc::new(decimal),
        Arc::new(StringArray::from(vec![Some("a\0ü"), None])),
        Arc::new(BinaryArray::from_opt_vec(vec![Some(&[0, 0, 1]), None])),
        Arc::new(Date32Array::from(vec![Some(20_000), None])),
        Arc::new(Time64MicrosecondArray::from(vec![Some(1), None])),
        Arc::new(TimestampMicrosecondArray::from(vec![Some(-1), None])),
        Arc::new(TimestampMicrosecondArray::from(vec![Some(1), None]).with_timezone("UTC")),
    ]
}

fn types(columns: &[ArrayRef]) -> Vec<DataType> {
    columns.iter().map(|column| column.data_type().clone()).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// These bytes lie on disks. Whoever changes them breaks every saved state.
#[test]
fn fixture() {
    let rows = Encoded::rows(&every_type(), 2).unwrap();
    let expect = [
        "0101",
        "017ffe",
        "0180000003",
        "010000000000000000",
        "01bfc00000",
        "014007ffffffffffff",
        "017fffffffffffffffffffffffffffcfc7",
        "016100ffc3bc0001",
        "0100ff00ff010001",
        "0180004e20",
        "018000000000000001",
        "017fffffffffffffff",
        "018000000000000001",
    ];
    assert_eq!(hex(rows.get(0)), expect.concat());
    assert_eq!(hex(rows.get(1)), "02".repeat(13));
    let key = Encoded::keys(&[Arc::new(Int64Array::from(vec![7])) as ArrayRef], 1).unwrap();
    assert_eq!((hash(key.get(0)), shard(hash(key.get(0)))), (8_188_875_023_264_101_955, 186));
    let delta = crate::Delta::appended(RecordBatch::try_from_iter([("a", every_type().swap_remove(3))]).unwrap());
    assert_eq!(Digest::of(&delta).unwrap().0, 294_976_509_318_514_762_077_782_364_323_658_254_261);
}

#[test]
fn decodes_what_it_encoded() {
    let columns = every_type();
    let types = types(&columns);
    let rows = Encoded::rows(&columns, 2).unwrap();
    let rows: Vec<&[u8]> = rows.iter().collect();
    assert_eq!(decode(&types, &rows, None).unwrap(), columns);
    let picked = decode(&types, &rows, Some(&[7, 0, 7])).unwrap();
    assert_eq!(picked, [7, 0, 7].map(|index| Arc::clone(&columns[index])));
    assert!(decode(&types, &rows, Some(&[])).unwrap().is_empty());
    assert_eq!(split(&types, rows[0]).unwrap().concat(), rows[0]);
    assert_eq!(describe(&types[..3], &rows[0][..10]), "(true, -2, 3)");
}

#[test]
fn equal_keys_have_equal_bytes() {
    let floats = |value| Encoded::keys(&[Arc::new(Float64Array::from(vec![value])) as ArrayRef], 1).unwrap();
    assert_eq!(floats(0.0).get(0), floats(-0.0).get(0));
    assert_eq!(floats(f64::NAN).get(0), floats(-f64::NAN).get(0));
    assert!(floats(f64::INFINITY).get(0) < floats(f64::NAN).get(0));
}

#[test]
fn a_type_that_is_not_known_is_an_error() {
    let lists: ArrayRef = Arc::new(TimestampSecondArray::from(vec![1]));
    assert!(Encoded::rows(&[lists], 1).is_err());
}

proptest! {
    #[test]
    fn strings_keep_their_order(a in ".{0,6}|[\0\u{1}\u{7f}]{0,5}", b in ".{0,6}|[\0\u{1}\u{7f}]{0,5}") {
        let rows = Encoded::rows(&[Arc::new(StringArray::from(vec![a.as_str(), b.as_str()])) as ArrayRef], 2).unwrap();
        prop_assert_eq!(a.as_bytes().cmp(b.as_bytes()), rows.get(0).cmp(rows.get(1)));
        let back = decode(&[DataType::Utf8], &[rows.get(0)], None).unwrap();
        prop_assert_eq!(back[0].as_string::<i32>().value(0), a.as_str());
    }

    #[test]
    fn numbers_keep_their_order(
        a in any::<(i16, i32, i64)>(), b in any::<(i16, i32, i64)>(), c in any::<i128>(), d in any::<i128>(),
        e in any::<f64>(), f in any::<f64>(),
    ) {
        let check = |array: ArrayRef, order| {
            let rows = Encoded::rows(&[array], 2).unwrap();
            assert_eq!(order, rows.get(0).cmp(rows.get(1)));
        };
        check(Arc::new(Int16Array::from(vec![a.0, b.0])), a.0.cmp(&b.0));
        check(Arc::new(Int32Array::from(vec![a.1, b.1])), a.1.cmp(&b.1));
        check(Arc::new(Int64Array::from(vec![a.2, b.2])), a.2.cmp(&b.2));
        check(Arc::new(Decimal128Array::from(vec![c, d])), c.cmp(&d));
        check(Arc::new(Float64Array::from(vec![e, f])), e.total_cmp(&f));
        check(Arc::new(Float32Array::from(vec![e as f32, f as f32])), (e as f32).total_cmp(&(f as f32)));
    }

    /// Whatever lies on disk: an error or rows, never a panic.
    #[test]
    fn damage_is_an_error(mut bytes in proptest::collection::vec(prop_oneof![0u8..3, any::<u8>()], 0..40), cut in 0usize..100) {
        let types = types(&every_type());
        let _ = decode(&types, &[&bytes], None);
        let whole = Encoded::rows(&every_type(), 2).unwrap();
        let cut = cut % whole.get(0).len();
        prop_assert!(decode(&types, &[&whole.get(0)[..cut]], None).is_err());
        bytes.splice(..0, whole.get(0).iter().copied());
        prop_assert!(bytes.len() == whole.get(0).len() || decode(&types, &[&bytes], None).is_err());
    }

    /// The digest does not see order or chunks, only what the weights add up to.
    #[test]
    fn digests_add_up(rows in proptest::collection::vec((0i64..4, -3i64..4), 0..20), at in 0usize..20) {
        let delta = |rows: &[(i64, i64)]| {
            let column: ArrayRef = Arc::new(rows.iter().map(|row| Some(row.0)).collect::<Int64Array>());
            let weights = rows.iter().map(|row| Some(row.1)).collect();
            crate::Delta::weighted(RecordBatch::try_from_iter([("a", column)]).unwrap(), weights)
        };
        let (left, right) = rows.split_at(at.min(rows.len()));
        let mut parts = Digest::of(&delta(right)).unwrap();
        parts.merge(Digest::of(&delta(left)).unwrap());
        let whole = delta(&rows);
        prop_assert_eq!(Digest::of(&whole).unwrap(), parts);
        let net = crate::state::consolidate::consolidate(&whole.rows.schema(), &[delta(left), delta(right)]).unwrap();
        prop_assert_eq!(Digest::of(&net).unwrap(), parts);
        let mut values: Vec<i64> = net.rows.column(0).as_primitive::<arrow::datatypes::Int64Type>().values().to_vec();
        values.sort_unstable();
        let distinct = values.windows(2).all(|pair| pair[0] != pair[1]);
        prop_assert!(distinct && (0..net.len()).all(|row| net.weight(row) != 0));
    }
}

#[test]
fn every_supported_type_is_encoded() {
    for column in every_type() {
        assert!(crate::state::encoding::supported(column.data_type()), "{}", column.data_type());
    }
    assert!(!crate::state::encoding::supported(&DataType::Timestamp(TimeUnit::Second, None)));
}
