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
}
