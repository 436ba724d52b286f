//! SIP as the slow path sees it: whole messages, read in full.

pub mod address;
pub mod answer;
pub mod framing;
pub mod headers;
pub mod proxy;
pub mod reader;
pub mod stun;
pub mod transport;

#[cfg(test)]
mod parity;
