//! What the lab and the benches need in the kernel beside the program under test: the far ends of
//! links, a generator, and the baselines. An object of its own, so that no daemon loads it.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]
#![expect(
    missing_docs,
    unreachable_pub,
    reason = "the program macro makes entries public"
)]

#[expect(
    dead_code,
    reason = "shared with the program under test, which needs more of it"
)]
#[path = "../program/source.rs"]
mod source;

use aya_ebpf::{
    bindings::xdp_action::{XDP_ABORTED, XDP_DROP, XDP_PASS, XDP_TX},
    helpers::generated::{bpf_redirect, bpf_xdp_adjust_tail, bpf_xdp_store_bytes},
    macros::{map, xdp},
    maps::{Array, DevMapHash, PerCpuArray, ProgramArray},
    programs::XdpContext,
};
use sip_forwarder_ebpf::{
    abi::{Backend, Macs},
    generator::{FRAME_LIMIT, HEAD, Held, Template},
    source::Source,
};
use source::Packet;

/// What frames are made of.
#[map]
static TEMPLATE: Array<Template> = Array::with_max_entries(1, 0);

/// Frames that go round; how many is the map's size, set where it is loaded.
#[map]
static ROTATION: Array<Held> = Array::with_max_entries(1, 0);

/// Frames in the rotation less one; a power of two less one.
#[map]
static ROTATION_MASK: Array<u32> = Array::with_max_entries(1, 0);

/// The interface that the bare redirect sends by.
#[map]
static ONWARD: Array<u32> = Array::with_max_entries(1, 0);

/// The next hop of the bare redirect through a device map, as a backend's entry names it.
#[map]
static NEXT_HOP: Array<Backend> = Array::with_max_entries(1, 0);

/// Interfaces that the bare redirect may send by, by interface number.
#[map]
static INTERFACES: DevMapHash = DevMapHash::with_max_entries(64, 0);

/// The program under test.
#[map]
static NEXT: ProgramArray = ProgramArray::with_max_entries(1, 0);

/// Frames made on this CPU, and frames that arrived on it: on cache lines of their own.
#[map]
static MADE: PerCpuArray<u32> = PerCpuArray::with_max_entries(1, 0);
#[map]
static ARRIVED: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// Makes a frame anew and sends it out.
#[xdp(frags)]
pub fn generate(ctx: XdpContext) -> u32 {
    match make(&ctx) {
        // SAFETY: takes two numbers.
        Some(template) => unsafe { bpf_redirect(template.interface, 0) as u32 },
        None => XDP_ABORTED,
    }
}

/// Makes a frame anew and gives it to the program under test.
#[xdp(frags)]
pub fn make_and_give(ctx: XdpContext) -> u32 {
    match make(&ctx) {
        Some(_) => give(&ctx),
        None => XDP_ABORTED,
    }
}

/// Puts the next frame of the rotation in the place of this one and gives it to the program under
/// test.
#[xdp(frags)]
pub fn rotate_and_give(ctx: XdpContext) -> u32 {
    match rotate(&ctx) {
        Some(()) => give(&ctx),
        None => XDP_ABORTED,
    }
}

/// Lets everything through. It stands on the far ends of veth pairs, whose driver accepts frames
/// sent by XDP only while an XDP program is attached there.
#[xdp(frags)]
pub fn pass_all(_ctx: XdpContext) -> u32 {
    XDP_PASS
}

/// Swaps the MAC addresses and sends the frame back, which no forwarder can do without: the baseline
/// of times per packet.
#[xdp(frags)]
pub fn baseline(ctx: XdpContext) -> u32 {
    let packet = Packet::new(&ctx, 0);
    let swapped = (|| {
        let old = Macs([packet.u32_at(0)?, packet.u32_at(4)?, packet.u32_at(8)?]);
        packet.store_words(0, old.swapped().0)
    })();
    if swapped.is_some() { XDP_TX } else { XDP_DROP }
}

/// Gives every packet the MAC addresses of the next hop and sends it there, as the forwarder sends:
/// the least that a box between two links can do.
#[xdp(frags)]
pub fn bare_redirect(ctx: XdpContext) -> u32 {
    let Some(hop) = NEXT_HOP.get(0) else {
        return XDP_ABORTED;
    };
    if Packet::new(&ctx, 0).store_words(0, hop.macs.0).is_none() {
        return XDP_DROP;
    }
    if hop.interface as usize == ctx.ingress_ifindex() {
        return XDP_TX;
    }
    match INTERFACES.redirect(hop.interface, u64::from(XDP_ABORTED)) {
        Ok(action) | Err(action) => action,
    }
}

/// Sends every frame on as it is: the bare redirect.
#[xdp(frags)]
pub fn redirect(_ctx: XdpContext) -> u32 {
    match ONWARD.get(0) {
        // SAFETY: takes two numbers.
        Some(&interface) => unsafe { bpf_redirect(interface, 0) as u32 },
        None => XDP_ABORTED,
    }
}

/// Counts what arrives.
#[xdp(frags)]
pub fn arrive(_ctx: XdpContext) -> u32 {
    match ARRIVED.get_ptr_mut(0) {
        Some(counter) => {
            // SAFETY: a map value of this CPU alone.
            unsafe { *counter += 1 };
            XDP_DROP
        }
        None => XDP_ABORTED,
    }
}

/// The number of the next frame on this CPU.
#[inline(always)]
fn count() -> Option<u32> {
    let counter = MADE.get_ptr_mut(0)?;
    // SAFETY: a map value of this CPU alone.
    unsafe {
        let now = *counter;
        *counter = now.wrapping_add(1);
        Some(now)
    }
}

#[inline(always)]
fn make(ctx: &XdpContext) -> Option<&'static Template> {
    const CHECKSUM: usize = 4;
    const OFFSETS: usize = 0x7ff;
    let template = TEMPLATE.get(0)?;
    let fresh = template.fresh(count()?);
    let packet = Packet::new(ctx, 0);
    let mut i = 0;
    while i < HEAD / 8 {
        packet.store(i * 8, template.head[i])?;
        i += 1;
    }
    let port = template.port_at as usize & OFFSETS;
    packet.store(template.number_at as usize & OFFSETS, fresh.number)?;
    packet.store(port, fresh.port)?;
    packet.store(port + CHECKSUM, fresh.checksum)?;
    Some(template)
}

#[inline(always)]
fn rotate(ctx: &XdpContext) -> Option<()> {
    let mask = ROTATION_MASK.get(0)?;
    let frame = ROTATION.get(count()? & mask)?;
    let length = frame.length;
    if length == 0 || length > FRAME_LIMIT as u32 {
        return None;
    }
    let now = Packet::new(ctx, 0).len() as i64;
    // SAFETY: the context is the program's own; the helper reads `length` bytes, which `frame` holds.
    unsafe {
        if bpf_xdp_adjust_tail(ctx.ctx.cast(), (i64::from(length) - now) as i32) != 0 {
            return None;
        }
        let bytes = frame.bytes.as_ptr().cast_mut().cast();
        (bpf_xdp_store_bytes(ctx.ctx.cast(), 0, bytes, length) == 0).then_some(())
    }
}

#[inline(always)]
fn give(ctx: &XdpContext) -> u32 {
    // SAFETY: the context is the program's own. It returns only if there is no program.
    let _ = unsafe { NEXT.tail_call(ctx, 0) };
    XDP_ABORTED
}

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // The verifier refuses a loop without end: a panic that could be reached fails the load.
    loop {}
}

/// Some helpers are for programs under a GPL-compatible licence only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
