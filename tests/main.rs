//! The one integration binary: drives the built program with real servers and clients nobody here wrote.

#![expect(clippy::disallowed_methods, reason = "tests stand outside of the program and its environment")]

mod support;

mod cdc;
mod compat;
mod consistency;
mod crash;
mod readme;
mod slt;
mod store;
mod tidy;
