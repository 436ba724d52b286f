//! TCP, TLS and WebSocket: what goes together.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use rustls_pki_types::ServerName;

use super::{Check, DAY, period, port};
use crate::config::{BackendTransport, Config, Connections, ListenTransport, Mode, Service};

/// Milliseconds that waiting for a peer may take.
const PATIENCE: (u64, u64) = (100, 600_000);
const MIB: usize = 1 << 20;

/// Checks all of it.
pub(super) fn check(config: &Config) -> Check {
    limits(&config.connections)?;
    for service in &config.services {
        mode(service)?;
        towards_backends(service)?;
        listeners(service)?;
    }
    addresses(config)
}

fn limits(limits: &Connections) -> Check {
    let key = |key| format!("connections.{key}");
    within(&key("total"), limits.total, 1, 1_000_000)?;
    within(&key("per_source"), limits.per_source, 1, 1_000_000)?;
    within(&key("half_open"), limits.half_open, 1, 1_000_000)?;
    let waits: [(_, Duration); 3] = [
        ("handshake_timeout", limits.handshake_timeout),
        ("message_timeout", limits.message_timeout),
        ("write_timeout", limits.write_timeout),
    ];
    for (name, wait) in waits {
        period(&key(name), wait, PATIENCE)?;
    }
    period(&key("idle_timeout"), limits.idle_timeout, (100, 30 * DAY))?;
    within(&key("max_headers"), limits.max_headers, 512, MIB)?;
    within(&key("max_message"), limits.max_message, 512, 16 * MIB)?;
    within(&key("write_buffer"), limits.write_buffer, 4_096, 64 * MIB)?;
    let larger = |what, value, than, least| {
        if value >= least {
            return Ok(());
        }
        Err(format!(
            "connections.{what} is {value}, less than connections.{than} ({least}); give at least as much"
        ))
    };
    let (headers, message) = (limits.max_headers, limits.max_message);
    larger("max_message", message, "max_headers", headers)?;
    larger("write_buffer", limits.write_buffer, "max_message", message)
}

fn within(key: &str, value: usize, from: usize, to: usize) -> Check {
    if (from..=to).contains(&value) {
        Ok(())
    } else {
        Err(format!("{key} is {value}; give {from} to {to}"))
    }
}

/// Connections are for services whose messages the workers forward.
fn mode(service: &Service) -> Check {
    if service.mode == Mode::Proxy {
        return Ok(());
    }
    let has_server_name = |b: &crate::config::Backend| b.server_name != b.address.ip().to_string();
    let keys = [
        ("transport", service.transport != BackendTransport::Udp),
        ("large_by_tcp", service.large_by_tcp),
        ("edge", service.edge),
        ("backend_ca", service.backend_ca.is_some()),
        ("[[service.listen]]", !service.listeners.is_empty()),
        ("[service.tls]", service.tls.is_some()),
        ("server_name", service.backends.iter().any(has_server_name)),
    ];
    match keys.iter().find(|(_, given)| *given) {
        None => Ok(()),
        Some((key, _)) => Err(format!(
            "service `{}`: {key} is for mode \"proxy\"; in mode \"nat\" only UDP is forwarded, as it comes",
            service.name
        )),
    }
}

fn towards_backends(service: &Service) -> Check {
    let name = &service.name;
    let secure = service.transport == BackendTransport::Tls;
    if secure && service.backend_ca.is_none() {
        return Err(format!(
            "service `{name}`: transport is \"tls\", but there is no backend_ca; name the PEM file with the roots of the backends' certificates"
        ));
    }
    if !secure && service.backend_ca.is_some() {
        return Err(format!(
            "service `{name}`: backend_ca is for transport \"tls\", but transport is \"{}\"; leave one of them out",
            service.transport.name()
        ));
    }
    if service.large_by_tcp && service.transport != BackendTransport::Udp {
        return Err(format!(
            "service `{name}`: large_by_tcp is for transport \"udp\", but transport is \"{}\"; leave one of them out",
            service.transport.name()
        ));
    }
    for backend in &service.backends {
        let whose = format!("service `{name}`, backend `{}`", backend.name);
        let server_name = &backend.server_name;
        if !secure && *server_name != backend.address.ip().to_string() {
            return Err(format!(
                "{whose}: server_name is for transport \"tls\", but the service's is \"{}\"; leave it out",
                service.transport.name()
            ));
        }
        if ServerName::try_from(server_name.as_str()).is_err() {
            return Err(format!(
                "{whose}: server_name is `{server_name}`; give the host name or the address in the backend's certificate"
            ));
        }
    }
    Ok(())
}

fn listeners(service: &Service) -> Check {
    let name = &service.name;
    for listener in &service.listeners {
        let transport = listener.transport.name();
        port(
            &format!("service `{name}`, listen `{transport}`"),
            listener.port,
        )?;
    }
    let secure = service.listeners.iter().find(|l| l.transport.is_secure());
    match (secure, &service.tls) {
        (Some(listener), None) => Err(format!(
            "service `{name}` listens for \"{}\", but has no [service.tls]; add it, with a [[service.tls.certificate]]",
            listener.transport.name()
        )),
        (None, Some(_)) => Err(format!(
            "service `{name}` has [service.tls], but no [[service.listen]] for \"{}\" or \"{}\"; add one, or leave it out",
            ListenTransport::Tls.name(),
            ListenTransport::Wss.name()
        )),
        (Some(_), Some(tls)) if tls.certificates.is_empty() => Err(format!(
            "service `{name}`: [service.tls] has no [[service.tls.certificate]]; give at least one, with chain and key"
        )),
        _ => Ok(()),
    }
}

/// One TCP port, one listener.
fn addresses(config: &Config) -> Check {
    let mut seen = HashMap::new();
    for service in &config.services {
        for listener in &service.listeners {
            let address = SocketAddr::new(service.vip.ip(), listener.port);
            let transport = listener.transport.name();
            let what = format!("service `{}` for \"{transport}\"", service.name);
            if let Some(other) = seen.insert(address, what.clone()) {
                return Err(format!(
                    "{other} and {what} both listen on TCP {address}; give each a port of its own"
                ));
            }
            if config
                .forwarder
                .api_listen
                .is_some_and(|api| overlap(api, address))
            {
                return Err(format!(
                    "{what} and forwarder.api_listen are both on TCP {address}; give each a port of its own"
                ));
            }
        }
    }
    Ok(())
}

/// Would listening on `one` take what comes to `other`?
fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    let same_host = match one.ip() {
        ip if ip == other.ip() => true,
        IpAddr::V4(ip) => ip.is_unspecified() && other.is_ipv4(),
        // Linux takes IPv4 by `::` too.
        IpAddr::V6(ip) => ip.is_unspecified(),
    };
    same_host && one.port() == other.port()
}

#[cfg(test)]
mod tests;
