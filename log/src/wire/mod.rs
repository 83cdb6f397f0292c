//! The Kafka protocol as bytes: frames, messages, the list of served APIs. No IO; hostile bytes give errors.
//!
//! Level: Kafka 4.2, with the floor of KIP-896. Messages are declared by theme through one macro
//! ([`message`](self::message)) from the published definitions; [`api`] is the one list from which dispatch, ApiVersions
//! and metrics come.

pub mod api;
pub mod error_code;
pub mod frame;
pub mod primitive;

#[macro_use]
mod message;
pub mod configs;
pub mod discovery;
pub mod fetch;
pub mod offsets;
pub mod produce;
pub mod topics;

#[cfg(test)]
pub(crate) mod tests;
