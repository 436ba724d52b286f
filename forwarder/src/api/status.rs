//! What `status` tells, as data. Keys of the JSON form stay once published.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The whole picture.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Version of the daemon.
    pub version: String,
    /// Seconds since it started.
    pub uptime_seconds: u64,
    /// "native" or "generic": the slowest hook in use.
    pub xdp_mode: String,
    /// The program on each interface.
    pub interfaces: Vec<Interface>,
    /// Messages sent on, in both directions.
    pub messages: Messages,
    /// The services.
    pub services: Vec<Service>,
    /// The map of calls that are not at their home.
    pub affinity: Affinity,
    /// The table of starting requests that were just seen.
    pub recent: Recent,
    /// Reports of agents; `None` if none are listened for.
    pub heartbeats: Option<Heartbeats>,
    /// TCP, TLS and WebSocket; `None` where the data plane has no connections.
    #[serde(default)]
    pub connections: Option<Connections>,
    /// Why the state file is not up to date, if it is not: what was ordered since would be forgotten.
    pub unsaved: Option<String>,
    /// Packets and messages by verdict; only those that occurred.
    pub verdicts: Vec<Verdict>,
}

/// The program on one interface.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interface {
    /// The interface's name.
    pub name: String,
    /// "native" or "generic".
    pub mode: String,
}

/// Messages sent on by each path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Messages {
    /// By the XDP program.
    pub fast: u64,
    /// By the workers.
    pub slow: u64,
}

/// One service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// Its VIP and port.
    pub vip: String,
    /// What backends see.
    pub mode: String,
    /// Where a new call goes: "hash" or "round-robin".
    pub policy: String,
    /// What shares backends have of new calls: "fixed" or "cpu".
    pub weights: String,
    /// Slots of its ring whose home does not follow the configuration yet.
    pub settling_slots: usize,
    /// Seconds until the next of these do; `None` if there are none.
    pub settle_seconds_left: Option<u64>,
    /// Have so many backends fallen silent at once that rather this forwarder's network is at fault?
    /// They then go on as if alive.
    pub suspects_itself: bool,
    /// Is anybody open to new calls?
    pub takes_calls: bool,
    /// The certificates of its listeners.
    #[serde(default)]
    pub certificates: Vec<Certificate>,
    /// Its backends.
    pub backends: Vec<Backend>,
}

/// A certificate that clients are shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// The file it is the first of.
    pub chain: String,
    /// The host names it is for.
    pub names: Vec<String>,
    /// Seconds until it ends; 0 if it has.
    pub ends_in_seconds: u64,
}

/// One backend.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a key of the JSON form"
)]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Backend {
    /// Its name.
    pub name: String,
    /// Where it listens.
    pub address: String,
    /// How messages get to it: "udp", "tcp" or "tls".
    #[serde(default)]
    pub transport: String,
    /// Transports by which it was asked, and does not answer. "tcp" may be among them beside "udp", where
    /// large messages are to go by TCP.
    #[serde(default)]
    pub transports_down: Vec<String>,
    /// The weight in effect.
    pub weight: u16,
    /// The weight in the configuration file.
    pub configured_weight: u16,
    /// "alive", "dead", "draining", "disabled", "gated" (its CPU is above alpha) or "full" (it
    /// answered 503).
    pub state: String,
    /// Why it is in that state, if there is more to say: "no heartbeat for 300 ms".
    pub why: Option<String>,
    /// Does it take new calls?
    pub open: bool,
    /// Is the valve on its new calls closed?
    pub gate_closed: bool,
    /// Its CPU as its agent reports it, 0 to 1, smoothed.
    pub cpu: Option<f64>,
    /// Who says whether it lives: "agent", "options" or "none".
    pub health: String,
    /// Milliseconds since it, or its agent, was last heard.
    pub heard_ms_ago: Option<u64>,
    /// Affinity entries that name it and are younger than `settle`: calls that must still reach it.
    pub calls_remembered: usize,
    /// Seconds since the last message to or from it.
    pub idle_seconds: Option<u64>,
    /// Is it draining, and was it idle for `drain_idle`, so that it is safe to stop?
    pub empty: bool,
    /// Does the fast path know the way to it?
    pub resolved: bool,
    /// Messages to and from it.
    pub messages: BackendMessages,
}

/// Messages of one backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendMessages {
    /// Given to it, by either path.
    pub to: u64,
    /// Sent by it to clients.
    pub from: u64,
}

/// The affinity map.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Affinity {
    /// Calls it remembers.
    pub entries: usize,
    /// Calls it can remember.
    pub capacity: u32,
    /// Entries added.
    pub added: u64,
    /// Entries that had to go before their time, because the map was full.
    pub evicted: u64,
}

/// The `recent` table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recent {
    /// Starting requests it can remember.
    pub capacity: u32,
    /// Elements overwritten by another call's within 32 s.
    pub evicted: u64,
}

/// Reports of agents, by what became of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeats {
    /// Where they are listened for.
    pub listen: String,
    /// Believed.
    pub accepted: u64,
    /// Answered by a challenge, because the agent or the forwarder is new.
    pub challenged: u64,
    /// Dropped: no heartbeats.
    pub malformed: u64,
    /// Dropped: of another version of the protocol.
    pub wrong_version: u64,
    /// Dropped: of a backend that is not configured.
    pub unknown_backend: u64,
    /// Dropped: meant for a forwarder of another name.
    pub wrong_forwarder: u64,
    /// Dropped: the signature is not right.
    pub forged: u64,
    /// Dropped: not newer than what came before.
    pub replayed: u64,
    /// Times that another agent took over a backend's reports: two report as one.
    #[serde(default)]
    pub rivalries: u64,
    /// Dropped: of no session, and the backend had its challenges for now.
    pub unchallenged: u64,
}

/// Connections of clients, backends and carriers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connections {
    /// Those there are now.
    pub open: usize,
    /// Of clients that have sent no message yet.
    pub half_open: usize,
    /// Accepted since the daemon started, by transport.
    pub accepted: BTreeMap<String, u64>,
    /// Opened by the forwarder, to backends and carriers.
    pub opened: u64,
    /// Tried to open, in vain.
    pub failed: u64,
    /// Requests given to another backend because the connection they went by broke.
    pub repeated: u64,
    /// How they ended, or why they were not accepted; only what occurred.
    pub ended: BTreeMap<String, u64>,
}

/// How often a verdict occurred.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// Its stable number.
    pub number: u32,
    /// Its stable name.
    pub name: String,
    /// What kind of end it is.
    pub outcome: String,
    /// In the XDP program.
    pub fast: u64,
    /// In the workers.
    pub slow: u64,
}
