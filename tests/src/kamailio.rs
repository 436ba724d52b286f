//! Kamailio in a proxy's namespace, in front of a `SIPp` UAS on the same host.
//!
//! It stands at port 5060, relays what starts a call to the UAS at port 5070 and advertises the VIP in Record-Route;
//! in its Via it is itself. What the caller sends later comes with the VIP as Route, which Kamailio takes for its own.

use std::fmt;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::calls::CallLog;
use crate::lab::address::vip;
use crate::lab::{Family, Host, Lab, Process};
use crate::sipp::{Uas, unique};

/// The proxy's port.
pub const PORT: u16 = 5060;
/// The port of the UAS behind it.
pub const UAS_PORT: u16 = 5070;

const START: Duration = Duration::from_secs(15);
/// What stands before `METHOD Call-ID` in the log.
const MARKER: &str = "CALL ";

/// A Kamailio and the UAS behind it, until dropped.
#[derive(Debug)]
pub struct Kamailio {
    process: Process,
    uas: Uas,
    log: CallLog,
}

impl Kamailio {
    /// Starts both on a proxy and waits until they listen.
    pub fn start(lab: &Lab, host: Host, family: Family) -> Result<Self> {
        let uas = Uas::start(lab, host, host.socket(family, UAS_PORT))?;
        let stem = format!("kamailio-{}-{host}", unique());
        let config = lab.dir().join(format!("{stem}.cfg"));
        let log = lab.dir().join(format!("{stem}.log"));
        write(&config, &configuration(host, family))?;
        let runtime = lab.dir().join(format!("{stem}.run"));
        fs::create_dir_all(&runtime)
            .with_context(|| format!("cannot create {}", runtime.display()))?;
        let mut command = lab.command(host, "kamailio")?;
        // In the foreground, log to stderr, 64 MB shared and 4 MB private memory.
        command
            .args(["-DD", "-E", "-m", "64", "-M", "4", "-f"])
            .arg(&config)
            .arg("-Y")
            .arg(&runtime)
            .arg("-w")
            .arg(lab.dir());
        let mut process = Process::start(lab, host, command, &log)?;
        process
            .wait_for_udp_port(PORT, START)
            .with_context(|| format!("Kamailio in {host} did not start"))?;
        Ok(Self {
            process,
            uas,
            log: CallLog::new(host, log, MARKER),
        })
    }

    /// One on every proxy.
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

    /// The UAS behind it.
    pub fn uas(&mut self) -> &mut Uas {
        &mut self.uas
    }
}

impl Drop for Kamailio {
    fn drop(&mut self) {
        // On SIGTERM the main process ends its children; SIGKILL would leave them to the lab's teardown.
        if let Err(error) = self.process.terminate(Duration::from_secs(5)) {
            eprintln!("lab: {error:#}");
        }
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// An address as it stands in a SIP URI.
struct InUri(IpAddr);

impl fmt::Display for InUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        SocketAddr::new(self.0, 0)
            .to_string()
            .strip_suffix(":0")
            .map_or(Err(fmt::Error), |text| f.write_str(text))
    }
}

fn configuration(host: Host, family: Family) -> String {
    include_str!("scenarios/kamailio.cfg")
        .replace("@OWN@", &InUri(host.address(family)).to_string())
        .replace("@VIP@", &InUri(vip(family)).to_string())
        .replace("@PORT@", &PORT.to_string())
        .replace("@UAS_PORT@", &UAS_PORT.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_written_as_in_a_uri() {
        let text = configuration(Host::Proxy(3), Family::V6);
        assert!(text.contains("listen=udp:[fd00:210:3::2]:5060"), "{text}");
        assert!(!text.contains('@'), "{text}");
    }
}
