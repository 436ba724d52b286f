//! TCP, TLS and WebSocket: what a service listens on, and how it reaches its backends.

use std::{path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

/// `[connections]`: limits of connections with clients, of all services together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Connections {
    /// Connections at a time.
    pub total: usize,
    /// Connections from one source: an IPv4 address, or the first 64 bits of an IPv6 address.
    pub per_source: usize,
    /// Connections without a complete handshake or first message yet.
    pub half_open: usize,
    /// How long a TLS or WebSocket handshake may take.
    #[serde(with = "humantime_serde")]
    pub handshake_timeout: Duration,
    /// How long a message may take that has begun.
    #[serde(with = "humantime_serde")]
    pub message_timeout: Duration,
    /// How long a connection may be silent.
    #[serde(with = "humantime_serde")]
    pub idle_timeout: Duration,
    /// How long a peer may take nothing of what waits for it.
    #[serde(with = "humantime_serde")]
    pub write_timeout: Duration,
    /// How much may wait for one peer, in bytes.
    pub write_buffer: usize,
    /// Largest start line and headers of a message, in bytes.
    pub max_headers: usize,
    /// Largest message, in bytes.
    pub max_message: usize,
}

impl Default for Connections {
    fn default() -> Self {
        Self {
            total: 50_000,
            per_source: 1_000,
            half_open: 2_000,
            handshake_timeout: Duration::from_secs(10),
            message_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_hours(1),
            write_timeout: Duration::from_secs(10),
            write_buffer: 262_144,
            max_headers: 16_384,
            max_message: 65_536,
        }
    }
}

/// How messages get to the backends of a service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BackendTransport {
    /// UDP.
    #[default]
    Udp,
    /// TCP.
    Tcp,
    /// TLS over TCP.
    Tls,
}

impl BackendTransport {
    /// Its name in the configuration.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
        }
    }
}

/// What a service listens on besides UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ListenTransport {
    /// TCP.
    Tcp,
    /// TLS over TCP.
    Tls,
    /// WebSocket (RFC 7118).
    Ws,
    /// WebSocket over TLS.
    Wss,
}

impl ListenTransport {
    /// Its name in the configuration.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Ws => "ws",
            Self::Wss => "wss",
        }
    }

    /// Does it need certificates?
    #[must_use]
    pub const fn is_secure(self) -> bool {
        matches!(self, Self::Tls | Self::Wss)
    }

    /// Its port in a service whose UDP port is `udp`, if nothing else is said.
    #[must_use]
    pub const fn default_port(self, udp: u16) -> u16 {
        match self {
            Self::Tcp => udp,
            Self::Tls => 5061,
            Self::Ws => 80,
            Self::Wss => 443,
        }
    }
}

/// `[[service.listen]]`: a port of the VIP that takes connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Listener {
    /// What is spoken there.
    pub transport: ListenTransport,
    /// The port.
    pub port: u16,
}

/// `[service.tls]`: how the TLS and secure WebSocket listeners of a service show who they are, and whom
/// they take.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Tls {
    /// Its certificates, one at least. The first is for clients that name no server, or an unknown one.
    pub certificates: Vec<Certificate>,
    /// Whether clients must show certificates.
    pub clients: ClientCertificates,
}

/// `[[service.tls.certificate]]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Certificate {
    /// The PEM file with the certificate, and those that lead to its root.
    pub chain: PathBuf,
    /// The PEM file with its private key, for nobody but its owner.
    pub key: PathBuf,
}

/// Whether clients show certificates.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClientCertificates {
    /// They are not asked.
    None,
    /// They are asked. One that shows a certificate must show a good one.
    Optional {
        /// The PEM file with the roots of good ones.
        ca: PathBuf,
    },
    /// They are asked, and without a good one there is no connection.
    Required {
        /// The PEM file with the roots of good ones.
        ca: PathBuf,
    },
}
