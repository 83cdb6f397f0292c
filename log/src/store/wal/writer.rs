//! The write-ahead log's writer: drain the queue, one vectored write, one sync, one message a shard; meanwhile the next
//! group gathers. There is no linger: a group is what came while the one before was on its way to the disk.

use std::io::IoSlice;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::watch;

use super::files::Files;
use super::format::{ENTRY_HEADER, FILE_HEADER, FileHeader, GROUP_HEADER, GroupHeader};
use super::{Acknowledge, Item, Wal};
use crate::env::mutant::Mutant;
use crate::env::{Env, File, Lock};
use crate::record::BATCH_HEADER;
use crate::store::Stage;
use crate::store::flush::Flush;
use crate::store::room::{FULL_INTERVAL, FULL_TRIES};

/// Bodies up to this size are copied beside their headers: one slice instead of two for the system to walk.
const COPY_MAX: usize = 4096;

/// In the words of [`FULL_TRIES`]: ten seconds.
const MEMORY_TRIES: u32 = 10 * FULL_TRIES;

/// Where the log ends: what recovery found, or a new log's beginning.
pub(in crate::store) struct End {
    pub file: Option<OpenFile>,
    pub next_number: u32,
    pub next_sequence: u64,
    pub previous_end: u64,
}

/// The file that is being written.
pub(in crate::store) struct OpenFile {
    pub number: u32,
    pub generation: u64,
    pub file: Arc<dyn File>,
    pub end: u64,
}

/// The one writer. See [`Writer::run`].
pub(in crate::store) struct Writer {
    pub env: Env,
    pub wal: Arc<Wal>,
    pub files: Arc<Files>,
    pub flush: Arc<Flush>,
    pub end: End,
    pub file_bytes: u64,
    pub group_bytes: usize,
    pub acknowledge: Acknowledge,
    pub stop: watch::Receiver<Stage>,
    /// Of the data directory: nobody else opens it while this writes.
    pub _lock: Arc<dyn Lock>,
}

impl Writer {
    /// Writes until the queue is closed and empty, or a write fails.
    pub async fn run(mut self) {
        let wal = Arc::clone(&self.wal);
        tokio::select! {
            biased;
            // Somebody else's failure: what this would write could not be acknowledged.
            () = wal.stopped() => {}
            () = self.write_all() => {}
        }
    }

    async fn write_all(&mut self) {
        let mut group = Vec::new();
        let mut arena = Vec::new();
        while self.wal.take(self.group_bytes, &mut group).await {
            let written = match self.wait_for_memory().await {
                Ok(()) => self.write(&group, &mut arena).await,
                no_room => no_room,
            };
            if let Err(error) = written {
                self.wal.set_poison("a write to the write-ahead log", &error);
                return;
            }
            group.clear();
            // Others may run between groups, so that a simulation sees every order.
            self.env.step().await;
        }
    }

    /// Returns when there is room in memory for what is written next. It comes when segments have room on the disk: who
    /// opens the log waits for that longer than for a file, as more may give some, but not for ever.
    async fn wait_for_memory(&mut self) -> std::io::Result<()> {
        let mut tries = 0;
        while self.env.timeout(FULL_INTERVAL, self.flush.room()).await.is_none() {
            tries += 1;
            if tries > MEMORY_TRIES && self.flush.is_full() && !self.runs() {
                return Err(self.no_room());
            }
        }
        Ok(())
    }

    async fn write(&mut self, group: &[(usize, Item)], arena: &mut Vec<u8>) -> std::io::Result<()> {
        let body = group.iter().map(|(_, item)| item.size()).sum::<usize>();
        let head = self.make_room((body + GROUP_HEADER) as u64).await?;
        let file = self.end.file.as_mut().expect("there is room in one");
        lay_out(group, arena);
        let slices = slices_of(group, arena);
        let body_crc = slices.iter().fold(0, |crc, slice| crc32c::crc32c_append(crc, slice));
        let header = GroupHeader {
            body_len: u32::try_from(body).map_err(|_| std::io::ErrorKind::InvalidInput)?,
            sequence: self.end.next_sequence,
            previous_end: self.end.previous_end,
            generation: file.generation,
            entries: group.len() as u32,
            body_crc,
        }
        .encode();
        let mut all = Vec::with_capacity(slices.len() + 2);
        all.extend(head.as_ref().map(|head| IoSlice::new(head)));
        all.push(IoSlice::new(&header));
        all.extend(slices.into_iter().map(IoSlice::new));

        let began = self.env.monotonic();
        file.file.write_at(file.end, &all)?;
        let written = self.env.monotonic();
        let early = self.acknowledge != Acknowledge::AfterSync || Mutant::AcknowledgedBeforeSync.is_on();
        if early {
            self.wal.complete(group, file.number);
            self.env.step().await;
        }
        if self.wal.written(group, file.number) {
            self.env.step().await;
        }
        match file.file.sync_data() {
            Err(_) if Mutant::SyncRetried.is_on() => file.file.sync_data()?,
            synced => synced?,
        }
        let synced = self.env.monotonic();

        file.end += all.iter().map(|slice| slice.len() as u64).sum::<u64>();
        self.end.previous_end = file.end;
        self.end.next_sequence += 1;
        if file.end * 4 > self.file_bytes {
            self.files.want();
        }
        let figures = &self.wal.figures;
        figures.groups.fetch_add(1, Ordering::Relaxed);
        figures.entries.fetch_add(group.len() as u64, Ordering::Relaxed);
        figures.bytes.fetch_add((GROUP_HEADER + body) as u64, Ordering::Relaxed);
        figures.write_us.fetch_add((written - began).as_micros() as u64, Ordering::Relaxed);
        figures.sync_us.fetch_add((synced - written).as_micros() as u64, Ordering::Relaxed);
        if !early {
            self.wal.complete(group, file.number);
        }
        Ok(())
    }

    /// Takes the next file where `bytes` do not fit into the current one, or somebody wants another; returns the header it is to begin with.
    async fn make_room(&mut self, bytes: u64) -> std::io::Result<Option<[u8; FILE_HEADER]>> {
        let rolls = self.files.take_roll();
        let goes_on = |file: &OpenFile| file.end + bytes <= self.file_bytes && (!rolls || file.end == 0);
        if self.end.file.as_ref().is_some_and(goes_on) {
            return Ok(None);
        }
        let number = self.end.next_number;
        let generation = self.env.random_u64();
        let disk = self.env.disk();
        let mut tries = 0;
        let file = loop {
            match self.files.take(&*disk, number).await {
                // Nothing is lost by waiting: what is to be written was not acknowledged.
                Err(error) if error.kind() == std::io::ErrorKind::StorageFull => {
                    self.flush.set_full();
                    tries += 1;
                    if tries > FULL_TRIES && !self.runs() {
                        return Err(self.no_room());
                    }
                    self.env.sleep(FULL_INTERVAL).await;
                }
                taken => break taken?,
            }
        };
        self.end.next_number += 1;
        self.end.file = Some(OpenFile { number, generation, file, end: 0 });
        Ok(Some(FileHeader { number, generation, first_sequence: self.end.next_sequence }.encode()))
    }

    /// Whether nobody waits for the log to open or to end.
    fn runs(&self) -> bool {
        *self.stop.borrow() == Stage::Runs && self.stop.has_changed().is_ok()
    }

    fn no_room(&self) -> std::io::Error {
        let (dir, bytes) = (self.files.dir().display(), self.file_bytes);
        let what = format!("the disk is full: make room for {bytes} bytes at {dir} and start again");
        std::io::Error::new(std::io::ErrorKind::StorageFull, what)
    }
}

/// Fills the arena with entry headers, batch headers and small bodies.
fn lay_out(group: &[(usize, Item)], arena: &mut Vec<u8>) {
    arena.clear();
    for (_, item) in group {
        arena.extend_from_slice(&item.header().encode());
        if let Item::Batch { batch, .. } = item {
            arena.extend_from_slice(batch.header());
            if batch.body().len() <= COPY_MAX {
                arena.extend_from_slice(batch.body());
            }
        }
    }
}

/// The group's body as slices: runs of the arena, and large bodies where they are.
fn slices_of<'a>(group: &'a [(usize, Item)], arena: &'a [u8]) -> Vec<&'a [u8]> {
    let mut slices = Vec::new();
    let (mut from, mut to) = (0, 0);
    for (_, item) in group {
        match item {
            Item::Batch { batch, .. } if batch.body().len() > COPY_MAX => {
                to += ENTRY_HEADER + BATCH_HEADER;
                slices.push(&arena[from..to]);
                slices.push(&batch.body()[..]);
                from = to;
            }
            item => to += item.size(),
        }
    }
    if from < to {
        slices.push(&arena[from..to]);
    }
    slices
}
