//! Where data changes: deltas, operators, epochs and the jobs made of them. Arrow; this package knows neither Kafka's
//! wire, nor SQL, nor DataFusion.

pub mod codec;
pub mod delta;
pub mod error;
pub mod expr;
pub mod graph;
pub mod io;
pub mod job;
pub mod operator;
pub mod run;
pub mod state;
pub mod time;
pub mod timeline;

pub use delta::Delta;
pub use io::Gate;
pub use job::{Engine, EngineConfig, EngineMetrics, Error, JobState, JobStatus, Pin, TableDef, ViewDef};
pub use time::Epoch;
