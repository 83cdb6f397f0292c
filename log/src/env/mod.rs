//! The world outside: clock, randomness, disk, sockets, tasks. Nothing else in `log` touches them, so that a simulated
//! [`Env`] runs the same code from one seed: same seed, same bytes.
//!
//! Simulated tasks run only while somebody stands in [`Env::run`]; time jumps to the next timer when nothing can run.

#![allow(clippy::disallowed_methods, reason = "env is the one place that talks to the operating system")]

mod disk;
mod limits;
pub(crate) mod mutant;
pub mod net;
mod simulated;
mod simulated_disk;
mod writeback;

use std::future::Future;
use std::hash::{BuildHasher, Hasher};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};

use tokio::runtime::Handle;
use tokio::sync::{Notify, oneshot};

pub use disk::{Disk, File, Lock, Open, read_full};
pub use limits::raise_open_files;
pub use net::{Listener, Stream};
pub use simulated_disk::{Damage, SimDisk, SyncFailure};

use simulated::Sim;

/// A cheap handle to the world: clones share it.
#[derive(Clone)]
pub struct Env {
    place: Arc<Place>,
    disk: Arc<dyn Disk>,
}

enum Place {
    Real(Real),
    Simulated(Arc<Sim>),
}

struct Real {
    started: Instant,
    /// Where tasks go; none when the env was made outside of a runtime: then to the runtime that calls.
    runtime: Option<Handle>,
    random: AtomicU64,
}

impl Env {
    /// The operating system's clock, disk and sockets; tasks go to the runtime in which this is called.
    pub fn real() -> Env {
        Env { place: Arc::new(Place::Real(Real::new())), disk: Arc::new(disk::RealDisk) }
    }

    /// As [`Env::real`], with a disk in memory: for tests that want real threads and leave no files.
    pub fn memory() -> Env {
        Env { place: Arc::new(Place::Real(Real::new())), disk: Arc::new(SimDisk::new(0)) }
    }

    /// A world of its own: virtual clock, one seeded executor, a disk in memory whose unsynced writes a crash loses.
    pub fn simulated(seed: u64) -> Env {
        Env { place: Arc::new(Place::Simulated(Sim::new(seed))), disk: Arc::new(SimDisk::new(seed)) }
    }

    /// The same world with another disk.
    pub fn with_disk(&self, disk: Arc<dyn Disk>) -> Env {
        Env { place: Arc::clone(&self.place), disk }
    }

    /// Wall clock, microseconds since 1970, UTC. May go back.
    pub fn now_us(&self) -> i64 {
        match &*self.place {
            Place::Real(_) => {
                let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
                i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
            }
            Place::Simulated(sim) => sim.wall_us(),
        }
    }

    /// Wall clock, milliseconds since 1970, UTC. May go back.
    pub fn now_ms(&self) -> i64 {
        self.now_us() / 1000
    }

    /// Time since this env began. Never goes back.
    pub fn monotonic(&self) -> Duration {
        match &*self.place {
            Place::Real(real) => real.started.elapsed(),
            Place::Simulated(sim) => sim.now(),
        }
    }

    /// Resolves after `time`. Cancel safe.
    pub fn sleep(&self, time: Duration) -> impl Future<Output = ()> + Send + use<> {
        let place = Arc::clone(&self.place);
        async move {
            match &*place {
                Place::Real(_) => tokio::time::sleep(time).await,
                Place::Simulated(sim) => sim.sleep(time).await,
            }
        }
    }

    /// `future`'s output, or `None` when `time` has passed first (then it is dropped).
    pub async fn timeout<F: Future>(&self, time: Duration, future: F) -> Option<F::Output> {
        tokio::select! {
            biased;
            output = future => Some(output),
            () = self.sleep(time) => None,
        }
    }

    /// Good enough for ids and jitter, not for secrets.
    pub fn random_u64(&self) -> u64 {
        match &*self.place {
            Place::Real(real) => {
                mix(real.random.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed).wrapping_add(0x9e37_79b9_7f4a_7c15))
            }
            Place::Simulated(sim) => sim.random_u64(),
        }
    }

    /// Runs `future` beside the caller. Dropping the [`Task`] detaches it.
    pub fn spawn<F>(&self, name: &'static str, future: F) -> Task<F::Output>
    where
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        let (wrapped, task) = Task::wrap(name, future);
        match &*self.place {
            Place::Real(real) => match &real.runtime {
                Some(runtime) => drop(runtime.spawn(wrapped)),
                None => drop(tokio::spawn(wrapped)),
            },
            Place::Simulated(sim) => sim.spawn(name, Box::pin(wrapped)),
        }
        task
    }

    /// Runs `future` on a thread of its own (a current-thread runtime); simulated: on the one executor. A panic in it
    /// ends the process: such a task owns state that nobody else can go on without.
    pub fn place<F>(&self, name: &'static str, future: F) -> std::io::Result<Task<F::Output>>
    where
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        let (wrapped, task) = Task::wrap(name, future);
        match &*self.place {
            Place::Real(_) => {
                std::thread::Builder::new().name(name.to_owned()).spawn(move || {
                    let runtime = tokio::runtime::Builder::new_current_thread()
                        .enable_all()
                        .build()
                        .expect("a runtime of one thread can be built");
                    let run = std::panic::AssertUnwindSafe(|| runtime.block_on(wrapped));
                    if std::panic::catch_unwind(run).is_err() {
                        tracing::error!(name, "a task that owns state has panicked");
                        std::process::abort();
                    }
                })?;
            }
            Place::Simulated(sim) => sim.spawn(name, Box::pin(wrapped)),
        }
        Ok(task)
    }

    /// Runs `closure` on a dedicated thread; simulated: as one step of the executor, so it must not wait for others.
    pub fn blocking<T, F>(&self, name: &'static str, closure: F) -> std::io::Result<Task<T>>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        let (wrapped, task) = Task::wrap(name, async move { closure() });
        match &*self.place {
            Place::Real(_) => {
                std::thread::Builder::new().name(name.to_owned()).spawn(move || block_on_ready(wrapped))?;
            }
            Place::Simulated(sim) => sim.spawn(name, Box::pin(wrapped)),
        }
        Ok(task)
    }

    /// Runs a short closure that may wait for the disk on the pool for such; simulated: at once.
    pub async fn offload<T, F>(&self, closure: F) -> T
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        let handle = match &*self.place {
            Place::Real(real) => match &real.runtime {
                Some(runtime) => runtime.spawn_blocking(closure),
                None => tokio::task::spawn_blocking(closure),
            },
            Place::Simulated(_) => return closure(),
        };
        match handle.await {
            Ok(value) => value,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => std::future::pending().await,
        }
    }

    /// Does this with each of a few things, all at once and on threads of their own, and returns when all is done: the
    /// first error. For what waits for the disk. Simulated: one after the other.
    pub fn at_once<T: Sync>(
        &self,
        things: &[T],
        work: impl Fn(&T) -> std::io::Result<()> + Sync,
    ) -> std::io::Result<()> {
        let (Place::Real(_), Some((last, others))) = (&*self.place, things.split_last()) else {
            return things.iter().try_for_each(work);
        };
        std::thread::scope(|scope| {
            let work = &work;
            let begin = |thing| named("at once").spawn_scoped(scope, move || work(thing));
            let begun: Vec<_> = others.iter().map(|thing| begin(thing).map_err(|_| thing)).collect();
            let finish = |begun: Result<std::thread::ScopedJoinHandle<'_, _>, _>| match begun {
                Ok(thread) => thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
                // The system has no thread for it.
                Err(thing) => work(thing),
            };
            let last = work(last);
            begun.into_iter().map(finish).fold(Ok(()), Result::and).and(last)
        })
    }

    /// Does something on a thread of its own while the caller does something else, and returns when both are done.
    /// Simulated, or where the system has no thread: behind it.
    pub fn beside<A: Send, B>(&self, other: impl FnOnce() -> A + Send, own: impl FnOnce() -> B) -> (A, B) {
        if self.is_simulated() {
            let own = own();
            return (other(), own);
        }
        let other = Mutex::new(Some(other));
        let take = || other.lock().unwrap_or_else(PoisonError::into_inner).take();
        std::thread::scope(|scope| {
            let run = || take().map(|other| other());
            let begun = named("beside").spawn_scoped(scope, run);
            let own = own();
            let done = begun.ok().map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
            let done = done.flatten().or_else(run).expect("one of the two has taken it");
            (done, own)
        })
    }

    /// Lets others run: only in simulation, where each await is a chance for another order of events.
    pub async fn step(&self) {
        if let Place::Simulated(sim) = &*self.place {
            sim.step().await;
        }
    }

    /// Lets a thread that waits for this one's processor have it. For threads that compute or copy for long: a system
    /// that was told nothing lets the others wait for milliseconds.
    pub fn yield_thread(&self) {
        if let Place::Real(_) = &*self.place {
            std::thread::yield_now();
        }
    }

    /// Drives `future` to its end from a thread outside of any runtime. In simulation this is what runs everything, and
    /// it panics when nothing can run any more and `future` is not done.
    pub fn run<F: Future>(&self, future: F) -> F::Output {
        match &*self.place {
            Place::Real(real) => match &real.runtime {
                Some(runtime) => runtime.block_on(future),
                None => tokio::runtime::Builder::new_multi_thread()
                    .enable_all()
                    .build()
                    .expect("a runtime can be built")
                    .block_on(future),
            },
            Place::Simulated(sim) => sim.run(future),
        }
    }

    /// Simulation: drops every task, timer and socket at once, as a power cut does. Call it outside of [`Env::run`], and
    /// crash the disk too. Does nothing to a real env.
    pub fn drop_tasks(&self) {
        if let Place::Simulated(sim) = &*self.place {
            sim.drop_tasks();
        }
    }

    pub fn is_simulated(&self) -> bool {
        matches!(&*self.place, Place::Simulated(_))
    }

    pub fn disk(&self) -> Arc<dyn Disk> {
        Arc::clone(&self.disk)
    }

    /// Listens at `address` (`host:port`; port 0 takes a free one).
    pub async fn listen(&self, address: &str) -> std::io::Result<Listener> {
        match &*self.place {
            Place::Real(_) => Listener::real(address).await,
            Place::Simulated(sim) => sim.net().listen(address),
        }
    }

    /// Connects to `address` (`host:port`).
    pub async fn connect(&self, address: &str) -> std::io::Result<Stream> {
        match &*self.place {
            Place::Real(_) => Stream::real(address).await,
            Place::Simulated(sim) => sim.net().connect(address).await,
        }
    }
}

impl Real {
    fn new() -> Real {
        let mut hasher = std::hash::RandomState::new().build_hasher();
        hasher.write_u64(0);
        Real { started: Instant::now(), runtime: Handle::try_current().ok(), random: AtomicU64::new(hasher.finish()) }
    }
}

/// What [`Env::spawn`] and its like return: await it for the result, or let it go.
pub struct Task<T> {
    name: &'static str,
    done: oneshot::Receiver<T>,
    stop: Arc<Stop>,
}

/// The task was stopped by [`Task::abort`], by a panic, or with its runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("task {0} was stopped before its end")]
pub struct Stopped(pub &'static str);

#[derive(Default)]
struct Stop {
    asked: AtomicBool,
    notify: Notify,
}

impl<T: Send + 'static> Task<T> {
    fn wrap<F>(name: &'static str, future: F) -> (impl Future<Output = ()> + Send + 'static, Task<T>)
    where
        F: Future<Output = T> + Send + 'static,
    {
        let (send, done) = oneshot::channel();
        let stop = Arc::new(Stop::default());
        let stopped = Arc::clone(&stop);
        let wrapped = async move {
            let asked = async {
                let notified = stopped.notify.notified();
                if !stopped.asked.load(Ordering::Acquire) {
                    notified.await;
                }
            };
            tokio::select! {
                biased;
                () = asked => {}
                // The receiver may be gone: then nobody wants the value.
                value = future => drop(send.send(value)),
            }
        };
        (wrapped, Task { name, done, stop })
    }
}

impl<T> Task<T> {
    /// Drops the future at its next await.
    pub fn abort(&self) {
        self.stop.asked.store(true, Ordering::Release);
        self.stop.notify.notify_one();
    }
}

impl<T> Future for Task<T> {
    type Output = Result<T, Stopped>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let name = self.name;
        Pin::new(&mut self.done).poll(cx).map(|done| done.map_err(|_| Stopped(name)))
    }
}

/// Polls a future that never waits (a wrapped closure) to its end.
fn block_on_ready(future: impl Future<Output = ()>) {
    let mut future = std::pin::pin!(future);
    let mut cx = Context::from_waker(std::task::Waker::noop());
    while future.as_mut().poll(&mut cx).is_pending() {}
}

/// The output function of SplitMix64 (Steele, Lea, Flood 2014).
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A thread's builder.
fn named(name: &str) -> std::thread::Builder {
    std::thread::Builder::new().name(name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn simulated_time_jumps_and_the_order_is_the_seeds() {
        let trace = |seed| {
            let env = Env::simulated(seed);
            env.run(async {
                let (send, mut recv) = tokio::sync::mpsc::channel(100);
                for i in 0..10u64 {
                    let (env2, send) = (env.clone(), send.clone());
                    drop(env.spawn("t", async move {
                        env2.sleep(Duration::from_secs(i % 3)).await;
                        send.send((i, env2.now_us())).await.unwrap();
                    }));
                }
                drop(send);
                let mut seen = Vec::new();
                while let Some(x) = recv.recv().await {
                    seen.push(x);
                }
                seen
            })
        };
        assert_eq!(trace(1), trace(1));
        assert_ne!(trace(1), trace(2));
        assert_eq!(trace(1).len(), 10);
    }

    #[test]
    fn things_are_done_at_once_and_an_error_stops_none() {
        let (all, done) = (std::sync::Barrier::new(4), AtomicU64::new(0));
        let outcome = Env::memory().at_once(&[0, 1, 2, 3], |thing| {
            // Each waits for all others.
            all.wait();
            done.fetch_add(1, Ordering::SeqCst);
            if *thing == 1 { Err(std::io::ErrorKind::Other.into()) } else { Ok(()) }
        });
        assert_eq!((outcome.is_err(), done.into_inner()), (true, 4));
        let seen = std::sync::Mutex::new(Vec::new());
        let note = |thing: &i32| {
            seen.lock().unwrap().push(*thing);
            Ok(())
        };
        Env::simulated(1).at_once(&[0, 1, 2, 3], note).unwrap();
        assert_eq!(*seen.lock().unwrap(), [0, 1, 2, 3]);
        Env::memory().at_once(&[], note).unwrap();
    }

    #[test]
    fn something_is_done_beside_and_both_results_come_back() {
        let both = std::sync::Barrier::new(2);
        let meet = |result: i32| {
            both.wait();
            result
        };
        assert_eq!(Env::memory().beside(|| meet(1), || meet(2)), (1, 2));
        let seen = std::sync::Mutex::new(Vec::new());
        let note = |what: &'static str| seen.lock().unwrap().push(what);
        Env::simulated(1).beside(|| note("other"), || note("own"));
        assert_eq!(*seen.lock().unwrap(), ["own", "other"]);
        let panics = || Env::memory().beside(|| panic!("the other one"), || ());
        assert!(std::panic::catch_unwind(panics).is_err());
    }

    #[test]
    fn a_task_can_be_aborted_and_awaited() {
        let env = Env::simulated(3);
        env.run(async {
            let task = env.spawn("forever", std::future::pending::<()>());
            task.abort();
            assert_eq!(task.await, Err(Stopped("forever")));
            assert_eq!(env.spawn("one", async { 1 }).await, Ok(1));
            assert_eq!(env.blocking("two", || 2).unwrap().await, Ok(2));
            assert_eq!(env.timeout(Duration::from_secs(1), std::future::pending::<()>()).await, None);
        });
    }

    #[test]
    fn sockets_meet_in_both_worlds() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        for env in [Env::simulated(1), Env::memory()] {
            env.run(async {
                let mut listener = env.listen("127.0.0.1:0").await.unwrap();
                let address = listener.address().to_string();
                let server = env.spawn("server", async move {
                    let (mut stream, _) = listener.accept().await.unwrap();
                    let mut got = [0; 4];
                    stream.read_exact(&mut got).await.unwrap();
                    stream.write_all(&got).await.unwrap();
                });
                let mut client = env.connect(&address).await.unwrap();
                client.write_all(b"ping").await.unwrap();
                let mut got = [0; 4];
                client.read_exact(&mut got).await.unwrap();
                assert_eq!(&got, b"ping");
                server.await.unwrap();
            });
        }
    }
}
