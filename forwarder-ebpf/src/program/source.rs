//! The only access to packet bytes.

use aya_ebpf::{bindings::xdp_md, helpers::generated::bpf_xdp_get_buff_len, programs::XdpContext};
use core::arch::asm;
use sip_forwarder_ebpf::source::Source;

/// Mask of offsets: the verifier keeps a packet pointer's range only while offsets are known to be
/// small. A mask and not a comparison, whose outcome Linux 6.1 forgets when the compiler puts the
/// number on the stack meanwhile (6.1.192, 2026-11). Offsets below are what they were; an offset just
/// below zero becomes one behind every packet that is scanned (`scan::LENGTH_LIMIT`).
const OFFSET_MASK: usize = 0x3fff;

/// `value`, of which the compiler knows nothing any more. It must neither forget a bound that was
/// checked nor compute an address anew behind the check, and `core::hint::black_box` costs a trip
/// through the stack.
#[inline(always)]
pub(crate) fn opaque(mut value: usize) -> usize {
    // SAFETY: moves a register to itself. (Without an instruction, the line table would name one place
    // twice, which the kernel refuses; 6.18, 2026-11.)
    unsafe { asm!("{0} = {0}", inout(reg) value, options(pure, nomem, nostack, preserves_flags)) };
    value
}

/// Bytes of a packet from some offset to its end.
#[derive(Clone, Copy)]
pub(crate) struct Packet {
    ctx: *mut xdp_md,
    start: usize,
    end: usize,
    length: usize,
    /// 0, as far as only we know.
    zero: u64,
}

impl Packet {
    /// The whole frame (its first buffer).
    #[inline(always)]
    pub(crate) fn new(ctx: &XdpContext, zero: u64) -> Self {
        // SAFETY: the context is the kernel's. Volatile, so that two packets of one context stay
        // two to the verifier.
        let (start, end) = unsafe {
            (
                (&raw const (*ctx.ctx).data).read_volatile(),
                (*ctx.ctx).data_end,
            )
        };
        Self::between(ctx.ctx, start as usize, end as usize, zero)
    }

    #[inline(always)]
    fn between(ctx: *mut xdp_md, start: usize, end: usize, zero: u64) -> Self {
        // Opaque, so that no arithmetic on lengths is turned into arithmetic on pointers.
        Self {
            ctx,
            start,
            end,
            length: opaque(end - start),
            zero,
        }
    }

    /// The frame from `offset` on.
    #[inline(always)]
    pub(crate) fn from(self, offset: usize) -> Self {
        Self::between(
            self.ctx,
            self.start + (self.blur(offset) & 0xff),
            self.end,
            self.zero,
        )
    }

    /// Where `T` lies at `offset`, if it lies in the packet.
    #[inline(always)]
    fn at<T>(&self, offset: usize) -> Option<*mut T> {
        // The compiler must neither drop the mask nor compute the address anew after the check.
        let address = opaque(self.start + (opaque(offset) & OFFSET_MASK));
        if address + size_of::<T>() > self.end {
            return None;
        }
        Some(address as *mut T)
    }

    /// Writes words at `offset`, one by one: a store of more than a register would be a call to a
    /// loop over bytes. `None`, and nothing written, if they do not lie in the packet.
    #[inline(always)]
    pub(crate) fn store_words<const N: usize>(&self, offset: usize, words: [u32; N]) -> Option<()> {
        let place = self.at::<[u32; N]>(offset)?.cast::<u32>();
        let mut i = 0;
        while i < N {
            // SAFETY: `at` has compared the end of all words with the end of the packet.
            unsafe { place.add(i).write_unaligned(words[i]) };
            i += 1;
        }
        Some(())
    }

    /// Writes `value` at `offset`. `None` if it does not lie in the packet.
    #[inline(always)]
    pub(crate) fn store<T: Copy>(&self, offset: usize, value: T) -> Option<()> {
        let place = self.at::<T>(offset)?;
        // SAFETY: `at` has compared the place with the end of the packet, and packets may be written.
        unsafe { place.write_unaligned(value) };
        Some(())
    }

    /// Returns `N` bytes at `offset`, compared with the packet's end once for all loads and stores in them.
    /// `None` if they do not lie in the packet.
    #[inline(always)]
    pub(crate) fn window<const N: usize>(&self, offset: usize) -> Option<Window<N>> {
        self.at::<[u8; N]>(offset).map(|place| Window(place.cast()))
    }

    #[inline(always)]
    fn load<T: Copy>(&self, offset: usize) -> Option<T> {
        let place = self.at::<T>(offset)?;
        // SAFETY: `at` has compared the place with the end of the packet; `T` is an integer.
        Some(unsafe { place.read_unaligned() })
    }
}

/// Bytes of a packet that are known to be there.
#[derive(Clone, Copy)]
pub(crate) struct Window<const N: usize>(*mut u8);

impl<const N: usize> Window<N> {
    /// Returns the integer at `AT`.
    #[inline(always)]
    pub(crate) fn load<T: Copy, const AT: usize>(&self) -> T {
        const { assert!(AT + size_of::<T>() <= N) };
        // SAFETY: the assertion keeps it within the window, which `Packet::window` has compared with the
        // packet's end.
        unsafe { self.0.add(AT).cast::<T>().read_unaligned() }
    }

    /// Writes an integer at `AT`.
    #[inline(always)]
    pub(crate) fn store<T: Copy, const AT: usize>(&self, value: T) {
        const { assert!(AT + size_of::<T>() <= N) };
        // SAFETY: as in `load`, and packets may be written.
        unsafe { self.0.add(AT).cast::<T>().write_unaligned(value) };
    }
}

impl Source for Packet {
    #[inline(always)]
    fn len(&self) -> usize {
        self.length
    }

    #[inline(always)]
    fn whole_length(&self) -> usize {
        // SAFETY: the context is the program's own.
        unsafe { bpf_xdp_get_buff_len(self.ctx) as usize }
    }

    #[inline(always)]
    fn u8_at(&self, offset: usize) -> Option<u8> {
        self.load(offset)
    }

    #[inline(always)]
    fn u16_at(&self, offset: usize) -> Option<u16> {
        self.load(offset)
    }

    #[inline(always)]
    fn u32_at(&self, offset: usize) -> Option<u32> {
        self.load(offset)
    }

    #[inline(always)]
    fn u64_at(&self, offset: usize) -> Option<u64> {
        self.load(offset)
    }

    #[inline(always)]
    fn block_at(&self, offset: usize) -> Option<[u64; 4]> {
        self.load(offset)
    }

    #[inline(always)]
    fn around(&self, offset: usize) -> Option<(u8, u64)> {
        let place = self.at::<[u8; 10]>(offset.wrapping_sub(1))?;
        // SAFETY: `at` has compared the place of all ten bytes with the end of the packet.
        Some(unsafe {
            (
                place.cast::<u8>().read(),
                place.byte_add(2).cast::<u64>().read_unaligned(),
            )
        })
    }

    #[inline(always)]
    fn blur(&self, mut number: usize) -> usize {
        // SAFETY: adds one register to another. In assembly, so that the compiler does not move the
        // sum about; not pure, so that no two are taken for one.
        unsafe {
            asm!("{0} += {1}", inout(reg) number, in(reg) self.zero, options(nomem, nostack))
        };
        number
    }
}
