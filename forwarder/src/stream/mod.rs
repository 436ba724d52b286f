//! Connections: what services take and make besides datagrams.

pub mod tls;
