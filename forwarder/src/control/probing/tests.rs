use super::*;
use crate::control::suspicion::judge_answers;
use proptest::prelude::*;

fn ms(ms: u64) -> Now {
    Duration::from_millis(ms)
}

fn config() -> Probe {
    Probe {
        interval: ms(1_000),
        timeout: ms(200),
        down: 2,
        up: 2,
        retry_after_cap: ms(10_000),
    }
}

/// Asks when it is due, and tells the outcome `after` later; returns the moment it was told.
fn ask(probing: &mut Probing, answer: Answer, after: u64) -> Now {
    let due = probing.probe_due();
    assert!(probing.take_probe(due));
    assert!(!probing.take_probe(due), "asked twice");
    let told = due + ms(after);
    probing.answer(told, answer);
    told
}

#[test]
fn silence_is_found_soon_after_the_first_failure() {
    let mut probing = Probing::new(ms(0), ms(0), config(), None);
    ask(&mut probing, Answer::Ok, 5);
    assert_eq!(probing.probe_due(), ms(1_000));
    ask(&mut probing, Answer::Silent, 200);
    assert!(probing.is_alive());
    assert_eq!(probing.probe_due(), ms(1_250));
    ask(&mut probing, Answer::Silent, 200);
    // Others were heard meanwhile: between the repetition of the first question and of the last.
    assert!(probing.is_outlived_by(ms(1_100)) && probing.is_outlived_by(ms(1_350)));
    assert!(!probing.is_outlived_by(ms(1_099)) && !probing.is_outlived_by(ms(1_351)));
    probing.die_of_silence();
    assert_eq!(probing.death(), Some(Death::NoAnswer(2)));
    // A dead one is asked at the usual pace.
    assert_eq!(probing.probe_due(), ms(2_250));
}

#[test]
fn the_next_question_waits_for_the_timeout() {
    let config = Probe {
        timeout: ms(1_000),
        ..config()
    };
    let mut probing = Probing::new(ms(0), ms(0), config, None);
    ask(&mut probing, Answer::Silent, 1_000);
    assert_eq!(probing.probe_due(), ms(1_000));
}

#[test]
fn it_lives_again_after_answers_in_a_row() {
    let mut probing = Probing::new(ms(0), ms(0), config(), Some(Death::Remembered));
    ask(&mut probing, Answer::Ok, 5);
    ask(&mut probing, Answer::Silent, 200);
    ask(&mut probing, Answer::Ok, 5);
    assert!(!probing.is_alive());
    ask(&mut probing, Answer::Ok, 5);
    assert!(probing.is_alive());
}

#[test]
fn full_is_alive() {
    let mut probing = Probing::new(ms(0), ms(0), config(), Some(Death::Remembered));
    let full = Answer::Full {
        retry_after: Some(ms(3_000)),
    };
    ask(&mut probing, Answer::Ok, 5);
    assert!(!probing.is_alive());
    let told = ask(&mut probing, full, 5);
    assert!(probing.is_alive() && probing.is_full(told));
    ask(&mut probing, Answer::Silent, 200);
    let told = ask(&mut probing, full, 5);
    assert!(probing.is_alive() && probing.is_full(told + ms(2_999)));
    assert!(!probing.is_full(told + ms(3_000)));
    ask(&mut probing, Answer::Ok, 5);
    assert!(!probing.is_full(told));
}

#[test]
fn a_long_retry_after_is_obeyed_up_to_the_cap_and_not_longer() {
    let mut probing = Probing::new(ms(0), ms(0), config(), None);
    let told = ask(
        &mut probing,
        Answer::Full {
            retry_after: Some(Duration::from_hours(1)),
        },
        5,
    );
    assert!(probing.is_full(told + ms(9_999)));
    assert!(!probing.forget_full(told + ms(9_999)));
    assert!(probing.forget_full(told + ms(10_000)));
    assert!(!probing.is_full(told + ms(10_000)) && probing.is_alive());
}

#[test]
fn one_that_is_always_full_does_not_open_between_answers() {
    let mut probing = Probing::new(ms(0), ms(0), config(), None);
    let mut told = ask(&mut probing, Answer::Full { retry_after: None }, 5);
    for _ in 0..5 {
        let due = probing.probe_due();
        assert!(probing.is_full(told) && probing.is_full(due + ms(100)));
        told = ask(&mut probing, Answer::Full { retry_after: None }, 100);
    }
}

#[test]
fn an_icmp_error_makes_a_question_due_at_once_but_not_a_flood() {
    let mut probing = Probing::new(ms(0), ms(0), config(), None);
    ask(&mut probing, Answer::Ok, 5);
    probing.unreachable(ms(300));
    assert_eq!(ask(&mut probing, Answer::Unreachable, 1), ms(301));
    for _ in 0..9 {
        probing.unreachable(ms(302));
    }
    assert_eq!(probing.probe_due(), ms(350));
    ask(&mut probing, Answer::Unreachable, 1);
    assert_eq!(probing.death(), Some(Death::Unreachable(2)));
}

#[test]
fn what_was_not_asked_is_neither_failure_nor_success() {
    let mut probing = Probing::new(ms(0), ms(0), config(), None);
    ask(&mut probing, Answer::Unreachable, 1);
    for n in 0..5 {
        assert_eq!(ask(&mut probing, Answer::NotAsked, 1), ms(252 + n * 1_000));
    }
    ask(&mut probing, Answer::Unreachable, 1);
    assert_eq!(probing.death(), Some(Death::Unreachable(2)));
}

#[test]
fn a_lone_one_is_given_another_second_but_not_if_nobody_listens() {
    let mut probing = Probing::new(ms(0), ms(0), config(), None);
    let mut told = ms(0);
    while probing.is_alive() {
        told = ask(&mut probing, Answer::Silent, 200);
        judge_answers(told, &mut [&mut probing]);
        assert_eq!(
            probing.is_suspecting(),
            (ms(450)..ms(1_450)).contains(&told)
        );
    }
    assert_eq!(told, ms(1_450));
    assert_eq!(probing.death(), Some(Death::NoAnswer(6)));
    let mut probing = Probing::new(ms(0), ms(0), config(), None);
    ask(&mut probing, Answer::Silent, 200);
    ask(&mut probing, Answer::Unreachable, 1);
    assert_eq!(probing.death(), Some(Death::Unreachable(2)));
}

/// Several, asked from `t = 0` on as often as they want, in steps of 10 ms; `answers` says who answers
/// at that moment. Returns when each died, and when the suspicion began.
struct Several {
    all: Vec<Probing>,
    open: Vec<Option<u64>>,
    died: Vec<Option<u64>>,
    suspected: Option<u64>,
}

impl Several {
    fn new(n: u64) -> Self {
        let delay = |i| ms(1_000 * i / n);
        let new = |i| Probing::new(ms(0), delay(i), config(), None);
        Self {
            all: (0..n).map(new).collect(),
            open: vec![None; n as usize],
            died: vec![None; n as usize],
            suspected: None,
        }
    }

    fn run(&mut self, from: u64, to: u64, answers: impl Fn(usize, u64) -> bool) {
        for t in (from..to).step_by(10) {
            for index in 0..self.all.len() {
                let (one, open) = (&mut self.all[index], &mut self.open[index]);
                if one.take_probe(ms(t)) {
                    assert_eq!(*open, None, "one question at a time");
                    *open = Some(t);
                }
                // The question is sent at once, and again after half of the time.
                let Some(asked) = *open else { continue };
                if (t == asked || t == asked + 100) && answers(index, t) {
                    one.answer(ms(t), Answer::Ok);
                } else if t == asked + 200 {
                    one.answer(ms(t), Answer::Silent);
                } else {
                    continue;
                }
                *open = None;
                self.judge(t);
            }
            self.judge(t);
        }
    }

    fn judge(&mut self, t: u64) {
        let mut watched: Vec<&mut Probing> = self.all.iter_mut().collect();
        judge_answers(ms(t), &mut watched);
        for (one, died) in self.all.iter().zip(&mut self.died) {
            if !one.is_alive() {
                died.get_or_insert(t);
            }
        }
        if self.all.iter().any(Probing::is_suspecting) {
            self.suspected.get_or_insert(t);
        }
    }
}

proptest! {
    /// All fall silent at one moment: nobody is dead before another second has passed since the last
    /// of them failed, and all are soon after that.
    #[test]
    fn all_silent_at_once_have_another_second(n in 1u64..9, end in 3_000u64..4_000) {
        let mut several = Several::new(n);
        several.run(0, 12_000, |_, t| t < end);
        let suspected = several.suspected.unwrap();
        prop_assert!(suspected <= end + 2_500, "{suspected} after {end}");
        for died in several.died {
            let died = died.unwrap();
            prop_assert!((suspected + 1_000..=suspected + 2_000).contains(&died), "{died}");
        }
    }

    /// All are back within that second: nobody died.
    #[test]
    fn a_short_outage_kills_nobody(n in 1u64..9, end in 3_000u64..4_000, time in 10u64..1_300) {
        let mut several = Several::new(n);
        several.run(0, 12_000, |_, t| !(end..end + time).contains(&t));
        prop_assert_eq!(several.died, vec![None; n as usize]);
        prop_assert!(!several.all.iter().any(Probing::is_suspecting));
    }

    /// One falls silent among others: it is dead as soon as it failed twice, and nobody is suspected.
    #[test]
    fn one_among_others_is_dead_without_delay(n in 2u64..9, end in 3_000u64..4_000) {
        let mut several = Several::new(n);
        several.run(0, 12_000, |index, t| index != 0 || t < end);
        let died = several.died[0].unwrap();
        // Asked at most one interval after the end, twice, for 200 ms each, 50 ms apart.
        prop_assert!(died <= end + 1_000 + 450 + 10, "{died} after {end}");
        prop_assert_eq!(several.suspected, None);
        prop_assert!(several.died[1..].iter().all(Option::is_none));
    }
}

#[test]
fn a_question_whose_outcome_is_never_told_does_not_block() {
    let mut probing = Probing::new(ms(0), ms(0), config(), None);
    assert!(probing.take_probe(ms(0)));
    assert_eq!(probing.probe_due(), ms(1_000));
    probing.unreachable(ms(10));
    assert_eq!(probing.probe_due(), ms(400));
}

proptest! {
    /// Among others that are heard: dead exactly after `down` failures in a row, alive exactly after
    /// `up` answers in a row, be they 503; and never full for longer than the cap.
    #[test]
    fn states_follow_the_rows(
        down in 1u32..5,
        up in 1u32..5,
        outcomes in proptest::collection::vec(0u8..5, 1..100),
    ) {
        let config = Probe { down, up, ..config() };
        let mut probing = Probing::new(ms(0), ms(0), config, None);
        let (mut alive, mut failures, mut answers) = (true, 0, 0);
        for outcome in outcomes {
            let answer = match outcome {
                0 => Answer::Ok,
                1 => Answer::Full { retry_after: Some(ms(60_000)) },
                2 => Answer::Silent,
                3 => Answer::NotAsked,
                _ => Answer::Unreachable,
            };
            let told = ask(&mut probing, answer, 200);
            if probing.is_outlived_by(told.saturating_sub(ms(100))) {
                probing.die_of_silence();
            }
            match answer {
                Answer::Ok | Answer::Full { .. } => { failures = 0; answers += 1; }
                Answer::NotAsked => {}
                _ => { answers = 0; failures += 1; }
            }
            alive = if alive { failures < down } else { answers >= up };
            prop_assert_eq!(probing.is_alive(), alive);
            prop_assert!(!probing.is_full(told + config.retry_after_cap));
        }
    }
}
