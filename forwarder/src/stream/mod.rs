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
mod reach;
mod registry;
mod service;
mod socket;
mod streams;
pub mod tls;
mod unanswered;
mod websocket;
mod whole;
mod wire;

pub use self::{
    hub::{Hub, Picture},
    listener::ListenError,
    reach::Reach,
    service::{Listener, Service},
    streams::{Prepared, Streams, StreamsError},
};
