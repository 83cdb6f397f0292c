//! PostgreSQL's wire as far as a source needs it beyond SQL: framing, the walsender's commands, pgoutput.

pub mod lsn;
pub mod pgoutput;
pub mod walsender;
pub mod wire;
