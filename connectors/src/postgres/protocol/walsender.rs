//! A connection in replication mode: startup, authentication, the walsender's commands, and the way into CopyBoth.
//!
//! tokio-postgres has neither the startup parameter `replication` nor CopyBoth, so this is our own, on the messages of
//! `postgres-protocol`. Connections are not encrypted; `config` has refused what asks for it.

use std::time::Duration;

use bytes::BytesMut;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};
use postgres_protocol::message::frontend;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::{TcpStream, UnixStream};
use tokio_postgres::config::Host;

use super::super::error::Error;
use super::lsn::Lsn;
use super::wire::{self, FRAME_BYTES_MAX, Frames};

/// A command that does not wait for others answers in this time.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Frames during startup and commands are small.
const COMMAND_BYTES_MAX: usize = 1 << 20;

/// The session settings that make PostgreSQL's text forms what `types` reads, on every connection of ours.
pub const SESSION: &str = "-c TimeZone=UTC -c DateStyle=ISO,MDY -c IntervalStyle=postgres -c bytea_output=hex \
                           -c extra_float_digits=3 -c statement_timeout=0 -c lock_timeout=0 \
                           -c idle_in_transaction_session_timeout=0 -c idle_session_timeout=0 -c row_security=off";

trait Socket: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Socket for T {}

/// The receiving side.
pub struct Receiver {
    socket: ReadHalf<Box<dyn Socket>>,
    pub frames: Frames,
}

/// The sending side.
pub struct Sender(WriteHalf<Box<dyn Socket>>);

pub struct Walsender {
    receiver: Receiver,
    sender: Sender,
    /// Process id of the server's side.
    pub pid: i32,
}

/// What IDENTIFY_SYSTEM says.
#[derive(Clone, Debug)]
pub struct Identity {
    pub system: String,
    pub at: Lsn,
    pub database: String,
}

/// A slot just made, and the snapshot of the database exactly there. It lasts until the connection's next command.
#[derive(Clone, Debug)]
pub struct NewSlot {
    pub consistent_point: Lsn,
    pub snapshot: String,
}

impl Receiver {
    /// Reads some more bytes into `frames`. Cancel safe.
    pub async fn read(&mut self) -> Result<(), Error> {
        match self.socket.read_buf(self.frames.room()).await? {
            0 => Err(Error::Closed),
            _ => Ok(()),
        }
    }

    /// The next message, copied out. Cancel safe.
    async fn message(&mut self) -> Result<(u8, Vec<u8>), Error> {
        loop {
            if let Some(frame) = self.frames.peek()? {
                let message = (frame.tag, frame.body.to_vec());
                let size = frame.size();
                self.frames.consume(size);
                match message.0 {
                    b'E' => return Err(wire::server_error(&message.1)),
                    b'N' | b'S' => continue,
                    _ => return Ok(message),
                }
            }
            self.read().await?;
        }
    }
}

impl Sender {
    pub async fn send(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.0.write_all(bytes).await?;
        Ok(self.0.flush().await?)
    }
}

impl Walsender {
    pub async fn connect(config: &tokio_postgres::Config, application: &str) -> Result<Walsender, Error> {
        let timeout = config.get_connect_timeout().copied().unwrap_or(ANSWER_TIMEOUT);
        let connecting = async {
            let (read, write) = tokio::io::split(open(config).await?);
            let receiver = Receiver { socket: read, frames: Frames::new(COMMAND_BYTES_MAX) };
            let mut walsender = Walsender { receiver, sender: Sender(write), pid: 0 };
            walsender.start(config, application).await?;
            Ok(walsender)
        };
        tokio::time::timeout(timeout, connecting).await.map_err(|_| Error::Timeout(timeout))?
    }

    pub async fn identify(&mut self) -> Result<Identity, Error> {
        let rows = self.query("IDENTIFY_SYSTEM", ANSWER_TIMEOUT).await?;
        let unexpected = || Error::Protocol(format!("IDENTIFY_SYSTEM answered {rows:?}"));
        match rows.first().map(Vec::as_slice) {
            Some([Some(system), _, Some(at), Some(database), ..]) => Ok(Identity {
                system: system.clone(),
                at: at.parse().map_err(|()| unexpected())?,
                database: database.clone(),
            }),
            _ => Err(unexpected()),
        }
    }

    /// After how long without a word the server gives us up; `None` when never.
    pub async fn server_timeout(&mut self) -> Result<Option<Duration>, Error> {
        let rows = self.query("SHOW wal_sender_timeout", ANSWER_TIMEOUT).await?;
        let text = rows.first().and_then(|row| row.first()?.as_deref()).unwrap_or_default();
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let unexpected = || Error::Protocol(format!("wal_sender_timeout is {text:?}"));
        let unit_ms = match &text[digits.len()..] {
            "ms" | "" => 1,
            "s" => 1000,
            "min" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(unexpected()),
        };
        let count: u64 = digits.parse().map_err(|_| unexpected())?;
        Ok((count > 0).then(|| Duration::from_millis(count.saturating_mul(unit_ms))))
    }

    /// Makes a slot and exports its snapshot. The server waits for all transactions that are open now.
    pub async fn create_slot(&mut self, slot: &str, version: u32, patience: Duration) -> Result<NewSlot, Error> {
        let snapshot = if version >= 150_000 { "(SNAPSHOT 'export')" } else { "EXPORT_SNAPSHOT" };
        let command = format!("CREATE_REPLICATION_SLOT {} LOGICAL pgoutput {snapshot}", quoted(slot));
        let rows = self.query(&command, patience).await?;
        match rows.first().map(Vec::as_slice) {
            Some([_, Some(point), Some(snapshot), ..]) => Ok(NewSlot {
                consistent_point: point.parse().map_err(|()| Error::Protocol(format!("{point:?} is no LSN")))?,
                snapshot: snapshot.clone(),
            }),
            _ => Err(Error::Protocol(format!("CREATE_REPLICATION_SLOT answered {rows:?}"))),
        }
    }

    /// Goes over to streaming. Everything committed at or after `from` arrives.
    pub async fn stream(mut self, slot: &str, publication: &str, from: Lsn) -> Result<(Receiver, Sender), Error> {
        let command = format!(
            "START_REPLICATION SLOT {} LOGICAL {from} (proto_version '1', publication_names {})",
            quoted(slot),
            literal(&quoted(publication)),
        );
        self.send_query(&command).await?;
        let receiver = &mut self.receiver;
        let (tag, _) = tokio::time::timeout(ANSWER_TIMEOUT, receiver.message())
            .await
            .map_err(|_| Error::Timeout(ANSWER_TIMEOUT))??;
        if tag != b'W' {
            return Err(Error::Protocol(format!("START_REPLICATION answered {:?}", char::from(tag))));
        }
        let Receiver { socket, frames } = self.receiver;
        Ok((Receiver { socket, frames: frames.with_bytes_max(FRAME_BYTES_MAX) }, self.sender))
    }

    async fn send_query(&mut self, sql: &str) -> Result<(), Error> {
        let mut out = BytesMut::new();
        frontend::query(sql, &mut out)?;
        self.sender.send(&out).await
    }

    async fn query(&mut self, sql: &str, patience: Duration) -> Result<Vec<Vec<Option<String>>>, Error> {
        let answering = async {
            self.send_query(sql).await?;
            let mut rows = Vec::new();
            loop {
                match self.receiver.message().await? {
                    (b'D', body) => rows.push(wire::data_row(&body)?),
                    (b'Z', _) => return Ok(rows),
                    (b'T' | b'C', _) => {}
                    (tag, _) => return Err(Error::Protocol(format!("message {:?} after a query", char::from(tag)))),
                }
            }
        };
        tokio::time::timeout(patience, answering).await.map_err(|_| Error::Timeout(patience))?
    }

    async fn start(&mut self, config: &tokio_postgres::Config, application: &str) -> Result<(), Error> {
        let user = config.get_user().unwrap_or("postgres");
        let options = match config.get_options() {
            Some(given) => format!("{given} {SESSION}"),
            None => SESSION.to_owned(),
        };
        let parameters = [
            ("user", user),
            ("database", config.get_dbname().unwrap_or(user)),
            ("replication", "database"),
            ("client_encoding", "UTF8"),
            ("application_name", application),
            ("options", &options),
        ];
        let mut out = BytesMut::new();
        frontend::startup_message(parameters, &mut out)?;
        self.sender.send(&out).await?;
        self.authenticate(user, config.get_password()).await?;
        loop {
            match self.receiver.message().await? {
                (b'K', body) if body.len() >= 4 => {
                    self.pid = i32::from_be_bytes(body[..4].try_into().expect("four bytes"));
                }
                (b'Z', _) => return Ok(()),
                (b'v', _) => {}
                (tag, _) => return Err(Error::Protocol(format!("message {:?} at startup", char::from(tag)))),
            }
        }
    }

    async fn authenticate(&mut self, user: &str, password: Option<&[u8]>) -> Result<(), Error> {
        let needed = || password.ok_or_else(|| Error::Authentication("the server wants a password".into()));
        let mut out = BytesMut::new();
        loop {
            let (code, body) = self.authentication().await?;
            out.clear();
            match code {
                0 => return Ok(()),
                3 => frontend::password_message(needed()?, &mut out)?,
                5 => {
                    let salt = body.try_into().map_err(|_| Error::Protocol("an MD5 salt of a wrong length".into()))?;
                    frontend::password_message(md5_hash(user.as_bytes(), needed()?, salt).as_bytes(), &mut out)?;
                }
                10 => {
                    self.scram(&body, needed()?).await?;
                    continue;
                }
                7..=9 => return Err(Error::Authentication("GSSAPI and SSPI are not supported".into())),
                other => return Err(Error::Authentication(format!("method {other} is not supported"))),
            }
            self.sender.send(&out).await?;
        }
    }

    async fn scram(&mut self, mechanisms: &[u8], password: &[u8]) -> Result<(), Error> {
        if !mechanisms.split(|&byte| byte == 0).any(|name| name == SCRAM_SHA_256.as_bytes()) {
            let offered = String::from_utf8_lossy(mechanisms).replace('\0', " ");
            return Err(Error::Authentication(format!(
                "of the methods offered ({}) none is supported",
                offered.trim()
            )));
        }
        let failed = |error: std::io::Error| Error::Authentication(error.to_string());
        let mut scram = ScramSha256::new(password, ChannelBinding::unsupported());
        let mut out = BytesMut::new();
        frontend::sasl_initial_response(SCRAM_SHA_256, scram.message(), &mut out)?;
        self.sender.send(&out).await?;
        let (code, challenge) = self.authentication().await?;
        if code != 11 {
            return Err(Error::Protocol(format!("authentication message {code} instead of a SASL challenge")));
        }
        scram.update(&challenge).map_err(failed)?;
        out.clear();
        frontend::sasl_response(scram.message(), &mut out)?;
        self.sender.send(&out).await?;
        match self.authentication().await? {
            (12, last) => scram.finish(&last).map_err(failed),
            (code, _) => Err(Error::Protocol(format!("authentication message {code} instead of SASL's end"))),
        }
    }

    /// An authentication request: its code and what follows.
    async fn authentication(&mut self) -> Result<(u32, Vec<u8>), Error> {
        match self.receiver.message().await? {
            (b'R', body) if body.len() >= 4 => {
                Ok((u32::from_be_bytes(body[..4].try_into().expect("four bytes")), body[4..].to_vec()))
            }
            (tag, _) => Err(Error::Protocol(format!("message {:?} instead of authentication", char::from(tag)))),
        }
    }
}

/// `config` has exactly one host: checked where the options are read.
async fn open(config: &tokio_postgres::Config) -> Result<Box<dyn Socket>, Error> {
    let port = config.get_ports().first().copied().unwrap_or(5432);
    if let Some(address) = config.get_hostaddrs().first() {
        return Ok(Box::new(tcp(TcpStream::connect((*address, port)).await?)?));
    }
    match config.get_hosts().first() {
        Some(Host::Tcp(host)) => Ok(Box::new(tcp(TcpStream::connect((host.as_str(), port)).await?)?)),
        Some(Host::Unix(folder)) => Ok(Box::new(UnixStream::connect(folder.join(format!(".s.PGSQL.{port}"))).await?)),
        None => Err(Error::Protocol("no host".into())),
    }
}

fn tcp(stream: TcpStream) -> Result<TcpStream, Error> {
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// An identifier, quoted.
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A string literal. Backslashes are themselves: `standard_conforming_strings` rules both SQL and the walsender.
pub fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
