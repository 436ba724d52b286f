//! Reading the file: what TOML and serde can tell.

use std::{
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Deserialize;
use thiserror::Error;

use super::{
    Backend, BackendTransport, Beta, Certificate, ClientCertificates, Config, Connections,
    Forwarder, Gate, Health, Heartbeats, Key, Limits, ListenTransport, Listener, Mode, Overload,
    Policy, Probe, Service, Spread, Tls, Weights, check,
};

/// Why a configuration is no good.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {path}: {source}; give the right path with --config")]
    Read {
        /// The file.
        path: PathBuf,
        /// The fault.
        source: std::io::Error,
    },
    /// It is no TOML, or has a wrong key or value.
    #[error("configuration: {0}")]
    Syntax(String),
    /// A value is out of its range, or two contradict each other.
    #[error("configuration: {0}")]
    Invalid(String),
}

/// The TOML fault in one line: where, and what is allowed.
pub(crate) fn one_line(error: &toml::de::Error) -> String {
    let text = error.to_string();
    let mut lines = text.lines();
    let place = lines
        .next()
        .unwrap_or_default()
        .trim_start_matches("TOML parse error at ");
    let what = error.message();
    let quoted = lines.find_map(|line| {
        line.split_once(" | ")
            .filter(|(number, _)| number.trim().parse::<u32>().is_ok())
    });
    match quoted {
        Some((_, source)) => format!("{place} (`{}`): {what}", source.trim()),
        None => what.to_owned(),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    forwarder: Forwarder,
    heartbeats: Option<Heartbeats>,
    #[serde(default)]
    limits: Limits,
    #[serde(default)]
    connections: Connections,
    #[serde(default, rename = "service")]
    services: Vec<FileService>,
}

const SIP_PORT: u16 = 5060;

const fn sip_port() -> u16 {
    SIP_PORT
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileService {
    name: String,
    address: IpAddr,
    #[serde(default = "sip_port")]
    port: u16,
    #[serde(default)]
    mode: Mode,
    #[serde(default)]
    record_route: bool,
    advertise: Option<String>,
    #[serde(default)]
    transport: BackendTransport,
    #[serde(default)]
    large_by_tcp: bool,
    edge: Option<bool>,
    backend_ca: Option<PathBuf>,
    #[serde(default, rename = "listen")]
    listeners: Vec<FileListener>,
    tls: Option<FileTls>,
    #[serde(default)]
    key: Key,
    register_key: Option<Key>,
    policy: Option<Policy>,
    weights: Option<Weights>,
    #[serde(default, with = "humantime_serde")]
    settle: Option<Duration>,
    overload: Option<Overload>,
    retry_after: Option<u16>,
    #[serde(default)]
    emergency: Vec<String>,
    #[serde(default, with = "humantime_serde")]
    drain_idle: Option<Duration>,
    health: Option<Health>,
    #[serde(default)]
    probe: Probe,
    #[serde(default)]
    gate: FileGate,
    #[serde(default, rename = "backend")]
    backends: Vec<FileBackend>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileListener {
    transport: ListenTransport,
    port: Option<u16>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileTls {
    #[serde(default)]
    client_certificates: ClientsWord,
    client_ca: Option<PathBuf>,
    #[serde(default, rename = "certificate")]
    certificates: Vec<Certificate>,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum ClientsWord {
    #[default]
    None,
    Optional,
    Required,
}

/// A gate of which every part may be left to the gate above it.
#[derive(Clone, Copy, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct FileGate {
    alpha: Option<f64>,
    beta: Option<FileBeta>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(untagged, expecting = "\"mean\" or a number from 0 to 1")]
enum FileBeta {
    Word(BetaWord),
    Number(f64),
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum BetaWord {
    Mean,
}

impl FileGate {
    fn over(self, above: Gate) -> Gate {
        Gate {
            alpha: self.alpha.unwrap_or(above.alpha),
            beta: match self.beta {
                None => above.beta,
                Some(FileBeta::Word(BetaWord::Mean)) => Beta::Mean,
                Some(FileBeta::Number(number)) => Beta::Fixed(number),
            },
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileBackend {
    name: String,
    address: IpAddr,
    #[serde(default = "sip_port")]
    port: u16,
    #[serde(default = "one")]
    weight: i64,
    health: Option<Health>,
    #[serde(default)]
    gate: FileGate,
    server_name: Option<String>,
}

const fn one() -> i64 {
    1
}

/// Reads and checks a file.
pub fn load(path: &Path) -> Result<Config, ConfigError> {
    parse(&read(path)?)
}

/// The API's socket, by a file that need not be valid otherwise: a daemon that runs must be reachable
/// while its file is being edited.
pub fn api_socket(path: &Path) -> Result<PathBuf, ConfigError> {
    let file: toml::Table =
        toml::from_str(&read(path)?).map_err(|error| ConfigError::Syntax(one_line(&error)))?;
    let socket = file.get("forwarder").and_then(|f| f.get("api_socket"));
    Ok(socket
        .and_then(toml::Value::as_str)
        .map_or_else(|| Forwarder::default().api_socket, PathBuf::from))
}

fn read(path: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
        path: path.to_owned(),
        source,
    })
}

/// Checks the text of a file.
pub fn parse(text: &str) -> Result<Config, ConfigError> {
    let file: File = toml::from_str(text).map_err(|error| ConfigError::Syntax(one_line(&error)))?;
    // Where agents report, they are believed; else backends are asked.
    let health = if file.heartbeats.is_some() {
        Health::Agent
    } else {
        Health::Options
    };
    let services = file
        .services
        .into_iter()
        .map(|of_file| service(of_file, health))
        .collect::<Result<_, _>>()?;
    let config = Config {
        forwarder: file.forwarder,
        heartbeats: file.heartbeats,
        limits: file.limits,
        connections: file.connections,
        services,
    };
    check::check(&config).map_err(ConfigError::Invalid)?;
    Ok(config)
}

fn service(file: FileService, health: Health) -> Result<Service, ConfigError> {
    let spread = spread(&file);
    let gate = file.gate.over(Gate::default());
    let health = file.health.unwrap_or(health);
    let tls = file.tls.map(|of_file| tls(of_file, &file.name)).transpose();
    let backends = file
        .backends
        .into_iter()
        .map(|of_file| backend(of_file, &file.name, health, gate))
        .collect::<Result<_, _>>()
        .map_err(ConfigError::Invalid)?;
    Ok(Service {
        name: file.name,
        vip: SocketAddr::new(file.address, file.port),
        mode: file.mode,
        record_route: file.record_route,
        advertise: file.advertise,
        transport: file.transport,
        large_by_tcp: file.large_by_tcp,
        edge: file.edge.unwrap_or(!file.listeners.is_empty()),
        backend_ca: file.backend_ca,
        listeners: listeners(&file.listeners, file.port),
        tls: tls.map_err(ConfigError::Invalid)?,
        key: file.key,
        register_key: file.register_key.unwrap_or(file.key),
        spread,
        probe: file.probe,
        backends,
    })
}

fn listeners(of_file: &[FileListener], udp: u16) -> Vec<Listener> {
    let listener = |file: &FileListener| Listener {
        transport: file.transport,
        port: file.port.unwrap_or(file.transport.default_port(udp)),
    };
    of_file.iter().map(listener).collect()
}

fn tls(file: FileTls, service: &str) -> Result<Tls, String> {
    let fault = |text: &str| Err(format!("service `{service}`: {text}"));
    let clients = match (file.client_certificates, file.client_ca) {
        (ClientsWord::None, None) => ClientCertificates::None,
        (ClientsWord::Optional, Some(ca)) => ClientCertificates::Optional { ca },
        (ClientsWord::Required, Some(ca)) => ClientCertificates::Required { ca },
        (ClientsWord::None, Some(_)) => {
            return fault(
                "tls.client_ca is for client_certificates \"optional\" or \"required\"; say one of them, or leave it out",
            );
        }
        (ClientsWord::Optional, None) => {
            return fault(
                "tls.client_certificates is \"optional\", but there is no client_ca; name the PEM file with the roots of the clients' certificates",
            );
        }
        (ClientsWord::Required, None) => {
            return fault(
                "tls.client_certificates is \"required\", but there is no client_ca; name the PEM file with the roots of the clients' certificates",
            );
        }
    };
    Ok(Tls {
        certificates: file.certificates,
        clients,
    })
}

fn spread(file: &FileService) -> Spread {
    let default = Spread::default();
    Spread {
        policy: file.policy.unwrap_or(default.policy),
        weights: file.weights.unwrap_or(default.weights),
        settle: file.settle.unwrap_or(default.settle),
        overload: file.overload.unwrap_or(default.overload),
        retry_after: file.retry_after.unwrap_or(default.retry_after),
        emergency: file.emergency.clone(),
        drain_idle: file.drain_idle.unwrap_or(default.drain_idle),
    }
}

fn backend(
    file: FileBackend,
    service: &str,
    health: Health,
    gate: Gate,
) -> Result<Backend, String> {
    Ok(Backend {
        weight: check::weight(service, &file.name, file.weight)?,
        name: file.name,
        address: SocketAddr::new(file.address, file.port),
        health: file.health.unwrap_or(health),
        gate: file.gate.over(gate),
        server_name: file.server_name.unwrap_or_else(|| file.address.to_string()),
    })
}
