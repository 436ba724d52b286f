//! The control daemon and the per-core workers around the XDP program.

pub mod sip;
pub mod slowpath;
