//! Counters of the slow path, in the terms of the fast path's.

use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam::utils::CachePadded;
use sip_forwarder_ebpf::{
    abi::{BackendId, Event},
    verdict::{VERDICT_LIMIT, Verdict},
};

/// Messages by verdict and by backend.
pub struct Counters {
    verdicts: Vec<CachePadded<AtomicU64>>,
    backends: Vec<CachePadded<AtomicU64>>,
    events: Vec<CachePadded<AtomicU64>>,
}

impl Counters {
    /// All zero, for so many backends.
    #[must_use]
    pub fn new(backends: u32) -> Self {
        let zeroes = |n: u32| {
            (0..n)
                .map(|_| CachePadded::new(AtomicU64::new(0)))
                .collect()
        };
        Self {
            verdicts: zeroes(VERDICT_LIMIT),
            backends: zeroes(backends),
            events: zeroes(Event::KINDS),
        }
    }

    /// Counts a verdict.
    pub fn verdict(&self, verdict: Verdict) {
        self.verdicts[verdict.number() as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a message given to a backend.
    pub fn to_backend(&self, backend: BackendId) {
        if let Some(counter) = self.backends.get(usize::from(backend.0)) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts something that happened.
    pub fn event(&self, event: Event) {
        if let Some(counter) = self.events.get(event.0 as usize) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How often something happened.
    #[must_use]
    pub fn of_event(&self, event: Event) -> u64 {
        self.events
            .get(event.0 as usize)
            .map_or(0, |counter| counter.load(Ordering::Relaxed))
    }

    /// Messages with this verdict.
    #[must_use]
    pub fn of_verdict(&self, verdict: Verdict) -> u64 {
        self.verdicts[verdict.number() as usize].load(Ordering::Relaxed)
    }

    /// Messages given to this backend.
    #[must_use]
    pub fn of_backend(&self, backend: BackendId) -> u64 {
        self.backends
            .get(usize::from(backend.0))
            .map_or(0, |counter| counter.load(Ordering::Relaxed))
    }
}
