//! What the operating system allows the process.

use rlimit::Resource;

/// Files that a process may open where nobody says otherwise.
const USUAL: u64 = 1024;

/// Raises the limit of open files as far as this process may, and gives it. Systems start programs with 1,024 for the sake
/// of old ones that call `select`; a log with some thousand partitions needs more.
pub fn raise_open_files() -> u64 {
    // Refused: what was allowed before is still allowed.
    let raised = rlimit::increase_nofile_limit(u64::MAX);
    raised.or_else(|_| Resource::NOFILE.get_soft()).unwrap_or(USUAL)
}
