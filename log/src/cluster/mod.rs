//! The cluster: topics and their placement, and the seam through which the other packages use the log in process.

pub mod access;
pub mod alter;
pub mod backend;
pub mod config;
pub mod journal;
pub(crate) mod names;
pub(crate) mod topics;

#[cfg(test)]
pub(crate) mod conformance;
