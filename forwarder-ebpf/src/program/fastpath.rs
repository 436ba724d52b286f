//! What happens to a packet: to a service, from a backend, or none of our business.

use crate::{
    count::Exit,
    lookups::{Chosen, Lookups, blurred, blurred_number, count, seconds},
    maps::{BACKENDS, FRAGMENTS, GLOBALS, INTERFACES, SCRATCH, SERVICES, SOURCES, Scratch, VIPS},
    rewrite::{self, Side},
    route::{self, Asker, Route},
    source::Packet,
};
use aya_ebpf::{
    bindings::xdp_action::{XDP_DROP, XDP_PASS, XDP_TX},
    helpers::generated::{bpf_sk_lookup_udp, bpf_sk_release},
    programs::XdpContext,
};
use core::arch::asm;
use sip_forwarder_ebpf::{
    abi::{
        Backend, BackendFlags, BackendId, BackendRef, Endpoint, Event, FragmentKey, Globals, Key,
        Macs, Service,
    },
    packet::{self, Family, Flow, Part},
    rule::{self, Entry},
    scan::{self, Keys, Scan},
    source::Source,
    verdict::Verdict,
};

/// One packet, from its first byte to its verdict.
#[inline(always)]
pub(crate) fn run(ctx: &XdpContext) -> Exit {
    let (Some(globals), Some(scratch)) = (GLOBALS.get(0), SCRATCH.get_ptr_mut(0)) else {
        return fault();
    };
    // SAFETY: a per-CPU value; one packet at a time is on a CPU.
    let scratch = unsafe { &mut *scratch };
    let why = parse(ctx, &mut scratch.flow, globals);
    if why != READ {
        return pass(why);
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
    let flow = &scratch.flow;
    if flow.without_ports() {
        return without_ports(ctx, frame, flow, globals);
    }
    let (service, from) = if let Some(vip) = vip(&flow.destination, globals) {
        (vip.service, BackendId::NONE)
    } else if let Some(origin) = origin(&flow.source, globals) {
        (origin.service, origin.backend)
    } else {
        return pass(Verdict::IgnoredOther.number());
    };
    let from = blurred(frame, from);
    let Some(service) = SERVICES.get(u32::from(service.0)) else {
        return fault();
    };
    let returning = blurred(frame, from).is_some();
    let returning = frame.blur(usize::from(returning));
    let why = read(frame, scratch, service, globals, returning);
    if from.is_some() {
        return from_backend(ctx, frame, scratch, service, globals, from, why);
    }
    let why = if why == READ {
        let exit = to_service(ctx, frame, scratch, service, globals);
        match exit.left() {
            Some(why) => why,
            None => return exit,
        }
    } else {
        why
    };
    leave_to_slow_path(ctx, &scratch.flow, blurred_number(frame, why))
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
fn origin(source: &Endpoint, globals: &Globals) -> Option<&'static BackendRef> {
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
    let Scratch { flow, lines, scan } = scratch;
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

/// Instead of why a message was not read: it was. No verdict has this number.
const READ: u32 = 0;

#[inline(always)]
const fn pass(verdict: u32) -> Exit {
    Exit::new(verdict, XDP_PASS)
}

#[inline(always)]
const fn fault() -> Exit {
    Exit::new(Verdict::DroppedTableFault.number(), XDP_DROP)
}

/// Leaves a packet to the slow path, if there is one: without a socket on the VIP's port the kernel
/// would answer with an ICMP error, and that would fail the call.
#[inline(never)]
fn leave_to_slow_path(ctx: &XdpContext, flow: &Flow, verdict: u32) -> Exit {
    if socket_listens(ctx, flow) {
        pass(verdict)
    } else {
        Exit::new(Verdict::DroppedNoDaemon.number(), XDP_DROP)
    }
}

/// The layout of `bpf_sock_tuple`: source, destination, both ports. Aligned, since the compiler joins
/// stores and the stack takes no misaligned ones.
#[repr(C, align(8))]
struct SocketTuple([u32; 9]);

/// Is there a UDP socket for this packet?
#[inline(always)]
fn socket_listens(ctx: &XdpContext, flow: &Flow) -> bool {
    let ports =
        u32::from(flow.source.port.to_wire()) | u32::from(flow.destination.port.to_wire()) << 16;
    let (source, destination) = (&flow.source.address, &flow.destination.address);
    let (mut tuple, length) = match flow.family() {
        Family::V4 => (
            SocketTuple([
                source.wire_v4(),
                destination.wire_v4(),
                ports,
                0,
                0,
                0,
                0,
                0,
                0,
            ]),
            12,
        ),
        Family::V6 => {
            let ([a, b, c, d], [e, f, g, h]) = (source.wire_v6(), destination.wire_v6());
            (SocketTuple([a, b, c, d, e, f, g, h, ports]), 36)
        }
    };
    const CURRENT_NAMESPACE: u64 = u64::MAX;
    // SAFETY: the context is the program's own and the tuple is as long as is said; the reference
    // is released at once.
    unsafe {
        let socket = bpf_sk_lookup_udp(
            ctx.ctx.cast(),
            (&raw mut tuple).cast(),
            length,
            CURRENT_NAMESPACE,
            0,
        );
        if socket.is_null() {
            return false;
        }
        bpf_sk_release(socket.cast());
    }
    true
}

/// A packet that shows no ports: a later fragment, or one behind extension headers.
#[inline(never)]
fn without_ports(ctx: &XdpContext, frame: &Packet, flow: &Flow, globals: &Globals) -> Exit {
    // SAFETY: the daemon replaces entries whole.
    if unsafe { VIPS.get(&flow.destination) }.is_some() {
        let later = matches!(flow.part(), Part::Later);
        let verdict = if later {
            Verdict::PassedFragment
        } else {
            Verdict::PassedIpv6Extension
        };
        return pass(verdict.number());
    }
    // SAFETY: as above.
    let Some(origin) = (unsafe { SOURCES.get(&flow.source) }) else {
        return pass(Verdict::IgnoredOther.number());
    };
    // SAFETY: entries are replaced whole.
    match unsafe { FRAGMENTS.get(fragment_key(flow)) } {
        Some(vip) if matches!(flow.part(), Part::Later) => {
            let sender = Sender {
                from: origin.backend,
                verdict: Verdict::ReturnedFragment.number(),
                asker: Asker {
                    service: origin.service,
                    ways: globals.ways,
                },
            };
            send_back(ctx, frame, flow, vip, &sender)
        }
        _ => pass(Verdict::IgnoredFragment.number()),
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

/// A message to a VIP.
#[inline(never)]
fn to_service(
    ctx: &XdpContext,
    frame: &Packet,
    scratch: &Scratch,
    service: &Service,
    globals: &Globals,
) -> Exit {
    let Scratch { flow, scan, .. } = scratch;
    let lookups = Lookups {
        frame,
        service,
        globals,
    };
    let Some(slot) = lookups.slot(scan.call) else {
        return fault();
    };
    // Asked once: dividing by a billion takes long.
    let now = if scan.role.starts() { seconds() } else { 0 };
    let found = match lookups.find(scan, slot, now) {
        Ok(found) => found,
        Err(why) => return Exit::leave(why.number()),
    };
    let decision = Chosen::blurred(&rule::decide(&found), found.entry, frame);
    if !decision.backend.is_some() {
        return Exit::leave(Verdict::PassedNoBackend.number());
    }
    let Some(backend) = BACKENDS.get(u32::from(decision.backend.0)) else {
        return fault();
    };
    if !backend.flags.has(BackendFlags::RESOLVED) {
        return Exit::leave(Verdict::PassedNextHop.number());
    }
    if flow.tags.0 != backend.tags.0 {
        return Exit::leave(Verdict::PassedVlan.number());
    }
    if flow.ip_length > backend.mtu {
        return Exit::leave(Verdict::PassedTooLarge.number());
    }
    lookups.remember(scan, &decision, backend, now);
    let action = leave_by(ctx, backend.interface);
    if action == XDP_PASS || rewrite_for_backend(frame, flow, backend, globals).is_none() {
        return fault();
    }
    Exit::between(decision.verdict, action, decision.backend, BackendId::NONE)
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

/// Makes the packet its backend's.
#[inline(always)]
fn rewrite_for_backend(
    frame: &Packet,
    flow: &Flow,
    backend: &Backend,
    globals: &Globals,
) -> Option<()> {
    rewrite::endpoint(frame, flow, Side::Destination, &backend.endpoint)?;
    if let Some(vip) = spiral_source(flow, globals) {
        rewrite::endpoint(frame, flow, Side::Source, vip)?;
    }
    rewrite::count_hop(frame, flow)?;
    rewrite::macs(frame, backend.macs)
}

/// The VIP that stands for the sender, if the sender is itself a backend: its message spirals
/// through the VIP, and the answer must come back the same way.
#[inline(always)]
fn spiral_source(flow: &Flow, globals: &Globals) -> Option<&'static Endpoint> {
    let origin = origin(&flow.source, globals)?;
    SERVICES
        .get(u32::from(origin.service.0))
        .map(|service| &service.vip)
}

/// The XDP action that sends by `interface`: back where it came from, or by the device map.
/// `XDP_PASS` if that interface cannot be redirected to.
#[inline(always)]
fn leave_by(ctx: &XdpContext, interface: u32) -> u32 {
    if interface as usize == ctx.ingress_ifindex() {
        return XDP_TX;
    }
    match INTERFACES.redirect(interface, u64::from(XDP_PASS)) {
        Ok(action) | Err(action) => action,
    }
}

/// A backend's message to anywhere but a VIP.
#[inline(always)]
fn from_backend(
    ctx: &XdpContext,
    frame: &Packet,
    scratch: &Scratch,
    service: &Service,
    globals: &Globals,
    from: BackendId,
    why: u32,
) -> Exit {
    let Scratch { flow, scan, .. } = scratch;
    let lookups = Lookups {
        frame,
        service,
        globals,
    };
    let verdict = if why == READ {
        remember_request(&lookups, scan, from);
        Verdict::ReturnedRequest
    } else if why == Verdict::ReturnedResponse.number() {
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
        from,
        verdict,
        asker: Asker {
            service: service.id,
            ways: globals.ways,
        },
    };
    send_back(ctx, frame, flow, vip, &sender)
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
        Route::None => return pass(Verdict::IgnoredLocal.number()),
        // Untouched, so that the kernel's "too big" reaches the backend and not the VIP.
        Route::TooLarge if !may_be_fragmented(frame, flow) => {
            return pass(Verdict::IgnoredLocal.number());
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
        return fault();
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
        return fault();
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
