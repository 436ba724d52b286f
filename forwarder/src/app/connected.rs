//! The connections of the daemon: which services want them, and how they are set up.

use std::{net::SocketAddr, sync::Arc};

use anyhow::Context as _;
use sip_forwarder_ebpf::abi::ServiceId;
use tracing::warn;

use crate::{
    config::{self, BackendTransport, Config, Dataplane, ListenTransport, Mode},
    sip::{
        proxy::{self, Proxy},
        transport::Transport,
    },
    slowpath::{
        Managed,
        flows::{Flows, Unconnected},
        worker::Workers,
    },
    state::State,
    stream::{
        Hub, Listener, Prepared, Reach, Service, Streams,
        tls::{ClientTls, ServerTls},
    },
};

/// File descriptors beside those of connections.
const OTHER_FILES: usize = 1_024;

/// Connections, where the data plane has them.
pub(super) struct Connected {
    streams: Option<Streams>,
    pub(super) hub: Option<Arc<Hub>>,
}

impl Connected {
    /// Starts what owns connections. It listens nowhere yet.
    pub(super) fn start(
        config: &Config,
        workers: usize,
        tables: &Arc<dyn Managed>,
        reach: Arc<Reach>,
    ) -> anyhow::Result<Self> {
        if config.forwarder.dataplane == Dataplane::Xdp {
            return Ok(Self {
                streams: None,
                hub: None,
            });
        }
        raise_file_limit(config.connections.total);
        let first = getrandom::u64().context("cannot get random numbers from the kernel")?;
        let tables = Arc::clone(tables) as _;
        let hub = Arc::new(Hub::new(config.connections, tables, reach, first));
        let streams = Streams::start(&hub, workers)?;
        Ok(Self {
            streams: Some(streams),
            hub: Some(hub),
        })
    }

    /// What the workers hand messages to.
    pub(super) fn flows(&self) -> Arc<dyn Flows> {
        match &self.hub {
            Some(hub) => Arc::clone(hub) as _,
            None => Arc::new(Unconnected),
        }
    }

    /// Reads certificates and opens ports as this configuration wants it; changes nothing yet.
    pub(super) fn prepare(&self, config: &Config, state: &State) -> anyhow::Result<Prepared> {
        let Some(streams) = &self.streams else {
            return Ok(Prepared::default());
        };
        let services = config
            .services
            .iter()
            .filter(|service| service.mode == Mode::Proxy)
            .filter_map(|s| Some((s, ServiceId(state.numbering.service(&s.name)?))))
            .map(|(service, id)| service_of(service, id, state.hash_key))
            .collect::<anyhow::Result<Vec<_>>>()?;
        Ok(streams.prepare(services)?)
    }

    /// Goes on with what was prepared.
    pub(super) fn commit(&mut self, prepared: Prepared) {
        if let Some(streams) = &mut self.streams {
            streams.commit(prepared);
        }
    }

    /// Sends datagrams by these workers' sockets from now on.
    pub(super) fn send_by(&self, workers: &mut Workers) {
        if let Some(hub) = &self.hub {
            hub.set_sockets(workers.take_sockets());
        }
    }

    /// Ends all connections.
    pub(super) fn stop(self) {
        if let Some(streams) = self.streams {
            streams.stop();
        }
    }
}

fn service_of(service: &config::Service, id: ServiceId, key: [u64; 2]) -> anyhow::Result<Service> {
    let whose = || format!("service `{}`", service.name);
    let backends = service
        .backends
        .iter()
        .map(|b| (b.address, b.server_name.clone()))
        .collect();
    let mut of = Service::new(id, service.vip, Arc::new(proxy_of(service, key)), backends);
    of.listeners = service
        .listeners
        .iter()
        .map(|listener| Listener {
            address: SocketAddr::new(service.vip.ip(), listener.port),
            transport: transport_of(listener.transport),
        })
        .collect();
    if let Some(tls) = &service.tls {
        of.server_tls = Some(ServerTls::load(tls).with_context(whose)?);
    }
    if let Some(ca) = &service.backend_ca {
        of.client_tls = Some(ClientTls::load(ca).with_context(whose)?);
    }
    Ok(of)
}

/// The proxy of a service in mode `proxy`.
pub(super) fn proxy_of(service: &config::Service, key: [u64; 2]) -> Proxy {
    Proxy::new(proxy::Settings {
        advertised: service.advertise.clone(),
        record_route: service.record_route,
        listeners: service
            .listeners
            .iter()
            .map(|l| (transport_of(l.transport), l.port))
            .collect(),
        onward: match service.transport {
            BackendTransport::Udp => Transport::Udp,
            BackendTransport::Tcp => Transport::Tcp,
            BackendTransport::Tls => Transport::Tls,
        },
        large_by_tcp: service.large_by_tcp,
        edge: service.edge,
        ..proxy::Settings::new(service.vip, key)
    })
}

const fn transport_of(listen: ListenTransport) -> Transport {
    match listen {
        ListenTransport::Tcp => Transport::Tcp,
        ListenTransport::Tls => Transport::Tls,
        ListenTransport::Ws => Transport::Ws,
        ListenTransport::Wss => Transport::Wss,
    }
}

/// Each connection is a file. Without the right to so many, those beyond are refused when they come.
fn raise_file_limit(connections: usize) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let wanted = (connections + OTHER_FILES) as u64;
    let now = getrlimit(Resource::Nofile);
    if now.current.is_none_or(|current| current >= wanted) {
        return;
    }
    let by_right = Rlimit {
        current: Some(wanted),
        maximum: now.maximum.map(|maximum| maximum.max(wanted)),
    };
    let allowed = Rlimit {
        current: now.maximum.map(|maximum| maximum.min(wanted)),
        maximum: now.maximum,
    };
    if setrlimit(Resource::Nofile, by_right).is_ok() {
        return;
    }
    let got = setrlimit(Resource::Nofile, allowed).map(|()| allowed.current);
    warn!(
        wanted,
        ?got,
        "fewer connections than connections.total can be open: raise the limit on open files (LimitNOFILE)"
    );
}
