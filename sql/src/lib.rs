//! How people say it: PostgreSQL's dialect and wire protocol over DataFusion. The only package that names DataFusion
//! and sqlparser; what it exposes are boxed futures, so that no other package compiles theirs.

pub mod error;

pub use error::{Error, code};
