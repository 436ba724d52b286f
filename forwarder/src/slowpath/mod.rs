//! The per-core UDP workers: what XDP passed on gets the same backend here.

mod calls;
pub mod counters;
mod errors;
pub mod flows;
pub mod memory;
mod name;
mod options;
mod patched;
pub mod placement;
mod placer;
pub mod proxying;
pub mod receive;
pub mod recent;
pub mod step;
pub mod store;
pub mod transparent;
pub mod worker;

pub use placer::{Managed, Manners, Placer, canonical, seconds};
