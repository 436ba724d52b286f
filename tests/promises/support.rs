//! What the promises share.

use std::{
    net::{SocketAddr, UdpSocket},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::{Failed, Trial};
use sip_forwarder_tests::{
    lab::{Daemon, DaemonSpec, Family, Host, Lab, cards, vip},
    pace,
};

pub(crate) const SIP_PORT: u16 = 5060;
pub(crate) const CLIENT_PORT: u16 = 5061;
/// How long a datagram may take through the lab.
pub(crate) const ARRIVAL: Duration = Duration::from_secs(2);

/// A test that needs root.
pub(crate) fn as_root(name: &str, test: impl FnOnce() -> Result<()> + Send + 'static) -> Trial {
    Trial::test(name, move || {
        test().map_err(|error| Failed::from(format!("{error:#}")))
    })
    .with_ignored_flag(!is_root())
}

/// A test that needs root and the lab's network cards.
pub(crate) fn on_cards(name: &str, test: impl FnOnce() -> Result<()> + Send + 'static) -> Trial {
    as_root(name, test).with_ignored_flag(!is_root() || !cards::offered())
}

/// A test that needs nothing.
pub(crate) fn anywhere(name: &str, test: impl FnOnce() -> Result<()> + Send + 'static) -> Trial {
    Trial::test(name, move || {
        test().map_err(|error| Failed::from(format!("{error:#}")))
    })
}

fn is_root() -> bool {
    // SAFETY: takes nothing and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// The workspace's folder.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("tests lie in the workspace")
        .to_owned()
}

/// The daemon, with the XDP program inside.
pub(crate) fn daemon_file() -> Result<PathBuf> {
    built("target/release/sip-forwarder")
}

/// The XDP program.
pub(crate) fn program_file() -> Result<PathBuf> {
    built("target/bpf/sip-forwarder-xdp")
}

/// The XDP programs of the lab: far ends of links, and baselines.
pub(crate) fn lab_programs_file() -> Result<PathBuf> {
    built("target/bpf/sip-forwarder-bench")
}

fn built(file: &str) -> Result<PathBuf> {
    let path = root().join(file);
    ensure!(
        path.is_file(),
        "{file} is not built; run the tests by `cargo xtask test`"
    );
    Ok(path)
}

/// A lab with a running daemon whose backends are all resolved.
pub(crate) fn forwarding_lab(proxies: u8, family: Family) -> Result<(Lab, Daemon)> {
    let lab = Lab::new(proxies)?;
    lab.accept_xdp(&lab_programs_file()?)?;
    let daemon = Daemon::start(&lab, &DaemonSpec::of_lab(daemon_file()?, &lab, family))?;
    daemon.wait_resolved(Duration::from_secs(5))?;
    Ok((lab, daemon))
}

/// A UDP socket in one of the lab's hosts.
pub(crate) fn socket(lab: &Lab, host: Host, family: Family, port: u16) -> Result<UdpSocket> {
    let address = host.socket(family, port);
    let socket = lab
        .enter(host, move || UdpSocket::bind(address))?
        .with_context(|| format!("cannot bind {address}"))?;
    socket.set_read_timeout(Some(pace::limit(ARRIVAL)))?;
    Ok(socket)
}

/// A socket at every proxy's SIP port.
pub(crate) fn proxy_sockets(lab: &Lab, family: Family) -> Result<Vec<UdpSocket>> {
    (1..=lab.proxies())
        .map(|n| socket(lab, Host::Proxy(n), family, SIP_PORT))
        .collect()
}

/// The VIP and its port.
pub(crate) fn vip_socket(family: Family) -> SocketAddr {
    SocketAddr::new(vip(family), SIP_PORT)
}

/// A datagram, and the proxy that got it.
#[derive(Debug)]
pub(crate) struct Arrived {
    pub(crate) proxy: usize,
    pub(crate) from: SocketAddr,
    pub(crate) payload: Vec<u8>,
}

/// Waits for a datagram at any of the sockets.
pub(crate) fn arrival(sockets: &[UdpSocket]) -> Result<Arrived> {
    let mut buffer = vec![0; 65_536];
    let limit = pace::limit(ARRIVAL);
    let deadline = std::time::Instant::now() + limit;
    for socket in sockets {
        socket.set_nonblocking(true)?;
    }
    loop {
        for (proxy, socket) in sockets.iter().enumerate() {
            if let Ok((length, from)) = socket.recv_from(&mut buffer) {
                return Ok(Arrived {
                    proxy,
                    from,
                    payload: buffer[..length].to_vec(),
                });
            }
        }
        ensure!(
            std::time::Instant::now() < deadline,
            "no proxy got it within {limit:?}"
        );
        std::thread::yield_now();
    }
}

/// How often a verdict occurred, by both paths.
pub(crate) fn verdict(daemon: &Daemon, name: &str) -> Result<(u64, u64)> {
    let status = daemon.status()?;
    let verdicts = status["verdicts"]
        .as_array()
        .context("the status lacks verdicts")?;
    let found = verdicts.iter().find(|v| v["name"] == name);
    Ok(found.map_or((0, 0), |v| {
        (
            v["fast"].as_u64().unwrap_or(0),
            v["slow"].as_u64().unwrap_or(0),
        )
    }))
}
