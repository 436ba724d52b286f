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
}
