//! What a worker asks of the connections, and hands to them.

use std::{net::SocketAddr, time::Instant};

use bytes::Bytes;
use sip_forwarder_ebpf::{abi::ServiceId, verdict::Verdict};

use crate::sip::transport::{Flow, Transport};

/// Where a message goes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// To a backend, by the rule.
    Backend {
        /// Its address and port.
        address: SocketAddr,
        /// Over what.
        transport: Transport,
    },
    /// To a client or carrier.
    Flow(Flow),
}

impl Next {
    /// The address that datagrams go to; `None` if it wants a connection.
    #[must_use]
    pub fn by_datagram(&self) -> Option<SocketAddr> {
        let (transport, address) = match *self {
            Self::Backend { address, transport } => (transport, address),
            Self::Flow(flow) => (flow.transport, flow.peer),
        };
        (transport == Transport::Udp).then_some(address)
    }
}

/// Who sent a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sender {
    /// The flow it came by.
    pub flow: Flow,
    /// Is it one of the service's backends?
    pub is_backend: bool,
}

/// A message for a connection.
#[derive(Clone, Debug)]
pub struct Outbound {
    /// Its service.
    pub service: ServiceId,
    /// Who sent it.
    pub sender: Sender,
    /// Where it goes.
    pub next: Next,
    /// All of it, as it leaves.
    pub bytes: Bytes,
    /// What is counted once it is on its way.
    pub verdict: Verdict,
    /// Since when it has been on its way: one that a backend does not take is tried elsewhere for a
    /// while.
    pub since: Instant,
}

/// The connections.
pub trait Flows: Send + Sync {
    /// Can a message of this service be sent by this flow now, or can a connection be opened for it?
    fn is_open(&self, service: ServiceId, flow: &Flow) -> bool;

    /// Does this backend take large messages by TCP?
    fn takes_large_by_tcp(&self, backend: SocketAddr) -> bool;

    /// Sends a message over the connection it wants, and counts what became of it. `worker` is the
    /// number of the worker that asks.
    fn send(&self, worker: usize, message: Outbound);
}

/// Where there are no connections.
pub struct Unconnected;

impl Flows for Unconnected {
    fn is_open(&self, _: ServiceId, flow: &Flow) -> bool {
        !flow.transport.has_connections()
    }

    fn takes_large_by_tcp(&self, _: SocketAddr) -> bool {
        false
    }

    fn send(&self, _: usize, _: Outbound) {}
}
