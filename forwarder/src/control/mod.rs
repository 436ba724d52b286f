//! Decisions without I/O: what the rings should hold, given who may take calls.

pub mod maglev;
pub mod numbering;
pub mod ring;
