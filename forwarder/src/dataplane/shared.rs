//! Array maps that the XDP program and the workers both write, mapped into this process.
//!
//! A map syscall replaces a whole element, and would undo what the program wrote into it meanwhile.
//! So these maps are written word by word (`BPF_F_MMAPABLE`), by atomic operations.

use std::{
    io,
    marker::PhantomData,
    os::fd::{AsFd as _, AsRawFd as _},
    sync::atomic::{AtomicU8, AtomicU64},
};

use aya::maps::MapData;
use memmap2::{MmapOptions, MmapRaw};
use sip_forwarder_ebpf::abi::HINTS_PER_LINE;

use crate::slowpath::recent::Line;

/// An element that may lie in shared memory.
///
/// # Safety
///
/// The type is as large as the map's element, consists of atomic integers alone, and any bytes are
/// valid values of it.
pub unsafe trait Shared: Sync {}

// SAFETY: a cache line of atomic words.
unsafe impl Shared for Line {}

/// The hints of [`HINTS_PER_LINE`] slots.
#[repr(C, align(64))]
pub struct Hints(pub [AtomicU8; HINTS_PER_LINE as usize]);

// SAFETY: a cache line of atomic bytes.
unsafe impl Shared for Hints {}

/// The turns of a service: a word, and what fills the cache line.
#[repr(C, align(64))]
pub struct Turns {
    /// Turns taken.
    pub turns: AtomicU64,
    zero: [AtomicU64; 7],
}

// SAFETY: a cache line of atomic words.
unsafe impl Shared for Turns {}

/// A map's elements in this process' memory.
pub struct SharedArray<T> {
    memory: MmapRaw,
    /// Kept open, because programs that are loaded later refer to the map by its descriptor.
    _array: MapData,
    elements: u32,
    of: PhantomData<T>,
}

impl<T: Shared> SharedArray<T> {
    /// Maps an array into this process.
    pub fn map(array: MapData) -> io::Result<Self> {
        let info = array.info().map_err(io::Error::other)?;
        if info.value_size() as usize != size_of::<T>() {
            return Err(io::Error::other(format!(
                "its elements have {} bytes, not {}",
                info.value_size(),
                size_of::<T>()
            )));
        }
        let elements = info.max_entries();
        let length = elements as usize * size_of::<T>();
        let memory = MmapOptions::new()
            .len(length)
            .map_raw(array.fd().as_fd().as_raw_fd())?;
        Ok(Self {
            memory,
            _array: array,
            elements,
            of: PhantomData,
        })
    }

    /// Returns the element at `index`, or `None` beyond the map's end.
    #[must_use]
    pub fn get(&self, index: u32) -> Option<&T> {
        if index >= self.elements {
            return None;
        }
        // SAFETY: the memory begins at a page and holds `elements` of `T`, each as large as the map's
        // element. `Shared` promises that any bytes are valid and that others may write them.
        Some(unsafe { &*self.memory.as_ptr().cast::<T>().add(index as usize) })
    }

    /// Returns how many elements there are.
    #[must_use]
    pub const fn len(&self) -> u32 {
        self.elements
    }

    /// Tells whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.elements == 0
    }
}
