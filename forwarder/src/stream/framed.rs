//! Messages in a stream of bytes: TCP, and TLS over it.

use std::{
    cell::RefCell,
    collections::VecDeque,
    io::{self, IoSlice},
    ops::Range,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    counters::Ending,
    wire::{Incoming, Wire},
};
use crate::config::Connections;
use crate::sip::framing::{self, Frame, Framer, FramingError};

/// Bytes taken in by one read at most.
const READ: usize = 64 * 1024;
/// Messages sent by one write at most.
const SLICES: usize = 32;
/// Room that a connection keeps between messages.
const KEPT: usize = 4 * 1024;

thread_local! {
    /// Where all connections of a thread read into: an idle one has no room of its own.
    static ROOM: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ].into_boxed_slice());
}

/// A stream that carries messages.
pub(super) struct Framed<S> {
    stream: S,
    framer: Framer,
    limits: framing::Limits,
    /// What was taken in; what lies before `passed` is done with.
    pending: Vec<u8>,
    passed: usize,
    outgoing: VecDeque<Bytes>,
    /// Does the stream keep something back? TLS keeps records that the peer has no room for.
    unflushed: bool,
}

impl<S> Framed<S> {
    pub(super) fn new(stream: S, limits: &Connections) -> Self {
        Self {
            stream,
            framer: Framer::default(),
            limits: framing::Limits {
                headers: limits.max_headers,
                message: limits.max_message,
            },
            pending: Vec::new(),
            passed: 0,
            outgoing: VecDeque::new(),
            unflushed: false,
        }
    }

    /// Gives room back once nothing is in it.
    fn tidy(&mut self) {
        if self.passed == self.pending.len() {
            self.pending.clear();
            if self.pending.capacity() > KEPT {
                self.pending = Vec::new();
            }
        } else {
            self.pending.drain(..self.passed);
        }
        self.passed = 0;
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire for Framed<S> {
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Ending>> {
        self.tidy();
        ROOM.with_borrow_mut(|room| {
            let mut buffer = ReadBuf::new(room);
            match ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer)) {
                Ok(()) if buffer.filled().is_empty() => Poll::Ready(Err(Ending::Peer)),
                Ok(()) => {
                    self.pending.extend_from_slice(buffer.filled());
                    Poll::Ready(Ok(()))
                }
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    Poll::Ready(Err(Ending::Peer))
                }
                Err(_) => Poll::Ready(Err(Ending::Broken)),
            }
        })
    }

    fn next(&mut self) -> Result<Option<Incoming>, FramingError> {
        loop {
            let begin = self.passed;
            match self.framer.next(&self.pending[begin..], &self.limits)? {
                Frame::Message { length } => {
                    self.passed += length;
                    return Ok(Some(Incoming::Message(begin..begin + length)));
                }
                Frame::Ping { length } => {
                    self.passed += length;
                    return Ok(Some(Incoming::Ping));
                }
                Frame::Blank { length } => self.passed += length,
                Frame::Incomplete => return Ok(None),
            }
        }
    }

    fn bytes(&self, range: Range<usize>) -> &[u8] {
        &self.pending[range]
    }

    fn rest(&self) -> &[u8] {
        &self.pending[self.passed..]
    }

    fn poll_discard(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Ending>> {
        self.passed = self.pending.len();
        self.poll_read(cx)
    }

    fn is_within_message(&self) -> bool {
        self.framer.is_within_message()
    }

    fn queue(&mut self, message: Bytes) {
        self.outgoing.push_back(message);
    }

    fn has_queued(&self) -> bool {
        !self.outgoing.is_empty() || self.unflushed
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut sent = 0;
        while !self.outgoing.is_empty() {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let count = self.outgoing.len().min(SLICES);
            for (slice, message) in slices.iter_mut().zip(&self.outgoing) {
                *slice = IoSlice::new(message);
            }
            match Pin::new(&mut self.stream).poll_write_vectored(cx, &slices[..count]) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(length)) => {
                    sent += length;
                    self.unflushed = true;
                    drop_front(&mut self.outgoing, length);
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending if sent > 0 => return Poll::Ready(Ok(sent)),
                Poll::Pending => return Poll::Pending,
            }
        }
        if self.outgoing.capacity() > SLICES {
            self.outgoing = VecDeque::new();
        }
        match Pin::new(&mut self.stream).poll_flush(cx) {
            Poll::Ready(Ok(())) => self.unflushed = false,
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            Poll::Pending if sent == 0 => return Poll::Pending,
            Poll::Pending => {}
        }
        Poll::Ready(Ok(sent))
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Takes so many bytes off the front.
fn drop_front(messages: &mut VecDeque<Bytes>, mut length: usize) {
    while let Some(first) = messages.front_mut() {
        if length < first.len() {
            first.advance(length);
            return;
        }
        length -= first.len();
        messages.pop_front();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

    fn message(number: usize) -> String {
        format!("OPTIONS sip:a{number} SIP/2.0\r\nContent-Length: 3\r\n\r\nabc")
    }

    async fn read_all(wire: &mut Framed<DuplexStream>) -> Vec<String> {
        let mut messages = Vec::new();
        while poll_fn(|cx| wire.poll_read(cx)).await.is_ok() {
            while let Some(incoming) = wire.next().unwrap() {
                messages.push(match incoming {
                    Incoming::Message(range) => {
                        String::from_utf8(wire.bytes(range).to_vec()).unwrap()
                    }
                    Incoming::Ping => "ping".to_owned(),
                });
            }
        }
        messages
    }

    #[tokio::test]
    async fn messages_come_out_whole_however_they_arrive() {
        let stream = format!("{}\r\n\r\n{}{}", message(1), message(2), message(3));
        let expected = [message(1), "ping".into(), message(2), message(3)];
        for size in [1, 7, 64, 100_000] {
            let (mut peer, ours) = duplex(size);
            let mut wire = Framed::new(ours, &Connections::default());
            let stream = stream.clone();
            let sender = tokio::spawn(async move { peer.write_all(stream.as_bytes()).await });
            assert_eq!(read_all(&mut wire).await, expected, "in pieces of {size}");
            sender.await.unwrap().unwrap();
            assert!(
                wire.pending.capacity() <= KEPT,
                "an idle connection keeps room"
            );
        }
    }

    #[tokio::test]
    async fn what_waits_leaves_in_order_as_the_peer_takes_it() {
        let (mut peer, ours) = duplex(10);
        let mut wire = Framed::new(ours, &Connections::default());
        let mut expected = String::new();
        for number in 0..2 * SLICES {
            expected += &message(number);
            wire.queue(message(number).into());
        }
        let length = expected.len();
        let reader = tokio::spawn(async move {
            let mut bytes = vec![0; length];
            peer.read_exact(&mut bytes).await.unwrap();
            (peer, bytes)
        });
        let mut sent = 0;
        while wire.has_queued() {
            sent += poll_fn(|cx| wire.poll_flush(cx)).await.unwrap();
        }
        assert_eq!(sent, length);
        let (_peer, bytes) = reader.await.unwrap();
        assert_eq!(bytes, expected.as_bytes());
    }

    /// Takes everything and keeps it until it is flushed a second time, as TLS does when the peer has no
    /// room.
    #[derive(Default)]
    struct Keeping {
        flushes: u32,
    }

    impl AsyncRead for Keeping {
        fn poll_read(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    impl AsyncWrite for Keeping {
        fn poll_write(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.flushes += 1;
            if self.flushes < 2 {
                Poll::Pending
            } else {
                Poll::Ready(Ok(()))
            }
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn what_the_stream_keeps_back_is_flushed_again() {
        let mut wire = Framed::new(Keeping::default(), &Connections::default());
        wire.queue(message(1).into());
        let sent = poll_fn(|cx| wire.poll_flush(cx)).await.unwrap();
        assert_eq!(sent, message(1).len());
        assert!(wire.has_queued(), "nothing would flush it");
        assert_eq!(poll_fn(|cx| wire.poll_flush(cx)).await.unwrap(), 0);
        assert!(!wire.has_queued());
    }
}
