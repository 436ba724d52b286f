use super::*;
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
    let mut probing = Probing::new(ms(0), config(), None);
    ask(&mut probing, Answer::Ok, 5);
    assert_eq!(probing.probe_due(), ms(1_000));
    ask(&mut probing, Answer::Silent, 200);
    assert!(probing.is_alive());
    assert_eq!(probing.probe_due(), ms(1_250));
    ask(&mut probing, Answer::Silent, 200);
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
    let mut probing = Probing::new(ms(0), config, None);
    ask(&mut probing, Answer::Silent, 1_000);
    assert_eq!(probing.probe_due(), ms(1_000));
}

#[test]
fn it_lives_again_after_answers_in_a_row() {
    let mut probing = Probing::new(ms(0), config(), Some(Death::Remembered));
    ask(&mut probing, Answer::Ok, 5);
    ask(&mut probing, Answer::Silent, 200);
    ask(&mut probing, Answer::Ok, 5);
    assert!(!probing.is_alive());
    ask(&mut probing, Answer::Ok, 5);
    assert!(probing.is_alive());
}

#[test]
fn full_is_neither_dead_nor_healthy() {
    let mut probing = Probing::new(ms(0), config(), Some(Death::Remembered));
    let full = Answer::Full {
        retry_after: Some(ms(3_000)),
    };
    for _ in 0..5 {
        ask(&mut probing, full, 5);
        assert!(!probing.is_alive());
    }
    ask(&mut probing, Answer::Ok, 5);
    ask(&mut probing, Answer::Ok, 5);
    assert!(probing.is_alive());
    ask(&mut probing, Answer::Silent, 200);
    let told = ask(&mut probing, full, 5);
    assert!(probing.is_alive() && probing.is_full(told + ms(2_999)));
    assert!(!probing.is_full(told + ms(3_000)));
    ask(&mut probing, Answer::Ok, 5);
    assert!(!probing.is_full(told));
}

#[test]
fn a_long_retry_after_is_obeyed_up_to_the_cap_and_not_longer() {
    let mut probing = Probing::new(ms(0), config(), None);
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
    let mut probing = Probing::new(ms(0), config(), None);
    let mut told = ask(&mut probing, Answer::Full { retry_after: None }, 5);
    for _ in 0..5 {
        let due = probing.probe_due();
        assert!(probing.is_full(told) && probing.is_full(due + ms(100)));
        told = ask(&mut probing, Answer::Full { retry_after: None }, 100);
    }
}

#[test]
fn an_icmp_error_makes_a_question_due_at_once_but_not_a_flood() {
    let mut probing = Probing::new(ms(0), config(), None);
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
fn a_question_whose_outcome_is_never_told_does_not_block() {
    let mut probing = Probing::new(ms(0), config(), None);
    assert!(probing.take_probe(ms(0)));
    assert_eq!(probing.probe_due(), ms(1_000));
    probing.unreachable(ms(10));
    assert_eq!(probing.probe_due(), ms(400));
}

proptest! {
    /// Dead exactly after `down` failures in a row, alive exactly after `up` answers in a row that
    /// no failure interrupts; and never full for longer than the cap.
    #[test]
    fn states_follow_the_rows(
        down in 1u32..5,
        up in 1u32..5,
        outcomes in proptest::collection::vec(0u8..4, 1..100),
    ) {
        let config = Probe { down, up, ..config() };
        let mut probing = Probing::new(ms(0), config, None);
        let (mut alive, mut failures, mut answers) = (true, 0, 0);
        for outcome in outcomes {
            let answer = match outcome {
                0 => Answer::Ok,
                1 => Answer::Full { retry_after: Some(ms(60_000)) },
                2 => Answer::Silent,
                _ => Answer::Unreachable,
            };
            let told = ask(&mut probing, answer, 7);
            match answer {
                Answer::Ok => { failures = 0; answers += 1; }
                Answer::Full { .. } => failures = 0,
                _ => { answers = 0; failures += 1; }
            }
            alive = if alive { failures < down } else { answers >= up };
            prop_assert_eq!(probing.is_alive(), alive);
            prop_assert!(!probing.is_full(told + config.retry_after_cap));
        }
    }
}
