//! One element of a Via (RFC 3261 section 20.42).

use std::{
    net::{IpAddr, SocketAddr},
    ops::Range,
};

use super::{super::address, fields::shift};
use crate::sip::transport::Flow;

/// What a branch begins with whose sender knows RFC 3261 (section 8.1.1.7).
pub(super) const MAGIC_COOKIE: &[u8] = b"z9hG4bK";

/// Our own parameter of a Via, which holds the cookie.
pub(super) const COOKIE_PARAMETER: &str = "sfw";

/// An element of a Via, as ranges of the message.
#[derive(Clone, Debug)]
pub(super) struct Via {
    /// All of it, without blanks around it.
    pub(super) element: Range<usize>,
    /// The host of its sent-by, brackets included.
    pub(super) host: Range<usize>,
    /// The port of its sent-by.
    pub(super) port: u16,
    /// The value of `branch`.
    pub(super) branch: Option<Range<usize>>,
    /// The parameter `rport`, with its value if it has one.
    pub(super) rport: Option<Range<usize>>,
    /// The parameter `received`, with its value.
    pub(super) received: Option<Range<usize>>,
    /// The value of our own parameter.
    pub(super) cookie: Option<Range<usize>>,
}

impl Via {
    /// Reads an element; `None` if it has no sent-by.
    pub(super) fn read(text: &[u8], element: Range<usize>) -> Option<Self> {
        let bytes = &text[element.clone()];
        let (host, port) = address::sent_by(bytes)?;
        let mut via = Self {
            host: shift(host, element.start),
            port,
            branch: None,
            rport: None,
            received: None,
            cookie: None,
            element: element.clone(),
        };
        for parameter in address::parameter_ranges(bytes) {
            let name = address::parameter_name(&bytes[parameter.clone()]);
            let value = || shift(value(bytes, parameter.clone()), element.start);
            let whole = || shift(parameter.clone(), element.start);
            if name.eq_ignore_ascii_case(b"branch") {
                via.branch.get_or_insert_with(value);
            } else if name.eq_ignore_ascii_case(b"rport") {
                via.rport.get_or_insert_with(whole);
            } else if name.eq_ignore_ascii_case(b"received") {
                via.received.get_or_insert_with(whole);
            } else if name.eq_ignore_ascii_case(COOKIE_PARAMETER.as_bytes()) {
                via.cookie.get_or_insert_with(value);
            }
        }
        Some(via)
    }

    /// The branch, if its sender knows RFC 3261. The magic cookie alone identifies nothing (RFC 4475
    /// section 3.2.1).
    pub(super) fn unique_branch<'a>(&self, text: &'a [u8]) -> Option<&'a [u8]> {
        let branch = &text[self.branch.clone()?];
        let known = branch.len() > MAGIC_COOKIE.len()
            && branch[..MAGIC_COOKIE.len()].eq_ignore_ascii_case(MAGIC_COOKIE);
        known.then_some(branch)
    }

    /// Where a response to a request that came by `source` goes: over the connection that it came by,
    /// and if that is gone to the port of its sent-by; over UDP to the port it was sent from if it
    /// asks for that (RFC 3581 section 4), else to the port of its sent-by (RFC 3261 section 18.2.2).
    pub(super) fn way_back(&self, source: Flow) -> Flow {
        let mut way_back = source;
        if source.transport.has_connections() || self.rport.is_none() {
            way_back.peer.set_port(self.port);
        }
        way_back
    }

    /// Does the sender stand behind an address translator? Then its sent-by is not where it sends
    /// from, as this forwarder sees it.
    pub(super) fn is_translated(&self, text: &[u8], source: SocketAddr) -> bool {
        self.port != source.port()
            || ip(&text[self.host.clone()]) != Some(source.ip().to_canonical())
    }
}

/// Where the value of a parameter lies; empty if it has none.
fn value(text: &[u8], parameter: Range<usize>) -> Range<usize> {
    let equals = text[parameter.clone()].iter().position(|&b| b == b'=');
    equals.map_or(parameter.end..parameter.end, |at| {
        address::trim_range(text, parameter.start + at + 1..parameter.end)
    })
}

/// The address that a host stands for, if it is written as one, with or without brackets.
pub(super) fn ip(host: &[u8]) -> Option<IpAddr> {
    let host = std::str::from_utf8(host).ok()?;
    match host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        Some(bare) => bare.parse().ok().map(IpAddr::V6),
        None => host.parse().ok(),
    }
}
