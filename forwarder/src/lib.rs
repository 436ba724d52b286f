//! The control daemon and the per-core workers around the XDP program.

pub mod agent;
pub mod api;
pub mod app;
pub mod cli;
pub mod config;
pub mod control;
pub mod dataplane;
pub mod heartbeat;
pub mod mapped;
pub mod probe;
pub mod sip;
pub mod slowpath;
pub mod state;
pub mod stream;
mod unix_socket;
