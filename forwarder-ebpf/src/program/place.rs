//! The second stage: where a message to a VIP goes, and what is remembered of it.

use crate::{
    count::Exit,
    lookups::{Chosen, Lookups, seconds},
    maps::{BACKENDS, GLOBALS, SCRATCH, SERVICES, Scratch},
    slow_path,
    source::Packet,
};
use aya_ebpf::programs::XdpContext;
use sip_forwarder_ebpf::{
    abi::{Backend, BackendFlags, Globals, Service},
    packet::Flow,
    rule,
    stage::Stage,
    verdict::Verdict,
};

/// Places this CPU's message.
#[inline(always)]
pub(crate) fn run(ctx: &XdpContext) -> Exit {
    let (Some(globals), Some(scratch)) = (GLOBALS.get(0), SCRATCH.get_ptr_mut(0)) else {
        return Exit::fault();
    };
    // SAFETY: a per-CPU value; one packet at a time is on a CPU.
    let scratch = unsafe { &mut *scratch };
    let Some(service) = SERVICES.get(scratch.service) else {
        return Exit::fault();
    };
    let exit = place(&Packet::new(ctx, globals.zero), scratch, service, globals);
    match exit.left() {
        Some(why) => slow_path::leave(ctx, why),
        None => exit,
    }
}

#[inline(always)]
fn place(frame: &Packet, scratch: &mut Scratch, service: &Service, globals: &Globals) -> Exit {
    let Scratch { flow, scan, .. } = scratch;
    let lookups = Lookups {
        frame,
        service,
        globals,
    };
    let Some(slot) = lookups.slot(scan.call) else {
        return Exit::fault();
    };
    // Asked once: dividing by a billion takes long.
    let now = if scan.role.starts() { seconds() } else { 0 };
    let (found, unfit) = match lookups.find(scan, slot, now) {
        Ok(found) => found,
        Err(why) => return Exit::leave(why.number()),
    };
    let mut decision = Chosen::blurred(&rule::decide(&found), found.entry, frame);
    if !decision.backend.is_some() {
        return Exit::leave(Verdict::PassedNoBackend.number());
    }
    if decision.remember & Chosen::START != 0 {
        let winner = lookups.claim(scan.call, decision.backend, unfit, now);
        if !winner.is_some() {
            return Exit::leave(Verdict::PassedContended.number());
        }
        if winner.0 != decision.backend.0 {
            decision = Chosen::blurred(&rule::follow(&found, winner), found.entry, frame);
        }
    }
    let Some(backend) = BACKENDS.get(u32::from(decision.backend.0)) else {
        return Exit::fault();
    };
    if let Err(why) = check_next_hop(flow, backend) {
        return Exit::leave(why.number());
    }
    lookups.remember(scan, &decision, backend);
    scratch.to = decision.backend;
    scratch.verdict = decision.verdict;
    Exit::next(Stage::SendNat)
}

/// Tells why the fast path cannot send the packet to this backend.
#[inline(always)]
fn check_next_hop(flow: &Flow, backend: &Backend) -> Result<(), Verdict> {
    if !backend.flags.has(BackendFlags::RESOLVED) {
        Err(Verdict::PassedNextHop)
    } else if flow.tags.0 != backend.tags.0 {
        Err(Verdict::PassedVlan)
    } else if flow.ip_length > backend.mtu {
        Err(Verdict::PassedTooLarge)
    } else {
        Ok(())
    }
}
