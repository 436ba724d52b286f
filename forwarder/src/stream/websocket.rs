//! Messages over WebSocket (RFC 7118): each is one WebSocket message, text or binary.

use std::{
    collections::VecDeque,
    io,
    ops::Range,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures_util::{Sink, Stream};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::{
    WebSocketStream, accept_hdr_async_with_config,
    tungstenite::{
        Error, Message,
        error::CapacityError,
        handshake::server::{ErrorResponse, Request, Response},
        http::{HeaderValue, StatusCode, header::SEC_WEBSOCKET_PROTOCOL},
        protocol::WebSocketConfig,
    },
};

use super::{
    counters::Ending,
    wire::{Incoming, PONG, Wire},
};
use crate::config::Connections;
use crate::sip::{framing::FramingError, headers::Sip};

/// The name of SIP among the protocols over WebSocket (RFC 7118 section 4.1).
const PROTOCOL: &str = "sip";
/// Bytes read at a time.
const READ: usize = 4 * 1024;

/// A WebSocket that carries messages.
pub(super) struct WebSocket<S> {
    socket: WebSocketStream<S>,
    /// The message that was taken in, until it is passed by.
    taken: Option<Bytes>,
    /// The one asked for last.
    current: Bytes,
    outgoing: VecDeque<Bytes>,
    /// Is something of what was handed to the socket not flushed?
    unflushed: usize,
}

/// Answers a client's handshake. `Err` if it is none, or not for SIP; the client was told then.
pub(super) async fn accept<S>(stream: S, limits: &Connections) -> Result<WebSocket<S>, Ending>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let config = WebSocketConfig::default()
        .read_buffer_size(READ)
        .write_buffer_size(0)
        .max_write_buffer_size(limits.write_buffer.max(limits.max_message) + READ)
        .max_message_size(Some(limits.max_message))
        .max_frame_size(Some(limits.max_message));
    match accept_hdr_async_with_config(stream, agree, Some(config)).await {
        Ok(socket) => Ok(WebSocket {
            socket,
            taken: None,
            current: Bytes::new(),
            outgoing: VecDeque::new(),
            unflushed: 0,
        }),
        Err(Error::Io(_)) => Err(Ending::Broken),
        Err(_) => Err(Ending::Malformed),
    }
}

/// Agrees to speak SIP with a client that offers it.
#[expect(
    clippy::result_large_err,
    reason = "the library's callback has this type"
)]
fn agree(request: &Request, mut response: Response) -> Result<Response, ErrorResponse> {
    let offers_sip = request
        .headers()
        .get_all(SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|protocol| protocol.trim().eq_ignore_ascii_case(PROTOCOL));
    if !offers_sip {
        let mut refusal = ErrorResponse::new(Some("the WebSocket protocol here is \"sip\"".into()));
        *refusal.status_mut() = StatusCode::BAD_REQUEST;
        return Err(refusal);
    }
    response
        .headers_mut()
        .insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(PROTOCOL));
    Ok(response)
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire for WebSocket<S> {
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Ending>> {
        self.current = Bytes::new();
        let message = match ready!(Pin::new(&mut self.socket).poll_next(cx)) {
            Some(Ok(Message::Text(text))) => Bytes::from(text),
            Some(Ok(Message::Binary(bytes))) => bytes,
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => {
                // The socket answers by itself, when it is flushed.
                self.unflushed += 1;
                return Poll::Ready(Ok(()));
            }
            Some(Ok(Message::Frame(_))) => return Poll::Ready(Ok(())),
            Some(Ok(Message::Close(_))) | None => return Poll::Ready(Err(Ending::Peer)),
            Some(Err(error)) => return Poll::Ready(Err(ending(&error))),
        };
        self.taken = Some(message);
        Poll::Ready(Ok(()))
    }

    fn next(&mut self) -> Result<Option<Incoming>, FramingError> {
        let Some(message) = self.taken.take() else {
            return Ok(None);
        };
        if message.iter().all(u8::is_ascii_whitespace) {
            return Ok(Some(Incoming::Ping));
        }
        if Sip::cut(&message).is_none() {
            return Err(FramingError::NotSip);
        }
        self.current = message;
        Ok(Some(Incoming::Message(0..self.current.len())))
    }

    fn bytes(&self, range: Range<usize>) -> &[u8] {
        &self.current[range]
    }

    fn rest(&self) -> &[u8] {
        self.taken.as_deref().unwrap_or_default()
    }

    fn poll_discard(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Ending>> {
        self.taken = None;
        self.poll_read(cx)
    }

    fn is_within_message(&self) -> bool {
        false
    }

    fn queue(&mut self, message: Bytes) {
        self.outgoing.push_back(message);
    }

    fn has_queued(&self) -> bool {
        !self.outgoing.is_empty() || self.unflushed > 0
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut socket = Pin::new(&mut self.socket);
        while !self.outgoing.is_empty() {
            ready!(socket.as_mut().poll_ready(cx)).map_err(to_io)?;
            let Some(message) = self.outgoing.pop_front() else {
                break;
            };
            self.unflushed += message.len();
            socket
                .as_mut()
                .start_send(message_of(message))
                .map_err(to_io)?;
        }
        ready!(socket.poll_flush(cx)).map_err(to_io)?;
        Poll::Ready(Ok(std::mem::take(&mut self.unflushed)))
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_close(cx).map_err(to_io)
    }
}

/// As text if it is text, as browsers like it.
fn message_of(bytes: Bytes) -> Message {
    if bytes == PONG {
        return Message::text("\r\n");
    }
    match bytes.clone().try_into() {
        Ok(text) => Message::Text(text),
        Err(_) => Message::Binary(bytes),
    }
}

fn ending(error: &Error) -> Ending {
    match error {
        Error::Capacity(CapacityError::MessageTooLong { .. }) => Ending::TooLarge,
        Error::Protocol(_) | Error::Utf8(_) | Error::Capacity(_) => Ending::Malformed,
        Error::ConnectionClosed | Error::AlreadyClosed => Ending::Peer,
        _ => Ending::Broken,
    }
}

fn to_io(error: Error) -> io::Error {
    match error {
        Error::Io(error) => error,
        other => io::Error::other(other),
    }
}
