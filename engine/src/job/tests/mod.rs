//! The engine over a real log in a simulated world: it is cut off at seeded moments, started again, and must always
//! show what the same queries give over the records below the cut.

mod harness;
mod ingest;
mod lifecycle;
mod model;
mod operators;
mod recovery;
