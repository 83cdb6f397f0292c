//! What all change data capture shares: row changes become records, chunk by chunk, transaction by transaction. Without
//! IO and without a clock: `now` is an argument.

pub mod assemble;
pub mod envelope;
pub mod json;

pub use assemble::{Assembler, Unfit};
pub use envelope::Relation;
