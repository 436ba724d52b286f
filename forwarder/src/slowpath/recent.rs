//! The recent table as the workers use it: the same lines and the same code as the XDP program's
//! ([`sip_forwarder_ebpf::recent`]), over atomic words of memory.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

use sip_forwarder_ebpf::{
    abi::{BackendId, RecentLine},
    recent::{self, Claim, Request, Words},
};

use super::seconds;
use crate::mapped::Shared;

/// How often a worker tries to take a line's lock before it lets other threads run.
const TRIES: u32 = 64;

/// A line of the recent table, in this process' memory or mapped from the kernel's.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct Line([AtomicU64; size_of::<RecentLine>() / 8]);

// SAFETY: a cache line of atomic words.
unsafe impl Shared for Line {}

impl Words for Line {
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

impl Line {
    /// Returns the backend that a request with this fingerprint went to lately, or none.
    #[must_use]
    pub fn find(&self, fingerprint: u32) -> BackendId {
        recent::find(self, request(fingerprint))
    }

    /// Adds an entry, or returns that of another caller who was first ([`recent::claim`]). Waits for
    /// whoever has the lock: for a packet in the kernel nanoseconds; for another worker that was
    /// interrupted a moment; for one that died with it three seconds, after which it counts as free.
    #[must_use]
    pub fn claim(&self, fingerprint: u32, backend: BackendId, unfit: BackendId) -> Claim {
        loop {
            let claim = recent::claim(self, request(fingerprint), backend, unfit, TRIES);
            if claim.backend.is_some() {
                return claim;
            }
            thread::yield_now();
        }
    }
}

fn request(fingerprint: u32) -> Request {
    Request {
        fingerprint,
        now: seconds(),
    }
}
