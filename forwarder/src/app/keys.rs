//! `sip-forwarder key`: keys for heartbeats.

use std::path::Path;

use anyhow::Context as _;

use super::say;
use crate::{config::check, heartbeat::keys::MasterKey};

/// Draws a master key.
pub fn key_new(out: Option<&Path>) -> anyhow::Result<()> {
    let key = MasterKey::random()?;
    match out {
        Some(path) => Ok(key.save(path)?),
        None => say(&key.to_hex()),
    }
}

/// Derives the key of the agent `name`, which is SERVICE/BACKEND.
pub fn key_derive(name: &str, master: &Path, out: Option<&Path>) -> anyhow::Result<()> {
    let (service, backend) = name
        .split_once('/')
        .with_context(|| format!("`{name}` names no agent; give SERVICE/BACKEND"))?;
    check::name("the service's name", service).map_err(anyhow::Error::msg)?;
    check::name("the backend's name", backend).map_err(anyhow::Error::msg)?;
    let key = MasterKey::load(master)?.agent_key(service, backend);
    match out {
        Some(path) => Ok(key.save(path)?),
        None => say(&key.to_hex()),
    }
}
