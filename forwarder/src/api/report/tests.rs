//! The text form of sample statuses.

use super::*;
use crate::api::status::{
    Affinity, BackendMessages, Certificate, Connections, Interface, Messages, Recent, Verdict,
};

fn backend(name: &str) -> Backend {
    Backend {
        name: name.to_owned(),
        address: "198.51.100.11:5060".to_owned(),
        transport: "udp".to_owned(),
        transports_down: Vec::new(),
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
            certificates: Vec::new(),
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
        connections: Some(Connections {
            open: 12,
            half_open: 1,
            accepted: [("tcp".to_owned(), 20), ("tls".to_owned(), 4)].into(),
            opened: 2,
            ended: [("peer".to_owned(), 13), ("idle".to_owned(), 1)].into(),
            ..Connections::default()
        }),
        heartbeats: Some(Heartbeats {
            listen: "[::]:5059".to_owned(),
            accepted: 100,
            challenged: 2,
            forged: 4,
            ..Heartbeats::default()
        }),
        unsaved: None,
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
connections: 12 open, 1 of them without a message yet; 24 accepted, 2 opened; ended: 1 idle, 13 peer

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
    let line = headline(|b| b.transports_down = vec!["tcp".to_owned()]);
    assert_eq!(line, "ATTENTION: carrier: p1 does not answer by tcp");
    let line = headline(|b| b.resolved = false);
    assert_eq!(line, "ATTENTION: carrier: p1 has no next hop");
}

#[test]
fn another_transport_than_udp_stands_behind_the_address() {
    let mut status = sample();
    status.services[0].backends[1].transport = "tls".to_owned();
    let text = status.to_text();
    assert!(text.contains("  198.51.100.11:5060/tls  alive"), "{text}");
    assert!(text.contains("  198.51.100.11:5060      alive"), "{text}");
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

#[test]
fn a_certificate_that_ends_soon_is_an_alarm() {
    let headline = |ends_in_seconds| {
        let mut status = sample();
        status.services[0].certificates = vec![Certificate {
            chain: "/a.pem".to_owned(),
            names: vec!["sip.example".to_owned()],
            ends_in_seconds,
        }];
        status.headline()
    };
    assert_eq!(headline(7 * 86_400), "all 2 backends take calls");
    assert_eq!(
        headline(7 * 86_400 - 60),
        "ATTENTION: carrier: the certificate /a.pem ends in 6days 23h 59m"
    );
    assert_eq!(
        headline(0),
        "ATTENTION: carrier: the certificate /a.pem is over"
    );
}
