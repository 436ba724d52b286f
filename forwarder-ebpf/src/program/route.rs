//! The way back to clients: the kernel's own routing table, asked for each packet.

use aya_ebpf::{
    bindings::{
        BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_SUCCESS,
        bpf_fib_lookup as Params,
    },
    helpers::generated::bpf_fib_lookup,
    programs::XdpContext,
};
use sip_forwarder_ebpf::{
    abi::{Endpoint, Macs},
    packet::{Family, Flow},
};

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const UDP: u8 = 17;

/// Where a packet goes.
pub(crate) enum Route {
    /// By this interface to this next hop.
    Direct(Way),
    /// There is a way, but the kernel must take it: the packet needs fragmenting, or the next hop
    /// resolving.
    Kernel,
    /// Here, or nowhere.
    None,
}

/// An interface and the MAC addresses of a frame sent by it.
pub(crate) struct Way {
    pub(crate) interface: u32,
    pub(crate) macs: Macs,
}

const _: () = assert!(
    core::mem::offset_of!(Params, smac) % 4 == 0
        && core::mem::offset_of!(Params, dmac) + 6 == size_of::<Params>()
);

/// Aligned, so that it is zeroed by words.
#[repr(C, align(8))]
struct Aligned(Params);

/// Looks up the way of a packet to its destination, the VIP being its source.
#[inline(always)]
pub(crate) fn find(ctx: &XdpContext, flow: &Flow, vip: &Endpoint) -> Route {
    if flow.time_to_live <= 1 {
        return Route::None;
    }
    // SAFETY: a struct of integers and unions of integers; zero is valid for all.
    let mut aligned: Aligned = unsafe { core::mem::zeroed() };
    let params = &mut aligned.0;
    params.l4_protocol = UDP;
    params.sport = vip.port.to_wire();
    params.dport = flow.destination.port.to_wire();
    params.ifindex = ctx.ingress_ifindex() as u32;
    params.__bindgen_anon_1.tot_len = flow.ip_length;
    match flow.family() {
        Family::V4 => {
            params.family = AF_INET;
            params.__bindgen_anon_2.tos = flow.traffic_class;
            params.__bindgen_anon_3.ipv4_src = vip.address.wire_v4();
            params.__bindgen_anon_4.ipv4_dst = flow.destination.address.wire_v4();
        }
        Family::V6 => {
            params.family = AF_INET6;
            params.__bindgen_anon_3.ipv6_src = vip.address.wire_v6();
            params.__bindgen_anon_4.ipv6_dst = flow.destination.address.wire_v6();
        }
    }
    // SAFETY: the context is the program's own, and the length is that of the parameters.
    let found = unsafe {
        bpf_fib_lookup(
            ctx.ctx.cast(),
            &raw mut *params,
            size_of::<Params>() as i32,
            0,
        )
    } as u32;
    match found {
        BPF_FIB_LKUP_RET_SUCCESS => {
            // The source stands before the destination. Read by words: the stack takes no
            // misaligned loads.
            // SAFETY: the twelve bytes of the two addresses end the struct and begin aligned.
            let reversed = Macs(unsafe { (&raw const params.smac).cast::<[u32; 3]>().read() });
            Route::Direct(Way {
                interface: params.ifindex,
                macs: reversed.swapped(),
            })
        }
        BPF_FIB_LKUP_RET_NO_NEIGH | BPF_FIB_LKUP_RET_FRAG_NEEDED => Route::Kernel,
        _ => Route::None,
    }
}
