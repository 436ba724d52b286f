//! Leaving packets to the workers.

use crate::{count::Exit, maps::SCRATCH};
use aya_ebpf::{
    bindings::xdp_action::XDP_DROP,
    helpers::generated::{bpf_sk_lookup_udp, bpf_sk_release},
    programs::XdpContext,
};
use sip_forwarder_ebpf::{
    packet::{Family, Flow},
    verdict::Verdict,
};

/// Leaves this CPU's packet to the slow path, if there is one: without a socket on the VIP's port the
/// kernel would answer with an ICMP error, and that would fail the call. `verdict` is the number of
/// the reason.
#[inline(never)]
pub(crate) fn leave(ctx: &XdpContext, verdict: u32) -> Exit {
    let Some(scratch) = SCRATCH.get_ptr(0) else {
        return Exit::fault();
    };
    // SAFETY: a per-CPU value; one packet at a time is on a CPU.
    let flow = unsafe { &(*scratch).flow };
    if socket_listens(ctx, flow) {
        Exit::pass(verdict)
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
