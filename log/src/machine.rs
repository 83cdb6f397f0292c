//! Replicated state machines: [`Machine`] decides and applies, [`Host`] runs one over a [`Journal`].
//!
//! A machine is a plain value: no IO, no clock, no randomness. What it decides become records; the records, applied in
//! order, are its state; so the journal can rebuild it at any time, on any node.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot};

use crate::Error;
use crate::env::Env;
use crate::record::{NewRecord, Offset, RecordView};

/// Commands that may wait for a machine.
const MAILBOX: usize = 256;
/// Commands whose records go into one append.
const BURST: usize = 64;
/// Records read at once while loading.
const LOAD_BYTES: usize = 1024 * 1024;

/// A deterministic state machine whose state is a function of its journal.
///
/// Guarantees asked of it: [`Machine::decide`] changes nothing that [`Machine::apply`] of the decided records would not
/// change, but for soft state that may be lost at any time. Applying the same records in the same order gives the same
/// state, whatever the clock says and whichever binary of the same feature level applies them.
pub trait Machine: Send + 'static {
    type Command: Send + 'static;
    type Reply: Send + 'static;
    /// Something to be done outside once what it rests on is durable, in the order decided.
    type Effect: Send + 'static;

    /// The journal has been applied to its end and this machine leads from now on.
    fn loaded(&mut self, now_ms: i64) -> Decision<Self>
    where
        Self: Sized;

    /// What a command leads to. An answer that needs no record sees everything decided before, and is given out when
    /// all that is durable.
    fn decide(&mut self, now_ms: i64, command: Self::Command) -> (Self::Reply, Decision<Self>)
    where
        Self: Sized;

    /// One record of the journal, its own or an earlier leader's. An error means that the journal cannot be understood:
    /// the machine stops, nothing is skipped.
    fn apply(&mut self, record: &RecordView) -> Result<(), Error>;

    /// Records from which an empty machine gets this state.
    fn snapshot(&self) -> Vec<NewRecord>;
}

/// What a machine wants to happen.
pub struct Decision<M: Machine> {
    /// To be appended together; the host applies them at once.
    pub records: Vec<NewRecord>,
    pub effects: Vec<M::Effect>,
    /// Commands to give back to the machine at or after a time (milliseconds since 1970). Forgotten with the machine.
    pub timers: Vec<(i64, M::Command)>,
}

impl<M: Machine> Default for Decision<M> {
    fn default() -> Decision<M> {
        Decision { records: Vec::new(), effects: Vec::new(), timers: Vec::new() }
    }
}

/// An ordered log of records with one writer at a time.
///
/// Guarantees: an append at an offset that is not the end any more changes nothing and says [`Error::NotLeader`] or
/// [`Error::OutOfRange`]; what it acknowledges is durable. After any other error its outcome is unknown.
#[async_trait]
pub trait Journal: Send + Sync {
    /// Appends the records together if the journal still ends at `at`; returns where it ends then.
    async fn append(&self, at: Offset, records: Vec<NewRecord>) -> Result<Offset, Error>;
    /// Records from `from` on, about `bytes_max` bytes, and where to read on; nothing new when that is `from`.
    async fn read(&self, from: Offset, bytes_max: usize) -> Result<(Vec<RecordView>, Offset), Error>;
    /// Where the oldest record is.
    async fn start(&self) -> Result<Offset, Error>;
}

/// Does what machines want done outside.
#[async_trait]
pub trait Effects<E>: Send {
    async fn run(&mut self, effect: E) -> Result<(), Error>;
}

/// For machines whose effects are nothing.
pub struct NoEffects;

#[async_trait]
impl<E: Send + 'static> Effects<E> for NoEffects {
    async fn run(&mut self, _effect: E) -> Result<(), Error> {
        Ok(())
    }
}

type Asked<M> = (<M as Machine>::Command, oneshot::Sender<Result<<M as Machine>::Reply, Error>>);

/// A handle to a running machine. Clones share it; it ends when the last is gone.
pub struct Host<M: Machine> {
    send: mpsc::Sender<Asked<M>>,
}

impl<M: Machine> Clone for Host<M> {
    fn clone(&self) -> Host<M> {
        Host { send: self.send.clone() }
    }
}

impl<M: Machine> Host<M> {
    /// Loads the machine from its journal and runs it. Returns when it is loaded and leads.
    pub async fn start(
        env: &Env,
        name: &'static str,
        journal: Arc<dyn Journal>,
        machine: M,
        effects: Box<dyn Effects<M::Effect>>,
    ) -> Result<Host<M>, Error> {
        let mut runner =
            Runner { env: env.clone(), name, journal, machine, effects, end: Offset(0), timers: Vec::new() };
        runner.load().await?;
        let now_ms = env.now_ms();
        let decision = runner.machine.loaded(now_ms);
        runner.carry_out(vec![(None, decision)]).await?;
        let (send, receive) = mpsc::channel(MAILBOX);
        drop(env.spawn(name, runner.run(receive)));
        Ok(Host { send })
    }

    /// Gives the machine a command; returns its reply when everything the reply rests on is durable and the effects
    /// decided up to then are done. A dropped future may have had its effect or not.
    pub async fn ask(&self, command: M::Command) -> Result<M::Reply, Error> {
        let (reply, outcome) = oneshot::channel();
        let gone = |_| Error::Closed("the machine has stopped".to_owned());
        self.send.send((command, reply)).await.map_err(gone)?;
        outcome.await.map_err(|_| Error::Unknown)?
    }
}

type Answer<M> = Option<(<M as Machine>::Reply, Option<oneshot::Sender<Result<<M as Machine>::Reply, Error>>>)>;

struct Runner<M: Machine> {
    env: Env,
    name: &'static str,
    journal: Arc<dyn Journal>,
    machine: M,
    effects: Box<dyn Effects<M::Effect>>,
    end: Offset,
    /// By time, soonest last.
    timers: Vec<(i64, M::Command)>,
}

impl<M: Machine> Runner<M> {
    async fn load(&mut self) -> Result<(), Error> {
        self.end = self.journal.start().await?;
        loop {
            let (records, next) = self.journal.read(self.end, LOAD_BYTES).await?;
            for record in &records {
                self.machine.apply(record)?;
            }
            if next == self.end {
                return Ok(());
            }
            self.end = next;
        }
    }

    async fn run(mut self, mut mailbox: mpsc::Receiver<Asked<M>>) {
        loop {
            let wait = self.until_timer();
            let sleep = self.env.sleep(wait.unwrap_or(Duration::MAX));
            let first = tokio::select! {
                biased;
                asked = mailbox.recv() => match asked {
                    Some((command, reply)) => Some((command, Some(reply))),
                    None => return,
                },
                () = sleep, if wait.is_some() => None,
            };
            let mut commands: VecDeque<_> = first.into_iter().collect();
            let now_ms = self.env.now_ms();
            while self.timers.last().is_some_and(|(at, _)| *at <= now_ms) {
                commands.extend(self.timers.pop().map(|(_, command)| (command, None)));
            }
            while commands.len() < BURST {
                let Ok((command, reply)) = mailbox.try_recv() else { break };
                commands.push_back((command, Some(reply)));
            }
            let mut decisions = Vec::with_capacity(commands.len());
            for (command, reply) in commands {
                let (answer, decision) = self.machine.decide(now_ms, command);
                if let Err(error) = self.apply(&decision.records) {
                    return self.stop(&error);
                }
                decisions.push((Some((answer, reply)), decision));
            }
            if let Err(error) = self.carry_out(decisions).await {
                return self.stop(&error);
            }
        }
    }

    /// Commands that wait get [`Error::Unknown`], later ones [`Error::Closed`].
    fn stop(self, error: &Error) {
        tracing::error!(machine = self.name, %error, "a machine has stopped");
    }

    fn until_timer(&self) -> Option<Duration> {
        let (at, _) = self.timers.last()?;
        Some(Duration::from_millis(u64::try_from(at - self.env.now_ms()).unwrap_or(0)))
    }

    /// A machine sees its own decisions before they are durable; nobody else does.
    fn apply(&mut self, records: &[NewRecord]) -> Result<(), Error> {
        for record in records {
            let view = RecordView {
                offset: self.end,
                timestamp_ms: record.timestamp_ms.unwrap_or_else(|| self.env.now_ms()),
                key: record.key.clone(),
                value: record.value.clone(),
                // No headers: one byte, the count.
                headers: bytes::Bytes::from_static(&[0]),
            };
            self.machine.apply(&view)?;
            self.end = Offset(self.end.0 + 1);
        }
        Ok(())
    }

    async fn carry_out(&mut self, decisions: Vec<(Answer<M>, Decision<M>)>) -> Result<(), Error> {
        let mut records = Vec::new();
        let mut rest = Vec::with_capacity(decisions.len());
        for (answer, mut decision) in decisions {
            if answer.is_none() {
                self.apply(&decision.records)?;
            }
            records.append(&mut decision.records);
            rest.push((answer, decision));
        }
        if !records.is_empty() {
            let at = Offset(self.end.0 - records.len() as i64);
            let end = self.journal.append(at, records).await?;
            assert_eq!(end, self.end, "the journal ends behind what was appended");
        }
        for (answer, decision) in rest {
            for effect in decision.effects {
                self.effects.run(effect).await?;
            }
            self.timers.extend(decision.timers);
            if let Some((answer, Some(reply))) = answer {
                drop(reply.send(Ok(answer)));
            }
        }
        self.timers.sort_by_key(|(at, _)| std::cmp::Reverse(*at));
        Ok(())
    }
}
