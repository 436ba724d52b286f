//! The product's own tables in memory, for one service in mode `proxy`.

use std::{net::SocketAddr, sync::Arc};

use sip_forwarder::{
    config::{Limits, Mode},
    control::numbering::Numbering,
    dataplane::Plane as _,
    sip::proxy::{Proxy, Settings},
    slowpath::{
        Placer,
        counters::Counters,
        memory::{MemoryStore, Sizes},
        placement::Tables,
    },
};
use sip_forwarder_ebpf::abi::ServiceId;
use sip_forwarder_tests::program::{HASH_KEY, columns, config_of, nat_service};

/// The only service.
pub(super) const SERVICE: ServiceId = ServiceId(0);

/// Tables with a service on the VIP and these proxies behind it.
pub(super) fn tables(vip: SocketAddr, backends: &[SocketAddr]) -> anyhow::Result<Arc<dyn Tables>> {
    let limits = Limits::default();
    let named = (1..).zip(backends).map(|(n, b)| (format!("p{n}"), *b));
    let mut service = nat_service("bench", vip, named);
    service.mode = Mode::Proxy;
    let config = config_of(vec![service]);
    let mut numbering = Numbering::default();
    numbering.assign(&config);
    let recent_lines = limits.recent_lines();
    let store = Arc::new(MemoryStore::new(Sizes {
        services: limits.services,
        backends: limits.backends,
        calls: limits.affinity_entries,
        recent_lines,
    })?);
    store.publish_backends(&config, &numbering)?;
    store.publish_services(&config, &numbering, HASH_KEY, &mut |service| {
        columns(service, &numbering)
    })?;
    let counters = Arc::new(Counters::new(limits.backends));
    Ok(Arc::new(Placer::new(
        store,
        counters,
        HASH_KEY,
        recent_lines,
    )))
}

/// What changes the service's messages.
pub(super) fn proxy(vip: SocketAddr) -> Proxy {
    Proxy::new(Settings::new(vip, HASH_KEY))
}
