//! Wiring: one function for each verb.

mod agent;
mod conductor;
mod connected;
mod daemon;
mod desk;
mod ground;
mod health;
mod keys;
mod operate;
mod picture;
mod reload;
mod ways;

use std::{io::Write as _, net::IpAddr, path::Path};

pub use agent::{agent, agent_drain};
use anyhow::Context as _;
pub use keys::{key_derive, key_new};
pub use operate::{change, reload, status};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing_subscriber::EnvFilter;

use crate::{
    api::TcpApi,
    config::{self, Config, Dataplane, XdpMode},
    dataplane::{driver, environment, nexthop::Resolver, object, pins::Pins, stages},
    stream::tls::{ClientTls, ServerTls},
};

/// Forwards until SIGTERM or SIGINT.
pub fn run(path: &Path) -> anyhow::Result<()> {
    start_log();
    raise_file_limit();
    let config = config::load(path)?;
    let runtime = runtime()?;
    if config.forwarder.dataplane == Dataplane::Userspace {
        return runtime.block_on(daemon::run(path, config, &[]));
    }
    let object = object::embedded()?;
    environment::check(&config)?;
    // Where traffic flows already, one lost route must not keep the daemon from starting.
    if !Pins::at(&config.forwarder.bpf_dir).exist() {
        runtime.block_on(check_routes(&config))?;
    }
    runtime.block_on(daemon::run(path, config, object))
}

/// Checks the configuration and the machine.
pub fn check(path: &Path) -> anyhow::Result<()> {
    let config = config::load(path)?;
    TcpApi::of(&config.forwarder)?;
    if let Some(heartbeats) = &config.heartbeats {
        health::masters(heartbeats)?;
    }
    check_tls(&config)?;
    if config.forwarder.dataplane == Dataplane::Xdp {
        environment::check(&config)?;
        let runtime = runtime()?;
        runtime.block_on(check_routes(&config))?;
        let kernel = stages::probe(object::embedded()?)?;
        say(&format!("{kernel}: takes the XDP program\n"))?;
        if config.forwarder.xdp != XdpMode::Generic {
            let attached = Pins::at(&config.forwarder.bpf_dir).exist();
            let findings = driver::findings(&config.forwarder.interfaces, attached);
            for finding in runtime.block_on(findings)? {
                say(&format!("{finding}\n"))?;
            }
        }
    }
    let backends: usize = config.services.iter().map(|s| s.backends.len()).sum();
    say(&format!(
        "{}: services: {}, backends: {backends}; ready to run\n",
        path.display(),
        config.services.len()
    ))
}

/// Are certificates, keys and roots there, and do they fit?
fn check_tls(config: &Config) -> anyhow::Result<()> {
    for service in &config.services {
        let whose = || format!("service `{}`", service.name);
        if let Some(tls) = &service.tls {
            ServerTls::load(tls).with_context(whose)?;
        }
        if let Some(ca) = &service.backend_ca {
            ClientTls::load(ca).with_context(whose)?;
        }
    }
    Ok(())
}

/// Is there a way to every backend, and back?
async fn check_routes(config: &Config) -> anyhow::Result<()> {
    let (resolver, _changes) = Resolver::open()?;
    for service in &config.services {
        for backend in &service.backends {
            check_way(&resolver, backend.address.ip())
                .await
                .with_context(|| {
                    format!("service `{}`, backend `{}`", service.name, backend.name)
                })?;
        }
    }
    Ok(())
}

/// Is there a route to a backend, and does the kernel take what comes back by it?
async fn check_way(resolver: &Resolver, backend: IpAddr) -> anyhow::Result<()> {
    let interface = resolver.interface_to(backend).await?;
    if backend.is_ipv4() {
        environment::check_way_in(interface)?;
    }
    Ok(())
}

/// Takes everything off.
pub fn unload(path: &Path) -> anyhow::Result<()> {
    let config = config::load(path)?;
    let removed = Pins::at(&config.forwarder.bpf_dir).remove()?;
    let what = if removed {
        "taken off"
    } else {
        "nothing was there"
    };
    say(&format!("{}: {what}\n", config.forwarder.bpf_dir.display()))
}

/// Prints to stdout; a reader that went away is no fault.
fn say(text: &str) -> anyhow::Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// A socket for each backend that is asked, each VIP and core: more than the usual 1,024 files. What the
/// system allows is taken.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "cannot raise the limit on open files");
    }
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")
}

fn start_log() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    // Only the first log of a process counts; tests may start several.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .try_init();
}
