//! [`Multimap`]: the rows of each key with their counts, for joins.

use super::groups::Groups;
use super::ordered::Ordered;

/// Encoded rows under encoded keys. Adding, taking away and finding the rows of a key cost the logarithm of the rows
/// under that key at most.
#[derive(Default)]
pub struct Multimap {
    keys: Groups,
    /// By slot of `keys`.
    rows: Vec<Ordered<Box<[u8]>>>,
    row_bytes: usize,
    row_count: usize,
}

/// Bytes a row takes besides its own: pointer, length, count, the allocator's share.
const ROW_OVERHEAD_BYTES: usize = 40;

impl Multimap {
    /// Adds `weight` to the count of a row; gives the new count, or nothing when it would overflow.
    pub fn add(&mut self, hash: u64, key: &[u8], row: &[u8], weight: i64) -> Option<i64> {
        let (slot, new) = self.keys.insert(hash, key);
        if new && self.rows.len() < self.keys.slots() {
            self.rows.push(Ordered::default());
        }
        let rows = &mut self.rows[slot as usize];
        let added = rows.add(row, weight, |row| row.into())?;
        match (added.before == 0, added.after == 0) {
            (true, false) => {
                self.row_bytes += row.len() + ROW_OVERHEAD_BYTES;
                self.row_count += 1;
            }
            (false, true) => {
                self.row_bytes -= row.len() + ROW_OVERHEAD_BYTES;
                self.row_count -= 1;
            }
            _ => {}
        }
        if rows.is_empty() {
            *rows = Ordered::default();
            self.keys.remove(slot);
        }
        Some(added.after)
    }

    /// The rows under a key, in order.
    pub fn get(&self, hash: u64, key: &[u8]) -> Option<&Ordered<Box<[u8]>>> {
        self.keys.slot(hash, key).map(|slot| &self.rows[slot as usize])
    }

    /// Every row: (hash of its key, key, row, count); keys and the rows of a key in order.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &[u8], &[u8], i64)> {
        self.keys.sorted().into_iter().flat_map(move |slot| {
            let rows = self.rows[slot as usize].iter();
            rows.map(move |(row, count)| (self.keys.hash(slot), self.keys.key(slot), &**row, count))
        })
    }

    /// Distinct rows.
    pub fn len(&self) -> usize {
        self.row_count
    }

    pub fn is_empty(&self) -> bool {
        self.row_count == 0
    }

    /// Bytes of memory, about.
    pub fn bytes(&self) -> usize {
        self.keys.bytes() + self.row_bytes + self.rows.capacity() * size_of::<Ordered<Box<[u8]>>>()
    }
}
