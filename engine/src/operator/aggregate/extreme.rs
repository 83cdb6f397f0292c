//! `min` and `max`: the values of each group in order with their counts, so that any of them may go.

use arrow::array::ArrayRef;
use arrow::datatypes::DataType;

use super::take;
use crate::error::Error;
use crate::expr::Accumulator;
use crate::state::decoding::decode;
use crate::state::encoding::{self, Encoded};
use crate::state::ordered::{Added, Ordered};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Min,
    Max,
}

pub(super) struct Extremes {
    end: End,
    data_type: DataType,
    /// Rows never go: the extreme value alone is kept.
    append_only: bool,
    values: Values,
    /// By slot: values that are there less often than never.
    negative: Vec<u32>,
    value_bytes: usize,
}

/// By slot. The order of the encoded values is that of the values.
enum Values {
    /// Encodings of a fixed width of at most 16 bytes, as big-endian numbers.
    Fixed(Vec<Ordered<u128>>, usize),
    Strings(Vec<Ordered<Box<[u8]>>>),
}

/// Bytes a value takes besides its own: count, pointer and length, the allocator's share.
const VALUE_OVERHEAD_BYTES: usize = 32;

impl Extremes {
    pub(super) fn new(end: End, data_type: DataType, append_only: bool) -> Self {
        let values = match encoding::width(&data_type) {
            Some(width) => Values::Fixed(Vec::new(), width),
            None => Values::Strings(Vec::new()),
        };
        Self { end, data_type, append_only, values, negative: Vec::new(), value_bytes: 0 }
    }

    /// `value` is encoded, without the mark that it is not null.
    fn add(&mut self, slot: usize, value: &[u8], weight: i64) -> Result<(), Error> {
        let end = if self.append_only && weight > 0 { Some(self.end) } else { None };
        let added = match &mut self.values {
            Values::Fixed(values, _) => add_to(&mut values[slot], &number(value), weight, end, |value| *value),
            Values::Strings(values) => add_to(&mut values[slot], value, weight, end, |value| value.into()),
        };
        let added = added.ok_or_else(|| Error::Overflow("the count of a value".to_owned(), "bigint".to_owned()))?;
        match (added.before < 0, added.after < 0) {
            (false, true) => self.negative[slot] += 1,
            (true, false) => self.negative[slot] -= 1,
            _ => {}
        }
        match (added.before == 0, added.after == 0) {
            (true, false) => self.value_bytes += value.len() + VALUE_OVERHEAD_BYTES,
            (false, true) => self.value_bytes -= value.len() + VALUE_OVERHEAD_BYTES,
            _ => {}
        }
        Ok(())
    }

    /// Calls `see` with every value of a slot, in order, and its count.
    fn each(&self, slot: usize, mut see: impl FnMut(&[u8], i64)) {
        match &self.values {
            Values::Fixed(values, width) => {
                values[slot].iter().for_each(|(value, count)| see(&value.to_be_bytes()[16 - width..], count));
            }
            Values::Strings(values) => values[slot].iter().for_each(|(value, count)| see(value, count)),
        }
    }

    fn len(&self, slot: usize) -> usize {
        match &self.values {
            Values::Fixed(values, _) => values[slot].len(),
            Values::Strings(values) => values[slot].len(),
        }
    }
}

/// Adds to a multiset; with `end`, only the value at that end stays in it.
fn add_to<K, Q>(
    values: &mut Ordered<K>,
    value: &Q,
    weight: i64,
    end: Option<End>,
    own: impl FnOnce(&Q) -> K,
) -> Option<Added>
where
    K: Ord + std::borrow::Borrow<Q>,
    Q: Ord + ?Sized,
{
    let Some(end) = end else {
        return values.add(value, weight, own);
    };
    let best = if end == End::Min { values.first() } else { values.last() };
    let better = best.is_none_or(|best| match end {
        End::Min => value < best.borrow(),
        End::Max => value > best.borrow(),
    });
    // The bytes of a value that is replaced stay counted at the size of the first; one value a group.
    let before = i64::from(best.is_some());
    if better {
        *values = Ordered::default();
        values.add(value, 1, own)?;
    }
    Some(Added { before, after: 1 })
}

fn number(value: &[u8]) -> u128 {
    value.iter().fold(0, |number, byte| number << 8 | u128::from(*byte))
}

impl Accumulator for Extremes {
    fn grow(&mut self, slots: usize) {
        match &mut self.values {
            Values::Fixed(values, _) => values.resize_with(slots, Ordered::default),
            Values::Strings(values) => values.resize_with(slots, Ordered::default),
        }
        self.negative.resize(slots, 0);
    }

    fn update(&mut self, values: Option<&ArrayRef>, slots: &[u32], weights: &[i64]) -> Result<(), Error> {
        let values = values.ok_or_else(|| Error::Bug("an extreme of nothing".to_owned()))?;
        let encoded = Encoded::keys(std::slice::from_ref(values), values.len())?;
        for (value, (slot, weight)) in encoded.iter().zip(slots.iter().zip(weights)) {
            if let Some((&encoding::VALUE, value)) = value.split_first()
                && *weight != 0
            {
                self.add(*slot as usize, value, *weight)?;
            }
        }
        Ok(())
    }

    fn results(&self, slots: &[u32]) -> Result<ArrayRef, Error> {
        let mut encoded = Encoded::default();
        let mut row = Vec::new();
        for slot in slots {
            row.clear();
            let slot = *slot as usize;
            let found = match &self.values {
                Values::Fixed(values, width) => {
                    let value = if self.end == End::Min { values[slot].first() } else { values[slot].last() };
                    value.map(|value| row.extend_from_slice(&value.to_be_bytes()[16 - width..]))
                }
                Values::Strings(values) => {
                    let value = if self.end == End::Min { values[slot].first() } else { values[slot].last() };
                    value.map(|value| row.extend_from_slice(value))
                }
            };
            row.insert(0, if found.is_some() { encoding::VALUE } else { encoding::NULL });
            encoded.push(&row);
        }
        let rows: Vec<&[u8]> = encoded.iter().collect();
        Ok(decode(std::slice::from_ref(&self.data_type), &rows, None)?.swap_remove(0))
    }

    fn sound(&self, slot: u32, empty: bool) -> bool {
        self.negative[slot as usize] == 0 && !(empty && self.len(slot as usize) > 0)
    }

    fn clear(&mut self, slot: u32) {
        let slot = slot as usize;
        let mut bytes = 0;
        self.each(slot, |value, _| bytes += value.len() + VALUE_OVERHEAD_BYTES);
        self.value_bytes -= bytes;
        match &mut self.values {
            Values::Fixed(values, _) => values[slot] = Ordered::default(),
            Values::Strings(values) => values[slot] = Ordered::default(),
        }
        self.negative[slot] = 0;
    }

    /// Layout: how many; then each value's length, bytes and count; integers big endian.
    fn save(&self, slot: u32, out: &mut Vec<u8>) {
        out.extend_from_slice(&(self.len(slot as usize) as u64).to_be_bytes());
        self.each(slot as usize, |value, count| {
            out.extend_from_slice(&(value.len() as u64).to_be_bytes());
            out.extend_from_slice(value);
            out.extend_from_slice(&count.to_be_bytes());
        });
    }

    fn load(&mut self, slot: u32, from: &mut &[u8]) -> Result<(), Error> {
        for _ in 0..u64::from_be_bytes(take(from)?) {
            let len = u64::from_be_bytes(take(from)?);
            let split = usize::try_from(len).ok().and_then(|len| from.split_at_checked(len));
            let (value, rest) = split.ok_or_else(|| Error::Bug("a saved value is cut off".to_owned()))?;
            *from = rest;
            self.add(slot as usize, value, i64::from_be_bytes(take(from)?))?;
        }
        Ok(())
    }

    fn merge(&mut self, slot: u32, from: &mut &[u8]) -> Result<(), Error> {
        self.load(slot, from)
    }

    fn bytes(&self) -> usize {
        let slot = size_of::<Ordered<u128>>() + size_of::<u32>();
        self.value_bytes + self.negative.capacity() * slot
    }
}
