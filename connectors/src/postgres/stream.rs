//! The two drivers of a stream: [`follow`] reads and hands over, [`report`] tells the server how far we are. They share
//! nothing but [`Progress`], so the server hears from us however long downstream stalls.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::BytesMut;
use engine::io::{self, SourceBatch};
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use super::config::Pace;
use super::error::Error;
use super::protocol::lsn::Lsn;
use super::protocol::walsender::{Receiver, Sender};
use super::protocol::wire::{self, Replication};
use super::session::Session;
use super::watch::Doubts;

/// How far the stream has come.
#[derive(Debug)]
pub struct Progress {
    received: AtomicU64,
    durable: AtomicU64,
    /// The next report wants an answer.
    asks: AtomicBool,
    /// The server wants to hear from us at once, or we from it.
    urgent: Notify,
}

impl Progress {
    pub fn new(from: Lsn) -> Progress {
        let at = || AtomicU64::new(from.0);
        Progress { received: at(), durable: at(), asks: AtomicBool::new(false), urgent: Notify::new() }
    }

    /// Everything before `end` rests in the log.
    pub fn durable(&self, end: Lsn) {
        self.durable.fetch_max(end.0, Ordering::Relaxed);
    }

    /// Asks the server to say something.
    fn ask(&self) {
        self.asks.store(true, Ordering::Relaxed);
        self.urgent.notify_one();
    }

    fn received(&self, at: Lsn) {
        self.received.fetch_max(at.0, Ordering::Relaxed);
    }
}

/// Reads the stream and hands chunks over, until it ends in an error or nobody listens (`Ok`). While downstream is
/// busy, chunks grow up to their bound; then nothing more is read. While nothing comes, an empty one is handed over now
/// and then. A server that says nothing for `silence`, although it was asked to after half of it, is given up, as the
/// server gives up a client that is silent for so long.
pub async fn follow(
    mut receiver: Receiver,
    mut session: Session,
    progress: &Progress,
    out: &mpsc::Sender<Result<SourceBatch, io::Error>>,
    doubts: Doubts,
    pace: Pace,
    silence: Duration,
) -> Result<(), Error> {
    // At once for the first time: it says that the stream has begun.
    let mut idle_at = Instant::now();
    let mut quiet = Quiet::new(silence);
    loop {
        while !session.is_full()
            && let Some(frame) = receiver.frames.peek()?
        {
            take_frame(frame, &mut session, progress)?;
            let size = frame.size();
            receiver.frames.consume(size);
            if let Some(xid) = session.take_doubt() {
                doubts.settle(xid, silence).await?;
                quiet.heard();
            }
        }
        let due = Instant::now() >= idle_at || session.is_hurried() && session.idle_bytes() > 0;
        let idle = session.is_between() && (due || session.idle_bytes() >= pace.idle_bytes);
        let ready = session.is_full() || session.is_whole() || idle;
        tokio::select! {
            biased;
            permit = out.reserve(), if ready => {
                let Ok(permit) = permit else { return Ok(()) };
                if session.is_full() {
                    // Nothing was read meanwhile: the silence was ours.
                    quiet.heard();
                }
                permit.send(Ok(session.take()));
                idle_at = Instant::now() + pace.idle;
            }
            read = receiver.read(), if !session.is_full() => {
                read?;
                quiet.heard();
            }
            () = tokio::time::sleep_until(quiet.until()), if !session.is_full() => {
                if quiet.asked {
                    return Err(Error::Silent(silence));
                }
                quiet.asked = true;
                progress.ask();
            }
            () = tokio::time::sleep_until(idle_at), if !ready && session.is_between() => {}
            () = out.closed() => return Ok(()),
        }
    }
}

/// Since when the server has said nothing.
struct Quiet {
    silence: Duration,
    since: Instant,
    asked: bool,
}

impl Quiet {
    fn new(silence: Duration) -> Quiet {
        Quiet { silence, since: Instant::now(), asked: false }
    }

    fn heard(&mut self) {
        self.since = Instant::now();
        self.asked = false;
    }

    /// When something is to be done about it.
    fn until(&self) -> Instant {
        self.since + if self.asked { self.silence } else { self.silence / 2 }
    }
}

fn take_frame(frame: wire::Frame<'_>, session: &mut Session, progress: &Progress) -> Result<(), Error> {
    match frame.tag {
        b'd' => match wire::replication(frame.body)? {
            Replication::Data { start, body } => {
                progress.received(start);
                session.message(start, body, now_us())
            }
            Replication::Keepalive { end, reply_wanted } => {
                progress.received(end);
                session.progress(end);
                if reply_wanted {
                    session.hurry();
                    progress.urgent.notify_one();
                }
                Ok(())
            }
        },
        b'E' => Err(wire::server_error(frame.body)),
        b'N' | b'S' => Ok(()),
        // CopyDone and what follows it: the server is shutting down.
        b'c' | b'C' | b'Z' => Err(Error::Closed),
        other => Err(Error::Protocol(format!("message {:?} in the stream", char::from(other)))),
    }
}

/// A server that stops asks again with every answer until everything is durable; it is not answered faster than this.
const REPORT_EVERY_MIN: Duration = Duration::from_millis(10);

/// Reports on a timer and when asked, until the connection fails.
pub async fn report(mut sender: Sender, progress: &Progress, interval: Duration) -> Result<(), Error> {
    let mut message = BytesMut::with_capacity(64);
    loop {
        tokio::select! {
            biased;
            () = progress.urgent.notified() => {}
            () = tokio::time::sleep(interval) => {}
        }
        let durable = Lsn(progress.durable.load(Ordering::Relaxed));
        let received = Lsn(progress.received.load(Ordering::Relaxed)).max(durable);
        message.clear();
        let asks = progress.asks.swap(false, Ordering::Relaxed);
        wire::status_update(&mut message, received, durable, now_us(), asks);
        sender.send(&message).await?;
        tokio::time::sleep(REPORT_EVERY_MIN).await;
    }
}

/// Microseconds since 1970; a clock before that counts as 1970.
fn now_us() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}
