//! The least that can stand between two links: an XDP program that gives every packet other MAC addresses and sends
//! it on by one interface.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};
use aya::{
    Ebpf,
    maps::{Array, xdp::DevMapHash},
    programs::{Xdp, XdpMode},
};
use sip_forwarder_ebpf::abi::{Backend, Endpoint, Macs, ServiceId};

use super::{Host, Lab, Mac, address::Cable};

const PROGRAM: &str = "bare_redirect";

/// One direction, for as long as this lives.
pub struct Redirect {
    _ebpf: Ebpf,
}

impl std::fmt::Debug for Redirect {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Redirect")
    }
}

/// From where to where.
#[derive(Clone, Copy, Debug)]
pub struct Way<'a> {
    /// The interface packets come in by.
    pub from: &'a str,
    /// The interface they leave by.
    pub to: &'a str,
    /// Destination and source of the frames that leave.
    pub macs: (Mac, Mac),
}

impl Redirect {
    /// Loads the program out of the object file and puts it on an interface of a host.
    pub fn attach(lab: &Lab, object: &Path, host: Host, way: &Way<'_>) -> Result<Self> {
        let bytes =
            fs::read(object).with_context(|| format!("cannot read {}", object.display()))?;
        lab.enter(host, || load(&bytes, way))?
            .with_context(|| format!("cannot redirect from {} to {} in {host}", way.from, way.to))
    }
}

/// Joins the two veth pairs of every cable of a lab.
pub(super) fn cables(lab: &Lab, object: &Path) -> Result<Vec<Redirect>> {
    let mut redirects = Vec::new();
    for host in lab.hosts() {
        let Some(Cable { card, plug }) = host.cable() else {
            continue;
        };
        // A veth takes what is redirected to it only if its peer has NAPI.
        let near = host
            .forwarder_interface()
            .context("a host without a link")?;
        lab.namespace(Host::Forwarder)?
            .ethtool(&near, &["gro", "on"])?;
        let (own, gateway) = (host.mac(), host.forwarder_mac());
        for (from, to, macs) in [
            (&card, &plug, (gateway, own)),
            (&plug, &card, (own, gateway)),
        ] {
            let way = Way { from, to, macs };
            redirects.push(Redirect::attach(lab, object, host, &way)?);
        }
    }
    Ok(redirects)
}

fn load(bytes: &[u8], way: &Way<'_>) -> Result<Redirect> {
    let mut ebpf = Ebpf::load(bytes).context("cannot load the lab's XDP object")?;
    let interface = interface_number(way.to)?;
    let (destination, source) = way.macs;
    let mut backend = Backend::new(Endpoint::default(), ServiceId(0), 0);
    backend.interface = interface;
    backend.macs = Macs::new(destination, source);
    let mut next_hop: Array<_, Backend> = map(&mut ebpf, "NEXT_HOP")?.try_into()?;
    next_hop.set(0, backend, 0)?;
    let mut interfaces: DevMapHash<_> = map(&mut ebpf, "INTERFACES")?.try_into()?;
    interfaces.insert(interface, interface, None, 0)?;
    let program: &mut Xdp = ebpf
        .program_mut(PROGRAM)
        .with_context(|| format!("the object holds no program {PROGRAM}"))?
        .try_into()?;
    program.load()?;
    program.attach(way.from, XdpMode::Driver)?;
    Ok(Redirect { _ebpf: ebpf })
}

fn map<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut aya::maps::Map> {
    ebpf.map_mut(name)
        .with_context(|| format!("the object holds no map {name}"))
}

/// The number of an interface in the namespace of this thread.
fn interface_number(name: &str) -> Result<u32> {
    let text = std::ffi::CString::new(name)?;
    // SAFETY: the name ends with NUL and outlives the call.
    let number = unsafe { libc::if_nametoindex(text.as_ptr()) };
    anyhow::ensure!(number != 0, "there is no interface {name}");
    Ok(number)
}
