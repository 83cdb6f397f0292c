//! Writing back a part of a file before its sync (`sync_file_range(2)`), for which no library has a safe call.

use std::fs::File;
use std::io;

/// Begins to write back what is dirty in this range.
pub(super) fn start(file: &File, offset: u64, len: u64) -> io::Result<()> {
    system::call(file, offset, len, system::WRITE)
}

/// Waits for what is being written back in this range.
pub(super) fn wait(file: &File, offset: u64, len: u64) -> io::Result<()> {
    system::call(file, offset, len, system::WAIT)
}

#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "the system's call is declared unsafe; it is given a descriptor and numbers only")]
mod system {
    use std::fs::File;
    use std::io;
    use std::os::fd::AsRawFd;

    pub const WRITE: libc::c_uint = libc::SYNC_FILE_RANGE_WRITE;
    pub const WAIT: libc::c_uint = libc::SYNC_FILE_RANGE_WAIT_BEFORE;

    pub fn call(file: &File, offset: u64, len: u64, flags: libc::c_uint) -> io::Result<()> {
        let number = |n: u64| i64::try_from(n).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput));
        let (offset, len) = (number(offset)?, number(len)?);
        // To the system no bytes are all up to the end.
        if len == 0 {
            return Ok(());
        }
        // SAFETY: no memory is passed, and the descriptor is open for as long as `file` is borrowed.
        if unsafe { libc::sync_file_range(file.as_raw_fd(), offset, len, flags) } == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        // It is an offer: the sync does all of it where a system has no such call.
        if error.kind() == io::ErrorKind::Unsupported { Ok(()) } else { Err(error) }
    }
}

/// Elsewhere all is left to the sync.
#[cfg(not(target_os = "linux"))]
mod system {
    use std::fs::File;
    use std::io;

    pub const WRITE: u32 = 0;
    pub const WAIT: u32 = 0;

    pub fn call(_: &File, _: u64, _: u64, _: u32) -> io::Result<()> {
        Ok(())
    }
}
