//! Decisions without I/O: who lives, who takes new calls, and what the rings should hold.
//!
//! Time is an argument everywhere, so that hours pass in a test at no cost. [`service`] puts the
//! parts together; the daemon feeds it with what it hears and carries out what it says.

use std::time::Duration;

pub mod gate;
pub mod homes;
pub mod liveness;
pub mod maglev;
pub mod numbering;
pub mod overrides;
pub mod probing;
pub mod ring;
pub mod service;
pub mod suspicion;
pub mod turns;
pub mod weights;

/// A moment of a monotonic clock, as the time since any fixed start.
pub type Now = Duration;
