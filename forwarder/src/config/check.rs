//! What serde cannot tell: ranges, and values that contradict each other. Each fault is one sentence
//! that names the key and says what is allowed.

mod connections;

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use super::{Beta, Config, Dataplane, Health, Mode, Service, WEIGHT_LIMIT};

/// Largest number of backends: a slot's column has 15 bits, of which the last value means none.
const BACKEND_LIMIT: u32 = 0x7fff;
/// Largest number of services, so that their rings stay within a sensible amount of memory.
const SERVICE_LIMIT: u32 = 1_024;
/// Longest name of a forwarder, a service or a backend, in bytes.
const NAME_LIMIT: usize = 63;
/// Longest `Retry-After`, in seconds: a client told to stay away for long is lost.
const RETRY_AFTER_LIMIT: u32 = 300;
/// Longest name of an interface (`IFNAMSIZ` less its zero).
const INTERFACE_NAME_LIMIT: usize = 15;

type Check = Result<(), String>;

/// Checks a weight.
pub(super) fn weight(service: &str, backend: &str, weight: i64) -> Result<u16, String> {
    u16::try_from(weight).ok().filter(|w| (1..=WEIGHT_LIMIT).contains(w)).ok_or_else(|| {
        format!("service `{service}`, backend `{backend}`: weight {weight} is not allowed; give 1 to {WEIGHT_LIMIT}, or leave the backend out")
    })
}

/// Checks everything else.
pub(super) fn check(config: &Config) -> Check {
    dataplane(config)?;
    names(config)?;
    heartbeats(config)?;
    limits(config)?;
    if config.services.is_empty() {
        return Err("there is no [[service]]; give at least one, with name and address".into());
    }
    unique(config.services.iter().map(|s| s.name.as_str()), |name| {
        format!("two services are named `{name}`; give each a name of its own")
    })?;
    vips(config)?;
    connections::check(config)?;
    for service in &config.services {
        backends(service)?;
        spread(service)?;
        probe(service)?;
        health(config, service)?;
    }
    sources(config)
}

/// What forwards, and what services may ask of it.
fn dataplane(config: &Config) -> Check {
    match config.forwarder.dataplane {
        Dataplane::Xdp => interfaces(config)?,
        Dataplane::Userspace if config.forwarder.interfaces.is_empty() => {}
        Dataplane::Userspace => {
            return Err("forwarder.interfaces names interfaces for XDP, but forwarder.dataplane is \"userspace\"; leave one of them out".into());
        }
    }
    for service in &config.services {
        let name = &service.name;
        match (config.forwarder.dataplane, service.mode) {
            (Dataplane::Xdp, Mode::Nat) | (Dataplane::Userspace, Mode::Proxy) => {}
            (Dataplane::Userspace, Mode::Nat) => {
                return Err(format!(
                    "service `{name}`: mode \"nat\" needs the XDP program, which forwarder.dataplane = \"userspace\" goes without; say mode = \"proxy\""
                ));
            }
            (Dataplane::Xdp, Mode::Proxy) => {
                return Err(format!(
                    "service `{name}`: mode \"proxy\" is the workers' alone; say forwarder.dataplane = \"userspace\""
                ));
            }
        }
        if service.mode == Mode::Nat && (service.record_route || service.advertise.is_some()) {
            return Err(format!(
                "service `{name}`: record_route and advertise are for mode \"proxy\"; in mode \"nat\" the proxies advertise the VIP"
            ));
        }
        if let Some(host) = &service.advertise {
            let good = !host.is_empty()
                && host
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"-.:[]".contains(&b));
            if !good {
                return Err(format!(
                    "service `{name}`: advertise is `{host}`; give a host name or an address, IPv6 in brackets"
                ));
            }
        }
    }
    Ok(())
}

/// Names stand in heartbeats and in the API's paths.
fn names(config: &Config) -> Check {
    name("forwarder.name", &config.forwarder.name)?;
    for service in &config.services {
        name("a service's name", &service.name)?;
        for backend in &service.backends {
            name("a backend's name", &backend.name)?;
        }
    }
    Ok(())
}

/// Checks a name of a forwarder, a service or a backend.
pub(crate) fn name(what: &str, name: &str) -> Check {
    let good = (1..=NAME_LIMIT).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_.:".contains(&b));
    if good {
        Ok(())
    } else {
        Err(format!(
            "{what} is `{name}`; use 1 to {NAME_LIMIT} letters, digits, `-`, `_`, `.` and `:`"
        ))
    }
}

fn heartbeats(config: &Config) -> Check {
    let Some(heartbeats) = &config.heartbeats else {
        return Ok(());
    };
    if !(1..=2).contains(&heartbeats.key_files.len()) {
        return Err("heartbeats.key_files must name one file, or two while keys are exchanged; make one with `sip-forwarder key new`".into());
    }
    period("heartbeats.interval", heartbeats.interval, (10, 10_000))?;
    within("heartbeats.missed", heartbeats.missed, 1, 1_000)
}

/// Checks a time that is given in milliseconds here.
pub(crate) fn period(key: &str, value: Duration, (from, to): (u64, u64)) -> Check {
    let (from, to) = (Duration::from_millis(from), Duration::from_millis(to));
    if (from..=to).contains(&value) {
        Ok(())
    } else {
        let text = |d| humantime::format_duration(d).to_string();
        Err(format!(
            "{key} is {}; give {} to {}",
            text(value),
            text(from),
            text(to)
        ))
    }
}

const DAY: u64 = 86_400_000;

fn spread(service: &Service) -> Check {
    let (name, spread) = (&service.name, &service.spread);
    let key = |key| format!("service `{name}`: {key}");
    period(&key("settle"), spread.settle, (0, 30 * DAY))?;
    period(&key("drain_idle"), spread.drain_idle, (1_000, 30 * DAY))?;
    within(
        &key("retry_after"),
        spread.retry_after.into(),
        1,
        RETRY_AFTER_LIMIT,
    )?;
    if spread.emergency.iter().any(String::is_empty) {
        return Err(key(
            "emergency has an empty number; give users of Request-URIs, such as \"112\"",
        ));
    }
    Ok(())
}

fn probe(service: &Service) -> Check {
    let probe = &service.probe;
    let key = |key| format!("service `{}`: probe.{key}", service.name);
    period(&key("interval"), probe.interval, (50, DAY))?;
    period(&key("timeout"), probe.timeout, (10, 60_000))?;
    within(&key("down"), probe.down, 1, 100)?;
    within(&key("up"), probe.up, 1, 100)?;
    period(&key("retry_after_cap"), probe.retry_after_cap, (0, DAY))
}

fn health(config: &Config, service: &Service) -> Check {
    for backend in &service.backends {
        let whose = format!("service `{}`, backend `{}`", service.name, backend.name);
        if backend.health == Health::Agent && config.heartbeats.is_none() {
            return Err(format!(
                "{whose}: health is \"agent\", but there is no [heartbeats]; add it, or say health = \"options\""
            ));
        }
        let gate = backend.gate;
        let part = |value| (0.0..=1.0).contains(&value);
        if !part(gate.alpha) {
            return Err(format!(
                "{whose}: gate.alpha is {}; give a part of the CPU, 0 to 1 (1: the gate never closes)",
                gate.alpha
            ));
        }
        if let Beta::Fixed(beta) = gate.beta
            && !(part(beta) && beta <= gate.alpha)
        {
            return Err(format!(
                "{whose}: gate.beta is {beta}; give \"mean\", or 0 to gate.alpha ({})",
                gate.alpha
            ));
        }
    }
    Ok(())
}

fn interfaces(config: &Config) -> Check {
    let interfaces = &config.forwarder.interfaces;
    if interfaces.is_empty() {
        return Err("forwarder.interfaces is empty; name the interfaces towards clients and backends, as `ip link` shows them".into());
    }
    for name in interfaces {
        if name.is_empty() || name.len() > INTERFACE_NAME_LIMIT {
            return Err(format!(
                "forwarder.interfaces: `{name}` is no interface name; see `ip link`"
            ));
        }
    }
    unique(interfaces.iter().map(String::as_str), |name| {
        format!("forwarder.interfaces names `{name}` twice; name it once")
    })
}

fn limits(config: &Config) -> Check {
    let limits = &config.limits;
    within("limits.services", limits.services, 1, SERVICE_LIMIT)?;
    within("limits.backends", limits.backends, 1, BACKEND_LIMIT)?;
    within(
        "limits.affinity_entries",
        limits.affinity_entries,
        1_024,
        1 << 26,
    )?;
    within(
        "limits.recent_entries",
        limits.recent_entries,
        1_024,
        1 << 26,
    )?;
    let services = config.services.len();
    if services > limits.services as usize {
        return Err(format!(
            "there are {services} services, but limits.services is {}; raise it",
            limits.services
        ));
    }
    let backends: usize = config.services.iter().map(|s| s.backends.len()).sum();
    if backends > limits.backends as usize {
        return Err(format!(
            "there are {backends} backends, but limits.backends is {}; raise it",
            limits.backends
        ));
    }
    Ok(())
}

pub(crate) fn within(key: &str, value: u32, from: u32, to: u32) -> Check {
    if (from..=to).contains(&value) {
        Ok(())
    } else {
        Err(format!("{key} is {value}; give {from} to {to}"))
    }
}

fn vips(config: &Config) -> Check {
    let mut seen = HashMap::new();
    for service in &config.services {
        if service.vip.ip().is_unspecified() || service.vip.ip().is_multicast() {
            return Err(format!(
                "service `{}`: address {} cannot be a VIP; give one address of this machine",
                service.name,
                service.vip.ip()
            ));
        }
        port(&format!("service `{}`", service.name), service.vip.port())?;
        if let Some(other) = seen.insert(service.vip, &service.name) {
            return Err(format!(
                "services `{other}` and `{}` are both on {}; give each an address or port of its own",
                service.name, service.vip
            ));
        }
    }
    Ok(())
}

fn port(whose: &str, port: u16) -> Check {
    if port == 0 {
        Err(format!("{whose}: port 0 is not allowed; give 1 to 65535"))
    } else {
        Ok(())
    }
}

fn backends(service: &Service) -> Check {
    let name = &service.name;
    if service.backends.is_empty() {
        return Err(format!(
            "service `{name}` has no [[service.backend]]; give at least one, with name and address"
        ));
    }
    unique(
        service.backends.iter().map(|b| b.name.as_str()),
        |backend| {
            format!(
                "service `{name}` has two backends named `{backend}`; give each a name of its own"
            )
        },
    )?;
    for backend in &service.backends {
        let whose = format!("service `{name}`, backend `{}`", backend.name);
        port(&whose, backend.address.port())?;
        let ip = backend.address.ip();
        if ip.is_unspecified() || ip.is_multicast() {
            return Err(format!(
                "{whose}: address {ip} is no host's; give the proxy's address"
            ));
        }
        if backend.address.is_ipv4() != service.vip.is_ipv4() {
            return Err(format!(
                "{whose}: {ip} and the VIP {} are of different IP versions; mode \"nat\" cannot translate between them",
                service.vip.ip()
            ));
        }
        if backend.address == service.vip {
            return Err(format!(
                "{whose}: {} is the service's own VIP; give the proxy's address",
                backend.address
            ));
        }
    }
    Ok(())
}

/// In mode `nat` a packet's source tells which VIP it must leave with.
fn sources(config: &Config) -> Check {
    let mut seen = HashMap::new();
    for service in &config.services {
        for backend in &service.backends {
            if let Some((other, name)) =
                seen.insert(backend.address, (&service.name, &backend.name))
            {
                return Err(format!(
                    "service `{}`, backend `{}`: {} is already backend `{name}` of service `{other}`; in mode \"nat\" one address and port can answer for one VIP only",
                    service.name, backend.name, backend.address
                ));
            }
        }
    }
    Ok(())
}

pub(crate) fn unique<'a>(
    names: impl Iterator<Item = &'a str>,
    fault: impl Fn(&str) -> String,
) -> Check {
    let mut seen = HashSet::new();
    for name in names {
        if !seen.insert(name) {
            return Err(fault(name));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::config::parse;

    const GOOD: &str = r#"
        [forwarder]
        interfaces = ["eth0", "eth1"]
        [[service]]
        name = "carrier"
        address = "192.0.2.10"
        [[service.backend]]
        name = "p1"
        address = "198.51.100.11"
        [[service.backend]]
        name = "p2"
        address = "198.51.100.12"
        weight = 3
    "#;

    fn fault(from: &str, to: &str) -> String {
        let text = GOOD.replacen(from, to, 1);
        assert_ne!(text, GOOD, "the replacement must change the file");
        let message = parse(&text).unwrap_err().to_string();
        assert_eq!(message.lines().count(), 1, "one line: {message}");
        message
    }

    #[test]
    fn a_good_file_is_read_with_its_defaults() {
        let config = parse(GOOD).unwrap();
        assert_eq!(config.services[0].vip.to_string(), "192.0.2.10:5060");
        assert_eq!(config.services[0].backends[0].weight, 1);
        assert_eq!(config.services[0].backends[1].weight, 3);
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_name_and_what_is_allowed() {
        let message = fault("weight = 3", "wieght = 3");
        assert!(
            message.contains("wieght") && message.contains("weight"),
            "{message}"
        );
    }

    #[test]
    fn weights_out_of_range_are_refused() {
        for weight in ["0", "70000", "-1"] {
            let message = fault("weight = 3", &format!("weight = {weight}"));
            assert!(
                message.contains("`p2`") && message.contains("1 to 1000"),
                "{message}"
            );
        }
    }

    #[test]
    fn two_services_on_one_vip_and_port_are_refused() {
        let second = "[[service]]\nname = \"b\"\naddress = \"192.0.2.10\"\n[[service.backend]]\nname = \"x\"\naddress = \"198.51.100.13\"\n[[service]]";
        let message = fault("[[service]]", second);
        assert!(
            message.contains("192.0.2.10:5060") && message.contains("`carrier`"),
            "{message}"
        );
    }

    #[test]
    fn one_backend_in_two_nat_services_is_refused() {
        let second = "[[service]]\nname = \"b\"\naddress = \"192.0.2.11\"\n[[service.backend]]\nname = \"x\"\naddress = \"198.51.100.11\"\n[[service]]";
        let message = fault("[[service]]", second);
        assert!(message.contains("198.51.100.11:5060"), "{message}");
    }

    #[test]
    fn versions_of_ip_may_not_mix() {
        let message = fault("198.51.100.12", "2001:db8::12");
        assert!(message.contains("2001:db8::12"), "{message}");
    }

    #[test]
    fn a_wrong_value_names_its_line() {
        let message = fault("192.0.2.10", "carrier.example");
        assert!(message.contains("address"), "{message}");
    }
}
