//! The first stage: what a packet is, whom it concerns, and what the scan finds in it.

use crate::{
    count::Exit,
    lookups::{blurred, blurred_number},
    maps::{GLOBALS, SCRATCH, SERVICES, SOURCES, Scratch, VIPS},
    slow_path,
    source::Packet,
};
use aya_ebpf::programs::XdpContext;
use core::arch::asm;
use sip_forwarder_ebpf::{
    abi::{BackendId, BackendRef, Endpoint, Globals, Key, Service},
    packet::{self, Flow, Part},
    scan::{self, Keys},
    source::Source,
    stage::Stage,
    verdict::Verdict,
};

/// Instead of why a message was not read: it was. No verdict has this number.
pub(crate) const READ: u32 = 0;

/// Takes this CPU's memory for a packet. False if another packet has it: then this one interrupted a
/// test run of the program, which the kernel does not shield from packets.
#[inline(always)]
pub(crate) fn take_memory() -> bool {
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else {
        return false;
    };
    // SAFETY: a per-CPU value. Volatile, so that it is set before anything else is written.
    unsafe {
        let busy = &raw mut (*scratch).busy;
        if busy.read_volatile() != 0 {
            return false;
        }
        busy.write_volatile(1);
    }
    true
}

/// Handles a packet from its first byte to the end of the scan.
#[inline(always)]
pub(crate) fn run(ctx: &XdpContext) -> Exit {
    let (Some(globals), Some(scratch)) = (GLOBALS.get(0), SCRATCH.get_ptr_mut(0)) else {
        return Exit::fault();
    };
    // SAFETY: a per-CPU value; one packet at a time is on a CPU.
    let scratch = unsafe { &mut *scratch };
    let why = parse(ctx, &mut scratch.flow, globals);
    if why != READ {
        return Exit::pass(why);
    }
    // A packet made anew: what was checked of it on the way here is one more thing that the verifier
    // would tell ways apart by.
    dispatch(ctx, &Packet::new(ctx, globals.zero), scratch, globals)
}

/// Reads the frame's headers. [`READ`], or the number of the verdict.
#[inline(never)]
fn parse(ctx: &XdpContext, flow: &mut Flow, globals: &Globals) -> u32 {
    let frame = Packet::new(ctx, globals.zero);
    match packet::parse(&frame) {
        Ok(parsed) => {
            *flow = parsed;
            READ
        }
        Err(verdict) => blurred_number(&frame, verdict.number()),
    }
}

/// Makes the compiler forget what it knows of memory.
#[inline(always)]
fn forget() {
    // SAFETY: no effect.
    unsafe { asm!("r0 = r0", out("r0") _) };
}

#[inline(always)]
fn dispatch(ctx: &XdpContext, frame: &Packet, scratch: &mut Scratch, globals: &Globals) -> Exit {
    if scratch.flow.without_ports() {
        return without_ports(scratch);
    }
    let flow = &scratch.flow;
    let (service, from) = if let Some(vip) = vip(&flow.destination, globals) {
        (vip.service, BackendId::NONE)
    } else if let Some(origin) = origin(&flow.source, globals) {
        (origin.service, origin.backend)
    } else {
        return Exit::pass(Verdict::IgnoredOther.number());
    };
    let from = blurred(frame, from);
    let Some(entry) = SERVICES.get(u32::from(service.0)) else {
        return Exit::fault();
    };
    scratch.service = u32::from(service.0);
    scratch.from = from;
    let returning = blurred(frame, from).is_some();
    let returning = frame.blur(usize::from(returning));
    let why = read(frame, scratch, entry, globals, returning);
    if from.is_some() {
        scratch.verdict = why;
        return Exit::next(Stage::Return);
    }
    if why == READ {
        return Exit::next(Stage::Place);
    }
    slow_path::leave(ctx, blurred_number(frame, why))
}

/// Handles a packet that shows no ports: a later fragment, or one behind extension headers.
#[inline(never)]
fn without_ports(scratch: &mut Scratch) -> Exit {
    let flow = &scratch.flow;
    // SAFETY: the daemon replaces entries whole.
    if unsafe { VIPS.get(&flow.destination) }.is_some() {
        let later = matches!(flow.part(), Part::Later);
        let verdict = if later {
            Verdict::PassedFragment
        } else {
            Verdict::PassedIpv6Extension
        };
        return Exit::pass(verdict.number());
    }
    // SAFETY: as above.
    let Some(origin) = (unsafe { SOURCES.get(&flow.source) }) else {
        return Exit::pass(Verdict::IgnoredOther.number());
    };
    scratch.service = u32::from(origin.service.0);
    scratch.from = origin.backend;
    Exit::next(Stage::Return)
}

/// The service of a VIP and port. Most packets that are not for it are not looked for.
#[inline(always)]
fn vip(destination: &Endpoint, globals: &Globals) -> Option<&'static BackendRef> {
    if !globals.vips.may_hold(&destination.address) {
        return None;
    }
    // SAFETY: the daemon replaces entries whole; a reader sees the old or the new one.
    unsafe { VIPS.get(destination) }
}

/// The backend with this address and port. Most clients are not looked for.
#[inline(always)]
pub(crate) fn origin(source: &Endpoint, globals: &Globals) -> Option<&'static BackendRef> {
    if !globals.sources.may_hold(&source.address) {
        return None;
    }
    // SAFETY: the daemon replaces entries whole.
    unsafe { SOURCES.get(source) }
}

/// Reads a message to a service, or of one of its backends (`returning`), into `scratch.scan`. Both
/// in one place: the scan is most of the program. [`READ`], or the number of the verdict.
///
/// This function and some below stand for themselves: each has its own registers and stack, and what
/// the verifier knows of their insides does not outlast them.
#[inline(never)]
fn read(
    frame: &Packet,
    scratch: &mut Scratch,
    service: &Service,
    globals: &Globals,
    returning: usize,
) -> u32 {
    let Scratch {
        flow, lines, scan, ..
    } = scratch;
    let payload = frame.from(flow.payload());
    let shape = if frame.blur(returning) != 0 {
        check_returning(&payload)
    } else {
        check_shape(flow)
    };
    forget();
    // What a backend starts is not placed by any key; it need only be known as a call.
    // A mask and not a branch, behind which everything would be verified twice.
    let counts = (returning as u8).wrapping_sub(1);
    let keys = Keys {
        hash_key: globals.hash_key,
        key: Key(service.key.0 & counts),
        register_key: Key(service.register_key.0 & counts),
    };
    match shape.and_then(|()| scan::scan(&payload, &keys, lines)) {
        Ok(found) => {
            *scan = found;
            READ
        }
        Err(verdict) => blurred_number(frame, verdict.number()),
    }
}

/// Does the fast path take packets of this shape?
#[inline(always)]
fn check_shape(flow: &Flow) -> Result<(), Verdict> {
    if !matches!(flow.part(), Part::Whole) {
        Err(Verdict::PassedFragment)
    } else if flow.options() {
        Err(Verdict::PassedIpOptions)
    } else if !flow.ends_frame() {
        Err(Verdict::PassedTrailingBytes)
    } else if flow.time_to_live <= 1 {
        Err(Verdict::PassedTimeToLive)
    } else {
        Ok(())
    }
}

/// Is a backend's message worth reading? A response is not: it goes where the request came from.
#[inline(always)]
fn check_returning(payload: &Packet) -> Result<(), Verdict> {
    if payload.u64_at(0) == Some(u64::from_le_bytes(*b"SIP/2.0 ")) {
        Err(Verdict::ReturnedResponse)
    } else {
        Ok(())
    }
}
