//! The HTTP API, for the command line and for programs: on a Unix socket, and on a TCP address if
//! that is configured. It never touches a map: an [`Operator`] tells and changes what it is asked.

mod client;
mod listen;
mod operator;
mod report;
mod routes;
mod server;
pub mod status;
#[cfg(test)]
mod tests;
mod token;

pub use client::{ClientError, get, post};
pub use operator::{Change, Changed, Operator, Refusal, Reloaded};
pub use server::{ApiError, Server, TcpApi};
pub use token::{Token, TokenError};
