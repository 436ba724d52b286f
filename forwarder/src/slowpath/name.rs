//! Socket addresses as the kernel writes and reads them.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

const V4: libc::sa_family_t = libc::AF_INET.cast_unsigned() as libc::sa_family_t;
const V6: libc::sa_family_t = libc::AF_INET6.cast_unsigned() as libc::sa_family_t;

/// A `sockaddr_in` or `sockaddr_in6`, as bytes: nothing has to be believed about what the kernel
/// wrote.
#[repr(C, align(8))]
#[derive(Clone, Copy, Default)]
pub(super) struct Name {
    bytes: [u8; Self::SIZE],
}

impl Name {
    const SIZE: usize = size_of::<libc::sockaddr_in6>();
    /// Size of an empty name, for the kernel to write to.
    pub(super) const LENGTH: libc::socklen_t = Self::SIZE as libc::socklen_t;

    /// The name of a socket address, and its length.
    pub(super) fn new(address: SocketAddr) -> (Self, libc::socklen_t) {
        let mut name = Self::default();
        let b = &mut name.bytes;
        b[2..4].copy_from_slice(&address.port().to_be_bytes());
        let (family, length): (libc::sa_family_t, _) = match address {
            SocketAddr::V4(v4) => {
                b[4..8].copy_from_slice(&v4.ip().octets());
                (V4, size_of::<libc::sockaddr_in>())
            }
            SocketAddr::V6(v6) => {
                b[8..24].copy_from_slice(&v6.ip().octets());
                b[24..28].copy_from_slice(&v6.scope_id().to_ne_bytes());
                (V6, Self::SIZE)
            }
        };
        b[..2].copy_from_slice(&family.to_ne_bytes());
        (name, length as libc::socklen_t)
    }

    /// The socket address, unless it is of another family.
    pub(super) fn address(&self) -> Option<SocketAddr> {
        let b = &self.bytes;
        let family = libc::sa_family_t::from_ne_bytes([b[0], b[1]]);
        let port = u16::from_be_bytes([b[2], b[3]]);
        if family == V4 {
            let ip = Ipv4Addr::new(b[4], b[5], b[6], b[7]);
            return Some(SocketAddr::new(ip.into(), port));
        }
        if family != V6 {
            return None;
        }
        let ip: [u8; 16] = *b[8..].first_chunk()?;
        let scope = u32::from_ne_bytes([b[24], b[25], b[26], b[27]]);
        Some(SocketAddrV6::new(Ipv6Addr::from(ip), port, 0, scope).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_the_round_trip() {
        for text in ["192.0.2.1:5060", "[2001:db8::1]:5061", "[fe80::1%3]:7"] {
            let address: SocketAddr = text.parse().unwrap();
            let (name, length) = Name::new(address);
            assert_eq!(name.address(), Some(address));
            // socket2 lays the same bytes out its own way.
            assert_eq!(socket2::SockAddr::from(address).len(), length);
        }
        assert_eq!(Name::default().address(), None);
    }
}
