//! Calls over TCP at a fixed rate, alone and beside attackers.

use std::{fmt, net::SocketAddr, time::Duration};

use anyhow::{Context as _, ensure};
use serde::Serialize;
use sip_forwarder_tests::{
    flood::pin_processes,
    lab::{Host, Lab, process::poll, process_tree, vip},
    sipp::Uas,
    stream::{
        Transport,
        hostile::{Attack, Attackers},
        load::{Load, LoadOptions},
    },
};

use super::{BOX_CORE, FAMILY, streams::ours};
use crate::shell::say;

/// Calls that begin each second.
const RATE: u32 = 300;
/// For so many seconds.
const SECONDS: u32 = 8;
/// How long calls may take after the last one began.
const GRACE: Duration = Duration::from_secs(10);
/// Attackers of each kind.
const SLOW: usize = 500;
const GARBAGE: usize = 50;
/// How long all attackers may take to connect.
const AT_WORK: Duration = Duration::from_secs(10);

/// The same calls, alone and attacked.
#[derive(Serialize)]
pub(super) struct Attacked {
    transport: &'static str,
    /// Calls that were to begin each second.
    rate: u32,
    without: Calls,
    with: Calls,
    /// Connections that attackers had at a time.
    attackers: usize,
    /// Bytes of garbage that the kernel took from them each second.
    garbage_bytes_per_s: f64,
    /// How much memory the daemon had more while attacked, in MB.
    memory_mb: f64,
}

/// What became of calls.
#[derive(Clone, Copy, Serialize)]
struct Calls {
    calls_per_s: f64,
    failed: u64,
}

impl fmt::Display for Attacked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "attack     {}  {:.0} calls/s, {} failed; beside {} attackers ({:.1} MB/s of garbage) {:.0} calls/s, {} failed, {:.1} MB more",
            self.transport,
            self.without.calls_per_s,
            self.without.failed,
            self.attackers,
            self.garbage_bytes_per_s / 1e6,
            self.with.calls_per_s,
            self.with.failed,
            self.memory_mb
        )
    }
}

pub(super) fn measure() -> anyhow::Result<Attacked> {
    say("measuring calls beside attackers");
    let lab = Lab::with_callee(1)?;
    let transport = Transport::Tcp;
    let (daemon, target) = ours(&lab, transport)?;
    let pid = daemon.pid().context("the daemon has ended")?;
    pin_processes(&[pid], BOX_CORE)?;
    let host = Host::Proxy(1);
    let _answering = Uas::start(&lab, host, host.socket(FAMILY, 5060))?;
    let calls = || -> anyhow::Result<Calls> {
        let options = LoadOptions {
            calls: RATE * SECONDS,
            rate: RATE,
            connections: 100,
            hold: Duration::from_millis(100),
            deadline: Duration::from_secs(SECONDS.into()) + GRACE,
        };
        let report = Load::start(&lab, Host::Client, &target, &options)?.finish(&mut |_| {})?;
        Ok(Calls {
            calls_per_s: report.calls.successful as f64 / report.calls.seconds,
            failed: report.calls.failed,
        })
    };
    let memory = || process_tree::resident(pid).context("the daemon has ended");
    let without = calls()?;
    let before = memory()?;
    let address = SocketAddr::new(vip(FAMILY), transport.port());
    let attack = |attack, count| Attackers::start(&lab, Host::Callee, address, attack, count);
    let slow = attack(Attack::Slowloris, SLOW)?;
    let garbage = attack(Attack::Garbage, GARBAGE)?;
    let at_work = poll(AT_WORK, || {
        let all = slow.opened() >= SLOW as u64 && garbage.opened() >= GARBAGE as u64;
        Ok(all.then_some(()))
    })?;
    ensure!(
        at_work.is_some(),
        "the attackers cannot connect: {slow:?} {garbage:?}"
    );
    let (begin, bytes) = (std::time::Instant::now(), garbage.bytes());
    let with = calls()?;
    let garbage_bytes_per_s = (garbage.bytes() - bytes) as f64 / begin.elapsed().as_secs_f64();
    Ok(Attacked {
        transport: transport.name(),
        rate: RATE,
        without,
        with,
        attackers: SLOW + GARBAGE,
        garbage_bytes_per_s,
        memory_mb: memory()?.saturating_sub(before) as f64 / 1e6,
    })
}
