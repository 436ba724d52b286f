//! Agents beside the proxies, and a CPU that is as busy as a test says.

use std::fmt;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use sip_forwarder::heartbeat;

use crate::lab::process::output_within;
use crate::lab::{Family, Host, Lab, Process};
use crate::sipp::unique;

/// Where a forwarder in the lab takes heartbeats.
pub const PORT: u16 = 5059;

const CLI: Duration = Duration::from_secs(5);
/// How often the made-up account of a [`CpuDial`] is written: far more often than an agent reads it.
const TICK: Duration = Duration::from_millis(10);

/// The key of which every agent's is derived, in a file of the lab.
#[derive(Clone, Debug)]
pub struct MasterKey {
    lab: Lab,
    binary: PathBuf,
    file: PathBuf,
}

impl MasterKey {
    /// Makes one with `sip-forwarder key new`.
    pub fn new(lab: &Lab, binary: &Path) -> Result<Self> {
        let key = Self {
            lab: lab.clone(),
            binary: binary.to_owned(),
            file: lab.dir().join("master.key"),
        };
        key.run(&["new", "--out", &key.file.to_string_lossy()])?;
        Ok(key)
    }

    /// The lines of a forwarder's configuration that make it listen to the agents: for
    /// [`DaemonSpec::forwarder_extra`](crate::lab::DaemonSpec::forwarder_extra).
    #[must_use]
    pub fn heartbeats(&self) -> String {
        format!(
            "name = \"lab\"\n\n[heartbeats]\nlisten = \"[::]:{PORT}\"\nkey_files = [{}]\ninterval = \"100ms\"\nmissed = 3\n",
            quoted(&self.file)
        )
    }

    /// The key itself.
    pub fn load(&self) -> Result<heartbeat::MasterKey> {
        Ok(heartbeat::MasterKey::load(&self.file)?)
    }

    fn derive(&self, service: &str, backend: &str) -> Result<PathBuf> {
        let file = self.lab.dir().join(format!("{service}-{backend}.key"));
        // A key of the same agent's earlier start is the same key.
        if !file.is_file() {
            self.run(&[
                "derive",
                &format!("{service}/{backend}"),
                "--master",
                &self.file.to_string_lossy(),
                "--out",
                &file.to_string_lossy(),
            ])?;
        }
        Ok(file)
    }

    fn run(&self, arguments: &[&str]) -> Result<()> {
        let mut command = self.lab.command(Host::Forwarder, &self.binary)?;
        command.arg("key").args(arguments);
        let output = output_within(command, CLI)?;
        ensure!(
            output.status.success(),
            "`sip-forwarder key {}` failed ({}): {}",
            arguments.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(())
    }
}

/// Whose CPU an agent reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CpuSource {
    /// That of the watched process' cgroup if it has a limit, else the host's.
    Auto,
    /// The host's.
    Host,
    /// That of the cgroup with this folder, which may be made up.
    Folder(PathBuf),
}

impl fmt::Display for CpuSource {
    /// As a TOML value.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("\"auto\""),
            Self::Host => f.write_str("\"host\""),
            Self::Folder(folder) => write!(f, "{{ cgroup = {} }}", quoted(folder)),
        }
    }
}

/// What an agent has to know.
#[derive(Clone, Debug)]
pub struct AgentSpec<'a> {
    /// The service of its backend.
    pub service: &'a str,
    /// The backend's name is that of its host.
    pub host: Host,
    /// IPv4 or IPv6.
    pub family: Family,
    /// Where the id of the proxy's process stands.
    pub pid_file: &'a Path,
    /// Whose CPU it reports.
    pub cpu: CpuSource,
}

/// A `sip-forwarder agent` in a proxy's namespace, until dropped.
#[derive(Debug)]
pub struct Agent {
    process: Process,
}

impl Agent {
    /// Writes its key and its configuration and starts it. That it reports can be seen in the forwarder's status.
    pub fn start(key: &MasterKey, spec: &AgentSpec<'_>) -> Result<Self> {
        let lab = &key.lab;
        let backend = spec.host.to_string();
        let stem = format!("agent-{}-{backend}", unique());
        let config = lab.dir().join(format!("{stem}.toml"));
        let text = spec.text(&key.derive(spec.service, &backend)?, lab, &stem);
        fs::write(&config, text).with_context(|| format!("cannot write {}", config.display()))?;
        let mut command = lab.command(spec.host, &key.binary)?;
        command.arg("agent").arg("--config").arg(&config);
        let log = lab.dir().join(format!("{stem}.log"));
        Ok(Self {
            process: Process::start(lab, spec.host, command, &log)?,
        })
    }

    /// The process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}

impl AgentSpec<'_> {
    fn text(&self, key: &Path, lab: &Lab, stem: &str) -> String {
        format!(
            "[agent]\nservice = \"{service}\"\nbackend = \"{backend}\"\nkey_file = {key}\ninterval = \"100ms\"\n\
             control_socket = {socket}\ncpu = {cpu}\n\n\
             [agent.watch]\npid_file = {pid_file}\n\n\
             [[agent.forwarder]]\nname = \"lab\"\naddress = \"{forwarder}\"\n",
            service = self.service,
            backend = self.host,
            key = quoted(key),
            socket = quoted(&lab.dir().join(format!("{stem}.sock"))),
            cpu = self.cpu,
            pid_file = quoted(self.pid_file),
            forwarder = SocketAddr::new(self.host.gateway(self.family), PORT),
        )
    }
}

/// A made-up cgroup whose CPU is as busy as it is set to.
#[derive(Debug)]
pub struct CpuDial {
    folder: PathBuf,
    /// Thousandths of its one core.
    load: Arc<AtomicU32>,
    /// Dropping it ends the thread.
    _stop: Sender<()>,
}

impl CpuDial {
    /// Makes one in the lab's folder, idle at first.
    pub fn new(lab: &Lab, name: &str) -> Result<Self> {
        let folder = lab.dir().join(format!("cpu-{name}"));
        fs::create_dir_all(&folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
        fs::write(folder.join("cpu.max"), "100000 100000\n").context("cannot write cpu.max")?;
        let account = File::create(folder.join("cpu.stat")).context("cannot write cpu.stat")?;
        write_account(&account, 0.0)?;
        let load = Arc::new(AtomicU32::new(0));
        let (stop, stopped) = channel::<()>();
        let shown = Arc::clone(&load);
        thread::Builder::new()
            .name(format!("cpu-dial-{name}"))
            .spawn(move || {
                let (mut used, mut last) = (0.0, Instant::now());
                while stopped.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
                    let now = Instant::now();
                    used += (now - last).as_secs_f64() * f64::from(shown.load(Ordering::Relaxed));
                    last = now;
                    // The lab's folder may go a moment before the dial does.
                    if write_account(&account, used / 1e3).is_err() {
                        return;
                    }
                }
            })
            .context("cannot start the thread of a made-up CPU")?;
        Ok(Self {
            folder,
            load,
            _stop: stop,
        })
    }

    /// From now on so much of the core is used, 0 to 1.
    pub fn set(&self, load: f64) {
        self.load.store(
            (load.clamp(0.0, 1.0) * 1e3).round() as u32,
            Ordering::Relaxed,
        );
    }

    /// What an agent is to look at.
    #[must_use]
    pub fn source(&self) -> CpuSource {
        CpuSource::Folder(self.folder.clone())
    }
}

/// One write of always the same length, so that a reader finds the old or the new account and nothing between.
fn write_account(file: &File, seconds: f64) -> Result<()> {
    let line = format!("usage_usec {:016}\n", (seconds * 1e6) as u64);
    file.write_all_at(line.as_bytes(), 0)
        .context("cannot write cpu.stat")
}

/// A JSON string is a TOML basic string.
fn quoted(path: &Path) -> Value {
    Value::from(path.to_string_lossy())
}
