//! The program: its command line, its configuration, the wiring of its parts, and HTTP. Thin: what it wires stands in
//! the packages `log`, `engine`, `connectors` and `sql`.

pub mod cli;
pub mod config;
pub mod http;
pub mod server;
