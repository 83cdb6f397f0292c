//! riverrun-sql
