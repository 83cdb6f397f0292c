//! How people say it: PostgreSQL's dialect over topics and views. The only package that names DataFusion and sqlparser;
//! what it shows outside are boxed futures.

pub mod error;
pub mod parse;

pub use error::{Error, Result};
