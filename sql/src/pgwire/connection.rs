//! One connection: start-up, then messages one after the other, each handed to its [`Client`].

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::AsyncReadExt;
use tokio::sync::watch;

use super::client::{Client, Interrupts};
use super::frame::{self, Frontend, Startup};
use super::output::{FLUSH_BYTES, Output};
use super::{Limits, Registered, Registry};
use crate::error::{Error, Result, sqlstate};
use crate::session::{Server, Session};

/// Time a client has from connecting to the end of its start-up.
const STARTUP_TIME_MAX: Duration = Duration::from_secs(60);
/// Bytes read at a time.
const READ_BYTES: usize = 16 * 1024;

pub type IoResult<T> = std::io::Result<T>;

pub struct Connection {
    stream: log::env::Stream,
    server: Arc<Server>,
    registry: Arc<Registry>,
    limits: Limits,
    stop: watch::Receiver<bool>,
    /// Whether there is room for one more connection.
    welcome: bool,
    input: BytesMut,
    output: Output,
}

/// What came in, or that nothing will.
enum Incoming<T> {
    Message(T),
    /// The client has gone, or told us to go.
    End,
}

impl Connection {
    pub fn new(
        stream: log::env::Stream,
        server: Arc<Server>,
        registry: Arc<Registry>,
        limits: Limits,
        stop: watch::Receiver<bool>,
        welcome: bool,
    ) -> Self {
        let (input, output) = (BytesMut::new(), Output::default());
        Self { stream, server, registry, limits, stop, welcome, input, output }
    }

    /// Serves until the client goes or the server stops.
    pub async fn serve(mut self) -> IoResult<()> {
        let env = self.server.env.clone();
        let Some(Ok(Some((session, registered, cancelled)))) = env.timeout(STARTUP_TIME_MAX, self.start()).await else {
            return Ok(());
        };
        let mut client = Client::new(session, registered, Interrupts { cancelled, stop: self.stop.clone() });
        loop {
            let message = match self.receive(|input, limits| frame::message(input, limits.message_bytes_max)).await? {
                Incoming::Message(message) => message,
                Incoming::End => return Ok(()),
            };
            if message == Frontend::Terminate {
                return Ok(());
            }
            client.handle(message, &mut self.output, &mut self.stream).await?;
            if self.output.len() >= FLUSH_BYTES {
                self.output.flush(&mut self.stream).await?;
            }
            if *self.stop.borrow() {
                return self.say_goodbye().await;
            }
        }
    }

    /// Negotiates until the session stands; `None` when it does not come to that.
    async fn start(&mut self) -> IoResult<Option<(Session, Registered, watch::Receiver<u64>)>> {
        loop {
            match self.receive(|input, _| frame::startup(input)).await? {
                Incoming::End => return Ok(None),
                Incoming::Message(Startup::Ssl | Startup::Gss) => {
                    self.output.refuse_encryption();
                    self.output.flush(&mut self.stream).await?;
                }
                Incoming::Message(Startup::Cancel { pid, key }) => {
                    self.registry.cancel(pid, key);
                    return Ok(None);
                }
                Incoming::Message(Startup::Start { minor, parameters }) => {
                    return self.open(minor, parameters).await;
                }
            }
        }
    }

    async fn open(
        &mut self,
        minor: u16,
        parameters: Vec<(String, String)>,
    ) -> IoResult<Option<(Session, Registered, watch::Receiver<u64>)>> {
        let unknown: Vec<String> =
            parameters.iter().map(|(name, _)| name).filter(|n| n.starts_with("_pq_.")).cloned().collect();
        if minor > 0 || !unknown.is_empty() {
            self.output.negotiate(unknown);
        }
        let session = match self.welcome {
            true => Session::open(&self.server, &parameters),
            false => Err(Error::new(sqlstate::TOO_MANY_CONNECTIONS, "sorry, too many clients already")
                .detail(format!("the limit is {} connections", self.limits.connections_max))),
        };
        let session = match session {
            Ok(session) => session,
            Err(error) => {
                self.output.error(&error, true);
                self.output.flush(&mut self.stream).await?;
                return Ok(None);
            }
        };
        let key = self.server.env.random_u64() as i32;
        let (registered, cancelled) = self.registry.enter(key);
        self.output.authenticated(registered.pid, key);
        for (name, value) in session.reported() {
            self.output.parameter(name, value);
        }
        self.output.ready(session.transaction());
        self.output.flush(&mut self.stream).await?;
        Ok(Some((session, registered, cancelled)))
    }

    /// The next message. What is buffered for the client is sent before waiting. Cancel safe.
    async fn receive<T>(
        &mut self,
        decode: impl Fn(&mut BytesMut, &Limits) -> Result<Option<T>, frame::FrameError>,
    ) -> IoResult<Incoming<T>> {
        loop {
            match decode(&mut self.input, &self.limits) {
                Ok(Some(message)) => return Ok(Incoming::Message(message)),
                Ok(None) => {}
                Err(error) => {
                    let error = Error::new(sqlstate::PROTOCOL_VIOLATION, error.to_string()).caused_by(error);
                    self.output.error(&error, true);
                    self.output.flush(&mut self.stream).await?;
                    return Ok(Incoming::End);
                }
            }
            if self.output.len() > 0 {
                self.output.flush(&mut self.stream).await?;
            }
            // The buffer grows with what really comes, never by a length field.
            self.input.reserve(READ_BYTES);
            let read = tokio::select! {
                biased;
                _ = self.stop.wait_for(|stop| *stop) => None,
                read = self.stream.read_buf(&mut self.input) => Some(read?),
            };
            match read {
                Some(0) => return Ok(Incoming::End),
                Some(_) => {}
                None => {
                    self.say_goodbye().await?;
                    return Ok(Incoming::End);
                }
            }
        }
    }

    async fn say_goodbye(&mut self) -> IoResult<()> {
        let error = Error::new(sqlstate::ADMIN_SHUTDOWN, "terminating connection due to administrator command");
        self.output.error(&error, true);
        self.output.flush(&mut self.stream).await
    }
}
