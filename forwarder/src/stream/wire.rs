//! What a connection is to the loop that serves it: messages in, messages out, whatever lies between.

use std::{
    io,
    ops::Range,
    task::{Context, Poll},
};

use bytes::Bytes;

use super::counters::Ending;
use crate::sip::framing::FramingError;

/// What a connection goes on with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Incoming {
    /// A message; [`Wire::bytes`] gives it until the next is asked for.
    Message(Range<usize>),
    /// A keep-alive, to be answered with [`PONG`].
    Ping,
}

/// The answer to a keep-alive (RFC 5626 section 4.4.1).
pub(super) const PONG: &[u8] = b"\r\n";

/// A connection that carries SIP messages.
pub(super) trait Wire: Unpin {
    /// Takes in some of what the peer sent.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Ending>>;

    /// The next whole message of what was taken in.
    fn next(&mut self) -> Result<Option<Incoming>, FramingError>;

    /// Bytes of what was taken in and not yet passed by.
    fn bytes(&self, range: Range<usize>) -> &[u8];

    /// What was taken in and not passed by.
    fn rest(&self) -> &[u8];

    /// Throws away some of what the peer sent.
    fn poll_discard(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Ending>>;

    /// Has a message begun that is not complete?
    fn is_within_message(&self) -> bool;

    /// Sends this after all that waits.
    fn queue(&mut self, message: Bytes);

    /// Does anything wait?
    fn has_queued(&self) -> bool;

    /// Sends of what waits, and tells how many bytes of it left. Pending if the peer takes none now.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>>;

    /// Says that nothing more will be sent.
    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
}
