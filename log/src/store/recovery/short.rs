//! Recovery on a full disk: records that are durable in the write-ahead log and find no room in their segments stay in
//! memory, as they were before the crash, and are written when there is room. So a node opens whose disk is full: it is
//! read from, and room can be made by deleting topics.

use std::collections::BTreeMap;
use std::io;

use bytes::Bytes;

use super::Replayed;
use crate::Error;
use crate::env::{Env, Open};
use crate::record::{Batch, Offset, TopicPartition};
use crate::store::wal::files::Files;
use crate::store::wal::format::Kind;
use crate::store::wal::scan::{Entry, Scan, Visit};

/// The partitions for which there was no room, and from which segment and byte on.
#[derive(Default)]
pub(super) struct Short {
    from: BTreeMap<TopicPartition, Place>,
}

/// Segment and position.
type Place = (Offset, u32);

impl Short {
    pub fn note(&mut self, partition: TopicPartition, segment: Offset, position: u32) {
        let place = (segment, position);
        let lowest = self.from.entry(partition).or_insert(place);
        *lowest = place.min(*lowest);
    }

    pub fn forget(&mut self, partition: TopicPartition) {
        self.from.remove(&partition);
    }

    /// Takes what has no room into memory, from a second look at the log. An error says how much room is missing where
    /// that is more than memory is to hold, or not all of it stands in the log.
    pub fn keep(
        self,
        env: &Env,
        files: &Files,
        first_file: u32,
        partitions: &mut BTreeMap<TopicPartition, Replayed>,
        bytes_max: usize,
    ) -> Result<(), Error> {
        if self.from.is_empty() {
            return Ok(());
        }
        let mut collect = Collect { from: &self.from, partitions, found: BTreeMap::new(), bytes: 0, bytes_max };
        Scan::new(env, files, Open::Read).run(first_file, &mut collect)?;
        let Collect { mut found, bytes, .. } = collect;
        let no_room = || no_room(files, bytes, bytes_max);
        if bytes > bytes_max {
            return Err(no_room());
        }
        for (id, place) in self.from {
            let Some(partition) = partitions.get_mut(&id) else { continue };
            // Of what is damaged nothing is served, and nothing is to be forgotten.
            let places = partition.view.places_from(place, |at| found.get(&(id, at)).map(Batch::size));
            let places = places.filter(|_| partition.damage.is_none()).ok_or_else(no_room)?;
            let batches: Vec<Batch> = places.iter().filter_map(|at| found.remove(&(id, *at))).collect();
            tracing::warn!(partition = ?id, batches = batches.len(), "the disk is full: records stay in memory");
            partition.view.set_unflushed(place, batches);
            partition.unflushed = places;
        }
        Ok(())
    }
}

fn no_room(files: &Files, bytes: usize, bytes_max: usize) -> Error {
    let dir = files.dir().display();
    let what = format!(
        "it is full: records of {bytes} bytes or more stand in {dir} alone, and memory holds {bytes_max} of them; \
         make room for them and start again"
    );
    Error::Io(io::Error::new(io::ErrorKind::StorageFull, what))
}

/// The batches that belong there.
struct Collect<'a> {
    from: &'a BTreeMap<TopicPartition, Place>,
    partitions: &'a BTreeMap<TopicPartition, Replayed>,
    found: BTreeMap<(TopicPartition, Place), Batch>,
    bytes: usize,
    bytes_max: usize,
}

impl Visit for Collect<'_> {
    fn entry(&mut self, entry: Entry) -> Result<(), Error> {
        let Entry { header, payload, .. } = entry;
        let (id, place) = (header.partition, (header.segment, header.position));
        let is_short = header.kind == Kind::Batch && self.from.get(&id).is_some_and(|from| place >= *from);
        // Not of a segment that is gone.
        let is_there = |partition: &Replayed| partition.view.segments.iter().any(|s| s.base == header.segment);
        if !is_short || !self.partitions.get(&id).is_some_and(is_there) || self.found.contains_key(&(id, place)) {
            return Ok(());
        }
        self.bytes += payload.len();
        if self.bytes > self.bytes_max {
            // How much it would be is still counted.
            return Ok(());
        }
        // What is not whole has ended its partition.
        if let Ok(Some(batch)) = Batch::split_from(&mut Bytes::copy_from_slice(&payload)) {
            self.found.insert((id, place), batch);
        }
        Ok(())
    }
}
