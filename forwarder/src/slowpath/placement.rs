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
    /// What else may matter of a request that starts something.
    pub start: Option<Starting<'a>>,
}

/// A request that starts something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Starting<'a> {
    /// Its method.
    pub method: &'a [u8],
    /// Its Request-URI.
    pub uri: &'a [u8],
    /// The value of its To.
    pub to: &'a [u8],
    /// The value of its From.
    pub from: &'a [u8],
}

/// Where a message goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placement {
    /// The backend's address and port.
    pub backend: SocketAddr,
    /// One of the `Forwarded…` verdicts.
    pub verdict: Verdict,
}

/// What the tables say of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placed {
    /// It goes to a backend.
    To(Placement),
    /// It starts something while no backend takes new calls, and is to be told so.
    Refused {
        /// Seconds after which to try again.
        retry_after: u16,
    },
    /// Nobody may have it, and nobody is told.
    Dropped(Verdict),
}

/// The tables, as a worker sees them.
pub trait Tables: Send + Sync {
    /// Decides by the rule, writes down what the rule wants remembered and counts the message for
    /// its backend.
    fn place(&self, service: ServiceId, message: &Message<'_>) -> Placed;

    /// The To-tag of a refusal of this call: no stranger can make one, and every forwarder of a
    /// cluster makes the same.
    fn refusal_tag(&self, call_id: &[u8]) -> String;

    /// Is this the address of one of the service's backends?
    fn is_backend(&self, service: ServiceId, source: SocketAddr) -> bool;

    /// The VIP that stands for `source` if that is itself a backend (its message spirals through
    /// the VIP).
    fn spiral_source(&self, source: SocketAddr) -> Option<SocketAddr>;

    /// May the service be given new calls?
    fn takes_calls(&self, service: ServiceId) -> bool;

    /// Is this host and port, as written in a URI, the service's own VIP?
    fn is_own_name(&self, service: ServiceId, host: &[u8], port: u16) -> bool;

    /// The network says that a message to this address did not arrive.
    fn unreachable(&self, service: ServiceId, destination: SocketAddr);

    /// Counts a message's end.
    fn count(&self, verdict: Verdict);
}
