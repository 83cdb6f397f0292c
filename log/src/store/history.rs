//! Room for reads of history, so that they do not take from writers what these need: a few at a time read from files, and
//! what they read into has a budget. Who comes first is served first.

use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::Error;
use crate::env::Env;

/// See the module.
pub(super) struct History {
    reads: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    bytes_max: u32,
}

impl History {
    /// So many reads at a time, into so many bytes together.
    pub fn new(reads: usize, bytes: usize) -> History {
        let bytes_max = u32::try_from(bytes).unwrap_or(u32::MAX).max(1);
        let bytes = Arc::new(Semaphore::new(bytes_max as usize));
        History { reads: Arc::new(Semaphore::new(reads.clamp(1, Semaphore::MAX_PERMITS))), bytes, bytes_max }
    }

    /// Runs a read of about so many bytes when there is room for it. Its room is taken until it ends, whether somebody
    /// still waits or not. One larger than all room goes alone.
    pub async fn read<T: Send + 'static>(
        &self,
        env: &Env,
        bytes: usize,
        read: impl FnOnce() -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let cost = u32::try_from(bytes).unwrap_or(u32::MAX).min(self.bytes_max);
        let bytes = Arc::clone(&self.bytes).acquire_many_owned(cost).await;
        let place = Arc::clone(&self.reads).acquire_owned().await;
        let room = (bytes.expect("it is never closed"), place.expect("it is never closed"));
        let read = move || {
            let _room = room;
            read()
        };
        env.offload(read).await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// The most reads, and the most bytes, that ran at the same time.
    fn most_at_once(history: &Arc<History>, sizes: &[usize]) -> (usize, usize) {
        let env = Env::real();
        let (now, most) =
            (Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)]), Arc::new([0, 0].map(AtomicUsize::new)));
        env.run(async {
            let reads: Vec<_> = sizes
                .iter()
                .map(|&size| {
                    let (own, history) = (env.clone(), Arc::clone(history));
                    let (now, most) = (Arc::clone(&now), Arc::clone(&most));
                    env.spawn("read", async move {
                        let read = move || {
                            for (at, add) in [1, size].into_iter().enumerate() {
                                most[at].fetch_max(now[at].fetch_add(add, Ordering::SeqCst) + add, Ordering::SeqCst);
                            }
                            (0..2000).for_each(|_| std::thread::yield_now());
                            for (at, add) in [1, size].into_iter().enumerate() {
                                now[at].fetch_sub(add, Ordering::SeqCst);
                            }
                            Ok(())
                        };
                        history.read(&own, size, read).await
                    })
                })
                .collect();
            for read in reads {
                read.await.expect("it has not panicked").expect("it reads");
            }
        });
        (most[0].load(Ordering::SeqCst), most[1].load(Ordering::SeqCst))
    }

    #[test]
    fn reads_wait_for_a_place_and_for_room() {
        assert_eq!(most_at_once(&Arc::new(History::new(4, 1 << 20)), &[1; 200]).0, 4);
        let (reads, bytes) = most_at_once(&Arc::new(History::new(100, 1000)), &[300; 200]);
        assert_eq!((reads, bytes), (3, 900));
        // Larger than all room: alone.
        assert_eq!(most_at_once(&Arc::new(History::new(4, 1000)), &[5000; 20]).0, 1);
    }
}
