//! Boxes in the forwarder's place that keep no transactions: what its workers are compared with.

use std::{fs, net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result};

use crate::{
    kamailio::{self, InUri, PORT},
    lab::{Family, Host, Lab, Process, process_tree, vip},
    sipp::unique,
};

const START: Duration = Duration::from_secs(10);

/// A box on the VIP that sends everything to one next hop, until dropped.
#[derive(Debug)]
pub struct Stateless {
    process: Process,
}

impl Stateless {
    /// Kamailio with one child and nothing in its script but `forward()`.
    pub fn kamailio(lab: &Lab, family: Family, next: SocketAddr) -> Result<Self> {
        let text = fill(include_str!("scenarios/forward.cfg"), family, next);
        let stem = format!("forward-{}", unique());
        let process = kamailio::launch(lab, Host::Forwarder, &stem, &text)?;
        Ok(Self { process })
    }

    /// The same taking TCP, too: one child more, and the process that hands it connections.
    pub fn kamailio_over_tcp(lab: &Lab, family: Family, next: SocketAddr) -> Result<Self> {
        let vip = InUri(vip(family));
        let tcp = format!("tcp_children=1\nlisten=tcp:{vip}:{PORT}\n");
        let text = include_str!("scenarios/forward.cfg").replace("disable_tcp=yes\n", &tcp);
        let stem = format!("forward-{}", unique());
        let process = kamailio::launch(lab, Host::Forwarder, &stem, &fill(&text, family, next))?;
        let mut standing = Self { process };
        standing.process.wait_for_tcp_port(PORT, START)?;
        Ok(standing)
    }

    /// nginx with one worker, as a stream proxy for UDP.
    pub fn nginx(lab: &Lab, family: Family, next: SocketAddr) -> Result<Self> {
        let folder = lab.dir().join(format!("nginx-{}", unique()));
        fs::create_dir_all(&folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
        let text = fill(include_str!("scenarios/nginx.conf"), family, next)
            .replace("@FOLDER@", &folder.to_string_lossy());
        let file = folder.join("nginx.conf");
        kamailio::write(&file, &text)?;
        let mut command = lab.command(Host::Forwarder, "nginx")?;
        command.arg("-p").arg(&folder).arg("-c").arg(&file);
        let mut process = Process::start(lab, Host::Forwarder, command, &folder.join("log"))?;
        process
            .wait_for_udp_port(PORT, START)
            .context("nginx did not start")?;
        Ok(Self { process })
    }

    /// All of its processes.
    #[must_use]
    pub fn pids(&self) -> Vec<u32> {
        process_tree::of(self.process.pid())
    }
}

impl Drop for Stateless {
    fn drop(&mut self) {
        kamailio::end(&mut self.process);
    }
}

fn fill(text: &str, family: Family, next: SocketAddr) -> String {
    text.replace("@VIP@", &InUri(vip(family)).to_string())
        .replace("@PORT@", &PORT.to_string())
        .replace("@NEXT@", &next.to_string())
}
