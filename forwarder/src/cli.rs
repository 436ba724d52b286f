//! What people type.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::config::WEIGHT_LIMIT;

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

/// A daemon that runs, and how its answer is wanted.
#[derive(Clone, Debug, Args)]
pub struct Daemon {
    /// One JSON object instead of text.
    #[arg(long)]
    pub json: bool,
    /// The daemon's socket; that of the configuration by default.
    #[arg(long)]
    pub socket: Option<PathBuf>,
    /// The configuration.
    #[command(flatten)]
    pub file: ConfigFile,
}

/// A backend, as the configuration names it.
#[derive(Clone, Debug, Args)]
pub struct BackendName {
    /// The service.
    #[arg(value_name = "SERVICE")]
    pub service: String,
    /// The backend of that service.
    #[arg(value_name = "BACKEND")]
    pub backend: String,
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
    /// Show what is wrong, services, backends and counters.
    Status {
        /// The daemon.
        #[command(flatten)]
        daemon: Daemon,
    },
    /// Give a backend another weight than the configured one.
    Weight {
        /// The backend.
        #[command(flatten)]
        backend: BackendName,
        /// Its share of the calls against the other backends' shares.
        #[arg(value_name = "N", value_parser = clap::value_parser!(u16).range(1..=i64::from(WEIGHT_LIMIT)))]
        weight: u16,
        /// The daemon.
        #[command(flatten)]
        daemon: Daemon,
    },
    /// Give a backend no new calls; those that are up stay.
    Drain {
        /// The backend.
        #[command(flatten)]
        backend: BackendName,
        /// The daemon.
        #[command(flatten)]
        daemon: Daemon,
    },
    /// Give a backend new calls again, after `drain` or `disable`.
    Enable {
        /// The backend.
        #[command(flatten)]
        backend: BackendName,
        /// The daemon.
        #[command(flatten)]
        daemon: Daemon,
    },
    /// Give a backend no calls at all.
    Disable {
        /// The backend.
        #[command(flatten)]
        backend: BackendName,
        /// The daemon.
        #[command(flatten)]
        daemon: Daemon,
    },
    /// Have the daemon read its configuration file again.
    Reload {
        /// The daemon.
        #[command(flatten)]
        daemon: Daemon,
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
