//! Kamailio in a proxy's namespace, in front of a `SIPp` UAS on the same host or of the lab's callee.
//!
//! It stands at port 5060, relays what starts a call to the UAS at port 5070 and advertises the VIP in Record-Route;
//! in its Via it is itself. What the caller sends later comes with the VIP as Route, which Kamailio takes for its own:
//! any of them can serve it.
//!
//! Or it is a registrar, for peers that are real phones: see [`Kamailio::registrar`], and
//! [`Kamailio::edge_registrar`] for one that reaches phones by their Path.

use std::fmt;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::calls::CallLog;
use crate::certificates::{Authority, Issued};
use crate::lab::address::vip;
use crate::lab::{Family, Host, Lab, Process, process_tree};
use crate::sipp::{Uas, unique};

/// The proxy's port.
pub const PORT: u16 = 5060;
/// A registrar's port for TLS.
pub const TLS_PORT: u16 = 5061;
/// The port of the UAS behind it.
pub const UAS_PORT: u16 = 5070;

const START: Duration = Duration::from_secs(15);
/// What stands before `METHOD Call-ID` in the log.
const MARKER: &str = "CALL ";

/// Whom a proxy puts into Record-Route.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RecordRoute {
    /// The VIP: any proxy can serve what comes later.
    #[default]
    Vip,
    /// Itself, as the manuals do: what comes later must come to it.
    Own,
}

/// How a proxy relays.
#[derive(Clone, Copy, Debug)]
pub struct Relay {
    /// IPv4 or IPv6.
    pub family: Family,
    /// Where what starts a call goes.
    pub next: SocketAddr,
    /// Whom it puts into Record-Route.
    pub record_route: RecordRoute,
}

/// A Kamailio, and the UAS behind it if that is its own, until dropped.
#[derive(Debug)]
pub struct Kamailio {
    process: Process,
    uas: Option<Uas>,
    log: CallLog,
    pid_file: PathBuf,
}

impl Kamailio {
    /// Starts one on a proxy with a UAS of its own, and waits until both listen.
    pub fn start(lab: &Lab, host: Host, family: Family) -> Result<Self> {
        let next = host.socket(family, UAS_PORT);
        let uas = Uas::start(lab, host, next)?;
        let relay = Relay {
            family,
            next,
            record_route: RecordRoute::Vip,
        };
        let mut proxy = Self::relaying(lab, host, &relay)?;
        proxy.uas = Some(uas);
        Ok(proxy)
    }

    /// Starts one on a proxy that relays to somebody else, and waits until it listens.
    pub fn relaying(lab: &Lab, host: Host, relay: &Relay) -> Result<Self> {
        Self::configured(lab, host, &configuration(host, relay))
    }

    /// Starts one on a proxy that is a registrar, and waits until it listens: it sends what is for a user to where
    /// that user registered with it.
    pub fn registrar(
        lab: &Lab,
        host: Host,
        family: Family,
        record_route: RecordRoute,
    ) -> Result<Self> {
        let text = include_str!("scenarios/registrar.cfg");
        Self::configured(lab, host, &filled_in(text, host, family, record_route))
    }

    /// Starts one at an address of a host that is a registrar over UDP and TCP (port 5060) and TLS (port 5061, with
    /// this certificate), and waits until it listens. It keeps the Path that a user registered with, and reaches the user
    /// by it; as a TLS client it trusts this authority.
    pub fn edge_registrar(
        lab: &Lab,
        host: Host,
        address: IpAddr,
        (certificate, authority): (&Issued, &Authority),
    ) -> Result<Self> {
        let file = lab.dir().join(format!("kamailio-{host}-tls.cfg"));
        let tls = include_str!("scenarios/edge_registrar_tls.cfg")
            .replace("@CHAIN@", &certificate.chain.to_string_lossy())
            .replace("@KEY@", &certificate.key.to_string_lossy())
            .replace("@AUTHORITY@", &authority.file().to_string_lossy());
        write(&file, &tls)?;
        let text = include_str!("scenarios/edge_registrar.cfg")
            .replace("@OWN@", &InUri(address).to_string())
            .replace("@TLS@", &file.to_string_lossy());
        let mut proxy = Self::configured(lab, host, &text)?;
        for port in [PORT, TLS_PORT] {
            proxy.process.wait_for_tcp_port(port, START)?;
        }
        Ok(proxy)
    }

    fn configured(lab: &Lab, host: Host, text: &str) -> Result<Self> {
        let stem = format!("kamailio-{}-{host}", unique());
        let process = launch(lab, host, &stem, text)?;
        let log = CallLog::new(host, process.log().to_owned(), MARKER);
        Ok(Self {
            process,
            uas: None,
            log,
            pid_file: pid_file(lab, host),
        })
    }

    /// One on every proxy, each with a UAS of its own.
    pub fn start_all(lab: &Lab, family: Family) -> Result<Vec<Self>> {
        (1..=lab.proxies())
            .map(|n| Self::start(lab, Host::Proxy(n), family))
            .collect()
    }

    /// Which calls Kamailio saw. (What its UAS saw tells nothing of the forwarder: any Kamailio reaches any UAS.)
    #[must_use]
    pub fn call_log(&self) -> CallLog {
        self.log.clone()
    }

    /// Kamailio's main process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// The UAS behind it, if that is its own.
    pub fn uas(&mut self) -> Option<&mut Uas> {
        self.uas.as_mut()
    }

    /// The file in which the id of its main process stands.
    #[must_use]
    pub fn pid_file(&self) -> &Path {
        &self.pid_file
    }

    /// Its main process and all workers; they stay the same for as long as it runs.
    #[must_use]
    pub fn pids(&self) -> Vec<u32> {
        process_tree::of(self.process.pid())
    }

    /// SIGKILL for all of its processes, as when the machine's memory runs out.
    pub fn kill(&mut self) -> Result<()> {
        process_tree::kill(&self.pids());
        self.process.kill()
    }
}

impl Drop for Kamailio {
    fn drop(&mut self) {
        end(&mut self.process);
    }
}

/// Ends a Kamailio whole: on SIGTERM the main process ends its children; SIGKILL would leave them to the lab's
/// teardown.
pub(crate) fn end(process: &mut Process) {
    if let Err(error) = process.terminate(Duration::from_secs(5)) {
        eprintln!("lab: {error:#}");
    }
}

/// Starts Kamailio with this configuration and waits until it listens.
pub(crate) fn launch(lab: &Lab, host: Host, stem: &str, configuration: &str) -> Result<Process> {
    let config = lab.dir().join(format!("{stem}.cfg"));
    let log = lab.dir().join(format!("{stem}.log"));
    write(&config, configuration)?;
    let runtime = lab.dir().join(format!("{stem}.run"));
    fs::create_dir_all(&runtime).with_context(|| format!("cannot create {}", runtime.display()))?;
    let mut command = lab.command(host, "kamailio")?;
    // In the foreground, log to stderr, 128 MB shared and 4 MB private memory.
    command
        .args(["-DD", "-E", "-m", "128", "-M", "4", "-f"])
        .arg(&config)
        .arg("-P")
        .arg(pid_file(lab, host))
        .arg("-Y")
        .arg(&runtime)
        .arg("-w")
        .arg(lab.dir());
    let mut process = Process::start(lab, host, command, &log)?;
    process
        .wait_for_udp_port(PORT, START)
        .with_context(|| format!("Kamailio in {host} did not start"))?;
    Ok(process)
}

/// The same over restarts, as whoever watches it expects.
fn pid_file(lab: &Lab, host: Host) -> PathBuf {
    lab.dir().join(format!("kamailio-{host}.pid"))
}

pub(crate) fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// An address as it stands in a SIP URI.
pub(crate) struct InUri(pub(crate) IpAddr);

impl fmt::Display for InUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        SocketAddr::new(self.0, 0)
            .to_string()
            .strip_suffix(":0")
            .map_or(Err(fmt::Error), |text| f.write_str(text))
    }
}

fn configuration(host: Host, relay: &Relay) -> String {
    let text = include_str!("scenarios/kamailio.cfg");
    filled_in(text, host, relay.family, relay.record_route)
        .replace("@NEXT@", &relay.next.to_string())
        .replace("@NEXT_PORT@", &relay.next.port().to_string())
}

/// The words that every configuration has.
fn filled_in(text: &str, host: Host, family: Family, record_route: RecordRoute) -> String {
    let vip = InUri(vip(family));
    let record_route = match record_route {
        RecordRoute::Vip => format!("record_route_preset(\"{vip}:{PORT}\")"),
        RecordRoute::Own => "record_route()".to_owned(),
    };
    text.replace("@OWN@", &InUri(host.address(family)).to_string())
        .replace("@VIP@", &vip.to_string())
        .replace("@PORT@", &PORT.to_string())
        .replace("@RECORD_ROUTE@", &record_route)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_written_as_in_a_uri() {
        let host = Host::Proxy(3);
        let text = configuration(
            host,
            &Relay {
                family: Family::V6,
                next: host.socket(Family::V6, UAS_PORT),
                record_route: RecordRoute::Vip,
            },
        );
        assert!(text.contains("listen=udp:[fd00:210:3::2]:5060"), "{text}");
        assert!(!text.contains('@'), "{text}");
    }

    #[test]
    fn a_registrar_has_all_words_filled_in() {
        for record_route in [RecordRoute::Vip, RecordRoute::Own] {
            let text = include_str!("scenarios/registrar.cfg");
            let text = filled_in(text, Host::Proxy(1), Family::V4, record_route);
            assert!(!text.contains('@'), "{text}");
        }
    }
}
