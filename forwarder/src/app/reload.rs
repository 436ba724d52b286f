//! Another configuration in the place of the present one, while traffic flows: everything is checked
//! first, and a file that is not valid changes nothing.

use std::{fmt::Debug, sync::Arc};

use super::daemon::{Daemon, manners, served, settle_by_number, start_workers};
use crate::{
    api::{Refusal, Reloaded},
    config::{self, Config, Dataplane, Service},
    dataplane::environment,
};

/// Reads the file again and puts it in force. Whatever may be refused comes first, and changes nothing.
pub(super) async fn reload(daemon: &mut Daemon) -> Result<Reloaded, Refusal> {
    let invalid = |error: anyhow::Error| Refusal::Invalid(format!("{error:#}"));
    let config = config::load(&daemon.config_file).map_err(|e| invalid(e.into()))?;
    refuse_what_needs_a_restart(&daemon.config, &config).map_err(Refusal::Invalid)?;
    if config.forwarder.dataplane == Dataplane::Xdp {
        environment::check(&config).map_err(|e| invalid(e.into()))?;
    }
    let mut numbering = daemon.state.numbering.clone();
    numbering.assign(&config);
    let ways = daemon
        .ground
        .find_ways(&config, &numbering)
        .await
        .map_err(invalid)?;
    let prepared = daemon.ears.prepare(&config).map_err(invalid)?;
    let mut state = daemon.state.clone();
    state.numbering = numbering;
    let connections = daemon.connected.prepare(&config, &state).map_err(invalid)?;
    let mut workers = if daemon.served == served(&config) {
        None
    } else {
        let flows = daemon.connected.flows();
        let started = start_workers(&config, &state, &daemon.ground.tables, &flows);
        Some(started.map_err(|e| invalid(e.into()))?)
    };
    // Numbers before what stands under them: after a crash, what the maps hold must mean the same.
    daemon
        .state_dir
        .write(&state)
        .map_err(|e| invalid(e.into()))?;

    let old = std::mem::replace(&mut daemon.config, config);
    daemon.state = state;
    daemon.ground.set_ways(ways);
    daemon.ears.reconfigure(&old, &daemon.config, prepared);
    let published = publish_all(daemon);
    if let Some(workers) = &mut workers {
        daemon.connected.send_by(workers);
    }
    daemon.connected.commit(connections);
    if let Some(new) = workers
        && let Some(before) = daemon.workers.replace(new)
    {
        daemon.served = served(&daemon.config);
        before.stop();
    }
    published.map_err(|error| {
        Refusal::Failed(format!(
            "the configuration is in force, but the maps could not be written: {error:#}; reload again, or restart the daemon (no message is lost)"
        ))
    })?;
    Ok(Reloaded {
        changes: differences(&old, &daemon.config),
    })
}

fn publish_all(daemon: &mut Daemon) -> anyhow::Result<()> {
    let Daemon {
        config,
        state,
        ground,
        conductor,
        desk,
        ..
    } = daemon;
    let plane = &ground.plane;
    desk.count_in(
        Arc::clone(plane),
        settle_by_number(config, &state.numbering),
    );
    conductor.reconfigure(config, &state.numbering);
    plane.publish_backends(config, &state.numbering)?;
    ground.publish_ways()?;
    ground.tables.set_manners(manners(config, &state.numbering));
    plane.publish_services(config, &state.numbering, state.hash_key, &mut |service| {
        conductor.columns(service)
    })?;
    conductor.publish_living()?;
    daemon.carry_out();
    Ok(())
}

fn refuse_what_needs_a_restart(old: &Config, new: &Config) -> Result<(), String> {
    if old.limits != new.limits {
        return Err("[limits] was changed; tables keep their sizes until `sip-forwarder unload`, which a restart must follow".into());
    }
    if old.connections != new.connections {
        return Err(
            "[connections] was changed; that needs a restart of the daemon, which ends connections"
                .into(),
        );
    }
    if old.forwarder != new.forwarder {
        return Err(
            "[forwarder] was changed; that needs a restart of the daemon (no message is lost)"
                .into(),
        );
    }
    Ok(())
}

/// What differs, one line each.
fn differences(old: &Config, new: &Config) -> Vec<String> {
    let mut lines = Vec::new();
    if old.heartbeats != new.heartbeats {
        lines.push("[heartbeats] changed".to_owned());
    }
    for service in &old.services {
        if !new.services.iter().any(|s| s.name == service.name) {
            lines.push(format!("service {} is gone", service.name));
        }
    }
    for service in &new.services {
        match old.services.iter().find(|s| s.name == service.name) {
            None => lines.push(format!("service {} is new", service.name)),
            Some(before) => lines.extend(differences_of(before, service)),
        }
    }
    lines
}

fn differences_of(old: &Service, new: &Service) -> Vec<String> {
    let name = &new.name;
    let mut lines = Vec::new();
    for backend in &old.backends {
        if !new.backends.iter().any(|b| b.name == backend.name) {
            lines.push(format!("service {name}: backend {} is gone", backend.name));
        }
    }
    for backend in &new.backends {
        let whose = format!("service {name}: backend {}", backend.name);
        match old.backends.iter().find(|b| b.name == backend.name) {
            None => lines.push(format!("{whose} is new")),
            Some(before) => {
                changed(
                    &mut lines,
                    &whose,
                    "weight",
                    &before.weight,
                    &backend.weight,
                );
                changed(
                    &mut lines,
                    &whose,
                    "address",
                    &before.address,
                    &backend.address,
                );
                changed(
                    &mut lines,
                    &whose,
                    "health",
                    &before.health,
                    &backend.health,
                );
                changed(&mut lines, &whose, "gate", &before.gate, &backend.gate);
                changed(
                    &mut lines,
                    &whose,
                    "server_name",
                    &before.server_name,
                    &backend.server_name,
                );
            }
        }
    }
    let whose = format!("service {name}");
    changed(&mut lines, &whose, "vip", &old.vip, &new.vip);
    changed(&mut lines, &whose, "key", &old.key, &new.key);
    changed(
        &mut lines,
        &whose,
        "register_key",
        &old.register_key,
        &new.register_key,
    );
    changed(&mut lines, &whose, "spread", &old.spread, &new.spread);
    changed(&mut lines, &whose, "probe", &old.probe, &new.probe);
    connections(&mut lines, &whose, old, new);
    lines
}

/// What differs about a service's connections.
fn connections(lines: &mut Vec<String>, whose: &str, old: &Service, new: &Service) {
    changed(lines, whose, "transport", &old.transport, &new.transport);
    changed(
        lines,
        whose,
        "large_by_tcp",
        &old.large_by_tcp,
        &new.large_by_tcp,
    );
    changed(lines, whose, "edge", &old.edge, &new.edge);
    changed(lines, whose, "backend_ca", &old.backend_ca, &new.backend_ca);
    changed(lines, whose, "listen", &old.listeners, &new.listeners);
    changed(lines, whose, "tls", &old.tls, &new.tls);
}

fn changed<T: PartialEq + Debug>(lines: &mut Vec<String>, whose: &str, what: &str, a: &T, b: &T) {
    if a != b {
        lines.push(format!("{whose}: {what} was {a:?}, is {b:?}"));
    }
}
