//! [`Ordered`]: an ordered multiset with signed counts, small while it is small.

use std::borrow::Borrow;
use std::collections::BTreeMap;

/// Values and how often each is there. During an epoch a count may be negative: what takes a row away can come before
/// what brought it. A value whose count is 0 is not there.
#[derive(Clone, Debug)]
pub enum Ordered<K> {
    /// Sorted; at most [`FEW_MAX`]: a vector is smaller than a tree and as fast up to there.
    Few(Vec<(K, i64)>),
    Many(BTreeMap<K, i64>),
}

/// Where the vector becomes a tree. A tree does not become a vector again.
const FEW_MAX: usize = 16;

impl<K> Default for Ordered<K> {
    fn default() -> Self {
        Self::Few(Vec::new())
    }
}

/// What [`Ordered::add`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Added {
    /// Count before and now.
    pub before: i64,
    pub after: i64,
}

impl<K: Ord> Ordered<K> {
    /// Adds `weight` to the count of `key`; `own` makes the key to keep. `None`: the count would overflow.
    pub fn add<Q>(&mut self, key: &Q, weight: i64, own: impl FnOnce(&Q) -> K) -> Option<Added>
    where
        K: Borrow<Q>,
        Q: Ord + ?Sized,
    {
        let before = self.get(key);
        let after = before.checked_add(weight)?;
        match self {
            Self::Few(few) => {
                let place = few.binary_search_by(|(other, _)| other.borrow().cmp(key));
                match place {
                    Ok(at) if after == 0 => {
                        few.remove(at);
                    }
                    Ok(at) => few[at].1 = after,
                    Err(_) if after == 0 => {}
                    Err(at) => few.insert(at, (own(key), after)),
                }
                if few.len() > FEW_MAX {
                    *self = Self::Many(std::mem::take(few).into_iter().collect());
                }
            }
            Self::Many(many) => match many.get_mut(key) {
                Some(_) if after == 0 => {
                    many.remove(key);
                }
                Some(count) => *count = after,
                None if after == 0 => {}
                None => {
                    many.insert(own(key), after);
                }
            },
        }
        Some(Added { before, after })
    }

    /// How often `key` is there.
    pub fn get<Q>(&self, key: &Q) -> i64
    where
        K: Borrow<Q>,
        Q: Ord + ?Sized,
    {
        match self {
            Self::Few(few) => few.binary_search_by(|(k, _)| k.borrow().cmp(key)).map_or(0, |at| few[at].1),
            Self::Many(many) => many.get(key).copied().unwrap_or(0),
        }
    }

    pub fn first(&self) -> Option<&K> {
        match self {
            Self::Few(few) => few.first().map(|(key, _)| key),
            Self::Many(many) => many.first_key_value().map(|(key, _)| key),
        }
    }

    pub fn last(&self) -> Option<&K> {
        match self {
            Self::Few(few) => few.last().map(|(key, _)| key),
            Self::Many(many) => many.last_key_value().map(|(key, _)| key),
        }
    }

    /// In order, with the counts.
    pub fn iter(&self) -> impl Iterator<Item = (&K, i64)> {
        let (few, many) = match self {
            Self::Few(few) => (Some(few.iter().map(|(key, count)| (key, *count))), None),
            Self::Many(many) => (None, Some(many.iter().map(|(key, count)| (key, *count)))),
        };
        few.into_iter().flatten().chain(many.into_iter().flatten())
    }

    /// Distinct values.
    pub fn len(&self) -> usize {
        match self {
            Self::Few(few) => few.len(),
            Self::Many(many) => many.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
