//! What a configuration means for the tables, wherever they lie.

use std::collections::HashMap;

use sip_forwarder_ebpf::{
    abi::{
        Backend, BackendFlags, BackendId, BackendRef, Endpoint, HINT_LINES_PER_SERVICE, SentByKey,
        Service, ServiceId,
    },
    hash,
};

use crate::{
    config::{self, Config},
    control::numbering::{Number, Numbering},
    slowpath::canonical,
};

/// A configuration in numbers.
pub(super) struct Contents<'a> {
    pub(super) services: Vec<Numbered<'a>>,
    hash_key: [u64; 2],
}

/// A service with the numbers of all it consists of.
pub(super) struct Numbered<'a> {
    pub(super) id: ServiceId,
    pub(super) service: &'a config::Service,
    pub(super) backends: Vec<(Number, &'a config::Backend)>,
}

impl<'a> Contents<'a> {
    /// All that has a number.
    pub(super) fn of(config: &'a Config, numbering: &Numbering, hash_key: [u64; 2]) -> Self {
        Self {
            services: config
                .services
                .iter()
                .filter_map(|s| numbered(s, numbering))
                .collect(),
            hash_key,
        }
    }

    /// Every configured backend, by its number; alive, and without a next hop.
    pub(super) fn backends(&self) -> HashMap<u16, Backend> {
        let mut wanted = HashMap::new();
        for service in &self.services {
            for (number, backend) in &service.backends {
                let mut entry =
                    Backend::new(backend.address.into(), service.id, number.incarnation);
                entry.flags = BackendFlags(BackendFlags::ALIVE);
                wanted.insert(number.index, entry);
            }
        }
        wanted
    }

    /// The VIPs, with and without their ports.
    pub(super) fn vips(&self) -> HashMap<Endpoint, BackendRef> {
        self.services
            .iter()
            .flat_map(|s| with_and_without_port(s.service.vip).map(|e| (e, s.own_ref())))
            .collect()
    }

    /// Where backends send from, with and without their ports.
    pub(super) fn sources(&self) -> HashMap<Endpoint, BackendRef> {
        self.backend_refs()
            .flat_map(|(b, entry)| with_and_without_port(b.address).map(|e| (e, entry)))
            .collect()
    }

    /// The texts by which Via and Route name the VIPs and the backends.
    pub(super) fn names(&self) -> HashMap<SentByKey, BackendRef> {
        let vips = self.services.iter().map(|s| (s.service.vip, s.own_ref()));
        let backends = self.backend_refs().map(|(b, entry)| (b.address, entry));
        vips.chain(backends)
            .map(|(address, entry)| {
                let text = match address.ip() {
                    std::net::IpAddr::V4(ip) => ip.to_string(),
                    std::net::IpAddr::V6(ip) => format!("[{ip}]"),
                };
                let host = hash::digest(self.hash_key, &canonical(text.as_bytes())).0;
                (SentByKey::new(host, address.port()), entry)
            })
            .collect()
    }

    fn backend_refs(&self) -> impl Iterator<Item = (&config::Backend, BackendRef)> {
        self.services.iter().flat_map(|s| {
            s.backends.iter().map(|(number, b)| {
                let entry = BackendRef {
                    service: s.id,
                    backend: number.id(),
                };
                (*b, entry)
            })
        })
    }
}

impl Numbered<'_> {
    /// What the service's own name and address stand for.
    fn own_ref(&self) -> BackendRef {
        BackendRef {
            service: self.id,
            backend: BackendId::NONE,
        }
    }

    /// All of the service's entry but its ring.
    pub(super) fn entry(&self) -> Service {
        Service {
            ring: 0,
            hints: u32::from(self.id.0) * HINT_LINES_PER_SERVICE,
            vip: self.service.vip.into(),
            key: self.service.key.into(),
            register_key: self.service.register_key.into(),
            id: self.id,
            policy: self.service.spread.policy.into(),
            zero: [0; 3],
        }
    }
}

fn numbered<'a>(service: &'a config::Service, numbering: &Numbering) -> Option<Numbered<'a>> {
    let backends = service
        .backends
        .iter()
        .filter_map(|b| Some((numbering.backend(&service.name, &b.name, b.address)?, b)))
        .collect();
    Some(Numbered {
        id: ServiceId(numbering.service(&service.name)?),
        service,
        backends,
    })
}

/// Each endpoint with its port, and with port 0 for packets that show none.
fn with_and_without_port(endpoint: std::net::SocketAddr) -> [Endpoint; 2] {
    let mut bare = endpoint;
    bare.set_port(0);
    [endpoint.into(), bare.into()]
}
