//! The binary: reads the command line, does one verb, tells the exit status.

use std::process::ExitCode;

use clap::Parser as _;
use sip_forwarder::{
    api::Change,
    app,
    cli::{AgentVerb, BackendName, Cli, Daemon, KeyVerb, Verb},
};

/// Usage or environment: the operator has something to mend.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    match perform(Cli::parse().verb) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sip-forwarder: {}", in_one_line(&error));
            ExitCode::from(USAGE)
        }
    }
}

fn perform(verb: Verb) -> anyhow::Result<()> {
    match verb {
        Verb::Run { file } => app::run(&file.config),
        Verb::Check { file } => app::check(&file.config),
        Verb::Unload { file } => app::unload(&file.config),
        Verb::Status { daemon } => app::status(&daemon),
        Verb::Weight {
            backend,
            weight,
            daemon,
        } => change(&backend, Change::Weight(weight), &daemon),
        Verb::Drain { backend, daemon } => change(&backend, Change::Drain, &daemon),
        Verb::Enable { backend, daemon } => change(&backend, Change::Enable, &daemon),
        Verb::Disable { backend, daemon } => change(&backend, Change::Disable, &daemon),
        Verb::Reload { daemon } => app::reload(&daemon),
        Verb::Agent { verb: None, file } => app::agent(&file.config),
        Verb::Agent {
            verb: Some(AgentVerb::Drain { undo }),
            file,
        } => app::agent_drain(&file.config, undo),
        Verb::Key {
            verb: KeyVerb::New { out },
        } => app::key_new(out.as_deref()),
        Verb::Key {
            verb: KeyVerb::Derive { name, master, out },
        } => app::key_derive(&name, &master, out.as_deref()),
    }
}

fn change(name: &BackendName, change: Change, daemon: &Daemon) -> anyhow::Result<()> {
    app::change(&name.service, &name.backend, change, daemon)
}

/// The fault with its causes, each told once: many messages quote their cause already.
fn in_one_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if !line.contains(&cause) {
            if !line.is_empty() {
                line.push_str(": ");
            }
            line.push_str(&cause);
        }
    }
    line.replace('\n', " ")
}
