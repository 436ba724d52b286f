//! Who says that a backend lives, and how loaded it may be.

use std::{
    net::{Ipv6Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use serde::{Deserialize, Serialize};

/// Who says whether a backend lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Health {
    /// The agent beside it, by heartbeats.
    Agent,
    /// The backend itself, by its answers to OPTIONS.
    Options,
    /// Nobody: it always counts as alive.
    None,
}

/// `[heartbeats]`: where agents report to.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Heartbeats {
    /// The UDP address; `[::]` takes IPv4 too.
    pub listen: SocketAddr,
    /// Files with master keys: one, or two while keys are exchanged.
    pub key_files: Vec<PathBuf>,
    /// How often an agent reports.
    #[serde(with = "humantime_serde")]
    pub interval: Duration,
    /// After how many reports that did not come a backend is dead.
    pub missed: u32,
}

impl Heartbeats {
    /// The port agents report to.
    pub const PORT: u16 = 5059;
}

impl Default for Heartbeats {
    fn default() -> Self {
        Self {
            listen: SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), Self::PORT),
            key_files: Vec::new(),
            interval: Duration::from_millis(100),
            missed: 3,
        }
    }
}

/// `[service.probe]`: how backends are asked by OPTIONS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Probe {
    /// How often.
    #[serde(with = "humantime_serde")]
    pub interval: Duration,
    /// How long an answer may take.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// After how many failures in a row a backend is dead.
    pub down: u32,
    /// After how many answers in a row it is alive again.
    pub up: u32,
    /// Longest time for which a `Retry-After` is obeyed.
    #[serde(with = "humantime_serde")]
    pub retry_after_cap: Duration,
}

impl Default for Probe {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            down: 2,
            up: 2,
            retry_after_cap: Duration::from_secs(10),
        }
    }
}

/// The CPU below which a closed gate opens again (OSLB thesis, chapter 4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Beta {
    /// The mean CPU of all live backends.
    #[default]
    Mean,
    /// This much, from 0 to 1.
    Fixed(f64),
}

/// `[service.gate]`, `[service.backend.gate]`: the valve on a backend's new calls.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Gate {
    /// The CPU above which the gate closes, from 0 to 1; at 1 it never does.
    pub alpha: f64,
    /// The CPU below which it opens.
    pub beta: Beta,
}

impl Default for Gate {
    fn default() -> Self {
        Self {
            alpha: 0.80,
            beta: Beta::Mean,
        }
    }
}
