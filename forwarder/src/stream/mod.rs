//! Messages over connections: TCP, TLS and WebSocket, from clients and to backends.
//!
//! Beside each worker's thread, on the same core, runs a thread with a tokio runtime that owns the
//! connections it accepted or opened. What becomes of a message is decided where it was read, by the
//! same step as for a datagram (`slowpath::proxying`). A message for a connection of another core, or
//! from a UDP worker, is handed to its owner through the connection's queue ([`Hub`]).

mod connection;
pub mod counters;
mod framed;
mod hub;
mod link;
mod listener;
mod registry;
mod service;
mod socket;
mod streams;
pub mod tls;
mod unanswered;
mod websocket;
mod whole;
mod wire;

use std::time::Duration;

pub use self::{
    hub::{Hub, Picture},
    listener::ListenError,
    service::{Listener, Service},
    streams::{Streams, StreamsError},
};

/// Limits of connections, of all services together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections of clients.
    pub total: usize,
    /// Of them, from one IPv4 address or one IPv6 /64.
    pub per_source: usize,
    /// Of them, without a complete handshake and message yet.
    pub half_open: usize,
    /// For handshakes and the first message.
    pub handshake_timeout: Duration,
    /// For a message, once it has begun.
    pub message_timeout: Duration,
    /// Without anything coming or going.
    pub idle_timeout: Duration,
    /// For a peer that takes nothing of what waits for it.
    pub write_timeout: Duration,
    /// Bytes that wait for one client.
    pub write_buffer: usize,
    /// Bytes of a message's headers.
    pub max_headers: usize,
    /// Bytes of a message.
    pub max_message: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            total: 50_000,
            per_source: 1_000,
            half_open: 2_000,
            handshake_timeout: Duration::from_secs(10),
            message_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(3_600),
            write_timeout: Duration::from_secs(10),
            write_buffer: 256 * 1024,
            max_headers: 16 * 1024,
            max_message: 64 * 1024,
        }
    }
}
