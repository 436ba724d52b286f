//! Atomic operations on words of maps that the daemon's workers change, too. BPF has them as
//! instructions; `core`'s atomic types lack most of them for this target.

use core::arch::asm;
use sip_forwarder_ebpf::{abi::RecentLine, recent::Words};

/// A line of the recent table.
pub(crate) struct Line {
    words: *mut u64,
    /// 0, as far as only we know ([`Words::blur`]).
    zero: u64,
}

/// Mask that keeps an index within a line.
const WORDS: usize = size_of::<RecentLine>() / 8 - 1;

impl Line {
    /// Returns the words of a map value.
    #[inline(always)]
    pub(crate) const fn of(line: *mut RecentLine, zero: u64) -> Self {
        Self {
            words: line.cast(),
            zero,
        }
    }

    #[inline(always)]
    fn word(&self, index: usize) -> *mut u64 {
        // SAFETY: a map value of eight words.
        unsafe { self.words.add(index & WORDS) }
    }
}

impl Words for Line {
    #[inline(always)]
    fn load(&self, index: usize) -> u64 {
        // SAFETY: an aligned word of a map value; volatile, so that it is loaded once and whole.
        unsafe { self.word(index).read_volatile() }
    }

    #[inline(always)]
    fn store(&self, index: usize, word: u64) {
        // SAFETY: as in `load`.
        unsafe { self.word(index).write_volatile(word) };
    }

    #[inline(always)]
    fn exchange(&self, index: usize, expected: u64, new: u64) -> u64 {
        let was;
        // SAFETY: an aligned word of a map value. The instruction compares with r0 and leaves there
        // what the word was.
        unsafe {
            asm!(
                "r0 = cmpxchg_64({word} + 0, r0, {new})",
                word = in(reg) self.word(index),
                new = in(reg) new,
                inlateout("r0") expected => was,
                options(nostack),
            );
        }
        was
    }

    #[inline(always)]
    fn blur(&self, mut number: u64) -> u64 {
        // SAFETY: adds one register to another; in assembly, so that the compiler moves nothing.
        unsafe {
            asm!("{0} += {1}", inout(reg) number, in(reg) self.zero, options(nomem, nostack))
        };
        number
    }
}

/// Adds to a word and returns what it was.
#[inline(always)]
pub(crate) fn fetch_add(word: *mut u64, mut add: u64) -> u64 {
    // SAFETY: the caller's is an aligned word of a map value.
    unsafe {
        asm!(
            "{add} = atomic_fetch_add((u64 *)({word} + 0), {add})",
            word = in(reg) word,
            add = inout(reg) add,
            options(nostack),
        );
    }
    add
}
