//! The recent table: where the out-of-dialog requests of the last 32 s went, so that a repeated one
//! follows the first.
//!
//! The table is set-associative: a Call-ID belongs to one line, and a line holds [`RECENT_WAYS`]
//! requests. Entries are read without a lock, each as one word. To add one, a caller takes the
//! line's lock and looks once more, because another CPU may have placed the same request meanwhile:
//! then the loser follows the winner. The first second counts; repeating a request does not renew
//! its entry. A full line gives up its oldest entry.
//!
//! The XDP program and the workers run the same code over the same memory, through [`Words`].

use crate::abi::{BackendId, RECENT_WAYS, Recent};

/// Index of the lock among a line's words ([`crate::abi::RecentLine`]).
const LOCK: usize = 0;
/// Index of the first entry.
const FIRST: usize = 1;
/// Seconds after which a lock counts as left behind by a caller that died.
const LOCK_SECONDS: u64 = 2;
/// How often a caller in the kernel tries to take the lock.
pub const KERNEL_TRIES: u32 = 4;

/// The words of one line, with the atomic operations that both sides have.
pub trait Words {
    /// Returns a word.
    fn load(&self, index: usize) -> u64;
    /// Sets an entry while the lock is held; what was stored before is visible before it.
    fn store(&self, index: usize, word: u64);
    /// Sets a word to `new` if it is `expected`. Returns what it was.
    fn exchange(&self, index: usize, expected: u64, new: u64) -> u64;

    /// Returns the same number, of which the verifier knows nothing any more
    /// ([`crate::source::Source::blur`]).
    #[inline(always)]
    fn blur(&self, number: u64) -> u64 {
        number
    }
}

/// One request and the time: what the table is asked about.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// What tells Call-IDs of one line apart ([`crate::hash::Digest::fingerprint`]).
    pub fingerprint: u32,
    /// Seconds of the monotonic clock.
    pub now: u32,
}

/// What became of the wish to add an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The backend of the request's entry from now on: the caller's own, or that of another caller
    /// who came first. [`BackendId::NONE`] if the lock could not be had.
    pub backend: BackendId,
    /// Whether an entry of another request that still counted was replaced.
    pub evicted: bool,
}

impl Claim {
    const CONTENDED: Self = Self {
        backend: BackendId::NONE,
        evicted: false,
    };
}

/// Returns the backend that the request went to, or none if it was not seen within
/// [`crate::abi::RECENT_SECONDS`].
#[inline(always)]
pub fn find<W: Words + ?Sized>(words: &W, request: Request) -> BackendId {
    let mut way = 0;
    while way < RECENT_WAYS {
        let entry = Recent(words.load(FIRST + way));
        if entry.is_of(request.fingerprint) && entry.0 != 0 {
            let entry = Recent(words.blur(entry.0));
            return if entry.left(request.now as u16) != 0 {
                entry.backend()
            } else {
                BackendId::NONE
            };
        }
        way += 1;
    }
    BackendId::NONE
}

/// Adds an entry that sends the request to `backend`, unless another caller was first.
///
/// `unfit` is the backend of an entry that may be replaced although it counts: one that [`find`]
/// returned and that is dead. `tries` bounds the attempts to take the lock.
#[inline(always)]
pub fn claim<W: Words + ?Sized>(
    words: &W,
    request: Request,
    backend: BackendId,
    unfit: BackendId,
    tries: u32,
) -> Claim {
    let held = lock(words, request.now, tries);
    if held == 0 {
        return Claim::CONTENDED;
    }
    let claim = place(words, request, backend, unfit);
    // Not a plain store: a lock that was taken away is another's by now.
    words.exchange(LOCK, held, 0);
    claim
}

/// Takes the line's lock. Returns what it was set to, or 0.
#[inline(always)]
fn lock<W: Words + ?Sized>(words: &W, now: u32, tries: u32) -> u64 {
    let mine = u64::from(now) + 1;
    let mut expected = 0;
    let mut attempt = 0;
    while attempt < tries {
        let was = words.exchange(LOCK, expected, mine);
        if was == expected {
            return mine;
        }
        // A caller that died with the lock cannot give it back.
        expected = if was + LOCK_SECONDS < mine { was } else { 0 };
        attempt += 1;
    }
    0
}

/// Finds the request's entry or makes one, with the lock held.
#[inline(always)]
fn place<W: Words + ?Sized>(
    words: &W,
    request: Request,
    backend: BackendId,
    unfit: BackendId,
) -> Claim {
    let now = request.now as u16;
    let blurred = |number: usize| words.blur(number as u64) as usize;
    let mut own = blurred(0);
    let mut oldest = blurred(FIRST);
    let mut least = words.blur(u64::MAX);
    let mut way = 0;
    while way < RECENT_WAYS {
        let entry = Recent(words.load(FIRST + way));
        if entry.is_of(request.fingerprint) && entry.0 != 0 {
            own = FIRST + way;
        }
        own = blurred(own);
        let left = words.blur(u64::from(entry.left(now)));
        if left < least {
            least = left;
            oldest = FIRST + way;
        }
        (oldest, least) = (blurred(oldest), words.blur(least));
        way += 1;
    }
    let entry = Recent::new(request.fingerprint, now, backend);
    if own != 0 {
        let there = Recent(words.load(own));
        if there.left(now) != 0 && there.backend().0 != unfit.0 {
            return Claim {
                backend: there.backend(),
                evicted: false,
            };
        }
        words.store(own, entry.0);
    } else {
        words.store(oldest, entry.0);
    }
    Claim {
        backend,
        evicted: own == 0 && least != 0,
    }
}

#[cfg(test)]
mod tests;
