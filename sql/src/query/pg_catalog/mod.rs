//! PostgreSQL's own catalog as far as clients look into it: virtual tables over what there is, functions, and the
//! rewriting of constructs that DataFusion does not plan.

mod functions;
mod rewrite;
mod shapes;
mod tables;
#[cfg(test)]
mod tests;

pub use functions::{register, register_world};
pub use rewrite::{Facts, rewrite};
pub use tables::{World, WorldRelation, table};
