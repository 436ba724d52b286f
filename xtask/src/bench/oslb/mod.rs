//! `cargo xtask bench oslb`: cases A, C and E of the OSLB thesis (chapter 5), the forwarder beside Kamailio's dispatcher.
//!
//! Two proxies, both Kamailio, and a callee in a namespace of its own that outlives them; calls of 1 s. What the thesis
//! plays in minutes is played in half a minute: the fault comes after a third of it. A call fails when one of its answers
//! does not come in time, or not at all. Behind the forwarder the proxies put the VIP into Record-Route, so that any of
//! them can go on with a call; behind the dispatcher they put themselves, as Kamailio's manuals do.

mod plan;
mod play;
mod promise;
mod room;
mod table;

use std::{path::PathBuf, time::Duration};

use anyhow::bail;
use clap::{Args, ValueEnum};
use serde::{Serialize, Serializer};

use self::{
    plan::{Case, Front, Run},
    play::Outcome as Played,
    room::Programs,
};
use super::{
    others::{self, Others},
    unmeasured::Unmeasured,
};
use crate::{
    Outcome, program, setup,
    shell::{is_root, say},
};

/// Calls per second in cases A and C.
const RATE: u32 = 100;
/// Calls per second in case E: enough to make a small CPU sweat.
const RATE_E: u32 = 200;
/// How long an answer may take when nothing is sent again.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long when it is: four repetitions.
const PATIENCE_RETRANSMITTING: Duration = Duration::from_secs(10);

/// Failed calls and balance when all is well, a proxy fails, a hog eats its CPU.
#[derive(Args)]
pub(crate) struct Oslb {
    /// One JSON object on the last line of stdout instead of the table.
    #[arg(long)]
    json: bool,
    /// Only these cases of the thesis; all without it.
    #[arg(long = "case", value_enum, ignore_case = true, num_args = 1.., value_delimiter = ',')]
    cases: Vec<Case>,
    /// Only these boxes before the proxies; all without it.
    #[arg(long = "box", value_enum, num_args = 1.., value_delimiter = ',')]
    boxes: Vec<Front>,
    /// This `sip-forwarder` instead of one that is built now.
    #[arg(long, value_name = "FILE")]
    forwarder: Option<PathBuf>,
    /// Keep the logs of every run in this folder.
    #[arg(long, value_name = "FOLDER")]
    logs: Option<PathBuf>,
    /// How long calls are begun in each run.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(6..=600))]
    seconds: u32,
    /// Who tells the forwarder of the proxies' health.
    #[arg(long, value_enum, default_value_t = Health::Agent)]
    health: Health,
    /// Case E: the part of a core that each proxy has.
    #[arg(long, default_value_t = 0.15)]
    cpu_limit: f64,
    /// Case E: busy processes beside the first proxy.
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u32).range(1..=64))]
    hogs: u32,
}

/// Who tells the forwarder of the proxies' health.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Health {
    /// An agent on each.
    Agent,
    /// Their answers to OPTIONS.
    Options,
    /// Nobody.
    None,
}

impl Health {
    /// As in the forwarder's configuration.
    const fn word(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Options => "options",
            Self::None => "none",
        }
    }
}

/// What all runs have in common.
#[derive(Clone, Debug, Serialize)]
struct Settings {
    seconds: u32,
    /// Calls per second in cases A and C.
    rate: u32,
    /// Calls per second in case E.
    rate_e: u32,
    health: Health,
    /// Case E: the part of a core that each proxy has.
    cpu_limit: f64,
    /// Case E: busy processes beside the first proxy.
    hogs: u32,
    #[serde(serialize_with = "in_seconds")]
    patience: Duration,
    #[serde(serialize_with = "in_seconds")]
    patience_retransmitting: Duration,
    #[serde(skip)]
    logs: Option<PathBuf>,
}

fn in_seconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(duration.as_secs_f64())
}

impl Settings {
    const fn rate(&self, case: Case) -> u32 {
        match case {
            Case::A | Case::C => self.rate,
            Case::E => self.rate_e,
        }
    }

    fn time(&self) -> Duration {
        Duration::from_secs(self.seconds.into())
    }
}

/// All that is told at the end.
#[derive(Serialize)]
struct Report {
    cases: Vec<Played>,
    settings: Settings,
    /// Promises that were not kept.
    broken: Vec<String>,
    /// The part of the CPU that other programs had meanwhile.
    others: f64,
    not_measured: Unmeasured,
}

impl Oslb {
    pub(crate) fn run(&self) -> anyhow::Result<Outcome> {
        if !is_root() {
            bail!("the lab needs root: sudo cargo xtask bench oslb");
        }
        if !(0.01..=1.0).contains(&self.cpu_limit) {
            bail!("--cpu-limit is a part of one core, from 0.01 to 1");
        }
        setup::lab_programs()?;
        let (daemon, xdp) = (
            program::daemon_or(self.forwarder.as_deref())?,
            program::bench_programs()?,
        );
        let programs = Programs {
            daemon: &daemon,
            xdp: &xdp,
        };
        let settings = self.settings();
        let runs = self.runs();
        let minutes = runs.len() as f64 * f64::from(self.seconds + 6) / 60.0;
        say(&format!("{} runs, about {minutes:.0} minutes", runs.len()));
        let (mut cases, mut not_measured) = (Vec::new(), Unmeasured::default());
        let others = Others::watch()?;
        for (index, run) in runs.iter().copied().enumerate() {
            let played = play::play(programs, run, &settings);
            let Some(played) = not_measured.attempt(run.to_string(), played) else {
                continue;
            };
            say(&format!(
                "{}/{}: {run}: {} of {} calls failed, LBM {:.3}",
                index + 1,
                runs.len(),
                played.failed,
                played.calls,
                played.lbm
            ));
            cases.push(played);
        }
        let others = others.part()?;
        let report = Report {
            broken: others::excuse(promise::broken(&cases), others, &mut not_measured),
            others,
            cases,
            settings,
            not_measured,
        };
        self.show(&report)?;
        Ok(report.not_measured.outcome(report.broken.is_empty()))
    }

    fn settings(&self) -> Settings {
        Settings {
            seconds: self.seconds,
            rate: RATE,
            rate_e: RATE_E,
            health: self.health,
            cpu_limit: self.cpu_limit,
            hogs: self.hogs,
            patience: PATIENCE,
            patience_retransmitting: PATIENCE_RETRANSMITTING,
            logs: self.logs.clone(),
        }
    }

    fn runs(&self) -> Vec<Run> {
        Case::ALL
            .into_iter()
            .filter(|case| self.cases.is_empty() || self.cases.contains(case))
            .flat_map(Case::runs)
            .filter(|run| self.boxes.is_empty() || self.boxes.contains(&run.front))
            .collect()
    }

    fn show(&self, report: &Report) -> anyhow::Result<()> {
        for broken in &report.broken {
            say(&format!("not kept: {broken}"));
        }
        report.not_measured.show();
        if self.json {
            println!("{}", serde_json::to_string(report)?);
        } else {
            print!("{}", table::table(report));
        }
        Ok(())
    }
}
