//! Heartbeats: a proxy's agent tells its forwarders, signed and some ten times a second, how busy the
//! proxy is and whether it runs.
//!
//! A forwarder must not believe a report that was made up, or recorded earlier and sent again: it would
//! close a proxy, or keep a dead one. Clocks of several machines are not trusted to agree. So the
//! forwarder gives each agent a *nonce* first, and counts by sequence from there:
//!
//! ```text
//! agent                                   forwarder
//!   | heartbeat (boot id, no nonce, 1) ----> |   right key, but no nonce of mine
//!   | <------- challenge (boot id, nonce, 1) |
//!   | heartbeat (boot id, nonce, 2) -------> |   accepted: this is the session now
//!   | heartbeat (boot id, nonce, 3) -------> |   accepted
//! ```
//!
//! When either side starts anew, its boot id or its secret changes, the session ends, and the next
//! heartbeat is answered by a challenge: a lost session costs one round trip.
//!
//! - [`keys`]: the master key, and a key of its own for each agent
//! - [`wire`]: the datagram
//! - [`sessions`]: what a forwarder believes, without I/O
//! - [`announcer`]: the agent's side, without I/O
//! - [`receiver`]: the forwarder's thread and socket

pub mod announcer;
pub mod counters;
pub mod keys;
pub mod receiver;
pub mod sessions;
pub mod wire;

pub use announcer::Announcer;
pub use counters::Counts;
pub use keys::{AgentKey, MasterKey};
pub use receiver::Receiver;
pub use sessions::Report;
pub use wire::State;
