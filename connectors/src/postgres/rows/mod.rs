//! From PostgreSQL's text forms to rows as they are recorded, the same for snapshot and stream.

pub mod copy;
pub mod source_block;
pub mod table;
pub mod types;
