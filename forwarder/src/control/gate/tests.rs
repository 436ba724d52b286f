use super::*;
use proptest::prelude::*;

const TICK: Duration = Duration::from_millis(100);

fn gate(alpha: f64) -> Gate {
    Gate::new(config::Gate {
        alpha,
        beta: Beta::Mean,
    })
}

/// Feeds one CPU for the time a gate wants to see before it closes.
fn warm_up(gate: &mut Gate, cpu: f64) -> Option<Move> {
    gate.sample(Duration::ZERO, cpu);
    gate.sample(SMOOTHING, cpu);
    gate.decide(|| cpu)
}

/// Feeds a constant CPU to a lone backend for some ticks, and returns the moves.
fn run(gate: &mut Gate, from: u32, ticks: u32, cpu: f64) -> Vec<Move> {
    (from..from + ticks)
        .filter_map(|tick| {
            gate.sample(TICK * tick, cpu);
            let own = gate.cpu().unwrap();
            gate.decide(|| own)
        })
        .collect()
}

#[test]
fn the_first_sample_is_taken_as_it_is_and_later_ones_are_smoothed_by_their_distance() {
    let mut gate = gate(0.8);
    gate.sample(Duration::ZERO, 0.5);
    assert_eq!(gate.cpu(), Some(0.5));
    gate.sample(Duration::from_secs(1), 1.0);
    let expected = 0.5 + 0.5 * (1.0 - (-1.0f64).exp());
    assert!((gate.cpu().unwrap() - expected).abs() < 1e-12);
    // Two samples of the same value are one, however they are spaced.
    let mut other = self::gate(0.8);
    other.sample(Duration::ZERO, 0.5);
    other.sample(Duration::from_millis(130), 1.0);
    other.sample(Duration::from_secs(1), 1.0);
    assert!((other.cpu().unwrap() - expected).abs() < 1e-12);
}

#[test]
fn nonsense_is_no_sample() {
    let mut gate = gate(0.8);
    gate.sample(Duration::ZERO, f64::NAN);
    assert_eq!(gate.cpu(), None);
    gate.sample(Duration::ZERO, 7.0);
    assert_eq!(gate.cpu(), Some(1.0));
}

#[test]
fn a_lone_backend_closes_and_reopens() {
    let mut gate = gate(0.8);
    // One busy moment is not enough.
    assert!(run(&mut gate, 0, 10, 0.95).is_empty());
    assert!(matches!(run(&mut gate, 10, 1, 0.95)[..], [Move::Closed(_)]));
    let moves = run(&mut gate, 11, 50, 0.7);
    assert!(
        matches!(moves[..], [Move::Opened(Some(cpu))] if cpu < 0.75),
        "{moves:?}"
    );
}

#[test]
fn equally_loaded_backends_reopen() {
    let mut gates = [gate(0.8), gate(0.8), gate(0.8)];
    let mut moves = [0; 3];
    for tick in 0..100 {
        let cpu = if tick < 20 { 0.9 } else { 0.7 };
        for gate in &mut gates {
            gate.sample(TICK * tick, cpu);
        }
        let mean = gates.iter().filter_map(Gate::cpu).sum::<f64>() / 3.0;
        for (gate, moves) in gates.iter_mut().zip(&mut moves) {
            *moves += usize::from(gate.decide(|| mean).is_some());
        }
    }
    assert_eq!(moves, [2; 3]);
    assert!(gates.iter().all(|gate| !gate.is_closed()));
}

#[test]
fn a_loaded_backend_among_idle_ones_waits_for_the_mean_or_half_of_alpha() {
    let mut gate = gate(0.8);
    assert!(warm_up(&mut gate, 0.9).is_some());
    gate.sample(Duration::from_mins(1), 0.45);
    assert_eq!(gate.decide(|| 0.3), None);
    assert!(gate.is_closed());
    gate.sample(Duration::from_mins(2), 0.39);
    assert!(matches!(gate.decide(|| 0.1), Some(Move::Opened(_))));
}

#[test]
fn a_fixed_beta_counts_instead_of_the_mean() {
    let mut gate = Gate::new(config::Gate {
        alpha: 0.8,
        beta: Beta::Fixed(0.6),
    });
    assert!(warm_up(&mut gate, 0.9).is_some());
    gate.sample(Duration::from_mins(1), 0.65);
    assert_eq!(gate.decide(|| 1.0), None);
    gate.sample(Duration::from_mins(2), 0.6);
    assert!(gate.decide(|| 0.0).is_some());
}

#[test]
fn at_alpha_one_it_never_closes() {
    let mut gate = gate(1.0);
    assert!(run(&mut gate, 0, 50, 1.0).is_empty());
}

#[test]
fn a_low_alpha_reopens_too() {
    let mut gate = gate(0.04);
    assert_eq!(run(&mut gate, 0, 11, 0.5).len(), 1);
    assert_eq!(run(&mut gate, 11, 200, 0.0).len(), 1);
    assert!(!gate.is_closed());
}

#[test]
fn a_gate_without_figures_is_open() {
    let mut gate = gate(0.8);
    assert_eq!(gate.decide(|| 0.0), None);
    assert!(warm_up(&mut gate, 0.9).is_some());
    let last = SMOOTHING + STALE;
    assert_eq!(gate.forget_stale(last), None);
    assert_eq!(gate.forget_stale(last + TICK), Some(Move::Opened(None)));
    assert_eq!((gate.is_closed(), gate.cpu()), (false, None));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever the load and its timing: it closes only above α, and opens only after the smoothed
    /// CPU crossed the whole hysteresis. So moves are bounded: the way from α to α − 0.05 and back
    /// takes the smoothing some 0.28 s at the very least (α 0.8, load 0 and 1 by turns).
    #[test]
    fn a_gate_does_not_flap(
        alpha in 0.2f64..0.99,
        beta in 0.0f64..1.0,
        loads in proptest::collection::vec((0.0f64..=1.0, 10u64..400), 50..400),
    ) {
        let mut gate = gate(alpha);
        let mut now = Duration::ZERO;
        for (load, gap) in loads {
            now += Duration::from_millis(gap);
            gate.sample(now, load);
            match gate.decide(|| beta) {
                Some(Move::Closed(cpu)) => prop_assert!(cpu > alpha),
                Some(Move::Opened(cpu)) => {
                    let cpu = cpu.unwrap();
                    prop_assert!(cpu < alpha - HYSTERESIS + 1e-9);
                    prop_assert!(cpu <= beta.max(alpha / 2.0));
                }
                None => {}
            }
        }
    }

    /// A load that is drawn anew every 100 ms around a level moves the gate rarely: tens of ticks
    /// are smoothed into one figure.
    #[test]
    fn a_trembling_load_moves_a_gate_rarely(
        level in 0.3f64..1.0,
        noise in proptest::collection::vec(-0.2f64..0.2, 600),
    ) {
        let mut gate = gate(0.8);
        let moves: usize = noise
            .iter()
            .zip(0..)
            .map(|(noise, tick)| run(&mut gate, tick, 1, level + noise).len())
            .sum();
        prop_assert!(moves <= 30, "{moves} moves in a minute");
    }

    /// Closed loop: calls go to the open backends, last some seconds, and cost CPU. Closing one
    /// gate loads the others. From light load to hopeless overload, no gate moves more than twice a
    /// second on average (in overload with calls of half a second; less the longer calls last), and
    /// where there is room backends are not driven beyond what they can.
    #[test]
    fn gates_that_load_each_other_do_not_flap(
        n in 1usize..8,
        demand in 0.3f64..2.0,
        hold in 0.5f64..20.0,
        noise in proptest::collection::vec(-0.1f64..0.1, 600 * 8),
    ) {
        let mut gates = vec![gate(0.8); n];
        // Load in CPUs; a backend gains what it is given and loses it with time constant `hold`.
        let mut load = vec![0.0f64; n];
        let mut moves = vec![0u32; n];
        for tick in 0..600u32 {
            let open: Vec<usize> = (0..n).filter(|&i| !gates[i].is_closed()).collect();
            for load in &mut load {
                *load -= *load * 0.1 / hold;
            }
            for &i in &open {
                load[i] += demand * n as f64 / open.len() as f64 * 0.1 / hold;
            }
            for i in 0..n {
                let jitter = noise[tick as usize * 8 + i];
                gates[i].sample(TICK * tick, load[i] + jitter);
            }
            let mean = gates.iter().filter_map(Gate::cpu).sum::<f64>() / n as f64;
            for (gate, moves) in gates.iter_mut().zip(&mut moves) {
                *moves += u32::from(gate.decide(|| mean).is_some());
            }
        }
        let limit = if hold < 2.0 { 120 } else { 60 };
        prop_assert!(moves.iter().all(|&moves| moves <= limit), "{moves:?}");
        // Short calls and a sole open backend can overshoot within the second of smoothing.
        if hold > 5.0 && demand < 0.75 {
            prop_assert!(load.iter().all(|&load| load < 1.0), "{load:?}");
        }
    }
}
