//! SIP over connections: what the tests and benchmarks speak to the forwarder with.
//!
//! - [`framing`]: messages out of a stream of bytes.
//! - [`carrier`]: one connection of any transport, asynchronous: connecting, reading, writing.
//! - [`link`]: the same for tests, which wait.
//! - [`load`]: calls over many connections; [`flood`]: single requests over many connections, as fast as they go.
//! - [`proxy`]: a proxy behind the forwarder that takes TCP.
//! - [`hostile`]: peers that mean no good.
//!
//! Nothing of it is the forwarder's own code: the WebSocket side is `fastwebsockets`, the framing is written anew.

pub mod carrier;
pub mod flood;
pub mod framing;
pub mod hostile;
pub mod link;
pub mod load;
pub mod proxy;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::certificates::Issued;

/// What carries SIP messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Transport {
    /// Datagrams.
    #[default]
    Udp,
    /// A stream.
    Tcp,
    /// TLS over TCP.
    Tls,
    /// WebSocket (RFC 7118) over TCP.
    Ws,
    /// WebSocket over TLS.
    Wss,
}

impl Transport {
    /// Where the lab's forwarder and proxies listen for it.
    #[must_use]
    pub const fn port(self) -> u16 {
        match self {
            Self::Udp | Self::Tcp => 5060,
            Self::Tls => 5061,
            Self::Ws => 8080,
            Self::Wss => 8443,
        }
    }

    /// Its name in a Via.
    #[must_use]
    pub const fn in_via(self) -> &'static str {
        match self {
            Self::Udp => "UDP",
            Self::Tcp => "TCP",
            Self::Tls => "TLS",
            Self::Ws => "WS",
            Self::Wss => "WSS",
        }
    }

    /// Its name in configurations and in the `transport` parameter of a URI. (RFC 7118 section 5.2 has `ws` for both.)
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Ws => "ws",
            Self::Wss => "wss",
        }
    }

    /// Does TLS protect it?
    #[must_use]
    pub const fn is_secure(self) -> bool {
        matches!(self, Self::Tls | Self::Wss)
    }

    /// Is it a WebSocket?
    #[must_use]
    pub const fn is_web(self) -> bool {
        matches!(self, Self::Ws | Self::Wss)
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Whom to connect to, and how.
#[derive(Clone, Debug)]
pub struct Target {
    /// By what.
    pub transport: Transport,
    /// Where.
    pub address: SocketAddr,
    /// With TLS: whom to trust, and as whom to come.
    pub tls: Option<TlsClient>,
}

/// A TLS client's side.
#[derive(Clone, Debug)]
pub struct TlsClient {
    /// The authority's certificate.
    pub authority: PathBuf,
    /// The name asked for (SNI) and expected; the address without it.
    pub name: Option<String>,
    /// The client's own certificate.
    pub certificate: Option<Issued>,
}
