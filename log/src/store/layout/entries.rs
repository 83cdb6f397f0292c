//! Files that are nothing but entries of one size, each of which stands rightly behind the one before it.

use super::LayoutError;

pub(super) trait Entry: Sized {
    /// Bytes of an entry.
    const SIZE: usize;

    fn put(&self, out: &mut Vec<u8>);

    /// From exactly [`Entry::SIZE`] bytes.
    fn get(bytes: &[u8]) -> Result<Self, LayoutError>;

    /// What is wrong with this entry behind that one.
    fn fault(&self, previous: Option<&Self>) -> Option<&'static str>;
}

/// A file, or what is appended to one: the caller knows what stands before it.
pub(super) fn encode<T: Entry>(entries: &[T]) -> Vec<u8> {
    let mut out = Vec::with_capacity(entries.len() * T::SIZE);
    for (index, entry) in entries.iter().enumerate() {
        let previous = index.checked_sub(1).map(|before| &entries[before]);
        assert_eq!(entry.fault(previous), None, "only what can be read again is written");
        entry.put(&mut out);
    }
    assert_eq!(out.len(), entries.len() * T::SIZE, "an entry has its size");
    out
}

pub(super) fn decode<T: Entry>(bytes: &[u8]) -> Result<Vec<T>, LayoutError> {
    if !bytes.len().is_multiple_of(T::SIZE) {
        return Err(LayoutError::Length { len: bytes.len(), entry: T::SIZE });
    }
    let mut entries = Vec::with_capacity(bytes.len() / T::SIZE);
    for (index, chunk) in bytes.chunks_exact(T::SIZE).enumerate() {
        let entry = T::get(chunk)?;
        if let Some(reason) = entry.fault(entries.last()) {
            return Err(LayoutError::Entry { at: index * T::SIZE, reason });
        }
        entries.push(entry);
    }
    Ok(entries)
}
