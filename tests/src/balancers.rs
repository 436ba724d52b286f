//! What a user would take instead of the forwarder, each at its cheapest: nftables, nginx, Kamailio's dispatcher. They
//! stand on the VIP and spread over proxies by a hash. IPv4.

use std::{fmt::Write as _, fs, net::SocketAddr, path::Path, process::Stdio, time::Duration};

use anyhow::{Context as _, Result, ensure};

use crate::{
    kamailio::{self, InUri, PORT},
    lab::{Family, Host, Lab, Process, process_tree, vip},
    sipp::unique,
};

const FAMILY: Family = Family::V4;
const START: Duration = Duration::from_secs(10);

/// A balancer on the VIP, until dropped.
#[derive(Debug)]
pub struct Balancer {
    lab: Lab,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    /// Rules in the kernel: nobody runs.
    Rules,
    Process(Process),
}

impl Balancer {
    /// nftables: destination NAT by `jhash`, the kernel's connection tracking remembers.
    pub fn nft(lab: &Lab, proxies: &[SocketAddr]) -> Result<Self> {
        let entries: Vec<_> = (0..)
            .zip(proxies)
            .map(|(slot, proxy)| format!("{slot} : {} . {}", proxy.ip(), proxy.port()))
            .collect();
        let text = fill(include_str!("scenarios/balance.nft"))
            .replace("@COUNT@", &proxies.len().to_string())
            .replace("@PROXIES@", &entries.join(", "));
        let file = lab.dir().join(format!("balance-{}.nft", unique()));
        kamailio::write(&file, &text)?;
        nft(lab, &["-f", &file.to_string_lossy()])?;
        Ok(Self {
            lab: lab.clone(),
            kind: Kind::Rules,
        })
    }

    /// nginx: a stream proxy with one worker.
    pub fn nginx(lab: &Lab, proxies: &[SocketAddr]) -> Result<Self> {
        let folder = lab.dir().join(format!("balance-nginx-{}", unique()));
        fs::create_dir_all(&folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
        let servers: Vec<_> = proxies.iter().map(|p| format!("server {p};")).collect();
        let text = fill(include_str!("scenarios/balance_nginx.conf"))
            .replace("@PROXIES@", &servers.join(" "))
            .replace("@FOLDER@", &folder.to_string_lossy());
        let file = folder.join("nginx.conf");
        kamailio::write(&file, &text)?;
        let mut command = lab.command(Host::Forwarder, "nginx")?;
        command.arg("-p").arg(&folder).arg("-c").arg(&file);
        let mut process = Process::start(lab, Host::Forwarder, command, &folder.join("log"))?;
        process
            .wait_for_udp_port(PORT, START)
            .context("nginx did not start")?;
        Ok(Self::running(lab, process))
    }

    /// Kamailio: the dispatcher by Call-ID, without transactions.
    pub fn kamailio(lab: &Lab, proxies: &[SocketAddr]) -> Result<Self> {
        let stem = format!("balance-{}", unique());
        let list = lab.dir().join(format!("{stem}.list"));
        kamailio::write(&list, &destinations(proxies))?;
        let text = fill(include_str!("scenarios/balance_kamailio.cfg"))
            .replace("@LIST@", &list.to_string_lossy());
        let process = kamailio::launch(lab, Host::Forwarder, &stem, &text)?;
        Ok(Self::running(lab, process))
    }

    fn running(lab: &Lab, process: Process) -> Self {
        Self {
            lab: lab.clone(),
            kind: Kind::Process(process),
        }
    }

    /// All of its processes; none if it is rules in the kernel.
    #[must_use]
    pub fn pids(&self) -> Vec<u32> {
        match &self.kind {
            Kind::Rules => Vec::new(),
            Kind::Process(process) => process_tree::of(process.pid()),
        }
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        match &mut self.kind {
            Kind::Rules => {
                if let Err(error) = nft(&self.lab, &["delete", "table", "ip", "sipfw"]) {
                    eprintln!("lab: {error:#}");
                }
            }
            Kind::Process(process) => kamailio::end(process),
        }
    }
}

/// The dispatcher's list: all in set 1.
fn destinations(proxies: &[SocketAddr]) -> String {
    proxies.iter().fold(String::new(), |mut text, proxy| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "1 sip:{}:{}", InUri(proxy.ip()), proxy.port());
        text
    })
}

fn fill(text: &str) -> String {
    text.replace("@VIP@", &vip(FAMILY).to_string())
        .replace("@PORT@", &PORT.to_string())
}

fn nft(lab: &Lab, arguments: &[&str]) -> Result<()> {
    let output = lab
        .command(Host::Forwarder, Path::new("nft"))?
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .context("cannot run `nft`; install it with `apt-get install nftables`")?;
    ensure!(
        output.status.success(),
        "`nft {}` failed: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_are_written_one_to_a_line() {
        let proxies = ["10.0.0.1:5060", "[fd00::1]:5062"].map(|p| p.parse().unwrap());
        assert_eq!(
            destinations(&proxies),
            "1 sip:10.0.0.1:5060\n1 sip:[fd00::1]:5062\n"
        );
    }
}
