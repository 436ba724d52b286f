//! The lab and what the tests share.
//!
//! - [`lab`]: network namespaces that stand for the client, the forwarder and the proxies, and the daemon in them.
//! - [`sipp`] and [`kamailio`]: real SIP traffic and a real proxy, with a record of which backend saw which call.
//! - [`dispatcher`]: Kamailio's dispatcher in the forwarder's place, to compare with.
//! - [`agent`]: agents beside the proxies, and a CPU that is as busy as a test says.
//! - [`heartbeats`]: heartbeats without agents, good ones and bad ones.
//! - [`load`]: the CPU that proxies take, second by second, and how evenly.
//! - [`history`]: when each backend saw a call, and whether it had reason to move.
//! - [`frames`] and [`messages`]: packets and SIP messages built byte by byte, for tests that send their own.
//! - [`corpus`]: the torture messages of RFC 4475 and RFC 5118; [`parity`]: the fast scan against the full reader.
//! - [`fuzz`]: what fuzzing feeds; [`patches`]: what mode `proxy` changed in a message, and nothing else.
//! - [`balancers`]: what a user would take instead of the forwarder.
//! - [`flood`]: many messages, and who counts them; [`stateless`]: boxes that only send on.
//! - [`proxy`]: a proxy that behaves as a test says.
//! - [`baresip`] and [`sipsak`]: a phone and a tester's tool that others wrote.
//! - [`stream`]: SIP over TCP, TLS and WebSocket; [`certificates`] for it; [`stunnel`] gives TLS to programs without.
//! - [`phone`]: a phone that does as a test says, over any transport.
//! - [`pace`]: how fast the machine is.
//! - [`program`]: the XDP program on single packets, without an interface; [`frame_source`]: frames made in the kernel,
//!   to be timed or sent; [`baseline`]: the program that benches compare with; [`old_program`]: the XDP program of an
//!   older revision; [`revisions`]: daemons of older revisions, which tests upgrade from.
//!
//! Nothing here decides anything about forwarding: expectations live in the tests.

pub mod agent;
pub mod balancers;
pub mod baresip;
pub mod baseline;
pub mod calls;
pub mod certificates;
pub mod corpus;
pub mod dispatcher;
pub mod flood;
pub mod frame_source;
pub mod frames;
pub mod fuzz;
pub mod heartbeats;
pub mod history;
pub mod kamailio;
pub mod lab;
pub mod load;
pub mod messages;
pub mod old_program;
pub mod pace;
pub mod parity;
pub mod patches;
pub mod phone;
pub mod program;
pub mod proxy;
pub mod revisions;
pub mod sipp;
pub mod sipsak;
pub mod stateless;
pub mod stream;
pub mod stunnel;
