//! Where data enters and leaves: formats, sources and sinks. Each connector is one folder and none imports another's.

use std::sync::Arc;

use engine::io::Connector;

pub mod format;

pub use format::formats;

/// Every connector, by the names that `WITH (connector = …)` takes.
pub fn connectors() -> Vec<Arc<dyn Connector>> {
    vec![]
}
