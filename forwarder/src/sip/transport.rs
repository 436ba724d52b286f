//! Over what a message comes and goes.

use std::{net::SocketAddr, num::NonZeroU64};

/// A transport of SIP (RFC 3261 section 18, RFC 7118).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Transport {
    /// Datagrams.
    Udp,
    /// A stream.
    Tcp,
    /// A stream under TLS.
    Tls,
    /// WebSocket.
    Ws,
    /// WebSocket under TLS.
    Wss,
}

impl Transport {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Udp, Self::Tcp, Self::Tls, Self::Ws, Self::Wss];

    /// As a Via writes it (RFC 3261 section 20.42, RFC 7118 section 5.1).
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Udp => "UDP",
            Self::Tcp => "TCP",
            Self::Tls => "TLS",
            Self::Ws => "WS",
            Self::Wss => "WSS",
        }
    }

    /// The parameter of a URI that asks for it; empty for the one that nobody need ask for. A URI
    /// says `ws` for both kinds of WebSocket (RFC 7118 section 5.2).
    #[must_use]
    pub const fn uri_parameter(self) -> &'static str {
        match self {
            Self::Udp => "",
            Self::Tcp => ";transport=tcp",
            Self::Tls => ";transport=tls",
            Self::Ws | Self::Wss => ";transport=ws",
        }
    }

    /// Does it carry messages over connections, without loss?
    #[must_use]
    pub const fn has_connections(self) -> bool {
        !matches!(self, Self::Udp)
    }

    /// Its number in cookies and tokens.
    pub(super) const fn number(self) -> u8 {
        self as u8
    }

    /// The transport of this number.
    pub(super) fn of_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }
}

/// A connection of this forwarder's, while it lasts. No two have the same, across restarts too but
/// for a chance of one in billions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub NonZeroU64);

/// How a peer is reached: a flow (RFC 5626 section 3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Flow {
    /// Over what.
    pub transport: Transport,
    /// The peer's address and port.
    pub peer: SocketAddr,
    /// Over which connection, if one is meant.
    pub connection: Option<ConnectionId>,
}

impl Flow {
    /// To and from this address by datagrams.
    #[must_use]
    pub const fn udp(peer: SocketAddr) -> Self {
        Self {
            transport: Transport::Udp,
            peer,
            connection: None,
        }
    }
}
