//! Sending messages of mode `proxy` on, from the VIP's own socket.
//!
//! A message leaves in one part. Its pieces could be handed to the kernel as they lie, but a request
//! has nine of them: the kernel copies a message anyway, and takes longer over each piece than a copy
//! of all of them takes here.
//!
//! Messages to one destination that follow each other leave as one where UDP allows it (udp(7),
//! `UDP_SEGMENT`): all of one size, but for the last, which may be shorter. The kernel takes them
//! through most of its layers as one packet.

use std::{array, io, net::SocketAddr, ops::Range, os::fd::AsRawFd, ptr};

use sip_forwarder_ebpf::verdict::Verdict;
use socket2::Socket;

use super::{
    errors,
    name::Name,
    receive::{BATCH, empty_header},
    transparent::send_headers,
};
use crate::sip::proxy::Patch;

/// The longest message that leaves together with others. With its headers it fits the smallest MTU
/// that IPv6 allows (RFC 8200 section 5): a segment is never fragmented, but refused.
const LONGEST_SEGMENT: usize = 1_280 - 40 - 8;

// Older kernels take 64 segments at once, and no more than a packet can hold.
const _: () = assert!(BATCH <= 64 && BATCH * LONGEST_SEGMENT <= 65_507);

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
pub(super) struct Leaving {
    /// One behind the other.
    bytes: Vec<u8>,
    /// Where each message ends in `bytes`.
    ends: [usize; BATCH],
    joining: Joining,
}

/// Do messages leave together?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Joining {
    Allowed,
    /// The kernel, a device or a path does not take it.
    Refused,
}

impl Default for Leaving {
    fn default() -> Self {
        Self {
            bytes: Vec::new(),
            ends: [0; BATCH],
            joining: Joining::Allowed,
        }
    }
}

/// Ancillary data that says the size of segments, as `CMSG_DATA` lays it out.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Control {
    header: libc::cmsghdr,
    size: u16,
}

// SAFETY: this only calculates.
const _: () = assert!(size_of::<Control>() == unsafe { libc::CMSG_SPACE(2) } as usize);

impl Control {
    fn new(size: usize) -> Self {
        Self {
            header: libc::cmsghdr {
                cmsg_len: size_of::<libc::cmsghdr>() + size_of::<u16>(),
                cmsg_level: libc::SOL_UDP,
                cmsg_type: libc::UDP_SEGMENT,
            },
            // Not longer than `LONGEST_SEGMENT`.
            size: size as u16,
        }
    }
}

impl Leaving {
    /// Sends a batch of at most [`BATCH`] messages, and tells of each what became of it. `payload`
    /// gives the bytes of a slot. The batch is ordered by destination; what goes to one destination
    /// stays in order.
    pub(super) fn send<'a>(
        &mut self,
        socket: &Socket,
        batch: &mut [Patched],
        patches: &[Patch],
        payload: impl Fn(usize) -> &'a [u8],
        mut done: impl FnMut(&Patched, io::Result<()>),
    ) {
        batch.sort_unstable_by_key(|message| (message.to, message.slot));
        self.bytes.clear();
        for (message, end) in batch.iter().zip(&mut self.ends) {
            patches[message.slot].write_to(payload(message.slot), &mut self.bytes);
            *end = self.bytes.len();
        }
        self.transmit(socket, batch, 0..batch.len(), self.joining, &mut done);
    }

    /// Sends the messages of a range. Returns how many could not be sent.
    fn transmit(
        &mut self,
        socket: &Socket,
        batch: &[Patched],
        range: Range<usize>,
        joining: Joining,
        done: &mut impl FnMut(&Patched, io::Result<()>),
    ) -> usize {
        let mut runs = [const { 0..0 }; BATCH];
        let count = self.split(batch, range, joining, &mut runs);
        let runs = &runs[..count];
        let mut frames = Frames::default();
        frames.describe(runs, batch, &self.bytes, &self.ends);
        let (mut at, mut told, mut failed) = (0, None, 0);
        while at < count {
            // Every header's name, ancillary data, part and bytes live until here, with the lengths given.
            match send_headers(socket.as_raw_fd(), &mut frames.headers[at..count]) {
                Ok(sent) => {
                    let messages = runs[at].start..runs[at + sent - 1].end;
                    batch[messages].iter().for_each(|m| done(m, Ok(())));
                    at += sent;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Of a message before: this one has not been tried.
                Err(error) if errors::is_earlier(&error) && told != Some(at) => told = Some(at),
                Err(_) if runs[at].len() > 1 => {
                    let run = runs[at].clone();
                    if self.transmit(socket, batch, run, Joining::Refused, done) == 0 {
                        // One by one they can be sent.
                        self.joining = Joining::Refused;
                    }
                    // The headers pointed into what was just lent out.
                    frames.describe(runs, batch, &self.bytes, &self.ends);
                    at += 1;
                }
                Err(error) => {
                    done(&batch[runs[at].start], Err(error));
                    failed += 1;
                    at += 1;
                }
            }
        }
        failed
    }

    /// Splits a range of messages into runs that leave together. Returns how many there are.
    fn split(
        &self,
        batch: &[Patched],
        range: Range<usize>,
        joining: Joining,
        runs: &mut [Range<usize>; BATCH],
    ) -> usize {
        let mut count = 0;
        let mut begin = range.start;
        while begin < range.end {
            let size = self.length(begin);
            let mut end = begin + 1;
            while joining == Joining::Allowed
                && size <= LONGEST_SEGMENT
                && end < range.end
                && batch[end].to == batch[begin].to
                // Behind a shorter one comes nothing.
                && self.length(end - 1) == size
                && (1..=size).contains(&self.length(end))
            {
                end += 1;
            }
            runs[count] = begin..end;
            count += 1;
            begin = end;
        }
        count
    }

    fn length(&self, message: usize) -> usize {
        self.ends[message] - begin_of(&self.ends, message)
    }
}

/// Where a message begins among the bytes of all.
fn begin_of(ends: &[usize; BATCH], message: usize) -> usize {
    message.checked_sub(1).map_or(0, |before| ends[before])
}

/// What describes a batch to the kernel.
struct Frames {
    headers: [libc::mmsghdr; BATCH],
    names: [Name; BATCH],
    parts: [libc::iovec; BATCH],
    controls: [Control; BATCH],
}

impl Default for Frames {
    fn default() -> Self {
        Self {
            headers: array::from_fn(|_| empty_header()),
            names: [Name::default(); BATCH],
            parts: array::from_fn(|_| libc::iovec {
                iov_base: ptr::null_mut(),
                iov_len: 0,
            }),
            controls: [Control::new(0); BATCH],
        }
    }
}

impl Frames {
    /// Makes a header for each run of messages, whose bytes end at `ends`.
    fn describe(
        &mut self,
        runs: &[Range<usize>],
        batch: &[Patched],
        bytes: &[u8],
        ends: &[usize; BATCH],
    ) {
        for (index, run) in runs.iter().enumerate() {
            let begin = begin_of(ends, run.start);
            let part = &bytes[begin..ends[run.end - 1]];
            self.parts[index] = libc::iovec {
                iov_base: part.as_ptr().cast_mut().cast(),
                iov_len: part.len(),
            };
            let header = &mut self.headers[index].msg_hdr;
            (self.names[index], header.msg_namelen) = Name::new(batch[run.start].to);
            header.msg_name = (&raw mut self.names[index]).cast();
            header.msg_iov = &raw mut self.parts[index];
            header.msg_iovlen = 1;
            if run.len() > 1 {
                self.controls[index] = Control::new(ends[run.start] - begin);
                header.msg_control = (&raw mut self.controls[index]).cast();
                header.msg_controllen = size_of::<Control>();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slowpath::options;
    use std::{net::UdpSocket, time::Duration};

    /// Sizes of messages, and the receiver of each.
    const MESSAGES: [(usize, usize); 12] = [
        (500, 0),
        (500, 0),
        (500, 1),
        (0, 0),
        (500, 0),
        (400, 0),
        (400, 0),
        (600, 0),
        (LONGEST_SEGMENT, 1),
        (LONGEST_SEGMENT, 1),
        (LONGEST_SEGMENT + 1, 1),
        (9_000, 1),
    ];

    fn leaving(sizes: &[usize]) -> Leaving {
        let mut leaving = Leaving::default();
        let mut end = 0;
        for (size, at) in sizes.iter().zip(&mut leaving.ends) {
            end += size;
            *at = end;
        }
        leaving
    }

    fn to(address: &str, slot: usize) -> Patched {
        Patched {
            to: address.parse().unwrap(),
            slot,
            verdict: Verdict::ForwardedHome,
        }
    }

    #[test]
    fn a_run_is_of_one_size_but_for_a_shorter_end() {
        let runs = |sizes: &[usize], joining| {
            let batch: Vec<_> = (0..sizes.len()).map(|n| to("192.0.2.1:5060", n)).collect();
            let mut runs = [const { 0..0 }; BATCH];
            let count = leaving(sizes).split(&batch, 0..sizes.len(), joining, &mut runs);
            runs[..count].iter().map(Range::len).collect::<Vec<_>>()
        };
        for (sizes, expected) in [
            (&[][..], &[][..]),
            (&[5, 5, 5], &[3]),
            (&[5, 5, 4, 4, 4], &[3, 2]),
            (&[4, 5, 5], &[1, 2]),
            (&[5, 0, 0, 5], &[1, 1, 1, 1]),
            (&[LONGEST_SEGMENT; 2], &[2]),
            (&[LONGEST_SEGMENT + 1; 2], &[1, 1]),
            (&[9; BATCH], &[BATCH]),
        ] {
            assert_eq!(runs(sizes, Joining::Allowed), expected, "{sizes:?}");
            let alone = vec![1; sizes.len()];
            assert_eq!(runs(sizes, Joining::Refused), alone, "{sizes:?}");
        }
    }

    #[test]
    fn what_goes_elsewhere_ends_a_run() {
        let batch = ["192.0.2.1:1", "192.0.2.1:1", "192.0.2.1:2"].map(|address| to(address, 0));
        let mut runs = [const { 0..0 }; BATCH];
        let count = leaving(&[5; 3]).split(&batch, 0..3, Joining::Allowed, &mut runs);
        assert_eq!(runs[..count], [0..2, 2..3]);
    }

    /// Sends [`MESSAGES`], and says whether messages may still leave together.
    fn all_arrive(any: &str, prepare: impl Fn(&Socket)) -> Joining {
        let receivers = [(); 2].map(|()| {
            let socket = UdpSocket::bind(any).unwrap();
            let patience = Some(Duration::from_secs(20));
            socket.set_read_timeout(patience).unwrap();
            socket
        });
        let socket = Socket::from(UdpSocket::bind(any).unwrap());
        prepare(&socket);
        let payloads: Vec<_> = MESSAGES
            .iter()
            .enumerate()
            .map(|(n, &(size, _))| vec![n as u8; size])
            .collect();
        let patches: Vec<_> = payloads.iter().map(|p| Patch::none(p.len())).collect();
        let mut batch: Vec<_> = (0..MESSAGES.len())
            .map(|slot| Patched {
                to: receivers[MESSAGES[slot].1].local_addr().unwrap(),
                slot,
                verdict: Verdict::ForwardedHome,
            })
            .collect();
        let mut leaving = Leaving::default();
        let mut told = [0; MESSAGES.len()];
        leaving.send(
            &socket,
            &mut batch,
            &patches,
            |slot| &payloads[slot],
            |message, result| {
                result.unwrap();
                told[message.slot] += 1;
            },
        );
        assert_eq!(told, [1; MESSAGES.len()]);
        for (payload, &(_, receiver)) in payloads.iter().zip(&MESSAGES) {
            let mut buffer = vec![0xff; 10_000];
            let length = receivers[receiver].recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..length], payload);
        }
        leaving.joining
    }

    #[test]
    fn messages_of_all_sizes_arrive_in_order() {
        for any in ["127.0.0.1:0", "[::1]:0"] {
            assert_eq!(all_arrive(any, |_| {}), Joining::Allowed, "{any}");
        }
    }

    #[test]
    fn where_messages_must_not_leave_together_they_leave_alone() {
        // The kernel refuses segments without checksums.
        let without_checksums = |socket: &Socket| {
            options::set(socket, libc::SOL_SOCKET, libc::SO_NO_CHECK, 1).unwrap();
        };
        assert_eq!(
            all_arrive("127.0.0.1:0", without_checksums),
            Joining::Refused
        );
    }

    #[test]
    fn a_message_that_cannot_be_sent_is_told_and_those_beside_it_are_sent() {
        let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
        let socket = Socket::from(UdpSocket::bind("127.0.0.1:0").unwrap());
        let nowhere = "127.0.0.1:0".parse().unwrap();
        let mut batch = [nowhere, nowhere, receiver.local_addr().unwrap()].map(|to| Patched {
            to,
            slot: 0,
            verdict: Verdict::ForwardedHome,
        });
        let mut leaving = Leaving::default();
        let mut results = Vec::new();
        leaving.send(
            &socket,
            &mut batch,
            &[Patch::none(3)],
            |_| b"abc",
            |message, result| results.push((message.to == nowhere, result.is_err())),
        );
        assert_eq!(results, [(true, true), (true, true), (false, false)]);
        assert_eq!(leaving.joining, Joining::Allowed);
        let mut buffer = [0; 9];
        assert_eq!(receiver.recv(&mut buffer).unwrap(), 3);
    }
}
