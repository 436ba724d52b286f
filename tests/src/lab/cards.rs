//! A lab on network cards that the machine has: two for each link, one for the host and one for the forwarder, joined
//! outside of the machine. A card belongs to whom its MAC address belongs to (see [`super::address`]).
//!
//! `cargo xtask vm` makes a virtual machine with such cards and says so with `SIP_FORWARDER_TEST_CARDS`.

use std::{collections::HashMap, fs, path::Path, time::Duration};

use anyhow::{Context as _, Result};

use super::{
    Host, Mac,
    address::{Plan, linked},
    namespace,
    process::poll,
};

/// The environment variable that says that the machine has the lab's cards.
pub const CARDS: &str = "SIP_FORWARDER_TEST_CARDS";
/// Its value where the forwarder's cards to the client and to proxy 1 have queues for what XDP sends.
pub const MULTI_QUEUE: &str = "multi-queue";
/// Its value where every card has a single queue.
pub const SINGLE_QUEUE: &str = "single-queue";
/// How long the kernel may take to give back the cards of a namespace that was removed.
const RETURN: Duration = Duration::from_secs(10);

/// Tells whether the machine has the lab's cards.
#[must_use]
pub fn offered() -> bool {
    std::env::var_os(CARDS).is_some()
}

/// Tells whether cards have queues for what XDP sends.
#[must_use]
pub fn are_multi_queue() -> bool {
    std::env::var_os(CARDS).is_some_and(|value| value == MULTI_QUEUE)
}

/// Returns `ip` lines that move every card into its namespace and give it its name.
pub(super) fn moves(id: &str, plan: Plan) -> Result<Vec<String>> {
    let ends: Vec<_> = linked(plan).flat_map(|host| ends(id, host)).collect();
    let found = poll(RETURN, || {
        let cards = cards()?;
        let line =
            |(mac, place): &(Mac, String)| Some(format!("link set {} {place}", cards.get(mac)?));
        Ok(ends.iter().map(line).collect::<Option<Vec<_>>>())
    })?;
    found.context(
        "the machine lacks network cards with the MAC addresses of the lab's hosts; `cargo xtask vm` makes a machine that has them",
    )
}

/// The MAC address, namespace and name of both ends of a host's link.
fn ends(id: &str, host: Host) -> [(Mac, String); 2] {
    let there =
        |owner: Host, name: String| format!("netns {} name {name}", namespace::name(id, owner));
    [
        (host.mac(), there(host, host.to_string())),
        (
            host.forwarder_mac(),
            there(Host::Forwarder, format!("to-{host}")),
        ),
    ]
}

/// The cards of this process's namespace, by MAC address.
fn cards() -> Result<HashMap<Mac, String>> {
    let folder = Path::new("/sys/class/net");
    let entries = fs::read_dir(folder).context("cannot list network interfaces")?;
    Ok(entries
        .flatten()
        .filter(|entry| entry.path().join("device").exists())
        .filter_map(|entry| {
            let text = fs::read_to_string(entry.path().join("address")).ok()?;
            Some((
                parse_mac(text.trim())?,
                entry.file_name().into_string().ok()?,
            ))
        })
        .collect())
}

fn parse_mac(text: &str) -> Option<Mac> {
    let bytes: Option<Vec<u8>> = text
        .split(':')
        .map(|byte| u8::from_str_radix(byte, 16).ok())
        .collect();
    bytes?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_has_an_end_at_the_host_and_one_at_the_forwarder() {
        let [far, near] = ends("x", Host::Proxy(2));
        assert_eq!(
            far,
            (Host::Proxy(2).mac(), "netns sipfw-x-p2 name p2".to_owned())
        );
        assert_eq!(near.1, "netns sipfw-x-fwd name to-p2");
        assert_eq!(parse_mac("02:00:0a:d2:00:02"), Some([2, 0, 10, 210, 0, 2]));
        assert_eq!(parse_mac("02:00"), None);
    }
}
