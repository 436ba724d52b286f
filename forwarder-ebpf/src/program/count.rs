//! The single exit: every packet's verdict is counted here and nowhere else.

use crate::maps::{TRAFFIC, VERDICTS};
use sip_forwarder_ebpf::{abi::BackendId, verdict::Verdict};

/// What becomes of a packet: its verdict, the XDP action, the backend that got it and the backend
/// that sent it. In one register, which is all that a function of its own can return in BPF.
#[derive(Clone, Copy)]
pub(crate) struct Exit(u64);

impl Exit {
    /// No XDP action.
    const LEAVE: u32 = 0xff;

    const ACTION: u32 = 16;
    const TO: u32 = 32;
    const FROM: u32 = 48;

    /// An end that is no backend's traffic: the number of a verdict, and an XDP action.
    #[inline(always)]
    pub(crate) const fn new(verdict: u32, action: u32) -> Self {
        Self::between(verdict, action, BackendId::NONE, BackendId::NONE)
    }

    /// What a packet is left to the slow path for, if there is one.
    #[inline(always)]
    pub(crate) const fn leave(verdict: u32) -> Self {
        Self::new(verdict, Self::LEAVE)
    }

    /// The number of the verdict, if the packet is left to the slow path.
    #[inline(always)]
    pub(crate) const fn left(self) -> Option<u32> {
        if self.action() == Self::LEAVE {
            Some(self.verdict())
        } else {
            None
        }
    }

    /// Did the tables contradict each other?
    #[inline(always)]
    pub(crate) const fn is_fault(self) -> bool {
        self.verdict() == Verdict::DroppedTableFault.number()
    }

    #[inline(always)]
    const fn verdict(self) -> u32 {
        self.0 as u32 & 0xffff
    }

    #[inline(always)]
    const fn action(self) -> u32 {
        (self.0 >> Self::ACTION) as u32 & 0xffff
    }

    /// The same for a packet given to one backend, or sent by one.
    #[inline(always)]
    pub(crate) const fn between(verdict: u32, action: u32, to: BackendId, from: BackendId) -> Self {
        Self(
            verdict as u64
                | (action as u64) << Self::ACTION
                | (to.0 as u64) << Self::TO
                | (from.0 as u64) << Self::FROM,
        )
    }
}

/// Counts and returns the action.
#[inline(always)]
pub(crate) fn finish(exit: Exit) -> u32 {
    if let Some(counter) = VERDICTS.get_ptr_mut(exit.verdict()) {
        // SAFETY: a per-CPU value, and the program is not preempted by itself on one CPU.
        unsafe { *counter += 1 };
    }
    if let Some(counter) = TRAFFIC.get_ptr_mut((exit.0 >> Exit::TO) as u32 & 0xffff) {
        // SAFETY: as above. No backend has the number of none, which the map does not hold.
        unsafe { (*counter).to += 1 };
    }
    if let Some(counter) = TRAFFIC.get_ptr_mut((exit.0 >> Exit::FROM) as u32) {
        // SAFETY: as above.
        unsafe { (*counter).from += 1 };
    }
    exit.action()
}
