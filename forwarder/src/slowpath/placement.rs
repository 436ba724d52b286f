//! What a worker asks of the tables.

use std::net::SocketAddr;

use sip_forwarder_ebpf::{abi::ServiceId, rule::Role, verdict::Verdict};

/// What decides where a message goes, as the full reader found it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// What the message is to the rule.
    pub role: Role,
    /// The Call-ID, without blanks around it.
    pub call_id: &'a [u8],
    /// Host (as written, brackets included) and port of the top Route of a request in a dialog, or
    /// of the top Via of a response.
    pub host: Option<(&'a [u8], u16)>,
}

/// Where a message goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placement {
    /// The backend's address and port.
    pub backend: SocketAddr,
    /// One of the `Forwarded…` verdicts.
    pub verdict: Verdict,
}

/// The tables, as a worker sees them.
pub trait Tables: Send + Sync {
    /// Decides by the rule, writes down what the rule wants remembered and counts the message for
    /// its backend. `None` if no backend may have it.
    fn place(&self, service: ServiceId, message: &Message<'_>) -> Option<Placement>;

    /// The VIP that stands for `source` if that is itself a backend (its message spirals through
    /// the VIP).
    fn spiral_source(&self, source: SocketAddr) -> Option<SocketAddr>;

    /// May the service be given new calls?
    fn takes_calls(&self, service: ServiceId) -> bool;

    /// Is this host and port, as written in a URI, the service's own VIP?
    fn is_own_name(&self, service: ServiceId, host: &[u8], port: u16) -> bool;

    /// Counts a message's end.
    fn count(&self, verdict: Verdict);
}
