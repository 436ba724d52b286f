//! Socket options that socket2 does not have.

use std::{ffi::c_int, io, os::fd::AsRawFd};

/// Bytes the kernel may hold for one socket: some thousand messages. A neighbour that does not
/// answer takes 200 KiB of a sender's, and must not take all.
const BUFFER: c_int = 4 << 20;

/// Sets an option whose value is a number.
pub(super) fn set(
    socket: &impl AsRawFd,
    level: c_int,
    option: c_int,
    value: c_int,
) -> io::Result<()> {
    let length = size_of::<c_int>() as libc::socklen_t;
    let pointer = (&raw const value).cast();
    // SAFETY: the pointer is to `length` bytes that live until the call returns.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, pointer, length) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Asks for a large receive buffer, beyond the system's limit if that is allowed.
pub(super) fn large_receive_buffer(socket: &impl AsRawFd) -> io::Result<()> {
    set(socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, BUFFER)
        .or_else(|_| set(socket, libc::SOL_SOCKET, libc::SO_RCVBUF, BUFFER))
}

/// Asks for a large send buffer, beyond the system's limit if that is allowed.
pub(super) fn large_send_buffer(socket: &impl AsRawFd) -> io::Result<()> {
    set(socket, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, BUFFER)
        .or_else(|_| set(socket, libc::SOL_SOCKET, libc::SO_SNDBUF, BUFFER))
}
