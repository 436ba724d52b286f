//! The status as text, for a person in a hurry: first what is wrong, then who has what.

use std::{fmt::Write as _, time::Duration};

use super::status::{Backend, Heartbeats, Service, Status};

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
        let faults: Vec<String> = self.services.iter().flat_map(faults).collect();
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
        let mut lines = vec![
            format!(
                "sip-forwarder {}, up {up}, XDP on {}",
                self.version,
                attached.join(", ")
            ),
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
    for backend in &service.backends {
        let state = backend.state.as_str();
        if !backend.resolved {
            say(&format!("{} has no next hop", backend.name));
        }
        if state != "alive" && !INTENDED.contains(&state) {
            say(&described(backend));
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
        b.address.clone(),
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

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::api::status::{Affinity, BackendMessages, Interface, Messages, Recent, Verdict};

    fn backend(name: &str) -> Backend {
        Backend {
            name: name.to_owned(),
            address: "198.51.100.11:5060".to_owned(),
            weight: 2,
            configured_weight: 2,
            state: "alive".to_owned(),
            why: None,
            open: true,
            gate_closed: false,
            cpu: Some(0.414),
            health: "agent".to_owned(),
            heard_ms_ago: Some(40),
            calls_remembered: 7,
            idle_seconds: Some(0),
            empty: false,
            resolved: true,
            messages: BackendMessages { to: 88, from: 90 },
        }
    }

    /// A forwarder with which all is well.
    pub(in crate::api) fn sample() -> Status {
        Status {
            version: "0.1.0".to_owned(),
            uptime_seconds: 3_661,
            xdp_mode: "native".to_owned(),
            interfaces: vec![Interface {
                name: "eth0".to_owned(),
                mode: "native".to_owned(),
            }],
            messages: Messages { fast: 808, slow: 6 },
            services: vec![Service {
                name: "carrier".to_owned(),
                vip: "192.0.2.10:5060".to_owned(),
                mode: "nat".to_owned(),
                policy: "hash".to_owned(),
                weights: "fixed".to_owned(),
                settling_slots: 0,
                settle_seconds_left: None,
                suspects_itself: false,
                takes_calls: true,
                backends: vec![backend("p1"), backend("p2")],
            }],
            affinity: Affinity {
                entries: 3,
                capacity: 1_024,
                added: 5,
                evicted: 1,
            },
            recent: Recent {
                capacity: 1_024,
                evicted: 2,
            },
            heartbeats: Some(Heartbeats {
                listen: "[::]:5059".to_owned(),
                accepted: 100,
                challenged: 2,
                forged: 4,
                ..Heartbeats::default()
            }),
            verdicts: vec![Verdict {
                number: 1,
                name: "home".to_owned(),
                outcome: "forwarded".to_owned(),
                fast: 400,
                slow: 6,
            }],
        }
    }

    /// The headline once the first backend is so.
    fn headline(change: impl FnOnce(&mut Backend)) -> String {
        let mut status = sample();
        change(&mut status.services[0].backends[0]);
        status.headline()
    }

    #[test]
    fn all_is_told() {
        let mut status = sample();
        let service = &mut status.services[0];
        service.settling_slots = 12;
        service.settle_seconds_left = Some(90);
        let p2 = &mut service.backends[1];
        p2.name = "proxy-two".to_owned();
        p2.state = "dead".to_owned();
        p2.why = Some("no heartbeat for 300 ms".to_owned());
        p2.weight = 1;
        (p2.cpu, p2.idle_seconds, p2.heard_ms_ago) = (None, None, None);
        assert_eq!(
            status.to_text(),
            "\
ATTENTION: carrier: proxy-two dead (no heartbeat for 300 ms)
sip-forwarder 0.1.0, up 1h 1m 1s, XDP on eth0 (native)
messages: 808 by the fast path, 6 by the slow path
calls not at home: 3 of 1024 entries, 1 evicted; recent starts: 2 of 1024 overwritten
heartbeats on [::]:5059: 100 accepted, 2 challenged, 4 forged

service carrier on 192.0.2.10:5060 (nat, policy hash, weights fixed)
  settling: 12 slots, the next follow in 1m 30s
  backend    address             state    weight  cpu  heard  kept  idle  to  from
  p1         198.51.100.11:5060  alive         2  41%  40 ms     7   0 s  88    90
  proxy-two  198.51.100.11:5060  dead   1 (of 2)    -      -     7     -  88    90  no heartbeat for 300 ms

  no.  verdict  outcome    fast  slow
    1  home     forwarded   400     6
"
        );
    }

    #[test]
    fn the_first_line_says_that_all_is_well() {
        let mut status = sample();
        assert_eq!(status.headline(), "all 2 backends take calls");
        status.services[0].backends.pop();
        assert_eq!(status.headline(), "the one backend takes calls");
    }

    #[test]
    fn what_an_operator_took_out_is_no_alarm() {
        let line = headline(|b| {
            b.state = "draining".to_owned();
            b.open = false;
        });
        assert_eq!(line, "1 of 2 backends take calls: carrier: p1 draining");
        let line = headline(|b| {
            b.state = "draining".to_owned();
            b.open = false;
            b.empty = true;
        });
        assert!(
            line.ends_with("p1 draining (empty: safe to stop)"),
            "{line}"
        );
    }

    #[test]
    fn every_fault_of_a_backend_is_an_alarm() {
        for state in ["dead", "gated", "full"] {
            let line = headline(|b| b.state = state.to_owned());
            assert_eq!(line, format!("ATTENTION: carrier: p1 {state}"));
        }
        let line = headline(|b| b.resolved = false);
        assert_eq!(line, "ATTENTION: carrier: p1 has no next hop");
    }

    #[test]
    fn every_fault_of_a_service_is_an_alarm() {
        let mut status = sample();
        status.services[0].takes_calls = false;
        assert_eq!(status.headline(), "ATTENTION: carrier: takes no new calls");
        status.services[0].takes_calls = true;
        status.services[0].suspects_itself = true;
        assert!(status.headline().contains("own network is suspected"));
    }
}
