//! The HTTP API on a Unix socket, for the command line. It never touches a map: what it tells comes
//! from a [`Source`].

mod client;
mod server;
pub mod status;

pub use client::{ClientError, get};
pub use server::{ApiError, Server, Source};
