//! The XDP program: a thin shell around the library's decision, in stages.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]
#![expect(
    missing_docs,
    unreachable_pub,
    reason = "the program macro makes entries public"
)]

mod atomic;
mod count;
mod lookups;
mod maps;
mod place;
mod receive;
mod return_path;
mod rewrite;
mod route;
mod send;
mod slow_path;
mod source;

use crate::{count::Exit, maps::STAGES};
use aya_ebpf::{macros::xdp, programs::XdpContext};
use sip_forwarder_ebpf::{stage::Stage, verdict::Verdict};

/// The entry: parses and scans a packet, and hands it to the next stage.
#[xdp(frags)]
pub fn sip_forwarder(ctx: XdpContext) -> u32 {
    if !receive::take_memory() {
        return count::count(Exit::pass(Verdict::PassedNested.number()));
    }
    let mut exit = receive::run(&ctx);
    if exit.goes_to(Stage::Place) {
        go(&ctx, Stage::Place);
        exit = slow_path::leave(&ctx, Verdict::PassedStage.number());
    } else if exit.goes_to(Stage::Return) {
        go(&ctx, Stage::Return);
        exit = Exit::fault();
    }
    count::finish(&ctx, exit)
}

/// The stage [`Stage::Place`].
#[xdp(frags)]
pub fn sip_place(ctx: XdpContext) -> u32 {
    let mut exit = place::run(&ctx);
    if exit.goes_to(Stage::SendNat) {
        go(&ctx, Stage::SendNat);
        exit = slow_path::leave(&ctx, Verdict::PassedStage.number());
    }
    count::finish(&ctx, exit)
}

/// The stage [`Stage::SendNat`].
#[xdp(frags)]
pub fn sip_send_nat(ctx: XdpContext) -> u32 {
    let exit = send::nat(&ctx);
    count::finish(&ctx, exit)
}

/// The stage [`Stage::Return`].
#[xdp(frags)]
pub fn sip_return(ctx: XdpContext) -> u32 {
    let exit = return_path::run(&ctx);
    count::finish(&ctx, exit)
}

/// Goes on with another stage. Returns only if that stage is not there. To be called from entry
/// functions alone, where the kernel allows tail calls whatever the stack holds.
#[inline(always)]
fn go(ctx: &XdpContext, stage: Stage) {
    // SAFETY: nothing of ours waits to be dropped.
    unsafe { STAGES.tail_call(ctx, stage.index()) };
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
