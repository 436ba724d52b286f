//! The single exit: every packet's verdict is counted here and nowhere else.

use crate::maps::{SCRATCH, TRAFFIC, VERDICTS};
use aya_ebpf::{
    bindings::xdp_action::{XDP_DROP, XDP_PASS},
    programs::XdpContext,
};
use sip_forwarder_ebpf::{abi::BackendId, stage::Stage, verdict::Verdict};

/// What becomes of a packet: its verdict, the XDP action, the backend that got it and the backend
/// that sent it. In one register, which is all that a function of its own can return in BPF.
#[derive(Clone, Copy)]
pub(crate) struct Exit(u64);

impl Exit {
    /// No XDP action: the packet is left to the slow path.
    const LEAVE: u32 = 0xff;
    /// No XDP action: the packet goes on to the stage whose number stands for the verdict.
    const NEXT: u32 = 0xfe;

    const ACTION: u32 = 16;
    const TO: u32 = 32;
    const FROM: u32 = 48;

    /// An end that is no backend's traffic: the number of a verdict, and an XDP action.
    #[inline(always)]
    pub(crate) const fn new(verdict: u32, action: u32) -> Self {
        Self::between(verdict, action, BackendId::NONE, BackendId::NONE)
    }

    /// Left to the kernel, counted under the number of a verdict.
    #[inline(always)]
    pub(crate) const fn pass(verdict: u32) -> Self {
        Self::new(verdict, XDP_PASS)
    }

    /// Dropped, because the tables contradict each other.
    #[inline(always)]
    pub(crate) const fn fault() -> Self {
        Self::new(Verdict::DroppedTableFault.number(), XDP_DROP)
    }

    /// What a packet is left to the slow path for, if there is one.
    #[inline(always)]
    pub(crate) const fn leave(verdict: u32) -> Self {
        Self::new(verdict, Self::LEAVE)
    }

    /// No end yet: another stage goes on.
    #[inline(always)]
    pub(crate) const fn next(stage: Stage) -> Self {
        Self::new(stage.index(), Self::NEXT)
    }

    /// Tells whether the packet goes on to this stage.
    #[inline(always)]
    pub(crate) const fn goes_to(self, stage: Stage) -> bool {
        self.action() == Self::NEXT && self.verdict() == stage.index()
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
    const fn is_fault(self) -> bool {
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

/// Ends a packet: frees this CPU's memory, counts the packet and returns the action. Every stage ends
/// with it, or with a tail call to the next.
#[inline(always)]
pub(crate) fn finish(ctx: &XdpContext, exit: Exit) -> u32 {
    if exit.is_fault() {
        aya_log_ebpf::error!(ctx, "a map lacks what another promised; packet dropped");
    }
    if let Some(scratch) = SCRATCH.get_ptr_mut(0) {
        // SAFETY: a per-CPU value, and this packet is the one that made it busy.
        unsafe { (&raw mut (*scratch).busy).write_volatile(0) };
    }
    count(exit)
}

/// Counts a packet that has no part in this CPU's memory, and returns the action.
#[inline(always)]
pub(crate) fn count(exit: Exit) -> u32 {
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
