//! What other programs, and other virtual machines, take of this machine's CPU while something is measured: they share its caches and cores, and figures beside them are not those of a quiet machine.

use std::{fs, time::Duration};

use anyhow::{Context as _, ensure};

use super::unmeasured::Unmeasured;

/// The part of the CPU that others may have before a promise that is not kept is called not measured.
pub(super) const DISTURBING: f64 = 0.10;
/// Fields of a line of `/proc/stat` that are not idle: user, nice, system, irq, softirq, steal.
const BUSY: [usize; 6] = [0, 1, 2, 5, 6, 7];

/// The CPU time of everything, and of this process with all that it started, at one moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Others {
    busy: f64,
    all: f64,
    own: f64,
}

impl Others {
    /// Begins to watch.
    pub(super) fn watch() -> anyhow::Result<Self> {
        let stat = fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
        let (busy, all) = ticks(&stat)?;
        Ok(Self {
            busy,
            all,
            own: own()?,
        })
    }

    /// Returns the part of the machine's CPU that others have had since.
    pub(super) fn part(&self) -> anyhow::Result<f64> {
        Ok(self.until(&Self::watch()?))
    }

    fn until(&self, end: &Self) -> f64 {
        let others = (end.busy - self.busy) - (end.own - self.own);
        (others / (end.all - self.all).max(1.0)).clamp(0.0, 1.0)
    }
}

/// Calls promises that are not kept not measured, if others had much of the CPU; returns those that stay missed.
pub(super) fn excuse(missed: Vec<String>, others: f64, unmeasured: &mut Unmeasured) -> Vec<String> {
    if others <= DISTURBING {
        return missed;
    }
    for what in missed {
        let why = format!("other programs had {:.0} % of the CPU", others * 100.0);
        unmeasured.note(what, why);
    }
    Vec::new()
}

/// Returns the busy and all ticks of all cores.
fn ticks(stat: &str) -> anyhow::Result<(f64, f64)> {
    let line = stat
        .lines()
        .next()
        .and_then(|line| line.strip_prefix("cpu "));
    let line = line.context("/proc/stat does not begin with `cpu `")?;
    let fields: Vec<f64> = line
        .split_whitespace()
        .map_while(|field| field.parse().ok())
        .collect();
    ensure!(fields.len() >= 8, "/proc/stat names only {fields:?}");
    // The time of guests is in user and nice already.
    Ok((
        BUSY.iter().map(|at| fields[*at]).sum(),
        fields[..8].iter().sum(),
    ))
}

fn ticks_per_second() -> anyhow::Result<f64> {
    // SAFETY: takes a number and has no other effect.
    let ticks = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    ensure!(ticks > 0, "the kernel does not tell its clock ticks");
    Ok(ticks as f64)
}

/// Returns the ticks that this process and its ended children have had, all that it started and that still runs, and
/// the kernel's threads that finish interrupts' work, which in a lab is the work of packets.
fn own() -> anyhow::Result<f64> {
    let ended = usage(libc::RUSAGE_SELF) + usage(libc::RUSAGE_CHILDREN);
    let processes: Vec<Process> = fs::read_dir("/proc")
        .context("cannot list /proc")?
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().parse::<u32>().is_ok())
        .filter_map(|entry| Process::parse(&fs::read_to_string(entry.path().join("stat")).ok()?))
        .collect();
    Ok(ended.as_secs_f64() * ticks_per_second()? + others_of_ours(&processes, std::process::id()))
}

/// Returns the ticks of all descendants of `own`, and of the kernel's threads for interrupts.
fn others_of_ours(processes: &[Process], own: u32) -> f64 {
    let mut ours = vec![own];
    let mut ticks = 0.0;
    // Children that are found make room for theirs.
    let mut next = 0;
    while let Some(parent) = ours.get(next).copied() {
        for child in processes.iter().filter(|process| process.parent == parent) {
            ours.push(child.id);
            ticks += child.ticks;
        }
        next += 1;
    }
    let interrupts = processes
        .iter()
        .filter(|process| process.name.starts_with("ksoftirqd/"));
    ticks + interrupts.map(|process| process.ticks).sum::<f64>()
}

/// A process as `/proc/ID/stat` shows it.
#[derive(Clone, Debug, PartialEq)]
struct Process {
    id: u32,
    name: String,
    parent: u32,
    ticks: f64,
}

impl Process {
    fn parse(stat: &str) -> Option<Self> {
        let (id, rest) = stat.split_once(" (")?;
        // The name may hold anything.
        let (name, rest) = rest.rsplit_once(") ")?;
        let fields: Vec<&str> = rest.split(' ').collect();
        let ticks = |at: usize| fields.get(at)?.parse::<f64>().ok();
        Some(Self {
            id: id.parse().ok()?,
            name: name.to_owned(),
            parent: fields.get(1)?.parse().ok()?,
            ticks: ticks(11)? + ticks(12)?,
        })
    }
}

/// Returns the CPU time of this process (`RUSAGE_SELF`) or of its children that were waited for (`RUSAGE_CHILDREN`).
fn usage(of: libc::c_int) -> Duration {
    // SAFETY: a usage of zeros is one, and the call writes it.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(of, &raw mut usage);
        usage
    };
    let time = |time: libc::timeval| {
        Duration::from_secs(time.tv_sec.cast_unsigned())
            + Duration::from_micros(time.tv_usec.cast_unsigned())
    };
    time(usage.ru_utime) + time(usage.ru_stime)
}

#[cfg(test)]
mod tests {
    use super::{Others, Process, excuse, others_of_ours, ticks};
    use crate::bench::unmeasured::Unmeasured;

    #[test]
    fn on_a_busy_machine_slowness_is_not_measured() {
        let missed = || vec!["invite costs 13.1 times the baseline".to_owned()];
        let mut unmeasured = Unmeasured::default();
        assert_eq!(excuse(missed(), 0.05, &mut unmeasured), missed());
        assert!(unmeasured.is_empty());
        assert!(excuse(missed(), 0.5, &mut unmeasured).is_empty());
        assert_eq!(
            unmeasured.lines().collect::<Vec<_>>(),
            [
                "NOT MEASURED: invite costs 13.1 times the baseline: other programs had 50 % of the CPU"
            ]
        );
    }

    #[test]
    fn what_this_process_started_is_its_own() {
        let stat = "17 (a) b) c) S 5 17 17 0 -1 0 0 0 0 0 30 12 9 9 20 0 1 0 1 1 1";
        let process = Process::parse(stat).unwrap();
        assert_eq!(process.name, "a) b) c");
        assert_eq!((process.id, process.parent), (17, 5));
        assert!((process.ticks - 42.0).abs() < 1e-9);
        assert_eq!(Process::parse("17 (cut"), None);
        let child = |id, parent, name: &str, ticks| Process {
            id,
            name: name.to_owned(),
            parent,
            ticks,
        };
        let all = [
            child(9, 17, "grandchild", 1.0),
            child(5, 1, "own", 1_000.0),
            process.clone(),
            child(8, 1, "another", 500.0),
            child(14, 2, "ksoftirqd/0", 2.0),
        ];
        assert!((others_of_ours(&all, 5) - 45.0).abs() < 1e-9);
    }

    #[test]
    fn idle_time_and_waiting_are_not_busy() {
        let (busy, all) = ticks("cpu  10 2 30 400 50 6 7 8 0 0\ncpu0 1 1 1 1\n").unwrap();
        assert!((busy - 63.0).abs() < 1e-9 && (all - 513.0).abs() < 1e-9);
        assert!(ticks("cpu0 1 2 3").is_err());
        assert!(ticks("cpu 1 2 3").is_err());
    }

    #[test]
    fn others_are_all_but_this_process() {
        let begin = Others {
            busy: 100.0,
            all: 1_000.0,
            own: 10.0,
        };
        let end = Others {
            busy: 200.0,
            all: 1_200.0,
            own: 70.0,
        };
        assert!((begin.until(&end) - 0.2).abs() < 1e-9);
        // Ticks are coarse; there is no negative part.
        assert!(begin.until(&Others { own: 200.0, ..end }).abs() < 1e-9);
    }
}
