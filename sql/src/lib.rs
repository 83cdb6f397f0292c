//! How people say it: PostgreSQL's dialect over topics and views. The only package that names DataFusion and sqlparser;
//! what it shows outside are boxed futures.

pub mod catalog;
pub mod error;
pub mod expr;
pub mod parse;
pub mod plan;
pub mod types;

pub use error::{Error, Result};
