//! Counters of the slow path, in the terms of the fast path's.

use std::{
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
    thread,
};

use crossbeam::utils::CachePadded;
use sip_forwarder_ebpf::{
    abi::{BackendId, Event},
    verdict::{VERDICT_LIMIT, Verdict},
};

/// Messages by verdict and by backend.
///
/// There is a share for each core: threads that count at once then do not wait for each other's cache
/// lines. A counter is the sum of its shares.
pub struct Counters {
    shares: Vec<CachePadded<Share>>,
}

struct Share {
    verdicts: Vec<AtomicU64>,
    backends: Vec<AtomicU64>,
    events: Vec<AtomicU64>,
}

/// A number for each thread that counts.
fn thread_number() -> usize {
    static THREADS: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static NUMBER: usize = THREADS.fetch_add(1, Ordering::Relaxed);
    }
    NUMBER.with(|&number| number)
}

/// So many counters, and room behind them: nothing else is to share their last line.
fn zeroes(count: u32) -> Vec<AtomicU64> {
    const LINE: usize = size_of::<CachePadded<u64>>() / size_of::<u64>();
    let mut counters = Vec::with_capacity(count as usize + LINE);
    counters.resize_with(count as usize, AtomicU64::default);
    counters
}

impl Share {
    fn new(backends: u32) -> Self {
        Self {
            verdicts: zeroes(VERDICT_LIMIT),
            backends: zeroes(backends),
            events: zeroes(Event::KINDS),
        }
    }
}

impl Counters {
    /// All zero, for so many backends.
    #[must_use]
    pub fn new(backends: u32) -> Self {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        Self {
            shares: (0..cores)
                .map(|_| CachePadded::new(Share::new(backends)))
                .collect(),
        }
    }

    /// Counts a verdict.
    pub fn verdict(&self, verdict: Verdict) {
        self.share().verdicts[verdict.number() as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a message given to a backend.
    pub fn to_backend(&self, backend: BackendId) {
        if let Some(counter) = self.share().backends.get(usize::from(backend.0)) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts something that happened.
    pub fn event(&self, event: Event) {
        if let Some(counter) = self.share().events.get(event.0 as usize) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How often something happened.
    #[must_use]
    pub fn of_event(&self, event: Event) -> u64 {
        self.sum(|share| share.events.get(event.0 as usize))
    }

    /// Messages with this verdict.
    #[must_use]
    pub fn of_verdict(&self, verdict: Verdict) -> u64 {
        self.sum(|share| share.verdicts.get(verdict.number() as usize))
    }

    /// Messages given to this backend.
    #[must_use]
    pub fn of_backend(&self, backend: BackendId) -> u64 {
        self.sum(|share| share.backends.get(usize::from(backend.0)))
    }

    /// The share of this thread.
    fn share(&self) -> &Share {
        &self.shares[thread_number() % self.shares.len()]
    }

    fn sum<'a>(&'a self, counter: impl Fn(&'a Share) -> Option<&'a AtomicU64>) -> u64 {
        let counters = self.shares.iter().filter_map(|share| counter(share));
        counters
            .map(|counter| counter.load(Ordering::Relaxed))
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_many_threads_count_is_one_sum() {
        let counters = Counters::new(3);
        let threads = 2 * counters.shares.len() as u64 + 1;
        thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    counters.verdict(Verdict::ForwardedHome);
                    counters.to_backend(BackendId(2));
                    counters.to_backend(BackendId(3));
                    counters.event(Event::AFFINITY_ADDED);
                });
            }
        });
        assert_eq!(counters.of_verdict(Verdict::ForwardedHome), threads);
        assert_eq!(counters.of_verdict(Verdict::DroppedSend), 0);
        assert_eq!(counters.of_backend(BackendId(2)), threads);
        assert_eq!(counters.of_backend(BackendId(3)), 0, "there is none");
        assert_eq!(counters.of_event(Event::AFFINITY_ADDED), threads);
    }
}
