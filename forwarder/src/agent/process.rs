//! Watching the proxy's process: its end is known at once, from its pidfd.

use std::{fs, io, os::fd::OwnedFd, path::Path, process::Stdio, time::Duration};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    process::{Pid, PidfdFlags, pidfd_open},
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    process::Command,
    sync::mpsc,
    time::{sleep, timeout},
};

use super::config::Watch;

/// Looking through all processes costs more than reading a file.
const SCAN_PAUSE: Duration = Duration::from_millis(250);
/// Asking systemd costs it and us a process.
const UNIT_PAUSE: Duration = Duration::from_secs(1);
/// How long systemd may take to answer.
const UNIT_TIMEOUT: Duration = Duration::from_secs(5);
/// What the kernel keeps of a process' name, in bytes (`TASK_COMM_LEN` less its zero).
const NAME_LENGTH: usize = 15;

/// Tells when the process is there (its number) and when it is not (`None`), until nobody listens.
pub(super) async fn watch(what: Watch, interval: Duration, changes: mpsc::Sender<Option<u32>>) {
    let pause = match what {
        Watch::PidFile(_) => interval,
        Watch::Process(_) => interval.max(SCAN_PAUSE),
        Watch::Unit(_) => interval.max(UNIT_PAUSE),
    };
    let mut missing = false;
    loop {
        match find(&what).await.and_then(|pid| Some((pid, open(pid)?))) {
            Some((pid, process)) => {
                missing = true;
                tracing::info!(pid, "watching the proxy's process");
                if changes.send(Some(pid)).await.is_err() {
                    return;
                }
                ended(process, interval).await;
                tracing::warn!(pid, "the proxy's process has ended");
                if changes.send(None).await.is_err() {
                    return;
                }
            }
            None if !missing => {
                missing = true;
                tracing::info!("the proxy's process is not there; looking for it");
                if changes.send(None).await.is_err() {
                    return;
                }
            }
            None => {}
        }
        sleep(pause).await;
    }
}

/// Waits for the end of a process.
enum Handle {
    Pidfd(AsyncFd<OwnedFd>),
    /// Its number, where there are no pidfds: before Linux 5.3, or forbidden in a container.
    Number(u32),
}

/// A handle of a process, unless it has ended: then it may still be there for its parent to collect.
fn open(pid: u32) -> Option<Handle> {
    let number = Pid::from_raw(pid.try_into().ok()?)?;
    match pidfd_open(number, PidfdFlags::empty()) {
        Ok(process) if !has_ended(&process) => {
            // SAFETY: an `OwnedFd` keeps its descriptor open as long as it lives.
            let process = unsafe { AsyncFd::register_with_interest(process, Interest::READABLE) };
            process.ok().map(Handle::Pidfd)
        }
        Ok(_) | Err(Errno::SRCH) => None,
        Err(error) if lives(pid) => {
            tracing::info!(pid, %error, "no pidfd for the proxy's process; looking after it at each interval");
            Some(Handle::Number(pid))
        }
        Err(_) => None,
    }
}

/// A pidfd is readable when its process has ended (`pidfd_open(2)`).
fn has_ended(process: &OwnedFd) -> bool {
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&now)) != Ok(0)
}

async fn ended(process: Handle, interval: Duration) {
    match process {
        Handle::Pidfd(process) => {
            if let Err(error) = process.readable().await {
                tracing::warn!(%error, "cannot watch the proxy's process; it is looked for again");
            }
        }
        Handle::Number(pid) => {
            while lives(pid) {
                sleep(interval).await;
            }
        }
    }
}

/// Is there such a process, and has it not ended?
fn lives(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.is_ok_and(|stat| {
        let state = stat.rsplit_once(") ").map(|(_, rest)| rest);
        state.is_some_and(|state| !state.starts_with(['Z', 'X']))
    })
}

async fn find(what: &Watch) -> Option<u32> {
    match what {
        Watch::PidFile(path) => fs::read_to_string(path).ok()?.trim().parse().ok(),
        Watch::Unit(unit) => main_process(unit).await,
        Watch::Process(name) => named(Path::new("/proc"), name).ok()?,
    }
}

/// The main process of a systemd unit.
async fn main_process(unit: &str) -> Option<u32> {
    let output = Command::new("systemctl")
        .args(["show", "--property=MainPID", "--value", "--", unit])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = match timeout(UNIT_TIMEOUT, output).await.ok()? {
        Ok(output) => output,
        Err(error) => {
            tracing::warn!(%error, "cannot run systemctl; use pid_file or process in agent.watch");
            return None;
        }
    };
    let pid = String::from_utf8_lossy(&output.stdout).trim().parse().ok();
    pid.filter(|&pid| pid != 0)
}

/// A process as `/proc/PID/stat` has it (`proc_pid_stat(5)`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Process {
    pid: u32,
    parent: u32,
    /// In ticks since the machine started.
    start: u64,
}

impl Process {
    /// `None` if it has another name, or has ended and only waits for its parent.
    fn parse(stat: &str, name: &str) -> Option<Self> {
        // The name stands in parentheses, and may hold some itself.
        let (pid, rest) = stat.split_once(" (")?;
        let (comm, rest) = rest.rsplit_once(") ")?;
        let mut fields = rest.split(' ');
        let state = fields.next()?;
        let kept = name.as_bytes();
        let same = comm.as_bytes() == &kept[..kept.len().min(NAME_LENGTH)];
        (same && !["Z", "X"].contains(&state)).then_some(())?;
        Some(Self {
            pid: pid.parse().ok()?,
            parent: fields.next()?.parse().ok()?,
            start: fields.nth(17)?.parse().ok()?,
        })
    }
}

/// The process of this name; of several, the oldest of those that none of the others started.
fn named(proc: &Path, name: &str) -> io::Result<Option<u32>> {
    let found: Vec<Process> = fs::read_dir(proc)?
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let digits = path.file_name()?.to_str()?;
            digits.bytes().all(|b| b.is_ascii_digit()).then_some(())?;
            Process::parse(&fs::read_to_string(path.join("stat")).ok()?, name)
        })
        .collect();
    let first = found
        .iter()
        .filter(|process| !found.iter().any(|other| other.pid == process.parent))
        .min_by_key(|process| (process.start, process.pid));
    Ok(first.map(|process| process.pid))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn stat(pid: u32, name: &str, state: &str, parent: u32, start: u64) -> String {
        format!(
            "{pid} ({name}) {state} {parent} 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 {start} 9 9\n"
        )
    }

    #[test]
    fn of_several_processes_the_first_parent_is_the_one() {
        let proc = tempfile::tempdir().unwrap();
        for (pid, name, state, parent, start) in [
            (7, "kamailio", "S", 9, 50),
            (9, "kamailio", "S", 1, 40),
            (11, "kamailio", "S", 1, 60),
            (5, "kamailio", "Z", 1, 10),
            (3, "sshd) S 1", "S", 1, 1),
        ] {
            let folder = proc.path().join(pid.to_string());
            fs::create_dir(&folder).unwrap();
            fs::write(folder.join("stat"), stat(pid, name, state, parent, start)).unwrap();
        }
        fs::create_dir(proc.path().join("self")).unwrap();
        assert_eq!(named(proc.path(), "kamailio").unwrap(), Some(9));
        assert_eq!(named(proc.path(), "sshd) S 1").unwrap(), Some(3));
        assert_eq!(named(proc.path(), "opensips").unwrap(), None);
    }

    #[test]
    fn long_names_are_kept_in_part_by_the_kernel() {
        let process = Process::parse(
            &stat(1, "a-long-name-of-", "S", 0, 3),
            "a-long-name-of-a-process",
        );
        assert_eq!(process.map(|process| process.start), Some(3));
    }

    #[tokio::test]
    async fn without_pidfds_the_end_is_seen_within_an_interval() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let wait = ended(Handle::Number(child.id()), Duration::from_millis(10));
        tokio::pin!(wait);
        let early = timeout(Duration::from_millis(50), &mut wait).await;
        assert!(early.is_err());
        child.kill().unwrap();
        timeout(Duration::from_secs(1), wait).await.unwrap();
        child.wait().unwrap();
    }

    #[tokio::test]
    async fn the_end_of_a_process_is_told_at_once_and_so_is_its_return() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pid");
        let (sender, mut changes) = mpsc::channel(4);
        let interval = Duration::from_millis(10);
        let task = tokio::spawn(watch(Watch::PidFile(file.clone()), interval, sender));
        for _ in 0..2 {
            let mut child = Command::new("sleep").arg("60").spawn().unwrap();
            fs::write(&file, format!("{}\n", child.id())).unwrap();
            assert_eq!(changes.recv().await, Some(Some(child.id())));
            child.kill().unwrap();
            // Not collected by its parent yet: told all the same.
            let change = timeout(Duration::from_secs(1), changes.recv()).await;
            assert_eq!(change, Ok(Some(None)));
            let quiet = timeout(Duration::from_millis(50), changes.recv()).await;
            assert!(quiet.is_err(), "one that has ended is not found again");
            child.wait().unwrap();
        }
        task.abort();
    }
}
