//! `sipsak` in the client's namespace: one request to the VIP, and whether it was answered well.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::kamailio::InUri;
use crate::lab::process::output_within;
use crate::lab::{Family, Host, Lab};

/// It sends again for some seconds before it gives up.
const END: Duration = Duration::from_secs(45);

/// Registers a user at the VIP, to be found at `contact`. Fails unless sipsak ends with 0.
pub fn register(lab: &Lab, user: &str, contact: SocketAddr, family: Family) -> Result<()> {
    let contact = format!("sip:{user}@{contact}");
    run(
        lab,
        user,
        family,
        &[
            "--usrloc-mode",
            "--expires",
            "60",
            "--contact",
            contact.as_str(),
        ],
    )
}

/// Registers a user at the VIP by TCP. (By TLS the sipsak of Debian 12 sends, but does not read the answer: "select
/// returned error".)
pub fn register_by_tcp(lab: &Lab, user: &str) -> Result<()> {
    run(
        lab,
        user,
        Family::V4,
        &["--usrloc-mode", "--expires", "60", "--transport", "tcp"],
    )
}

/// Asks a user at the VIP by OPTIONS. Fails unless sipsak ends with 0, that is unless the user answers with 2xx.
/// (The sipsak of Debian 12 crashes in its modes
/// for MESSAGE.)
pub fn options(lab: &Lab, user: &str, family: Family) -> Result<()> {
    run(lab, user, family, &[])
}

fn run(lab: &Lab, user: &str, family: Family, arguments: &[&str]) -> Result<()> {
    let uri = format!("sip:{user}@{}", InUri(lab.vip(family)));
    let own = InUri(lab.address(Host::Client, family)).to_string();
    let mut command = lab.command(Host::Client, "sipsak")?;
    // The namespace has no names: in Via and From it calls itself by its address.
    command
        .args(arguments)
        .args(["-vv", "--hostname", &own, "--sip-uri", &uri]);
    let output = output_within(command, END).context("is sipsak installed?")?;
    ensure!(
        output.status.success(),
        "sipsak ended with {} for {uri}; it says\n{}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout).trim(),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}
