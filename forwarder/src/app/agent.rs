//! `sip-forwarder agent`: the program beside a proxy.

use std::path::Path;

use super::{runtime, say, start_log};
use crate::agent::{self, config, control};

/// Reports until SIGTERM or SIGINT.
pub fn agent(path: &Path) -> anyhow::Result<()> {
    start_log();
    let config = config::load(path)?;
    Ok(runtime()?.block_on(agent::run(config))?)
}

/// Tells the agent that runs to announce draining, or that it is over.
pub fn agent_drain(path: &Path, undo: bool) -> anyhow::Result<()> {
    let config = config::load(path)?;
    let command = if undo {
        control::Command::Undrain
    } else {
        control::Command::Drain
    };
    let answer = control::ask(&config.control_socket, command)?;
    say(&format!("{answer}\n"))
}
