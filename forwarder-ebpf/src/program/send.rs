//! The stages that send a message to its backend, one for each forwarding mode.

use crate::{
    count::Exit,
    maps::{BACKENDS, GLOBALS, INTERFACES, SCRATCH, SERVICES, Scratch},
    receive::origin,
    rewrite::{self, Side},
    source::Packet,
};
use aya_ebpf::{
    bindings::xdp_action::{XDP_PASS, XDP_TX},
    programs::XdpContext,
};
use sip_forwarder_ebpf::{
    abi::{Backend, BackendId, Endpoint, Globals},
    packet::Flow,
};

/// Sends this CPU's message to its backend in mode `nat`: the destination becomes the backend.
#[inline(always)]
pub(crate) fn nat(ctx: &XdpContext) -> Exit {
    let (Some(globals), Some(scratch)) = (GLOBALS.get(0), SCRATCH.get_ptr(0)) else {
        return Exit::fault();
    };
    // SAFETY: a per-CPU value; one packet at a time is on a CPU.
    let Scratch {
        flow, to, verdict, ..
    } = unsafe { &*scratch };
    let Some(backend) = BACKENDS.get(u32::from(to.0)) else {
        return Exit::fault();
    };
    let frame = Packet::new(ctx, globals.zero);
    let action = leave_by(ctx, backend.interface);
    if action == XDP_PASS || rewrite_for_backend(&frame, flow, backend, globals).is_none() {
        return Exit::fault();
    }
    Exit::between(*verdict, action, *to, BackendId::NONE)
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
pub(crate) fn leave_by(ctx: &XdpContext, interface: u32) -> u32 {
    if interface as usize == ctx.ingress_ifindex() {
        return XDP_TX;
    }
    match INTERFACES.redirect(interface, u64::from(XDP_PASS)) {
        Ok(action) | Err(action) => action,
    }
}
