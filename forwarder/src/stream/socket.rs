//! TCP sockets, set up as connections here need them.

use std::{io, net::SocketAddr, time::Duration};

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpSocket, TcpStream};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 4_096;
/// After so much silence the kernel asks a peer whether it is still there, as a phone may vanish.
const KEEP_ALIVE: Duration = Duration::from_mins(1);

/// A socket that listens beside those of the other workers.
pub(super) fn listen(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Connects from an address of ours, so that the peer knows who asks.
pub(super) async fn connect(from: SocketAddr, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = if to.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    let mut from = from;
    from.set_port(0);
    if from.is_ipv4() == to.is_ipv4() {
        socket.bind(from)?;
    }
    let stream = socket.connect(to).await?;
    prepare(&stream);
    Ok(stream)
}

/// Messages leave at once, and a peer that vanished is noticed. A socket that refuses goes on without.
pub(super) fn prepare(stream: &TcpStream) {
    let _ = stream.set_nodelay(true);
    let keep_alive = TcpKeepalive::new()
        .with_time(KEEP_ALIVE)
        .with_interval(KEEP_ALIVE / 4);
    let _ = SockRef::from(stream).set_tcp_keepalive(&keep_alive);
}
