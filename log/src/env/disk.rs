//! Files: the seam [`Disk`] and the operating system behind it.
//!
//! What a caller may count on after a crash: bytes for which `sync_data` has returned, and names for which `sync_dir` of
//! their directory has. Everything else may be there, partly there, or not.

use std::fs;
use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use super::writeback;

/// How to open a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Open {
    /// It must be there; reads only.
    Read,
    /// It must be there.
    Write,
    /// It must not be there.
    Create,
}

/// A tree of files. Calls wait for the disk: not for an executor's threads, unless the file is small.
pub trait Disk: Send + Sync {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn File>>;
    /// Atomic; replaces `to`. Durable after `sync_dir`.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    fn unlink(&self, path: &Path) -> io::Result<()>;
    /// With its parents. Durable after `sync_dir` of the directory that each new one is in.
    fn create_dir(&self, path: &Path) -> io::Result<()>;
    /// With everything in it; fine when it is not there.
    fn remove_dir(&self, path: &Path) -> io::Result<()>;
    /// Makes creations, renames and removals in this directory durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// The paths in a directory, sorted; empty when it is not there.
    fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>>;
    /// Locks the file (created where missing) until the value is dropped; `WouldBlock` when another holds it.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Lock>>;
    /// How many bytes the file system that holds this path, which must be there, can still take from us.
    fn free_bytes(&self, path: &Path) -> io::Result<u64>;
}

/// An open file. Writes belong to one writer; reads may come from many threads at once.
pub trait File: Send + Sync {
    /// Writes all slices one after the other from `offset` on, in one call to the system where it takes them. After an
    /// error any part may be written: `StorageFull` says that the rest found no room.
    fn write_at(&self, offset: u64, slices: &[IoSlice<'_>]) -> io::Result<()>;
    /// Reads some bytes, maybe fewer than asked for; 0 at the end.
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize>;
    /// Makes what was written durable. After an error nobody knows what is: never call it again, recover. Only a handle
    /// that was open when the system failed to write something back is told: keep one from the write to the sync.
    fn sync_data(&self) -> io::Result<()>;
    /// Has the system begin to bring to the disk what was written in this range, and waits for nothing: a sync then has
    /// less to do. Nothing is durable by it. Fine where the system cannot. Errors: as of [`File::sync_data`].
    fn start_writeback(&self, offset: u64, len: u64) -> io::Result<()>;
    /// Returns when what [`File::start_writeback`] began in this range is no longer on its way. Nothing is durable by it.
    /// Errors: as of [`File::sync_data`], which is not told again what this was told.
    fn await_writeback(&self, offset: u64, len: u64) -> io::Result<()>;
    /// Cuts or extends (with zeros).
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Reserves room for this range, so that writes into it do not end in `StorageFull`; length and content stay. It lasts
    /// until a `set_len` in front of it or at the length the file has, and over a crash once `sync_data` has returned.
    ///
    /// Errors: `StorageFull`, then part of it may be reserved; `Unsupported` where the file system cannot.
    fn allocate(&self, offset: u64, len: u64) -> io::Result<()>;
    fn len(&self) -> io::Result<u64>;
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
}

/// A held lock; dropping it releases.
pub trait Lock: Send + Sync {}

/// Fills `into` from `offset`; `UnexpectedEof` when the file ends first.
pub fn read_full(file: &dyn File, mut offset: u64, mut into: &mut [u8]) -> io::Result<()> {
    while !into.is_empty() {
        match file.read_at(offset, into) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => {
                into = &mut into[count..];
                offset += count as u64;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The operating system's files.
pub(super) struct RealDisk;

struct RealFile {
    file: fs::File,
}

struct RealLock {
    _file: fs::File,
}

impl Lock for RealLock {}

impl Disk for RealDisk {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn File>> {
        let mut options = fs::OpenOptions::new();
        options.read(true).write(how != Open::Read).create_new(how == Open::Create);
        Ok(Arc::new(RealFile { file: options.open(path)? }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        fs::create_dir_all(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        match fs::remove_dir_all(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        // The parent of a relative path may be empty.
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        fs::File::open(path)?.sync_all()
    }

    fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        let entries = match fs::read_dir(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other?,
        };
        let mut paths = entries.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<_>>>()?;
        paths.sort();
        Ok(paths)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Lock>> {
        let file = fs::OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Box::new(RealLock { _file: file })),
            Err(fs::TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
            Err(fs::TryLockError::Error(error)) => Err(error),
        }
    }

    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        let found = rustix::fs::statvfs(path)?;
        Ok(found.f_bavail.saturating_mul(found.f_frsize))
    }
}

impl File for RealFile {
    fn write_at(&self, mut offset: u64, slices: &[IoSlice<'_>]) -> io::Result<()> {
        let mut slices: Vec<IoSlice<'_>> = slices.to_vec();
        let mut rest: &mut [IoSlice<'_>] = &mut slices;
        IoSlice::advance_slices(&mut rest, 0);
        while !rest.is_empty() {
            // The system takes at most IOV_MAX slices a call, and rustix passes no more.
            match rustix::io::pwritev(&self.file, rest, offset) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    IoSlice::advance_slices(&mut rest, count);
                    offset += count as u64;
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        loop {
            match FileExt::read_at(&self.file, into, offset) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn start_writeback(&self, offset: u64, len: u64) -> io::Result<()> {
        writeback::start(&self.file, offset, len)
    }

    fn await_writeback(&self, offset: u64, len: u64) -> io::Result<()> {
        writeback::wait(&self.file, offset, len)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        if len == 0 {
            return Ok(());
        }
        loop {
            match rustix::fs::fallocate(&self.file, FallocateFlags::KEEP_SIZE, offset, len) {
                Err(Errno::INTR) => {}
                other => return Ok(other?),
            }
        }
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    /// A directory of its own, removed at the end.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Scratch {
            let path = std::env::temp_dir().join(format!("riverrun-disk-{name}-{}", std::process::id()));
            RealDisk.create_dir(&path).unwrap();
            Scratch(path)
        }

        fn file(&self) -> Arc<dyn File> {
            RealDisk.open(&self.0.join("f"), Open::Create).unwrap()
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            RealDisk.remove_dir(&self.0).unwrap();
        }
    }

    #[test]
    fn more_slices_than_the_system_takes_at_once_are_written_in_order() {
        let scratch = Scratch::new("slices");
        let file = scratch.file();
        let parts: Vec<Vec<u8>> = (0..3000u32).map(|i| vec![i as u8; (i % 5) as usize]).collect();
        let slices: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
        file.write_at(7, &slices).unwrap();
        file.write_at(100_000, &[]).unwrap();
        file.sync_data().unwrap();
        let expect = parts.concat();
        assert_eq!(file.len().unwrap(), 7 + expect.len() as u64);
        let mut read = vec![9; 7 + expect.len()];
        read_full(&*file, 0, &mut read).unwrap();
        assert!(read[..7] == [0; 7] && read[7..] == expect);
        assert_eq!(file.read_at(5000 + expect.len() as u64, &mut read).unwrap(), 0);
        let eof = read_full(&*file, 10, &mut read).unwrap_err();
        assert_eq!(eof.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn writers_of_one_file_do_not_disturb_each_other() {
        let scratch = Scratch::new("writers");
        let file = scratch.file();
        std::thread::scope(|scope| {
            for writer in 0..4u8 {
                let file = &file;
                scope.spawn(move || {
                    for i in 0..200 {
                        let offset = (i * 4 + u64::from(writer)) * 6;
                        file.write_at(offset, &[IoSlice::new(&[writer; 2]), IoSlice::new(&[writer; 4])]).unwrap();
                    }
                });
            }
        });
        let mut read = vec![0; 4 * 200 * 6];
        read_full(&*file, 0, &mut read).unwrap();
        assert!(read.chunks(6).enumerate().all(|(i, chunk)| *chunk == [(i % 4) as u8; 6]));
    }

    #[test]
    fn reserved_room_is_taken_and_the_length_stays() {
        let scratch = Scratch::new("allocate");
        let file = scratch.file();
        file.write_at(0, &[IoSlice::new(b"abc")]).unwrap();
        file.allocate(0, 0).unwrap();
        file.allocate(1, 1 << 20).unwrap();
        file.sync_data().unwrap();
        assert_eq!(file.len().unwrap(), 3);
        let taken = || fs::metadata(scratch.0.join("f")).unwrap().blocks() * 512;
        assert!(taken() >= 1 << 20, "{}", taken());
        file.write_at(3, &[IoSlice::new(&[1; 1 << 20])]).unwrap();
        let mut read = [0; 5];
        read_full(&*file, 0, &mut read).unwrap();
        assert_eq!(&read, b"abc\x01\x01");
        file.set_len(3).unwrap();
        assert!(taken() < 1 << 20, "a cut gives the room back");
    }

    #[test]
    fn what_is_written_back_stays_and_a_range_that_cannot_be_is_refused() {
        let scratch = Scratch::new("writeback");
        let file = scratch.file();
        file.write_at(0, &[IoSlice::new(&[7; 10_000])]).unwrap();
        // In parts, over the end, of nothing.
        for (offset, len) in [(0, 4096), (4096, 100_000), (1 << 40, 1), (0, 0)] {
            file.start_writeback(offset, len).unwrap();
            file.await_writeback(offset, len).unwrap();
        }
        let mut read = [0; 10_000];
        read_full(&*file, 0, &mut read).unwrap();
        assert_eq!(read, [7; 10_000]);
        for (offset, len) in [(u64::MAX, 1), (0, u64::MAX), (i64::MAX as u64, i64::MAX as u64)] {
            assert_eq!(file.start_writeback(offset, len).unwrap_err().kind(), io::ErrorKind::InvalidInput);
            assert_eq!(file.await_writeback(offset, len).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        }
    }

    #[test]
    fn a_full_device_says_so() {
        let file = RealDisk.open(Path::new("/dev/full"), Open::Write).unwrap();
        let error = file.write_at(0, &[IoSlice::new(b"abc")]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        let scratch = Scratch::new("free");
        assert!(RealDisk.free_bytes(&scratch.0).unwrap() > 0);
        assert_eq!(RealDisk.free_bytes(&scratch.0.join("x")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_file_opened_for_reading_takes_no_writes() {
        let scratch = Scratch::new("reading");
        drop(scratch.file());
        let file = RealDisk.open(&scratch.0.join("f"), Open::Read).unwrap();
        assert!(file.write_at(0, &[IoSlice::new(b"abc")]).is_err());
        assert!(file.allocate(0, 4096).is_err());
        RealDisk.sync_dir(&scratch.0).unwrap();
        RealDisk.sync_dir(Path::new("")).unwrap();
    }
}
