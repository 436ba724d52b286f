//! The XDP program: a thin shell around the library's decision.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]
#![expect(
    missing_docs,
    unreachable_pub,
    reason = "the program macro makes entries public"
)]

mod count;
mod fastpath;
mod lookups;
mod maps;
mod rewrite;
mod route;
mod source;

use aya_ebpf::{macros::xdp, programs::XdpContext};

/// Entry: one packet in, one XDP action out, one verdict counted.
#[xdp(frags)]
pub fn sip_forwarder(ctx: XdpContext) -> u32 {
    let exit = fastpath::run(&ctx);
    if exit.is_fault() {
        aya_log_ebpf::error!(&ctx, "a map lacks what another promised; packet dropped");
    }
    count::finish(exit)
}

/// Lets everything through. It stands on the far ends of veth pairs, whose driver accepts frames
/// sent by XDP only while an XDP program is attached there.
#[xdp(frags)]
pub fn pass_all(_ctx: XdpContext) -> u32 {
    aya_ebpf::bindings::xdp_action::XDP_PASS
}

/// Swaps the MAC addresses and sends the frame back: what no forwarder can do without, and so the
/// yardstick of the benches.
#[xdp(frags)]
pub fn yardstick(ctx: XdpContext) -> u32 {
    rewrite::swap_macs(&ctx)
}

/// Gives every packet the MAC addresses of the first backend's next hop and sends it there: the least
/// that a box between two links can do, and so the limit of the benches.
#[xdp(frags)]
pub fn bare_redirect(ctx: XdpContext) -> u32 {
    fastpath::redirect_to_first(&ctx)
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
