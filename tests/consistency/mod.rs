//! Never a state that never was: totals while the program works, and every recorded epoch replayed afterwards.

mod recorded;
mod replay;
mod timeline;
mod totals;
mod transfers;
mod upserts;
mod writers;
