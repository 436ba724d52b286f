//! The XDP program and its maps: the only module that knows aya.

pub mod attach;
mod census;
mod contents;
pub mod driver;
pub mod environment;
mod kernel_store;
mod maps;
pub mod migrate;
pub mod nexthop;
pub mod object;
pub mod pins;
mod plane;
pub mod program_log;
pub mod publish;
mod shared;
pub mod stages;

pub use census::Census;
pub use kernel_store::{KernelStore, KernelTables};
pub use maps::{Maps, MapsError, load as maps_load};
pub use plane::Plane;
pub use shared::{Hints, SharedMap, Turns};
