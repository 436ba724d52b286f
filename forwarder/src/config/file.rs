//! Reading the file: what TOML and serde can tell.

use std::{
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

use serde::Deserialize;
use thiserror::Error;

use super::{Backend, Config, Forwarder, Key, Limits, Mode, Service, check};

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
fn one_line(error: &toml::de::Error) -> String {
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
    #[serde(default)]
    limits: Limits,
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
    key: Key,
    #[serde(default, rename = "backend")]
    backends: Vec<FileBackend>,
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
}

const fn one() -> i64 {
    1
}

/// Reads and checks a file.
pub fn load(path: &Path) -> Result<Config, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
        path: path.to_owned(),
        source,
    })?;
    parse(&text)
}

/// Checks the text of a file.
pub fn parse(text: &str) -> Result<Config, ConfigError> {
    let file: File = toml::from_str(text).map_err(|error| ConfigError::Syntax(one_line(&error)))?;
    let services = file
        .services
        .into_iter()
        .map(service)
        .collect::<Result<_, _>>()?;
    let config = Config {
        forwarder: file.forwarder,
        limits: file.limits,
        services,
    };
    check::check(&config).map_err(ConfigError::Invalid)?;
    Ok(config)
}

fn service(file: FileService) -> Result<Service, ConfigError> {
    let backends = file
        .backends
        .into_iter()
        .map(|backend| {
            let weight = check::weight(&file.name, &backend.name, backend.weight)
                .map_err(ConfigError::Invalid)?;
            Ok(Backend {
                name: backend.name,
                address: SocketAddr::new(backend.address, backend.port),
                weight,
            })
        })
        .collect::<Result<_, ConfigError>>()?;
    Ok(Service {
        name: file.name,
        vip: SocketAddr::new(file.address, file.port),
        mode: file.mode,
        key: file.key,
        backends,
    })
}
