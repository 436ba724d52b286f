//! Backends that are reached by TCP or TLS, and large messages that go by TCP.

use super::*;
use crate::config::BackendTransport;

/// A service in mode `proxy` of three backends, with these further lines.
fn service(more: &str) -> config::Service {
    let backends = ["p0", "p1", "p2"].map(|name| {
        let host = &name[1..];
        format!("[[service.backend]]\nname = \"{name}\"\naddress = \"198.51.100.1{host}\"\n")
    });
    let backends = backends.concat();
    let text = format!(
        "[forwarder]\ndataplane = \"userspace\"\n[heartbeats]\nkey_files = [\"k\"]\n[[service]]\nname = \"s\"\naddress = \"192.0.2.1\"\nmode = \"proxy\"\n{more}\n{backends}"
    );
    parse(&text).unwrap().services.remove(0)
}

fn control(more: &str) -> ServiceControl {
    restored(&service(more), &Saved::default())
}

/// Agents of all but `silent` report and time passes, in steps of 50 ms; each transport that is asked by
/// itself answers at once, as `answer` says.
fn run(
    control: &mut ServiceControl,
    from: u64,
    to: u64,
    silent: &[&str],
    answer: impl Fn(&str, BackendTransport) -> Answer,
) {
    for t in (from..to).step_by(50) {
        for name in ["p0", "p1", "p2"] {
            if t % 100 == 0 && !silent.contains(&name) {
                control.report(ms(t), name, running(0.2));
            }
        }
        for (name, transport) in control.due_transport_probes(ms(t)) {
            control.transport_answer(ms(t), &name, answer(&name, transport));
        }
        control.tick(ms(t), UNIX + ms(t));
    }
}

fn well(_: &str, _: BackendTransport) -> Answer {
    Answer::Ok
}

#[test]
fn with_an_agent_that_says_all_is_well_a_backend_without_its_transport_is_dead() {
    let mut control = control("transport = \"tcp\"");
    run(&mut control, 0, 3_000, &[], well);
    assert_eq!(log(&mut control), Vec::<String>::new());
    let refused = |name: &str, transport| {
        assert_eq!(transport, BackendTransport::Tcp);
        if name == "p1" {
            Answer::Unreachable
        } else {
            Answer::Ok
        }
    };
    run(&mut control, 3_000, 4_500, &[], refused);
    assert_eq!(
        log(&mut control),
        ["backend p1 is dead: no connection by tcp, 2 times in a row"]
    );
    let p1 = member(&control, "p1");
    assert_eq!((p1.alive, p1.state), (false, State::Dead));
    assert_eq!(p1.transports_down, [BackendTransport::Tcp]);
    assert!(!columns(&mut control).1.contains(&Some(1)));
    assert!(member(&control, "p0").transports_down.is_empty());
    // One answer is enough, for its agent vouches for the rest.
    run(&mut control, 4_500, 5_600, &[], well);
    assert_eq!(log(&mut control), ["backend p1 is alive again"]);
}

#[test]
fn a_transport_that_is_silent_kills_and_a_fault_on_this_side_does_not() {
    let mut control = control("transport = \"tcp\"");
    run(&mut control, 0, 3_000, &[], well);
    run(&mut control, 3_000, 9_000, &[], |name, _| match name {
        "p1" => Answer::NotAsked,
        _ => Answer::Ok,
    });
    let alive = member(&control, "p1").alive;
    assert!(alive);
    run(&mut control, 9_000, 13_000, &[], |name, _| {
        if name == "p1" {
            Answer::Silent
        } else {
            Answer::Ok
        }
    });
    assert_eq!(
        log(&mut control),
        ["backend p1 is dead: no answer to OPTIONS by tcp, 2 times in a row"]
    );
}

#[test]
fn a_dead_agent_is_dead_whatever_its_transport_says_and_its_return_is_not_delayed() {
    let mut control = control("transport = \"tcp\"");
    run(&mut control, 0, 3_000, &[], well);
    control.report(ms(3_000), "p1", reported(ReportedState::Stopped));
    assert!(!member(&control, "p1").alive);
    let stopped = |name: &str, _| {
        if name == "p1" {
            Answer::Unreachable
        } else {
            Answer::Ok
        }
    };
    run(&mut control, 3_000, 6_020, &["p1"], stopped);
    assert_eq!(
        log(&mut control),
        ["backend p1 is dead: its agent says that the proxy stopped"]
    );
    control.report(ms(6_030), "p1", running(0.2));
    assert_eq!(
        control.due_transport_probes(ms(6_030)),
        [("p1".to_owned(), BackendTransport::Tcp)],
        "asked at once"
    );
    control.transport_answer(ms(6_031), "p1", Answer::Ok);
    assert!(member(&control, "p1").open);
    assert_eq!(
        log(&mut control).last().unwrap(),
        "backend p1 is alive again"
    );
}

#[test]
fn a_failed_connection_has_the_transport_asked_at_once() {
    let mut control = control("transport = \"tcp\"");
    run(&mut control, 0, 3_050, &[], well);
    assert_eq!(control.due_transport_probes(ms(3_055)), []);
    control.unreachable(ms(3_055), "p2");
    let due = control.due_transport_probes(ms(3_055));
    assert_eq!(due, [("p2".to_owned(), BackendTransport::Tcp)]);
}

#[test]
fn all_transports_that_fall_silent_at_once_raise_suspicion() {
    let mut control = control("transport = \"tcp\"");
    run(&mut control, 0, 3_000, &[], well);
    let mut suspected = false;
    for t in (3_000..12_000).step_by(50) {
        run(&mut control, t, t + 50, &[], |_, _| Answer::Silent);
        suspected |= control.plan().suspects_itself;
    }
    assert!(suspected);
    let told = log(&mut control);
    assert!(
        told[0].starts_with("all answers to OPTIONS ended at once (3 backends)"),
        "{told:?}"
    );
    assert!(!control.plan().members.iter().any(|m| m.alive), "{told:?}");
}

#[test]
fn without_an_agent_the_transport_itself_is_what_life_hangs_on() {
    let mut control = control("transport = \"tcp\"\nhealth = \"options\"");
    for t in (0..4_000).step_by(50) {
        for name in control.due_probes(ms(t)) {
            let answer = match name.as_str() {
                "p1" => Answer::Unreachable,
                _ => Answer::Ok,
            };
            control.answer(ms(t), &name, answer);
        }
        assert_eq!(control.due_transport_probes(ms(t)), []);
        control.tick(ms(t), UNIX + ms(t));
    }
    assert_eq!(
        log(&mut control),
        ["backend p1 is dead: no connection by tcp, 2 times in a row"]
    );
    let p1 = member(&control, "p1");
    assert_eq!(p1.transport, BackendTransport::Tcp);
    assert_eq!(p1.transports_down, [BackendTransport::Tcp]);
}

#[test]
fn tcp_for_large_messages_decides_over_nothing_else() {
    let mut control = control("large_by_tcp = true");
    let p0 = member(&control, "p0");
    assert_eq!(p0.large_by_tcp, Some(false), "not before it is proven");
    assert!(p0.open);
    let version = control.version();
    run(&mut control, 0, 3_000, &[], well);
    assert!(control.version() > version);
    let works: Vec<String> = (0..3)
        .map(|i| format!("backend p{i} answers by tcp: large messages go that way"))
        .collect();
    assert_eq!(log(&mut control), works);
    run(&mut control, 3_000, 5_000, &[], |name, transport| {
        assert_eq!(transport, BackendTransport::Tcp);
        match name {
            "p2" => Answer::Unreachable,
            _ => Answer::Ok,
        }
    });
    let p2 = member(&control, "p2");
    assert_eq!((p2.large_by_tcp, p2.open), (Some(false), true));
    assert_eq!(p2.transports_down, [BackendTransport::Tcp]);
    assert_eq!(member(&control, "p1").large_by_tcp, Some(true));
    assert_eq!(
        log(&mut control),
        ["backend p2 does not answer by tcp: large messages go by udp"]
    );
    // All at once are no suspicion: nobody dies of it.
    run(&mut control, 5_000, 12_000, &[], |_, _| Answer::Silent);
    assert!(!control.plan().suspects_itself);
    for member in control.plan().members {
        assert_eq!((member.large_by_tcp, member.open), (Some(false), true));
    }
}

#[test]
fn where_nobody_asks_every_transport_counts_as_well() {
    let mut large = control("large_by_tcp = true\nhealth = \"none\"");
    assert_eq!(large.due_transport_probes(ms(60_000)), []);
    assert_eq!(member(&large, "p0").large_by_tcp, Some(true));
    let mut tcp = control("transport = \"tcp\"\nhealth = \"none\"");
    assert_eq!(tcp.due_transport_probes(ms(60_000)), []);
    assert!(member(&tcp, "p0").open);
}

#[test]
fn a_reload_to_another_transport_kills_nobody_before_it_is_asked() {
    let mut control = control("health = \"options\"");
    let reload = |control: &mut ServiceControl, t, more: &str| {
        control.reconfigure(ms(t), UNIX + ms(t), &service(more), TIMING);
    };
    for t in (0..3_000).step_by(50) {
        for name in control.due_probes(ms(t)) {
            control.answer(ms(t), &name, Answer::Ok);
        }
        control.tick(ms(t), UNIX + ms(t));
    }
    reload(
        &mut control,
        3_000,
        "health = \"options\"\ntransport = \"tcp\"",
    );
    assert!(control.plan().members.iter().all(|m| m.open));
    assert_eq!(control.due_probes(ms(3_000)), ["p0", "p1", "p2"], "at once");
    reload(
        &mut control,
        3_100,
        "health = \"agent\"\ntransport = \"tcp\"",
    );
    assert!(control.plan().members.iter().all(|m| m.open));
    let due = control.due_transport_probes(ms(3_100));
    assert_eq!(due.len(), 3);
    // What goes on goes on.
    control.transport_answer(ms(3_110), "p0", Answer::Ok);
    reload(
        &mut control,
        3_200,
        "health = \"agent\"\ntransport = \"tcp\"\nsettle = \"2h\"",
    );
    assert_eq!(control.due_transport_probes(ms(3_200)), []);
}

#[test]
fn what_udp_alone_needs_is_not_asked() {
    for health in ["agent", "options", "none"] {
        let mut control = control(&format!("health = \"{health}\""));
        assert_eq!(control.due_transport_probes(ms(60_000)), []);
        assert_eq!(member(&control, "p0").large_by_tcp, None);
    }
}
