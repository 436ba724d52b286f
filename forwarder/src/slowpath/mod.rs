//! The per-core UDP workers: what XDP passed on gets the same backend here.

mod name;
mod options;
pub mod placement;
pub mod receive;
pub mod step;
pub mod transparent;
pub mod worker;
