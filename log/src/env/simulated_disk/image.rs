//! The bytes of a file, in pages that copies share until one of them is written: a copy costs one reference count, and
//! holes cost nothing.

use std::sync::Arc;

/// The unit in which a disk gives out room.
pub(super) const PAGE_BYTES: usize = 4096;
/// The unit that a disk writes wholly or not at all.
pub(super) const SECTOR_BYTES: usize = 512;

type Page = [u8; PAGE_BYTES];

/// Bytes behind `len` are zero wherever a page holds them.
#[derive(Clone, Debug, Default)]
pub(super) struct Image {
    len: usize,
    /// A page that is missing, or `None`, is a hole: it reads as zeros and takes no room. Pages may lie behind `len`.
    pages: Arc<Vec<Option<Arc<Page>>>>,
}

impl Image {
    pub fn len(&self) -> usize {
        self.len
    }

    /// Fills `into` as far as the file goes; returns how far.
    pub fn read(&self, offset: usize, into: &mut [u8]) -> usize {
        let count = into.len().min(self.len.saturating_sub(offset));
        let mut done = 0;
        while done < count {
            let (page, inside) = ((offset + done) / PAGE_BYTES, (offset + done) % PAGE_BYTES);
            let part = (count - done).min(PAGE_BYTES - inside);
            match self.pages.get(page) {
                Some(Some(page)) => into[done..done + part].copy_from_slice(&page[inside..inside + part]),
                _ => into[done..done + part].fill(0),
            }
            done += part;
        }
        count
    }

    pub fn slice(&self, from: usize, to: usize) -> Vec<u8> {
        let mut bytes = vec![0; to.saturating_sub(from)];
        let count = self.read(from, &mut bytes);
        bytes.truncate(count);
        bytes
    }

    pub fn to_vec(&self) -> Vec<u8> {
        self.slice(0, self.len)
    }

    /// Writes, and extends where needed.
    pub fn write(&mut self, mut offset: usize, mut bytes: &[u8]) {
        let end = offset + bytes.len();
        self.extend(end);
        let pages = Arc::make_mut(&mut self.pages);
        if pages.len() < end.div_ceil(PAGE_BYTES) {
            pages.resize(end.div_ceil(PAGE_BYTES), None);
        }
        while !bytes.is_empty() {
            let inside = offset % PAGE_BYTES;
            let (now, later) = bytes.split_at(bytes.len().min(PAGE_BYTES - inside));
            let page = pages[offset / PAGE_BYTES].get_or_insert_with(|| Arc::new([0; PAGE_BYTES]));
            Arc::make_mut(page)[inside..inside + now.len()].copy_from_slice(now);
            offset += now.len();
            bytes = later;
        }
    }

    /// Makes the file at least so long; the new bytes are zeros and take no room.
    pub fn extend(&mut self, len: usize) {
        self.len = self.len.max(len);
    }

    /// Cuts or extends. A cut gives back the room behind it, as does one to the length the file has.
    pub fn set_len(&mut self, len: usize) {
        if len <= self.len {
            let pages = Arc::make_mut(&mut self.pages);
            pages.truncate(len.div_ceil(PAGE_BYTES));
            if let Some(Some(page)) = pages.get_mut(len / PAGE_BYTES) {
                Arc::make_mut(page)[len % PAGE_BYTES..].fill(0);
            }
        }
        self.len = len;
    }

    /// Takes room for the range; length and content stay.
    pub fn allocate(&mut self, from: usize, to: usize) {
        let pages = Arc::make_mut(&mut self.pages);
        if pages.len() < to.div_ceil(PAGE_BYTES) {
            pages.resize(to.div_ceil(PAGE_BYTES), None);
        }
        let zeros = Arc::new([0; PAGE_BYTES]);
        for page in &mut pages[from / PAGE_BYTES..to.div_ceil(PAGE_BYTES)] {
            page.get_or_insert_with(|| Arc::clone(&zeros));
        }
    }

    /// Becomes as `other`, from which it differs in nothing but the length and this range; the two share its pages.
    pub fn share(&mut self, from: usize, to: usize, other: &Image) {
        self.len = other.len;
        let pages = Arc::make_mut(&mut self.pages);
        if pages.len() < other.pages.len() {
            pages.resize(other.pages.len(), None);
        }
        let range = from / PAGE_BYTES..to.div_ceil(PAGE_BYTES);
        pages[range.clone()].clone_from_slice(&other.pages[range]);
    }

    /// The room it takes.
    pub fn pages(&self) -> u64 {
        self.pages.iter().flatten().count() as u64
    }

    /// How far from `from` towards `to` a write gets before it has filled `room` holes.
    pub fn reach(&self, from: usize, to: usize, room: u64) -> usize {
        let hole = |page: &usize| !matches!(self.pages.get(*page), Some(Some(_)));
        let mut holes = (from / PAGE_BYTES..to.div_ceil(PAGE_BYTES)).filter(hole);
        let room = usize::try_from(room).unwrap_or(usize::MAX);
        holes.nth(room).map_or(to, |full| from.max(full * PAGE_BYTES))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::simulated_disk::Seeded;

    /// Against a plain vector, with copies on the way that must not change.
    #[test]
    fn it_is_a_vector_of_bytes() {
        let mut random = Seeded(7);
        let (mut image, mut model) = (Image::default(), Vec::new());
        let mut copies = Vec::new();
        for step in 0..2000u64 {
            let (offset, len) = (random.below(20_000), random.below(9000));
            match random.below(8) {
                0 => {
                    image.set_len(offset);
                    model.resize(offset, 0);
                }
                1 => {
                    image.extend(offset);
                    model.resize(offset.max(model.len()), 0);
                }
                2 => image.allocate(offset, offset + len),
                3 => copies.push((image.clone(), model.clone())),
                _ => {
                    let bytes = vec![step as u8; len];
                    image.write(offset, &bytes);
                    model.resize(model.len().max(offset + len), 0);
                    model[offset..offset + len].copy_from_slice(&bytes);
                }
            }
            assert_eq!(image.len(), model.len());
            assert_eq!(
                image.slice(offset, offset + len),
                model[offset.min(model.len())..(offset + len).min(model.len())]
            );
        }
        assert_eq!(image.to_vec(), model);
        assert!(copies.iter().all(|(image, model)| image.to_vec() == *model));
    }

    #[test]
    fn room_is_taken_by_pages_that_are_written_or_reserved() {
        let mut image = Image::default();
        image.set_len(10 * PAGE_BYTES);
        assert_eq!(image.pages(), 0);
        image.write(PAGE_BYTES - 1, &[1; 2]);
        assert_eq!(image.pages(), 2);
        assert_eq!(image.reach(0, 5 * PAGE_BYTES, 3), 5 * PAGE_BYTES);
        assert_eq!(image.reach(100, 5 * PAGE_BYTES, 1), 3 * PAGE_BYTES);
        assert_eq!(image.reach(2 * PAGE_BYTES + 5, 5 * PAGE_BYTES, 0), 2 * PAGE_BYTES + 5);
        image.allocate(0, 12 * PAGE_BYTES);
        assert_eq!((image.pages(), image.len()), (12, 10 * PAGE_BYTES));
        image.set_len(10 * PAGE_BYTES);
        assert_eq!(image.pages(), 10);
    }
}
