//! [`consolidate`]: many changes to one, each distinct row once with its net weight.

use arrow::array::{Int64Array, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow::compute::{concat_batches, take};
use arrow::datatypes::SchemaRef;
use hashbrown::HashTable;

use super::decoding::{decode, describe};
use super::digest::hash;
use super::encoding::Encoded;
use crate::delta::Delta;
use crate::error::Error;

/// The net change: each distinct row once, in the order of its first appearance, without the rows that cancel out.
/// The weights are absent when every row is +1. The deltas have `schema`, but for names and nullability.
pub fn consolidate(schema: &SchemaRef, deltas: &[Delta]) -> Result<Delta, Error> {
    let rows = concat(schema, deltas)?;
    let count = u32::try_from(rows.num_rows());
    let count = count.map_err(|_| Error::Value("more than 4,294,967,295 rows change in one epoch".to_owned()))?;
    let encoded = Encoded::rows(rows.columns(), rows.num_rows())?;
    let mut first_of = HashTable::<(u64, u32)>::with_capacity(rows.num_rows());
    let mut kept: Vec<u32> = Vec::with_capacity(rows.num_rows());
    let mut net: Vec<i64> = Vec::with_capacity(rows.num_rows());
    let weights = deltas.iter().flat_map(|delta| (0..delta.len()).map(|row| delta.weight(row)));
    for (row, weight) in (0..count).zip(weights) {
        let bytes = encoded.get(row as usize);
        let hash = hash(bytes);
        let same = |place: &(u64, u32)| place.0 == hash && encoded.get(kept[place.1 as usize] as usize) == bytes;
        if let Some((_, place)) = first_of.find(hash, same) {
            let sum = &mut net[*place as usize];
            *sum = sum.checked_add(weight).ok_or_else(|| overflow(&rows, bytes))?;
        } else {
            let place = kept.len() as u32;
            first_of.insert_unique(hash, (hash, place), |place| place.0);
            kept.push(row);
            net.push(weight);
        }
    }
    pick(rows, kept, net)
}

fn overflow(rows: &RecordBatch, row: &[u8]) -> Error {
    Error::Overflow(format!("how often the row {} comes", describe(&types(&rows.schema()), row)), "bigint".to_owned())
}

/// The rows of `kept`, without those whose weight is 0.
fn pick(rows: RecordBatch, mut kept: Vec<u32>, mut net: Vec<i64>) -> Result<Delta, Error> {
    if net.contains(&0) {
        let mut weights = net.iter();
        kept.retain(|_| weights.next().is_some_and(|weight| *weight != 0));
        net.retain(|weight| *weight != 0);
    }
    let rows = match kept.len() == rows.num_rows() {
        true => rows,
        false => take_rows(&rows, kept)?,
    };
    Ok(with_weights(rows, net))
}

/// These rows of a batch; one without columns too.
pub(crate) fn take_rows(rows: &RecordBatch, indices: Vec<u32>) -> Result<RecordBatch, Error> {
    let options = RecordBatchOptions::new().with_row_count(Some(indices.len()));
    let indices = UInt32Array::from(indices);
    let columns = rows.columns().iter().map(|column| take(column, &indices, None)).collect::<Result<_, _>>()?;
    Ok(RecordBatch::try_new_with_options(rows.schema(), columns, &options)?)
}

/// A delta without weights when every one is 1.
pub(crate) fn with_weights(rows: RecordBatch, weights: Vec<i64>) -> Delta {
    if weights.iter().all(|weight| *weight == 1) {
        Delta::appended(rows)
    } else {
        Delta::weighted(rows, Int64Array::from(weights))
    }
}

/// The rows of all deltas behind one another, under `schema`.
fn concat(schema: &SchemaRef, deltas: &[Delta]) -> Result<RecordBatch, Error> {
    match deltas {
        [] => Ok(RecordBatch::new_empty(schema.clone())),
        [one] => under(schema, &one.rows),
        many => {
            let batches = many.iter().map(|delta| under(schema, &delta.rows)).collect::<Result<Vec<_>, _>>()?;
            Ok(concat_batches(schema, &batches)?)
        }
    }
}

/// The same columns under another schema of equal types (names, nullability and metadata may differ).
pub(crate) fn under(schema: &SchemaRef, rows: &RecordBatch) -> Result<RecordBatch, Error> {
    let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
    Ok(RecordBatch::try_new_with_options(schema.clone(), rows.columns().to_vec(), &options)?)
}

/// A batch of encoded rows.
pub(crate) fn to_batch(schema: &SchemaRef, rows: &[&[u8]]) -> Result<RecordBatch, Error> {
    let columns = decode(&types(schema), rows, None)?;
    let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
    Ok(RecordBatch::try_new_with_options(schema.clone(), columns, &options)?)
}

pub(crate) fn types(schema: &SchemaRef) -> Vec<arrow::datatypes::DataType> {
    schema.fields().iter().map(|field| field.data_type().clone()).collect()
}
