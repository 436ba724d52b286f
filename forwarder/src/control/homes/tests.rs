use super::*;
use proptest::prelude::*;

const SLOTS: u32 = 1_009;
const SETTLE: Duration = Duration::from_hours(1);
const UNIX: Duration = Duration::from_secs(1_700_000_000);

fn secs(secs: u64) -> Now {
    Duration::from_secs(secs)
}

fn members(weights: &[u16]) -> Vec<Share> {
    weights
        .iter()
        .enumerate()
        .filter(|(_, weight)| **weight > 0)
        .map(|(i, &weight)| Share {
            name: format!("p{i}"),
            weight,
        })
        .collect()
}

/// Home of every slot by name.
fn names(homes: &Homes) -> Vec<String> {
    homes
        .home()
        .iter()
        .map(|&i| homes.members()[usize::from(i)].name.clone())
        .collect()
}

fn differing(homes: &Homes) -> usize {
    homes
        .home()
        .iter()
        .zip(homes.target())
        .filter(|(home, target)| home != target)
        .count()
}

#[test]
fn at_first_everything_is_at_home() {
    let homes = Homes::new(members(&[1, 1]), SETTLE, SLOTS);
    assert_eq!(homes.home(), homes.target());
    assert_eq!((homes.settling(), homes.next_deadline()), (0, None));
}

#[test]
fn homes_follow_after_settle_and_not_before() {
    let mut homes = Homes::new(members(&[1, 1]), SETTLE, SLOTS);
    let before = names(&homes);
    assert!(homes.retarget(members(&[1, 1, 1]), SETTLE, secs(100)));
    assert_eq!(names(&homes), before);
    let settling = homes.settling();
    assert!(settling > 300 && settling == differing(&homes));
    assert_eq!(homes.next_deadline(), Some(secs(3_700)));
    assert_eq!(homes.tick(secs(3_699)), 0);
    assert_eq!(homes.tick(secs(3_700)), settling);
    assert_eq!(homes.home(), homes.target());
    assert_eq!((homes.settling(), homes.next_deadline()), (0, None));
}

#[test]
fn a_further_change_is_no_break_but_a_return_is() {
    let mut homes = Homes::new(members(&[1, 1]), SETTLE, SLOTS);
    let old = names(&homes);
    homes.retarget(members(&[1, 1, 1]), SETTLE, secs(0));
    let waited: Vec<bool> = homes.waiting.iter().map(|&w| w != AT_HOME).collect();
    // A fourth comes: those that wait still do so from the beginning, others begin.
    homes.retarget(members(&[1, 1, 1, 1]), SETTLE, secs(1_000));
    homes.tick(secs(3_600));
    for (slot, waited) in waited.iter().enumerate() {
        let at_target = homes.home()[slot] == homes.target()[slot];
        assert!(at_target || !waited, "slot {slot}");
    }
    assert!(homes.settling() > 0);
    // All go back to where they were: the wait begins anew when they leave again.
    let mut homes = Homes::new(members(&[1, 1]), SETTLE, SLOTS);
    homes.retarget(members(&[1, 1, 1]), SETTLE, secs(0));
    homes.retarget(members(&[1, 1]), SETTLE, secs(3_000));
    assert_eq!((homes.settling(), names(&homes)), (0, old));
    homes.retarget(members(&[1, 1, 1]), SETTLE, secs(3_100));
    assert_eq!(homes.tick(secs(6_699)), 0);
    assert!(homes.tick(secs(6_700)) > 0);
}

#[test]
fn a_home_that_is_gone_follows_at_once() {
    let mut homes = Homes::new(members(&[1, 1, 1]), SETTLE, SLOTS);
    homes.retarget(members(&[1, 0, 1]), SETTLE, secs(0));
    assert!(!names(&homes).contains(&"p1".to_owned()));
    // Maglev moves a few slots among those that stay; these settle.
    assert!(homes.settling() == differing(&homes) && homes.settling() < 100);
}

#[test]
fn without_settle_homes_follow_at_once() {
    let mut homes = Homes::new(members(&[1, 1]), Duration::ZERO, SLOTS);
    homes.retarget(members(&[1, 5]), Duration::ZERO, secs(7));
    assert_eq!(homes.home(), homes.target());
    assert_eq!(homes.settling(), 0);
}

#[test]
fn another_settle_counts_from_when_slots_began() {
    let mut homes = Homes::new(members(&[1, 1]), SETTLE, SLOTS);
    homes.retarget(members(&[1, 5]), SETTLE, secs(0));
    homes.retarget(members(&[1, 5]), secs(600), secs(100));
    assert_eq!(homes.next_deadline(), Some(secs(600)));
    homes.retarget(members(&[1, 5]), Duration::ZERO, secs(200));
    assert_eq!(homes.settling(), 0);
}

#[test]
fn the_order_of_the_file_does_not_matter() {
    let mut homes = Homes::new(members(&[1, 2, 3]), SETTLE, SLOTS);
    let before = names(&homes);
    let mut turned = members(&[1, 2, 3]);
    turned.rotate_left(1);
    homes.retarget(turned, SETTLE, secs(0));
    assert_eq!((homes.settling(), names(&homes)), (0, before));
}

#[test]
fn a_change_while_the_daemon_was_away_settles_from_its_return() {
    let homes = Homes::new(members(&[1, 1]), SETTLE, SLOTS);
    let saved = homes.saved(secs(5), UNIX);
    assert!(saved.settling.is_empty());
    let back = Homes::restore(&saved, members(&[1, 1, 1]), SETTLE, (secs(1), UNIX), SLOTS);
    assert_eq!(names(&back), names(&homes));
    assert_eq!(back.next_deadline(), Some(secs(3_601)));
}

#[test]
fn what_was_due_while_the_daemon_was_away_happens_at_its_return() {
    let mut homes = Homes::new(members(&[1, 1]), SETTLE, SLOTS);
    homes.retarget(members(&[1, 5]), SETTLE, secs(0));
    let saved = homes.saved(secs(0), UNIX);
    let later = UNIX + SETTLE;
    let back = Homes::restore(&saved, members(&[1, 5]), SETTLE, (secs(9), later), SLOTS);
    assert_eq!(back.home(), back.target());
    let sooner = UNIX + secs(3_590);
    let back = Homes::restore(&saved, members(&[1, 5]), SETTLE, (secs(9), sooner), SLOTS);
    assert_eq!(back.next_deadline(), Some(secs(19)));
    assert_eq!(back.home(), homes.home());
}

#[test]
fn a_clock_that_jumped_back_makes_no_settle_longer() {
    let mut homes = Homes::new(members(&[1, 1]), SETTLE, SLOTS);
    homes.retarget(members(&[1, 5]), SETTLE, secs(0));
    let saved = homes.saved(secs(0), UNIX);
    let back = Homes::restore(
        &saved,
        members(&[1, 5]),
        SETTLE,
        (secs(9), Duration::ZERO),
        SLOTS,
    );
    assert_eq!(back.next_deadline(), Some(secs(9) + SETTLE));
}

#[test]
fn nonsense_in_the_state_file_does_no_harm() {
    let saved = Saved {
        members: members(&[1, 1]),
        settling: vec![
            Waiting {
                until: u64::MAX,
                home: "nobody".into(),
                slots: vec![1],
            },
            Waiting {
                until: u64::MAX,
                home: "p0".into(),
                slots: vec![2, 2, SLOTS, u32::MAX],
            },
        ],
    };
    let homes = Homes::restore(&saved, members(&[1, 1]), SETTLE, (secs(0), UNIX), SLOTS);
    assert!(homes.settling() <= 1 && homes.settling() == differing(&homes));
    assert!(homes.next_deadline().is_none_or(|d| d <= SETTLE));
    assert!(serde_json::from_str::<Saved>(r#"{"members":[],"settling":[],"x":1}"#).is_err());
    let nothing = Homes::restore(
        &Saved::default(),
        members(&[1]),
        SETTLE,
        (secs(0), UNIX),
        SLOTS,
    );
    assert_eq!(nothing.settling(), 0);
}

/// What the column must be, by the words of the definition, slot by slot.
struct Model {
    home: Vec<String>,
    since: Vec<Option<Now>>,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Any history of configurations, times and restarts gives what the definition says.
    #[test]
    fn homes_are_as_defined(
        first in proptest::collection::vec(1u16..4, 2..5),
        steps in proptest::collection::vec(
            (proptest::collection::vec(0u16..4, 5), 0u64..2_000, any::<bool>()), 1..12),
    ) {
        let mut homes = Homes::new(members(&first), SETTLE, SLOTS);
        let mut model = Model { home: names(&homes), since: vec![None; SLOTS as usize] };
        let mut now = secs(0);
        for (weights, gap, restart) in steps {
            now += secs(gap);
            homes.tick(now);
            let follow = |model: &mut Model, homes: &Homes| {
                for slot in 0..SLOTS as usize {
                    let target = &homes.members()[usize::from(homes.target()[slot])].name;
                    let due = model.since[slot].is_some_and(|since| since + SETTLE <= now);
                    let gone = !homes.members().iter().any(|m| m.name == model.home[slot]);
                    if due || gone {
                        model.home[slot].clone_from(target);
                    }
                    model.since[slot] = (model.home[slot] != *target)
                        .then(|| model.since[slot].unwrap_or(now));
                }
            };
            follow(&mut model, &homes);
            prop_assert_eq!(&names(&homes), &model.home);
            let wanted = members(&weights);
            if wanted.is_empty() {
                continue;
            }
            if restart {
                // Time zero of the monotonic clock is another one after a reboot, but here the same.
                let text = serde_json::to_string(&homes.saved(now, UNIX + now)).unwrap();
                let saved: Saved = serde_json::from_str(&text).unwrap();
                homes = Homes::restore(&saved, wanted, SETTLE, (now, UNIX + now), SLOTS);
            } else {
                homes.retarget(wanted, SETTLE, now);
            }
            follow(&mut model, &homes);
            prop_assert_eq!(&names(&homes), &model.home);
            prop_assert_eq!(homes.settling(), differing(&homes));
            prop_assert_eq!(homes.next_deadline().is_some(), homes.settling() > 0);
            prop_assert!(homes.next_deadline().is_none_or(|d| d <= now + SETTLE));
        }
    }
}
