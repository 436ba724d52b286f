//! What `status` tells, as data and as text. Keys of the JSON form stay once published.

use std::fmt::Write as _;

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
    /// Its backends.
    pub backends: Vec<Backend>,
}

/// One backend.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Backend {
    /// Its name.
    pub name: String,
    /// Where it listens.
    pub address: String,
    /// Its weight.
    pub weight: u16,
    /// "alive".
    pub state: String,
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

impl Status {
    /// As text for a person.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = self.write_text(&mut text);
        text
    }

    fn write_text(&self, out: &mut String) -> std::fmt::Result {
        let attached: Vec<String> = self
            .interfaces
            .iter()
            .map(|i| format!("{} ({})", i.name, i.mode))
            .collect();
        writeln!(
            out,
            "sip-forwarder {}, up {} s, XDP on {}",
            self.version,
            self.uptime_seconds,
            attached.join(", ")
        )?;
        writeln!(
            out,
            "messages: {} by the fast path, {} by the slow path",
            self.messages.fast, self.messages.slow
        )?;
        writeln!(
            out,
            "calls not at home: {} of {} entries",
            self.affinity.entries, self.affinity.capacity
        )?;
        for service in &self.services {
            writeln!(
                out,
                "\nservice {} on {} ({})",
                service.name, service.vip, service.mode
            )?;
            writeln!(
                out,
                "  {:<16} {:<28} {:>6}  {:<8} {:>12} {:>12}",
                "backend", "address", "weight", "state", "to", "from"
            )?;
            for b in &service.backends {
                let state = if b.resolved {
                    b.state.as_str()
                } else {
                    "no way"
                };
                let (to, from) = (b.messages.to, b.messages.from);
                writeln!(
                    out,
                    "  {:<16} {:<28} {:>6}  {state:<8} {to:>12} {from:>12}",
                    b.name, b.address, b.weight
                )?;
            }
        }
        writeln!(
            out,
            "\n  {:>3} {:<20} {:<10} {:>12} {:>12}",
            "no.", "verdict", "outcome", "fast", "slow"
        )?;
        for v in &self.verdicts {
            writeln!(
                out,
                "  {:>3} {:<20} {:<10} {:>12} {:>12}",
                v.number, v.name, v.outcome, v.fast, v.slow
            )?;
        }
        Ok(())
    }
}
