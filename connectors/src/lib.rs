//! Where data enters and leaves: the list of connectors, one folder each, and the record formats.

pub mod cdc;
pub mod change;
pub mod options;
pub mod postgres;

use std::sync::Arc;

use engine::io::Connector;

/// Every connector there is.
pub fn connectors() -> Vec<Arc<dyn Connector>> {
    vec![Arc::new(postgres::Postgres)]
}
