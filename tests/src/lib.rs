//! The lab and what the tests share.
//!
//! - [`lab`]: network namespaces that stand for the client, the forwarder and the proxies, and the daemon in them.
//! - [`sipp`] and [`kamailio`]: real SIP traffic and a real proxy, with a record of which backend saw which call.
//! - [`frames`] and [`messages`]: packets and SIP messages built byte by byte, for tests that send their own.
//! - [`program`]: the XDP program on single packets, without an interface.
//!
//! Nothing here decides anything about forwarding: expectations live in the tests.

pub mod calls;
pub mod frames;
pub mod kamailio;
pub mod lab;
pub mod messages;
pub mod program;
pub mod sipp;
