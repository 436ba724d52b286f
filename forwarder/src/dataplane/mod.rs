//! The XDP program and its maps: the only module that knows aya.

pub mod attach;
mod census;
pub mod counters;
pub mod environment;
mod kernel_tables;
mod maps;
pub mod nexthop;
pub mod object;
pub mod pins;
pub mod program_log;
pub mod publish;

pub use census::Census;
pub use kernel_tables::KernelTables;
pub use maps::{Maps, MapsError, load as maps_load};
