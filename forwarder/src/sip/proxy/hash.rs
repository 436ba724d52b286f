//! Keyed hashes over several fields, each under a key of its own.

use std::net::{IpAddr, SocketAddr};

use sip_forwarder_ebpf::hash::Hasher;

/// A SipHash-1-3 over fields. The length of each goes in before it, so that no two lists of fields
/// are the same input.
#[derive(Clone, Copy)]
pub(super) struct FieldHasher {
    hasher: Hasher,
    fields: usize,
}

impl FieldHasher {
    pub(super) const fn new(key: [u64; 2]) -> Self {
        Self {
            hasher: Hasher::new(key),
            fields: 0,
        }
    }

    /// Takes in a field.
    #[inline]
    pub(super) fn field(&mut self, bytes: &[u8]) -> &mut Self {
        self.fields += 1;
        self.hasher.word(bytes.len() as u64);
        let (words, tail) = bytes.as_chunks::<8>();
        for word in words {
            self.hasher.word(u64::from_le_bytes(*word));
        }
        if !tail.is_empty() {
            let mut last = [0; 8];
            last[..tail.len()].copy_from_slice(tail);
            self.hasher.word(u64::from_le_bytes(last));
        }
        self
    }

    pub(super) fn finish(&self) -> u64 {
        self.hasher.finish(0, self.fields).0
    }
}

/// The keys that are derived from the key of the cluster: one for each use, so that what is shown
/// for one says nothing about another, and others for each service, so that nothing of one is
/// accepted by another.
#[derive(Clone)]
pub(super) struct Keys {
    pub(super) branch: [u64; 2],
    pub(super) loops: [u64; 2],
    pub(super) peer: [u64; 2],
    pub(super) tag: [[u64; 2]; 2],
    pub(super) token: [[u64; 2]; 2],
}

impl Keys {
    pub(super) fn derive(key: [u64; 2], own: SocketAddr) -> Self {
        let half = |label: &[u8], half: u8| {
            FieldHasher::new(key)
                .field(label)
                .field(&[half])
                .field(octets(own.ip()).as_ref())
                .field(&own.port().to_be_bytes())
                .finish()
        };
        let derived = |label: &[u8]| [half(label, 0), half(label, 1)];
        Self {
            branch: derived(b"proxy branch"),
            loops: derived(b"proxy loop"),
            peer: derived(b"proxy peer"),
            tag: [derived(b"proxy tag 1"), derived(b"proxy tag 2")],
            token: [derived(b"proxy token 1"), derived(b"proxy token 2")],
        }
    }

    /// Stands for a host that a request was sent to. Not for its port: nothing in RFC 3261 binds a
    /// server to send its responses from the port where it takes requests.
    pub(super) fn peer(&self, ip: IpAddr) -> u32 {
        FieldHasher::new(self.peer)
            .field(octets(ip).as_ref())
            .finish() as u32
    }
}

/// An address as IPv6 writes it, IPv4 mapped into it.
fn octets(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}
