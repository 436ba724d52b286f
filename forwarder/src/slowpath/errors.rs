//! What the network says of messages that did not arrive: ICMP errors, kept by the kernel for the socket
//! that sent the message (ip(7), `IP_RECVERR`).

use std::{
    io,
    net::SocketAddr,
    os::fd::{AsRawFd as _, BorrowedFd},
    ptr,
};

use socket2::Socket;

use super::{name::Name, options};

/// Has the kernel keep errors for this socket.
pub(super) fn keep(socket: &Socket, address: SocketAddr) -> io::Result<()> {
    let (level, option) = match address {
        SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_RECVERR),
        SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_RECVERR),
    };
    options::set(socket, level, option, 1)
}

/// The next error that is kept: to whom the message was sent. `None` if there is none.
pub(super) fn next(socket: BorrowedFd<'_>) -> Option<SocketAddr> {
    let mut name = Name::default();
    let mut control = [0_u64; 64];
    let mut byte = 0_u8;
    let mut part = libc::iovec {
        iov_base: (&raw mut byte).cast(),
        iov_len: 1,
    };
    let mut header = libc::msghdr {
        msg_name: (&raw mut name).cast(),
        msg_namelen: Name::LENGTH,
        msg_iov: &raw mut part,
        msg_iovlen: 1,
        msg_control: control.as_mut_ptr().cast(),
        msg_controllen: size_of_val(&control),
        msg_flags: 0,
    };
    // SAFETY: the header points to a name, a part and ancillary data of the lengths given, all alive until
    // the call returns.
    let received = unsafe {
        libc::recvmsg(
            socket.as_raw_fd(),
            ptr::from_mut(&mut header),
            libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT,
        )
    };
    if received < 0 {
        return None;
    }
    name.address()
}

/// Is this the error of an earlier message, which the kernel tells at the next call on the socket?
pub(super) fn is_earlier(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
    )
}
