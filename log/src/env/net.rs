//! Sockets: TCP in the real world, pipes in memory in the simulated one.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

/// Connections that wait to be accepted in simulation; the usual backlog.
const BACKLOG: usize = 128;
/// Bytes in flight in one direction of a simulated connection.
const PIPE_BYTES: usize = 64 * 1024;

/// Accepts connections.
pub struct Listener {
    address: SocketAddr,
    kind: ListenerKind,
}

enum ListenerKind {
    Real(TcpListener),
    Simulated { incoming: mpsc::Receiver<(DuplexStream, SocketAddr)>, net: Arc<SimNet> },
}

/// One connection, in both directions. TCP_NODELAY is on.
pub struct Stream {
    kind: StreamKind,
}

enum StreamKind {
    Real(TcpStream),
    Simulated(DuplexStream),
}

impl Listener {
    pub(super) async fn real(address: &str) -> io::Result<Listener> {
        let listener = TcpListener::bind(address).await?;
        Ok(Listener { address: listener.local_addr()?, kind: ListenerKind::Real(listener) })
    }

    /// Where it listens: the port taken where 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The next connection and its other end's address. Cancel safe.
    pub async fn accept(&mut self) -> io::Result<(Stream, SocketAddr)> {
        match &mut self.kind {
            ListenerKind::Real(listener) => {
                let (stream, from) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok((Stream { kind: StreamKind::Real(stream) }, from))
            }
            ListenerKind::Simulated { incoming, .. } => match incoming.recv().await {
                Some((stream, from)) => Ok((Stream { kind: StreamKind::Simulated(stream) }, from)),
                None => Err(io::ErrorKind::NotConnected.into()),
            },
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let ListenerKind::Simulated { net, .. } = &self.kind {
            net.lock().listeners.remove(&self.address.port());
        }
    }
}

impl Stream {
    pub(super) async fn real(address: &str) -> io::Result<Stream> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Stream { kind: StreamKind::Real(stream) })
    }

    /// The address of this end, by which the other end reached it; unknown in simulation.
    pub fn local_address(&self) -> Option<SocketAddr> {
        match &self.kind {
            StreamKind::Real(stream) => stream.local_addr().ok(),
            StreamKind::Simulated(_) => None,
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.kind {
            StreamKind::Real(stream) => Pin::new(stream).poll_read(cx, into),
            StreamKind::Simulated(stream) => Pin::new(stream).poll_read(cx, into),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.kind {
            StreamKind::Real(stream) => Pin::new(stream).poll_write(cx, from),
            StreamKind::Simulated(stream) => Pin::new(stream).poll_write(cx, from),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        from: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.kind {
            StreamKind::Real(stream) => Pin::new(stream).poll_write_vectored(cx, from),
            StreamKind::Simulated(stream) => Pin::new(stream).poll_write_vectored(cx, from),
        }
    }

    fn is_write_vectored(&self) -> bool {
        matches!(&self.kind, StreamKind::Real(_))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.kind {
            StreamKind::Real(stream) => Pin::new(stream).poll_flush(cx),
            StreamKind::Simulated(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.kind {
            StreamKind::Real(stream) => Pin::new(stream).poll_shutdown(cx),
            StreamKind::Simulated(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// The simulated network: one host, ports by number.
pub(super) struct SimNet {
    ports: Mutex<Ports>,
    this: std::sync::Weak<SimNet>,
}

struct Ports {
    listeners: BTreeMap<u16, mpsc::Sender<(DuplexStream, SocketAddr)>>,
    next: u16,
}

impl SimNet {
    pub(super) fn new() -> Arc<SimNet> {
        let ports = Ports { listeners: BTreeMap::new(), next: 40_000 };
        Arc::new_cyclic(|this| SimNet { ports: Mutex::new(ports), this: this.clone() })
    }

    fn lock(&self) -> MutexGuard<'_, Ports> {
        self.ports.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn listen(&self, address: &str) -> io::Result<Listener> {
        let asked = port_of(address)?;
        let mut ports = self.lock();
        let port = if asked == 0 { ports.free_port() } else { asked };
        let (send, incoming) = mpsc::channel(BACKLOG);
        if ports.listeners.insert(port, send).is_some() {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        drop(ports);
        let net = self.this.upgrade().expect("a method of it runs");
        Ok(Listener { address: local(port), kind: ListenerKind::Simulated { incoming, net } })
    }

    pub(super) async fn connect(&self, address: &str) -> io::Result<Stream> {
        let port = port_of(address)?;
        let (listener, from) = {
            let mut ports = self.lock();
            let listener = ports.listeners.get(&port).cloned().ok_or(io::ErrorKind::ConnectionRefused)?;
            (listener, local(ports.free_port()))
        };
        let (ours, theirs) = tokio::io::duplex(PIPE_BYTES);
        let refused = |_| io::Error::from(io::ErrorKind::ConnectionRefused);
        listener.send((theirs, from)).await.map_err(refused)?;
        Ok(Stream { kind: StreamKind::Simulated(ours) })
    }

    pub(super) fn clear(&self) {
        let listeners = std::mem::take(&mut self.lock().listeners);
        drop(listeners);
    }
}

impl Ports {
    fn free_port(&mut self) -> u16 {
        self.next = if self.next == u16::MAX { 40_000 } else { self.next + 1 };
        self.next
    }
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

fn port_of(address: &str) -> io::Result<u16> {
    let port = address.rsplit(':').next().and_then(|port| port.parse().ok());
    port.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))
}
