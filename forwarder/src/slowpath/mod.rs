//! The per-core UDP workers: what XDP passed on gets the same backend here.

pub mod placement;
