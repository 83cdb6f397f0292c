//! The one that writes segments from the queue, removes the files of deleted partitions, and syncs and closes what is at
//! rest.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::writeback::Writeback;
use super::{Unflushed, Work};
use crate::env::mutant::Mutant;
use crate::env::{Disk, Env};
use crate::record::{Batch, Offset, TopicPartition};
use crate::store::handles::Name;
use crate::store::layout::Suffix;
use crate::store::partition::Partition;
use crate::store::producers::Producers;
use crate::store::room::{FULL_INTERVAL, Room};
use crate::store::{Shared, Stage, seal, stops};

/// After so many bytes others get the processor: who acknowledges and who serves clients would wait for the whole round.
const TURN_BYTES: u64 = 64 * 1024;
/// Between two looks at files that are written no more.
const IDLE_INTERVAL: Duration = Duration::from_secs(1);

/// See the module.
pub(in crate::store) struct Flusher {
    pub env: Env,
    pub shared: Arc<Shared>,
    pub room: Room,
    pub stop: watch::Receiver<Stage>,
}

/// Consecutive batches of one segment.
struct Run {
    partition: Arc<Partition>,
    batches: Vec<Batch>,
    position: u32,
    producers: Option<Box<Producers>>,
}

impl Flusher {
    /// Writes until the queue is closed and empty, or a write fails for good.
    pub async fn run(self) {
        let shared = Arc::clone(&self.shared);
        tokio::select! {
            biased;
            () = shared.wal.stopped() => {}
            () = self.work() => {}
        }
    }

    async fn work(&self) {
        tokio::join!(biased; self.write_all(), self.remove_all(), self.close_idle());
    }

    async fn write_all(&self) {
        self.write_rounds().await;
        self.shared.flush.end();
    }

    /// Removes files beside the writing: it takes the longer the larger they are.
    async fn remove_all(&self) {
        while let Some(partition) = self.shared.flush.next_removal().await {
            let (disk, shared) = (self.env.disk(), Arc::clone(&self.shared));
            let removed = self.env.offload(move || shared.handles.remove_partition(&*disk, partition)).await;
            if let Err(error) = removed {
                return self.shared.wal.set_poison("a removal of a partition's files", &error);
            }
            self.shared.flush.is_removed();
            self.env.step().await;
        }
    }

    /// Syncs and closes what is at rest, beside the writing.
    async fn close_idle(&self) {
        while !self.shared.flush.lock().ended {
            let (env, shared) = (self.env.clone(), Arc::clone(&self.shared));
            let ended = self.shared.flush.no_more.notified();
            if self.env.timeout(IDLE_INTERVAL, ended).await.is_some() {
                continue;
            }
            if let Err(error) = self.env.offload(move || shared.handles.sync_idle(&env)).await {
                return self.shared.wal.set_poison("a sync of a segment", &error);
            }
            self.env.step().await;
        }
    }

    async fn write_rounds(&self) {
        let mut written = BTreeSet::new();
        let mut writeback = Writeback::default();
        while let Some(work) = self.shared.flush.take().await {
            let count = work.len();
            written.extend(work.iter().filter_map(Work::partition));
            match self.round(work, &mut writeback).await {
                Ok(()) => {}
                // The next start writes it: it stands in the write-ahead log.
                Err(error) if error.kind() == io::ErrorKind::StorageFull && stops(&self.stop) => {
                    tracing::warn!("the log stops with a full disk");
                    return self.shared.flush.give_up();
                }
                Err(error) => return self.shared.wal.set_poison("a write to a segment", &error),
            }
            self.room.look(&*self.env.disk(), &self.shared.flush);
            self.shared.flush.written(count);
            self.shared.tail.evict();
            self.env.step().await;
        }
        let disk = self.env.disk();
        for partition in written.into_iter().filter_map(|id| self.shared.stable.partition(id)) {
            if let Err(error) = seal::describe(&*disk, &self.shared.handles, &partition) {
                tracing::warn!(%error, partition = ?partition.id, "a file for Kafka's tools was not written");
            }
        }
    }

    async fn round(&self, work: Vec<Work>, writeback: &mut Writeback) -> io::Result<()> {
        let mut runs: BTreeMap<(TopicPartition, Offset), Run> = BTreeMap::new();
        let mut removed = BTreeSet::new();
        let mut sealed = Vec::new();
        for work in work {
            match work {
                Work::Batch(Unflushed { partition, batch, segment, position, producers }) => {
                    let key = (partition.id, segment);
                    let fresh = || Run { partition, batches: Vec::new(), position, producers };
                    let run = runs.entry(key).or_insert_with(fresh);
                    run.batches.push(batch);
                }
                Work::Seal(partition) => sealed.push(partition),
                Work::Remove(partition) => drop(removed.insert(partition)),
            }
        }
        // First, for that gives room.
        self.shared.flush.hand_over(&removed);
        let mut turn = 0;
        for ((id, segment), run) in runs {
            if !removed.contains(&id) && !run.partition.is_closed() {
                self.write(segment, &run, writeback).await?;
                let handles = &self.shared.handles;
                let producers = run.producers.as_deref();
                let beside = |disk: &dyn Disk| {
                    seal::begin(disk, handles, &run.partition, segment, producers)?;
                    seal::end(disk, handles, &run.partition)
                };
                self.with_room(&run.partition, beside).await?;
                self.shared.handles.shrink(&self.env)?;
                turn += run.batches.iter().map(|batch| batch.size() as u64).sum::<u64>();
                if turn >= TURN_BYTES {
                    turn = 0;
                    self.env.yield_thread();
                }
            }
        }
        for partition in sealed.iter().filter(|partition| !removed.contains(&partition.id) && !partition.is_closed()) {
            self.with_room(partition, |disk| seal::end(disk, &self.shared.handles, partition)).await?;
        }
        Ok(())
    }

    /// Writes, again and again until the disk has room for it or the partition is deleted: it is in memory and in the
    /// write-ahead log. `StorageFull` when the log is to end before.
    async fn with_room(
        &self,
        partition: &Partition,
        mut write: impl FnMut(&dyn Disk) -> io::Result<()>,
    ) -> io::Result<()> {
        let disk = self.env.disk();
        loop {
            match write(&*disk) {
                Err(error) if error.kind() == io::ErrorKind::StorageFull && !Mutant::FullDiskForgets.is_on() => {
                    let flush = &self.shared.flush;
                    flush.set_full();
                    // No checkpoint comes before there is room, and what gives room has to be written.
                    self.shared.files.press(true);
                    if stops(&self.stop) {
                        return Err(error);
                    }
                    let gone = flush.removals();
                    gone.into_iter().try_for_each(|id| self.shared.handles.remove_partition(&*disk, id))?;
                    if partition.is_closed() {
                        return Ok(());
                    }
                    self.env.sleep(FULL_INTERVAL).await;
                }
                Err(error) if error.kind() == io::ErrorKind::StorageFull => return Ok(()),
                other => return other,
            }
        }
    }

    /// Writes batches that lie one behind the other, and says so.
    async fn write(&self, segment: Offset, run: &Run, writeback: &mut Writeback) -> io::Result<()> {
        let name = Name { partition: run.partition.id, segment, generation: 0, suffix: Suffix::Log };
        let slices: Vec<IoSlice<'_>> =
            run.batches.iter().flat_map(|batch| [IoSlice::new(batch.header()), IoSlice::new(batch.body())]).collect();
        let end = run.position + slices.iter().map(|slice| slice.len() as u32).sum::<u32>();
        let handles = &self.shared.handles;
        let write = |disk: &dyn Disk| {
            let file = handles.for_writing(disk, name)?;
            file.write_at(u64::from(run.position), &slices)?;
            handles.written(name, Arc::clone(&file), run.position, end);
            writeback.start(handles, name, &*file, self.shared.flush.bytes())
        };
        self.with_room(&run.partition, write).await?;
        if run.partition.is_closed() {
            return Ok(());
        }
        let next = run.batches.last().map_or(segment, Batch::next_offset);
        run.partition.write_view().set_flushed(segment, end, next);
        Ok(())
    }
}
