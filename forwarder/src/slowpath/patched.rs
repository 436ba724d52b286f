//! Sending messages of mode `proxy` on, from the VIP's own socket.
//!
//! A message leaves in one part. Its pieces could be handed to the kernel as they lie, but a request
//! has nine of them: the kernel copies a message anyway, and takes longer over each piece than a copy
//! of all of them takes here.

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

/// Room for the messages of a batch as they leave, used again and again.
#[derive(Default)]
pub(super) struct Leaving {
    /// One behind the other.
    bytes: Vec<u8>,
}

impl Leaving {
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
        let mut lengths = [0; BATCH];
        self.bytes.clear();
        for (message, length) in batch.iter().zip(&mut lengths) {
            let begin = self.bytes.len();
            patches[message.slot].write_to(payload(message.slot), &mut self.bytes);
            *length = self.bytes.len() - begin;
        }
        let mut names = [Name::default(); BATCH];
        let mut headers = array::from_fn::<_, BATCH, _>(|_| empty_header());
        let mut parts = array::from_fn::<_, BATCH, _>(|_| libc::iovec {
            iov_base: ptr::null_mut(),
            iov_len: 0,
        });
        let mut rest = &mut self.bytes[..];
        for (index, message) in batch.iter().enumerate() {
            let (bytes, behind) = rest.split_at_mut(lengths[index]);
            rest = behind;
            parts[index].iov_base = bytes.as_mut_ptr().cast();
            parts[index].iov_len = bytes.len();
            let header = &mut headers[index].msg_hdr;
            (names[index], header.msg_namelen) = Name::new(message.to);
            header.msg_name = (&raw mut names[index]).cast();
            header.msg_iov = &raw mut parts[index];
            header.msg_iovlen = 1;
        }
        let mut at = 0;
        let mut told = None;
        while at < batch.len() {
            // Every header's name, part and bytes live until here, with the lengths given.
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
    }
}
