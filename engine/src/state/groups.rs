//! [`Groups`]: keys to dense slots. Whoever keeps something a key keeps it in a vector by slot.

use hashbrown::HashTable;

/// A set of keys, each with a slot that is its own until it is removed. Slots are reused.
#[derive(Default)]
pub struct Groups {
    table: HashTable<u32>,
    entries: Vec<Entry>,
    free: Vec<u32>,
    key_bytes: usize,
}

struct Entry {
    hash: u64,
    key: Box<[u8]>,
}

impl Groups {
    /// Keys in the set.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// One more than the highest slot ever given: how long a vector by slot must be.
    pub fn slots(&self) -> usize {
        self.entries.len()
    }

    /// `hash` is [`super::hash`] of `key`, here and below.
    pub fn slot(&self, hash: u64, key: &[u8]) -> Option<u32> {
        let entries = &self.entries;
        self.table.find(hash, |slot| entries[*slot as usize].is(hash, key)).copied()
    }

    /// The slot of the key, and whether it is new. The key is copied only then.
    pub fn insert(&mut self, hash: u64, key: &[u8]) -> (u32, bool) {
        if let Some(slot) = self.slot(hash, key) {
            return (slot, false);
        }
        let entry = Entry { hash, key: key.into() };
        self.key_bytes += key.len();
        let slot = match self.free.pop() {
            Some(slot) => {
                self.entries[slot as usize] = entry;
                slot
            }
            None => {
                let slot =
                    u32::try_from(self.entries.len()).expect("memory ends before 4,294,967,296 keys of one state");
                self.entries.push(entry);
                slot
            }
        };
        let entries = &self.entries;
        self.table.insert_unique(hash, slot, |slot| entries[*slot as usize].hash);
        (slot, true)
    }

    /// Removes the key; its slot may be given to another one.
    pub fn remove(&mut self, slot: u32) {
        let entry = &mut self.entries[slot as usize];
        let found = self.table.find_entry(entry.hash, |other| *other == slot);
        found.expect("a slot in use is in the table").remove();
        self.key_bytes -= entry.key.len();
        entry.key = Box::default();
        self.free.push(slot);
    }

    pub fn key(&self, slot: u32) -> &[u8] {
        &self.entries[slot as usize].key
    }

    pub fn hash(&self, slot: u32) -> u64 {
        self.entries[slot as usize].hash
    }

    /// The slots in use, in the order of their keys: the same for equal sets, however they came to be.
    pub fn sorted(&self) -> Vec<u32> {
        let mut slots: Vec<u32> = self.table.iter().copied().collect();
        slots.sort_unstable_by(|a, b| self.key(*a).cmp(self.key(*b)));
        slots
    }

    pub fn iter(&self) -> impl Iterator<Item = u32> {
        self.table.iter().copied()
    }

    /// Removes all keys and gives the slots anew.
    pub fn clear(&mut self) {
        self.table.clear();
        self.entries.clear();
        self.free.clear();
        self.key_bytes = 0;
    }

    /// Bytes of memory, about.
    pub fn bytes(&self) -> usize {
        self.key_bytes
            + self.entries.capacity() * size_of::<Entry>()
            + self.free.capacity() * size_of::<u32>()
            + self.table.allocation_size()
    }
}

impl Entry {
    fn is(&self, hash: u64, key: &[u8]) -> bool {
        self.hash == hash && *self.key == *key
    }
}
