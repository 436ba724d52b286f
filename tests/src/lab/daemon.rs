//! The forwarder's daemon in the lab: its configuration, its life and its status.

use std::ffi::CString;
use std::fmt::Write as _;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::process::{output_within, poll, tail};
use super::{Family, Host, Lab, Process};

const READY: Duration = Duration::from_secs(15);
const STOP: Duration = Duration::from_secs(10);
const CLI: Duration = Duration::from_secs(5);
const BPF_FS: &str = "/sys/fs/bpf";
const BPF_FS_MAGIC: libc::c_long = 0xcafe_4a11;

/// One proxy of a service, as the configuration names it.
#[derive(Clone, Debug)]
pub struct Backend {
    /// Its name.
    pub name: String,
    /// Its address.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// Its share.
    pub weight: u32,
}

/// One service, as the configuration names it.
#[derive(Clone, Debug)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// The VIP.
    pub address: IpAddr,
    /// The port.
    pub port: u16,
    /// Its proxies.
    pub backends: Vec<Backend>,
    /// Who says whether they live: `none`, `options` or `agent`. Plain sockets answer no OPTIONS.
    pub health: &'static str,
    /// More lines of TOML for the `[[service]]` table, such as `policy = "score"`.
    pub extra: String,
}

/// What to run and how to configure it.
#[derive(Clone, Debug)]
pub struct DaemonSpec {
    /// The `sip-forwarder` program.
    pub binary: PathBuf,
    /// The services.
    pub services: Vec<Service>,
    /// More lines of TOML for the `[forwarder]` table.
    pub forwarder_extra: String,
    /// The workers alone, without XDP.
    pub userspace: bool,
    /// How far its clock is behind this machine's, as libfaketime understands it: `"3d"`.
    pub clock_behind: Option<&'static str>,
}

impl DaemonSpec {
    /// One service, named `lab`, on port 5060 of the VIP, with all the lab's proxies at weight 1.
    pub fn of_lab(binary: impl Into<PathBuf>, lab: &Lab, family: Family) -> Self {
        Self {
            binary: binary.into(),
            services: vec![Service::of_lab(lab, family)],
            forwarder_extra: String::new(),
            userspace: false,
            clock_behind: None,
        }
    }
}

impl Service {
    /// Port 5060 of the VIP, with all the lab's proxies (`p1` …, port 5060) at weight 1.
    #[must_use]
    pub fn of_lab(lab: &Lab, family: Family) -> Self {
        let backend = |n| Backend {
            name: Host::Proxy(n).to_string(),
            address: lab.address(Host::Proxy(n), family),
            port: 5060,
            weight: 1,
        };
        Self {
            name: "lab".to_owned(),
            address: lab.vip(family),
            port: 5060,
            backends: (1..=lab.proxies()).map(backend).collect(),
            health: "none",
            extra: String::new(),
        }
    }
}

/// A `sip-forwarder run` in the forwarder's namespace.
///
/// Dropping it ends the daemon and unloads its program. Killing it does not: the program stays, as it must.
#[derive(Debug)]
pub struct Daemon {
    lab: Lab,
    binary: PathBuf,
    config: PathBuf,
    log: PathBuf,
    clock_behind: Option<&'static str>,
    process: Option<Process>,
}

impl Daemon {
    /// Writes the configuration, starts the daemon and waits until it answers.
    pub fn start(lab: &Lab, spec: &DaemonSpec) -> Result<Self> {
        ensure!(
            spec.binary.is_file(),
            "{} is not there; build it with `cargo xtask build`",
            spec.binary.display()
        );
        if !spec.userspace {
            mount_bpf_fs()?;
        }
        let mut daemon = Self {
            lab: lab.clone(),
            binary: spec.binary.clone(),
            config: lab.dir().join("forwarder.toml"),
            log: lab.dir().join("forwarder.log"),
            clock_behind: spec.clock_behind,
            process: None,
        };
        daemon.configure(spec)?;
        daemon.start_again()?;
        Ok(daemon)
    }

    /// Writes another configuration in the place of the present one; it counts from the next start (or reload).
    pub fn configure(&self, spec: &DaemonSpec) -> Result<()> {
        fs::write(&self.config, config_text(&self.lab, spec))
            .with_context(|| format!("cannot write {}", self.config.display()))
    }

    /// Makes the next start, and every verb from now on, that of another program: an upgrade.
    pub fn replace_binary(&mut self, binary: PathBuf) {
        self.binary = binary;
    }

    /// Sets its clock for the next start, see [`DaemonSpec::clock_behind`].
    pub fn set_clock(&mut self, behind: Option<&'static str>) {
        self.clock_behind = behind;
    }

    /// Starts it after [`Daemon::kill`] or [`Daemon::terminate`], with the configuration as it is now.
    pub fn start_again(&mut self) -> Result<()> {
        ensure!(
            self.process.is_none(),
            "the daemon runs; kill or terminate it before it is started again"
        );
        let mut command = self.cli(&["run"])?;
        if let Some(behind) = self.clock_behind {
            command
                .env("LD_PRELOAD", faketime()?)
                .env("FAKETIME", format!("-{behind}"))
                .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        }
        let mut process = Process::start(&self.lab, Host::Forwarder, command, &self.log)?;
        process.wait_until("answers `status`", READY, || Ok(self.status().is_ok()))?;
        self.process = Some(process);
        Ok(())
    }

    /// What `sip-forwarder status --json` says.
    pub fn status(&self) -> Result<Value> {
        let text = self.run(&["status", "--json"])?;
        let last = text.lines().last().unwrap_or_default();
        serde_json::from_str(last)
            .with_context(|| format!("`status --json` printed no JSON but: {last}"))
    }

    /// Polls the status until `holds` says so; `condition` finishes the sentence "the daemon's status …".
    pub fn wait_for(
        &self,
        condition: &str,
        deadline: Duration,
        holds: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        let mut last = Value::Null;
        let found = poll(deadline, || {
            last = self.status()?;
            Ok(holds(&last).then(|| last.clone()))
        })?;
        found.with_context(|| {
            format!(
                "the daemon's status never {condition} in {} s; it says {last}; the log ends with\n{}",
                deadline.as_secs_f32(),
                tail(&self.log)
            )
        })
    }

    /// Waits until the next hop of every backend is known, so that the fast path can send to all of them.
    pub fn wait_resolved(&self, deadline: Duration) -> Result<Value> {
        self.wait_for("had all backends resolved", deadline, |status| {
            let backends = backends(status);
            !backends.is_empty() && backends.iter().all(|backend| backend["resolved"] == true)
        })
    }

    /// Runs a verb of the program (`drain`, `weight` …) with this daemon's configuration; returns its stdout.
    pub fn run(&self, arguments: &[&str]) -> Result<String> {
        let output = output_within(self.cli(arguments)?, CLI)?;
        ensure!(
            output.status.success(),
            "`sip-forwarder {}` failed ({}): {}",
            arguments.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// SIGKILL, as if it had crashed.
    pub fn kill(&mut self) -> Result<()> {
        self.process
            .take()
            .map_or(Ok(()), |mut process| process.kill())
    }

    /// SIGTERM, and waits until it has ended by itself and without an error.
    pub fn terminate(&mut self) -> Result<()> {
        let Some(mut process) = self.process.take() else {
            return Ok(());
        };
        let status = process.terminate(STOP)?;
        ensure!(
            status.success(),
            "the daemon ended with {status} on SIGTERM; its log ends with\n{}",
            process.log_tail()
        );
        Ok(())
    }

    /// Sends it a signal, such as SIGHUP.
    pub fn send_signal(&mut self, number: i32) -> Result<()> {
        match &mut self.process {
            Some(process) => process.send_signal(number),
            None => bail!("the daemon does not run"),
        }
    }

    /// Its process id, while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }

    /// The lab it runs in.
    #[must_use]
    pub fn lab(&self) -> &Lab {
        &self.lab
    }

    /// The configuration file.
    #[must_use]
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// The log file; it goes on over restarts.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// The program with these arguments and this daemon's configuration, in the forwarder's namespace.
    fn cli(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = self.lab.command(Host::Forwarder, &self.binary)?;
        command.args(arguments).arg("--config").arg(&self.config);
        Ok(command)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        for result in [self.terminate(), self.run(&["unload"]).map(drop)] {
            if let Err(error) = result {
                eprintln!("lab: {error:#}");
            }
        }
    }
}

/// The library that stands between a program and its clock. (`faketime` itself would stand between a signal and the
/// program.)
fn faketime() -> Result<PathBuf> {
    let file = format!(
        "/usr/lib/{}-linux-gnu/faketime/libfaketimeMT.so.1",
        std::env::consts::ARCH
    );
    ensure!(
        Path::new(&file).is_file(),
        "{file} is not there; install it with `apt-get install libfaketime`"
    );
    Ok(file.into())
}

/// All backends in a status, of all services.
#[must_use]
pub fn backends(status: &Value) -> Vec<&Value> {
    status["services"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|service| service["backends"].as_array())
        .flatten()
        .collect()
}

fn config_text(lab: &Lab, spec: &DaemonSpec) -> String {
    let ground = if spec.userspace {
        "dataplane = \"userspace\"".to_owned()
    } else {
        format!("interfaces = {}", Value::from(lab.forwarder_interfaces()))
    };
    let mut text = format!(
        "[forwarder]\n{ground}\nbpf_dir = {bpf}\nstate_dir = {state}\napi_socket = {api}\n{extra}\n",
        bpf = path(&lab.bpf_dir()),
        state = path(&lab.dir().join("state")),
        api = path(&lab.dir().join("api.sock")),
        extra = spec.forwarder_extra,
    );
    for service in &spec.services {
        push_service(&mut text, service);
    }
    text
}

fn push_service(text: &mut String, service: &Service) {
    // Writing to a String cannot fail.
    let _ = write!(
        text,
        "\n[[service]]\nname = {}\naddress = \"{}\"\nport = {}\nhealth = \"{}\"\n{}\n",
        Value::from(service.name.as_str()),
        service.address,
        service.port,
        service.health,
        service.extra
    );
    for backend in &service.backends {
        let _ = write!(
            text,
            "[[service.backend]]\nname = {}\naddress = \"{}\"\nport = {}\nweight = {}\n",
            Value::from(backend.name.as_str()),
            backend.address,
            backend.port,
            backend.weight
        );
    }
}

/// A JSON string is a TOML basic string.
fn path(path: &Path) -> Value {
    Value::from(path.to_string_lossy())
}

/// Mounts bpffs where programs look for it, unless it is there.
fn mount_bpf_fs() -> Result<()> {
    let target = CString::new(BPF_FS)?;
    // SAFETY: statfs is plain data, for which all zeroes is a value.
    let mut stat: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: the path ends with NUL and `stat` is writable; both outlive the call.
    let known = unsafe { libc::statfs(target.as_ptr(), &raw mut stat) } == 0;
    if known && stat.f_type == BPF_FS_MAGIC {
        return Ok(());
    }
    let kind = c"bpf".as_ptr();
    // SAFETY: source, target and type are NUL-terminated and outlive the call; no data is passed.
    let done = unsafe { libc::mount(kind, target.as_ptr(), kind, 0, std::ptr::null()) };
    if done == 0 {
        return Ok(());
    }
    Err(std::io::Error::last_os_error())
        .with_context(|| format!("cannot mount bpffs at {BPF_FS}; try `mount -t bpf bpf {BPF_FS}`"))
}
