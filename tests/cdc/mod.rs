//! PostgreSQL as the source: what is in the tables is in the topics and in the views, whatever happens on the way.

mod expected;
mod kills;
mod large;
mod refusals;
mod removal;
mod silence;
mod snapshot_and_stream;
mod stops;
mod workload;
