//! PostgreSQL's message framing without IO: frames out of a growing buffer, the answers the walsender gives, and the
//! messages inside CopyBoth. Layout: `tag: u8, length: u32 (with itself), body`.

use bytes::{BufMut, BytesMut};

use super::super::error::Error;
use super::lsn::{Lsn, to_pg_us};

/// PostgreSQL's own limit of a message.
pub const FRAME_BYTES_MAX: usize = 1 << 30;
/// The buffer grows by at least this; never by what a length field merely claims.
const READ_BYTES: usize = 64 << 10;

/// One message in the buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    pub tag: u8,
    pub body: &'a [u8],
}

impl Frame<'_> {
    /// Bytes to [`Frames::consume`] when it has been dealt with.
    pub fn size(&self) -> usize {
        self.body.len() + 5
    }
}

/// Bytes received and not dealt with yet.
#[derive(Debug)]
pub struct Frames {
    buffer: BytesMut,
    bytes_max: usize,
}

impl Frames {
    pub fn new(bytes_max: usize) -> Frames {
        Frames { buffer: BytesMut::new(), bytes_max }
    }

    /// The same bytes under another limit.
    pub fn with_bytes_max(self, bytes_max: usize) -> Frames {
        Frames { bytes_max, ..self }
    }

    /// The buffer with room for the next read. It at most doubles, so an announced length costs nothing until the bytes
    /// arrive.
    pub fn room(&mut self) -> &mut BytesMut {
        if self.buffer.capacity() - self.buffer.len() < READ_BYTES / 2 {
            self.buffer.reserve(READ_BYTES.max(self.buffer.len()));
        }
        &mut self.buffer
    }

    /// The next whole message, if there is one.
    pub fn peek(&self) -> Result<Option<Frame<'_>>, Error> {
        let Some((header, rest)) = self.buffer.split_at_checked(5) else { return Ok(None) };
        let length = u32::from_be_bytes(header[1..].try_into().expect("four bytes")) as usize;
        let Some(size) = length.checked_sub(4) else {
            return Err(Error::Protocol(format!("a message of length {length}")));
        };
        if size > self.bytes_max {
            return Err(Error::TooLarge { size, limit: self.bytes_max });
        }
        Ok(rest.get(..size).map(|body| Frame { tag: header[0], body }))
    }

    pub fn consume(&mut self, size: usize) {
        bytes::Buf::advance(&mut self.buffer, size);
    }
}

/// What an ErrorResponse or NoticeResponse says: fields of a letter and a string each, ended by a zero byte.
pub fn server_error(body: &[u8]) -> Error {
    let (mut severity, mut code, mut message) = (String::from("ERROR"), String::from("XX000"), String::new());
    let (mut detail, mut hint) = (None, None);
    for field in body.split(|&byte| byte == 0) {
        let Some((letter, text)) = field.split_first() else { continue };
        let text = String::from_utf8_lossy(text).into_owned();
        match letter {
            b'V' => severity = text,
            b'C' => code = text,
            b'M' => message = text,
            b'D' => detail = Some(text),
            b'H' => hint = Some(text),
            _ => {}
        }
    }
    Error::Server { severity, code, message, detail, hint }
}

/// The columns of a DataRow, as text.
pub fn data_row(body: &[u8]) -> Result<Vec<Option<String>>, Error> {
    let short = || Error::Protocol("a data row ends early".into());
    let (count, mut rest) = body.split_first_chunk::<2>().ok_or_else(short)?;
    let mut row = Vec::new();
    for _ in 0..u16::from_be_bytes(*count) {
        let (length, after) = rest.split_first_chunk::<4>().ok_or_else(short)?;
        let length = i32::from_be_bytes(*length);
        rest = after;
        row.push(match usize::try_from(length) {
            Err(_) => None,
            Ok(length) => {
                let (text, after) = rest.split_at_checked(length).ok_or_else(short)?;
                rest = after;
                Some(String::from_utf8_lossy(text).into_owned())
            }
        });
    }
    Ok(row)
}

/// A message of the replication stream, inside CopyData.
#[derive(Debug, PartialEq, Eq)]
pub enum Replication<'a> {
    /// A message of the output plugin; `start` is the place of the change.
    Data { start: Lsn, body: &'a [u8] },
    /// All that was committed before `end` has been sent.
    Keepalive { end: Lsn, reply_wanted: bool },
}

/// Reads `w start: u64, end: u64, clock: i64, message` or `k end: u64, clock: i64, reply: u8`.
pub fn replication(body: &[u8]) -> Result<Replication<'_>, Error> {
    let u64_at = |at: usize| Some(u64::from_be_bytes(body.get(at..at + 8)?.try_into().ok()?));
    let parsed = match body.first() {
        Some(b'w') => body.get(25..).and_then(|rest| Some(Replication::Data { start: Lsn(u64_at(1)?), body: rest })),
        Some(b'k') if body.len() == 18 => {
            u64_at(1).map(|end| Replication::Keepalive { end: Lsn(end), reply_wanted: body[17] != 0 })
        }
        _ => None,
    };
    parsed.ok_or_else(|| {
        let head: String = body.iter().take(32).map(|byte| format!("{byte:02x}")).collect();
        Error::Protocol(format!("an unknown replication message that begins {head}"))
    })
}

/// Writes a standby status update, in CopyData: `r write, flush, apply: u64, clock: i64, reply: u8`.
pub fn status_update(out: &mut BytesMut, received: Lsn, durable: Lsn, now_us: i64, reply_wanted: bool) {
    out.put_u8(b'd');
    out.put_u32(4 + 34);
    out.put_u8(b'r');
    out.put_u64(received.0);
    out.put_u64(durable.0);
    out.put_u64(durable.0);
    out.put_i64(to_pg_us(now_us));
    out.put_u8(u8::from(reply_wanted));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frames(bytes: &[u8], bytes_max: usize) -> Frames {
        let mut frames = Frames::new(bytes_max);
        frames.room().extend_from_slice(bytes);
        frames
    }

    #[test]
    fn a_claimed_length_is_refused_before_it_is_believed() {
        let over = frames(b"d\x40\x00\x00\x05", FRAME_BYTES_MAX);
        assert!(matches!(over.peek(), Err(Error::TooLarge { size, .. }) if size == FRAME_BYTES_MAX + 1));
        assert!(frames(b"d\x00\x00\x00\x03", 100).peek().is_err());
        let mut claimed = frames(b"d\x3f\xff\xff\xff", FRAME_BYTES_MAX);
        assert!(matches!(claimed.peek(), Ok(None)));
        assert!(claimed.room().capacity() <= 4 * READ_BYTES);
    }

    #[test]
    fn errors_are_read() {
        let error = server_error(b"SERROR\0VERROR\0C55006\0Mslot is active\0Dby 7\0\0");
        assert_eq!(error.to_string(), "ERROR 55006: slot is active (by 7)");
    }

    proptest! {
        #[test]
        fn any_cut_gives_the_same_frames(bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..8), cuts in prop::collection::vec(1usize..20, 1..50)) {
            let mut bytes = Vec::new();
            for body in &bodies {
                bytes.push(b'd');
                bytes.extend_from_slice(&(body.len() as u32 + 4).to_be_bytes());
                bytes.extend_from_slice(body);
            }
            let mut frames = Frames::new(1000);
            let mut seen = Vec::new();
            let mut rest = &bytes[..];
            let mut cuts = cuts.into_iter().cycle();
            while !rest.is_empty() {
                let cut = cuts.next().unwrap().min(rest.len());
                frames.room().extend_from_slice(&rest[..cut]);
                rest = &rest[cut..];
                while let Some(frame) = frames.peek().unwrap() {
                    seen.push(frame.body.to_vec());
                    let size = frame.size();
                    frames.consume(size);
                }
            }
            prop_assert_eq!(seen, bodies);
        }

        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let _ = frames(&bytes, 1000).peek();
            let _ = server_error(&bytes);
            let _ = data_row(&bytes);
            let _ = replication(&bytes);
            let _ = super::super::pgoutput::parse(&bytes);
        }
    }
}
