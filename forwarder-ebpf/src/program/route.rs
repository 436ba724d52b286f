//! The way back to clients: the kernel's own routing table, and what it said lately.
//!
//! Asking costs half of what all the rest of the way back does, and for IPv6 more than that. So each CPU keeps
//! what the kernel answered, for everything it was asked by: whatever a routing policy may look at
//! besides interface, addresses, ports and type of service is not in the question either. An answer
//! counts until the daemon says that routes, neighbours or links changed (`Globals::ways`), and
//! without a daemon for [`KEEP`] at most. Only ways that lead straight out are kept, with their MTU;
//! everything else is the kernel's answer for the packet at hand.

use crate::{maps::WAYS, source::opaque};
use aya_ebpf::{
    bindings::{
        BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_SUCCESS,
        bpf_fib_lookup as Params,
    },
    helpers::generated::{bpf_fib_lookup, bpf_ktime_get_coarse_ns},
    programs::XdpContext,
};
use core::mem::offset_of;
use sip_forwarder_ebpf::{
    abi::{Endpoint, Macs, ServiceId},
    packet::{Family, Flow},
};

const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;
const UDP: u32 = 17;

/// For how long an answer counts, in nanoseconds. A message that goes astray meanwhile is sent again after
/// half a second, and after one and a half (T1 of RFC 3261 section 17).
const KEEP: u64 = 1_000_000_000;

/// Answers that each CPU keeps.
pub(crate) const WAYS_KEPT: u32 = 1 << WAYS_BITS;
const WAYS_BITS: u32 = 12;

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

/// An interface, the MAC addresses of a frame sent by it, and the largest packet it carries.
#[derive(Clone, Copy)]
pub(crate) struct Way {
    pub(crate) interface: u32,
    pub(crate) macs: Macs,
    mtu: u32,
}

/// Everything that the kernel's answer depends on, and the generation of ways that it is of.
#[derive(Clone, Copy)]
struct Question([u64; 4]);

impl Question {
    #[inline(always)]
    fn new(ctx: &XdpContext, flow: &Flow, asker: &Asker) -> Self {
        let [a, b, c, d] = flow.destination.address.wire_v6();
        let traffic_class = match flow.family() {
            Family::V4 => flow.traffic_class,
            Family::V6 => 0,
        };
        let ports = u32::from(flow.destination.port.to_wire()) | u32::from(asker.service.0) << 16;
        Self([
            u64::from(a) | u64::from(b) << 32,
            u64::from(c) | u64::from(d) << 32,
            u64::from(ports) | (ctx.ingress_ifindex() as u64) << 32,
            u64::from(traffic_class) | u64::from(asker.ways) << 32,
        ])
    }

    #[inline(always)]
    fn is(&self, other: &Self) -> bool {
        let ([a, b, c, d], [e, f, g, h]) = (self.0, other.0);
        (a ^ e) | (b ^ f) | (c ^ g) | (d ^ h) == 0
    }

    /// Its place. No secret is in it: whoever makes clients collide is asked for as if nothing were
    /// kept.
    #[inline(always)]
    fn index(&self) -> u32 {
        const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
        let [a, b, c, _] = self.0;
        let mixed = (a.wrapping_mul(ODD) ^ b ^ c.rotate_left(16)).wrapping_mul(ODD);
        ((mixed ^ mixed << 32).wrapping_mul(ODD) >> (64 - WAYS_BITS)) as u32
    }
}

/// A way that the kernel told: one cache line.
#[derive(Clone, Copy)]
pub(crate) struct Known {
    question: Question,
    /// When it was told, in nanoseconds of the coarse clock.
    told: u64,
    way: Way,
}

const _: () = assert!(size_of::<Known>() == 64);

impl Known {
    /// Is this the answer, for a packet of this length? The interface of an element never written is 0,
    /// and so no answer.
    #[inline(always)]
    fn answers(&self, question: &Question, now: u64, length: u16) -> bool {
        self.question.is(question)
            && now.wrapping_sub(self.told) < KEEP
            && u32::from(length) <= self.way.mtu
    }
}

/// For whom the kernel is asked.
pub(crate) struct Asker {
    /// Whose VIP is the packet's source.
    pub(crate) service: ServiceId,
    /// `Globals::ways`, read before the kernel is asked.
    pub(crate) ways: u32,
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

/// The way of a packet to its destination, the VIP being its source.
#[inline(always)]
pub(crate) fn find(ctx: &XdpContext, flow: &Flow, vip: &Endpoint, asker: &Asker) -> Route {
    if flow.time_to_live <= 1 {
        return Route::None;
    }
    // Later fragments do not show what their first was asked by.
    if flow.without_ports() {
        return ask(ctx, flow, vip);
    }
    let question = Question::new(ctx, flow, asker);
    let Some(place) = WAYS.get_ptr_mut(question.index()) else {
        return Route::None;
    };
    // SAFETY: a map value of this CPU alone, on which no other packet is handled meanwhile.
    let known = unsafe { &mut *place };
    // SAFETY: takes nothing and returns a number.
    let now = unsafe { bpf_ktime_get_coarse_ns() };
    if known.answers(&question, now, flow.ip_length) {
        return Route::Direct(known.way);
    }
    let route = ask(ctx, flow, vip);
    if let Route::Direct(way) = &route {
        known.question = question;
        known.told = now;
        known.way = *way;
    }
    route
}

/// Asks the kernel.
#[inline(always)]
fn ask(ctx: &XdpContext, flow: &Flow, vip: &Endpoint) -> Route {
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
                // It stands where the packet's length was.
                mtu: params[1] >> 16,
            })
        }
        BPF_FIB_LKUP_RET_NO_NEIGH => Route::Kernel,
        BPF_FIB_LKUP_RET_FRAG_NEEDED => Route::TooLarge,
        _ => Route::None,
    }
}
