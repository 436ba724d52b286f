//! Whatever happens to a service, in simulated time.

use super::*;

/// Something that happens to one backend.
#[derive(Clone, Debug)]
enum Event {
    Load(f64),
    Silent(bool),
    State(ReportedState),
    Order(OverrideChange),
}

fn event() -> impl Strategy<Value = Event> {
    let states = prop_oneof![
        3 => Just(ReportedState::Running),
        1 => Just(ReportedState::Draining),
        1 => Just(ReportedState::Stopped),
        1 => Just(ReportedState::Unwell),
    ];
    let orders = prop_oneof![
        Just(OverrideChange::Drain),
        Just(OverrideChange::Disable),
        Just(OverrideChange::Enable),
        Just(OverrideChange::Enable),
    ];
    prop_oneof![
        4 => (0.0f64..1.0).prop_map(Event::Load),
        2 => any::<bool>().prop_map(Event::Silent),
        1 => states.prop_map(Event::State),
        2 => orders.prop_map(Event::Order),
    ]
}

/// What the outside world does to one backend.
#[derive(Clone, Copy)]
struct World {
    report: Report,
    silent: bool,
}

/// The admit column against the plan and the target, slot by slot.
fn check_columns(
    control: &mut ServiceControl,
    target: &[Option<u16>],
) -> Result<(), TestCaseError> {
    let open: Vec<bool> = control.plan().members.iter().map(|m| m.open).collect();
    let (_, admit) = columns(control);
    for (admit, target) in admit.iter().zip(target) {
        let target_open = target.is_some_and(|t| open[usize::from(t)]);
        if target_open {
            prop_assert_eq!(admit, target);
        } else {
            match admit {
                Some(other) => prop_assert!(open[usize::from(*other)]),
                None => prop_assert!(!open.contains(&true)),
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Loads, silences, reports and orders in any row: admit never names a closed backend, differs
    /// from target only where that is closed, and is the target again when all are open. Homes do
    /// not move. The version tells every change of the columns.
    #[test]
    fn admit_moves_only_where_it_must_and_home_never(
        weights in proptest::collection::vec(1u16..5, 1..6),
        events in proptest::collection::vec((0usize..6, event(), 1u64..20), 1..40),
    ) {
        let mut control = control(&weights, "");
        let (home, target) = columns(&mut control);
        let healthy = World { report: running(0.2), silent: false };
        let mut world = vec![healthy; weights.len()];
        let mut now = 0;
        for (who, event, ticks) in events {
            let who = who % weights.len();
            match event {
                Event::Load(cpu) => world[who].report.cpu = Some(cpu),
                Event::Silent(silent) => world[who].silent = silent,
                Event::State(state) => world[who].report.state = state,
                Event::Order(change) => {
                    control.set_override(ms(now), &format!("p{who}"), change).unwrap();
                }
            }
            for _ in 0..ticks {
                let (version, before) = (control.version(), columns(&mut control));
                now += 50;
                for (index, world) in world.iter().enumerate() {
                    if !world.silent && now % 100 == 0 {
                        control.report(ms(now), &format!("p{index}"), world.report);
                    }
                }
                control.tick(ms(now), UNIX + ms(now));
                let after = columns(&mut control);
                prop_assert!(after == before || control.version() > version);
                prop_assert_eq!(&after.0, &home);
            }
            check_columns(&mut control, &target)?;
        }
        // Everything is well again.
        for index in 0..weights.len() {
            let name = format!("p{index}");
            control.set_override(ms(now), &name, OverrideChange::Enable).unwrap();
        }
        run(&mut control, now + 100, now + 8_100, &[], 0.2);
        prop_assert!(control.plan().members.iter().all(|m| m.open));
        prop_assert_eq!(columns(&mut control), (home, target));
    }

    /// In peace nothing is ever published: heartbeats and small loads change no version.
    #[test]
    fn peace_publishes_nothing(loads in proptest::collection::vec(0.0f64..0.7, 100)) {
        let mut control = control(&[1, 2], "");
        let version = control.version();
        for (tick, load) in loads.into_iter().enumerate() {
            let now = tick as u64 * 100;
            control.report(ms(now), "p0", running(load));
            control.report(ms(now), "p1", running(0.7 - load));
            control.tick(ms(now), UNIX + ms(now));
        }
        prop_assert_eq!(control.version(), version);
        prop_assert!(control.take_changes().is_empty());
    }

    /// By CPU, the ring changes at most once a second, whatever the loads.
    #[test]
    fn weights_by_cpu_keep_their_pace(loads in proptest::collection::vec(0.0f64..0.75, 200)) {
        let mut control = control(&[1, 1], "weights = \"cpu\"");
        let mut versions = Vec::new();
        for (tick, load) in loads.iter().enumerate() {
            let now = tick as u64 * 100;
            control.report(ms(now), "p0", running(*load));
            control.report(ms(now), "p1", running(0.3));
            let steps = |control: &ServiceControl| -> Vec<u16> {
                control.backends.iter().map(|b| b.step).collect()
            };
            let before = steps(&control);
            control.tick(ms(now), UNIX + ms(now));
            let after = steps(&control);
            if before != after {
                versions.push(now);
            }
        }
        prop_assert!(versions.windows(2).all(|pair| pair[1] - pair[0] >= 1_000));
    }

    /// A caller that sleeps exactly until the deadlines it is given misses nothing: a silent one is
    /// dead when its window ends.
    #[test]
    fn the_deadlines_given_are_enough(last in 0u64..100) {
        let mut control = control(&[1, 1], "");
        let (mut now, mut reported) = (ms(0), ms(0));
        loop {
            control.tick(now, UNIX + now);
            if !member(&control, "p0").alive {
                break;
            }
            prop_assert!(now < ms(10_000));
            control.due_probes(now);
            let wake = control.next_deadline(now).unwrap();
            prop_assert!(wake > now);
            if wake >= reported + ms(100) {
                reported += ms(100);
                now = reported;
                control.report(now, "p1", running(0.1));
                if now <= ms(1_500) {
                    control.report(now + ms(last), "p0", running(0.1));
                }
            } else {
                now = wake;
            }
        }
        prop_assert_eq!(now, ms(1_500 + last + 300));
    }
}

/// When which of three backends were alive, if `reports` (backend, milliseconds since the one before) come,
/// and the caller ticks after each of them (`eager`) or only after those that are waited for.
fn lives(eager: bool, missed: u32, reports: &[(usize, u64)]) -> Vec<(Now, Vec<bool>)> {
    let timing = Timing { missed, ..TIMING };
    let saved = Saved::default();
    let service = service(&[1, 1, 1], "");
    let mut control =
        ServiceControl::with_slots((ms(0), UNIX), &service, timing, &saved, |_| false, SLOTS);
    let mut lives: Vec<(Now, Vec<bool>)> = Vec::new();
    let mut note = |control: &ServiceControl, now| {
        let alive: Vec<bool> = control.plan().members.iter().map(|m| m.alive).collect();
        if lives.last().is_none_or(|(_, before)| *before != alive) {
            lives.push((now, alive));
        }
    };
    let (mut now, mut wake) = (ms(0), ms(0));
    for &(who, pause) in reports {
        now += ms(pause);
        while wake <= now {
            control.tick(wake, UNIX + wake);
            control.due_probes(wake);
            note(&control, wake);
            wake = control.next_deadline(wake).unwrap().max(wake + ms(1));
        }
        let awaited = control.waits_for_report();
        control.report(now, &format!("p{who}"), running(0.1));
        if eager || awaited {
            control.tick(now, UNIX + now);
            wake = control.next_deadline(now).unwrap().max(now + ms(1));
        }
        note(&control, now);
    }
    lives
}

proptest! {
    /// A caller that ticks at its deadlines, and after reports only where they are waited for, judges at the same
    /// moments as one that ticks after every report.
    #[test]
    fn reports_that_nobody_waits_for_need_no_tick(
        missed in 1u32..4,
        reports in proptest::collection::vec((0usize..3, 0u64..160), 1..120),
    ) {
        prop_assert_eq!(lives(false, missed, &reports), lives(true, missed, &reports));
    }
}

/// The ring as it is in the field: when one of `n` dies, what it had goes to the others evenly.
#[test]
fn what_a_dead_one_had_is_spread_evenly() {
    for n in [3u16, 8, 16] {
        let service = service(&vec![1; n.into()], "");
        let mut control =
            ServiceControl::new(ms(0), UNIX, &service, TIMING, &Saved::default(), |_| false);
        for dead in [0, n - 1] {
            let name = format!("p{dead}");
            control.report(ms(0), &name, reported(ReportedState::Stopped));
            let mut shares = vec![0u32; n.into()];
            for admit in columns(&mut control).1 {
                shares[usize::from(admit.unwrap())] += 1;
            }
            assert_eq!(shares.remove(dead.into()), 0);
            let (least, most) = (shares.iter().min().unwrap(), shares.iter().max().unwrap());
            let mean = f64::from(RING_SLOTS) / f64::from(n - 1);
            let spread = f64::from(most - least) / mean;
            assert!(spread <= 0.05, "{n} backends: {spread}");
            control.report(ms(0), &name, reported(ReportedState::Running));
        }
    }
}
