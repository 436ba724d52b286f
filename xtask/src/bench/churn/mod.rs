//! `cargo xtask bench churn`: calls of 2 s, without a pause, while everything around them changes.
//!
//! Three proxies, all Kamailio, and a callee in a namespace of its own. While the calls run, the first proxy's gate closes
//! and opens again and again, weights are pushed, the second drains and comes back, the third is killed and comes back, a
//! fourth joins and the daemon restarts. No call may fail, and none may leave a proxy that lives.

mod room;
mod timeline;

use std::{fmt::Write as _, net::SocketAddr, path::PathBuf, thread, time::Duration};

use anyhow::{anyhow, bail};
use clap::Args;
use serde::Serialize;
use sip_forwarder_tests::{
    calls::{self, BackendCalls, CallLog},
    history::{self, Torn},
    kamailio::PORT,
    lab::vip,
    sipp::{CallOptions, CallReport, Uac},
};

use self::{
    room::Room,
    timeline::{Counts, Timeline},
};
use crate::{
    Outcome, program, setup,
    shell::{is_root, say},
};

/// How long a call lasts.
const HOLD: Duration = Duration::from_secs(2);
/// How long an answer may take, sent again four times.
const PATIENCE: Duration = Duration::from_secs(10);
/// How many calls that were split are named.
const NAMED: usize = 5;

/// Calls go on while gates, weights, proxies and the daemon come and go.
#[derive(Args)]
pub(crate) struct Churn {
    /// One JSON object on the last line of stdout instead of the table.
    #[arg(long)]
    json: bool,
    /// This `sip-forwarder` instead of one that is built now.
    #[arg(long, value_name = "FILE")]
    forwarder: Option<PathBuf>,
    /// Keep the logs in this folder.
    #[arg(long, value_name = "FOLDER")]
    logs: Option<PathBuf>,
    /// Calls begun each second.
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..=2_000))]
    rate: u32,
    /// How long calls are begun.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(30..=3_600))]
    seconds: u32,
}

/// What became of the calls, and what happened meanwhile.
#[derive(Serialize)]
struct Report {
    calls: u64,
    failed: u64,
    /// Calls that left a proxy that lived.
    split_calls: usize,
    /// Calls that left the proxy that was killed.
    moved_calls: usize,
    /// Requests the caller sent again.
    retransmissions: u64,
    #[serde(flatten)]
    counts: Counts,
    backends: Vec<BackendCalls>,
    seconds: f64,
}

impl Churn {
    pub(crate) fn run(&self) -> anyhow::Result<Outcome> {
        if !is_root() {
            bail!("the lab needs root: sudo cargo xtask bench churn");
        }
        setup::lab_programs()?;
        let (daemon, xdp) = (
            program::daemon_or(self.forwarder.as_deref())?,
            program::bench_programs()?,
        );
        let mut room = Room::start(&daemon, &xdp)?;
        say(&format!(
            "{} calls/s of {} s for {} s",
            self.rate,
            HOLD.as_secs(),
            self.seconds
        ));
        let (calls, timeline) = self.play(&mut room)?;
        if let Some(folder) = &self.logs {
            room.lab.keep_files(folder)?;
        }
        let logs = room.logs();
        let torn = history::torn(&logs, &timeline.deaths)?;
        let report = report(&calls, timeline.counts, &torn, &logs)?;
        self.show(&report, &torn)?;
        let good = report.failed == 0 && report.split_calls == 0;
        Ok(if good { Outcome::Done } else { Outcome::Failed })
    }

    fn play(&self, room: &mut Room) -> anyhow::Result<(CallReport, Timeline)> {
        let time = Duration::from_secs(self.seconds.into());
        let options = CallOptions {
            calls: self.rate * self.seconds,
            rate: self.rate,
            hold: HOLD,
            deadline: time + HOLD + PATIENCE * 3,
            patience: Some(PATIENCE),
            ..CallOptions::default()
        };
        let target = SocketAddr::new(vip(options.family), PORT);
        let uac = Uac::start(&room.lab, &options, target)?;
        thread::scope(|scope| {
            let changes = scope.spawn(|| Timeline::play(room, time));
            let calls = uac.finish(&mut |_| {});
            let timeline = changes
                .join()
                .map_err(|_| anyhow!("the thread of the changes panicked"))??;
            Ok((calls?, timeline))
        })
    }

    fn show(&self, report: &Report, torn: &Torn) -> anyhow::Result<()> {
        for call_id in torn.split.iter().take(NAMED) {
            say(&format!("split: {call_id}"));
        }
        if self.json {
            println!("{}", serde_json::to_string(report)?);
        } else {
            print!("{}", table(report));
        }
        Ok(())
    }
}

fn report(
    calls: &CallReport,
    counts: Counts,
    torn: &Torn,
    logs: &[CallLog],
) -> anyhow::Result<Report> {
    let seen = logs
        .iter()
        .map(CallLog::read)
        .collect::<anyhow::Result<Vec<_>>>()?;
    Ok(Report {
        calls: calls.successful + calls.failed,
        failed: calls.failed,
        split_calls: torn.split.len(),
        moved_calls: torn.moved.len(),
        retransmissions: calls.retransmissions,
        counts,
        backends: calls::per_backend(&seen),
        seconds: calls.seconds,
    })
}

fn table(report: &Report) -> String {
    let counts = &report.counts;
    let mut text = format!(
        "\n{} calls in {:.1} s, each held for {} s\n\n\
         \x20 failed            {:>8}\n\
         \x20 split             {:>8}   (left a proxy that lived)\n\
         \x20 moved             {:>8}   (their proxy had died)\n\
         \x20 sent again        {:>8}   (a message was lost or late)\n\nmeanwhile\n\n\
         \x20 gate flips        {:>8}\n\
         \x20 weights pushed    {:>8}\n\
         \x20 drained, enabled  {:>8}\n\
         \x20 killed, returned  {:>8}\n\
         \x20 joined            {:>8}\n\
         \x20 daemon restarts   {:>8}\n\n",
        report.calls,
        report.seconds,
        HOLD.as_secs(),
        report.failed,
        report.split_calls,
        report.moved_calls,
        report.retransmissions,
        counts.gate_flips,
        counts.weight_pushes,
        counts.drains,
        counts.deaths,
        counts.joins,
        counts.daemon_restarts,
    );
    for backend in &report.backends {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  {:<16}  {:>8}   calls", backend.name, backend.calls);
    }
    text
}
