//! What the machine must offer, checked before anything is touched. Each fault is one line that says
//! what to do.

use std::{
    fs,
    io::ErrorKind,
    net::{IpAddr, SocketAddr, UdpSocket},
};

use thiserror::Error;

use crate::config::Config;

/// Something the machine lacks.
#[derive(Debug, Error)]
pub enum EnvironmentError {
    /// A capability is missing.
    #[error(
        "capability {0} is missing; run as root, or grant it (systemd: AmbientCapabilities={0})"
    )]
    Capability(&'static str),
    /// There is no such interface.
    #[error("there is no interface `{0}`; `ip link` lists those there are")]
    Interface(String),
    /// The VIP is not this machine's.
    #[error(
        "service `{service}`: the VIP {vip} is not an address of this machine; add it: ip address add {vip}/{length} dev lo"
    )]
    Vip {
        /// The service.
        service: String,
        /// The VIP.
        vip: IpAddr,
        /// Prefix length of a single address.
        length: u8,
    },
    /// The kernel does not forward.
    #[error(
        "{key} is 0, so packets of backends find no way back to clients; set it: sysctl -w {key}=1"
    )]
    Forwarding {
        /// The sysctl.
        key: &'static str,
    },
    /// The kernel would refuse packets that it routes for us.
    #[error(
        "{key} is {is}, so the kernel refuses packets to clients that it must route itself (their source is the VIP, an address of its own); set it: sysctl -w {key}={wanted}"
    )]
    OwnSource {
        /// The sysctl.
        key: String,
        /// What it is.
        is: u8,
        /// What it must be.
        wanted: u8,
    },
}

/// Capabilities the daemon needs, by number (linux/capability.h).
const CAPABILITIES: [(u32, &str); 4] = [
    (12, "CAP_NET_ADMIN"),
    (13, "CAP_NET_RAW"),
    (38, "CAP_PERFMON"),
    (39, "CAP_BPF"),
];
const CAP_SYS_ADMIN: u32 = 21;

/// Checks all of it.
pub fn check(config: &Config) -> Result<(), EnvironmentError> {
    capabilities()?;
    for interface in &config.forwarder.interfaces {
        interface_index(interface).ok_or_else(|| EnvironmentError::Interface(interface.clone()))?;
    }
    for service in &config.services {
        vip(&service.name, service.vip.ip())?;
        forwarding(service.vip.ip())?;
    }
    Ok(())
}

fn capabilities() -> Result<(), EnvironmentError> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0);
    let has = |number: u32| effective >> number & 1 != 0;
    for (number, name) in CAPABILITIES {
        // The BPF capabilities were cut out of CAP_SYS_ADMIN, which still implies them.
        let implied = number >= 38 && has(CAP_SYS_ADMIN);
        if !has(number) && !implied {
            return Err(EnvironmentError::Capability(name));
        }
    }
    Ok(())
}

/// The number of an interface, if there is one of this name.
#[must_use]
pub fn interface_index(name: &str) -> Option<u32> {
    let name = std::ffi::CString::new(name).ok()?;
    // SAFETY: the name ends with a zero.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    (index != 0).then_some(index)
}

fn vip(service: &str, vip: IpAddr) -> Result<(), EnvironmentError> {
    match UdpSocket::bind(SocketAddr::new(vip, 0)) {
        Err(error) if error.kind() == ErrorKind::AddrNotAvailable => Err(EnvironmentError::Vip {
            service: service.to_owned(),
            vip,
            length: if vip.is_ipv4() { 32 } else { 128 },
        }),
        _ => Ok(()),
    }
}

fn forwarding(vip: IpAddr) -> Result<(), EnvironmentError> {
    let (key, file) = if vip.is_ipv4() {
        ("net.ipv4.ip_forward", "/proc/sys/net/ipv4/ip_forward")
    } else {
        (
            "net.ipv6.conf.all.forwarding",
            "/proc/sys/net/ipv6/conf/all/forwarding",
        )
    };
    match fs::read_to_string(file) {
        Ok(value) if value.trim() == "0" => Err(EnvironmentError::Forwarding { key }),
        _ => Ok(()),
    }
}

/// Checks the interface by which packets of an IPv4 backend come in.
///
/// What XDP cannot send itself (the next hop must be resolved first, say) goes to the kernel with the
/// VIP as its source. IPv4 takes that for a forgery unless it is told otherwise.
pub fn check_way_in(interface: u32) -> Result<(), EnvironmentError> {
    let Some(interface) = interface_name(interface) else {
        return Ok(());
    };
    let effective = |what: &str| setting("all", what).max(setting(&interface, what));
    let fault = |what: &str, is, wanted| {
        Err(EnvironmentError::OwnSource {
            key: format!("net.ipv4.conf.{interface}.{what}"),
            is,
            wanted,
        })
    };
    if effective("accept_local") == 0 {
        return fault("accept_local", 0, 1);
    }
    // The kernel takes the larger of the two; 1 is strict, 2 loose.
    if effective("rp_filter") == 1 {
        return fault("rp_filter", 1, 2);
    }
    Ok(())
}

/// The name of an interface, if it exists.
fn interface_name(index: u32) -> Option<String> {
    let mut name = [0; libc::IF_NAMESIZE];
    // SAFETY: the buffer is as long as a name with its zero may be.
    let found = unsafe { libc::if_indextoname(index, name.as_mut_ptr()) };
    if found.is_null() {
        return None;
    }
    let bytes: Vec<u8> = name
        .iter()
        .take_while(|&&c| c != 0)
        .map(|&c| c as u8)
        .collect();
    String::from_utf8(bytes).ok()
}

fn setting(interface: &str, what: &str) -> u8 {
    let path = format!("/proc/sys/net/ipv4/conf/{interface}/{what}");
    fs::read_to_string(path)
        .ok()
        .and_then(|value| value.trim().parse().ok())
        .unwrap_or(0)
}
