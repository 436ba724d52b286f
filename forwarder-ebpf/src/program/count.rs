//! The single exit: every packet's verdict is counted here and nowhere else.

use crate::maps::{TRAFFIC, VERDICTS};
use sip_forwarder_ebpf::abi::BackendId;

/// What becomes of a packet. Every field always has a value: a field left undefined in one variant
/// is an uninitialised register to the verifier.
pub(crate) struct Exit {
    /// Why: the number of a verdict.
    pub(crate) verdict: u32,
    /// The XDP action.
    pub(crate) action: u32,
    /// The backend that got it, or none.
    pub(crate) to: BackendId,
    /// The backend that sent it, or none.
    pub(crate) from: BackendId,
}

impl Exit {
    /// An end that is no backend's traffic.
    #[inline(always)]
    pub(crate) const fn new(verdict: u32, action: u32) -> Self {
        Self {
            verdict,
            action,
            to: BackendId::NONE,
            from: BackendId::NONE,
        }
    }
}

/// Counts and returns the action.
#[inline(always)]
pub(crate) fn finish(exit: Exit) -> u32 {
    if let Some(counter) = VERDICTS.get_ptr_mut(exit.verdict) {
        // SAFETY: a per-CPU value, and the program is not preempted by itself on one CPU.
        unsafe { *counter += 1 };
    }
    if let Some(counter) = TRAFFIC.get_ptr_mut(u32::from(exit.to.0)) {
        // SAFETY: as above. No backend has the number of none, which the map does not hold.
        unsafe { (*counter).to += 1 };
    }
    if let Some(counter) = TRAFFIC.get_ptr_mut(u32::from(exit.from.0)) {
        // SAFETY: as above.
        unsafe { (*counter).from += 1 };
    }
    exit.action
}
