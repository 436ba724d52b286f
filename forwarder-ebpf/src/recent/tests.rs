use core::cell::Cell;

use super::*;
use crate::abi::RECENT_SECONDS;
use proptest::prelude::*;

/// A line of one thread.
#[derive(Default)]
struct Line([Cell<u64>; 8]);

impl Words for Line {
    fn load(&self, index: usize) -> u64 {
        self.0[index].get()
    }

    fn store(&self, index: usize, word: u64) {
        self.0[index].set(word);
    }

    fn exchange(&self, index: usize, expected: u64, new: u64) -> u64 {
        let was = self.0[index].get();
        if was == expected {
            self.0[index].set(new);
        }
        was
    }
}

const A: BackendId = BackendId(3);
const B: BackendId = BackendId(4);

fn request(fingerprint: u32, now: u32) -> Request {
    Request { fingerprint, now }
}

fn add(line: &Line, fingerprint: u32, now: u32, backend: BackendId) -> Claim {
    claim(line, request(fingerprint, now), backend, BackendId::NONE, 1)
}

#[test]
fn a_repeated_request_follows_the_first_for_32_seconds_from_the_first() {
    let line = Line::default();
    assert_eq!(find(&line, request(7, 100)), BackendId::NONE);
    assert_eq!(add(&line, 7, 100, A).backend, A);
    for later in [100, 110, 120, 132] {
        assert_eq!(find(&line, request(7, later)), A);
        // Repeating it neither moves nor renews it.
        assert_eq!(add(&line, 7, later, B).backend, A);
    }
    assert_eq!(find(&line, request(7, 133)), BackendId::NONE);
    assert_eq!(
        add(&line, 7, 133, B),
        Claim {
            backend: B,
            evicted: false
        }
    );
    assert_eq!(find(&line, request(7, 165)), B);
}

/// Between a look at the clock and a look at the table another CPU may have placed the request, in
/// the next second.
#[test]
fn an_entry_of_the_second_to_come_counts() {
    let line = Line::default();
    add(&line, 7, 101, A);
    assert_eq!(find(&line, request(7, 100)), A);
    assert_eq!(add(&line, 7, 100, B).backend, A);
}

#[test]
fn seconds_wrap() {
    let line = Line::default();
    add(&line, 7, 65_530, A);
    assert_eq!(find(&line, request(7, 65_536 + 26)), A);
    assert_eq!(find(&line, request(7, 65_536 + 27)), BackendId::NONE);
}

#[test]
fn an_empty_line_knows_no_fingerprint_of_zero() {
    assert_eq!(find(&Line::default(), request(0, 0)), BackendId::NONE);
    let line = Line::default();
    assert_eq!(add(&line, 0, 5, A).backend, A);
    assert_eq!(find(&line, request(0, 5)), A);
}

#[test]
fn the_eighth_request_replaces_the_oldest() {
    let line = Line::default();
    for (n, second) in (1..).zip([11, 11, 12, 13, 14, 15, 16]) {
        assert!(!add(&line, n, second, A).evicted);
    }
    assert_eq!(
        add(&line, 8, 20, B),
        Claim {
            backend: B,
            evicted: true
        }
    );
    assert_eq!(find(&line, request(1, 20)), BackendId::NONE);
    assert!(
        [2, 3, 4, 5, 6, 7]
            .iter()
            .all(|&n| find(&line, request(n, 20)) == A)
    );
    // What is too old is nobody's loss.
    assert!(!add(&line, 9, 20 + 33, B).evicted);
}

#[test]
fn an_entry_of_a_dead_backend_is_replaced_in_place() {
    let line = Line::default();
    add(&line, 7, 100, A);
    let moved = claim(&line, request(7, 101), B, A, 1);
    assert_eq!(
        moved,
        Claim {
            backend: B,
            evicted: false
        }
    );
    // Who has not seen that yet follows the one who has.
    assert_eq!(claim(&line, request(7, 101), BackendId(9), A, 1).backend, B);
    assert_eq!(find(&line, request(7, 101)), B);
    assert_eq!(line.0.iter().filter(|word| word.get() != 0).count(), 1);
}

#[test]
fn a_lock_is_waited_for_within_bounds_and_taken_from_the_dead() {
    let line = Line::default();
    line.0[LOCK].set(101);
    assert_eq!(add(&line, 7, 100, A), Claim::CONTENDED);
    assert_eq!(
        claim(&line, request(7, 102), A, BackendId::NONE, 4),
        Claim::CONTENDED
    );
    assert_eq!(line.0[LOCK].get(), 101);
    let taken = claim(&line, request(7, 103), A, BackendId::NONE, 4);
    assert_eq!(taken.backend, A);
    assert_eq!(line.0[LOCK].get(), 0);
}

proptest! {
    /// A line is a small memory of the youngest requests, whatever happens to it.
    #[test]
    fn behaves_like_a_list_of_the_seven_youngest(steps in proptest::collection::vec((0u32..12, 0u32..9, 0u16..5), 1..200)) {
        let line = Line::default();
        let mut model: Vec<(u32, u32, BackendId)> = Vec::new();
        let mut now = 1_000;
        for (fingerprint, wait, backend) in steps {
            now += wait;
            let backend = BackendId(backend);
            let known = model.iter().find(|(f, s, _)| *f == fingerprint && now - s <= u32::from(RECENT_SECONDS)).map(|(_, _, b)| *b);
            prop_assert_eq!(find(&line, request(fingerprint, now)), known.unwrap_or(BackendId::NONE));
            let claim = add(&line, fingerprint, now, backend);
            prop_assert_eq!(claim.backend, known.unwrap_or(backend));
            if known.is_none() {
                model.retain(|(f, s, _)| *f != fingerprint && now - s <= u32::from(RECENT_SECONDS));
                let full = model.len() == RECENT_WAYS;
                prop_assert_eq!(claim.evicted, full);
                if full {
                    // Of equally old ones any may go: the model takes the line's word for which.
                    let oldest = model.iter().map(|(_, s, _)| *s).min().unwrap();
                    let gone = model.iter().position(|(f, s, _)| *s == oldest && find(&line, request(*f, now)) == BackendId::NONE);
                    prop_assert!(gone.is_some());
                    model.remove(gone.unwrap());
                }
                model.push((fingerprint, now, backend));
            }
        }
    }
}

/// Every interleaving of two callers: they agree, and neither loses a third's entry.
#[test]
fn two_callers_at_once_agree() {
    use loom::sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    };

    struct Shared([AtomicU64; 8]);
    impl Words for Shared {
        fn load(&self, index: usize) -> u64 {
            self.0[index].load(Ordering::Acquire)
        }
        fn store(&self, index: usize, word: u64) {
            self.0[index].store(word, Ordering::Release);
        }
        fn exchange(&self, index: usize, expected: u64, new: u64) -> u64 {
            self.0[index]
                .compare_exchange(expected, new, Ordering::AcqRel, Ordering::Acquire)
                .unwrap_or_else(|was| was)
        }
    }

    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(|| {
        let line = Arc::new(Shared(core::array::from_fn(|_| AtomicU64::new(0))));
        line.store(FIRST, Recent::new(1, 100, A).0);
        let other = Arc::clone(&line);
        let there = loom::thread::spawn(move || {
            claim(&*other, request(7, 101), B, BackendId::NONE, 2).backend
        });
        let here = claim(&*line, request(7, 101), A, BackendId::NONE, 2).backend;
        let there = there.join().unwrap();
        // Who could not have the lock asks again, as the workers do.
        let agreed = find(&*line, request(7, 101));
        assert!(agreed == A || agreed == B);
        assert!([here, there].iter().all(|b| *b == agreed || !b.is_some()));
        assert_eq!(find(&*line, request(1, 101)), A);
        assert_eq!(line.load(LOCK), 0);
    });
}
