//! One network namespace: made and removed with `ip`, entered by threads and by commands.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;

use anyhow::{Context, Result, ensure};

use super::address::{Host, Links, Plan};

/// Where `ip netns add` binds namespaces.
const RUN: &str = "/run/netns";
const PREFIX: &str = "sipfw-";

/// A network namespace that has a name.
#[derive(Clone, Debug)]
pub struct Namespace {
    name: String,
    file: Arc<File>,
}

impl Namespace {
    /// Opens a namespace that exists.
    pub fn open(name: &str) -> Result<Self> {
        let path = Path::new(RUN).join(name);
        let file = File::open(&path)
            .with_context(|| format!("cannot open the namespace {}", path.display()))?;
        Ok(Self {
            name: name.to_owned(),
            file: Arc::new(file),
        })
    }

    /// Its name, as in `ip netns list`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A command that joins this namespace before it starts.
    #[must_use]
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let file = Arc::clone(&self.file);
        let mut command = Command::new(program);
        // SAFETY: between fork and exec only setns is called, on a descriptor the closure keeps open; it is a plain
        // system call and allocates nothing.
        unsafe { command.pre_exec(move || join(&file)) };
        command
    }

    /// Runs `work` on a new thread inside this namespace. A panic in it goes on in the caller.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let inside = || join(&self.file).map(|()| work());
        thread::scope(|scope| scope.spawn(inside).join())
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            .with_context(|| format!("cannot enter the namespace {} (needs root)", self.name))
    }

    /// Writes settings below `/proc/sys/net`.
    pub(super) fn set_sysctls(&self, settings: &[(&str, &str)]) -> Result<()> {
        self.enter(|| {
            for (key, value) in settings {
                // /proc/sys/net shows the namespace of the thread that looks.
                let path = Path::new("/proc/sys/net").join(key);
                fs::write(&path, value)
                    .with_context(|| format!("cannot write {value} to {}", path.display()))?;
            }
            Ok(())
        })?
    }

    /// Runs `ip` lines inside this namespace.
    pub(super) fn ip_batch(&self, lines: &[String]) -> Result<()> {
        run_ip(&["-n", &self.name, "-batch", "-"], lines)
    }

    /// Whole checksums on what is sent (redirected frames lose the promise of a later one), and GRO on the hosts'
    /// ends: it gives them the NAPI without which veth refuses frames redirected to it. Network cards stay as their
    /// driver has them.
    pub(super) fn set_offloads(&self, host: Host, plan: Plan) -> Result<()> {
        if plan.links == Links::Cards {
            return Ok(());
        }
        if let Some(device) = host.interface() {
            return self.ethtool(&device, &["tx", "off", "gro", "on"]);
        }
        if host != Host::Forwarder {
            return Ok(());
        }
        super::address::hosts(plan)
            .filter_map(Host::forwarder_interface)
            .try_for_each(|device| self.ethtool(&device, &["tx", "off"]))
    }

    pub(super) fn ethtool(&self, device: &str, features: &[&str]) -> Result<()> {
        let output = self
            .command("ethtool")
            .arg("-K")
            .arg(device)
            .args(features)
            .stdin(Stdio::null())
            .output()
            .context("cannot run `ethtool`; install it with `apt-get install ethtool`")?;
        ensure!(
            output.status.success(),
            "`ethtool -K {device} {}` failed in {}: {}",
            features.join(" "),
            self.name,
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(())
    }
}

fn join(namespace: &File) -> io::Result<()> {
    // SAFETY: setns takes a descriptor that `namespace` keeps open, and changes only the calling thread.
    match unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The name of a lab's namespace.
pub(super) fn name(id: &str, host: Host) -> String {
    format!("{PREFIX}{id}-{host}")
}

/// Makes namespaces in one go.
pub(super) fn add(names: &[String]) -> Result<()> {
    let lines: Vec<_> = names
        .iter()
        .map(|name| format!("netns add {name}"))
        .collect();
    ip_batch(&lines)
}

/// Removes namespaces in one go. Those that are gone already are no fault.
pub(super) fn remove(names: &[String]) {
    let lines: Vec<_> = names
        .iter()
        .map(|name| format!("netns delete {name}"))
        .collect();
    if let Err(error) = run_ip(&["-force", "-batch", "-"], &lines)
        && names.iter().any(|name| Path::new(RUN).join(name).exists())
    {
        eprintln!("lab: {error:#}");
    }
}

/// Runs `ip` lines in the namespace of this process.
pub(super) fn ip_batch(lines: &[String]) -> Result<()> {
    run_ip(&["-batch", "-"], lines)
}

fn run_ip(arguments: &[&str], lines: &[String]) -> Result<()> {
    let mut child = Command::new("ip")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot run `ip`; install it with `apt-get install iproute2`")?;
    let mut input = child.stdin.take().context("`ip` has no stdin")?;
    let written = input.write_all((lines.join("\n") + "\n").as_bytes());
    drop(input);
    let output = child
        .wait_with_output()
        .context("waiting for `ip` failed")?;
    ensure!(
        output.status.success(),
        "`ip {}` failed: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    written.context("writing to `ip` failed")
}

/// The namespaces of one lab that exist.
pub(super) fn names_of(id: &str) -> Result<Vec<String>> {
    let prefix = format!("{PREFIX}{id}-");
    let of_lab = |name: &String| {
        name.strip_prefix(&prefix)
            .is_some_and(|host| host.parse::<Host>().is_ok())
    };
    Ok(all_names()?.into_iter().filter(of_lab).collect())
}

/// The ids of labs whose process is gone, by what is left of them: namespaces, or the names of directories.
pub(super) fn leftover_ids(directories: &[String]) -> Result<Vec<String>> {
    let names = all_names()?;
    let mut ids: Vec<_> = names
        .iter()
        .chain(directories)
        .filter_map(|name| dead_owner(name))
        .collect();
    ids.sort_unstable();
    ids.dedup();
    Ok(ids)
}

/// `sipfw-<pid>-<n>` and `sipfw-<pid>-<n>-<host>` → `<pid>-<n>`, if that process is gone.
fn dead_owner(name: &str) -> Option<String> {
    let mut parts = name.strip_prefix(PREFIX)?.split('-');
    let pid: u32 = parts.next()?.parse().ok()?;
    let count: u32 = parts.next()?.parse().ok()?;
    (!Path::new(&format!("/proc/{pid}")).exists()).then(|| format!("{pid}-{count}"))
}

fn all_names() -> Result<Vec<String>> {
    let entries = match fs::read_dir(RUN) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.with_context(|| format!("cannot list {RUN}"))?,
    };
    Ok(entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect())
}

/// The processes that have one of these namespaces as their own.
pub(super) fn processes_in(names: &[String]) -> Vec<u32> {
    let wanted: Vec<_> = names
        .iter()
        .filter_map(|name| fs::metadata(Path::new(RUN).join(name)).ok())
        .map(|meta| (meta.dev(), meta.ino()))
        .collect();
    let Ok(processes) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let inside = |pid: &u32| {
        fs::metadata(format!("/proc/{pid}/ns/net"))
            .is_ok_and(|meta| wanted.contains(&(meta.dev(), meta.ino())))
    };
    processes
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid| *pid != std::process::id())
        .filter(inside)
        .collect()
}
