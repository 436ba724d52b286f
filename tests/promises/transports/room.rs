//! The lab with a forwarder that listens by every transport.

use std::fmt::Write as _;

use anyhow::Result;
use sip_forwarder_tests::{
    certificates::{Authority, Issued, in_toml},
    kamailio::Kamailio,
    lab::{Daemon, DaemonSpec, Family, Host, Lab, vip},
    stream::{Target, TlsClient, Transport},
};

use crate::support::daemon_file;

pub(super) const FAMILY: Family = Family::V4;
/// What the forwarder listens by besides UDP.
pub(super) const CONNECTED: [Transport; 4] = [
    Transport::Tcp,
    Transport::Tls,
    Transport::Ws,
    Transport::Wss,
];

/// Certificates of a lab.
pub(super) struct Trust {
    pub(super) authority: Authority,
    pub(super) server: Issued,
}

impl Trust {
    pub(super) fn new(lab: &Lab) -> Result<Self> {
        let authority = Authority::new(&lab.dir(), "authority")?;
        let server = authority.server("server", &[&vip(FAMILY).to_string(), "sip.example"])?;
        Ok(Self { authority, server })
    }

    /// The VIP by this transport.
    pub(super) fn target(&self, transport: Transport) -> Target {
        Target {
            transport,
            address: (vip(FAMILY), transport.port()).into(),
            tls: transport.is_secure().then(|| TlsClient {
                authority: self.authority.file().to_owned(),
                name: None,
                certificate: None,
            }),
        }
    }
}

/// A running forwarder, whatever stands behind it. What is last goes last.
pub(super) struct Room {
    pub(super) daemon: Daemon,
    pub(super) spec: DaemonSpec,
    pub(super) trust: Trust,
    pub(super) lab: Lab,
}

impl Room {
    /// A forwarder that goes on to so many proxies by this transport, whose configuration `change` may alter.
    pub(super) fn start(
        proxies: u8,
        behind: Transport,
        change: impl FnOnce(&mut DaemonSpec),
    ) -> Result<Self> {
        Self::in_lab(Lab::new(proxies)?, behind, change)
    }

    /// The same in a lab that there is.
    pub(super) fn in_lab(
        lab: Lab,
        behind: Transport,
        change: impl FnOnce(&mut DaemonSpec),
    ) -> Result<Self> {
        let trust = Trust::new(&lab)?;
        let mut spec = DaemonSpec::of_lab(daemon_file()?, &lab, FAMILY);
        spec.userspace = true;
        let service = &mut spec.services[0];
        for backend in &mut service.backends {
            backend.port = behind.port();
        }
        service.extra = format!("mode = \"proxy\"\ntransport = \"{behind}\"\n");
        if behind.is_secure() {
            let file = in_toml(trust.authority.file());
            // Writing to a String cannot fail.
            let _ = writeln!(service.extra, "backend_ca = {file}");
        }
        change(&mut spec);
        let tables = tables(&trust);
        spec.services[0].extra.push_str(&tables);
        let daemon = Daemon::start(&lab, &spec)?;
        Ok(Self {
            daemon,
            spec,
            trust,
            lab,
        })
    }

    /// The VIP by this transport.
    pub(super) fn target(&self, transport: Transport) -> Target {
        self.trust.target(transport)
    }
}

/// As an edge, in front of registrars: users are found at the proxy where they registered.
pub(super) fn edge(spec: &mut DaemonSpec) {
    spec.services[0].extra += "edge = true\nkey = \"to\"\nregister_key = \"to\"\n";
}

/// The lines of a service that listens by every transport.
fn tables(trust: &Trust) -> String {
    let mut text = String::new();
    for transport in CONNECTED {
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "[[service.listen]]\ntransport = \"{transport}\"\nport = {}\n",
            transport.port()
        );
    }
    text.push_str("[service.tls]\n");
    text.push_str(&trust.server.as_toml());
    text
}

/// A registrar that knows Path on every proxy.
pub(super) fn registrars(lab: &Lab, trust: &Trust) -> Result<Vec<Kamailio>> {
    (1..=lab.proxies())
        .map(|n| {
            let host = Host::Proxy(n);
            let name = host.address(FAMILY).to_string();
            let certificate = trust.authority.server(&host.to_string(), &[&name])?;
            Kamailio::edge_registrar(
                lab,
                host,
                host.address(FAMILY),
                (&certificate, &trust.authority),
            )
        })
        .collect()
}
