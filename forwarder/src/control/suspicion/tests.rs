use super::*;
use crate::control::{
    liveness::{Death, GRACE},
    probing::Answer,
};
use proptest::prelude::*;
use std::time::Duration;

const TIMING: Timing = Timing {
    interval: Duration::from_millis(100),
    missed: 3,
};

/// What an OPTIONS may take.
const TIMEOUT: Duration = Duration::from_millis(200);

fn ms(ms: u64) -> Now {
    Duration::from_millis(ms)
}

/// Backends that were all heard at their own phase of the interval before `t = 1 s`.
fn heard(phases: &[u64]) -> Vec<Liveness> {
    phases
        .iter()
        .map(|phase| {
            let mut one = Liveness::new(ms(0), TIMEOUT, None);
            one.heartbeat(ms(900 + phase), None);
            one
        })
        .collect()
}

/// What judging changed.
#[derive(Debug, Default, PartialEq, Eq)]
struct Judgement {
    died: Vec<usize>,
    asked: Vec<usize>,
}

fn judged(now: Now, timing: Timing, elsewhere: Option<Now>, all: &mut [Liveness]) -> Judgement {
    let before: Vec<Liveness> = all.to_vec();
    let mut watched: Vec<&mut Liveness> = all.iter_mut().collect();
    judge(now, timing, elsewhere, &mut watched);
    let mut judgement = Judgement::default();
    for (index, (before, after)) in before.iter().zip(all).enumerate() {
        if before.is_alive() && !after.is_alive() {
            judgement.died.push(index);
        }
        if !before.is_asked() && after.is_asked() {
            judgement.asked.push(index);
        }
    }
    judgement
}

fn at(now: Now, all: &mut [Liveness]) -> Judgement {
    judged(now, TIMING, None, all)
}

/// Asks all that are due, and tells the outcome at once: who is `up` answers, the others do not.
fn ask(now: Now, all: &mut [Liveness], up: &[usize]) {
    for (index, one) in all.iter_mut().enumerate() {
        if one.take_probe(now) {
            let is_up = up.contains(&index);
            one.answer(now, if is_up { Answer::Ok } else { Answer::Silent });
        }
    }
}

#[test]
fn one_that_falls_silent_among_others_is_dead_at_its_deadline() {
    let mut all = heard(&[0, 30, 60]);
    for t in (1_000..1_200).step_by(10) {
        // The others go on.
        for (index, phase) in [(1, 30), (2, 60)] {
            if t % 100 == phase {
                all[index].heartbeat(ms(t), None);
            }
        }
        assert_eq!(at(ms(t), &mut all), Judgement::default(), "at {t}");
    }
    assert_eq!(at(ms(1_200), &mut all).died, [0]);
    assert_eq!(all[0].death(), Some(Death::Silent(ms(300))));
}

#[test]
fn all_silent_at_once_is_our_own_fault_first() {
    let mut all = heard(&[0, 50, 99]);
    // The first deadline passes: the others have missed heartbeats too, so it waits for them.
    assert_eq!(at(ms(1_210), &mut all), Judgement::default());
    assert_eq!(at(ms(1_260), &mut all), Judgement::default());
    assert_eq!(at(ms(1_299), &mut all).asked, [0, 1, 2]);
    assert!(all.iter().all(|one| one.is_alive() && one.is_asked()));
    // One answers OPTIONS, and goes on to; the others do not.
    for t in (1_299..2_299).step_by(100) {
        ask(ms(t), &mut all, &[1]);
        assert_eq!(at(ms(t), &mut all), Judgement::default(), "at {t}");
    }
    assert_eq!(at(ms(2_299), &mut all).died, [0, 2]);
    assert!(all[1].is_alive());
    // Its patience begins with the first question it does not answer.
    ask(ms(2_500), &mut all, &[]);
    assert_eq!(at(ms(3_499), &mut all), Judgement::default());
    assert_eq!(at(ms(3_500), &mut all).died, [1]);
    assert_eq!(all[1].death(), Some(Death::Unanswered));
    // Both the dead and the one that comes back are asked on.
    ask(ms(4_500), &mut all, &[1]);
    assert!(all[1].is_alive() && !all[0].is_alive());
}

#[test]
fn a_heartbeat_ends_the_suspicion_and_kills_nobody_who_answers() {
    let mut all = heard(&[0, 50, 50]);
    assert_eq!(at(ms(1_250), &mut all).asked, [0, 1, 2]);
    ask(ms(1_250), &mut all, &[0]);
    for t in (1_300..20_000).step_by(100) {
        all[1].heartbeat(ms(t), None);
        heard_again(ms(t), TIMING, all.iter_mut());
        let died = at(ms(t), &mut all).died;
        // The third neither answers nor is heard.
        assert_eq!(died.is_empty(), t != 2_300, "at {t}: {died:?}");
        ask(ms(t), &mut all, &[0]);
    }
    assert!(all[0].is_asked() && !all[0].is_suspecting() && all[0].lives_by_answers());
    assert_eq!(all[2].death(), Some(Death::Unanswered));
    // From its own heartbeat on, silence among others is death at once again.
    all[0].heartbeat(ms(20_000), None);
    assert!(!all[0].is_asked());
    all[1].heartbeat(ms(20_290), None);
    assert_eq!(at(ms(20_300), &mut all).died, [0]);
}

#[test]
fn a_single_backend_is_asked_before_it_is_dead() {
    let mut all = heard(&[0]);
    assert_eq!(at(ms(1_199), &mut all), Judgement::default());
    assert_eq!(at(ms(1_200), &mut all).asked, [0]);
    ask(ms(1_200), &mut all, &[]);
    assert_eq!(at(ms(2_199), &mut all).died, [0; 0]);
    assert_eq!(at(ms(2_200), &mut all).died, [0]);
}

#[test]
fn agents_of_other_services_prove_that_we_hear() {
    let mut all = heard(&[0]);
    let elsewhere = Some(ms(1_190));
    assert_eq!(judged(ms(1_200), TIMING, elsewhere, &mut all).died, [0]);
    // If they are silent too, they prove nothing.
    let mut all = heard(&[0]);
    let elsewhere = Some(ms(1_040));
    assert_eq!(judged(ms(1_200), TIMING, elsewhere, &mut all).asked, [0]);
}

#[test]
fn one_question_is_open_at_a_time_and_the_patience_is_longer_than_it() {
    for (timeout, patience) in [(200, 1_000), (1_000, 1_100), (5_000, 5_100)] {
        let mut one = Liveness::new(ms(0), ms(timeout), None);
        one.heartbeat(ms(900), None);
        let mut all = [one];
        assert_eq!(at(ms(1_200), &mut all).asked, [0]);
        let mut asked = None;
        for t in (1_200..).step_by(10) {
            if let Some(when) = asked.filter(|when| t >= when + timeout) {
                assert_eq!(t, when + timeout);
                all[0].answer(ms(t), Answer::Silent);
                asked = None;
            }
            let died = at(ms(t), &mut all).died;
            assert_eq!(died.is_empty(), t < 1_200 + patience, "{timeout}: {t}");
            if !died.is_empty() {
                break;
            }
            if all[0].take_probe(ms(t)) {
                assert_eq!(asked.replace(t), None, "one at a time");
            }
        }
    }
}

#[test]
fn what_was_not_asked_is_no_failure() {
    let mut all = heard(&[0]);
    assert_eq!(at(ms(1_200), &mut all).asked, [0]);
    for t in (1_200..10_200).step_by(100) {
        if all[0].take_probe(ms(t)) {
            all[0].answer(ms(t), Answer::NotAsked);
        }
        assert_eq!(at(ms(t), &mut all).died, [0; 0]);
    }
    assert!(!all[0].lives_by_answers());
    let asked = all[0].probe_due().unwrap();
    ask(asked, &mut all, &[]);
    assert_eq!(at(asked + ms(999), &mut all).died, [0; 0]);
    assert_eq!(at(asked + ms(1_000), &mut all).died, [0]);
}

#[test]
fn an_agent_that_announced_its_end_is_no_dead_proxy() {
    let mut all = heard(&[0, 0]);
    all[0].note_draining(true);
    for t in (1_000..5_000).step_by(100) {
        all[1].heartbeat(ms(t), None);
        let asked = at(ms(t), &mut all).asked;
        assert_eq!(asked.is_empty(), t != 1_200);
        ask(ms(t), &mut all, &[0]);
        assert!(all[0].is_alive() && !all[0].is_suspecting());
    }
    ask(ms(5_100), &mut all, &[]);
    all[1].heartbeat(ms(6_100), None);
    assert_eq!(at(ms(6_100), &mut all).died, [0]);
    assert_eq!(all[0].death(), Some(Death::Unanswered));
}

/// Runs one that stops and starts again at these moments; returns when it came to life.
fn revivals(changes: &[(u64, bool)], until: u64) -> Vec<u64> {
    let mut one = Liveness::new(ms(0), TIMEOUT, None);
    let (mut revivals, mut alive, mut runs) = (Vec::new(), true, true);
    for t in (0..until).step_by(100) {
        if let Some((_, running)) = changes.iter().rfind(|(at, _)| *at <= t) {
            runs = *running;
        }
        one.heartbeat(ms(t), (!runs).then_some(Death::Stopped));
        if one.is_alive() && !alive {
            revivals.push(t);
        }
        alive = one.is_alive();
    }
    revivals
}

#[test]
fn a_single_stop_costs_nothing_and_a_second_one_a_second() {
    let changes = [(1_000, false), (1_500, true), (5_000, false), (5_300, true)];
    assert_eq!(revivals(&changes, 10_000), [1_500, 6_300]);
    let late = [
        (1_000, false),
        (1_500, true),
        (11_100, false),
        (11_300, true),
    ];
    assert_eq!(revivals(&late, 20_000), [1_500, 11_300]);
}

#[test]
fn a_stopped_one_proves_that_we_hear() {
    let mut all = heard(&[0, 0]);
    all[1].heartbeat(ms(1_190), Some(Death::Stopped));
    assert_eq!(at(ms(1_200), &mut all).died, [0]);
}

#[test]
fn after_a_start_there_is_a_grace_and_then_the_heard_ones_witness() {
    let mut all = vec![
        Liveness::new(ms(0), TIMEOUT, None),
        Liveness::new(ms(0), TIMEOUT, None),
    ];
    for t in (0..1_300).step_by(100) {
        all[1].heartbeat(ms(t), None);
        assert_eq!(at(ms(t), &mut all), Judgement::default());
    }
    all[1].heartbeat(ms(1_290), None);
    // It may have no agent yet: it is asked, and lives while it answers.
    assert_eq!(at(GRACE + ms(300), &mut all).asked, [0]);
    assert!(!all[0].is_suspecting());
    for t in (1_300..9_000).step_by(100) {
        all[1].heartbeat(ms(t), None);
        ask(ms(t), &mut all, &[0]);
        assert_eq!(at(ms(t), &mut all), Judgement::default());
    }
    assert!(all[0].lives_by_answers());
    ask(ms(9_200), &mut all, &[]);
    all[1].heartbeat(ms(10_200), None);
    assert_eq!(at(ms(10_200), &mut all).died, [0]);
    assert_eq!(all[0].death(), Some(Death::NeverHeard));
}

#[test]
fn if_nobody_is_heard_after_a_start_all_are_asked() {
    let mut all = vec![
        Liveness::new(ms(0), TIMEOUT, None),
        Liveness::new(ms(0), TIMEOUT, None),
    ];
    assert_eq!(at(ms(1_299), &mut all), Judgement::default());
    assert_eq!(at(ms(1_300), &mut all).asked, [0, 1]);
}

#[test]
fn our_own_stall_kills_nobody() {
    let mut all = heard(&[0, 90]);
    // We looked at 1.0 s, and then not for five seconds.
    excuse(ms(6_000), ms(4_900), all.iter_mut());
    assert_eq!(at(ms(6_000), &mut all), Judgement::default());
    // The second one's heartbeat comes, the first is dead after what was left of its time.
    all[1].heartbeat(ms(6_090), None);
    assert_eq!(at(ms(6_090), &mut all), Judgement::default());
    assert_eq!(at(ms(6_100), &mut all).died, [0]);
}

#[test]
fn with_one_missed_heartbeat_the_first_still_waits_for_proof() {
    let timing = Timing {
        missed: 1,
        ..TIMING
    };
    let mut all = heard(&[0, 90]);
    let mut look = |now| judged(now, timing, None, &mut all);
    // At its deadline the other was heard 10 ms ago, but not after the first was missing.
    assert_eq!(look(ms(1_000)), Judgement::default());
    assert_eq!(look(ms(1_090)).asked, [0, 1]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// If everything ends at one moment, whatever the phases and the jitter, nobody dies by silence.
    #[test]
    fn nobody_dies_when_all_fall_silent(
        phases in proptest::collection::vec(0u64..100, 1..12),
        jitter in proptest::collection::vec(0u64..45, 12),
        end in 1_000u64..1_100,
        missed in 1u32..6,
        step in 1u64..50,
    ) {
        let timing = Timing { missed, ..TIMING };
        let mut all: Vec<Liveness> = phases.iter().map(|_| Liveness::new(ms(0), TIMEOUT, None)).collect();
        let mut asked = 0;
        let mut now = 0;
        while now < 3_000 && asked < all.len() {
            for (one, (phase, jitter)) in all.iter_mut().zip(phases.iter().zip(&jitter)) {
                // The last heartbeat before the end, with its lateness.
                let until = now.min(end);
                let last = (0..=until / 100)
                    .map(|k| k * 100 + phase + jitter * (k % 2))
                    .rfind(|&at| at <= until);
                if let Some(last) = last && one.heard().is_none_or(|heard| heard < ms(last)) {
                    one.heartbeat(ms(last), None);
                }
            }
            let judgement = judged(ms(now), timing, None, &mut all);
            // A single missed heartbeat cannot be told from a late one: not part of the promise.
            if missed > 1 {
                prop_assert!(judgement.died.is_empty(), "at {now}");
            }
            asked += judgement.asked.len();
            asked += judgement.died.len();
            now += step;
        }
        prop_assert_eq!(asked, all.len());
    }

    /// One that dies among others is dead within its window and a step, if three may be missed.
    #[test]
    fn detection_of_one_is_not_delayed(
        phases in proptest::collection::vec(0u64..100, 2..12),
        jitter in proptest::collection::vec(0u64..45, 12),
        end in 500u64..600,
    ) {
        let mut all: Vec<Liveness> = phases.iter().map(|_| Liveness::new(ms(0), TIMEOUT, None)).collect();
        for now in 0..2_000u64 {
            for (index, one) in all.iter_mut().enumerate() {
                let until = if index == 0 { now.min(end) } else { now };
                let due = (0..=until / 100)
                    .map(|k| k * 100 + phases[index] + jitter[index] * (k % 2))
                    .rfind(|&at| at <= until);
                if due == Some(now) {
                    one.heartbeat(ms(now), None);
                }
            }
            let deadline = all[0].heard().map(|heard| heard + TIMING.silence());
            let died = at(ms(now), &mut all).died;
            if deadline == Some(ms(now)) {
                prop_assert_eq!(died, [0]);
                return Ok(());
            }
            prop_assert!(died.is_empty());
        }
        prop_assert!(false, "never died");
    }

    /// Whatever its agent reports of stops and starts: it comes to life at most twice in ten seconds
    /// without having run for a second, and never later than a second after it started for good.
    #[test]
    fn a_crash_loop_does_not_flap(
        phases in proptest::collection::vec((100u64..3_000, 100u64..3_000), 1..20),
    ) {
        let (mut changes, mut now) = (Vec::new(), 1_000);
        for (down, up) in phases {
            changes.extend([(now, false), (now + down, true)]);
            now += down + up;
        }
        let last = now.max(changes[changes.len() - 1].0);
        let revivals = revivals(&changes, last + 2_000);
        let start = |at: u64| changes.iter().rfind(|(c, up)| *up && *c <= at).map_or(0, |c| c.0);
        let hasty: Vec<u64> = revivals.iter().copied().filter(|&at| at - start(at) < 900).collect();
        // Stops more than ten seconds apart are single ones.
        for pair in hasty.windows(2) {
            prop_assert!(pair[1] - pair[0] > 10_000 - 3_000, "{revivals:?} of {changes:?}");
        }
        prop_assert!(revivals.last().is_some_and(|&at| at <= start(last + 2_000) + 1_100));
    }

    /// However heartbeats come and go for everybody: who answers OPTIONS and was silent like all, or
    /// was never heard, does not die; who was heard among others and falls silent does, in time.
    #[test]
    fn whoever_answers_outlives_every_outage(
        agents in proptest::collection::vec(any::<bool>(), 1..8),
        outages in proptest::collection::vec((500u64..4_000, 500u64..3_000), 1..6),
        first_back in 0usize..8,
    ) {
        let mut all: Vec<Liveness> =
            agents.iter().map(|_| Liveness::new(ms(0), TIMEOUT, None)).collect();
        let up: Vec<usize> = (0..all.len()).collect();
        let mut ends = Vec::new();
        let mut now = 0;
        for (well, out) in outages {
            ends.push((now + well, now + well + out));
            now += well + out;
        }
        for t in (0..now + 3_000).step_by(50) {
            for (index, one) in all.iter_mut().enumerate() {
                // One is heard at once when it is over, the others a little later.
                let late = if index == first_back % agents.len() { 0 } else { 200 };
                let out = ends.iter().any(|&(from, to)| (from..to + late).contains(&t));
                if agents[index] && !out && t % 100 == 0 {
                    one.heartbeat(ms(t), None);
                }
            }
            let is_heard = all.iter().any(|one| one.heard() == Some(ms(t)));
            if is_heard && all.iter().any(Liveness::is_suspecting) {
                heard_again(ms(t), TIMING, all.iter_mut());
            }
            prop_assert_eq!(at(ms(t), &mut all).died, Vec::<usize>::new(), "at {}", t);
            ask(ms(t), &mut all, &up);
        }
        for (one, has_agent) in all.iter().zip(&agents) {
            prop_assert_eq!(one.is_asked(), !has_agent);
            prop_assert!(!one.is_suspecting());
        }
    }
}
