//! Who pays for the kernel's work on a packet.
//!
//! What arrives by an interface is handled where the kernel happens to be: mostly in the name of the program that sent
//! it. With threaded NAPI each interface has a kernel thread of its own, and the work of a box can be told from that of
//! the hosts around it: threads of the box's interfaces, and its processes.

use std::fs;
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, ensure};

use super::{Host, Lab, Namespace};

/// The kernel threads of all interfaces of a lab.
#[derive(Clone, Debug, Default)]
pub struct NapiThreads {
    by_host: Vec<(Host, u32)>,
}

impl NapiThreads {
    /// The threads of all hosts.
    #[must_use]
    pub fn all(&self) -> Vec<u32> {
        self.pids(|_| true)
    }

    /// The threads of one host's interfaces.
    #[must_use]
    pub fn of(&self, host: Host) -> Vec<u32> {
        self.pids(|owner| owner == host)
    }

    /// Those of all hosts but one.
    #[must_use]
    pub fn of_others(&self, host: Host) -> Vec<u32> {
        self.pids(|owner| owner != host)
    }

    fn pids(&self, wanted: impl Fn(Host) -> bool) -> Vec<u32> {
        let found = self.by_host.iter().filter(|(owner, _)| wanted(*owner));
        found.map(|(_, pid)| *pid).collect()
    }
}

impl Lab {
    /// Gives every interface a kernel thread, and tells whose is which. GRO is switched on, without which a veth has
    /// no NAPI.
    pub fn thread_napi(&self) -> Result<NapiThreads> {
        let mut threads = NapiThreads::default();
        for host in self.hosts() {
            let namespace = self.namespace(host)?;
            for interface in self.interfaces(host) {
                let pids = thread_of(namespace, &interface)
                    .with_context(|| format!("no threaded NAPI for {interface} of {host}"))?;
                threads
                    .by_host
                    .extend(pids.into_iter().map(|pid| (host, pid)));
            }
        }
        Ok(threads)
    }
}

/// Starts the threads of an interface. They bear its name of that moment, and names come again in every lab: so it
/// has one that nobody else has, for so long.
fn thread_of(namespace: &Namespace, interface: &str) -> Result<Vec<u32>> {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    let unique = format!("n{}-{number}", std::process::id());
    namespace.ethtool(interface, &["gro", "on"])?;
    namespace.ip_batch(&[format!("link set {interface} name {unique}")])?;
    let threaded = set_threaded(namespace, &unique);
    let pids = kernel_threads(&format!("napi/{unique}-"));
    namespace.ip_batch(&[format!("link set {unique} name {interface}")])?;
    threaded?;
    ensure!(
        !pids.is_empty(),
        "the kernel started no thread; Linux 5.17 or later in the machine's own PID namespace is needed"
    );
    Ok(pids)
}

/// `ip netns exec` shows the namespace's own interfaces under `/sys`.
fn set_threaded(namespace: &Namespace, interface: &str) -> Result<()> {
    let write = format!("echo 1 > /sys/class/net/{interface}/threaded");
    let output = std::process::Command::new("ip")
        .args(["netns", "exec", namespace.name(), "sh", "-c", &write])
        .stdin(Stdio::null())
        .output()
        .context("cannot run `ip`; install it with `apt-get install iproute2`")?;
    ensure!(
        output.status.success(),
        "`{write}` failed: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}

/// Threads whose name begins so. Of a kernel thread, `comm` tells the whole name.
fn kernel_threads(prefix: &str) -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let name = fs::read_to_string(entry.path().join("comm")).ok()?;
            name.starts_with(prefix).then_some(pid)
        })
        .collect()
}
