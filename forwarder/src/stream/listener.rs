//! Clients' connections: accepted, admitted, and brought as far as messages.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use sip_forwarder_ebpf::abi::ServiceId;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::spawn_local,
    time::{sleep, timeout},
};

use super::{
    connection::Connection,
    counters::Ending,
    framed::Framed,
    hub::Hub,
    registry::Admitted,
    service::{Listener, Service},
    socket, websocket,
    wire::Wire,
};
use crate::sip::transport::Transport;

/// After a failure to accept, for want of file descriptors say.
const PAUSE: Duration = Duration::from_millis(50);

/// Why nobody can connect.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {} for {}: {source}; see `ss -ltnp` for who has the port, and `ip address` for whether this machine has the address", .listener.address, .listener.transport.name())]
pub struct ListenError {
    /// Where.
    pub listener: Listener,
    /// What the kernel said.
    pub source: io::Error,
}

/// A listener of one thread, open.
pub(super) struct Bound {
    pub(super) service: ServiceId,
    pub(super) listener: Listener,
    pub(super) socket: std::net::TcpListener,
    /// Turns true when it is no longer wanted.
    pub(super) end: watch::Receiver<bool>,
}

/// Opens a listener.
pub(super) fn bind(listener: Listener) -> Result<std::net::TcpListener, ListenError> {
    socket::listen(listener.address).map_err(|source| ListenError { listener, source })
}

/// Accepts connections until it is no longer wanted.
pub(super) async fn run(hub: Arc<Hub>, worker: usize, bound: Bound) {
    let Bound {
        service,
        listener,
        socket,
        mut end,
    } = bound;
    let socket = match TcpListener::from_std(socket) {
        Ok(socket) => socket,
        Err(error) => {
            tracing::error!(%error, address = %listener.address, "cannot accept connections; restart the daemon");
            return;
        }
    };
    loop {
        let accepted = tokio::select! {
            biased;
            _ = end.wait_for(|end| *end) => break,
            accepted = socket.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => admit(&hub, worker, service, listener.transport, stream, peer),
            Err(error) => {
                tracing::warn!(%error, address = %listener.address, "cannot accept a connection; raise the limit on open files if that is why");
                sleep(PAUSE).await;
            }
        }
    }
}

/// Takes a connection in, or closes it if that would be over a limit.
fn admit(
    hub: &Arc<Hub>,
    worker: usize,
    service: ServiceId,
    transport: Transport,
    stream: TcpStream,
    peer: SocketAddr,
) {
    match hub.registry.admit(peer.ip()) {
        Ok(admitted) => {
            hub.counters.accept(transport);
            socket::prepare(&stream);
            spawn_local(welcome(
                Arc::clone(hub),
                Client {
                    worker,
                    service,
                    transport,
                    peer,
                    admitted,
                },
                stream,
            ));
        }
        Err(ending) => hub.counters.end(ending),
    }
}

/// A client that has connected.
struct Client {
    worker: usize,
    service: ServiceId,
    transport: Transport,
    peer: SocketAddr,
    admitted: Admitted,
}

/// Brings a connection as far as messages, and serves it.
async fn welcome(hub: Arc<Hub>, client: Client, stream: TcpStream) {
    let Some(service) = hub.service(client.service) else {
        return;
    };
    match client.transport {
        Transport::Tls | Transport::Wss => {
            let Some(tls) = &service.server_tls else {
                return;
            };
            let accepted = timeout(hub.limits().handshake_timeout, tls.accept(stream)).await;
            match accepted {
                Ok(Ok(stream)) => Box::pin(speak(&hub, &service, client, stream)).await,
                Ok(Err(error)) => {
                    tracing::debug!(peer = %client.peer, %error, "no TLS handshake");
                    hub.counters.end(Ending::Malformed);
                }
                Err(_) => hub.counters.end(Ending::Handshake),
            }
        }
        _ => speak(&hub, &service, client, stream).await,
    }
}

async fn speak<S>(hub: &Arc<Hub>, service: &Service, client: Client, stream: S)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let limits = hub.limits();
    match client.transport {
        Transport::Ws | Transport::Wss => {
            let accepted = timeout(
                limits.handshake_timeout,
                Box::pin(websocket::accept(stream, limits)),
            );
            match accepted.await {
                Ok(Ok(wire)) => serve(hub, service, client, wire).await,
                Ok(Err(ending)) => hub.counters.end(ending),
                Err(_) => hub.counters.end(Ending::Handshake),
            }
        }
        _ => serve(hub, service, client, Framed::new(stream, limits)).await,
    }
}

async fn serve<W: Wire>(hub: &Arc<Hub>, service: &Service, client: Client, wire: W) {
    let Client {
        worker,
        service: id,
        transport,
        peer,
        admitted,
    } = client;
    let most = hub.limits().write_buffer;
    let registered = hub.registry.register(id, transport, peer, most);
    let is_backend = service.is_backend_host(peer.ip());
    Connection::new(wire, hub, worker, is_backend, registered, Some(admitted))
        .run()
        .await;
}
