//! The status as text, for a person in a hurry: first what is wrong, then who has what.

#[cfg(test)]
pub(super) mod tests;

use std::{fmt::Write as _, time::Duration};

use super::status::{Backend, Connections, Heartbeats, Service, Status};

/// A certificate that ends within this time is an alarm.
const CERTIFICATE_ALARM: Duration = Duration::from_hours(7 * 24);
/// States that an operator brought about: told, but no reason to worry.
const INTENDED: [&str; 2] = ["draining", "disabled"];

impl Status {
    /// As text for a person. The first line says whether something is wrong.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut text = self.headline() + "\n";
        text += &self.figures();
        for service in &self.services {
            text += &service_block(service);
        }
        if !self.verdicts.is_empty() {
            text += "\n";
            text += &self.verdict_table();
        }
        text
    }

    /// One line: what is wrong, or else what an operator took out, or else that all is well.
    #[must_use]
    pub fn headline(&self) -> String {
        let unsaved = self
            .unsaved
            .iter()
            .map(|fault| format!("not saved: {fault}"));
        let faults: Vec<String> = self
            .services
            .iter()
            .flat_map(faults)
            .chain(unsaved)
            .collect();
        if !faults.is_empty() {
            return format!("ATTENTION: {}", faults.join("; "));
        }
        let backends = || self.services.iter().flat_map(|s| &s.backends);
        let (open, all) = (backends().filter(|b| b.open).count(), backends().count());
        let intended: Vec<String> = self.services.iter().flat_map(intended).collect();
        match (all, intended.is_empty()) {
            (1, true) => "the one backend takes calls".to_owned(),
            (_, true) => format!("all {all} backends take calls"),
            (_, false) => format!(
                "{open} of {all} backends take calls: {}",
                intended.join("; ")
            ),
        }
    }

    fn figures(&self) -> String {
        let attached: Vec<String> = self
            .interfaces
            .iter()
            .map(|i| format!("{} ({})", i.name, i.mode))
            .collect();
        let up = humantime::format_duration(Duration::from_secs(self.uptime_seconds));
        let (affinity, recent) = (self.affinity, self.recent);
        let ground = if attached.is_empty() {
            "workers alone, no XDP".to_owned()
        } else {
            format!("XDP on {}", attached.join(", "))
        };
        let mut lines = vec![
            format!("sip-forwarder {}, up {up}, {ground}", self.version),
            format!(
                "messages: {} by the fast path, {} by the slow path",
                self.messages.fast, self.messages.slow
            ),
            format!(
                "calls not at home: {} of {} entries, {} evicted; recent starts: {} of {} overwritten",
                affinity.entries,
                affinity.capacity,
                affinity.evicted,
                recent.evicted,
                recent.capacity
            ),
        ];
        if let Some(heartbeats) = &self.heartbeats {
            lines.push(heartbeat_line(heartbeats));
        }
        if let Some(connections) = &self.connections {
            lines.push(connection_line(connections));
        }
        lines.join("\n") + "\n"
    }

    fn verdict_table(&self) -> String {
        let mut rows = vec![["no.", "verdict", "outcome", "fast", "slow"].map(String::from)];
        rows.extend(self.verdicts.iter().map(|v| {
            [
                v.number.to_string(),
                v.name.clone(),
                v.outcome.clone(),
                v.fast.to_string(),
                v.slow.to_string(),
            ]
        }));
        table(&rows, [true, false, false, true, true])
    }
}

/// What is wrong with a service and its backends.
fn faults(service: &Service) -> Vec<String> {
    let mut faults = Vec::new();
    let mut say = |what: &str| faults.push(format!("{}: {what}", service.name));
    if !service.takes_calls {
        say("takes no new calls");
    }
    if service.suspects_itself {
        say("its backends fell silent at once, so this forwarder's own network is suspected");
    }
    for certificate in &service.certificates {
        let left = Duration::from_secs(certificate.ends_in_seconds);
        if left.is_zero() {
            say(&format!("the certificate {} is over", certificate.chain));
        } else if left < CERTIFICATE_ALARM {
            let left = humantime::format_duration(left);
            say(&format!(
                "the certificate {} ends in {left}",
                certificate.chain
            ));
        }
    }
    for backend in &service.backends {
        let state = backend.state.as_str();
        if !backend.resolved {
            say(&format!("{} has no next hop", backend.name));
        }
        if state != "alive" && !INTENDED.contains(&state) {
            say(&described(backend));
        }
        if state != "dead" {
            for transport in &backend.transports_down {
                say(&format!("{} does not answer by {transport}", backend.name));
            }
        }
    }
    faults
}

/// What an operator took out.
fn intended(service: &Service) -> Vec<String> {
    let out = |b: &&Backend| INTENDED.contains(&b.state.as_str());
    service
        .backends
        .iter()
        .filter(out)
        .map(|b| format!("{}: {}", service.name, described(b)))
        .collect()
}

/// "p2 dead (no heartbeat for 300 ms)".
fn described(backend: &Backend) -> String {
    let Backend { name, state, .. } = backend;
    match remark(backend) {
        remark if remark.is_empty() => format!("{name} {state}"),
        remark => format!("{name} {state} ({remark})"),
    }
}

/// What there is to say about a backend's state.
fn remark(backend: &Backend) -> String {
    let mut remarks: Vec<String> = backend.why.iter().cloned().collect();
    if backend.empty {
        remarks.push("empty: safe to stop".to_owned());
    }
    remarks.join(", ")
}

fn heartbeat_line(beats: &Heartbeats) -> String {
    let mut line = format!(
        "heartbeats on {}: {} accepted, {} challenged",
        beats.listen, beats.accepted, beats.challenged
    );
    let dropped = [
        ("malformed", beats.malformed),
        ("of a wrong version", beats.wrong_version),
        ("of unknown backends", beats.unknown_backend),
        ("for another forwarder", beats.wrong_forwarder),
        ("forged", beats.forged),
        ("replayed", beats.replayed),
        ("unchallenged", beats.unchallenged),
    ];
    for (what, count) in dropped.iter().filter(|(_, count)| *count > 0) {
        // Writing to a string cannot fail.
        let _ = write!(line, ", {count} {what}");
    }
    line
}

fn connection_line(connections: &Connections) -> String {
    let Connections {
        open,
        half_open,
        opened,
        failed,
        repeated,
        ..
    } = connections;
    let accepted: u64 = connections.accepted.values().sum();
    let mut line = format!(
        "connections: {open} open, {half_open} of them without a message yet; {accepted} accepted, {opened} opened"
    );
    for (what, count) in [("failed to open", failed), ("requests repeated", repeated)] {
        if *count > 0 {
            // Writing to a string cannot fail.
            let _ = write!(line, ", {count} {what}");
        }
    }
    let ended: Vec<String> = connections
        .ended
        .iter()
        .map(|(how, count)| format!("{count} {how}"))
        .collect();
    if !ended.is_empty() {
        // Writing to a string cannot fail.
        let _ = write!(line, "; ended: {}", ended.join(", "));
    }
    line
}

fn service_block(service: &Service) -> String {
    let Service {
        name, vip, mode, ..
    } = service;
    let mut text = format!(
        "\nservice {name} on {vip} ({mode}, policy {}, weights {})\n",
        service.policy, service.weights
    );
    if service.settling_slots > 0 {
        let left = service.settle_seconds_left.map_or(String::new(), |s| {
            format!(
                ", the next follow in {}",
                humantime::format_duration(Duration::from_secs(s))
            )
        });
        // Writing to a string cannot fail.
        let _ = writeln!(text, "  settling: {} slots{left}", service.settling_slots);
    }
    let head = [
        "backend", "address", "state", "weight", "cpu", "heard", "kept", "idle", "to", "from", "",
    ];
    let mut rows = vec![head.map(String::from)];
    rows.extend(service.backends.iter().map(backend_row));
    let right = [
        false, false, false, true, true, true, true, true, true, true, false,
    ];
    text + &table(&rows, right)
}

fn backend_row(b: &Backend) -> [String; 11] {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let weight = if b.weight == b.configured_weight {
        b.weight.to_string()
    } else {
        format!("{} (of {})", b.weight, b.configured_weight)
    };
    [
        b.name.clone(),
        match b.transport.as_str() {
            "" | "udp" => b.address.clone(),
            transport => format!("{}/{transport}", b.address),
        },
        if b.resolved { &b.state } else { "no way" }.to_owned(),
        weight,
        or_dash(b.cpu.map(|cpu| format!("{:.0}%", cpu * 100.0))),
        or_dash(b.heard_ms_ago.map(|ms| format!("{ms} ms"))),
        b.calls_remembered.to_string(),
        or_dash(b.idle_seconds.map(|s| format!("{s} s"))),
        b.messages.to.to_string(),
        b.messages.from.to_string(),
        remark(b),
    ]
}

/// Columns as wide as their widest cell; `right` says which are aligned there.
fn table<const N: usize>(rows: &[[String; N]], right: [bool; N]) -> String {
    let width: [usize; N] = std::array::from_fn(|column| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.max().unwrap_or(0)
    });
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for column in 0..N {
            let (cell, width) = (&row[column], width[column]);
            // Writing to a string cannot fail.
            let _ = if right[column] {
                write!(line, "  {cell:>width$}")
            } else {
                write!(line, "  {cell:<width$}")
            };
        }
        text += line.trim_end();
        text += "\n";
    }
    text
}
