//! A phone at home: behind a router that has one address outside, and gives each of the phone's flows a port of its own.
//! The lab's client is that router (`nft`, masquerade).

use std::io::Write as _;
use std::net::Ipv4Addr;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};

use super::{Host, Namespace, namespace};

/// The phone's address at home.
pub(super) const PHONE: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 2);
/// The router's address there.
const ROUTER: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 1);
/// The router's interface there.
const INSIDE: &str = "inside";

/// Ports that look like nobody's choice, so that no test takes the phone's own port for the translated one.
const RULES: &str = "table ip home {\n\
    chain out {\n\
        type nat hook postrouting priority srcnat;\n\
        oifname \"client\" ip saddr 192.168.77.0/24 ip protocol { tcp, udp } masquerade to :40000-49999\n\
    }\n\
}\n";

/// The `ip` line, for the root namespace, that joins phone and router.
pub(super) fn link(id: &str) -> String {
    format!(
        "link add {INSIDE} netns {router} type veth peer name {phone} netns {there}",
        router = namespace::name(id, Host::Client),
        phone = Host::Phone,
        there = namespace::name(id, Host::Phone),
    )
}

/// `ip` lines for the namespace of a host, if it has to do with it.
pub(super) fn addresses(host: Host) -> Vec<String> {
    match host {
        Host::Client => vec![
            format!("link set {INSIDE} up"),
            format!("address add {ROUTER}/24 dev {INSIDE}"),
        ],
        Host::Phone => vec![
            format!("link set {host} up"),
            format!("address add {PHONE}/24 dev {host}"),
            format!("route add default via {ROUTER}"),
        ],
        Host::Forwarder | Host::Proxy(_) | Host::Callee => Vec::new(),
    }
}

/// Has the router translate what leaves the house.
pub(super) fn translate(router: &Namespace) -> Result<()> {
    let mut child = router
        .command("nft")
        .args(["--file", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot run `nft`; install it with `apt-get install nftables`")?;
    let mut input = child.stdin.take().context("`nft` has no stdin")?;
    let written = input.write_all(RULES.as_bytes());
    drop(input);
    let output = child
        .wait_with_output()
        .context("waiting for `nft` failed")?;
    ensure!(
        output.status.success(),
        "`nft` failed: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    written.context("writing to `nft` failed")
}
