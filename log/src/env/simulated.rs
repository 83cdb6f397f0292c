//! The simulated world: one executor whose choice among runnable tasks comes from a seed, and a clock that moves only
//! when nothing can run.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use super::mix;
use super::net::SimNet;

/// 2026-01-01T00:00:00Z, where every simulated wall clock begins.
const WALL_US_START: i64 = 1_767_225_600_000_000;

type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

pub(super) struct Sim {
    state: Mutex<State>,
    net: Arc<SimNet>,
    this: Weak<Sim>,
}

struct State {
    now: Duration,
    random: u64,
    /// By time, then by order of asking.
    timers: BTreeMap<(Duration, u64), Waker>,
    timer_next: u64,
    tasks: BTreeMap<u64, Arc<Job>>,
    task_next: u64,
    ready: Vec<u64>,
}

struct Job {
    id: u64,
    name: &'static str,
    sim: Weak<Sim>,
    queued: AtomicBool,
    work: Mutex<Option<Work>>,
}

/// The future given to [`Sim::run`] has this id.
const MAIN: u64 = 0;

impl Sim {
    pub(super) fn new(seed: u64) -> Arc<Sim> {
        let state = State {
            now: Duration::ZERO,
            random: mix(seed ^ 0x5151_5eed),
            timers: BTreeMap::new(),
            timer_next: 0,
            tasks: BTreeMap::new(),
            task_next: MAIN + 1,
            ready: Vec::new(),
        };
        Arc::new_cyclic(|this| Sim { state: Mutex::new(state), net: SimNet::new(), this: Weak::clone(this) })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn net(&self) -> &SimNet {
        &self.net
    }

    pub(super) fn now(&self) -> Duration {
        self.lock().now
    }

    pub(super) fn wall_us(&self) -> i64 {
        WALL_US_START.saturating_add(i64::try_from(self.now().as_micros()).unwrap_or(i64::MAX))
    }

    pub(super) fn random_u64(&self) -> u64 {
        self.lock().random_u64()
    }

    pub(super) fn sleep(self: &Arc<Self>, time: Duration) -> Sleep {
        let until = self.now().saturating_add(time);
        Sleep { sim: Arc::clone(self), until, timer: None }
    }

    /// Returns after every other runnable task has had its chance to go first.
    pub(super) fn step(&self) -> Step {
        Step { waited: false }
    }

    pub(super) fn spawn(&self, name: &'static str, work: Work) {
        let job = {
            let mut state = self.lock();
            let id = state.task_next;
            state.task_next += 1;
            let job = Job {
                id,
                name,
                sim: Weak::clone(&self.this),
                queued: AtomicBool::new(false),
                work: Mutex::new(Some(work)),
            };
            let job = Arc::new(job);
            state.tasks.insert(id, Arc::clone(&job));
            job
        };
        job.wake();
    }

    pub(super) fn run<F: Future>(&self, main: F) -> F::Output {
        let mut main = std::pin::pin!(main);
        let main_job = Arc::new(Job {
            id: MAIN,
            name: "main",
            sim: Weak::clone(&self.this),
            queued: AtomicBool::new(false),
            work: Mutex::new(None),
        });
        Arc::clone(&main_job).wake();
        loop {
            let id = self.next_ready();
            if id == MAIN {
                main_job.queued.store(false, Ordering::Release);
                let waker = Waker::from(Arc::clone(&main_job));
                if let Poll::Ready(output) = main.as_mut().poll(&mut Context::from_waker(&waker)) {
                    self.lock().ready.retain(|id| *id != MAIN);
                    return output;
                }
                continue;
            }
            let Some(job) = self.lock().tasks.get(&id).map(Arc::clone) else { continue };
            job.queued.store(false, Ordering::Release);
            let waker = Waker::from(Arc::clone(&job));
            let mut slot = job.work.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(work) = slot.as_mut() else { continue };
            if work.as_mut().poll(&mut Context::from_waker(&waker)).is_ready() {
                let done = slot.take();
                drop(slot);
                drop(done);
                self.lock().tasks.remove(&id);
            }
        }
    }

    /// One runnable task, by the seed; moves the clock when there is none.
    fn next_ready(&self) -> u64 {
        loop {
            let due = {
                let mut state = self.lock();
                if !state.ready.is_empty() {
                    let count = state.ready.len() as u64;
                    let at = usize::try_from(state.random_u64() % count).expect("less than a length");
                    return state.ready.swap_remove(at);
                }
                let Some((&(time, _), _)) = state.timers.first_key_value() else {
                    let waiting: Vec<&str> = state.tasks.values().map(|job| job.name).collect();
                    drop(state);
                    panic!("nothing can run any more, these wait for ever: {waiting:?}");
                };
                assert!(time >= state.now, "timers lie ahead");
                state.now = time;
                let later = state.timers.split_off(&(time, u64::MAX));
                std::mem::replace(&mut state.timers, later)
            };
            due.into_values().for_each(Waker::wake);
        }
    }

    pub(super) fn drop_tasks(&self) {
        let (tasks, timers) = {
            let mut state = self.lock();
            state.ready.clear();
            (std::mem::take(&mut state.tasks), std::mem::take(&mut state.timers))
        };
        for job in tasks.values() {
            let work = job.work.lock().unwrap_or_else(PoisonError::into_inner).take();
            drop(work);
        }
        drop(timers);
        self.net.clear();
        let mut state = self.lock();
        state.ready.clear();
        state.tasks.clear();
    }
}

impl State {
    fn random_u64(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.random)
    }
}

impl Wake for Job {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.queued.swap(true, Ordering::AcqRel) {
            return;
        }
        if let Some(sim) = self.sim.upgrade() {
            sim.lock().ready.push(self.id);
        }
    }
}

/// See [`Sim::sleep`].
pub(super) struct Sleep {
    sim: Arc<Sim>,
    until: Duration,
    timer: Option<(Duration, u64)>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let sim = Arc::clone(&self.sim);
        let mut state = sim.lock();
        if let Some(timer) = self.timer.take() {
            state.timers.remove(&timer);
        }
        if state.now >= self.until {
            return Poll::Ready(());
        }
        let timer = (self.until, state.timer_next);
        state.timer_next += 1;
        state.timers.insert(timer, cx.waker().clone());
        self.timer = Some(timer);
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(timer) = self.timer.take() {
            let waker = self.sim.lock().timers.remove(&timer);
            drop(waker);
        }
    }
}

/// See [`Sim::step`].
pub(super) struct Step {
    waited: bool,
}

impl Future for Step {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.waited {
            return Poll::Ready(());
        }
        self.waited = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}
