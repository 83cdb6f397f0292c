//! [`Table`]: a base relation as the engine feeds it: its partitions, how far they have been read, its [`Normalize`].

use std::sync::Arc;

use arrow::datatypes::SchemaRef;

use super::reader::{Reader, Slice, Slices};
use super::{Error, guarded};
use crate::codec::Decode;
use crate::delta::Delta;
use crate::operator::normalize::Normalize;
use crate::state::versioned::Versioned;

/// Who holds the records that a replay needs.
const HOLD_OWNER: &str = "engine";

/// A relation over a topic, read up to some place.
pub struct Table {
    topic: log::Topic,
    decode: Arc<dyn Decode>,
    normalize: Normalize,
    parts: Vec<Part>,
    slice_bytes_max: usize,
}

struct Part {
    log: Arc<dyn log::Log>,
    /// Where it begins: replay reads from here.
    start: log::Offset,
    /// Everything below has been fed.
    fed: log::Offset,
    _hold: Box<dyn log::Hold>,
}

impl Table {
    /// Nothing is fed yet; what the topic holds from here on stays for replay. `key` is empty where the whole row
    /// identifies a row.
    pub fn open(
        cluster: &dyn log::Cluster,
        topic: log::Topic,
        schema: SchemaRef,
        key: Vec<usize>,
        decode: Arc<dyn Decode>,
        slice_bytes_max: usize,
    ) -> Result<Self, log::Error> {
        let part = |partition| {
            let log = cluster.log(log::TopicPartition { topic: topic.id, partition })?;
            let start = log.bounds().start;
            let _hold = log.hold(HOLD_OWNER, start);
            Ok(Part { log, start, fed: start, _hold })
        };
        let parts = (0..topic.partitions).map(part).collect::<Result<_, log::Error>>()?;
        let normalize = if decode.upsert() { Normalize::upsert(schema, key) } else { Normalize::append_only(schema) };
        Ok(Self { topic, decode, normalize, parts, slice_bytes_max })
    }

    pub fn topic(&self) -> &log::Topic {
        &self.topic
    }

    pub fn partitions(&self) -> impl Iterator<Item = log::TopicPartition> + '_ {
        self.parts.iter().map(|part| part.log.partition())
    }

    /// The rows as of each epoch; none where rows only come.
    pub fn store(&self) -> Option<Arc<Versioned>> {
        self.normalize.store()
    }

    /// The records that a cut adds to what has been fed. They are to be taken in, then [`Self::fed`] is to be called.
    pub fn ahead(&self, env: &log::Env, cut: &log::Cut) -> Slices {
        self.slices(env, |part| (part.fed, self.end(part, cut)))
    }

    /// The records fed so far, from the start.
    pub fn behind(&self, env: &log::Env) -> Slices {
        self.slices(env, |part| (part.start, part.fed))
    }

    /// Everything of the cut has been fed.
    pub fn fed(&mut self, cut: &log::Cut) {
        let ends: Vec<_> = self.parts.iter().map(|part| self.end(part, cut)).collect();
        self.parts.iter_mut().zip(ends).for_each(|(part, end)| part.fed = end);
    }

    /// Whether the cut adds records.
    pub fn is_ahead(&self, cut: &log::Cut) -> bool {
        self.parts.iter().any(|part| part.fed < self.end(part, cut))
    }

    /// Takes in a slice of an epoch. Where rows only come, returns the change it makes at once.
    pub fn take_in(&mut self, epoch: u64, slice: &Slice) -> Result<Vec<Delta>, Error> {
        let append_only = !self.decode.upsert();
        self.normalized(|normalize| {
            slice.rows.iter().try_for_each(|rows| normalize.apply(rows))?;
            if append_only { normalize.flush(epoch) } else { Ok(Vec::new()) }
        })
    }

    /// Ends the epoch: the rest of the change it makes, which the store shows from then on.
    pub fn flush(&mut self, epoch: u64) -> Result<Vec<Delta>, Error> {
        self.normalized(|normalize| normalize.flush(epoch))
    }

    fn normalized<T>(
        &mut self,
        work: impl FnOnce(&mut Normalize) -> Result<T, crate::operator::Error>,
    ) -> Result<T, Error> {
        let operator = format!("normalize of topic {}", self.topic.name);
        guarded(&operator, || {
            let result = work(&mut self.normalize);
            result.map_err(|source| Error::Operator { operator: operator.clone(), source })
        })
    }

    fn end(&self, part: &Part, cut: &log::Cut) -> log::Offset {
        cut.0.get(&part.log.partition()).copied().unwrap_or(part.fed).max(part.fed)
    }

    fn slices(&self, env: &log::Env, range: impl Fn(&Part) -> (log::Offset, log::Offset)) -> Slices {
        let mut reader = Reader::new(&self.topic.name, self.slice_bytes_max);
        for part in &self.parts {
            let (from, up_to) = range(part);
            reader.add(Arc::clone(&part.log), from, up_to);
        }
        Slices::new(env, reader, &self.decode)
    }
}
