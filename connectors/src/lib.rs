//! Where data enters and leaves: the list of connectors, one folder each, and the record formats.

pub mod cdc;
pub mod change;
pub mod format;
pub mod generator;
pub mod options;
pub mod postgres;

use std::sync::Arc;

use engine::io::Connector;

pub use format::formats;

/// Every connector there is.
pub fn connectors() -> Vec<Arc<dyn Connector>> {
    vec![Arc::new(generator::Generator), Arc::new(postgres::Postgres)]
}
