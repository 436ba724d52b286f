//! The per-core UDP workers: what XDP passed on gets the same backend here.

pub mod counters;
mod name;
mod options;
pub mod placement;
mod placer;
pub mod receive;
pub mod step;
pub mod store;
pub mod transparent;
pub mod worker;

pub use placer::{Manners, Placer, canonical, seconds};
