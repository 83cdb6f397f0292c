//! The two drivers of a stream: [`follow`] reads and hands over, [`report`] tells the server how far we are. They share
//! nothing but [`Progress`], so the server hears from us however long downstream stalls.

use std::sync::atomic::{AtomicU64, Ordering};
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

/// How far the stream has come.
#[derive(Debug)]
pub struct Progress {
    received: AtomicU64,
    durable: AtomicU64,
    /// The server wants to hear from us at once.
    urgent: Notify,
}

impl Progress {
    pub fn new(from: Lsn) -> Progress {
        Progress { received: AtomicU64::new(from.0), durable: AtomicU64::new(from.0), urgent: Notify::new() }
    }

    /// Everything before `end` rests in the log.
    pub fn durable(&self, end: Lsn) {
        self.durable.fetch_max(end.0, Ordering::Relaxed);
    }

    fn received(&self, at: Lsn) {
        self.received.fetch_max(at.0, Ordering::Relaxed);
    }
}

/// Reads the stream and hands chunks over, until it ends in an error or nobody listens (`Ok`). While downstream is
/// busy, chunks grow up to their bound; then nothing more is read.
pub async fn follow(
    mut receiver: Receiver,
    mut session: Session,
    progress: &Progress,
    out: &mpsc::Sender<Result<SourceBatch, io::Error>>,
    pace: Pace,
) -> Result<(), Error> {
    let mut idle_at = Instant::now() + pace.idle;
    loop {
        while !session.is_full()
            && let Some(frame) = receiver.frames.peek()?
        {
            take_frame(frame, &mut session, progress)?;
            let size = frame.size();
            receiver.frames.consume(size);
        }
        let idle_bytes = session.idle_bytes();
        let due = session.is_hurried() || Instant::now() >= idle_at;
        let idle = idle_bytes >= pace.idle_bytes || idle_bytes > 0 && due;
        let ready = session.is_full() || session.is_whole() || idle;
        tokio::select! {
            biased;
            permit = out.reserve(), if ready => {
                let Ok(permit) = permit else { return Ok(()) };
                permit.send(Ok(session.take()));
                idle_at = Instant::now() + pace.idle;
            }
            read = receiver.read(), if !session.is_full() => read?,
            () = tokio::time::sleep_until(idle_at), if !ready && idle_bytes > 0 => {}
            () = out.closed() => return Ok(()),
        }
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
        wire::status_update(&mut message, received, durable, now_us());
        sender.send(&message).await?;
        tokio::time::sleep(REPORT_EVERY_MIN).await;
    }
}

/// Microseconds since 1970; a clock before that counts as 1970.
fn now_us() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}
