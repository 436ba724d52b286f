//! The way back to clients: the kernel's own routing table, asked for each packet.

use crate::source::opaque;
use aya_ebpf::{
    bindings::{
        BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_SUCCESS,
        bpf_fib_lookup as Params,
    },
    helpers::generated::bpf_fib_lookup,
    programs::XdpContext,
};
use core::mem::offset_of;
use sip_forwarder_ebpf::{
    abi::{Endpoint, Macs},
    packet::{Family, Flow},
};

const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;
const UDP: u32 = 17;

/// Where a packet goes.
pub(crate) enum Route {
    /// By this interface to this next hop.
    Direct(Way),
    /// There is a way, but the kernel must take it: the packet needs fragmenting, or the next hop
    /// resolving.
    Kernel,
    /// There is a way, but only for smaller packets.
    TooLarge,
    /// Here, or nowhere.
    None,
}

/// An interface and the MAC addresses of a frame sent by it.
pub(crate) struct Way {
    pub(crate) interface: u32,
    pub(crate) macs: Macs,
}

/// `bpf_fib_lookup`'s parameters as words, written one by one: zeroing or copying the struct would be
/// a call to a loop over bytes.
#[repr(C, align(8))]
struct Words([u32; size_of::<Params>() / 4]);

const _: () = assert!(
    offset_of!(Params, l4_protocol) == 1
        && offset_of!(Params, sport) == 2
        && offset_of!(Params, dport) == 4
        && offset_of!(Params, __bindgen_anon_1) == 6
        && offset_of!(Params, ifindex) == 8
        && offset_of!(Params, __bindgen_anon_2) == 12
        && offset_of!(Params, __bindgen_anon_3) == 16
        && offset_of!(Params, __bindgen_anon_4) == 32
        && offset_of!(Params, smac) == 52
        && offset_of!(Params, dmac) + 6 == size_of::<Params>()
);

/// Looks up the way of a packet to its destination, the VIP being its source.
#[inline(always)]
pub(crate) fn find(ctx: &XdpContext, flow: &Flow, vip: &Endpoint) -> Route {
    if flow.time_to_live <= 1 {
        return Route::None;
    }
    let (family, traffic_class, [a, b, c, d], [e, f, g, h]) = match flow.family() {
        Family::V4 => (
            AF_INET,
            u32::from(flow.traffic_class),
            [vip.address.wire_v4(), 0, 0, 0],
            [flow.destination.address.wire_v4(), 0, 0, 0],
        ),
        Family::V6 => (
            AF_INET6,
            0,
            vip.address.wire_v6(),
            flow.destination.address.wire_v6(),
        ),
    };
    // Opaque, else these are zeroed by a call.
    let zero = opaque(0) as u32;
    let mut params = Words([
        family | UDP << 8 | u32::from(vip.port.to_wire()) << 16,
        u32::from(flow.destination.port.to_wire()) | u32::from(flow.ip_length) << 16,
        ctx.ingress_ifindex() as u32,
        traffic_class,
        a,
        b,
        c,
        d,
        e,
        f,
        g,
        h,
        0,
        zero,
        zero,
        zero,
    ]);
    // SAFETY: the context is the program's own, and the length is that of the parameters.
    let found = unsafe {
        bpf_fib_lookup(
            ctx.ctx.cast(),
            (&raw mut params).cast(),
            size_of::<Params>() as i32,
            0,
        )
    } as u32;
    let Words(params) = params;
    match found {
        BPF_FIB_LKUP_RET_SUCCESS => {
            // The source stands before the destination.
            let reversed = Macs([params[13], params[14], params[15]]);
            Route::Direct(Way {
                interface: params[2],
                macs: reversed.swapped(),
            })
        }
        BPF_FIB_LKUP_RET_NO_NEIGH => Route::Kernel,
        BPF_FIB_LKUP_RET_FRAG_NEEDED => Route::TooLarge,
        _ => Route::None,
    }
}
