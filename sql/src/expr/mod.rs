//! Expressions as PostgreSQL means them, on DataFusion: names and types, checked arithmetic, our aggregates. Views and
//! ad-hoc queries are planned with the same parts, so that both have the same columns and the same values.

mod aggregate;
mod arithmetic;
mod casts;
mod chars;
mod common;
mod computed;
mod context;
mod guard;
mod json;
mod logarithm;
mod merge;
mod operators;
mod part;
mod patterns;
pub mod read;
mod rewrite;
mod rounding;
mod span;
mod state;
mod texts;
pub mod values;
pub mod write;
mod zeros;
mod zone;

pub use casts::{Convert, PlainTypes, assign};
pub use computed::{Computed, Conjunction};
pub use context::{Context, Names};
pub use guard::{guard_condition, guard_plan, guard_value};
pub use rewrite::{display_name, rewrite};
pub use state::{analyzer_rules, install, parser_options, settings};
