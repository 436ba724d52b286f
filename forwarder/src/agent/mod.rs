//! The agent: runs beside a proxy, and tells its forwarders how busy the proxy is and whether it runs.
//!
//! One thread does it all. Each forwarder has a task with its socket and session (`link`); others
//! watch the process (`process`), ask the proxy (`probe`) and listen to the operator ([`control`]).
//! [`run`](fn@run) puts together what they say, and gives it to the links at each interval, and at once
//! when the state changes.

pub mod config;
pub mod control;
pub mod cpu;
mod link;
mod priority;
mod probe;
mod process;
mod run;

pub use config::Config;
pub use run::{AgentError, run};
