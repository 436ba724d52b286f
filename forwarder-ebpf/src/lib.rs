//! The decision that the kernel and userspace share.
//!
//! The XDP program and the slow path must give one message the same backend, so everything that
//! decides lives here once: `no_std`, without allocation, generic over where the bytes come from
//! ([`source::Source`]). The XDP program in `src/program` is a thin shell around it; on the host it
//! runs over slices, in the workers, in tests and under a fuzzer.
#![cfg_attr(not(test), no_std)]

pub mod abi;
pub mod csum;
pub mod generator;
pub mod hash;
pub mod packet;
pub mod recent;
pub mod rule;
pub mod scan;
pub mod source;
pub mod stage;
pub mod verdict;
