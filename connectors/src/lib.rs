//! riverrun-connectors
