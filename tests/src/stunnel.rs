//! `stunnel` (OpenSSL) beside a program that speaks TCP alone: Debian's `SIPp` is built without TLS.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::certificates::Issued;
use crate::kamailio::write;
use crate::lab::{Host, Lab, Process};
use crate::sipp::unique;

const START: Duration = Duration::from_secs(10);

/// Which side of TLS it is.
#[derive(Clone, Copy, Debug)]
pub enum Side<'a> {
    /// Takes TCP, and goes on by TLS to a server that this authority certified.
    Client {
        /// The authority's certificate.
        authority: &'a Path,
    },
    /// Takes TLS as this server, and goes on by TCP.
    Server {
        /// Its certificate.
        certificate: &'a Issued,
    },
}

/// A stunnel, until dropped.
#[derive(Debug)]
pub struct Stunnel {
    process: Process,
}

impl Stunnel {
    /// Starts one on a host that takes connections at `accept` and goes on to `connect`.
    pub fn start(
        lab: &Lab,
        host: Host,
        side: Side<'_>,
        accept: SocketAddr,
        connect: SocketAddr,
    ) -> Result<Self> {
        let folder = lab.dir().join(format!("stunnel-{}-{host}", unique()));
        fs::create_dir_all(&folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
        let file = folder.join("stunnel.conf");
        write(&file, &configuration(side, accept, connect))?;
        let mut command = lab.command(host, "stunnel4")?;
        command.arg(&file);
        let mut process = Process::start(lab, host, command, &folder.join("log"))?;
        process
            .wait_for_tcp_port(accept.port(), START)
            .context("stunnel did not start")?;
        Ok(Self { process })
    }

    /// Its process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}

fn configuration(side: Side<'_>, accept: SocketAddr, connect: SocketAddr) -> String {
    let tls = match side {
        Side::Client { authority } => format!(
            "client = yes\nverifyChain = yes\nCAfile = {}\n",
            authority.display()
        ),
        Side::Server { certificate } => format!(
            "cert = {}\nkey = {}\n",
            certificate.chain.display(),
            certificate.key.display()
        ),
    };
    format!(
        "foreground = yes\ndebug = notice\npid =\nsocket = l:TCP_NODELAY=1\nsocket = r:TCP_NODELAY=1\n\
         [sip]\naccept = {accept}\nconnect = {connect}\n{tls}"
    )
}
