//! What is timed in each round, with one program or with two, and how long it took.

use std::path::Path;

use anyhow::{Context as _, ensure};
use sip_forwarder_tests::{baseline::Baseline, frames::UdpFrame, lab::Family, messages};

use super::{
    REPEAT,
    mixed::{self, Dice, InTurn},
    packets::{self, suffix},
    subject::Subject,
};
use crate::bench::timings::Timings;

/// What is timed.
enum What {
    /// Frames, each in runs of its own; the mean counts.
    Alone(Vec<Vec<u8>>),
    /// Many frames in turn.
    InTurn(InTurn),
}

/// A case and its rounds, by program.
pub(super) struct Timed {
    pub(super) name: String,
    what: What,
    pub(super) timings: Vec<Timings>,
}

/// All cases, the programs they are timed with, and the baseline.
pub(super) struct Cases {
    subjects: Vec<Subject>,
    baseline: Baseline,
    pub(super) timed: Vec<Timed>,
    pub(super) baseline_timings: Timings,
    dice: Dice,
}

impl Cases {
    /// Makes all cases. Fails if one of the programs does not take each packet by its fast path.
    pub(super) fn new(
        subjects: Vec<Subject>,
        baseline: Baseline,
        helpers: &Path,
    ) -> anyhow::Result<Self> {
        let mut timed = Vec::new();
        for family in [Family::V4, Family::V6] {
            for packet in packets::single(family) {
                for subject in &subjects {
                    subject.check(&packet)?;
                }
                timed.push((packet.name, What::Alone(vec![packet.frame])));
            }
            let frames = mixed::frames(family);
            check_all(&subjects, &frames)?;
            let in_turn = InTurn::load(helpers, &frames, &subjects, &baseline)?;
            let name = |name: &str| format!("{name}{}", suffix(family));
            timed.push((name("mixed"), What::Alone(frames)));
            timed.push((name("mixed-in-turn"), What::InTurn(in_turn)));
        }
        let timings = vec![Timings::default(); subjects.len()];
        Ok(Self {
            subjects,
            baseline,
            timed: timed
                .into_iter()
                .map(|(name, what)| Timed {
                    name,
                    what,
                    timings: timings.clone(),
                })
                .collect(),
            baseline_timings: Timings::default(),
            dice: Dice::default(),
        })
    }

    /// The present program.
    pub(super) fn present(&self) -> anyhow::Result<&Subject> {
        self.subjects.first().context("there is no program to time")
    }

    /// Attaches each program to an interface of its own, so that test runs begin soon. The links have no traffic.
    pub(super) fn attach(&mut self, interfaces: &[&str]) -> anyhow::Result<()> {
        for (subject, interface) in self.subjects.iter_mut().zip(interfaces) {
            subject.attach(interface)?;
        }
        Ok(())
    }

    /// Times every case once with each program, cases and programs in a random order.
    pub(super) fn round(&mut self) -> anyhow::Result<()> {
        let frame = UdpFrame::new(
            packets::client(Family::V4),
            packets::service(Family::V4),
            messages::sipp_invite(),
        )
        .build();
        let baseline_ns = self.baseline.time(&frame, REPEAT)?.as_nanos() as f64;
        self.baseline_timings.push(baseline_ns);
        let mut order: Vec<usize> = (0..self.timed.len()).collect();
        self.dice.shuffle(&mut order);
        for at in order {
            let case = &mut self.timed[at];
            let times = case
                .what
                .times(&self.subjects, baseline_ns, &mut self.dice)?;
            for (timings, time) in case.timings.iter_mut().zip(times) {
                timings.push(time);
            }
        }
        Ok(())
    }
}

impl What {
    /// Returns the nanoseconds that each program takes for a packet.
    fn times(
        &self,
        subjects: &[Subject],
        baseline_ns: f64,
        dice: &mut Dice,
    ) -> anyhow::Result<Vec<f64>> {
        let mut times = vec![0.0; subjects.len()];
        let mut order: Vec<usize> = (0..subjects.len()).collect();
        match self {
            Self::Alone(frames) => {
                for frame in frames {
                    dice.shuffle(&mut order);
                    for &at in &order {
                        times[at] += subjects[at].time(frame, REPEAT)? / frames.len() as f64;
                    }
                }
            }
            Self::InTurn(packets) => {
                let unread = packets.baseline(REPEAT)?;
                dice.shuffle(&mut order);
                for &at in &order {
                    times[at] = packets.time(at, REPEAT)? - unread + baseline_ns;
                }
            }
        }
        Ok(times)
    }
}

fn check_all(subjects: &[Subject], frames: &[Vec<u8>]) -> anyhow::Result<()> {
    for subject in subjects {
        for (n, frame) in frames.iter().enumerate() {
            ensure!(
                subject.forwards(frame)?,
                "packet {n} of {}: the fast path did not take it",
                frames.len()
            );
        }
    }
    Ok(())
}
