//! Mode `proxy`: a stateless proxy (RFC 3261 section 16.11), as a change to messages and without I/O.
//!
//! A request gets a Via of ours on top, so that its response comes back here; the response loses it
//! and goes where the cookie in it says (`cookie`). Nothing is remembered between messages. What is
//! not changed leaves byte by byte as it came: a change is a [`Patch`].
//!
//! What this proxy leaves to the backends, being one with them to everybody else: Proxy-Require,
//! Content-Length, the syntax of all headers it does not use; and strict routers of RFC 2543, to whom
//! a request goes with its Request-URI as it is.

mod cookie;
mod fields;
mod hash;
mod identity;
mod patch;
mod refusal;
mod request;
mod response;
mod via;

#[cfg(test)]
mod tests;

use std::net::{IpAddr, SocketAddr};

pub use self::{
    fields::list,
    patch::{Patch, Piece},
    refusal::{DropReason, Refusal},
    request::{Inward, Outward},
    response::ResponseError,
};
use self::{
    hash::Keys,
    via::{COOKIE_PARAMETER, MAGIC_COOKIE, ip},
};

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
}

impl Settings {
    /// An INVITE may ring for long, and be answered after an hour in a queue; a shorter lifetime would
    /// gain nothing against forgers (see `cookie`).
    pub const LIFETIME: u64 = 3600;

    /// Ten times what real calls have.
    pub const LONGEST_HEADERS: usize = 16 * 1024;

    /// The defaults.
    #[must_use]
    pub const fn new(own: SocketAddr, key: [u64; 2]) -> Self {
        Self {
            own,
            advertised: None,
            key,
            record_route: false,
            lifetime: Self::LIFETIME,
            longest_headers: Self::LONGEST_HEADERS,
        }
    }
}

/// The proxy of a service.
#[derive(Clone)]
pub struct Proxy {
    settings: Settings,
    keys: Keys,
    /// The host in our sent-by.
    host: String,
    /// Our Via up to what a request makes of it.
    via: String,
    /// Our Record-Route line; empty if there is to be none.
    record_route: String,
}

impl Proxy {
    /// Prepares a proxy.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let own = settings.own;
        let host = match (&settings.advertised, own.ip()) {
            (Some(name), _) => name.clone(),
            (None, IpAddr::V4(ip)) => ip.to_string(),
            (None, IpAddr::V6(ip)) => format!("[{ip}]"),
        };
        let port = own.port();
        let magic = String::from_utf8_lossy(MAGIC_COOKIE);
        let record_route = if settings.record_route {
            format!("Record-Route: <sip:{host}:{port};lr>\r\n")
        } else {
            String::new()
        };
        Self {
            keys: Keys::derive(settings.key, own),
            via: format!("Via: SIP/2.0/UDP {host}:{port};branch={magic}"),
            record_route,
            host,
            settings,
        }
    }

    /// Do this host and port stand for the VIP?
    fn is_own(&self, host: &[u8], port: u16) -> bool {
        if port != self.settings.own.port() {
            return false;
        }
        if host.eq_ignore_ascii_case(self.host.as_bytes()) {
            return true;
        }
        // An IPv4 address is written in one way only; an IPv6 address is not. With a name advertised,
        // its address is ours as well.
        (self.settings.advertised.is_some() || host.first() == Some(&b'['))
            && ip(host) == Some(self.settings.own.ip())
    }
}
