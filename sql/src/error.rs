//! [`Error`]: why a statement failed, in PostgreSQL's fields, so that every way of showing it says the same.

use std::error::Error as StdError;

/// A failed statement. The class of `code` says whose fault it is: 0A, 22, 25, 2B, 42 the statement's; 53, 57 limits
/// and cancels (may be tried again); 55 an object not ready (may be tried again); 58 the disk or the log; XX a bug.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// SQLSTATE, five characters; see [`code`].
    pub code: &'static str,
    pub message: String,
    pub detail: Option<String>,
    pub hint: Option<String>,
    /// Where in the text of the statement, in characters from 1: psql prints a caret there.
    pub position: Option<usize>,
    #[source]
    pub source: Option<Box<dyn StdError + Send + Sync>>,
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), detail: None, hint: None, position: None, source: None }
    }

    /// Something PostgreSQL or its users know that is not done here.
    pub fn unsupported(message: impl Into<String>) -> Self {
        Self::new(code::FEATURE_NOT_SUPPORTED, message)
    }

    pub fn syntax(message: impl Into<String>) -> Self {
        Self::new(code::SYNTAX_ERROR, message)
    }

    pub fn bug(message: impl Into<String>) -> Self {
        Self::new(code::INTERNAL_ERROR, message)
    }

    #[must_use]
    pub fn with_detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// `position` in characters from 1.
    #[must_use]
    pub fn at(mut self, position: usize) -> Self {
        self.position.get_or_insert(position);
        self
    }

    /// The place as the parser tells it: line and column from 1 (0 is "unknown"), columns in characters.
    #[must_use]
    pub fn at_line(self, text: &str, line: u64, column: u64) -> Self {
        match position(text, line, column) {
            Some(position) => self.at(position),
            None => self,
        }
    }
}

/// Characters from 1 of (line, column) in `text`.
fn position(text: &str, line: u64, column: u64) -> Option<usize> {
    if line == 0 || column == 0 {
        return None;
    }
    let mut before = 0;
    for (number, content) in (1..).zip(text.split_inclusive('\n')) {
        if number == line {
            return Some(before + usize::try_from(column).ok()?);
        }
        before += content.chars().count();
    }
    None
}

impl From<log::Error> for Error {
    fn from(error: log::Error) -> Self {
        let code = match &error {
            log::Error::TopicExists(_) => code::DUPLICATE_TABLE,
            log::Error::UnknownTopic(_) => code::UNDEFINED_TABLE,
            log::Error::InvalidTopic { .. } => code::INVALID_NAME,
            log::Error::TooLarge { .. } => code::PROGRAM_LIMIT_EXCEEDED,
            log::Error::Busy(_) => code::INSUFFICIENT_RESOURCES,
            log::Error::Corrupt { .. } => code::DATA_CORRUPTED,
            _ => code::IO_ERROR,
        };
        Self::new(code, error.to_string()).with_source(error)
    }
}

impl From<engine::operator::Error> for Error {
    fn from(error: engine::operator::Error) -> Self {
        use engine::operator::Error as E;
        let code = match &error {
            E::Overflow(..) => code::NUMERIC_VALUE_OUT_OF_RANGE,
            E::Value(_) => code::DATA_EXCEPTION,
            E::StateFull { .. } => code::OUT_OF_MEMORY,
            E::NegativeWeight(_) | E::Bug(_) => code::INTERNAL_ERROR,
            E::Arrow(_) => code::DATA_EXCEPTION,
        };
        let message = match &error {
            E::Arrow(arrow) => arrow.to_string(),
            other => other.to_string(),
        };
        Self::new(code, message).with_source(error)
    }
}

impl From<engine::io::Error> for Error {
    fn from(error: engine::io::Error) -> Self {
        use engine::io::Error as E;
        let (code, hint) = match &error {
            E::User { hint, .. } => (code::INVALID_PARAMETER_VALUE, hint.clone()),
            E::Outside(_) => (code::CONNECTION_FAILURE, None),
            E::Lost { hint, .. } => (code::OBJECT_NOT_IN_PREREQUISITE_STATE, hint.clone()),
            E::Log(_) => (code::IO_ERROR, None),
        };
        let mut new = Self::new(code, error.to_string());
        new.hint = hint;
        new.with_source(error)
    }
}

/// The SQLSTATEs in use, by PostgreSQL's names.
pub mod code {
    pub const CONNECTION_FAILURE: &str = "08006";
    pub const PROTOCOL_VIOLATION: &str = "08P01";
    pub const FEATURE_NOT_SUPPORTED: &str = "0A000";
    pub const DATA_EXCEPTION: &str = "22000";
    pub const NUMERIC_VALUE_OUT_OF_RANGE: &str = "22003";
    pub const INVALID_DATETIME_FORMAT: &str = "22007";
    pub const DIVISION_BY_ZERO: &str = "22012";
    pub const INVALID_PARAMETER_VALUE: &str = "22023";
    pub const INVALID_TEXT_REPRESENTATION: &str = "22P02";
    pub const INVALID_BINARY_REPRESENTATION: &str = "22P03";
    pub const NOT_NULL_VIOLATION: &str = "23502";
    pub const ACTIVE_SQL_TRANSACTION: &str = "25001";
    pub const READ_ONLY_SQL_TRANSACTION: &str = "25006";
    pub const IN_FAILED_SQL_TRANSACTION: &str = "25P02";
    pub const INVALID_SQL_STATEMENT_NAME: &str = "26000";
    pub const INVALID_AUTHORIZATION: &str = "28000";
    pub const DEPENDENT_OBJECTS_STILL_EXIST: &str = "2BP01";
    pub const INVALID_CURSOR_NAME: &str = "34000";
    pub const INVALID_CATALOG_NAME: &str = "3D000";
    pub const INVALID_SCHEMA_NAME: &str = "3F000";
    pub const SYNTAX_ERROR: &str = "42601";
    pub const INVALID_NAME: &str = "42602";
    pub const AMBIGUOUS_COLUMN: &str = "42702";
    pub const UNDEFINED_COLUMN: &str = "42703";
    pub const UNDEFINED_OBJECT: &str = "42704";
    pub const DUPLICATE_OBJECT: &str = "42710";
    pub const GROUPING_ERROR: &str = "42803";
    pub const DATATYPE_MISMATCH: &str = "42804";
    pub const WRONG_OBJECT_TYPE: &str = "42809";
    pub const UNDEFINED_FUNCTION: &str = "42883";
    pub const UNDEFINED_TABLE: &str = "42P01";
    pub const UNDEFINED_PARAMETER: &str = "42P02";
    pub const DUPLICATE_PREPARED_STATEMENT: &str = "42P05";
    pub const DUPLICATE_TABLE: &str = "42P07";
    pub const INDETERMINATE_DATATYPE: &str = "42P18";
    pub const INSUFFICIENT_RESOURCES: &str = "53000";
    pub const OUT_OF_MEMORY: &str = "53200";
    pub const TOO_MANY_CONNECTIONS: &str = "53300";
    pub const PROGRAM_LIMIT_EXCEEDED: &str = "54000";
    pub const OBJECT_NOT_IN_PREREQUISITE_STATE: &str = "55000";
    pub const QUERY_CANCELED: &str = "57014";
    pub const ADMIN_SHUTDOWN: &str = "57P01";
    pub const CANNOT_CONNECT_NOW: &str = "57P03";
    pub const IO_ERROR: &str = "58030";
    pub const INTERNAL_ERROR: &str = "XX000";
    pub const DATA_CORRUPTED: &str = "XX001";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_count_characters_over_lines() {
        let check = |text, line, column, expect| assert_eq!(position(text, line, column), expect);
        check("SELECT x", 1, 8, Some(8));
        check("SELECT\n  x", 2, 3, Some(10));
        check("ÄÖ\nx", 2, 1, Some(4));
        check("x", 0, 0, None);
        check("x", 5, 1, None);
    }
}
