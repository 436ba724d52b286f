//! A cgroup against its CPU limit: v2 (`cpu.stat`, `cpu.max`) and v1 (`cpuacct.usage`,
//! `cpu.cfs_quota_us`, `cpu.cfs_period_us`, whose controllers may be mounted apart). See
//! `Documentation/admin-guide/cgroup-v2.rst` and `cgroup-v1/cpuacct.rst` of Linux, and cgroups(7).

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::{damaged, read};

/// A cgroup, by its folders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Cgroup {
    V2(Place),
    V1 { cpu: Place, cpuacct: Place },
}

/// A folder in a mounted hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Where the hierarchy is mounted.
    top: PathBuf,
    folder: PathBuf,
}

impl Place {
    /// One level up, or `None` at the top.
    fn parent(&self) -> Option<Self> {
        let folder = self.folder.parent().filter(|_| self.folder != self.top)?;
        Some(Self {
            top: self.top.clone(),
            folder: folder.to_owned(),
        })
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

impl fmt::Display for Cgroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::V2(place) | Self::V1 { cpu: place, .. }) = self;
        write!(f, "the cgroup {}", place.folder.display())
    }
}

impl Cgroup {
    /// The v2 cgroup with this folder.
    pub(super) fn at(folder: &Path) -> Self {
        Self::V2(Place {
            top: folder.to_owned(),
            folder: folder.to_owned(),
        })
    }

    /// The cgroup of a process, of this one if `None`. `Ok(None)`: no hierarchy that is mounted counts
    /// CPU.
    pub(super) fn of_process(pid: Option<u32>) -> io::Result<Option<Self>> {
        let who = pid.map_or_else(|| "self".to_owned(), |pid| pid.to_string());
        let membership = read(Path::new(&format!("/proc/{who}/cgroup")))?;
        let mounts = read(Path::new("/proc/self/mountinfo"))?;
        Ok(Self::find(&membership, &mounts))
    }

    /// Where `cpu` is a v1 controller it cannot be one of v2, so v1 comes first.
    fn find(membership: &str, mounts: &str) -> Option<Self> {
        let v1 = |controller| {
            let mount = mounted(mounts, |kind, options| {
                kind == "cgroup" && options.split(',').any(|option| option == controller)
            })?;
            mount.place(belongs(membership, |controllers| {
                controllers.split(',').any(|name| name == controller)
            })?)
        };
        if let (Some(cpu), Some(cpuacct)) = (v1("cpu"), v1("cpuacct")) {
            return Some(Self::V1 { cpu, cpuacct });
        }
        mounted(mounts, |kind, _| kind == "cgroup2")?
            .place(belongs(membership, str::is_empty)?)
            .map(Self::V2)
    }

    /// The nearest one with a CPU limit, from this one up; `None` if nothing limits it.
    pub(super) fn limiting(self) -> Option<Self> {
        if matches!(self.limit(), Ok(Some(_))) {
            return Some(self);
        }
        match self {
            Self::V2(place) => Self::V2(place.parent()?),
            Self::V1 { cpu, cpuacct } => Self::V1 {
                cpu: cpu.parent()?,
                // The same path in both hierarchies, but for odd set-ups.
                cpuacct: cpuacct.parent().unwrap_or(cpuacct),
            },
        }
        .limiting()
    }

    /// How many CPUs' time it may use; `None`: all of them.
    fn limit(&self) -> io::Result<Option<f64>> {
        match self {
            Self::V2(place) => {
                let path = place.file("cpu.max");
                let Some(text) = read_if_there(&path)? else {
                    return Ok(None);
                };
                let (quota, period) = text.trim().split_once(' ').ok_or_else(|| damaged(&path))?;
                match quota {
                    "max" => Ok(None),
                    quota => ratio(&path, quota, period).map(Some),
                }
            }
            Self::V1 { cpu, .. } => {
                let path = cpu.file("cpu.cfs_quota_us");
                match read_if_there(&path)?.as_deref().map(str::trim) {
                    None | Some("-1") => Ok(None),
                    Some(quota) => {
                        let period = read(&cpu.file("cpu.cfs_period_us"))?;
                        ratio(&path, quota, period.trim()).map(Some)
                    }
                }
            }
        }
    }

    /// CPU time used so far.
    fn usage(&self) -> io::Result<Duration> {
        match self {
            Self::V2(place) => {
                let path = place.file("cpu.stat");
                read(&path)?
                    .lines()
                    .find_map(|line| line.strip_prefix("usage_usec "))
                    .and_then(|figure| figure.trim().parse().ok())
                    .map(Duration::from_micros)
                    .ok_or_else(|| damaged(&path))
            }
            Self::V1 { cpuacct, .. } => {
                let path = cpuacct.file("cpuacct.usage");
                let figure = read(&path)?.trim().parse();
                figure.map(Duration::from_nanos).map_err(|_| damaged(&path))
            }
        }
    }
}

/// The top of a hierarchy has no limit, and no file for it.
fn read_if_there(path: &Path) -> io::Result<Option<String>> {
    match fs::exists(path) {
        Ok(false) => Ok(None),
        _ => read(path).map(Some),
    }
}

fn ratio(path: &Path, quota: &str, period: &str) -> io::Result<f64> {
    let number = |text: &str| text.parse::<f64>().ok().filter(|&number| number > 0.0);
    match (number(quota), number(period)) {
        (Some(quota), Some(period)) => Ok(quota / period),
        _ => Err(damaged(path)),
    }
}

/// A mounted hierarchy.
struct Mount<'a> {
    /// Which of its cgroups is seen at `point`.
    root: &'a str,
    point: &'a str,
}

impl Mount<'_> {
    /// The folder of a cgroup, if it can be seen at all.
    fn place(&self, cgroup: &str) -> Option<Place> {
        let path = Path::new(cgroup);
        // In a container the cgroup may be named as the host sees it, with only itself mounted.
        let below = path.strip_prefix(self.root).unwrap_or(Path::new(""));
        let below = below.strip_prefix("/").unwrap_or(below);
        let seen = !path.components().any(|part| part.as_os_str() == "..");
        seen.then(|| Place {
            top: self.point.into(),
            folder: if below.as_os_str().is_empty() {
                self.point.into()
            } else {
                Path::new(self.point).join(below)
            },
        })
    }
}

/// The first mount of `/proc/PID/mountinfo` whose type and options are as wanted (`proc_pid_mountinfo(5)`).
fn mounted(mounts: &str, wanted: impl Fn(&str, &str) -> bool) -> Option<Mount<'_>> {
    mounts.lines().find_map(|line| {
        let (mount, system) = line.split_once(" - ")?;
        let mut system = system.split(' ');
        let (kind, _, options) = (system.next()?, system.next()?, system.next()?);
        let mut mount = mount.split(' ').skip(3);
        let (root, point) = (mount.next()?, mount.next()?);
        wanted(kind, options).then_some(Mount { root, point })
    })
}

/// The cgroup in `/proc/PID/cgroup` whose controllers are as wanted: `NUMBER:CONTROLLERS:PATH`.
fn belongs(membership: &str, wanted: impl Fn(&str) -> bool) -> Option<&str> {
    membership.lines().find_map(|line| {
        let (_, line) = line.split_once(':')?;
        let (controllers, path) = line.split_once(':')?;
        wanted(controllers).then_some(path)
    })
}

/// Compares one look with the next.
#[derive(Debug)]
pub(super) struct CgroupMeter {
    cgroup: Cgroup,
    before: Option<(Instant, Duration)>,
}

impl fmt::Display for CgroupMeter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.cgroup.fmt(f)
    }
}

impl CgroupMeter {
    pub(super) fn new(cgroup: Cgroup) -> Self {
        Self {
            cgroup,
            before: None,
        }
    }

    pub(super) fn measure(&mut self, now: Instant) -> io::Result<Option<f64>> {
        let used = self.cgroup.usage()?;
        // Read each time: operators change limits.
        let limit = self.cgroup.limit()?;
        let Some((then, before)) = self.before.replace((now, used)) else {
            return Ok(None);
        };
        let cpus = limit.unwrap_or(f64::INFINITY).min(cpus());
        let time = now.duration_since(then).as_secs_f64() * cpus;
        let busy = used.saturating_sub(before).as_secs_f64();
        Ok((time > 0.0).then(|| (busy / time).min(1.0)))
    }
}

/// CPUs of this machine that are on.
fn cpus() -> f64 {
    // SAFETY: it only reads a figure.
    let count = unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) };
    count.max(1) as f64
}

#[cfg(test)]
#[path = "cgroup_tests.rs"]
mod tests;
