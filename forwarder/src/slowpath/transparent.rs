//! Sending on with the sender's own address: the backend sees the client, as it does behind the fast
//! path.
//!
//! A raw socket sends what is to follow the IP header. The source address goes along as ancillary
//! data, which a transparent socket may set to any; the UDP header with its checksum is made here;
//! routing and fragments are left to the kernel.

use std::{
    array, io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsRawFd, RawFd},
    ptr,
};

use sip_forwarder_ebpf::{csum, verdict::Verdict};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};

use super::{
    name::Name,
    options,
    receive::{BATCH, empty_header},
};

const UDP_HEADER: usize = 8;

/// Why transparent sending cannot be.
#[derive(Debug, thiserror::Error)]
pub enum TransparentError {
    /// No raw socket.
    #[error(
        "cannot open a raw {family} socket to send messages on with their sender's address: {source}; run as root or with CAP_NET_RAW"
    )]
    Open {
        /// IPv4 or IPv6.
        family: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The raw socket does not take a setting.
    #[error(
        "cannot set {setting} on a raw {family} socket: {source}; run as root or with CAP_NET_ADMIN"
    )]
    Setting {
        /// Which setting.
        setting: &'static str,
        /// IPv4 or IPv6.
        family: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// A datagram to be sent on.
#[derive(Clone, Copy, Debug)]
pub struct Outgoing {
    /// Whom the backend sees as the sender.
    pub source: SocketAddr,
    /// The backend.
    pub backend: SocketAddr,
    /// Which datagram of the received batch it is.
    pub slot: usize,
    /// What is counted once it is sent.
    pub verdict: Verdict,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

impl Family {
    const fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }
}

impl Outgoing {
    /// The family of both ends, if they have one in common.
    fn family(&self) -> Option<Family> {
        match (self.source, self.backend) {
            (SocketAddr::V4(_), SocketAddr::V4(_)) => Some(Family::V4),
            (SocketAddr::V6(_), SocketAddr::V6(_)) => Some(Family::V6),
            _ => None,
        }
    }
}

/// The raw sockets of one worker.
#[derive(Debug)]
pub struct Transparent {
    v4: Option<Socket>,
    v6: Option<Socket>,
}

impl Transparent {
    /// Opens a socket for each family that `vips` have.
    pub fn open(vips: impl IntoIterator<Item = SocketAddr>) -> Result<Self, TransparentError> {
        let mut sockets = Self { v4: None, v6: None };
        for vip in vips {
            match vip {
                SocketAddr::V4(_) if sockets.v4.is_none() => sockets.v4 = Some(raw(Family::V4)?),
                SocketAddr::V6(_) if sockets.v6.is_none() => sockets.v6 = Some(raw(Family::V6)?),
                _ => {}
            }
        }
        Ok(sockets)
    }

    /// Sends a batch, and tells of each what became of it. `payload` gives the bytes of a slot.
    pub fn send<'a>(
        &self,
        batch: &[Outgoing],
        payload: impl Fn(usize) -> &'a [u8],
        mut done: impl FnMut(&Outgoing, io::Result<()>),
    ) {
        for run in batch.chunk_by(|a, b| a.family() == b.family()) {
            let socket = match run[0].family() {
                Some(Family::V4) => self.v4.as_ref(),
                Some(Family::V6) => self.v6.as_ref(),
                None => None,
            };
            for some in run.chunks(BATCH) {
                match socket {
                    Some(socket) => send_some(socket, some, &payload, &mut done),
                    None => some.iter().for_each(|o| done(o, Err(no_family()))),
                }
            }
        }
    }
}

fn no_family() -> io::Error {
    io::Error::new(
        io::ErrorKind::Unsupported,
        "sender and backend must have addresses of the VIP's family",
    )
}

fn raw(family: Family) -> Result<Socket, TransparentError> {
    let name = family.name();
    let domain = match family {
        Family::V4 => Domain::IPV4,
        Family::V6 => Domain::IPV6,
    };
    let socket = Socket::new(domain, Type::RAW, Some(Protocol::UDP)).map_err(|source| {
        TransparentError::Open {
            family: name,
            source,
        }
    })?;
    let setting = |setting, result: io::Result<()>| {
        result.map_err(|source| TransparentError::Setting {
            setting,
            family: name,
            source,
        })
    };
    // A raw socket is given a copy of everything; this one wants nothing.
    let drop_all = SockFilter::new((libc::BPF_RET | libc::BPF_K) as u16, 0, 0, 0);
    setting("a filter that drops all", socket.attach_filter(&[drop_all]))?;
    setting("non-blocking mode", socket.set_nonblocking(true))?;
    setting("the send buffer", options::large_send_buffer(&socket))?;
    // What is larger than the path carries is to leave in fragments.
    match family {
        Family::V4 => {
            setting("IP_TRANSPARENT", socket.set_ip_transparent_v4(true))?;
            let (option, value) = (libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DONT);
            let result = options::set(&socket, libc::IPPROTO_IP, option, value);
            setting("IP_MTU_DISCOVER", result)?;
        }
        Family::V6 => {
            setting("IPV6_TRANSPARENT", socket.set_ip_transparent_v6(true))?;
            let (option, value) = (libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DONT);
            let result = options::set(&socket, libc::IPPROTO_IPV6, option, value);
            setting("IPV6_MTU_DISCOVER", result)?;
        }
    }
    Ok(socket)
}

/// Ancillary data that says an IPv4 source address, as `CMSG_DATA` lays it out.
#[repr(C)]
#[derive(Clone, Copy)]
struct Control4 {
    header: libc::cmsghdr,
    info: libc::in_pktinfo,
}

/// Ancillary data that says an IPv6 source address.
#[repr(C)]
#[derive(Clone, Copy)]
struct Control6 {
    header: libc::cmsghdr,
    info: libc::in6_pktinfo,
}

const _: () = {
    // SAFETY: both only calculate.
    let (space4, space6) = unsafe {
        (
            libc::CMSG_SPACE(size_of::<libc::in_pktinfo>() as u32),
            libc::CMSG_SPACE(size_of::<libc::in6_pktinfo>() as u32),
        )
    };
    assert!(size_of::<Control4>() == space4 as usize);
    assert!(size_of::<Control6>() == space6 as usize);
};

#[derive(Clone, Copy)]
enum Control {
    V4(Control4),
    V6(Control6),
}

const fn control_header(level: i32, kind: i32, info: usize) -> libc::cmsghdr {
    libc::cmsghdr {
        cmsg_len: size_of::<libc::cmsghdr>() + info,
        cmsg_level: level,
        cmsg_type: kind,
    }
}

impl Control {
    fn new(source: IpAddr) -> Self {
        match source {
            IpAddr::V4(v4) => Self::V4(Control4 {
                header: control_header(
                    libc::IPPROTO_IP,
                    libc::IP_PKTINFO,
                    size_of::<libc::in_pktinfo>(),
                ),
                info: libc::in_pktinfo {
                    ipi_ifindex: 0,
                    ipi_spec_dst: libc::in_addr {
                        s_addr: u32::from_ne_bytes(v4.octets()),
                    },
                    ipi_addr: libc::in_addr { s_addr: 0 },
                },
            }),
            IpAddr::V6(v6) => Self::V6(Control6 {
                header: control_header(
                    libc::IPPROTO_IPV6,
                    libc::IPV6_PKTINFO,
                    size_of::<libc::in6_pktinfo>(),
                ),
                info: libc::in6_pktinfo {
                    ipi6_addr: libc::in6_addr {
                        s6_addr: v6.octets(),
                    },
                    ipi6_ifindex: 0,
                },
            }),
        }
    }

    fn as_mut_parts(&mut self) -> (*mut libc::c_void, usize) {
        match self {
            Self::V4(control) => (ptr::from_mut(control).cast(), size_of::<Control4>()),
            Self::V6(control) => (ptr::from_mut(control).cast(), size_of::<Control6>()),
        }
    }
}

/// Everything that one message's header points to, but the payload.
#[derive(Clone, Copy)]
struct Frame {
    name: Name,
    name_length: libc::socklen_t,
    control: Control,
    udp: [u8; UDP_HEADER],
    parts: [libc::iovec; 2],
}

impl Frame {
    fn new(outgoing: &Outgoing, payload: &[u8]) -> Self {
        let mut destination = outgoing.backend;
        // To a raw IPv6 socket, a port is a protocol.
        destination.set_port(0);
        let (name, name_length) = Name::new(destination);
        Self {
            name,
            name_length,
            control: Control::new(outgoing.source.ip()),
            udp: udp_header(outgoing.source, outgoing.backend, payload),
            parts: [
                libc::iovec {
                    iov_base: ptr::null_mut(),
                    iov_len: UDP_HEADER,
                },
                libc::iovec {
                    iov_base: payload.as_ptr().cast_mut().cast(),
                    iov_len: payload.len(),
                },
            ],
        }
    }

    /// Points `header` to what this frame holds.
    fn describe(&mut self, header: &mut libc::msghdr) {
        self.parts[0].iov_base = self.udp.as_mut_ptr().cast();
        header.msg_name = ptr::from_mut(&mut self.name).cast();
        header.msg_namelen = self.name_length;
        header.msg_iov = self.parts.as_mut_ptr();
        header.msg_iovlen = self.parts.len();
        (header.msg_control, header.msg_controllen) = self.control.as_mut_parts();
    }
}

/// Sends at most [`BATCH`] datagrams of the socket's family.
fn send_some<'a>(
    socket: &Socket,
    some: &[Outgoing],
    payload: &impl Fn(usize) -> &'a [u8],
    done: &mut impl FnMut(&Outgoing, io::Result<()>),
) {
    let mut frames = [const { None::<Frame> }; BATCH];
    let mut headers = array::from_fn::<_, BATCH, _>(|_| empty_header());
    for ((frame, header), outgoing) in frames.iter_mut().zip(&mut headers).zip(some) {
        let frame = frame.insert(Frame::new(outgoing, payload(outgoing.slot)));
        frame.describe(&mut header.msg_hdr);
    }
    let mut at = 0;
    while at < some.len() {
        match send_headers(socket.as_raw_fd(), &mut headers[at..some.len()]) {
            Ok(count) => {
                some[at..at + count].iter().for_each(|o| done(o, Ok(())));
                at += count;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                done(&some[at], Err(error));
                at += 1;
            }
        }
    }
}

/// Hands headers to the kernel. Returns how many messages it took, at least one. What each header
/// points to, by its name, its ancillary data and its parts, must be there until this returns.
pub(super) fn send_headers(socket: RawFd, headers: &mut [libc::mmsghdr]) -> io::Result<usize> {
    // SAFETY: both callers fill the headers with names, ancillary data and parts of the lengths given,
    // which they hold until the call returns. The kernel only reads them, so that the payload's pointer
    // may be of shared bytes.
    let sent = unsafe {
        libc::sendmmsg(
            socket,
            headers.as_mut_ptr(),
            headers.len() as libc::c_uint,
            0,
        )
    };
    match usize::try_from(sent) {
        Ok(0) => Err(io::ErrorKind::WriteZero.into()),
        Ok(count) => Ok(count),
        Err(_) => Err(io::Error::last_os_error()),
    }
}

/// The UDP header of a datagram, checksum included (RFC 768; RFC 8200 section 8.1).
fn udp_header(source: SocketAddr, destination: SocketAddr, payload: &[u8]) -> [u8; UDP_HEADER] {
    // No received datagram is longer than the field can say.
    let length = (UDP_HEADER + payload.len()) as u16;
    let mut header = [0; UDP_HEADER];
    header[..2].copy_from_slice(&source.port().to_be_bytes());
    header[2..4].copy_from_slice(&destination.port().to_be_bytes());
    header[4..6].copy_from_slice(&length.to_be_bytes());
    let pseudo = address_sum(source.ip())
        + address_sum(destination.ip())
        + u64::from(length.to_be())
        + u64::from((libc::IPPROTO_UDP as u16).to_be());
    let checksum = match !csum::fold(pseudo + csum::sum(&header) + csum::sum(payload)) {
        0 => 0xffff,
        checksum => checksum,
    };
    header[6..].copy_from_slice(&checksum.to_ne_bytes());
    header
}

fn address_sum(address: IpAddr) -> u64 {
    match address {
        IpAddr::V4(v4) => csum::sum(&v4.octets()),
        IpAddr::V6(v6) => csum::sum(&v6.octets()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_udp_header_sums_to_all_ones_with_its_pseudo_header() {
        for (source, destination) in [
            ("192.0.2.1:5060", "10.0.0.1:5070"),
            ("[2001:db8::1]:5060", "[2001:db8::2]:1"),
        ] {
            let (source, destination) = (address(source), address(destination));
            for payload in [&b""[..], b"x", b"odd", b"even"] {
                let header = udp_header(source, destination, payload);
                assert_eq!(
                    usize::from(u16::from_be_bytes([header[4], header[5]])),
                    8 + payload.len()
                );
                let mut pseudo = vec![0, 17, header[4], header[5]];
                for end in [source.ip(), destination.ip()] {
                    match end {
                        IpAddr::V4(v4) => pseudo.extend(v4.octets()),
                        IpAddr::V6(v6) => pseudo.extend(v6.octets()),
                    }
                }
                let sum = csum::sum(&pseudo) + csum::sum(&header) + csum::sum(payload);
                assert_eq!(csum::fold(sum), 0xffff);
            }
        }
    }

    #[test]
    fn ends_of_two_families_are_an_error_and_no_panic() {
        let sockets = Transparent { v4: None, v6: None };
        let outgoing = Outgoing {
            source: address("192.0.2.1:1"),
            backend: address("[::1]:1"),
            slot: 0,
            verdict: Verdict::ForwardedHome,
        };
        let mut errors = 0;
        sockets.send(
            &[outgoing; 3],
            |_| b"",
            |_, result| errors += usize::from(result.is_err()),
        );
        assert_eq!(errors, 3);
    }
}
