//! [`Error`]: the one error of this package, in PostgreSQL's shape (SQLSTATE, message, detail, hint, position), and how
//! the errors of DataFusion and Arrow become one.

use std::num::NonZeroU32;

use datafusion::arrow::error::ArrowError;
use datafusion::common::{Diagnostic, SchemaError};
use datafusion::error::DataFusionError;

/// PostgreSQL's five-letter codes, by PostgreSQL's names.
pub mod sqlstate {
    pub const PROTOCOL_VIOLATION: &str = "08P01";
    pub const SUCCESSFUL_COMPLETION: &str = "00000";
    pub const WARNING: &str = "01000";
    pub const FEATURE_NOT_SUPPORTED: &str = "0A000";
    pub const DATA_EXCEPTION: &str = "22000";
    pub const NUMERIC_VALUE_OUT_OF_RANGE: &str = "22003";
    pub const INVALID_DATETIME_FORMAT: &str = "22007";
    pub const DATETIME_FIELD_OVERFLOW: &str = "22008";
    pub const DIVISION_BY_ZERO: &str = "22012";
    pub const INTERVAL_FIELD_OVERFLOW: &str = "22015";
    pub const INVALID_REGULAR_EXPRESSION: &str = "2201B";
    pub const INVALID_ARGUMENT_FOR_LOGARITHM: &str = "2201E";
    pub const INVALID_ARGUMENT_FOR_POWER_FUNCTION: &str = "2201F";
    pub const INVALID_PARAMETER_VALUE: &str = "22023";
    pub const INVALID_ESCAPE_SEQUENCE: &str = "22025";
    pub const INVALID_TEXT_REPRESENTATION: &str = "22P02";
    pub const INVALID_BINARY_REPRESENTATION: &str = "22P03";
    pub const NOT_NULL_VIOLATION: &str = "23502";
    pub const UNIQUE_VIOLATION: &str = "23505";
    pub const ACTIVE_SQL_TRANSACTION: &str = "25001";
    pub const READ_ONLY_SQL_TRANSACTION: &str = "25006";
    pub const NO_ACTIVE_SQL_TRANSACTION: &str = "25P01";
    pub const DEPENDENT_OBJECTS_STILL_EXIST: &str = "2BP01";
    pub const INVALID_CATALOG_NAME: &str = "3D000";
    pub const INVALID_SCHEMA_NAME: &str = "3F000";
    pub const SYNTAX_ERROR: &str = "42601";
    pub const GROUPING_ERROR: &str = "42803";
    pub const DATATYPE_MISMATCH: &str = "42804";
    pub const WRONG_OBJECT_TYPE: &str = "42809";
    pub const UNDEFINED_COLUMN: &str = "42703";
    pub const AMBIGUOUS_COLUMN: &str = "42702";
    pub const DUPLICATE_COLUMN: &str = "42701";
    pub const UNDEFINED_OBJECT: &str = "42704";
    pub const DUPLICATE_OBJECT: &str = "42710";
    pub const UNDEFINED_FUNCTION: &str = "42883";
    pub const UNDEFINED_TABLE: &str = "42P01";
    pub const INVALID_COLUMN_REFERENCE: &str = "42P10";
    pub const DUPLICATE_TABLE: &str = "42P07";
    pub const INVALID_TABLE_DEFINITION: &str = "42P16";
    pub const INVALID_OBJECT_DEFINITION: &str = "42P17";
    pub const INDETERMINATE_DATATYPE: &str = "42P18";
    pub const OUT_OF_MEMORY: &str = "53200";
    pub const STATEMENT_TOO_COMPLEX: &str = "54001";
    pub const TOO_MANY_COLUMNS: &str = "54011";
    pub const OBJECT_NOT_IN_PREREQUISITE_STATE: &str = "55000";
    pub const CANT_CHANGE_RUNTIME_PARAM: &str = "55P02";
    pub const QUERY_CANCELED: &str = "57014";
    pub const CANNOT_CONNECT_NOW: &str = "57P03";
    pub const CONNECTION_FAILURE: &str = "08006";
    pub const INVALID_AUTHORIZATION: &str = "28000";
    pub const INVALID_NAME: &str = "42602";
    pub const INVALID_SQL_STATEMENT_NAME: &str = "26000";
    pub const INVALID_CURSOR_NAME: &str = "34000";
    pub const DUPLICATE_PREPARED_STATEMENT: &str = "42P05";
    pub const DUPLICATE_CURSOR: &str = "42P03";
    pub const UNDEFINED_PARAMETER: &str = "42P02";
    pub const IN_FAILED_SQL_TRANSACTION: &str = "25P02";
    pub const INSUFFICIENT_RESOURCES: &str = "53000";
    pub const TOO_MANY_CONNECTIONS: &str = "53300";
    pub const PROGRAM_LIMIT_EXCEEDED: &str = "54000";
    pub const ADMIN_SHUTDOWN: &str = "57P01";
    pub const DATA_CORRUPTED: &str = "XX001";
    pub const IO_ERROR: &str = "58030";
    pub const INTERNAL_ERROR: &str = "XX000";
}

/// Where in the text a thing stands: line and column from 1, columns in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Location {
    line: NonZeroU32,
    column: u32,
}

impl Location {
    /// `None` for line 0, which parsers give to what has no place, and beyond what texts have.
    pub fn new(line: u64, column: u64) -> Option<Self> {
        let line = NonZeroU32::new(u32::try_from(line).ok()?)?;
        Some(Self { line, column: u32::try_from(column).ok()? })
    }
}

/// What went wrong, for people and for programs.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// One of [`sqlstate`].
    pub code: &'static str,
    pub message: String,
    pub detail: Option<String>,
    pub hint: Option<String>,
    /// Character in the text sent, from 1.
    pub position: Option<u32>,
    /// The place before the text is at hand; [`Error::within`] turns it into `position`.
    pub location: Option<Location>,
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { code, message, detail: None, hint: None, position: None, location: None, source: None }
    }

    /// Refuses a thing by name: SQLSTATE 0A000.
    pub fn unsupported(what: impl std::fmt::Display) -> Self {
        Self::new(sqlstate::FEATURE_NOT_SUPPORTED, format!("{what} is not supported"))
    }

    /// A broken promise of our own.
    pub fn bug(message: impl Into<String>) -> Self {
        Self::new(sqlstate::INTERNAL_ERROR, message)
    }

    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Names the place, unless a closer one is known already.
    pub fn at(mut self, location: impl Into<Option<Location>>) -> Self {
        self.location = self.location.or(location.into());
        self
    }

    pub fn caused_by(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Turns the line and column into PostgreSQL's position within `text`.
    pub fn within(mut self, text: &str) -> Self {
        if let (None, Some(location)) = (self.position, self.location) {
            self.position = u32::try_from(characters_before(text, location) + 1).ok();
        }
        self
    }
}

/// `None` for the empty span that nodes without a place have.
pub fn location_of(span: datafusion::sql::sqlparser::tokenizer::Span) -> Option<Location> {
    Location::new(span.start.line, span.start.column)
}

/// Characters of `text` before `location`.
pub fn characters_before(text: &str, location: Location) -> usize {
    let lines = location.line.get() as usize - 1;
    let column = location.column.saturating_sub(1) as usize;
    text.split_inclusive('\n').take(lines).map(|line| line.chars().count()).sum::<usize>().saturating_add(column)
}

/// The byte of `text` at `location`; its length when the place is beyond its end.
pub fn byte_at(text: &str, location: Location) -> usize {
    let characters = characters_before(text, location);
    text.char_indices().nth(characters).map_or(text.len(), |(at, _)| at)
}

impl From<DataFusionError> for Error {
    fn from(error: DataFusionError) -> Self {
        match error {
            DataFusionError::Diagnostic(diagnostic, inner) => with_diagnostic((*inner).into(), &diagnostic),
            DataFusionError::Context(_, inner) => (*inner).into(),
            DataFusionError::Collection(errors) => match errors.into_iter().next() {
                Some(first) => first.into(),
                None => Self::bug("an empty list of errors"),
            },
            DataFusionError::External(inner) => from_external(inner),
            DataFusionError::Shared(shared) => match inner_of(&*shared) {
                Some(inner) => inner,
                None => from_text(shared.to_string(), false),
            }
            .caused_by(DataFusionError::Shared(shared)),
            DataFusionError::ArrowError(inner, _) => (*inner).into(),
            DataFusionError::SchemaError(inner, _) => from_schema_error(*inner),
            DataFusionError::NotImplemented(text) if text.contains("logical expression InSubquery") => {
                Self::unsupported("IN (SELECT …) outside WHERE").hint("put it into WHERE, or join with the query")
            }
            DataFusionError::NotImplemented(text) if text.contains("logical expression Exists") => {
                Self::unsupported("EXISTS (SELECT …) outside WHERE").hint("put it into WHERE, or join with the query")
            }
            DataFusionError::NotImplemented(text) => Self::new(sqlstate::FEATURE_NOT_SUPPORTED, lower_first(&text)),
            DataFusionError::ResourcesExhausted(text) => Self::new(sqlstate::OUT_OF_MEMORY, lower_first(&text)),
            DataFusionError::SQL(inner, _) => Self::new(sqlstate::SYNTAX_ERROR, inner.to_string()),
            DataFusionError::Plan(text) => from_text(text, true),
            DataFusionError::Execution(text) => from_text(text, false),
            DataFusionError::Configuration(text) => Self::new(sqlstate::INVALID_PARAMETER_VALUE, text),
            DataFusionError::Internal(text) => Self::bug(text),
            other if is_regex(&other.to_string()) => invalid_regex(&other.to_string()),
            other => Self::bug(other.to_string()).caused_by(other),
        }
    }
}

/// Our own errors travel through DataFusion as external ones.
impl From<Error> for DataFusionError {
    fn from(error: Error) -> Self {
        Self::External(Box::new(error))
    }
}

impl From<ArrowError> for Error {
    fn from(error: ArrowError) -> Self {
        match error {
            ArrowError::ExternalError(inner) => from_external(inner),
            ArrowError::DivideByZero => Self::new(sqlstate::DIVISION_BY_ZERO, "division by zero"),
            ArrowError::ArithmeticOverflow(text) => {
                Self::new(sqlstate::NUMERIC_VALUE_OUT_OF_RANGE, "value out of range").detail(text)
            }
            ArrowError::CastError(text) => from_cast(&text),
            ArrowError::ParseError(text) => Self::new(sqlstate::INVALID_TEXT_REPRESENTATION, lower_first(&text)),
            ArrowError::InvalidArgumentError(text)
                if text.contains("is too large to store") || text.contains("is too small to store") =>
            {
                Self::new(sqlstate::NUMERIC_VALUE_OUT_OF_RANGE, "numeric field overflow").detail(text)
            }
            ArrowError::ComputeError(text) | ArrowError::InvalidArgumentError(text) => {
                Self::new(sqlstate::DATA_EXCEPTION, lower_first(&text))
            }
            ArrowError::NotYetImplemented(text) => Self::new(sqlstate::FEATURE_NOT_SUPPORTED, lower_first(&text)),
            other if is_regex(&other.to_string()) => invalid_regex(&other.to_string()),
            other => Self::bug(other.to_string()).caused_by(other),
        }
    }
}

impl From<engine::operator::Error> for Error {
    fn from(error: engine::operator::Error) -> Self {
        match error {
            engine::operator::Error::Arrow(inner) => inner.into(),
            other => Self::new(code_of(&other), other.to_string()).caused_by(other),
        }
    }
}

impl From<log::Error> for Error {
    fn from(error: log::Error) -> Self {
        use log::Error as E;
        let code = match &error {
            E::UnknownTopic(_) | E::UnknownPartition(_) => sqlstate::UNDEFINED_TABLE,
            E::TopicExists(_) => sqlstate::DUPLICATE_TABLE,
            E::InvalidTopic { .. } => sqlstate::INVALID_NAME,
            E::TooLarge { .. } => sqlstate::PROGRAM_LIMIT_EXCEEDED,
            E::Busy(_) | E::NotLeader(_) => sqlstate::INSUFFICIENT_RESOURCES,
            E::Corrupt { .. } => sqlstate::DATA_CORRUPTED,
            _ => sqlstate::IO_ERROR,
        };
        Self::new(code, error.to_string()).caused_by(error)
    }
}

impl From<engine::io::Error> for Error {
    fn from(error: engine::io::Error) -> Self {
        use engine::io::Error as E;
        let (code, hint) = match &error {
            E::User { hint, .. } => (sqlstate::INVALID_PARAMETER_VALUE, hint.clone()),
            E::Outside(_) => (sqlstate::CONNECTION_FAILURE, None),
            E::Lost { hint, .. } => (sqlstate::OBJECT_NOT_IN_PREREQUISITE_STATE, hint.clone()),
            E::Log(_) => (sqlstate::IO_ERROR, None),
        };
        let new = Self { hint, ..Self::new(code, error.to_string()) };
        new.caused_by(error)
    }
}

impl From<engine::job::Error> for Error {
    fn from(error: engine::job::Error) -> Self {
        use engine::job::Error as E;
        let (code, message, detail) = match &error {
            E::UnknownRelation(_) | E::UnknownInput { .. } => (sqlstate::UNDEFINED_TABLE, None, None),
            E::RelationExists(_) => (sqlstate::DUPLICATE_TABLE, None, None),
            E::HasDependents { name, dependents } => (
                sqlstate::DEPENDENT_OBJECTS_STILL_EXIST,
                Some(format!("cannot drop {name} because other objects depend on it")),
                Some(format!("{} depends on it", dependents.join(", "))),
            ),
            E::NotCaughtUp { name, progress } => (
                sqlstate::OBJECT_NOT_IN_PREREQUISITE_STATE,
                Some(format!("{name} has not caught up yet")),
                Some(progress.clone()),
            ),
            E::Stopped { name, epoch, reason } => (
                sqlstate::OBJECT_NOT_IN_PREREQUISITE_STATE,
                Some(format!("{name} has stopped at epoch {epoch}")),
                Some(reason.clone()),
            ),
            E::NoStore(_) => (sqlstate::WRONG_OBJECT_TYPE, None, None),
            E::Busy { .. } => (sqlstate::INSUFFICIENT_RESOURCES, None, None),
            E::NotCovered { .. } => (sqlstate::QUERY_CANCELED, None, None),
            E::Closed(_) => (sqlstate::CANNOT_CONNECT_NOW, None, None),
            E::Corrupt { .. } => (sqlstate::DATA_CORRUPTED, None, None),
            _ => (sqlstate::IO_ERROR, None, None),
        };
        let new = Self { detail, ..Self::new(code, message.unwrap_or_else(|| error.to_string())) };
        new.caused_by(error)
    }
}

fn from_external(inner: Box<dyn std::error::Error + Send + Sync>) -> Error {
    let inner = match inner.downcast::<Error>() {
        Ok(own) => return *own,
        Err(other) => other,
    };
    let inner = match inner.downcast::<engine::operator::Error>() {
        Ok(operator) => return (*operator).into(),
        Err(other) => other,
    };
    let inner = match inner.downcast::<DataFusionError>() {
        Ok(datafusion) => return (*datafusion).into(),
        Err(other) => other,
    };
    let text = inner.to_string();
    match is_regex(&text) {
        true => invalid_regex(&text),
        false => Error::bug(text).caused_by(inner),
    }
}

fn is_regex(text: &str) -> bool {
    text.to_ascii_lowercase().contains("regex parse error")
}

fn invalid_regex(text: &str) -> Error {
    let reason = text.rsplit_once("error: ").map_or(text, |(_, reason)| reason);
    Error::new(sqlstate::INVALID_REGULAR_EXPRESSION, format!("invalid regular expression: {}", reason.trim()))
}

/// One of ours somewhere inside of an error that others hold too: its words, without what caused it.
fn inner_of(error: &(dyn std::error::Error + 'static)) -> Option<Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(own) = error.downcast_ref::<Error>() {
            let Error { code, message, detail, hint, position, location, source: _ } = own;
            let (message, detail, hint) = (message.clone(), detail.clone(), hint.clone());
            return Some(Error { code, message, detail, hint, position: *position, location: *location, source: None });
        }
        if let Some(operator) = error.downcast_ref::<engine::operator::Error>() {
            return Some(Error::new(code_of(operator), operator.to_string()));
        }
        next = error.source();
    }
    None
}

fn code_of(error: &engine::operator::Error) -> &'static str {
    use engine::operator::Error as E;
    match error {
        E::Overflow(..) => sqlstate::NUMERIC_VALUE_OUT_OF_RANGE,
        E::Value(_) | E::NegativeWeight(_) => sqlstate::DATA_EXCEPTION,
        E::StateFull { .. } => sqlstate::OUT_OF_MEMORY,
        _ => sqlstate::INTERNAL_ERROR,
    }
}

fn from_schema_error(error: SchemaError) -> Error {
    match error {
        SchemaError::FieldNotFound { field, valid_fields } => {
            let name = match &field.relation {
                Some(relation) => format!("{}.{}", relation.table(), field.name),
                None => field.name.clone(),
            };
            let mut out = Error::new(sqlstate::UNDEFINED_COLUMN, format!("column \"{name}\" does not exist"));
            let names = || valid_fields.iter().map(|c| c.name.as_str());
            if let Some(near) = nearest(&field.name, names()) {
                out = out.hint(format!("did you mean \"{near}\"?"));
            } else if !valid_fields.is_empty() {
                let list: Vec<&str> = names().take(COLUMNS_NAMED_MAX).collect();
                out = out.hint(format!("columns here: {}", list.join(", ")));
            }
            out.at(field.spans.first().and_then(|s| Location::new(s.start.line, s.start.column)))
        }
        SchemaError::AmbiguousReference { field } => {
            Error::new(sqlstate::AMBIGUOUS_COLUMN, format!("column reference \"{}\" is ambiguous", field.name))
                .at(field.spans.first().and_then(|s| Location::new(s.start.line, s.start.column)))
        }
        SchemaError::DuplicateQualifiedField { name, .. } | SchemaError::DuplicateUnqualifiedField { name } => {
            Error::new(sqlstate::DUPLICATE_COLUMN, format!("column \"{name}\" is there more than once"))
        }
    }
}

/// How many columns a hint lists.
const COLUMNS_NAMED_MAX: usize = 12;

fn with_diagnostic(mut error: Error, diagnostic: &Diagnostic) -> Error {
    if let Some(span) = diagnostic.span {
        error = error.at(Location::new(span.start.line, span.start.column));
    }
    let about_group_by = diagnostic.message.contains("GROUP BY") || error.message.contains("GROUP BY");
    if about_group_by && error.code == sqlstate::SYNTAX_ERROR {
        error.code = sqlstate::GROUPING_ERROR;
    }
    if error.hint.is_none() && !diagnostic.helps.is_empty() {
        let helps: Vec<&str> = diagnostic.helps.iter().map(|h| h.message.as_str()).collect();
        error.hint = Some(helps.join("; "));
    }
    error
}

/// What Arrow says of a number that the other type does not hold, in PostgreSQL's words.
fn from_cast(text: &str) -> Error {
    let out_of_range = |what: &str| Error::new(sqlstate::NUMERIC_VALUE_OUT_OF_RANGE, what).detail(text);
    if let Some((_, to)) = text.strip_prefix("Can't cast value").and_then(|rest| rest.rsplit_once(" to type ")) {
        return match to {
            "Int16" => out_of_range("smallint out of range"),
            "Int32" => out_of_range("integer out of range"),
            "Int64" => out_of_range("bigint out of range"),
            _ => out_of_range("value out of range"),
        };
    }
    if text.contains("Overflowing on") {
        return out_of_range("numeric field overflow");
    }
    Error::new(sqlstate::INVALID_TEXT_REPRESENTATION, lower_first(text))
}

/// DataFusion's plan and execution errors carry only a text; the code is read off it.
fn from_text(text: String, planning: bool) -> Error {
    let first = text.lines().next().unwrap_or_default();
    let has = |needle: &str| text.contains(needle);
    if let (true, Some((_, inner))) = (planning, first.split_once("External error: ")) {
        // One of ours that a signature's check has made a text of.
        let inner = inner.split(". No function matches").next().unwrap_or(inner);
        return Error::new(sqlstate::UNDEFINED_FUNCTION, inner).hint("add a type cast: column::type");
    }
    if let Some((_, rest)) = first.split_once("must be in GROUP BY") {
        let column = rest.split('"').nth(1).unwrap_or_default();
        let message =
            format!("column \"{column}\" must appear in the GROUP BY clause or be used in an aggregate function");
        return Error::new(sqlstate::GROUPING_ERROR, message);
    }
    let code = if has("Invalid function") {
        let name = first.split('\'').nth(1).unwrap_or_default();
        return Error::new(sqlstate::UNDEFINED_FUNCTION, format!("function {name} does not exist"));
    } else if has("Divide by zero") || has("division by zero") {
        return Error::new(sqlstate::DIVISION_BY_ZERO, "division by zero");
    } else if has("Overflow") || has("overflow") || has("out of range") {
        sqlstate::NUMERIC_VALUE_OUT_OF_RANGE
    } else if is_regex(&text) {
        return invalid_regex(&text);
    } else if has("square root of a negative") || has("zero raised to a negative power") {
        sqlstate::INVALID_ARGUMENT_FOR_POWER_FUNCTION
    } else if has("non-boolean predicate") {
        sqlstate::DATATYPE_MISMATCH
    } else if has("GROUP BY") || first.to_lowercase().contains("aggregate function") {
        sqlstate::GROUPING_ERROR
    } else if has("Cannot coerce") || has("cannot be used with") || has("Cannot cast") || has("cannot be coerced") {
        sqlstate::DATATYPE_MISMATCH
    } else if has("Failed to coerce") || has("No function matches") {
        sqlstate::UNDEFINED_FUNCTION
    } else if has("Projections require unique expression names") {
        sqlstate::DUPLICATE_COLUMN
    } else if has("Cannot cast string") || has("Cast error") || has("Parser error") {
        sqlstate::INVALID_TEXT_REPRESENTATION
    } else {
        sqlstate::SYNTAX_ERROR
    };
    Error::new(code, lower_first(first.strip_prefix("Error during planning: ").unwrap_or(first)))
}

fn lower_first(text: &str) -> String {
    let mut chars = text.chars();
    match (chars.next(), text.chars().nth(1)) {
        // An abbreviation keeps its capitals.
        (Some(first), Some(second)) if first.is_uppercase() && !second.is_uppercase() => {
            first.to_lowercase().chain(chars).collect()
        }
        _ => text.to_string(),
    }
}

/// The candidate that differs from `name` by at most a third of its letters.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (name.chars().count() / 3).max(1);
    candidates
        .into_iter()
        .map(|candidate| (distance(name, candidate), candidate))
        .filter(|(d, _)| *d <= limit)
        .min()
        .map(|(_, candidate)| candidate)
}

/// Levenshtein's distance in characters.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_count_characters() {
        let text = "SELECT 'é',\n  x FROM t";
        let at = |line, column| Location::new(line, column).expect("a place");
        assert_eq!(characters_before(text, at(2, 3)), 14);
        assert_eq!(&text[byte_at(text, at(2, 3))..], "x FROM t");
        assert_eq!(byte_at(text, at(9, 1)), text.len());
    }

    #[test]
    fn errors_keep_their_code_however_deep_they_lie() {
        let own = || DataFusionError::from(Error::new(sqlstate::IO_ERROR, "corrupt batch").detail("in t"));
        let shared = |error| DataFusionError::Shared(std::sync::Arc::new(error));
        let nested = ArrowError::ExternalError(Box::new(own().context("while joining")));
        for error in [shared(own()), shared(shared(own())), shared(DataFusionError::ArrowError(Box::new(nested), None))]
        {
            let error = Error::from(error);
            assert_eq!((error.code, error.message.as_str()), (sqlstate::IO_ERROR, "corrupt batch"));
            assert_eq!((error.detail.as_deref(), error.hint), (Some("in t"), None));
        }
        let text = "External error: no operator a + b. No function matches".to_owned();
        assert_eq!(Error::from(DataFusionError::Plan(text.clone())).code, sqlstate::UNDEFINED_FUNCTION);
        assert_ne!(Error::from(DataFusionError::Execution(text)).message, "no operator a + b");
    }

    #[test]
    fn near_names_are_found() {
        assert_eq!(nearest("amout", ["id", "amount", "status"]), Some("amount"));
        assert_eq!(nearest("zzz", ["id", "amount"]), None);
    }
}
