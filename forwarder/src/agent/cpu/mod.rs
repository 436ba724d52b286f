//! How busy the CPU was since the last look: of the host, or of a cgroup against its limit.

mod cgroup;
mod host;

use std::{fmt, io, path::Path, time::Instant};

use cgroup::{Cgroup, CgroupMeter};
use host::HostMeter;

use super::config::Cpu;

/// Measures the CPU from one look to the next.
#[derive(Debug)]
pub struct Meter {
    choice: Cpu,
    source: Source,
    /// What was found last: between two looks that are very near, nothing may have been counted.
    last: Option<f64>,
    fault_told: bool,
    /// What was said last of where figures come from.
    whose: String,
}

#[derive(Debug)]
enum Source {
    Host(HostMeter),
    Cgroup(CgroupMeter),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(_) => f.write_str("the host"),
            Self::Cgroup(meter) => meter.fmt(f),
        }
    }
}

impl Meter {
    /// Measures what was chosen, of the agent's own cgroup until [`Meter::follow`] names a process.
    #[must_use]
    pub fn new(choice: Cpu) -> Self {
        let mut meter = Self {
            choice,
            source: Source::Host(HostMeter::default()),
            last: None,
            fault_told: false,
            whose: String::new(),
        };
        meter.follow(None);
        meter
    }

    /// Measures the cgroup of process `pid` from now on, if a cgroup is to be measured. `None` is this
    /// process.
    pub fn follow(&mut self, pid: Option<u32>) {
        let cgroup = match &self.choice {
            Cpu::Host => Ok(None),
            Cpu::Auto => Cgroup::of_process(pid).map(|found| found.and_then(Cgroup::limiting)),
            Cpu::Cgroup => Cgroup::of_process(pid),
            Cpu::Folder(folder) => Ok(Some(Cgroup::at(folder))),
        };
        let cgroup = cgroup.unwrap_or_else(|error| {
            self.tell(&error);
            None
        });
        self.source = match cgroup {
            Some(cgroup) => Source::Cgroup(CgroupMeter::new(cgroup)),
            None => Source::Host(HostMeter::default()),
        };
        let whose = self.source.to_string();
        if whose != self.whose {
            tracing::info!("the CPU reported is that of {whose}");
            self.whose = whose;
        }
        self.last = None;
    }

    /// The part of the CPU that was busy since the last look, from 0 to 1. `None` at the first look, and
    /// while nobody can tell.
    pub fn measure(&mut self, now: Instant) -> Option<f64> {
        let share = match &mut self.source {
            Source::Host(meter) => meter.measure(),
            Source::Cgroup(meter) => meter.measure(now),
        };
        match share {
            Ok(share) => {
                self.fault_told = false;
                self.last = share.or(self.last);
            }
            Err(error) => {
                self.tell(&error);
                self.last = None;
            }
        }
        self.last
    }

    /// Once, until it works again.
    fn tell(&mut self, error: &io::Error) {
        if !std::mem::replace(&mut self.fault_told, true) {
            tracing::warn!(%error, "cannot measure the CPU; it is reported as unknown. Set agent.cpu to what this machine has");
        }
    }
}

/// Reads a file of figures, and says which one failed.
fn read(path: &Path) -> io::Result<String> {
    std::fs::read_to_string(path)
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}

fn damaged(path: &Path) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("{}: not in the form expected", path.display()),
    )
}
