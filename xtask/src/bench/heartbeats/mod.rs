//! `cargo xtask bench heartbeats`: what the reports of many backends cost the whole daemon, alone and beside a flood of
//! bad ones.

mod account;
mod flood;
mod room;

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use anyhow::bail;
use clap::Args;
use serde::Serialize;
use serde_json::Value;
use sip_forwarder_tests::lab::{daemon, process::poll};

use self::{
    account::{CpuTime, rss_kib},
    room::{INTERVAL, Room, counted},
};
use super::{
    others::{self, Others},
    unmeasured::Unmeasured,
};
use crate::{
    Outcome, program, setup,
    shell::{is_root, say},
};

/// Percent of a core that the daemon may take while nobody floods it.
pub(super) const CORE_PERCENT: f64 = 5.0;
/// A backend is dead after this.
const SILENCE: Duration = Duration::from_millis(300);
/// Beyond the interval, every heartbeat is believed within less than this.
pub(super) const LONGEST_DELAY: Duration = SILENCE.saturating_sub(INTERVAL);
/// A flood may take so much memory: the receiver's room for datagrams of any size, and some more.
pub(super) const MEMORY_KIB: i64 = 8 * 1_024;
/// Below this part of what was asked for, the flood is none.
const ENOUGH: f64 = 0.9;
/// Between two looks at the status, which costs the daemon something too.
const LOOK: Duration = Duration::from_millis(250);
/// How long the last heartbeats may take to be counted.
const LAST: Duration = Duration::from_secs(2);
/// Why the flood's datagrams are not believed.
const REASONS: [&str; 7] = [
    "forged",
    "malformed",
    "replayed",
    "unchallenged",
    "unknown_backend",
    "wrong_forwarder",
    "wrong_version",
];

/// What heartbeats cost the daemon, alone and beside a flood of bad ones.
#[derive(Args)]
pub(crate) struct Heartbeats {
    /// One JSON object on the last line of stdout instead of the table.
    #[arg(long)]
    json: bool,
    /// This `sip-forwarder` instead of one that is built now.
    #[arg(long, value_name = "FILE")]
    forwarder: Option<PathBuf>,
    /// Backends, each with ten heartbeats a second.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u16).range(1..=1_024))]
    backends: u16,
    /// Bad ones a second.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1_000..=1_000_000))]
    flood: u32,
    /// How long each part lasts.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
}

#[derive(Serialize)]
struct Report {
    backends: u16,
    /// Good heartbeats, as measured.
    per_second: f64,
    /// The whole daemon, while nobody floods it.
    core_percent: f64,
    threads_percent: BTreeMap<String, f64>,
    flood: FloodReport,
    /// The part of the CPU that other programs had meanwhile.
    others: f64,
    /// Promises of time that are not kept.
    missed: Vec<String>,
    not_measured: Unmeasured,
}

#[derive(Serialize)]
struct FloodReport {
    /// Bad ones.
    per_second: f64,
    sent: u64,
    core_percent: f64,
    threads_percent: BTreeMap<String, f64>,
    /// Times that a backend was found unheard for two intervals.
    good_late: usize,
    /// Good ones, of the whole run, that were never believed.
    good_lost: u64,
    /// The longest that a backend was found unheard, beyond the interval.
    max_delay_ms: u64,
    /// How often the status was looked at.
    looks: u32,
    /// Deaths of the whole run.
    deaths: usize,
    rss_growth_kib: i64,
    /// What became of the bad ones, by the daemon's counters.
    ignored: BTreeMap<String, u64>,
}

/// What the status says of delays, over several looks.
#[derive(Default)]
struct Delays {
    looks: u32,
    late: usize,
    longest: u64,
}

impl Heartbeats {
    pub(crate) fn run(&self) -> anyhow::Result<Outcome> {
        if !is_root() {
            bail!("the lab needs root: sudo cargo xtask bench heartbeats");
        }
        setup::lab_programs()?;
        let daemon = program::daemon_or(self.forwarder.as_deref())?;
        let mut room = Room::start(&daemon, &program::bench_programs()?, self.backends)?;
        let others = Others::watch()?;
        let report = self.measure(&mut room)?;
        let others = others.part()?;
        let mut not_measured = Unmeasured::default();
        if report.flood.per_second < f64::from(self.flood) * ENOUGH {
            not_measured.note(
                "a flood as large as was asked for",
                format!(
                    "this machine sends {:.0} datagrams a second, not {}; give less by --flood",
                    report.flood.per_second, self.flood
                ),
            );
        }
        let report = Report {
            missed: others::excuse(report.too_slow(), others, &mut not_measured),
            others,
            not_measured,
            ..report
        };
        if self.json {
            println!("{}", serde_json::to_string(&report)?);
        } else {
            print!("{}", table(&report));
        }
        for missed in &report.missed {
            eprintln!("not kept: {missed}");
        }
        report.not_measured.show();
        let kept = report.missed.is_empty() && report.holds();
        Ok(report.not_measured.outcome(kept))
    }

    fn measure(&self, room: &mut Room) -> anyhow::Result<Report> {
        let time = Duration::from_secs(self.seconds.into());
        say(&format!(
            "{} backends for {} s, and {} s beside {} bad ones a second",
            self.backends,
            self.seconds,
            2 * self.seconds,
            self.flood
        ));
        let sent = room.chorus.spoken().sent;
        let begin = Instant::now();
        let (core_percent, threads_percent) = cpu_during(room, time)?;
        let per_second = (room.chorus.spoken().sent - sent) as f64 / begin.elapsed().as_secs_f64();
        Ok(Report {
            backends: self.backends,
            per_second,
            core_percent,
            threads_percent,
            flood: self.measure_flood(room, time)?,
            others: 0.0,
            missed: Vec::new(),
            not_measured: Unmeasured::default(),
        })
    }

    /// First without a look, for the CPU; then with many, for the delays.
    fn measure_flood(&self, room: &mut Room, time: Duration) -> anyhow::Result<FloodReport> {
        let pid = room.pid()?;
        let before = room.daemon.status()?;
        let memory = rss_kib(pid)?;
        let flood = room.flood(self.flood)?;
        let (core_percent, threads_percent) = cpu_during(room, time)?;
        let delays = Delays::watch(room, time)?;
        let flooded = flood.stop()?;
        let rss_growth_kib = rss_kib(pid)?.cast_signed() - memory.cast_signed();
        let after = room.daemon.status()?;
        let ignored = REASONS
            .iter()
            .map(|reason| {
                let count = counted(&after, reason) - counted(&before, reason);
                ((*reason).to_owned(), count)
            })
            .collect();
        // The end of all heartbeats is no death, but may become one.
        let deaths = room.deaths()?;
        Ok(FloodReport {
            per_second: flooded.per_second,
            sent: flooded.sent,
            core_percent,
            threads_percent,
            good_late: delays.late,
            good_lost: lost(room)?,
            max_delay_ms: delays.longest,
            looks: delays.looks,
            deaths,
            rss_growth_kib,
            ignored,
        })
    }
}

impl Report {
    fn holds(&self) -> bool {
        let flood = &self.flood;
        flood.deaths == 0
            && flood.rss_growth_kib < MEMORY_KIB
            && flood.ignored.values().all(|count| *count > 0)
    }

    /// The promises of time that are not kept, in words.
    fn too_slow(&self) -> Vec<String> {
        let cpu = (self.core_percent >= CORE_PERCENT).then(|| {
            format!(
                "the daemon takes {:.1} % of a core, not below {CORE_PERCENT}",
                self.core_percent
            )
        });
        let longest = LONGEST_DELAY.as_millis();
        let delay = self.flood.max_delay_ms;
        let delay = (u128::from(delay) >= longest)
            .then(|| format!("a good heartbeat was {delay} ms late, not below {longest}"));
        cpu.into_iter().chain(delay).collect()
    }
}

impl Delays {
    fn watch(room: &Room, time: Duration) -> anyhow::Result<Self> {
        let interval = INTERVAL.as_millis() as u64;
        let mut delays = Self::default();
        let end = Instant::now() + time;
        while Instant::now() < end {
            let status = room.daemon.status()?;
            delays.looks += 1;
            for backend in daemon::backends(&status) {
                let unheard = backend["heard_ms_ago"].as_u64().unwrap_or(u64::MAX);
                delays.longest = delays.longest.max(unheard.saturating_sub(interval));
                delays.late += usize::from(unheard >= 2 * interval);
            }
            thread::sleep(LOOK);
        }
        Ok(delays)
    }
}

/// What the daemon takes of a core, while nobody else asks anything of it.
fn cpu_during(room: &Room, time: Duration) -> anyhow::Result<(f64, BTreeMap<String, f64>)> {
    let pid = room.pid()?;
    let (before, begin) = (CpuTime::of(pid)?, Instant::now());
    thread::sleep(time);
    Ok(CpuTime::of(pid)?.percent_since(&before, begin.elapsed()))
}

/// Ends the good heartbeats and counts those that were never believed.
fn lost(room: &mut Room) -> anyhow::Result<u64> {
    let spoken = room.chorus.stop();
    // Those before a session began were answered by a challenge.
    let wanted = spoken.sent - spoken.heeded;
    let mut believed = 0;
    poll(LAST, || {
        let status: Value = room.daemon.status()?;
        believed = counted(&status, "accepted");
        Ok((believed >= wanted).then_some(()))
    })?;
    Ok(wanted.saturating_sub(believed))
}

fn table(report: &Report) -> String {
    let flood = &report.flood;
    let mut text = format!(
        "\n{:<34}{:>10}{:>12}\n",
        format!("{} backends", report.backends),
        "alone",
        "in a flood"
    );
    let mut row = |name: &str, alone: String, flooded: String| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  {name:<32}{alone:>10}{flooded:>12}");
    };
    row(
        "good ones per second",
        format!("{:.0}", report.per_second),
        String::new(),
    );
    row(
        "bad ones per second",
        "0".to_owned(),
        format!("{:.0}", flood.per_second),
    );
    row(
        "percent of a core, whole daemon",
        format!("{:.1}", report.core_percent),
        format!("{:.1}", flood.core_percent),
    );
    for (name, flooded) in &flood.threads_percent {
        let alone = report.threads_percent.get(name).unwrap_or(&0.0);
        row(
            &format!("  thread {name}"),
            format!("{alone:.1}"),
            format!("{flooded:.1}"),
        );
    }
    let mut flooded = |name: &str, value: String| row(name, String::new(), value);
    flooded("longest delay, ms", flood.max_delay_ms.to_string());
    flooded("late by an interval", flood.good_late.to_string());
    flooded("lost", flood.good_lost.to_string());
    flooded("deaths", flood.deaths.to_string());
    flooded("memory grew by, KiB", flood.rss_growth_kib.to_string());
    for (reason, count) in &flood.ignored {
        flooded(&format!("  {reason}"), count.to_string());
    }
    text
}
