//! `cargo xtask lab`: a lab that stays, to look around in.

use std::{os::unix::process::CommandExt as _, process::Command};

use anyhow::{Context as _, bail};
use clap::Subcommand;
use sip_forwarder_tests::lab::{Host, Lab};

use crate::{Outcome, setup, shell::is_root};

/// The word in the names of its namespaces.
const WORD: &str = "lab";

#[derive(clap::Args)]
pub(crate) struct LabVerb {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Make it.
    Up {
        /// How many proxies.
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=32))]
        backends: u8,
    },
    /// Take it down.
    Down,
    /// A shell in one of its hosts: client, fwd, p1, p2, …
    Shell {
        /// The host.
        host: String,
    },
}

impl LabVerb {
    pub(crate) fn run(&self) -> anyhow::Result<Outcome> {
        if !is_root() {
            bail!("network namespaces need root; run it with sudo");
        }
        match &self.action {
            Action::Up { backends } => up(*backends),
            Action::Down => down(),
            Action::Shell { host } => shell(host),
        }
    }
}

fn up(backends: u8) -> anyhow::Result<Outcome> {
    setup::lab_programs()?;
    let lab = Lab::up(WORD, backends)?;
    println!("the lab is up; a shell in a host: cargo xtask lab shell HOST");
    for host in lab.hosts() {
        println!(
            "  {:<8} namespace {}",
            host.to_string(),
            lab.namespace(host)?.name()
        );
    }
    Ok(Outcome::Done)
}

fn down() -> anyhow::Result<Outcome> {
    println!(
        "{}",
        if Lab::down(WORD)? {
            "the lab is down"
        } else {
            "there was no lab"
        }
    );
    Ok(Outcome::Done)
}

fn shell(name: &str) -> anyhow::Result<Outcome> {
    let lab = Lab::attach(WORD).context("there is no lab; make one with `cargo xtask lab up`")?;
    let hosts: Vec<Host> = lab.hosts();
    let Some(host) = hosts.iter().find(|host| host.to_string() == name) else {
        let names: Vec<String> = hosts.iter().map(ToString::to_string).collect();
        bail!(
            "there is no host `{name}` in the lab; there are {}",
            names.join(", ")
        );
    };
    let shell = std::env::var_os("SHELL").unwrap_or_else(|| "/bin/sh".into());
    // The shell takes our place, so that Ctrl-C is its own.
    let mut command: Command = lab.command(*host, shell)?;
    Err(command.exec()).context("cannot start a shell")
}
