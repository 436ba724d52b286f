//! A service, as connections see it.

use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use sip_forwarder_ebpf::abi::ServiceId;

use super::tls::{ClientTls, ServerTls};
use crate::sip::{proxy::Proxy, transport::Transport};

/// Where clients may connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Listener {
    /// The VIP and the listener's port.
    pub address: SocketAddr,
    /// What is spoken there.
    pub transport: Transport,
}

/// A service in mode `proxy`.
pub struct Service {
    /// Its number.
    pub id: ServiceId,
    /// Its VIP.
    pub vip: SocketAddr,
    /// What changes its messages.
    pub proxy: Arc<Proxy>,
    /// Where its clients connect.
    pub listeners: Vec<Listener>,
    /// What it shows to clients under TLS.
    pub server_tls: Option<Arc<ServerTls>>,
    /// How it trusts backends under TLS.
    pub client_tls: Option<Arc<ClientTls>>,
    /// Its backends, and under what name each has its certificate.
    pub backends: HashMap<SocketAddr, String>,
    /// Their hosts: a backend's own connections come from any port.
    hosts: HashSet<IpAddr>,
}

impl Service {
    /// Without TLS.
    #[must_use]
    pub fn new(
        id: ServiceId,
        vip: SocketAddr,
        proxy: Arc<Proxy>,
        backends: HashMap<SocketAddr, String>,
    ) -> Self {
        Self {
            id,
            vip,
            proxy,
            listeners: Vec::new(),
            server_tls: None,
            client_tls: None,
            hosts: backends.keys().map(SocketAddr::ip).collect(),
            backends,
        }
    }

    /// Does one of its backends run on this host?
    pub(super) fn is_backend_host(&self, ip: IpAddr) -> bool {
        self.hosts.contains(&ip.to_canonical())
    }
}
