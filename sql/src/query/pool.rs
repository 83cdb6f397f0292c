//! [`Pool`]: the threads that ad-hoc queries run on, apart from those of the log and the engine.

#![allow(clippy::disallowed_methods, reason = "DataFusion spawns on the runtime it runs in; this is that runtime")]

use std::future::Future;

use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;

use crate::error::{Error, Result};

/// Threads that read stores and block meanwhile; queries over more relations at once wait for one another.
const BLOCKING_THREADS_MAX: usize = 64;

/// An own runtime, ended without waiting when dropped.
pub struct Pool(Option<Runtime>);

/// A task that is stopped when nobody waits for it any more.
pub struct Running<T>(JoinHandle<T>);

impl Pool {
    pub fn new(threads: usize) -> Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(threads.max(1))
            .max_blocking_threads(BLOCKING_THREADS_MAX)
            .thread_name("riverrun-query")
            .thread_stack_size(crate::stack::STACK_BYTES)
            .enable_time()
            .build()
            .map_err(|e| Error::bug("the threads for queries cannot be started").caused_by(e))?;
        Ok(Self(Some(runtime)))
    }

    pub fn spawn<T: Send + 'static>(&self, future: impl Future<Output = T> + Send + 'static) -> Running<T> {
        Running(self.0.as_ref().expect("the runtime is there until drop").spawn(future))
    }

    /// Runs `future` on the pool; dropping the returned future stops it.
    pub async fn run<T: Send + 'static>(&self, future: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
        let mut task = self.spawn(future);
        match (&mut task.0).await {
            Ok(result) => result,
            Err(e) => Err(Error::bug("a query ended unexpectedly").caused_by(e)),
        }
    }
}

impl<T> Drop for Running<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}
