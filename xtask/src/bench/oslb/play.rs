//! One run: calls, the fault in the middle of them, and the proxies' CPU meanwhile.

use std::{
    net::SocketAddr,
    sync::mpsc::{Receiver, channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow};
use serde::Serialize;
use sip_forwarder_tests::{
    kamailio::PORT,
    lab::{Host, vip},
    load::{self, Sampler},
    sipp::{CallOptions, CallReport, Uac},
};

use super::{
    Settings,
    plan::{Fault, Run},
    room::{Programs, Room},
};

/// The proxy that suffers.
const VICTIM: Host = Host::Proxy(1);
/// How long a call lasts.
const HOLD: Duration = Duration::from_secs(1);

/// What became of a run.
#[derive(Debug, Serialize)]
pub(super) struct Outcome {
    #[serde(flatten)]
    pub(super) run: Run,
    pub(super) calls: u64,
    pub(super) failed: u64,
    pub(super) lbm: f64,
    /// Mean load of each proxy while it was in service, as a part of one core.
    pub(super) cpu: Vec<f64>,
    /// Requests the caller sent again.
    pub(super) retransmissions: u64,
}

/// Plays it in a lab of its own.
pub(super) fn play(
    programs: Programs<'_>,
    run: Run,
    settings: &Settings,
) -> anyhow::Result<Outcome> {
    let mut room = Room::start(programs, run, settings)?;
    let options = options(run, settings);
    let target = SocketAddr::new(vip(options.family), PORT);
    let uac = Uac::start(&room.lab, &options, target)?;
    let cpu = Sampler::start(room.servers())?;
    let (over, ended) = channel::<()>();
    let (report, samples) = thread::scope(|scope| {
        let fault = scope.spawn(|| {
            let clock = Clock {
                start: Instant::now(),
                ended,
            };
            strike(&clock, run.fault, settings, &mut room, &cpu)?;
            // What comes after the last call began is the tail of calls, not load.
            clock.wait(settings.time());
            anyhow::Ok(())
        });
        let report = uac.finish(&mut |_| {});
        drop(over);
        let struck = fault
            .join()
            .map_err(|_| anyhow!("the thread of the fault panicked"))?;
        struck.and(report)
    })
    .with_context(|| run.to_string())
    .and_then(|report| Ok((report, cpu.finish()?)))?;
    if let Some(folder) = &settings.logs {
        room.lab.keep_files(&folder.join(run.to_string()))?;
    }
    Ok(outcome(run, settings, &report, &samples))
}

fn options(run: Run, settings: &Settings) -> CallOptions {
    let rate = settings.rate(run.case);
    let patience = if run.retransmission {
        settings.patience_retransmitting
    } else {
        settings.patience
    };
    CallOptions {
        calls: rate * settings.seconds,
        rate,
        hold: HOLD,
        retransmit: run.retransmission,
        deadline: settings.time() + HOLD + patience * 4,
        patience: Some(patience),
        ..CallOptions::default()
    }
}

/// The time since the calls began.
struct Clock {
    start: Instant,
    /// Cut off once the calls are over.
    ended: Receiver<()>,
}

impl Clock {
    /// Waits for a time of the run, or its end if that is earlier.
    fn wait(&self, at: Duration) {
        // Nobody sends: this ends with the time, or with the other end.
        let _ = self
            .ended
            .recv_timeout(at.saturating_sub(self.start.elapsed()));
    }
}

fn strike(
    clock: &Clock,
    fault: Fault,
    settings: &Settings,
    room: &mut Room,
    sampler: &Sampler,
) -> anyhow::Result<()> {
    let third = settings.time() / 3;
    match fault {
        Fault::None => {}
        Fault::Process => {
            clock.wait(third);
            sampler.retire(VICTIM);
            room.proxies[0].kill()?;
        }
        Fault::Host => {
            clock.wait(third);
            sampler.retire(VICTIM);
            room.lab.cut(VICTIM)?;
        }
        Fault::Hog => {
            clock.wait(third);
            let hogs = room.groups[0].hog(&room.lab, VICTIM, settings.hogs)?;
            clock.wait(third * 2);
            drop(hogs);
        }
    }
    Ok(())
}

fn outcome(
    run: Run,
    settings: &Settings,
    report: &CallReport,
    samples: &[load::Sample],
) -> Outcome {
    let under_load = &samples[..samples.len().min(settings.seconds as usize)];
    Outcome {
        run,
        calls: report.successful + report.failed,
        failed: report.failed,
        lbm: load::balance(under_load).unwrap_or_default(),
        cpu: load::means(under_load),
        retransmissions: report.retransmissions,
    }
}
