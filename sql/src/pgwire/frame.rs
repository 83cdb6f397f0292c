//! What a client sends, from bytes: start-up packets and messages of the PostgreSQL protocol 3. Sans-IO; every read is
//! checked against the frame, and nothing is allocated by a number from the wire alone.
//!
//! The frontend decoder of the `pgwire` crate panics on truncated bodies, so it is not used; its backend messages are.

use bytes::{Buf, Bytes, BytesMut};

/// Start-up packets are small (as in PostgreSQL's `pqcomm.h`).
const STARTUP_BYTES_MAX: usize = 10_000;

const CODE_CANCEL: u32 = 80_877_102;
const CODE_SSL: u32 = 80_877_103;
const CODE_GSS: u32 = 80_877_104;

/// Ends the connection.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("a message of {len} bytes is over the limit of {limit} bytes")]
    TooLarge { len: usize, limit: usize },
    #[error("invalid message: {0}")]
    Malformed(&'static str),
    #[error("unknown message type {0:#04x}")]
    UnknownType(u8),
    #[error("unsupported frontend protocol {0}.{1}: server supports 3.0")]
    Version(u16, u16),
}

/// The first packets of a connection.
#[derive(Debug, PartialEq, Eq)]
pub enum Startup {
    Ssl,
    Gss,
    Cancel { pid: i32, key: i32 },
    Start { minor: u16, parameters: Vec<(String, String)> },
}

/// What a Describe or Close names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    Statement,
    Portal,
}

/// A message of a started connection. Names may be empty: the unnamed statement or portal.
#[derive(Debug, PartialEq, Eq)]
pub enum Frontend {
    Query(String),
    Parse {
        name: String,
        query: String,
        types: Vec<u32>,
    },
    Bind(Bind),
    Describe(Target, String),
    Execute {
        portal: String,
        rows_max: usize,
    },
    Close(Target, String),
    Flush,
    Sync,
    Terminate,
    /// CopyData, CopyDone, CopyFail outside of a copy: ignored, as PostgreSQL does.
    Copy,
    /// A password nobody asked for.
    Password,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Bind {
    pub portal: String,
    pub statement: String,
    pub parameter_formats: Vec<i16>,
    pub parameters: Vec<Option<Bytes>>,
    pub result_formats: Vec<i16>,
}

impl Bind {
    /// Whether parameter `index` is binary: one format for all, one each, or none (text).
    pub fn parameter_binary(&self, index: usize) -> bool {
        format_at(&self.parameter_formats, index)
    }
}

/// The rule for lists of formats: none means text, one means all.
pub fn format_at(formats: &[i16], index: usize) -> bool {
    match formats {
        [] => false,
        [one] => *one == 1,
        many => many.get(index).is_some_and(|f| *f == 1),
    }
}

/// Takes the next start-up packet out of `input`, when it is whole.
pub fn startup(input: &mut BytesMut) -> Result<Option<Startup>, FrameError> {
    let Some(len) = length(input, 0, STARTUP_BYTES_MAX)? else { return Ok(None) };
    if len < 8 {
        return Err(FrameError::Malformed("start-up packet too short"));
    }
    if input.len() < len {
        return Ok(None);
    }
    let mut body = Body(input.split_to(len).freeze());
    body.0.advance(4);
    let code = body.u32()?;
    match code {
        CODE_SSL => Ok(Some(Startup::Ssl)),
        CODE_GSS => Ok(Some(Startup::Gss)),
        CODE_CANCEL => Ok(Some(Startup::Cancel { pid: body.i32()?, key: body.i32()? })),
        _ => {
            let (major, minor) = ((code >> 16) as u16, (code & 0xffff) as u16);
            if major != 3 {
                return Err(FrameError::Version(major, minor));
            }
            let mut parameters = Vec::new();
            loop {
                let name = body.string()?;
                if name.is_empty() {
                    return Ok(Some(Startup::Start { minor, parameters }));
                }
                let value = body.string()?;
                parameters.push((name, value));
            }
        }
    }
}

/// Takes the next message out of `input`, when it is whole; refuses one longer than `bytes_max` by its length field.
pub fn message(input: &mut BytesMut, bytes_max: usize) -> Result<Option<Frontend>, FrameError> {
    let Some(len) = length(input, 1, bytes_max)? else { return Ok(None) };
    if len < 4 {
        return Err(FrameError::Malformed("length field too small"));
    }
    if input.len() < len + 1 {
        return Ok(None);
    }
    let kind = input[0];
    let mut body = Body(input.split_to(len + 1).freeze());
    body.0.advance(5);
    let message = match kind {
        b'Q' => Frontend::Query(body.string()?),
        b'P' => parse(&mut body)?,
        b'B' => bind(&mut body)?,
        b'D' => Frontend::Describe(body.target()?, body.string()?),
        b'C' => Frontend::Close(body.target()?, body.string()?),
        // A negative count means "all", as 0 does.
        b'E' => {
            Frontend::Execute { portal: body.string()?, rows_max: usize::try_from(body.i32()?).unwrap_or_default() }
        }
        b'H' => Frontend::Flush,
        b'S' => Frontend::Sync,
        b'X' => Frontend::Terminate,
        b'd' | b'c' | b'f' => return Ok(Some(Frontend::Copy)),
        b'p' => return Ok(Some(Frontend::Password)),
        other => return Err(FrameError::UnknownType(other)),
    };
    if !body.0.is_empty() {
        return Err(FrameError::Malformed("bytes left over at its end"));
    }
    Ok(Some(message))
}

/// The length field at `at`, once it is there.
fn length(input: &BytesMut, at: usize, bytes_max: usize) -> Result<Option<usize>, FrameError> {
    let Some(bytes) = input.get(at..at + 4) else { return Ok(None) };
    let len = u32::from_be_bytes(bytes.try_into().expect("the slice has four bytes")) as usize;
    if len > bytes_max {
        return Err(FrameError::TooLarge { len, limit: bytes_max });
    }
    Ok(Some(len))
}

fn parse(body: &mut Body) -> Result<Frontend, FrameError> {
    let (name, query) = (body.string()?, body.string()?);
    let count = body.count(4)?;
    let types = (0..count).map(|_| body.u32()).collect::<Result<_, _>>()?;
    Ok(Frontend::Parse { name, query, types })
}

fn bind(body: &mut Body) -> Result<Frontend, FrameError> {
    let (portal, statement) = (body.string()?, body.string()?);
    let count = body.count(2)?;
    let parameter_formats = (0..count).map(|_| body.i16()).collect::<Result<_, _>>()?;
    let count = body.count(4)?;
    let parameters = (0..count).map(|_| body.value()).collect::<Result<_, _>>()?;
    let count = body.count(2)?;
    let result_formats = (0..count).map(|_| body.i16()).collect::<Result<_, _>>()?;
    Ok(Frontend::Bind(Bind { portal, statement, parameter_formats, parameters, result_formats }))
}

/// The rest of one frame.
struct Body(Bytes);

impl Body {
    fn need(&self, bytes: usize) -> Result<(), FrameError> {
        if self.0.len() < bytes { Err(FrameError::Malformed("ends too early")) } else { Ok(()) }
    }

    fn i16(&mut self) -> Result<i16, FrameError> {
        self.need(2)?;
        Ok(self.0.get_i16())
    }

    fn i32(&mut self) -> Result<i32, FrameError> {
        self.need(4)?;
        Ok(self.0.get_i32())
    }

    fn u32(&mut self) -> Result<u32, FrameError> {
        self.need(4)?;
        Ok(self.0.get_u32())
    }

    /// A count of elements that take at least `element_bytes` each: it cannot be more than the frame holds.
    fn count(&mut self, element_bytes: usize) -> Result<usize, FrameError> {
        self.need(2)?;
        let count = self.0.get_u16() as usize;
        self.need(count * element_bytes)?;
        Ok(count)
    }

    fn value(&mut self) -> Result<Option<Bytes>, FrameError> {
        let Ok(len) = usize::try_from(self.i32()?) else { return Ok(None) };
        self.need(len)?;
        Ok(Some(self.0.split_to(len)))
    }

    fn target(&mut self) -> Result<Target, FrameError> {
        self.need(1)?;
        match self.0.get_u8() {
            b'S' => Ok(Target::Statement),
            b'P' => Ok(Target::Portal),
            _ => Err(FrameError::Malformed("names neither a statement nor a portal")),
        }
    }

    fn string(&mut self) -> Result<String, FrameError> {
        let end = self.0.iter().position(|b| *b == 0).ok_or(FrameError::Malformed("a string does not end"))?;
        let bytes = self.0.split_to(end);
        self.0.advance(1);
        let text = std::str::from_utf8(&bytes).map_err(|_| FrameError::Malformed("a string is not UTF-8"))?;
        Ok(text.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(bytes: &[u8], expect: Result<Option<Frontend>, FrameError>) {
        assert_eq!(message(&mut BytesMut::from(bytes), 1 << 20), expect);
    }

    fn framed(kind: u8, body: &[u8]) -> Vec<u8> {
        let mut out = vec![kind];
        out.extend_from_slice(&(body.len() as u32 + 4).to_be_bytes());
        out.extend_from_slice(body);
        out
    }

    #[test]
    fn whole_messages_are_read() {
        check(&framed(b'Q', b"SELECT 1\0"), Ok(Some(Frontend::Query("SELECT 1".into()))));
        check(&framed(b'S', b""), Ok(Some(Frontend::Sync)));
        check(
            &framed(b'P', b"s\0SELECT $1\0\0\x01\0\0\0\x17"),
            Ok(Some(Frontend::Parse { name: "s".into(), query: "SELECT $1".into(), types: vec![23] })),
        );
        check(
            &framed(b'B', b"\0s\0\0\x01\0\x01\0\x02\0\0\0\x01x\xff\xff\xff\xff\0\0"),
            Ok(Some(Frontend::Bind(Bind {
                statement: "s".into(),
                parameter_formats: vec![1],
                parameters: vec![Some(Bytes::from_static(b"x")), None],
                ..Bind::default()
            }))),
        );
        check(&framed(b'E', b"\0\0\0\0\x05"), Ok(Some(Frontend::Execute { portal: String::new(), rows_max: 5 })));
    }

    #[test]
    fn malformed_frames_are_errors() {
        let early = Err(FrameError::Malformed("ends too early"));
        check(&framed(b'P', b"s\0q\0\xff\xff"), Err(FrameError::Malformed("ends too early")));
        check(&framed(b'B', b"\0\0\0\0\0\x01\0\0\0\x09x"), early);
        check(&framed(b'Q', b"SELECT 1"), Err(FrameError::Malformed("a string does not end")));
        check(&framed(b'Q', b"\xff\0"), Err(FrameError::Malformed("a string is not UTF-8")));
        check(&framed(b'S', b"x"), Err(FrameError::Malformed("bytes left over at its end")));
        check(b"Q\x7f\xff\xff\xff", Err(FrameError::TooLarge { len: 0x7fff_ffff, limit: 1 << 20 }));
        check(b"Q\0\0\0\x03", Err(FrameError::Malformed("length field too small")));
        check(b"Q\0\0", Ok(None));
        check(b"Q\0\0\0\x10abc", Ok(None));
    }

    #[test]
    fn every_cut_and_flip_of_a_frame_is_survived() {
        let bind = framed(b'B', b"p\0s\0\0\x02\0\x01\0\0\0\x02\0\0\0\x01x\xff\xff\xff\xff\0\x01\0\x01");
        for at in 0..bind.len() {
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                let mut changed = bind.clone();
                changed[at] = value;
                let _ = message(&mut BytesMut::from(&changed[..]), 1 << 20);
                let _ = startup(&mut BytesMut::from(&changed[..]));
            }
            let _ = message(&mut BytesMut::from(&bind[..at]), 1 << 20);
        }
    }

    #[test]
    fn startup_packets() {
        let mut packet = 18u32.to_be_bytes().to_vec();
        packet.extend_from_slice(&196_608u32.to_be_bytes());
        packet.extend_from_slice(b"user\0bob\0\0");
        let start = Startup::Start { minor: 0, parameters: vec![("user".into(), "bob".into())] };
        assert_eq!(startup(&mut BytesMut::from(&packet[..])), Ok(Some(start)));
        let ssl = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];
        assert_eq!(startup(&mut BytesMut::from(&ssl[..])), Ok(Some(Startup::Ssl)));
    }
}
