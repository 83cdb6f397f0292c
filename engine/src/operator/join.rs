//! [`Join`]: inner equi-join. Δ(L⋈R) = ΔL⋈R + L⋈ΔR + ΔL⋈ΔR, so that an epoch costs what changed times its matches.

use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{DataType, SchemaRef};

use super::{CHUNK_BYTES_MAX, CHUNK_ROWS_MAX, Context, Error, Exchange, Factory, Operator, Port, filter};
use crate::delta::Delta;
use crate::expr::ExprRef;
use crate::state::consolidate::{consolidate, take_rows, types, with_weights};
use crate::state::decoding::{decode, describe};
use crate::state::digest::{hash, shard};
use crate::state::encoding::{Encoded, supported, valid};
use crate::state::multimap::Multimap;
use crate::state::{Reader, Writer};
use crate::time::Epoch;

/// `left JOIN right ON left_keys = right_keys AND residual`. Port 0 is the left side, port 1 the right one.
#[derive(Clone, Debug)]
pub struct JoinSpec {
    /// As many as `right_keys`, of the same types, at least one. A null equals nothing.
    pub left_keys: Vec<ExprRef>,
    pub right_keys: Vec<ExprRef>,
    /// Of type boolean, over the joined row; false and null leave it out.
    pub residual: Option<ExprRef>,
    pub left: SchemaRef,
    pub right: SchemaRef,
    /// The columns of the left side, then those of the right one.
    pub schema: SchemaRef,
}

/// The operator's instance on one worker.
pub struct Join {
    spec: Arc<JoinSpec>,
    sides: [Side; 2],
}

struct Side {
    keys: Vec<ExprRef>,
    schema: SchemaRef,
    types: Vec<DataType>,
    rows: Multimap,
    gathered: Vec<Delta>,
}

/// A side's net change of an epoch.
struct Change {
    delta: Delta,
    keys: Encoded,
    rows: Encoded,
    /// Rows whose key holds no null.
    valid: Option<NullBuffer>,
}

const LEFT: usize = 0;
const RIGHT: usize = 1;

/// An error where the parts do not fit together.
pub fn factory(spec: JoinSpec) -> Result<Factory, Error> {
    let key_types = |keys: &[ExprRef]| keys.iter().map(|key| key.data_type()).collect::<Vec<_>>();
    let (left, right) = (key_types(&spec.left_keys), key_types(&spec.right_keys));
    if left.is_empty() || left != right {
        return Err(Error::Bug(format!("a join of the keys {left:?} with {right:?}")));
    }
    let columns = [types(&spec.left), types(&spec.right)].concat();
    if columns != types(&spec.schema) {
        return Err(Error::Bug(format!("a join of the columns {columns:?} under the schema {:?}", spec.schema)));
    }
    if let Some(other) = left.iter().chain(&columns).find(|data_type| !supported(data_type)) {
        return Err(Error::Bug(format!("the type {other} cannot be kept in state")));
    }
    let spec = Arc::new(spec);
    Ok(Arc::new(move || Box::new(Join::new(Arc::clone(&spec)))))
}

impl Join {
    fn new(spec: Arc<JoinSpec>) -> Self {
        let side = |keys: &[ExprRef], schema: &SchemaRef| Side {
            keys: keys.to_vec(),
            schema: SchemaRef::clone(schema),
            types: types(schema),
            rows: Multimap::default(),
            gathered: Vec::new(),
        };
        let sides = [side(&spec.left_keys, &spec.left), side(&spec.right_keys, &spec.right)];
        Self { spec, sides }
    }

    /// Joins the change of side `of` with the rows of the other side.
    fn probe(&self, of: usize, change: &Change, out: &mut Vec<Delta>) -> Result<u64, Error> {
        let other = &self.sides[1 - of];
        let mut pairs = Pairs::default();
        let mut touched = 0;
        for row in change.live() {
            let key = change.keys.get(row);
            let Some(matches) = other.rows.get(hash(key), key) else {
                continue;
            };
            touched += matches.len() as u64;
            for (matched, weight) in matches.iter() {
                let product = weight.checked_mul(change.delta.weight(row));
                let product = product.ok_or_else(|| self.sides[of].overflow(change.rows.get(row)))?;
                pairs.push(row as u32, change.rows.get(row).len(), matched, product);
                if pairs.is_full() {
                    out.extend(self.joined(of, &change.delta.rows, std::mem::take(&mut pairs))?);
                }
            }
        }
        out.extend(self.joined(of, &change.delta.rows, pairs)?);
        Ok(touched)
    }

    /// The joined rows of pairs for which the residual is true.
    fn joined(&self, of: usize, changed: &RecordBatch, pairs: Pairs<'_>) -> Result<Option<Delta>, Error> {
        if pairs.weights.is_empty() {
            return Ok(None);
        }
        let count = pairs.weights.len();
        let mut columns = take_rows(changed, pairs.changed)?.columns().to_vec();
        let matched = decode(&self.sides[1 - of].types, &pairs.matched, None)?;
        let place = if of == LEFT { columns.len() } else { 0 };
        columns.splice(place..place, matched);
        let options = RecordBatchOptions::new().with_row_count(Some(count));
        let rows = RecordBatch::try_new_with_options(SchemaRef::clone(&self.spec.schema), columns, &options)?;
        let delta = with_weights(rows, pairs.weights);
        let delta = match &self.spec.residual {
            Some(residual) => filter::keep(delta, residual)?,
            None => delta,
        };
        Ok(Some(delta).filter(|delta| !delta.is_empty()))
    }
}

impl Side {
    /// What was gathered, consolidated.
    fn change(&mut self) -> Result<Change, Error> {
        let gathered = std::mem::take(&mut self.gathered);
        let delta = consolidate(&self.schema, &gathered)?;
        drop(gathered);
        let keys = self.keys.iter().map(|key| key.evaluate(&delta.rows)).collect::<Result<Vec<_>, _>>()?;
        let rows = Encoded::rows(delta.rows.columns(), delta.len())?;
        Ok(Change { keys: Encoded::keys(&keys, delta.len())?, valid: valid(&keys), rows, delta })
    }

    fn apply(&mut self, change: &Change) -> Result<(), Error> {
        for row in change.live() {
            let (key, bytes) = (change.keys.get(row), change.rows.get(row));
            match self.rows.add(hash(key), key, bytes, change.delta.weight(row)) {
                Some(0..) => {}
                Some(_) => return Err(Error::NegativeWeight(describe(&self.types, bytes))),
                None => return Err(self.overflow(bytes)),
            }
        }
        Ok(())
    }

    fn overflow(&self, row: &[u8]) -> Error {
        Error::Overflow(format!("how often the row {} comes", describe(&self.types, row)), "bigint".to_owned())
    }
}

impl Change {
    /// Rows that can match anything.
    fn live(&self) -> impl Iterator<Item = usize> {
        (0..self.delta.len()).filter(|row| self.valid.as_ref().is_none_or(|valid| valid.is_valid(*row)))
    }
}

/// Pairs of a changed row and a row of the other side, until there are enough for a batch.
#[derive(Default)]
struct Pairs<'a> {
    changed: Vec<u32>,
    matched: Vec<&'a [u8]>,
    weights: Vec<i64>,
    bytes: usize,
}

impl<'a> Pairs<'a> {
    fn push(&mut self, changed: u32, changed_bytes: usize, matched: &'a [u8], weight: i64) {
        self.changed.push(changed);
        self.matched.push(matched);
        self.weights.push(weight);
        self.bytes += changed_bytes + matched.len();
    }

    fn is_full(&self) -> bool {
        self.weights.len() >= CHUNK_ROWS_MAX || self.bytes >= CHUNK_BYTES_MAX
    }
}

impl Operator for Join {
    fn name(&self) -> &'static str {
        "join"
    }

    fn exchange(&self, port: Port) -> Exchange {
        Exchange::Hash(self.sides[port.0].keys.clone())
    }

    fn on_delta(&mut self, port: Port, delta: Delta, _: &mut Context<'_>) -> Result<(), Error> {
        self.sides[port.0].gathered.push(delta);
        Ok(())
    }

    fn on_flush(&mut self, _: &Epoch, cx: &mut Context<'_>) -> Result<(), Error> {
        let left = self.sides[LEFT].change()?;
        let right = self.sides[RIGHT].change()?;
        let mut out = Vec::new();
        cx.rows_touched += self.probe(LEFT, &left, &mut out)?;
        self.sides[LEFT].apply(&left)?;
        cx.rows_touched += self.probe(RIGHT, &right, &mut out)?;
        self.sides[RIGHT].apply(&right)?;
        cx.rows_touched += (left.delta.len() + right.delta.len()) as u64;
        // Joined rows of one side's change are distinct; of both sides' changes they may cancel out.
        if left.delta.is_empty() || right.delta.is_empty() {
            out.into_iter().for_each(|delta| cx.emit(delta));
        } else {
            cx.emit(consolidate(&self.spec.schema, &out)?);
        }
        Ok(())
    }

    /// An entry a row: table 0 for the left side, 1 for the right one; key, then row; the key's length (4 bytes) and the
    /// count (8 bytes), big endian.
    fn save(&self, out: &mut dyn Writer) -> Result<(), Error> {
        for (table, side) in self.sides.iter().enumerate() {
            assert!(side.gathered.is_empty(), "state is saved between epochs");
            for (hash, key, row, count) in side.rows.iter() {
                let value = [&(key.len() as u32).to_be_bytes()[..], &count.to_be_bytes()[..]].concat();
                out.put(shard(hash), table as u8, &[key, row].concat(), &value)?;
            }
        }
        Ok(())
    }

    fn load(&mut self, from: &mut dyn Reader) -> Result<(), Error> {
        while let Some((_, table, entry, value)) = from.next()? {
            let damaged = || Error::Bug("a saved row of a join is damaged".to_owned());
            let side = self.sides.get_mut(usize::from(table)).ok_or_else(damaged)?;
            let (len, count) = value.split_first_chunk::<4>().ok_or_else(damaged)?;
            let count = i64::from_be_bytes(count.try_into().map_err(|_| damaged())?);
            let (key, row) = entry.split_at_checked(u32::from_be_bytes(*len) as usize).ok_or_else(damaged)?;
            side.rows.add(hash(key), key, row, count).filter(|count| *count > 0).ok_or_else(damaged)?;
        }
        Ok(())
    }

    fn state_bytes(&self) -> usize {
        self.sides.iter().map(|side| side.rows.bytes()).sum()
    }
}
