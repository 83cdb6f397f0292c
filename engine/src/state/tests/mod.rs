//! Tests of state: encodings round-trip and keep their order and bytes; versions show each epoch as it was.

mod encoding;
mod versioned;
