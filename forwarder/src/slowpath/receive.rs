//! Datagrams from a socket, many at a time.

use std::{
    array, io,
    net::SocketAddr,
    os::fd::{AsRawFd, BorrowedFd},
    ptr,
};

use super::{errors, name::Name};

/// Datagrams taken from a socket by one call, at most.
pub const BATCH: usize = 32;
/// Larger than any UDP datagram.
const LARGEST: usize = 65_535;
/// From the beginning of one datagram's room to the next. If that were a multiple of a large power of
/// two, the first lines of all datagrams would share a few places in the processor's caches.
const STRIDE: usize = LARGEST + 1 + 640;

/// Room for one batch.
pub struct Batch {
    /// The datagrams' bytes, `STRIDE` for each. Pages that no datagram ever reached are not there.
    bytes: Vec<u8>,
    clients: [Option<SocketAddr>; BATCH],
    lengths: [usize; BATCH],
}

impl Default for Batch {
    fn default() -> Self {
        Self {
            bytes: vec![0; BATCH * STRIDE],
            clients: [None; BATCH],
            lengths: [0; BATCH],
        }
    }
}

impl Batch {
    /// Replaces the batch with what waits at `socket`, without waiting for more. Returns how many
    /// datagrams there are, 0 if none wait.
    pub fn receive(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        let mut names = [Name::default(); BATCH];
        let mut parts = array::from_fn::<_, BATCH, _>(|_| libc::iovec {
            iov_base: ptr::null_mut(),
            iov_len: LARGEST,
        });
        for (part, room) in parts.iter_mut().zip(self.bytes.chunks_exact_mut(STRIDE)) {
            part.iov_base = room.as_mut_ptr().cast();
        }
        let mut headers = array::from_fn::<_, BATCH, _>(|_| empty_header());
        for ((header, part), name) in headers.iter_mut().zip(&mut parts).zip(&mut names) {
            header.msg_hdr.msg_name = ptr::from_mut(name).cast();
            header.msg_hdr.msg_namelen = Name::LENGTH;
            header.msg_hdr.msg_iov = part;
            header.msg_hdr.msg_iovlen = 1;
        }
        // SAFETY: every header points to a name of `msg_namelen` bytes and to one part of `LARGEST`
        // bytes, all distinct and alive until the call returns.
        let received = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                headers.as_mut_ptr(),
                BATCH as libc::c_uint,
                libc::MSG_DONTWAIT,
                ptr::null_mut(),
            )
        };
        let Ok(received) = usize::try_from(received) else {
            return nothing(io::Error::last_os_error());
        };
        for slot in 0..received {
            self.lengths[slot] = headers[slot].msg_len as usize;
            self.clients[slot] = names[slot].address();
        }
        Ok(received)
    }

    /// The bytes of a datagram.
    #[must_use]
    pub fn datagram(&self, slot: usize) -> &[u8] {
        &self.bytes[slot * STRIDE..][..self.lengths[slot]]
    }

    /// Who sent a datagram, if that is an Internet address.
    #[must_use]
    pub fn client(&self, slot: usize) -> Option<SocketAddr> {
        self.clients[slot]
    }
}

/// A failure that only means that nothing was received is none.
fn nothing(error: io::Error) -> io::Result<usize> {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(0),
        _ if errors::is_earlier(&error) => Ok(0),
        _ => Err(error),
    }
}

/// A header of nothing.
pub(super) fn empty_header() -> libc::mmsghdr {
    libc::mmsghdr {
        msg_hdr: libc::msghdr {
            msg_name: ptr::null_mut(),
            msg_namelen: 0,
            msg_iov: ptr::null_mut(),
            msg_iovlen: 0,
            msg_control: ptr::null_mut(),
            msg_controllen: 0,
            msg_flags: 0,
        },
        msg_len: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{net::UdpSocket, os::fd::AsFd};

    #[test]
    fn datagrams_of_any_size_arrive_with_their_senders() {
        for any in ["127.0.0.1:0", "[::1]:0"] {
            let to = UdpSocket::bind(any).unwrap();
            let from = UdpSocket::bind(any).unwrap();
            let mut batch = Batch::default();
            assert_eq!(batch.receive(to.as_fd()).unwrap(), 0);
            for size in [0, 1, 1_400, 60_000] {
                from.send_to(&vec![size as u8; size], to.local_addr().unwrap())
                    .unwrap();
            }
            assert_eq!(batch.receive(to.as_fd()).unwrap(), 4);
            for (slot, size) in [0, 1, 1_400, 60_000].into_iter().enumerate() {
                assert_eq!(batch.datagram(slot), vec![size as u8; size]);
                assert_eq!(batch.client(slot), from.local_addr().ok());
            }
        }
    }
}
