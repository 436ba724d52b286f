//! Another configuration in the place of the present one, while traffic flows: everything is checked
//! first, and a file that is not valid changes nothing.

use std::fmt::Debug;

use super::{
    check_routes,
    daemon::{Daemon, manners, start_workers},
    ways::Ways,
};
use crate::{
    api::{Refusal, Reloaded},
    config::{self, Config, Service},
    dataplane::{environment, publish},
};

/// Reads the file again and puts it in force.
pub(super) async fn reload(daemon: &mut Daemon) -> Result<Reloaded, Refusal> {
    let invalid = |error: anyhow::Error| Refusal::Invalid(format!("{error:#}"));
    let config = config::load(&daemon.config_file).map_err(|e| invalid(e.into()))?;
    refuse_what_needs_a_restart(&daemon.config, &config).map_err(Refusal::Invalid)?;
    environment::check(&config).map_err(|e| invalid(e.into()))?;
    check_routes(&config).await.map_err(invalid)?;
    let mut numbering = daemon.state.numbering.clone();
    numbering.assign(&config);
    let ways = Ways::find(&config, &numbering, &daemon.resolver)
        .await
        .map_err(invalid)?;
    // The last that may refuse: keys that cannot be read, a port that is taken.
    let old = std::mem::replace(&mut daemon.config, config);
    if let Err(error) = daemon.ears.reconfigure(&old, &daemon.config) {
        let refused = std::mem::replace(&mut daemon.config, old);
        daemon
            .ears
            .reconfigure(&refused, &daemon.config)
            .map_err(|again| Refusal::Failed(format!("{error:#}; and going back: {again:#}")))?;
        return Err(invalid(error));
    }
    let workers = if same_vips(&old, &daemon.config) {
        None
    } else {
        let started = start_workers(&daemon.config, &numbering, &daemon.tables);
        Some(started.map_err(|e| Refusal::Failed(e.to_string()))?)
    };
    daemon.state.numbering = numbering;
    daemon.ways = ways;
    publish_all(daemon).map_err(|error| {
        Refusal::Failed(format!(
            "{error:#}; restart the daemon (no message is lost)"
        ))
    })?;
    if let Some(new) = workers
        && let Some(old) = daemon.workers.replace(new)
    {
        old.stop();
    }
    Ok(Reloaded {
        changes: differences(&old, &daemon.config),
    })
}

fn publish_all(daemon: &mut Daemon) -> anyhow::Result<()> {
    let Daemon {
        config,
        state,
        state_dir,
        maps,
        tables,
        conductor,
        ways,
        ..
    } = daemon;
    // Numbers first: what the maps hold must never mean something else after a crash.
    state_dir.write(state)?;
    publish::backends(maps, config, &state.numbering)?;
    ways.publish(maps)?;
    tables.set_manners(manners(config, &state.numbering));
    conductor.reconfigure(config, &state.numbering);
    publish::services(
        maps,
        config,
        &state.numbering,
        state.hash_key,
        &mut |service| conductor.columns(service),
    )?;
    conductor.publish_living()?;
    daemon.follow_control();
    Ok(())
}

fn refuse_what_needs_a_restart(old: &Config, new: &Config) -> Result<(), String> {
    let but_its_name = |config: &Config| config::Forwarder {
        name: String::new(),
        ..config.forwarder.clone()
    };
    let section = match (
        old.limits == new.limits,
        but_its_name(old) == but_its_name(new),
    ) {
        (true, true) => return Ok(()),
        (false, _) => "limits",
        (true, false) => "forwarder",
    };
    Err(format!(
        "[{section}] was changed; that needs a restart of the daemon (no message is lost)"
    ))
}

fn same_vips(old: &Config, new: &Config) -> bool {
    let vips = |config: &Config| -> Vec<_> {
        let mut vips: Vec<_> = config
            .services
            .iter()
            .map(|s| (s.name.clone(), s.vip))
            .collect();
        vips.sort();
        vips
    };
    vips(old) == vips(new)
}

/// What differs, one line each.
fn differences(old: &Config, new: &Config) -> Vec<String> {
    let mut lines = Vec::new();
    if old.forwarder.name != new.forwarder.name {
        lines.push(format!("the forwarder's name is {}", new.forwarder.name));
    }
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
    lines
}

fn changed<T: PartialEq + Debug>(lines: &mut Vec<String>, whose: &str, what: &str, a: &T, b: &T) {
    if a != b {
        lines.push(format!("{whose}: {what} was {a:?}, is {b:?}"));
    }
}
