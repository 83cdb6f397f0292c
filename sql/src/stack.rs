//! Room for deep recursion: planners walk expressions as deep as people write them.

use crate::error::{Error, Result, sqlstate};

/// Bytes of stack of a thread that plans. The longest chain of operators that the parser lets through takes about a
/// twentieth of it; pages that are not used are never there.
pub const STACK_BYTES: usize = 64 << 20;

/// Runs `work` on a thread with [`STACK_BYTES`], and waits for it.
pub fn with_room<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("riverrun-plan".to_string()).stack_size(STACK_BYTES);
        let running = thread.spawn_scoped(scope, work).map_err(|e| {
            Error::new(sqlstate::INSUFFICIENT_RESOURCES, "a thread to plan on cannot be started").caused_by(e)
        })?;
        running.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
