//! The far ends of the forwarder's links.
//!
//! A veth takes frames that XDP sends back (`XDP_TX`) or redirects only while its own side runs a
//! native XDP program, which on a real NIC nobody has to do. So every peer gets one that lets all
//! pass.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};
use aya::{
    Ebpf,
    programs::{Xdp, XdpMode},
};

use super::{Host, Lab};

const PROGRAM: &str = "pass_all";

/// The program on every peer, as long as this lives.
pub(super) struct PeerPrograms {
    _ebpf: Ebpf,
}

impl std::fmt::Debug for PeerPrograms {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PeerPrograms")
    }
}

/// Loads the program out of the object file and puts it on the interface of every host but the
/// forwarder.
pub(super) fn attach(lab: &Lab, object: &Path) -> Result<PeerPrograms> {
    let bytes = fs::read(object).with_context(|| format!("cannot read {}", object.display()))?;
    let mut ebpf = Ebpf::load(&bytes).context("cannot load the lab's XDP object")?;
    let program: &mut Xdp = ebpf
        .program_mut(PROGRAM)
        .with_context(|| format!("the object holds no program {PROGRAM}"))?
        .try_into()?;
    program.load()?;
    for host in lab.hosts() {
        attach_to(lab, host, program)
            .with_context(|| format!("cannot attach {PROGRAM} in {host}"))?;
    }
    Ok(PeerPrograms { _ebpf: ebpf })
}

fn attach_to(lab: &Lab, host: Host, program: &mut Xdp) -> Result<()> {
    if let Some(interface) = host.interface() {
        lab.enter(host, || program.attach(&interface, XdpMode::Driver))??;
    }
    Ok(())
}
