//! The maps that the XDP program and the workers both write, as the workers see them.

use std::{
    io,
    ops::Deref,
    os::fd::AsFd as _,
    sync::atomic::{AtomicU8, AtomicU64},
};

use aya::maps::MapData;
use sip_forwarder_ebpf::abi::HINTS_PER_LINE;

use crate::mapped::{MappedArray, Shared};

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

/// A map that is mapped into this process, with its descriptor: programs that are loaded later refer to
/// it by that.
pub struct SharedMap<T> {
    elements: MappedArray<T>,
    _map: MapData,
}

impl<T: Shared> SharedMap<T> {
    /// Maps an array into this process.
    pub fn new(map: MapData) -> io::Result<Self> {
        let info = map.info().map_err(io::Error::other)?;
        if info.value_size() as usize != size_of::<T>() {
            return Err(io::Error::other(format!(
                "its elements have {} bytes, not {}",
                info.value_size(),
                size_of::<T>()
            )));
        }
        Ok(Self {
            elements: MappedArray::of_map(map.fd().as_fd(), info.max_entries())?,
            _map: map,
        })
    }
}

impl<T> Deref for SharedMap<T> {
    type Target = MappedArray<T>;

    fn deref(&self) -> &MappedArray<T> {
        &self.elements
    }
}
