//! The agent's file: TOML, unknown keys refused.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Deserialize;

use crate::config::{ConfigError, check, file::one_line};

/// A valid file.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The service, as the forwarders call it.
    pub service: String,
    /// The proxy, as the forwarders call it.
    pub backend: String,
    /// The file with the agent's key.
    pub key_file: PathBuf,
    /// How often it reports.
    #[serde(default = "interval", with = "humantime_serde")]
    pub interval: Duration,
    /// The Unix socket for `agent drain`.
    #[serde(default = "control_socket")]
    pub control_socket: PathBuf,
    /// Whose CPU is reported.
    #[serde(default)]
    pub cpu: Cpu,
    /// How long draining is announced before the agent ends.
    #[serde(default = "drain_grace", with = "humantime_serde")]
    pub drain_grace: Duration,
    /// The proxy's process; `None`: it runs as long as the agent does.
    pub watch: Option<Watch>,
    /// How the proxy is asked whether it answers; `None`: it is not.
    pub probe: Option<Probe>,
    /// Where to report.
    #[serde(default, rename = "forwarder")]
    pub forwarders: Vec<Forwarder>,
}

fn interval() -> Duration {
    Duration::from_millis(100)
}

fn control_socket() -> PathBuf {
    "/run/sip-forwarder/agent.sock".into()
}

fn drain_grace() -> Duration {
    Duration::from_secs(2)
}

/// Whose CPU is reported.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(from = "FileCpu")]
pub enum Cpu {
    /// The cgroup of the proxy (of the agent, if no process is watched) if it has a CPU limit, else the
    /// host.
    #[default]
    Auto,
    /// The host.
    Host,
    /// The cgroup of the proxy, or of the agent.
    Cgroup,
    /// A cgroup v2, by its folder.
    Folder(PathBuf),
}

#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "cpu must be \"auto\", \"host\", \"cgroup\" or { cgroup = \"FOLDER\" }"
)]
enum FileCpu {
    Word(CpuWord),
    Folder(CpuFolder),
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum CpuWord {
    Auto,
    Host,
    Cgroup,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CpuFolder {
    cgroup: PathBuf,
}

impl From<FileCpu> for Cpu {
    fn from(cpu: FileCpu) -> Self {
        match cpu {
            FileCpu::Word(CpuWord::Auto) => Self::Auto,
            FileCpu::Word(CpuWord::Host) => Self::Host,
            FileCpu::Word(CpuWord::Cgroup) => Self::Cgroup,
            FileCpu::Folder(folder) => Self::Folder(folder.cgroup),
        }
    }
}

/// `[agent.watch]`: how the proxy's process is found.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Watch {
    /// Its number is in this file.
    PidFile(PathBuf),
    /// It is the main process of this systemd unit.
    Unit(String),
    /// It has this name (`/proc/PID/comm`); of several, the first that was not started by another.
    Process(String),
}

/// `[agent.probe]`: how the proxy is asked by OPTIONS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Probe {
    /// Where it listens on UDP.
    pub address: SocketAddr,
    /// How often it is asked.
    #[serde(default = "half_a_second", with = "humantime_serde")]
    pub interval: Duration,
    /// How long an answer may take.
    #[serde(default = "half_a_second", with = "humantime_serde")]
    pub timeout: Duration,
    /// After how many failures in a row it is unwell.
    #[serde(default = "three")]
    pub down: u32,
}

const fn half_a_second() -> Duration {
    Duration::from_millis(500)
}

const fn three() -> u32 {
    3
}

/// `[[agent.forwarder]]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Forwarder {
    /// Its name, which is `forwarder.name` in its own configuration.
    pub name: String,
    /// Where it takes heartbeats.
    pub address: SocketAddr,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    agent: Config,
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
    let File { agent } =
        toml::from_str(text).map_err(|error| ConfigError::Syntax(one_line(&error)))?;
    valid(&agent).map_err(ConfigError::Invalid)?;
    Ok(agent)
}

fn valid(config: &Config) -> Result<(), String> {
    check::name("agent.service", &config.service)?;
    check::name("agent.backend", &config.backend)?;
    check::period("agent.interval", config.interval, (10, 10_000))?;
    check::period("agent.drain_grace", config.drain_grace, (0, 60_000))?;
    match &config.watch {
        Some(Watch::Unit(name) | Watch::Process(name)) if name.is_empty() => {
            return Err(
                "agent.watch has an empty name; give the unit's or the process' name".into(),
            );
        }
        _ => {}
    }
    if let Some(probe) = &config.probe {
        probe_is_valid(probe)?;
    }
    forwarders_are_valid(&config.forwarders)
}

fn probe_is_valid(probe: &Probe) -> Result<(), String> {
    reachable("agent.probe.address", probe.address)?;
    check::period("agent.probe.interval", probe.interval, (50, 60_000))?;
    check::period("agent.probe.timeout", probe.timeout, (10, 60_000))?;
    check::within("agent.probe.down", probe.down, 1, 100)
}

fn forwarders_are_valid(forwarders: &[Forwarder]) -> Result<(), String> {
    if forwarders.is_empty() {
        return Err(
            "there is no [[agent.forwarder]]; give at least one, with name and address".into(),
        );
    }
    check::unique(forwarders.iter().map(|f| f.name.as_str()), |name| {
        format!(
            "two forwarders are named `{name}`; give each its own name (forwarder.name in its configuration)"
        )
    })?;
    for forwarder in forwarders {
        check::name("a forwarder's name", &forwarder.name)?;
        let whose = format!("forwarder `{}`: address", forwarder.name);
        reachable(&whose, forwarder.address)?;
    }
    Ok(())
}

fn reachable(whose: &str, address: SocketAddr) -> Result<(), String> {
    let ip = address.ip();
    if ip.is_unspecified() || ip.is_multicast() || address.port() == 0 {
        Err(format!(
            "{whose} {address} is nobody's; give one host's address and port"
        ))
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
        [agent]
        service = "carrier"
        backend = "p1"
        key_file = "/etc/sip-forwarder/agent.key"
        [[agent.forwarder]]
        name = "sfw1"
        address = "192.0.2.1:5059"
    "#;

    #[test]
    fn a_short_file_is_read_with_its_defaults() {
        let config = parse(GOOD).unwrap();
        assert_eq!(config.interval, Duration::from_millis(100));
        assert_eq!(
            (config.cpu, config.watch, config.probe),
            (Cpu::Auto, None, None)
        );
    }

    #[test]
    fn every_kind_of_watch_cpu_and_probe_is_read() {
        let with = |more: &str| parse(&GOOD.replacen("[[", &format!("{more}\n[["), 1)).unwrap();
        let watch = with("[agent.watch]\npid_file = \"/run/k.pid\"").watch;
        assert_eq!(watch, Some(Watch::PidFile("/run/k.pid".into())));
        let watch = with("[agent.watch]\nunit = \"k.service\"").watch;
        assert_eq!(watch, Some(Watch::Unit("k.service".into())));
        let watch = with("[agent.watch]\nprocess = \"k\"").watch;
        assert_eq!(watch, Some(Watch::Process("k".into())));
        assert_eq!(with("cpu = \"cgroup\"").cpu, Cpu::Cgroup);
        assert_eq!(
            with("cpu = { cgroup = \"/c\" }").cpu,
            Cpu::Folder("/c".into())
        );
        let probe = with("[agent.probe]\naddress = \"127.0.0.1:5060\"")
            .probe
            .unwrap();
        assert_eq!((probe.timeout, probe.down), (half_a_second(), 3));
    }

    #[test]
    fn faults_are_one_line_that_names_the_key() {
        for (from, to, names) in [
            ("backend", "bakend", "bakend"),
            ("\"p1\"", "\"p/1\"", "agent.backend"),
            ("\"p1\"", "\"p1\"\ninterval = \"1ms\"", "agent.interval"),
            ("\"p1\"", "\"p1\"\ncpu = \"gpu\"", "\"host\""),
            ("\"p1\"", "\"p1\"\nwatch = { pid = 3 }", "pid_file"),
            (
                "\"p1\"",
                "\"p1\"\nwatch = { unit = \"a\", process = \"b\" }",
                "watch",
            ),
            ("192.0.2.1:5059", "0.0.0.0:5059", "`sfw1`"),
            ("[[agent.forwarder]]", "[other]", "other"),
        ] {
            let text = GOOD.replacen(from, to, 1);
            let fault = parse(&text).unwrap_err().to_string();
            assert!(fault.contains(names), "{fault}");
            assert_eq!(fault.lines().count(), 1, "{fault}");
        }
    }
}
