//! The stage for what backends send: to where it goes, with the VIP as its source.

use crate::{
    count::Exit,
    lookups::{Lookups, blurred_number, count},
    maps::{BACKENDS, FRAGMENTS, GLOBALS, SCRATCH, SERVICES, Scratch},
    receive::READ,
    rewrite::{self, Side},
    route::{self, Asker, Route},
    send::leave_by,
    source::Packet,
};
use aya_ebpf::{bindings::xdp_action::XDP_PASS, programs::XdpContext};
use sip_forwarder_ebpf::{
    abi::{BackendId, Endpoint, Event, FragmentKey, Globals, Macs, Service, ServiceId},
    packet::{Family, Flow, Part},
    rule::{self, Entry},
    scan::Scan,
    source::Source,
    verdict::Verdict,
};

/// Sends this CPU's packet, which a backend sent, on its way.
#[inline(always)]
pub(crate) fn run(ctx: &XdpContext) -> Exit {
    let (Some(globals), Some(scratch)) = (GLOBALS.get(0), SCRATCH.get_ptr(0)) else {
        return Exit::fault();
    };
    // SAFETY: a per-CPU value; one packet at a time is on a CPU.
    let scratch = unsafe { &*scratch };
    let frame = Packet::new(ctx, globals.zero);
    if scratch.flow.without_ports() {
        return later_fragment(ctx, &frame, scratch, globals);
    }
    let Some(service) = SERVICES.get(scratch.service) else {
        return Exit::fault();
    };
    message(ctx, &frame, scratch, service, globals)
}

/// A backend's message to anywhere but a VIP.
#[inline(always)]
fn message(
    ctx: &XdpContext,
    frame: &Packet,
    scratch: &Scratch,
    service: &Service,
    globals: &Globals,
) -> Exit {
    let Scratch {
        flow, scan, from, ..
    } = scratch;
    let lookups = Lookups {
        frame,
        service,
        globals,
    };
    let verdict = if scratch.verdict == READ {
        remember_request(&lookups, scan, *from);
        Verdict::ReturnedRequest
    } else if scratch.verdict == Verdict::ReturnedResponse.number() {
        Verdict::ReturnedResponse
    } else {
        Verdict::ReturnedUnread
    };
    let verdict = blurred_number(frame, verdict.number());
    let vip = &service.vip;
    if matches!(flow.part(), Part::First) {
        remember_fragment(flow, vip);
    }
    let sender = Sender {
        from: *from,
        verdict,
        asker: Asker {
            service: service.id,
            ways: globals.ways,
        },
    };
    send_back(ctx, frame, flow, vip, &sender)
}

/// A later fragment: its source becomes the VIP that its first fragment got.
#[inline(always)]
fn later_fragment(ctx: &XdpContext, frame: &Packet, scratch: &Scratch, globals: &Globals) -> Exit {
    let flow = &scratch.flow;
    // SAFETY: entries are replaced whole.
    match unsafe { FRAGMENTS.get(fragment_key(flow)) } {
        Some(vip) if matches!(flow.part(), Part::Later) => {
            let sender = Sender {
                from: scratch.from,
                verdict: Verdict::ReturnedFragment.number(),
                asker: Asker {
                    service: ServiceId(scratch.service as u16),
                    ways: globals.ways,
                },
            };
            send_back(ctx, frame, flow, vip, &sender)
        }
        _ => Exit::pass(Verdict::IgnoredFragment.number()),
    }
}

/// Writes down the VIP that later fragments of this packet get as their source.
#[inline(never)]
fn remember_fragment(flow: &Flow, vip: &Endpoint) {
    // A full map only costs what is oldest.
    let _ = FRAGMENTS.insert(fragment_key(flow), *vip, 0);
}

#[inline(always)]
fn fragment_key(flow: &Flow) -> FragmentKey {
    FragmentKey {
        source: flow.source.address,
        destination: flow.destination.address,
        id: flow.fragment_id,
    }
}

/// A backend's own request: if the call's home is another, later messages must find this one.
#[inline(never)]
fn remember_request(lookups: &Lookups<'_>, scan: &Scan, from: BackendId) {
    let Some(slot) = lookups.slot(scan.call) else {
        return;
    };
    let (entry, known) = lookups.entry(scan.call);
    if rule::remember_request(scan.role, entry, known, slot, from)
        && let Some(backend) = BACKENDS.get(u32::from(from.0))
    {
        lookups.write_entry(scan.call, from, backend.incarnation);
        if matches!(entry, Entry::Absent) {
            count(Event::AFFINITY_ADDED);
        }
    }
}

/// Who sent a packet that goes back to a client, and the number of the verdict if it gets there.
struct Sender {
    from: BackendId,
    verdict: u32,
    asker: Asker,
}

/// Sends a backend's packet where it goes, with the VIP as its source. A function of its own: it
/// needs much of the stack.
#[inline(never)]
fn send_back(
    ctx: &XdpContext,
    frame: &Packet,
    flow: &Flow,
    vip: &Endpoint,
    sender: &Sender,
) -> Exit {
    let (way, action) = match route::find(ctx, flow, vip, &sender.asker) {
        Route::None => return Exit::pass(Verdict::IgnoredLocal.number()),
        // Untouched, so that the kernel's "too big" reaches the backend and not the VIP.
        Route::TooLarge if !may_be_fragmented(frame, flow) => {
            return Exit::pass(Verdict::IgnoredLocal.number());
        }
        Route::TooLarge => return send_back_by_kernel(frame, flow, vip, sender.from),
        // A way out may need other VLAN tags, or none: the kernel knows.
        _ if !flow.tags.is_empty() => return send_back_by_kernel(frame, flow, vip, sender.from),
        Route::Kernel => return send_back_by_kernel(frame, flow, vip, sender.from),
        Route::Direct(way) => match leave_by(ctx, way.interface) {
            XDP_PASS => return send_back_by_kernel(frame, flow, vip, sender.from),
            action => (way, action),
        },
    };
    if rewrite_for_client(frame, flow, vip, way.macs).is_none() {
        return Exit::fault();
    }
    Exit::between(sender.verdict, action, BackendId::NONE, sender.from)
}

/// May a router fragment this packet? Never in IPv6; in IPv4 unless it says "don't fragment".
#[inline(always)]
fn may_be_fragmented(frame: &Packet, flow: &Flow) -> bool {
    const FLAGS: usize = 6;
    const DONT_FRAGMENT: u8 = 0x40;
    matches!(flow.family(), Family::V4)
        && frame
            .u8_at(flow.ip + FLAGS)
            .is_some_and(|flags| flags & DONT_FRAGMENT == 0)
}

#[inline(always)]
fn rewrite_for_client(frame: &Packet, flow: &Flow, vip: &Endpoint, macs: Macs) -> Option<()> {
    become_vip(frame, flow, vip)?;
    rewrite::count_hop(frame, flow)?;
    rewrite::macs(frame, macs)
}

/// The same, but the kernel routes it.
#[inline(always)]
fn send_back_by_kernel(frame: &Packet, flow: &Flow, vip: &Endpoint, from: BackendId) -> Exit {
    if become_vip(frame, flow, vip).is_none() {
        return Exit::fault();
    }
    let verdict = Verdict::ReturnedByKernel.number();
    Exit::between(verdict, XDP_PASS, BackendId::NONE, from)
}

/// Makes the VIP a packet's source.
#[inline(always)]
fn become_vip(frame: &Packet, flow: &Flow, vip: &Endpoint) -> Option<()> {
    if flow.without_ports() {
        rewrite::address(frame, flow, Side::Source, vip).map(|_| ())
    } else {
        rewrite::endpoint(frame, flow, Side::Source, vip)
    }
}
