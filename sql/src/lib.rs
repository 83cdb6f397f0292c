//! How people say it: PostgreSQL's dialect over topics and views. The only package that names DataFusion and sqlparser;
//! what it shows outside are boxed futures.

pub mod catalog;
pub mod error;
pub mod expr;
pub mod parse;
pub mod pgwire;
pub mod plan;
pub mod query;
pub mod session;
pub mod stack;
pub mod types;

use std::future::Future;
use std::pin::Pin;

pub use error::{Error, Result};
pub use query::QueryLimits;

/// A future of another package's caller: boxed, so that none of the code behind it is compiled there.
pub type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;
