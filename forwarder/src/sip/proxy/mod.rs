//! Mode `proxy`: a stateless proxy (RFC 3261 section 16.11), as a change to messages and without I/O.
//!
//! A request gets a Via of ours on top, so that its response comes back here; the response loses it
//! and goes where the cookie in it says (`cookie`). Nothing is remembered between messages. What is
//! not changed leaves byte by byte as it came: a change is a [`Patch`].
//!
//! As an edge proxy it also stays on the way to clients that are reached by one flow only: phones
//! behind connections and behind address translators. REGISTER gets a Path (RFC 3327), a dialog gets
//! a Record-Route, with a token in it that names the flow (`token`). Where the transports of both
//! sides differ, the Record-Route is double (RFC 5658).
//!
//! What this proxy leaves to the backends, being one with them to everybody else: Proxy-Require,
//! Content-Length, the syntax of all headers it does not use; and strict routers of RFC 2543, to whom
//! a request goes with its Request-URI as it is.

mod codec;
mod cookie;
mod fields;
mod hash;
mod identity;
mod own;
mod patch;
mod refusal;
mod request;
mod response;
mod route;
mod token;
mod via;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;

pub use self::{
    fields::list,
    patch::{Patch, Piece},
    refusal::{DropReason, Refusal},
    request::{Inward, Outward},
    response::ResponseError,
};
use self::{hash::Keys, own::Own, via::COOKIE_PARAMETER};
use super::transport::Transport;

/// What a service in this mode is set to. It holds a secret, and so is not for printing.
#[derive(Clone)]
pub struct Settings {
    /// The VIP and its port.
    pub own: SocketAddr,
    /// The host that stands for the VIP in Via and Record-Route, if not its address.
    pub advertised: Option<String>,
    /// The secret of the cluster.
    pub key: [u64; 2],
    /// Stay on the path of later requests of a dialog?
    pub record_route: bool,
    /// Seconds after a request in which its response passes.
    pub lifetime: u64,
    /// The longest header section that passes, in bytes.
    pub longest_headers: usize,
    /// Where clients may come by connections: transports and ports of the VIP.
    pub listeners: Vec<(Transport, u16)>,
    /// Over what requests go to backends.
    pub onward: Transport,
    /// Do requests that are too long for a datagram go by TCP?
    pub large_by_tcp: bool,
    /// Stay on the way to clients that one flow alone leads to?
    pub edge: bool,
}

impl Settings {
    /// An INVITE may ring for long, and be answered after an hour in a queue; a shorter lifetime would
    /// gain nothing against forgers (see `cookie`).
    pub const LIFETIME: u64 = 3600;

    /// Ten times what real calls have.
    pub const LONGEST_HEADERS: usize = 16 * 1024;

    /// The defaults: everything over UDP.
    #[must_use]
    pub const fn new(own: SocketAddr, key: [u64; 2]) -> Self {
        Self {
            own,
            advertised: None,
            key,
            record_route: false,
            lifetime: Self::LIFETIME,
            longest_headers: Self::LONGEST_HEADERS,
            listeners: Vec::new(),
            onward: Transport::Udp,
            large_by_tcp: false,
            edge: false,
        }
    }

    /// About how many bytes a request grows by at most: Via, two Record-Routes, a token.
    #[must_use]
    pub fn longest_addition(&self) -> usize {
        const FIXED: usize = 320;
        FIXED + 3 * self.advertised.as_ref().map_or(15, String::len)
    }
}

/// The proxy of a service.
#[derive(Clone)]
pub struct Proxy {
    settings: Settings,
    keys: Keys,
    own: Own,
}

impl Proxy {
    /// Prepares a proxy.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            keys: Keys::derive(settings.key, settings.own),
            own: Own::new(&settings),
            settings,
        }
    }

    /// Do this host and port stand for the VIP?
    #[must_use]
    pub fn is_own(&self, host: &[u8], port: u16) -> bool {
        self.own.is(host, port)
    }

    /// What it is set to.
    #[must_use]
    pub const fn settings(&self) -> &Settings {
        &self.settings
    }
}
