//! What people have created: sources, tables, views and sinks, by name and id. The catalog is a machine over the topic
//! `__riverrun_catalog`; readers hold a snapshot and watch for the next.

mod name;
mod object;
mod objects;
mod store;

#[cfg(test)]
mod tests;

pub use name::{DATABASE, Name, SCHEMA};
pub use object::{Class, Column, Draft, Kind, Object, OnError, PinnedInput, Sink, Source, Table, View, schema};
pub use objects::Objects;
pub use store::{Catalog, TOPIC};
