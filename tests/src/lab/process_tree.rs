//! A process with its children, as a server that forks workers is one.

use std::fs;
use std::time::Duration;

use super::process::signal;

/// The process and its children, and theirs.
#[must_use]
pub fn of(root: u32) -> Vec<u32> {
    let pairs = parents();
    let mut tree = vec![root];
    let mut next = 0;
    while let Some(&parent) = tree.get(next) {
        tree.extend(
            pairs
                .iter()
                .filter(|(_, of)| *of == parent)
                .map(|(pid, _)| *pid),
        );
        next += 1;
    }
    tree
}

/// SIGKILL for all of them at once. Those that are gone are no fault.
pub fn kill(pids: &[u32]) {
    for pid in pids {
        signal(*pid, libc::SIGKILL);
    }
}

/// The CPU time that all threads of these processes have had, to the nanosecond; `None` once one of the processes is
/// gone. (A thread that ends takes its time with it: the servers of the lab end none.)
#[must_use]
pub fn cpu_time(pids: &[u32]) -> Option<Duration> {
    pids.iter().map(|pid| cpu_time_of(*pid)).sum()
}

/// The memory that a process has in RAM, in bytes; `None` if it is gone.
#[must_use]
pub fn resident(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kibibytes * 1024)
}

fn cpu_time_of(pid: u32) -> Option<Duration> {
    let mut total = 0;
    for thread in fs::read_dir(format!("/proc/{pid}/task")).ok()? {
        let text = fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
        let nanoseconds: u64 = text.split_whitespace().next()?.parse().ok()?;
        total += nanoseconds;
    }
    Some(Duration::from_nanos(total))
}

/// Every process and its parent.
fn parents() -> Vec<(u32, u32)> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            Some((
                pid,
                parent(&fs::read_to_string(entry.path().join("stat")).ok()?)?,
            ))
        })
        .collect()
}

/// `7 (a name) S 1 …` → 1. A name may hold anything, a parenthesis too.
fn parent(stat: &str) -> Option<u32> {
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parent_stands_after_the_name() {
        assert_eq!(parent("7 (a) b) S 12 7 7 0"), Some(12));
    }

    #[test]
    fn this_process_has_memory() {
        let bytes = resident(std::process::id()).unwrap();
        assert!((1 << 20..1 << 36).contains(&bytes), "{bytes}");
    }

    #[test]
    fn this_process_has_had_time() {
        let pids = of(std::process::id());
        assert_eq!(pids.first(), Some(&std::process::id()));
        // Time is counted in ticks, of which a young process may have had none.
        let begin = std::time::Instant::now();
        while cpu_time(&pids[..1]).is_none_or(|time| time.is_zero()) {
            assert!(begin.elapsed().as_secs() < 10, "still no time");
        }
    }
}
