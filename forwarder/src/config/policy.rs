//! How new calls are given out.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use sip_forwarder_ebpf::abi;

/// Where a new call goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// To the backend that the hash of its key chooses, in proportion to weight.
    #[default]
    Hash,
    /// To each backend in turn, in proportion to weight.
    RoundRobin,
}

impl From<Policy> for abi::Policy {
    fn from(policy: Policy) -> Self {
        match policy {
            Policy::Hash => Self::HASH,
            Policy::RoundRobin => Self::ROUND_ROBIN,
        }
    }
}

/// What shares the backends have of new calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Weights {
    /// Those configured.
    #[default]
    Fixed,
    /// Those configured, each times the part of its CPU that the backend has left.
    Cpu,
}

/// What becomes of a request that starts something while nobody takes new calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Overload {
    /// It is answered `503` with `Retry-After`.
    #[default]
    Reject,
    /// Nothing: the OSLB thesis' way.
    Drop,
}

/// How a service's new calls are given out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Spread {
    /// Where a new call goes.
    pub policy: Policy,
    /// What shares the backends have.
    pub weights: Weights,
    /// How long calls that are up are given to end before their slots follow a changed configuration.
    pub settle: Duration,
    /// What happens to new calls when nobody takes them.
    pub overload: Overload,
    /// `Retry-After` of a refusal, in seconds.
    pub retry_after: u16,
    /// Users of Request-URIs that are emergency calls, besides `urn:service:sos`.
    pub emergency: Vec<String>,
    /// A draining backend that was silent for so long counts as empty.
    pub drain_idle: Duration,
}

impl Default for Spread {
    fn default() -> Self {
        Self {
            policy: Policy::Hash,
            weights: Weights::Fixed,
            settle: Duration::from_hours(1),
            overload: Overload::Reject,
            retry_after: 5,
            emergency: Vec::new(),
            drain_idle: Duration::from_mins(5),
        }
    }
}
