use super::*;
use crate::config::parse;
use proptest::prelude::*;

mod properties;
mod transports;

/// A prime that makes small rings, for speed.
const SLOTS: u32 = 1_009;
const UNIX: Duration = Duration::from_secs(1_700_000_000);
const TIMING: Timing = Timing {
    interval: Duration::from_millis(100),
    missed: 3,
};

fn ms(ms: u64) -> Now {
    Duration::from_millis(ms)
}

/// A service of backends p0, p1 … with these weights; `more` are further lines of the service.
fn service(weights: &[u16], more: &str) -> config::Service {
    let backends = weights
        .iter()
        .enumerate()
        .map(|(i, weight)| {
            format!(
                "[[service.backend]]\nname = \"p{i}\"\naddress = \"198.51.100.{}\"\nweight = {weight}\n",
                i + 1
            )
        })
        .collect::<Vec<_>>()
        .concat();
    let text = format!(
        "[forwarder]\ninterfaces = [\"eth0\"]\n[heartbeats]\nkey_files = [\"k\"]\n[[service]]\nname = \"s\"\naddress = \"192.0.2.1\"\n{more}\n{backends}"
    );
    parse(&text).unwrap().services.remove(0)
}

fn restored(service: &config::Service, saved: &Saved) -> ServiceControl {
    ServiceControl::with_slots((ms(0), UNIX), service, TIMING, saved, |_| false, SLOTS)
}

fn control(weights: &[u16], more: &str) -> ServiceControl {
    restored(&service(weights, more), &Saved::default())
}

fn running(cpu: f64) -> Report {
    Report {
        cpu: Some(cpu),
        state: ReportedState::Running,
    }
}

fn reported(state: ReportedState) -> Report {
    Report { cpu: None, state }
}

/// All but `silent` report, and time passes, in steps of one interval; returns the last moment.
fn run(control: &mut ServiceControl, from: u64, to: u64, silent: &[&str], cpu: f64) {
    let names: Vec<String> = control.backends.iter().map(|b| b.name.clone()).collect();
    for t in (from..=to).step_by(100) {
        for name in names.iter().filter(|name| !silent.contains(&name.as_str())) {
            control.report(ms(t), name, running(cpu));
        }
        control.tick(ms(t), UNIX + ms(t));
    }
}

fn member(control: &ServiceControl, name: &str) -> Member {
    let members = control.plan().members;
    members.into_iter().find(|m| m.name == name).unwrap()
}

fn number(name: &str) -> BackendId {
    BackendId(name[1..].parse().unwrap())
}

/// Home and admit of every slot; nobody is `None`.
fn columns(control: &mut ServiceControl) -> (Vec<u16>, Vec<Option<u16>>) {
    let slots = control.columns(number);
    let admit = |slot: &Slot| (slot.admit() != Slot::EMPTY.admit()).then(|| slot.admit().0);
    (
        slots.iter().map(|slot| slot.home().0).collect(),
        slots.iter().map(admit).collect(),
    )
}

/// What happened, as the log tells it.
fn log(control: &mut ServiceControl) -> Vec<String> {
    let changes = control.take_changes();
    changes.iter().map(ToString::to_string).collect()
}

#[test]
fn a_silent_backend_is_dead_and_its_calls_move_and_it_comes_back() {
    let mut control = control(&[1, 1, 1], "");
    run(&mut control, 0, 1_000, &[], 0.2);
    assert_eq!(log(&mut control), Vec::<String>::new());
    let before = columns(&mut control);
    let version = control.version();
    run(&mut control, 1_100, 1_300, &["p1"], 0.2);
    assert_eq!(
        log(&mut control),
        ["backend p1 is dead: no heartbeat for 300 ms"]
    );
    assert!(control.version() > version);
    let p1 = member(&control, "p1");
    assert_eq!((p1.alive, p1.open, p1.state.word()), (false, false, "dead"));
    assert_eq!(p1.heard, Some(ms(300)));
    let (home, admit) = columns(&mut control);
    assert_eq!(home, before.0);
    assert!(!admit.contains(&Some(1)) && !admit.contains(&None));
    control.report(ms(1_350), "p1", running(0.2));
    assert_eq!(log(&mut control), ["backend p1 is alive again"]);
    assert_eq!(columns(&mut control), before);
}

#[test]
fn what_agents_say_counts_at_once() {
    let mut control = control(&[1, 1], "");
    run(&mut control, 0, 500, &[], 0.2);
    for (state, alive, word) in [
        (ReportedState::Stopped, false, "dead"),
        (ReportedState::Running, true, "alive"),
        (ReportedState::Unwell, false, "dead"),
        (ReportedState::Draining, true, "draining"),
        (ReportedState::Running, true, "alive"),
    ] {
        control.report(ms(550), "p0", reported(state));
        let p0 = member(&control, "p0");
        assert_eq!((p0.alive, p0.state.word()), (alive, word));
        assert_eq!(p0.open, word == "alive");
    }
    assert_eq!(
        log(&mut control),
        [
            "backend p0 is dead: its agent says that the proxy stopped",
            "backend p0 is alive again",
            "backend p0 is dead: its agent says that the proxy does not answer",
            "backend p0 is alive again",
            "backend p0 drains: its agent says so",
            "backend p0 no longer drains: its agent says so",
        ]
    );
}

#[test]
fn gates_close_above_alpha_and_with_all_closed_nobody_is_admitted() {
    let mut control = control(&[1, 1], "");
    run(&mut control, 0, 100, &[], 0.2);
    run(&mut control, 200, 5_000, &[], 0.95);
    assert!(member(&control, "p0").gate_closed && !member(&control, "p0").open);
    let (home, admit) = columns(&mut control);
    assert!(home.iter().all(|&home| home < 2));
    assert!(admit.iter().all(Option::is_none));
    let told = log(&mut control);
    assert!(told[0].starts_with("gate of p0 closed: CPU 0.8") && told[0].ends_with("> 0.80"));
    assert_eq!(told[2], "no backend takes new calls");
    run(&mut control, 5_100, 9_000, &[], 0.5);
    assert!(columns(&mut control).1.iter().all(Option::is_some));
    assert!(log(&mut control).contains(&"new calls are taken again".to_owned()));
}

#[test]
fn without_cpu_figures_a_closed_gate_opens() {
    let mut control = control(&[1], "");
    run(&mut control, 0, 1_200, &[], 0.95);
    assert!(member(&control, "p0").gate_closed);
    for t in (1_300..6_700).step_by(100) {
        control.report(ms(t), "p0", reported(ReportedState::Running));
        control.tick(ms(t), UNIX + ms(t));
    }
    assert!(member(&control, "p0").open && member(&control, "p0").cpu.is_none());
}

#[test]
fn orders_drain_disable_and_weigh_and_survive() {
    let mut control = control(&[1, 1], "settle = \"1h\"");
    run(&mut control, 0, 500, &[], 0.2);
    let order = |control: &mut ServiceControl, change| {
        let before = control.saved_version();
        control.set_override(ms(600), "p0", change).unwrap();
        assert!(control.saved_version() > before);
        member(control, "p0")
    };
    let p0 = order(&mut control, OverrideChange::Drain);
    assert_eq!(
        (p0.alive, p0.open, p0.state),
        (true, false, State::Draining)
    );
    let p0 = order(&mut control, OverrideChange::Disable);
    assert_eq!(
        (p0.alive, p0.open, p0.state),
        (false, false, State::Disabled)
    );
    let home = columns(&mut control).0;
    let p0 = order(&mut control, OverrideChange::Weight(3));
    assert_eq!(p0.weight, 3);
    assert_eq!(columns(&mut control).0, home, "homes settle first");
    assert!(control.plan().settling > 0);

    // A restart: orders and homes are as they were.
    let saved = control.saved(UNIX + ms(600));
    let text = serde_json::to_string(&saved).unwrap();
    let saved: Saved = serde_json::from_str(&text).unwrap();
    let mut again = restored(&service(&[1, 1], "settle = \"1h\""), &saved);
    assert_eq!(columns(&mut again).0, home);
    assert_eq!(member(&again, "p0").state, State::Disabled);
    assert_eq!(again.saved(UNIX).overrides, saved.overrides);

    let p0 = order(&mut control, OverrideChange::Enable);
    assert_eq!((p0.open, p0.weight), (true, 3));
    order(&mut control, OverrideChange::Weight(1));
    assert_eq!(control.saved(UNIX).overrides, BTreeMap::new());
    assert_eq!(control.plan().settling, 0);
    assert_eq!(
        control.set_override(ms(600), "nobody", OverrideChange::Drain),
        Err(UnknownBackend("nobody".into()))
    );
}

#[test]
fn all_silent_raises_suspicion_once_and_answers_keep_alive() {
    let mut control = control(&[1, 1], "");
    run(&mut control, 0, 500, &[], 0.2);
    run(&mut control, 600, 800, &["p0", "p1"], 0.0);
    assert!(control.plan().suspects_itself && member(&control, "p0").alive);
    assert!(control.version() > 1);
    assert_eq!(control.due_probes(ms(800)), ["p0", "p1"]);
    assert!(control.due_probes(ms(800)).is_empty());
    control.answer(ms(800), "p0", Answer::Silent);
    control.answer(ms(800), "p1", Answer::Ok);
    for t in (900..=5_000).step_by(100) {
        ask(&mut control, t, &["p1"]);
        control.tick(ms(t), UNIX + ms(t));
    }
    assert!(!member(&control, "p0").alive && member(&control, "p1").open);
    assert!(member(&control, "p1").suspected);
    run(&mut control, 5_100, 5_200, &[], 0.2);
    assert!(!control.plan().suspects_itself && member(&control, "p0").open);
    let told = log(&mut control);
    assert_eq!(told.len(), 4, "{told:?}");
    assert!(told[0].starts_with("all heartbeats ended at once (2 backends)"));
    assert_eq!(
        told[1],
        "backend p0 is dead: no heartbeat, and no answer to OPTIONS"
    );
}

/// Asks all that are due, and tells the outcome at once: those `up` answer, the others do not.
fn ask(control: &mut ServiceControl, t: u64, up: &[&str]) {
    for name in control.due_probes(ms(t)) {
        let is_up = up.contains(&name.as_str());
        let answer = if is_up { Answer::Ok } else { Answer::Silent };
        control.answer(ms(t), &name, answer);
    }
}

#[test]
fn a_backend_without_an_agent_lives_by_its_answers_and_that_is_told_once() {
    let mut control = control(&[1, 1, 1], "");
    for t in (0..=20_000).step_by(100) {
        run(&mut control, t, t, &["p1", "p2"], 0.2);
        ask(&mut control, t, &["p1"]);
    }
    assert!(member(&control, "p1").open && member(&control, "p1").suspected);
    assert!(!control.plan().suspects_itself);
    let warning =
        "no heartbeat of p1 yet; it answers OPTIONS and lives by that: is its agent there?";
    let dead =
        "backend p2 is dead: no heartbeat since the forwarder started, and no answer to OPTIONS";
    assert_eq!(log(&mut control), [warning, dead]);
    // A new one after a reload is treated alike; and the dead one may return without an agent.
    let more = service(&[1, 1, 1, 1], "");
    control.reconfigure(ms(20_050), UNIX, &more, TIMING);
    for t in (20_100..=30_000).step_by(100) {
        run(&mut control, t, t, &["p1", "p2", "p3"], 0.2);
        ask(&mut control, t, &["p1", "p2", "p3"]);
    }
    assert!(control.plan().members.iter().all(|m| m.open));
    run(&mut control, 30_100, 30_100, &["p2", "p3"], 0.2);
    assert!(!member(&control, "p1").suspected);
    let told = log(&mut control);
    assert!(!told.contains(&warning.to_owned()), "{told:?}");
    assert!(told.contains(&"backend p2 is alive again".to_owned()));
    assert!(told.contains(&warning.replace("p1", "p3")));
    assert_eq!(told[told.len() - 1], "heartbeats of p1 are there");
    run(&mut control, 30_200, 30_400, &["p1", "p2", "p3"], 0.2);
    assert!(
        !member(&control, "p1").alive,
        "it was heard: no OPTIONS first"
    );
}

#[test]
fn an_agent_that_restarts_on_a_living_proxy_costs_nothing() {
    let mut control = control(&[1, 1], "");
    run(&mut control, 0, 1_000, &[], 0.2);
    control.report(ms(1_010), "p0", reported(ReportedState::Draining));
    for t in (1_100..=9_000).step_by(100) {
        run(&mut control, t, t, &["p0"], 0.2);
        ask(&mut control, t, &["p0"]);
        let p0 = member(&control, "p0");
        assert_eq!((p0.alive, p0.state), (true, State::Draining), "at {t}");
    }
    control.report(ms(9_100), "p0", running(0.2));
    assert!(member(&control, "p0").open);
}

#[test]
fn agents_of_other_services_are_witnesses() {
    let mut control = control(&[1], "");
    run(&mut control, 0, 1_000, &[], 0.2);
    control.heard_elsewhere(ms(1_290));
    run(&mut control, 1_100, 1_300, &["p0"], 0.2);
    assert_eq!(
        log(&mut control)[0],
        "backend p0 is dead: no heartbeat for 300 ms"
    );
    // Theirs end a suspicion, too; who answers lives.
    control.report(ms(1_310), "p0", running(0.2));
    run(&mut control, 1_400, 1_700, &["p0"], 0.2);
    assert!(control.plan().suspects_itself);
    ask(&mut control, 1_700, &["p0"]);
    control.heard_elsewhere(ms(1_710));
    assert!(!control.plan().suspects_itself && member(&control, "p0").open);
}

#[test]
fn all_that_are_asked_fall_silent_at_once() {
    let mut control = control(&[1, 1], "health = \"options\"");
    let mut open: Vec<(u64, String)> = Vec::new();
    let mut suspected = None;
    for t in (0..12_000).step_by(50) {
        open.extend(control.due_probes(ms(t)).into_iter().map(|name| (t, name)));
        for (asked, name) in std::mem::take(&mut open) {
            if t < 3_000 {
                control.answer(ms(t), &name, Answer::Ok);
            } else if t == asked + 1_000 {
                control.answer(ms(t), &name, Answer::Silent);
            } else {
                open.push((asked, name));
            }
        }
        control.tick(ms(t), UNIX + ms(t));
        if control.plan().suspects_itself {
            suspected.get_or_insert(t);
            assert!(control.plan().members.iter().any(|m| m.suspected && m.open));
        }
    }
    assert!(
        suspected.is_some_and(|t| (4_500..=6_000).contains(&t)),
        "{suspected:?}"
    );
    let told = log(&mut control);
    assert_eq!(told.len(), 5, "{told:?}");
    assert!(told[0].starts_with("all answers to OPTIONS ended at once ("));
    assert_eq!(
        told[4],
        "no heartbeats and no answers to OPTIONS: nobody is alive"
    );
}

#[test]
fn our_own_stall_kills_nobody() {
    let mut control = control(&[1, 1], "");
    run(&mut control, 0, 500, &[], 0.2);
    control.tick(ms(60_000), UNIX);
    control.report(ms(60_001), "p0", running(0.2));
    control.tick(ms(60_001), UNIX);
    assert!(control.take_changes().is_empty());
}

#[test]
fn at_a_start_everybody_counts_as_remembered() {
    let service = service(&[1, 1, 1], "");
    let mut control = ServiceControl::with_slots(
        (ms(0), UNIX),
        &service,
        TIMING,
        &Saved::default(),
        |name| name == "p2",
        SLOTS,
    );
    assert!(member(&control, "p0").open && !member(&control, "p2").alive);
    run(&mut control, 0, 1_200, &["p1", "p2"], 0.2);
    assert!(member(&control, "p1").alive && control.due_probes(ms(1_200)).is_empty());
    run(&mut control, 1_300, 1_300, &["p1", "p2"], 0.2);
    assert_eq!(control.due_probes(ms(1_300)), ["p1"]);
    run(&mut control, 1_400, 2_300, &["p1", "p2"], 0.2);
    assert!(
        member(&control, "p1").alive,
        "the timeout is a second, and some"
    );
    run(&mut control, 2_400, 2_400, &["p1", "p2"], 0.2);
    assert!(!member(&control, "p1").alive && !member(&control, "p2").alive);
    assert_eq!(
        log(&mut control),
        ["backend p1 is dead: no heartbeat since the forwarder started, and no answer to OPTIONS"]
    );
}

#[test]
fn backends_that_are_asked_live_by_their_answers() {
    let mut control = control(&[1, 1], "health = \"options\"");
    // First questions are spread over the interval.
    assert_eq!(control.due_probes(ms(0)), ["p0"]);
    assert_eq!(control.next_deadline(ms(5)), Some(ms(500)));
    control.answer(ms(5), "p0", Answer::Ok);
    assert_eq!(control.due_probes(ms(500)), ["p1"]);
    control.answer(ms(505), "p1", Answer::Full { retry_after: None });
    assert_eq!(member(&control, "p1").state, State::Full);
    assert!(member(&control, "p1").alive && !member(&control, "p1").open);
    control.unreachable(ms(600), "p0");
    assert_eq!(control.next_deadline(ms(600)), Some(ms(600)));
    assert_eq!(control.due_probes(ms(600)), ["p0"]);
    control.answer(ms(601), "p0", Answer::Unreachable);
    assert_eq!(control.next_deadline(ms(601)), Some(ms(851)));
    control.due_probes(ms(851));
    control.answer(ms(852), "p0", Answer::Unreachable);
    // Nothing more is heard of p1: it opens again by itself.
    control.tick(ms(2_600), UNIX);
    assert!(member(&control, "p1").open);
    assert_eq!(
        log(&mut control),
        [
            "backend p1 is full: it answered 503, no new calls for 2000 ms",
            "backend p0 is dead: unreachable by OPTIONS, 2 times in a row",
            "no backend takes new calls",
            "backend p1 is no longer full",
            "new calls are taken again",
        ]
    );
}

#[test]
fn nobody_asks_those_without_health() {
    let mut control = control(&[1], "health = \"none\"");
    assert!(control.due_probes(ms(0)).is_empty());
    assert_eq!(control.next_deadline(ms(0)), None);
    control.tick(Duration::from_hours(1), UNIX);
    assert!(member(&control, "p0").open);
}

#[test]
fn a_reload_keeps_what_is_known_of_those_that_stay() {
    let mut control = control(&[1, 1, 1], "settle = \"10s\"");
    run(&mut control, 0, 1_000, &[], 0.2);
    run(&mut control, 1_100, 1_400, &["p0"], 0.95);
    control
        .set_override(ms(1_400), "p2", OverrideChange::Drain)
        .unwrap();
    let gated = member(&control, "p1");
    let mut changed = service(&[1, 1, 1, 1], "settle = \"10s\"");
    changed.backends[2].address.set_port(5_080);
    control.reconfigure(ms(1_450), UNIX, &changed, TIMING);
    assert_eq!(member(&control, "p0").state, State::Dead);
    assert_eq!(member(&control, "p1").cpu, gated.cpu);
    assert_eq!(member(&control, "p2").heard, None, "another address");
    // What is new, or elsewhere, is given nothing before it is heard.
    for name in ["p2", "p3"] {
        assert_eq!(member(&control, name).state, State::Dead);
        control.report(ms(1_460), name, reported(ReportedState::Running));
    }
    assert_eq!(member(&control, "p2").state, State::Draining);
    assert!(member(&control, "p3").open);
    let settling = control.plan().settling;
    assert!(settling > 0);
    assert!(columns(&mut control).0.iter().all(|&home| home < 3));
    let flags = control.columns(number);
    assert_eq!(flags.iter().filter(|s| s.settling()).count(), settling);
    run(&mut control, 1_500, 11_500, &["p0"], 0.2);
    assert_eq!(control.plan().settling, 0);
    assert!(columns(&mut control).0.contains(&3));
    assert!(
        log(&mut control)
            .last()
            .unwrap()
            .contains("slots settled; none")
    );
}

#[test]
fn turns_are_taken_by_the_open_ones() {
    let mut control = control(&[2, 1, 1], "policy = \"round-robin\"");
    run(&mut control, 0, 500, &[], 0.2);
    let (home, admit) = columns(&mut control);
    for round in admit.chunks_exact(4) {
        let had = |who| round.iter().filter(|&&a| a == Some(who)).count();
        assert_eq!([had(0), had(1), had(2)], [2, 1, 1]);
    }
    control.report(ms(510), "p0", reported(ReportedState::Stopped));
    let (home_now, admit) = columns(&mut control);
    assert_eq!(home_now, home);
    assert!(
        admit
            .iter()
            .zip([1, 2].iter().cycle())
            .all(|(a, b)| *a == Some(*b))
    );
}

#[test]
fn weights_by_cpu_give_less_to_the_loaded() {
    let mut control = control(&[1, 1], "weights = \"cpu\"");
    let target = columns(&mut control).1;
    run(&mut control, 0, 3_000, &[], 0.4);
    assert_eq!(
        columns(&mut control).1,
        target,
        "equal loads change nothing"
    );
    for t in (3_100..=9_000).step_by(100) {
        control.report(ms(t), "p0", running(0.7));
        control.report(ms(t), "p1", running(0.1));
        control.tick(ms(t), UNIX + ms(t));
    }
    let (home, admit) = columns(&mut control);
    let had = admit.iter().filter(|&&a| a == Some(0)).count();
    assert!((had as f64 / f64::from(SLOTS) - 0.25).abs() < 0.02, "{had}");
    assert_eq!(home, columns(&mut control).0);
    let weight = f64::from(control.backends[0].step) / f64::from(weights::FULL);
    assert!((weight - 0.3).abs() < 0.06, "{weight}");
    assert_eq!(control.plan().settling, 0);
}
