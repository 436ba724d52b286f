//! What a process costs, from `/proc`.

use std::{collections::BTreeMap, fs, time::Duration};

use anyhow::Context as _;

/// The CPU time of a process, by the names of its threads.
#[derive(Clone, Debug, Default)]
pub(super) struct CpuTime(BTreeMap<String, Duration>);

impl CpuTime {
    /// So far.
    pub(super) fn of(pid: u32) -> anyhow::Result<Self> {
        let mut by_name = BTreeMap::new();
        let tasks = format!("/proc/{pid}/task");
        for task in fs::read_dir(&tasks).with_context(|| format!("cannot read {tasks}"))? {
            let task = task?.path();
            // A thread may end while we look.
            let (Ok(name), Ok(account)) = (
                fs::read_to_string(task.join("comm")),
                fs::read_to_string(task.join("schedstat")),
            ) else {
                continue;
            };
            let ran = account
                .split_whitespace()
                .next()
                .and_then(|nanoseconds| nanoseconds.parse().ok())
                .context("the kernel keeps no account of threads (CONFIG_SCHED_INFO)")?;
            *by_name.entry(name.trim().to_owned()).or_default() += Duration::from_nanos(ran);
        }
        Ok(Self(by_name))
    }

    /// Percent of a core since `earlier`, `time` ago: all threads together, then each name.
    pub(super) fn percent_since(
        &self,
        earlier: &Self,
        time: Duration,
    ) -> (f64, BTreeMap<String, f64>) {
        let threads: BTreeMap<_, _> = self
            .0
            .iter()
            .map(|(name, now)| {
                let before = earlier.0.get(name).copied().unwrap_or_default();
                let spent = now.saturating_sub(before);
                let percent = spent.as_secs_f64() / time.as_secs_f64() * 100.0;
                (name.clone(), percent)
            })
            .filter(|(_, percent)| *percent >= 0.05)
            .collect();
        (threads.values().sum(), threads)
    }
}

/// The memory of a process that is in RAM, in KiB.
pub(super) fn rss_kib(pid: u32) -> anyhow::Result<u64> {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    text.lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|value| value.split_whitespace().next()?.parse().ok())
        .with_context(|| format!("{path} tells no VmRSS"))
}
