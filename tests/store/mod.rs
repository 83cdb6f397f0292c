//! The store under fire: clients' histories are recorded over kills and checked whole afterwards.

mod actors;
mod history;
mod kills;
mod power;
