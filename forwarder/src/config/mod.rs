//! The configuration file: TOML, unknown keys refused, every fault named with what is allowed.

mod check;
mod file;

use std::{net::SocketAddr, path::PathBuf};

pub use file::{ConfigError, load, parse};
use serde::{Deserialize, Serialize};
use sip_forwarder_ebpf::abi;

/// A valid configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The forwarder itself.
    pub forwarder: Forwarder,
    /// Sizes of the tables.
    pub limits: Limits,
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

/// `[forwarder]`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Forwarder {
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
    /// Worker threads of the slow path; 0 is one for each core.
    pub workers: usize,
}

impl Default for Forwarder {
    fn default() -> Self {
        Self {
            interfaces: Vec::new(),
            xdp: XdpMode::Auto,
            bpf_dir: "/sys/fs/bpf/sip-forwarder".into(),
            state_dir: "/var/lib/sip-forwarder".into(),
            api_socket: "/run/sip-forwarder/api.sock".into(),
            workers: 0,
        }
    }
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
    /// Starting requests remembered for 32 seconds; rounded up to a power of two.
    pub recent_entries: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            services: 16,
            backends: 1_024,
            affinity_entries: 1 << 20,
            recent_entries: 1 << 20,
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
}

/// Which header new calls are spread by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Key {
    /// The Call-ID.
    #[default]
    CallId,
}

impl From<Key> for abi::Key {
    fn from(key: Key) -> Self {
        match key {
            Key::CallId => Self::CALL_ID,
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
    /// What new calls are spread by.
    pub key: Key,
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
}

/// Largest weight of a backend.
pub const WEIGHT_LIMIT: u16 = 1_000;
