//! The configuration file: TOML, unknown keys refused, every fault named with what is allowed.

pub(crate) mod check;
mod connections;
pub(crate) mod file;
mod health;
mod policy;

use std::{net::SocketAddr, path::PathBuf};

pub use connections::{
    BackendTransport, Certificate, ClientCertificates, Connections, ListenTransport, Listener, Tls,
};
pub use file::{ConfigError, api_socket, load, parse};
pub use health::{Beta, Gate, Health, Heartbeats, Probe};
pub use policy::{Overload, Policy, Spread, Weights};
use serde::{Deserialize, Serialize};
use sip_forwarder_ebpf::abi;

/// A valid configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The forwarder itself.
    pub forwarder: Forwarder,
    /// Where agents report to; `None`: nowhere.
    pub heartbeats: Option<Heartbeats>,
    /// Sizes of the tables.
    pub limits: Limits,
    /// Limits of connections.
    pub connections: Connections,
    /// The services, in the order of the file.
    pub services: Vec<Service>,
}

/// How XDP is attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum XdpMode {
    /// In the driver; generic, with a warning, where the driver cannot.
    #[default]
    Auto,
    /// In the driver, or not at all.
    Native,
    /// In the kernel's generic hook: works with any driver, and is slow.
    Generic,
}

/// What forwards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Dataplane {
    /// The XDP program, and workers for what it leaves.
    #[default]
    Xdp,
    /// The workers alone: without root, on ports above 1023, in mode `proxy`.
    Userspace,
}

/// `[forwarder]`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Forwarder {
    /// What agents call this forwarder; the host's name by default.
    pub name: String,
    /// What forwards.
    pub dataplane: Dataplane,
    /// Interfaces the XDP program is attached to: those towards clients and those towards backends.
    pub interfaces: Vec<String>,
    /// How it is attached.
    pub xdp: XdpMode,
    /// Where maps, program and links are pinned; on a BPF file system.
    pub bpf_dir: PathBuf,
    /// Where the state file lives.
    pub state_dir: PathBuf,
    /// The Unix socket of the API.
    pub api_socket: PathBuf,
    /// A TCP address of the API, besides the socket; read-only without a token.
    pub api_listen: Option<SocketAddr>,
    /// A file with the token that allows changes over TCP.
    pub api_token_file: Option<PathBuf>,
    /// Worker threads of the slow path; 0 is one for each core.
    pub workers: usize,
}

impl Default for Forwarder {
    fn default() -> Self {
        Self {
            name: host_name(),
            dataplane: Dataplane::Xdp,
            interfaces: Vec::new(),
            xdp: XdpMode::Auto,
            bpf_dir: "/sys/fs/bpf/sip-forwarder".into(),
            state_dir: "/var/lib/sip-forwarder".into(),
            api_socket: "/run/sip-forwarder/api.sock".into(),
            api_listen: None,
            api_token_file: None,
            workers: 0,
        }
    }
}

/// The host's name, which every Linux has.
fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map_or_else(|_| "forwarder".to_owned(), |name| name.trim().to_owned())
}

/// `[limits]`: sizes of the tables, fixed when they are first made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Services.
    pub services: u32,
    /// Backends of all services together.
    pub backends: u32,
    /// Calls remembered because they are not at their home.
    pub affinity_entries: u32,
    /// Out-of-dialog requests remembered for 32 seconds; see [`Limits::recent_lines`].
    pub recent_entries: u32,
}

impl Limits {
    /// Returns the lines of the recent table: a power of two of them, with room for `recent_entries`
    /// requests at least.
    #[must_use]
    pub const fn recent_lines(&self) -> u32 {
        self.recent_entries
            .div_ceil(abi::RECENT_WAYS as u32)
            .next_power_of_two()
    }

    /// Returns how many requests the recent table has room for.
    #[must_use]
    pub const fn recent_capacity(&self) -> u32 {
        self.recent_lines() * abi::RECENT_WAYS as u32
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            services: 16,
            backends: 1_024,
            affinity_entries: 1 << 20,
            recent_entries: 1 << 21,
        }
    }
}

/// What the backend sees of a message's way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// The destination is rewritten to the backend, and back on the way out.
    #[default]
    Nat,
    /// A Via is added, and taken off the responses (RFC 3261 section 16.11): backends may be anywhere.
    Proxy,
}

/// Which header new calls are spread by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Key {
    /// The Call-ID.
    #[default]
    CallId,
    /// The address of record in To.
    To,
    /// The address of record in From.
    From,
    /// The Request-URI's user and host.
    RequestUri,
}

impl From<Key> for abi::Key {
    fn from(key: Key) -> Self {
        match key {
            Key::CallId => Self::CALL_ID,
            Key::To => Self::TO,
            Key::From => Self::FROM,
            Key::RequestUri => Self::REQUEST_URI,
        }
    }
}

/// `[[service]]`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Service {
    /// Its name, unique in the file.
    pub name: String,
    /// The VIP and its port.
    pub vip: SocketAddr,
    /// What the backends see.
    pub mode: Mode,
    /// Mode `proxy`: stay on the way of later requests of a dialog?
    pub record_route: bool,
    /// Mode `proxy`: the host that stands for the VIP in Via and Record-Route, if not its address.
    pub advertise: Option<String>,
    /// How messages get to the backends.
    pub transport: BackendTransport,
    /// With transport `udp`: do requests over 1,300 bytes go by TCP (RFC 3261 section 18.1.1)?
    pub large_by_tcp: bool,
    /// Mode `proxy`: are phones reached by the connection, or through the address translation, by which
    /// they registered (RFC 3327, RFC 5626)?
    pub edge: bool,
    /// With transport `tls`: the PEM file with the roots of the backends' certificates.
    pub backend_ca: Option<PathBuf>,
    /// The ports that take connections.
    pub listeners: Vec<Listener>,
    /// Certificates of the listeners that need them.
    pub tls: Option<Tls>,
    /// What new calls are spread by.
    pub key: Key,
    /// What REGISTER requests are spread by.
    pub register_key: Key,
    /// How new calls are given out, and what happens when nobody takes them.
    pub spread: Spread,
    /// How backends without an agent are asked whether they live.
    pub probe: Probe,
    /// Its backends.
    pub backends: Vec<Backend>,
}

/// `[[service.backend]]`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Backend {
    /// Its name, unique in the service. Rings depend on names, never on the order in the file.
    pub name: String,
    /// Where it listens.
    pub address: SocketAddr,
    /// Its share of the calls against the other backends'.
    pub weight: u16,
    /// Who says whether it lives.
    pub health: Health,
    /// The valve on its new calls.
    pub gate: Gate,
    /// The host name or address in its certificate.
    pub server_name: String,
}

/// Largest weight of a backend.
pub const WEIGHT_LIMIT: u16 = 1_000;
