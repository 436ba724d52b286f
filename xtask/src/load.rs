//! `cargo xtask load` and `unload`: the forwarder on a real interface.

use std::{fs, os::unix::process::CommandExt as _, path::PathBuf, process::Command};

use anyhow::{Context as _, bail};
use clap::Args;

use crate::{
    Outcome, program,
    shell::{is_root, root, run, say},
};

/// Run the forwarder on a real interface.
#[derive(Args)]
pub(crate) struct Load {
    /// The configuration.
    #[arg(long)]
    config: PathBuf,
    /// The interface; must be one of the configuration's, and is checked to be.
    #[arg(long)]
    interface: String,
}

impl Load {
    pub(crate) fn run(&self) -> anyhow::Result<Outcome> {
        need_root()?;
        let config = sip_forwarder::config::load(&self.config)?;
        if !config.forwarder.interfaces.contains(&self.interface) {
            bail!(
                "{} does not name interface {}; add it to forwarder.interfaces (now {:?})",
                self.config.display(),
                self.interface,
                config.forwarder.interfaces
            );
        }
        let daemon = program::daemon()?;
        say(&format!(
            "starting on {}; stop with Ctrl-C, take off with `cargo xtask unload`",
            self.interface
        ));
        // The daemon takes our place: signals and exit status are its own.
        let error = Command::new(daemon)
            .args(["run", "--config"])
            .arg(&self.config)
            .exec();
        Err(error).context("cannot start sip-forwarder")
    }
}

/// Take the forwarder off.
#[derive(Args)]
pub(crate) struct Unload {
    /// The configuration it was loaded with.
    #[arg(long)]
    config: PathBuf,
}

impl Unload {
    pub(crate) fn run(&self) -> anyhow::Result<Outcome> {
        need_root()?;
        let built = root().join("target/release/sip-forwarder");
        let daemon = if fs::exists(&built).unwrap_or(false) {
            built
        } else {
            program::daemon()?
        };
        run(Command::new(daemon)
            .args(["unload", "--config"])
            .arg(&self.config))?;
        Ok(Outcome::Done)
    }
}

fn need_root() -> anyhow::Result<()> {
    if is_root() {
        Ok(())
    } else {
        bail!("loading an XDP program needs root; run it with sudo")
    }
}
