//! The store under fire: clients' histories are recorded over kills and checked whole afterwards.

mod actors;
mod census;
mod compacted;
mod damage;
mod deletions;
mod early;
mod full;
mod history;
mod kills;
mod lives;
mod partitions;
mod power;
mod recreate;
