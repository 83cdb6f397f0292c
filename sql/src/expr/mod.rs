//! Expressions as PostgreSQL means them, on DataFusion: names and types, checked arithmetic, our aggregates. Views and
//! ad-hoc queries are planned with the same parts, so that both have the same columns and the same values.

mod aggregate;
mod arithmetic;
mod casts;
mod computed;
mod context;
mod guard;
mod operators;
mod rewrite;
mod state;

pub use casts::PlainTypes;
pub use computed::{Computed, Conjunction};
pub use context::{Context, Names};
pub use guard::{guard_condition, guard_plan, guard_value};
pub use rewrite::{display_name, rewrite};
pub use state::{install, parser_options, settings};
