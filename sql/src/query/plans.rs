//! [`Plans`]: planned queries by their text, so that clients without prepared statements do not plan each time anew.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Planned;
use crate::catalog::Objects;

/// Queries that are kept; when there are more, all are forgotten: those in use come back at once.
const PLANS_MAX: usize = 512;
/// Bytes of a query's text that is kept.
const TEXT_BYTES_MAX: usize = 16 << 10;

/// What names mean: a plan holds as long as this stays.
#[derive(Clone)]
pub struct Meaning {
    pub objects: Arc<Objects>,
    /// Counts changes of the topics.
    pub topics: u64,
}

impl Meaning {
    fn same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.objects, &other.objects) && self.topics == other.topics
    }
}

#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Key {
    pub database: Arc<str>,
    pub text: String,
    pub declared: Vec<u32>,
}

/// The lock is held for a look-up or an insert only.
#[derive(Default)]
pub struct Plans(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    under: Option<Meaning>,
    plans: HashMap<Key, Arc<Planned>>,
}

impl Plans {
    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn get(&self, key: &Key, meaning: &Meaning) -> Option<Arc<Planned>> {
        let kept = self.lock();
        kept.under.as_ref().filter(|under| under.same(meaning))?;
        kept.plans.get(key).cloned()
    }

    /// Keeps a plan made under `meaning`. What tells of the catalog itself is never kept.
    pub fn put(&self, key: Key, meaning: &Meaning, plan: &Arc<Planned>) {
        if plan.of_catalog || key.text.len() > TEXT_BYTES_MAX {
            return;
        }
        let mut kept = self.lock();
        if kept.plans.len() >= PLANS_MAX || !kept.under.as_ref().is_some_and(|under| under.same(meaning)) {
            kept.plans.clear();
            kept.under = Some(meaning.clone());
        }
        kept.plans.insert(key, Arc::clone(plan));
    }
}
