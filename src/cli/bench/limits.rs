//! What the disk and the memory of this machine do alone, to hold the log's figures against.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, SyncSender};
use std::time::Duration;

use log::Env;
use log::env::{File, Open};

use super::percentile;

/// Of the file that is written again and again, as the write-ahead log's are.
const FILE_BYTES: u64 = 256 * 1024 * 1024;
const MIB: usize = 1024 * 1024;
/// What the sync of one small write costs is measured with these.
pub(super) const SMALL: usize = 4 * 1024;
/// What is written at once where the disk shall do as much as it can with every write synced.
pub(super) const LARGE: usize = MIB;
/// And where it does half as much.
pub(super) const HALF: usize = 256 * 1024;

/// Files behind the log where everything is written twice, and how much of each may be unsynced. They are written back in
/// such pieces, of which so many are under way.
const FILES: usize = 128;
const UNSYNCED: usize = 2 * MIB;
const WRITTEN_BACK: u64 = 256 * 1024;
const UNDER_WAY: usize = 4;
/// They are written so much at a time, and never so much later than the log.
const ROUND: usize = 8 * MIB;
const BEHIND: usize = 128 * MIB;

/// Synced writes of one size.
#[derive(Clone, Copy, Debug)]
pub(super) struct Synced {
    pub bytes_per_second: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
}

impl Synced {
    /// Of what each piece took.
    fn of(mut times_ms: Vec<f64>, piece: usize, took: Duration) -> Synced {
        let bytes_per_second = (times_ms.len() * piece) as f64 / took.as_secs_f64();
        times_ms.sort_by(f64::total_cmp);
        Synced { bytes_per_second, p50_ms: percentile(&times_ms, 0.5), p99_ms: percentile(&times_ms, 0.99) }
    }
}

/// Bytes a second from one place in memory to another, neither of which fits into a cache.
pub(super) fn memory_copy(env: &Env) -> f64 {
    let from = vec![1u8; 64 * MIB];
    let mut to = vec![0u8; from.len()];
    to.copy_from_slice(&from);
    let began = env.monotonic();
    for _ in 0..8 {
        to.copy_from_slice(std::hint::black_box(&from));
        std::hint::black_box(&mut to);
    }
    8.0 * from.len() as f64 / (env.monotonic() - began).as_secs_f64()
}

/// Pieces one behind the other into one file whose blocks are written already, each with a sync.
pub(super) fn one_file(env: &Env, dir: &Path, piece: usize, time: Duration) -> io::Result<Synced> {
    let file = written(env, dir, "limit", FILE_BYTES)?;
    let pieces = FILE_BYTES / piece as u64;
    let synced = measure(env, piece, time, |bytes, count| {
        file.write_at(count % pieces * piece as u64, &[IoSlice::new(bytes)])?;
        file.sync_data()
    })?;
    env.disk().unlink(&dir.join("limit"))?;
    Ok(synced)
}

/// A piece into each of so many files in turn, each with a sync: a log that syncs its segments.
pub(super) fn many_files(env: &Env, dir: &Path, count: usize, piece: usize, time: Duration) -> io::Result<Synced> {
    const EACH: u64 = 4 * MIB as u64;
    let names: Vec<String> = (0..count).map(|number| format!("limit-{number}")).collect();
    let files = names.iter().map(|name| written(env, dir, name, EACH)).collect::<io::Result<Vec<_>>>()?;
    let pieces = EACH / piece as u64;
    let synced = measure(env, piece, time, |bytes, number| {
        let file = &files[(number % count as u64) as usize];
        file.write_at(number / count as u64 % pieces * piece as u64, &[IoSlice::new(bytes)])?;
        file.sync_data()
    })?;
    names.iter().try_for_each(|name| env.disk().unlink(&dir.join(name)))?;
    Ok(synced)
}

/// What a log in front of segments comes to at the most: pieces into one file, each with a sync, and once more behind it,
/// in parts, into many files that grow, through the page cache. From there it is written back soon, a little at a time, and
/// each file is synced now and then. `bytes_per_second`: no faster than this.
pub(super) async fn twice(
    env: &Env,
    dir: &Path,
    piece: usize,
    time: Duration,
    bytes_per_second: Option<f64>,
) -> io::Result<Synced> {
    let (hand_over, handed) = mpsc::sync_channel::<usize>(BEHIND / piece);
    let (segments_env, segments_dir) = (env.clone(), dir.join("limit-segments"));
    let segments = env.blocking("bench-segments", move || grow(&segments_env, &segments_dir, &handed))?;
    let synced = write_log(env, dir, piece, time, bytes_per_second, hand_over).await;
    segments.await.map_err(|_| io::Error::other("a measurement has ended too soon"))??;
    synced
}

/// The file in front, each piece of which is handed over when it is synced.
async fn write_log(
    env: &Env,
    dir: &Path,
    piece: usize,
    time: Duration,
    bytes_per_second: Option<f64>,
    hand_over: SyncSender<usize>,
) -> io::Result<Synced> {
    let (log_env, log_dir) = (env.clone(), dir.to_owned());
    let file = env.offload(move || written(&log_env, &log_dir, "limit", FILE_BYTES)).await?;
    let (bytes, pieces) = (Arc::new(vec![8u8; piece]), FILE_BYTES / piece as u64);
    let pause = bytes_per_second.map(|rate| Duration::from_secs_f64(piece as f64 / rate));
    let began = env.monotonic();
    let (mut times, mut last, mut woken) = (Vec::new(), began, began);
    while last - began < time {
        let mut from = last;
        if let Some(pause) = pause {
            let due = began + pause * times.len() as u32;
            let early = due.saturating_sub(env.monotonic());
            if !early.is_zero() {
                env.sleep(early).await;
                woken = env.monotonic();
            }
            // What it waits behind those before it counts too; that a timer is coarse does not.
            from = woken.max(due);
        }
        let (file, bytes, hand_over) = (Arc::clone(&file), Arc::clone(&bytes), hand_over.clone());
        let at = times.len() as u64 % pieces * piece as u64;
        let write = move || {
            file.write_at(at, &[IoSlice::new(&bytes)])?;
            file.sync_data()?;
            hand_over.send(bytes.len()).map_err(io::Error::other)
        };
        env.offload(write).await?;
        last = env.monotonic();
        times.push((last - from).as_secs_f64() * 1e3);
    }
    env.disk().unlink(&dir.join("limit"))?;
    Ok(Synced::of(times, piece, last - began))
}

/// The files behind: every piece goes to the next of them, and they are written [`ROUND`] at a time.
fn grow(env: &Env, dir: &Path, handed: &mpsc::Receiver<usize>) -> io::Result<()> {
    let disk = env.disk();
    disk.create_dir(dir)?;
    let open = |number| disk.open(&dir.join(format!("{number}")), Open::Create);
    let files = (0..FILES).map(open).collect::<io::Result<Vec<_>>>()?;
    let bytes = vec![9u8; ROUND / FILES];
    let (mut waiting, mut at, mut synced) = (0, 0u64, 0);
    let mut under_way = VecDeque::new();
    for piece in handed {
        waiting += piece;
        if waiting < ROUND {
            continue;
        }
        waiting -= ROUND;
        files.iter().try_for_each(|file| file.write_at(at, &[IoSlice::new(&bytes)]).map(drop))?;
        at += bytes.len() as u64;
        for file in files.iter().filter(|_| at.is_multiple_of(WRITTEN_BACK)) {
            file.start_writeback(at - WRITTEN_BACK, WRITTEN_BACK)?;
            under_way.push_back((file, at - WRITTEN_BACK));
            if under_way.len() > UNDER_WAY
                && let Some((file, from)) = under_way.pop_front()
            {
                file.await_writeback(from, WRITTEN_BACK)?;
            }
        }
        // Each in its turn, so that every file is synced once in `UNSYNCED` bytes of its own.
        for _ in 0..ROUND / UNSYNCED {
            files[synced % FILES].sync_data()?;
            synced += 1;
        }
    }
    disk.remove_dir(dir)
}

fn written(env: &Env, dir: &Path, name: &str, len: u64) -> io::Result<Arc<dyn File>> {
    let disk = env.disk();
    disk.create_dir(dir)?;
    let file = disk.open(&dir.join(name), Open::Create)?;
    let bytes = vec![7u8; MIB];
    for at in (0..len).step_by(MIB) {
        file.write_at(at, &[IoSlice::new(&bytes)])?;
    }
    file.sync_data()?;
    Ok(file)
}

fn measure(
    env: &Env,
    piece: usize,
    time: Duration,
    write: impl Fn(&[u8], u64) -> io::Result<()>,
) -> io::Result<Synced> {
    let bytes = vec![8u8; piece];
    let mut times = Vec::new();
    let began = env.monotonic();
    let mut last = began;
    while last - began < time {
        write(&bytes, times.len() as u64)?;
        let now = env.monotonic();
        times.push((now - last).as_secs_f64() * 1e3);
        last = now;
    }
    Ok(Synced::of(times, piece, last - began))
}
