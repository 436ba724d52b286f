//! What people type.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Gives every SIP message to the right proxy, in the kernel's first receive step.
#[derive(Debug, Parser)]
#[command(version, about)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// The configuration file.
#[derive(Clone, Debug, Args)]
pub struct ConfigFile {
    /// The configuration file.
    #[arg(long, short, default_value = "/etc/sip-forwarder.toml")]
    pub config: PathBuf,
}

/// The agent's file.
#[derive(Clone, Debug, Args)]
pub struct AgentFile {
    /// The agent's file.
    #[arg(
        long,
        short,
        global = true,
        default_value = "/etc/sip-forwarder/agent.toml"
    )]
    pub config: PathBuf,
}

/// What to do with keys.
#[derive(Debug, Subcommand)]
pub enum KeyVerb {
    /// Draw a new master key, for all forwarders of a cluster.
    New {
        /// The file to make; standard output by default.
        #[arg(long)]
        out: Option<PathBuf>,
    },
    /// Derive the key of one agent from the master key.
    Derive {
        /// Whose key: SERVICE/BACKEND, as in the forwarder's configuration.
        name: String,
        /// The master key's file.
        #[arg(long)]
        master: PathBuf,
        /// The file to make; standard output by default.
        #[arg(long)]
        out: Option<PathBuf>,
    },
}

/// What to tell the agent that runs.
#[derive(Clone, Copy, Debug, Subcommand)]
pub enum AgentVerb {
    /// Announce that the proxy wants no new calls.
    Drain {
        /// It wants new calls again.
        #[arg(long)]
        undo: bool,
    },
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Forward until SIGTERM. What is attached stays, so that a restart loses no message; `unload`
    /// takes it off.
    Run {
        /// The configuration.
        #[command(flatten)]
        file: ConfigFile,
    },
    /// Check the configuration and the machine, and change nothing.
    Check {
        /// The configuration.
        #[command(flatten)]
        file: ConfigFile,
    },
    /// Take the XDP program off all interfaces and forget all maps.
    Unload {
        /// The configuration.
        #[command(flatten)]
        file: ConfigFile,
    },
    /// Show services, backends and counters.
    Status {
        /// One JSON object instead of text.
        #[arg(long)]
        json: bool,
        /// The daemon's socket; that of the configuration by default.
        #[arg(long)]
        socket: Option<PathBuf>,
        /// The configuration.
        #[command(flatten)]
        file: ConfigFile,
    },
    /// Tell the forwarders how the proxy on this machine is, until SIGTERM.
    Agent {
        /// Something else: tell the agent that runs.
        #[command(subcommand)]
        verb: Option<AgentVerb>,
        /// The agent's file.
        #[command(flatten)]
        file: AgentFile,
    },
    /// Make keys for heartbeats.
    Key {
        /// Which.
        #[command(subcommand)]
        verb: KeyVerb,
    },
}
