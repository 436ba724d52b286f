//! A host of the lab with a small CPU: a cgroup with a quota that its processes are put into.
//!
//! With cgroup v1 the quota is the `cpu` controller's and the account `cpuacct`'s, and both get a group; with v2 one
//! group has both. The groups of a lab lie in one folder that bears its name, and go with it.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::process::poll;
use super::{Host, Lab, Process};

const MOUNT: &str = "/sys/fs/cgroup";
/// Over how long the quota counts.
const PERIOD: Duration = Duration::from_millis(100);
/// How long killed processes may take to leave a group.
const EMPTY: Duration = Duration::from_secs(5);

/// A group of processes that share a part of one core, until dropped; they have to end first.
#[derive(Debug)]
pub struct CpuGroup {
    folders: Vec<PathBuf>,
}

impl CpuGroup {
    /// Makes the group of a host, with this part of one core.
    pub fn new(lab: &Lab, host: Host, cores: f64) -> Result<Self> {
        let group = Self {
            folders: folders(lab.id())
                .into_iter()
                .map(|folder| folder.join(host.to_string()))
                .collect(),
        };
        ensure!(
            !group.folders.is_empty(),
            "no cgroup controller for the CPU under {MOUNT}; mount one (`mount -t cgroup -o cpu cpu {MOUNT}/cpu`)"
        );
        for folder in &group.folders {
            fs::create_dir_all(folder)
                .with_context(|| format!("cannot make the cgroup {}", folder.display()))?;
        }
        group.limit(lab, cores)?;
        Ok(group)
    }

    fn limit(&self, lab: &Lab, cores: f64) -> Result<()> {
        let period = PERIOD.as_micros();
        let quota = (PERIOD.as_secs_f64() * cores * 1e6).round() as u64;
        let [folder, ..] = self.folders.as_slice() else {
            return Ok(());
        };
        if is_v2() {
            for parent in [PathBuf::from(MOUNT), Path::new(MOUNT).join(name(lab.id()))] {
                write(&parent.join("cgroup.subtree_control"), "+cpu")?;
            }
            return write(&folder.join("cpu.max"), &format!("{quota} {period}"));
        }
        write(&folder.join("cpu.cfs_period_us"), &period.to_string())?;
        write(&folder.join("cpu.cfs_quota_us"), &quota.to_string())
    }

    /// Moves processes into the group, with all their threads.
    pub fn add(&self, pids: &[u32]) -> Result<()> {
        for folder in &self.folders {
            for pid in pids {
                write(&folder.join("cgroup.procs"), &pid.to_string())?;
            }
        }
        Ok(())
    }

    /// Starts so many processes in it that do nothing, as fast as they can, until they are dropped.
    pub fn hog(&self, lab: &Lab, host: Host, processes: u32) -> Result<Vec<Process>> {
        (0..processes)
            .map(|_| {
                let mut command = lab.command(host, "sh")?;
                command.args(["-c", "while :; do :; done"]);
                let log = lab.dir().join(format!("hog-{host}.log"));
                let process = Process::start(lab, host, command, &log)?;
                self.add(&[process.pid()])?;
                Ok(process)
            })
            .collect()
    }
}

impl Drop for CpuGroup {
    fn drop(&mut self) {
        for folder in &self.folders {
            remove(folder);
        }
    }
}

/// The folders with the groups of a lab: one for each controller.
pub(super) fn folders(id: &str) -> Vec<PathBuf> {
    let mount = Path::new(MOUNT);
    let controllers = if is_v2() {
        vec![mount.to_owned()]
    } else {
        vec![mount.join("cpu"), mount.join("cpuacct")]
    };
    controllers
        .into_iter()
        .filter(|controller| controller.is_dir())
        .map(|controller| controller.join(name(id)))
        .collect()
}

/// Removes the groups of a lab whose processes have been killed.
pub(super) fn remove_all(id: &str) {
    for folder in folders(id) {
        for group in fs::read_dir(&folder).into_iter().flatten().flatten() {
            if group.path().is_dir() {
                remove(&group.path());
            }
        }
        remove(&folder);
    }
}

/// A group can be removed once the last process has gone for good, which is a moment after it was killed.
fn remove(folder: &Path) {
    let gone = poll(EMPTY, || match fs::remove_dir(folder) {
        Err(error) if error.kind() == ErrorKind::ResourceBusy => Ok(None),
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove the cgroup {}", folder.display()))
        }
        _ => Ok(Some(())),
    });
    match gone {
        Ok(Some(())) => {}
        Ok(None) => eprintln!("lab: the cgroup {} is still in use", folder.display()),
        Err(error) => eprintln!("lab: {error:#}"),
    }
}

fn is_v2() -> bool {
    Path::new(MOUNT).join("cgroup.controllers").is_file()
}

fn name(id: &str) -> String {
    format!("sipfw-{id}")
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {text} to {}", path.display()))
}
