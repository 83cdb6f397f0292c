//! [`Output`]: the bytes on their way to a client, with the messages of the protocol on top.

use arrow::datatypes::Schema;
use bytes::{BufMut, BytesMut};
use pgwire::error::ErrorInfo;
use pgwire::messages::PgWireBackendMessage as Message;
use pgwire::messages::data::{FieldDescription, NoData, ParameterDescription, RowDescription};
use pgwire::messages::extendedquery::{BindComplete, CloseComplete, ParseComplete, PortalSuspended};
use pgwire::messages::response::{
    CommandComplete, EmptyQueryResponse, ErrorResponse, NoticeResponse, ReadyForQuery, TransactionStatus,
};
use pgwire::messages::startup::{Authentication, BackendKeyData, NegotiateProtocolVersion, ParameterStatus, SecretKey};
use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::encode::Rows;
use super::frame;
use crate::error::{Error, Result, sqlstate};
use crate::query::pgtype;
use crate::session::Transaction;
use crate::types::COLUMNS_MAX;

/// Bytes gathered before they are sent.
pub const FLUSH_BYTES: usize = 64 * 1024;
/// Bytes of one text field of an error: libpq refuses error messages over 30,000 bytes.
const FIELD_BYTES_MAX: usize = 8_000;
/// Bytes of room kept between statements.
const KEPT_BYTES_MAX: usize = 1 << 20;

/// Bytes to send. Messages are put in whole, so that a cancelled statement leaves no half of one.
#[derive(Default)]
pub struct Output(BytesMut);

impl Output {
    fn put(&mut self, message: Message) {
        let start = self.0.len();
        if message.encode(&mut self.0).is_err() {
            // Only a text beyond the protocol's limits gets here; fields are cut before.
            self.0.truncate(start);
        }
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// A refusal of TLS or GSS encryption.
    pub fn refuse_encryption(&mut self) {
        self.0.put_u8(b'N');
    }

    pub fn negotiate(&mut self, unknown: Vec<String>) {
        self.put(Message::NegotiateProtocolVersion(NegotiateProtocolVersion::new(0, unknown)));
    }

    pub fn authenticated(&mut self, pid: i32, key: i32) {
        self.put(Message::Authentication(Authentication::Ok));
        self.put(Message::BackendKeyData(BackendKeyData::new(pid, SecretKey::I32(key))));
    }

    pub fn parameter(&mut self, name: &str, value: &str) {
        self.put(Message::ParameterStatus(ParameterStatus::new(name.to_owned(), value.to_owned())));
    }

    pub fn ready(&mut self, transaction: Transaction) {
        let status = match transaction {
            Transaction::Idle => TransactionStatus::Idle,
            Transaction::Open => TransactionStatus::Transaction,
            Transaction::Failed => TransactionStatus::Error,
        };
        self.put(Message::ReadyForQuery(ReadyForQuery::new(status)));
    }

    pub fn parsed(&mut self) {
        self.put(Message::ParseComplete(ParseComplete::new()));
    }

    pub fn bound(&mut self) {
        self.put(Message::BindComplete(BindComplete::new()));
    }

    pub fn closed(&mut self) {
        self.put(Message::CloseComplete(CloseComplete::new()));
    }

    pub fn suspended(&mut self) {
        self.put(Message::PortalSuspended(PortalSuspended::new()));
    }

    pub fn empty_query(&mut self) {
        self.put(Message::EmptyQueryResponse(EmptyQueryResponse::new()));
    }

    pub fn complete(&mut self, tag: &str) {
        self.put(Message::CommandComplete(CommandComplete::new(tag.to_owned())));
    }

    pub fn parameters(&mut self, types: &[u32]) {
        self.put(Message::ParameterDescription(ParameterDescription::new(types.to_vec())));
    }

    /// Describes the columns of a result; `None` has none.
    pub fn columns(&mut self, schema: Option<&Schema>, formats: &[i16]) -> Result<()> {
        let Some(schema) = schema else {
            self.put(Message::NoData(NoData::new()));
            return Ok(());
        };
        if schema.fields().len() > COLUMNS_MAX {
            let message = format!("a result can have at most {COLUMNS_MAX} columns");
            return Err(Error::new(sqlstate::STATEMENT_TOO_COMPLEX, message));
        }
        let describe = |(i, field): (usize, &std::sync::Arc<arrow::datatypes::Field>)| {
            let pg = pgtype::of(field);
            let format = i16::from(frame::format_at(formats, i));
            FieldDescription::new(field.name().clone(), 0, 0, pg.oid, pg.len, pg.modifier, format)
        };
        let fields = schema.fields().iter().enumerate().map(describe).collect();
        self.put(Message::RowDescription(RowDescription::new(fields)));
        Ok(())
    }

    pub fn row(&mut self, rows: &Rows, index: usize) -> Result<()> {
        let start = self.0.len();
        rows.write(index, &mut self.0).inspect_err(|_| self.0.truncate(start))
    }

    pub fn error(&mut self, error: &Error, fatal: bool) {
        let severity = if fatal { "FATAL" } else { "ERROR" };
        self.put(Message::ErrorResponse(ErrorResponse::from(info(error, severity))));
    }

    pub fn notice(&mut self, notice: &Error) {
        let warning = [sqlstate::WARNING, sqlstate::NO_ACTIVE_SQL_TRANSACTION, sqlstate::ACTIVE_SQL_TRANSACTION];
        let severity = if warning.contains(&notice.code) { "WARNING" } else { "NOTICE" };
        self.put(Message::NoticeResponse(NoticeResponse::from(info(notice, severity))));
    }

    /// Sends everything. Cancel safe: what is not sent stays.
    pub async fn flush<W: AsyncWrite + Unpin>(&mut self, to: &mut W) -> std::io::Result<()> {
        to.write_all_buf(&mut self.0).await?;
        to.flush().await?;
        if self.0.capacity() > KEPT_BYTES_MAX {
            self.0 = BytesMut::new();
        }
        Ok(())
    }
}

fn info(error: &Error, severity: &str) -> ErrorInfo {
    let cut = |text: &str| {
        let mut end = text.len().min(FIELD_BYTES_MAX);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        // The protocol ends a field at the first zero byte.
        text[..end].replace('\0', "")
    };
    let mut info = ErrorInfo::new(severity.to_owned(), error.code.to_owned(), cut(&error.message));
    info.severity_nonlocalized = Some(severity.to_owned());
    info.detail = error.detail.as_deref().map(cut);
    info.hint = error.hint.as_deref().map(cut);
    info.position = error.position.map(|p| p.to_string());
    info
}
