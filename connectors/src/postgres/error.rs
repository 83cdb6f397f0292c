//! What goes wrong between here and a PostgreSQL server, before the seam's [`engine::io::Error`] says what to do about it.

use engine::io;

use crate::cdc::Unfit;
use crate::postgres::protocol::lsn::Lsn;
use crate::postgres::protocol::pgoutput::Malformed;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server said no.
    #[error("{severity} {code}: {message}{}", detail.as_ref().map(|detail| format!(" ({detail})")).unwrap_or_default())]
    Server { severity: String, code: String, message: String, detail: Option<String>, hint: Option<String> },
    #[error("the connection failed: {0}")]
    Io(#[from] std::io::Error),
    #[error("the server closed the connection")]
    Closed,
    #[error("the server did not answer within {0:?}")]
    Timeout(std::time::Duration),
    #[error("the server has said nothing for {0:?}, not even when asked: connecting anew")]
    Silent(std::time::Duration),
    /// The other side does not speak the protocol.
    #[error("protocol error: {0}")]
    Protocol(String),
    #[error("a message of {size} bytes is over the limit of {limit} bytes")]
    TooLarge { size: usize, limit: usize },
    #[error("authentication: {0}")]
    Authentication(String),
    #[error(transparent)]
    Malformed(#[from] Malformed),
    #[error("at {lsn}: {unfit}")]
    Unfit { lsn: Lsn, unfit: Unfit },
    #[error("at {lsn}: column {column} of {relation}: the text {text:?} {reason}")]
    Value { lsn: Lsn, relation: String, column: String, text: String, reason: &'static str },
    /// What a captured table was when it was captured, and no longer is.
    #[error("{0}")]
    Changed(String),
    #[error("{}", sql_message(.0))]
    Sql(#[from] tokio_postgres::Error),
    #[error("reading {table}: {}", sql_message(.source))]
    Copy { table: String, source: tokio_postgres::Error },
}

/// SQLSTATE class 53 (resources), 57 (operator intervention), 58 (system), 08 (connection), and 55006 (in use) pass;
/// what is wrong with names, rights and settings does not.
fn passes(code: &str) -> bool {
    ["53", "57", "58", "08", "40", "XX"].iter().any(|class| code.starts_with(class))
        || code == "55006"
        || code == "55P03"
}

/// tokio-postgres hides the server's words in the source chain.
pub fn sql_message(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(db) => {
            let detail = db.detail().map(|detail| format!(" ({detail})")).unwrap_or_default();
            format!("{} {}: {}{detail}", db.severity(), db.code().code(), db.message())
        }
        None => match std::error::Error::source(error) {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        },
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> io::Error {
        let message = error.to_string();
        match error {
            Error::Server { code, hint, .. } if !passes(&code) => io::Error::User { message, hint },
            Error::Sql(sql) | Error::Copy { source: sql, .. } => match sql.as_db_error() {
                Some(db) if !passes(db.code().code()) => {
                    io::Error::User { message, hint: db.hint().map(str::to_owned) }
                }
                _ => io::Error::Outside(message),
            },
            Error::Authentication(_) => io::Error::User { message, hint: Some("check user and password in the url, and pg_hba.conf on the server".into()) },
            Error::Changed(_) => io::Error::Lost {
                message,
                hint: Some("drop the source, its topic of this table too, and create it again: it then begins with a new snapshot".into()),
            },
            Error::Unfit { unfit: Unfit::TooLarge { .. }, .. } => io::Error::Lost {
                message,
                hint: Some("shorten the row in the database, or leave its table out with the option exclude; then drop the source and create it again".into()),
            },
            Error::Unfit { .. } => io::Error::Lost {
                message,
                hint: Some("the table's REPLICA IDENTITY was changed while it was captured: set it to FULL or DEFAULT, drop the source and create it again".into()),
            },
            Error::Value { .. } => io::Error::User {
                message,
                hint: Some("the value cannot be written as UTF-8 JSON: correct it in the database and create the source again, or leave the table out".into()),
            },
            _ => io::Error::Outside(message),
        }
    }
}

/// An error the person who wrote the options can mend.
pub fn user(message: impl Into<String>, hint: impl Into<String>) -> io::Error {
    io::Error::User { message: message.into(), hint: Some(hint.into()) }
}

/// What was captured cannot be continued.
pub fn lost(message: impl Into<String>, hint: impl Into<String>) -> io::Error {
    io::Error::Lost { message: message.into(), hint: Some(hint.into()) }
}
