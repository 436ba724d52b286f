//! Sending messages of mode `proxy` on: from the VIP's own socket, in the pieces their patches say, so
//! that nothing is copied.

use std::{array, io, net::SocketAddr, os::fd::AsRawFd, ptr};

use sip_forwarder_ebpf::verdict::Verdict;
use socket2::Socket;

use super::{
    errors,
    name::Name,
    receive::{BATCH, empty_header},
    transparent::send_headers,
};
use crate::sip::proxy::Patch;

/// A message to be sent on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patched {
    /// To whom.
    pub(super) to: SocketAddr,
    /// Which datagram of the received batch it is; its patch has the same number.
    pub(super) slot: usize,
    /// What is counted once it is sent.
    pub(super) verdict: Verdict,
}

/// Room for the pieces of a batch, used again and again.
#[derive(Default)]
pub(super) struct Pieces {
    parts: Vec<libc::iovec>,
}

// SAFETY: the pointers are of one call to `send` and are cleared before it returns.
unsafe impl Send for Pieces {}

impl Pieces {
    /// Sends a batch of at most [`BATCH`] messages, and tells of each what became of it. `payload`
    /// gives the bytes of a slot.
    pub(super) fn send<'a>(
        &mut self,
        socket: &Socket,
        batch: &[Patched],
        patches: &[Patch],
        payload: impl Fn(usize) -> &'a [u8],
        mut done: impl FnMut(&Patched, io::Result<()>),
    ) {
        let mut names = [Name::default(); BATCH];
        let mut headers = array::from_fn::<_, BATCH, _>(|_| empty_header());
        let mut ends = [0; BATCH];
        self.parts.clear();
        for (message, end) in batch.iter().zip(&mut ends) {
            let slices = patches[message.slot].slices(payload(message.slot));
            self.parts.extend(slices.map(|slice| libc::iovec {
                iov_base: slice.as_ptr().cast_mut().cast(),
                iov_len: slice.len(),
            }));
            *end = self.parts.len();
        }
        let mut begin = 0;
        for (((message, header), name), &end) in
            batch.iter().zip(&mut headers).zip(&mut names).zip(&ends)
        {
            let (address, length) = Name::new(message.to);
            *name = address;
            header.msg_hdr.msg_name = ptr::from_mut(name).cast();
            header.msg_hdr.msg_namelen = length;
            header.msg_hdr.msg_iov = self.parts[begin..end].as_mut_ptr();
            header.msg_hdr.msg_iovlen = end - begin;
            begin = end;
        }
        let mut at = 0;
        let mut told = None;
        while at < batch.len() {
            // Every header's name and parts live until here, with the lengths given.
            match send_headers(socket.as_raw_fd(), &mut headers[at..batch.len()]) {
                Ok(count) => {
                    batch[at..at + count].iter().for_each(|m| done(m, Ok(())));
                    at += count;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Of a message before: this one has not been tried.
                Err(error) if errors::is_earlier(&error) && told != Some(at) => told = Some(at),
                Err(error) => {
                    done(&batch[at], Err(error));
                    at += 1;
                }
            }
        }
        self.parts.clear();
    }
}
