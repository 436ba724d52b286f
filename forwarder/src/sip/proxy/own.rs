//! What stands for this forwarder in messages.

use std::net::{IpAddr, SocketAddr};

use super::{
    Settings,
    via::{MAGIC_COOKIE, ip},
};
use crate::sip::transport::Transport;

/// The names of a service's VIP.
#[derive(Clone)]
pub(super) struct Own {
    vip: SocketAddr,
    /// The host, as it is written.
    host: String,
    /// Is that a name rather than the VIP's address?
    advertised: bool,
    /// One for each transport, by its number.
    sides: Vec<Side>,
}

/// What stands for the VIP on one transport.
#[derive(Clone)]
struct Side {
    port: u16,
    /// Our Via up to what a request makes of it.
    via: String,
    /// Our URI behind its user part.
    uri: String,
}

impl Own {
    pub(super) fn new(settings: &Settings) -> Self {
        let vip = settings.own;
        let host = match (&settings.advertised, vip.ip()) {
            (Some(name), _) => name.clone(),
            (None, IpAddr::V4(ip)) => ip.to_string(),
            (None, IpAddr::V6(ip)) => format!("[{ip}]"),
        };
        let magic = String::from_utf8_lossy(MAGIC_COOKIE);
        let side = |transport: Transport| {
            let listener = settings.listeners.iter().find(|l| l.0 == transport);
            let port = listener.map_or(vip.port(), |&(_, port)| port);
            let (name, parameter) = (transport.name(), transport.uri_parameter());
            Side {
                port,
                via: format!("Via: SIP/2.0/{name} {host}:{port};branch={magic}"),
                uri: format!("{host}:{port}{parameter};lr"),
            }
        };
        Self {
            vip,
            sides: Transport::ALL.map(side).to_vec(),
            advertised: settings.advertised.is_some(),
            host,
        }
    }

    /// Our Via for a request that leaves over this transport, up to its branch.
    pub(super) fn via(&self, transport: Transport) -> &str {
        &self.side(transport).via
    }

    /// Our URI on this transport, from the host on.
    pub(super) fn uri(&self, transport: Transport) -> &str {
        &self.side(transport).uri
    }

    fn side(&self, transport: Transport) -> &Side {
        &self.sides[usize::from(transport as u8)]
    }

    /// Do this host and port stand for the VIP?
    pub(super) fn is(&self, host: &[u8], port: u16) -> bool {
        if !self.sides.iter().any(|side| side.port == port) {
            return false;
        }
        if host.eq_ignore_ascii_case(self.host.as_bytes()) {
            return true;
        }
        // An IPv4 address is written in one way only; an IPv6 address is not. With a name advertised,
        // its address is ours as well.
        (self.advertised || host.first() == Some(&b'[')) && ip(host) == Some(self.vip.ip())
    }
}
