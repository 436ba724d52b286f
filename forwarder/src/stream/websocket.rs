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
    /// Bytes that were handed to the socket and are not flushed.
    unflushed: usize,
    /// Must a ping be answered? The socket does so by itself, when it is flushed.
    owes_pong: bool,
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
            owes_pong: false,
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
        .any(|protocol| protocol.trim() == PROTOCOL);
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
                self.owes_pong = true;
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
        !self.outgoing.is_empty() || self.unflushed > 0 || self.owes_pong
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
        self.owes_pong = false;
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

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::{SinkExt as _, StreamExt as _};
    use std::future::poll_fn;
    use tokio::io::{DuplexStream, duplex};
    use tokio_tungstenite::{client_async, tungstenite::client::IntoClientRequest as _};

    const MESSAGE: &str = "OPTIONS sip:a SIP/2.0\r\nCall-ID: x\r\n\r\n";

    /// Both ends of a WebSocket whose client offers these protocols.
    async fn pair(
        protocols: &'static str,
    ) -> (
        Result<WebSocketStream<DuplexStream>, Error>,
        Result<WebSocket<DuplexStream>, Ending>,
    ) {
        let (peer, ours) = duplex(4_096);
        let mut request = "ws://edge.example/".into_client_request().unwrap();
        let value = HeaderValue::from_static(protocols);
        request.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, value);
        let limits = Connections::default();
        let (client, server) = tokio::join!(client_async(request, peer), accept(ours, &limits));
        (client.map(|(client, _)| client), server)
    }

    #[tokio::test]
    async fn a_client_that_offers_no_sip_is_told() {
        let (client, server) = pair("chat").await;
        assert!(matches!(client, Err(Error::Http(response)) if response.status() == 400));
        assert_eq!(server.err(), Some(Ending::Malformed));
    }

    #[tokio::test]
    async fn messages_go_both_ways_and_pings_weigh_nothing() {
        let (client, server) = pair("chat, sip").await;
        let (mut client, mut server) = (client.unwrap(), server.unwrap());
        client.send(Message::Ping(Bytes::new())).await.unwrap();
        client.send(Message::text(MESSAGE)).await.unwrap();
        poll_fn(|cx| server.poll_read(cx)).await.unwrap();
        assert_eq!(server.next().unwrap(), None);
        assert!(server.has_queued(), "a ping wants an answer");
        assert_eq!(poll_fn(|cx| server.poll_flush(cx)).await.unwrap(), 0);
        poll_fn(|cx| server.poll_read(cx)).await.unwrap();
        let Some(Incoming::Message(range)) = server.next().unwrap() else {
            panic!("no message");
        };
        assert_eq!(server.bytes(range), MESSAGE.as_bytes());

        server.queue(Bytes::from_static(b"\xff\xfe"));
        assert_eq!(poll_fn(|cx| server.poll_flush(cx)).await.unwrap(), 2);
        assert!(!server.has_queued());
        assert_eq!(
            client.next().await.unwrap().unwrap(),
            Message::Pong(Bytes::new())
        );
        let binary = client.next().await.unwrap().unwrap();
        assert_eq!(binary, Message::Binary(Bytes::from_static(b"\xff\xfe")));
    }

    #[tokio::test]
    async fn what_is_no_sip_and_what_is_too_long_end_it() {
        let (client, server) = pair("sip").await;
        let (mut client, mut server) = (client.unwrap(), server.unwrap());
        client.send(Message::text("hello")).await.unwrap();
        poll_fn(|cx| server.poll_read(cx)).await.unwrap();
        assert_eq!(server.next(), Err(FramingError::NotSip));
        let long = "x".repeat(Connections::default().max_message + 1);
        let sender = tokio::spawn(async move { client.send(Message::text(long)).await });
        let ended = poll_fn(|cx| server.poll_read(cx)).await;
        assert_eq!(ended, Err(Ending::TooLarge));
        drop(server);
        // It may have been cut off in the middle.
        let _ = sender.await.unwrap();
    }
}
