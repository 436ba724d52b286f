//! `SIPp` as caller (UAC) in the client's namespace and as called party (UAS) in the proxies'.
//!
//! ```no_run
//! use sip_forwarder_tests::lab::{Host, Lab};
//! use sip_forwarder_tests::sipp::{CallOptions, Uas, run_calls};
//!
//! # fn main() -> anyhow::Result<()> {
//! let lab = Lab::new(1)?;
//! let options = CallOptions { calls: 200, rate: 200, ..CallOptions::default() };
//! let uas = Uas::start(&lab, Host::Proxy(1), Host::Proxy(1).socket(options.family, 5060))?;
//! let target = Host::Proxy(1).socket(options.family, 5060);
//! let report = run_calls(&lab, &options, target, &[uas.call_log()], &mut |_| {})?;
//! assert_eq!((report.failed, report.split_calls), (0, 0));
//! # Ok(())
//! # }
//! ```

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Serialize;

use crate::calls::{self, BackendCalls, CallLog};
use crate::certificates::Issued;
use crate::lab::process::poll;
use crate::lab::{Family, Host, Lab, Process};
use crate::pace;
use crate::stream::{Target, Transport};
use crate::stunnel::{Side, Stunnel};

const UAC: &str = include_str!("scenarios/uac.xml");
const UAS: &str = include_str!("scenarios/uas.xml");
const STRICT_UAS: &str = include_str!("scenarios/strict_uas.xml");
const PATIENT_UAC: &str = include_str!("scenarios/patient_uac.xml");
const CALLEE: &str = include_str!("scenarios/callee.xml");
const START: Duration = Duration::from_secs(10);
/// More than a second of traffic; the kernel caps it at `net.core.rmem_max`.
const SOCKET_BUFFER: &str = "4194304";
/// T1 of RFC 3261, as the scenarios have it. A scenario does not expect what the other side sends again because an
/// answer came late, so a slow machine has another.
const RETRANSMISSION: Duration = Duration::from_millis(500);
/// What stands before `METHOD Call-ID` in a UAS's log.
const MARKER: &str = "CALL ";
/// `SIPp` ends with 0 when all calls succeeded and with 1 when some failed; all else is a fault of its own.
const RAN: [i32; 2] = [0, 1];

/// Over how many sockets the calls go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sockets {
    /// One for all.
    #[default]
    One,
    /// One for each call.
    PerCall,
}

/// What calls to make.
#[derive(Clone, Copy, Debug)]
pub struct CallOptions {
    /// How many.
    pub calls: u32,
    /// How many to begin per second; fewer on a slow machine, see [`pace`].
    pub rate: u32,
    /// IPv4 or IPv6.
    pub family: Family,
    /// How long a call is held between ACK and BYE.
    pub hold: Duration,
    /// Whether the caller sends again what is not answered (off: one lost packet is one failed call).
    pub retransmit: bool,
    /// When to give up; calls that are not done by then count as failed.
    pub deadline: Duration,
    /// The caller's port.
    pub local_port: u16,
    /// How long to wait for each answer before the call has failed. A caller that has such a limit is patient: it
    /// passes over what comes twice, late or out of turn, where one without gives the call up at once.
    pub patience: Option<Duration>,
    /// Over how many sockets.
    pub sockets: Sockets,
}

impl Default for CallOptions {
    fn default() -> Self {
        Self {
            calls: 100,
            rate: 100,
            family: Family::V4,
            hold: Duration::ZERO,
            retransmit: true,
            deadline: Duration::from_mins(1),
            local_port: 5061,
            patience: None,
            sockets: Sockets::One,
        }
    }
}

/// How far a run is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Calls begun.
    pub created: u64,
    /// Calls that ended well.
    pub successful: u64,
    /// Calls that ended otherwise.
    pub failed: u64,
    /// Requests sent again.
    pub retransmissions: u64,
    /// How long it has been calling.
    pub elapsed: Duration,
}

impl Progress {
    /// Calls that ended.
    #[must_use]
    pub fn completed(&self) -> u64 {
        self.successful + self.failed
    }
}

/// What became of the calls.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CallReport {
    /// Calls begun.
    pub created: u64,
    /// Calls that ended well.
    pub successful: u64,
    /// All others that were asked for: refused, torn, without an answer, or not done at the deadline.
    pub failed: u64,
    /// Requests the caller sent again.
    pub retransmissions: u64,
    /// Calls of which more than one backend saw a request.
    pub split_calls: u64,
    /// Calls per backend.
    pub backends: Vec<BackendCalls>,
    /// How long it took.
    pub seconds: f64,
    /// The same by SIPp's own clock, without its start and its end.
    #[serde(skip)]
    pub elapsed: Duration,
    /// Whether the deadline ended it.
    pub timed_out: bool,
}

/// `SIPp` answering calls in one namespace, until it is dropped.
#[derive(Debug)]
pub struct Uas {
    process: Process,
    log: CallLog,
    /// What gives it TLS.
    _tls: Option<Stunnel>,
}

impl Uas {
    /// Starts it on `address` and waits until it listens.
    pub fn start(lab: &Lab, host: Host, address: SocketAddr) -> Result<Self> {
        Self::start_by(lab, host, address, Transport::Udp)
    }

    /// The same by UDP or TCP.
    pub fn start_by(
        lab: &Lab,
        host: Host,
        address: SocketAddr,
        transport: Transport,
    ) -> Result<Self> {
        let stem = format!("uas-{}-{host}-{}", unique(), address.port());
        let mut command = sipp(lab, host, &stem, UAS, address)?;
        if transport == Transport::Tcp {
            command.args(["-t", "t1"]);
        }
        Self::launch(lab, host, address, &stem, (command, transport))
    }

    /// The same by TLS, with this certificate: a stunnel stands at the address, `SIPp` behind it at a port 1,000
    /// higher.
    pub fn start_tls(
        lab: &Lab,
        host: Host,
        address: SocketAddr,
        certificate: &Issued,
    ) -> Result<Self> {
        let behind = SocketAddr::new(address.ip(), address.port() + 1_000);
        let uas = Self::start_by(lab, host, behind, Transport::Tcp)?;
        let side = Side::Server { certificate };
        let tls = Stunnel::start(lab, host, side, address, behind)?;
        Ok(Self {
            _tls: Some(tls),
            ..uas
        })
    }

    fn launch(
        lab: &Lab,
        host: Host,
        address: SocketAddr,
        stem: &str,
        (mut command, transport): (Command, Transport),
    ) -> Result<Self> {
        let calls = lab.dir().join(format!("{stem}.calls"));
        command.arg("-trace_logs").arg("-log_file").arg(&calls);
        let output = lab.dir().join(format!("{stem}.log"));
        let mut process = Process::start(lab, host, command, &output)?;
        let listens = match transport {
            Transport::Udp => process.wait_for_udp_port(address.port(), START),
            _ => process.wait_for_tcp_port(address.port(), START),
        };
        listens.with_context(|| format!("the SIPp UAS at {address} did not start"))?;
        Ok(Self {
            process,
            log: CallLog::new(host, calls, MARKER),
            _tls: None,
        })
    }

    /// Starts one that answers at once, sends nothing again and keeps no record: as fast as `SIPp` is.
    pub fn start_strict(lab: &Lab, host: Host, address: SocketAddr) -> Result<Self> {
        let stem = format!("strict-{}-{host}-{}", unique(), address.port());
        let mut command = sipp(lab, host, &stem, STRICT_UAS, address)?;
        command.arg("-nr");
        Self::launch(lab, host, address, &stem, (command, Transport::Udp))
    }

    /// The lab's callee: answers whatever is asked, and again when it is asked again. With `retransmit` it repeats a
    /// 200 that is not acknowledged.
    pub fn start_callee(lab: &Lab, address: SocketAddr, retransmit: bool) -> Result<Self> {
        let stem = format!("callee-{}", unique());
        let mut command = sipp(lab, Host::Callee, &stem, CALLEE, address)?;
        command.args(["-default_behaviors", "none"]);
        if !retransmit {
            command.arg("-nr");
        }
        Self::launch(lab, Host::Callee, address, &stem, (command, Transport::Udp))
    }

    /// One on port 5060 of every proxy.
    pub fn start_all(lab: &Lab, family: Family) -> Result<Vec<Self>> {
        (1..=lab.proxies())
            .map(Host::Proxy)
            .map(|host| Self::start(lab, host, lab.socket(host, family, 5060)))
            .collect()
    }

    /// Which calls it saw since it was started.
    #[must_use]
    pub fn call_log(&self) -> CallLog {
        self.log.clone()
    }

    /// The process, to kill it in the middle of something.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}

/// A caller that is under way. Dropping it ends it.
#[derive(Debug)]
pub struct Uac {
    process: Process,
    statistics: PathBuf,
    errors: PathBuf,
    options: CallOptions,
    started: Instant,
    /// What gives it TLS.
    _tls: Option<Stunnel>,
}

impl Uac {
    /// Starts calling `target` by UDP from the client's namespace.
    pub fn start(lab: &Lab, options: &CallOptions, target: SocketAddr) -> Result<Self> {
        let target = Target {
            transport: Transport::Udp,
            address: target,
            tls: None,
        };
        Self::start_by(lab, options, &target)
    }

    /// The same by UDP, TCP or TLS. TLS is done by a stunnel beside `SIPp`, which verifies the server's certificate.
    pub fn start_by(lab: &Lab, options: &CallOptions, target: &Target) -> Result<Self> {
        let stem = format!("uac-{}", unique());
        let file = |kind: &str| lab.dir().join(format!("{stem}.{kind}"));
        let own = lab.socket(Host::Client, options.family, options.local_port);
        let scenario = options.patience.map_or(UAC, |_| PATIENT_UAC);
        let in_via = format!("SIP/2.0/{}", target.transport.in_via());
        let scenario = scenario.replace("SIP/2.0/[transport]", &in_via);
        let mut command = sipp(lab, Host::Client, &stem, &scenario, own)?;
        let tls = connect(lab, options, target, &mut command)?;
        command
            .args(["-m", &options.calls.to_string()])
            .args(["-l", &options.calls.to_string()])
            .args(["-r", &pace::rate(options.rate).to_string()])
            .args(["-d", &options.hold.as_millis().to_string()])
            .args(["-trace_stat", "-fd", "200ms", "-stf"])
            .arg(file("csv"))
            .args(["-trace_err", "-error_file"])
            .arg(file("errors"));
        if !options.retransmit {
            command.arg("-nr");
        }
        if let Some(patience) = options.patience {
            command
                .args(["-default_behaviors", "none", "-recv_timeout"])
                .arg(pace::limit(patience).as_millis().to_string());
        }
        command.arg(target.address.to_string());
        Ok(Self {
            _tls: tls,
            process: Process::start(lab, Host::Client, command, &file("log"))?,
            statistics: file("csv"),
            errors: file("errors"),
            options: *options,
            started: Instant::now(),
        })
    }

    /// How far it is by the statistics, which `SIPp` writes five times a second. Zeroes before the first.
    #[must_use]
    pub fn progress(&self) -> Progress {
        fs::read_to_string(&self.statistics)
            .ok()
            .and_then(|csv| parse_statistics(&csv))
            .unwrap_or_default()
    }

    /// The file in which `SIPp` says what was unexpected. It exists once something was.
    #[must_use]
    pub fn errors(&self) -> &Path {
        &self.errors
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Waits for the end of the calls or the deadline, telling `progress` whenever the numbers change. Backends are
    /// not counted here: [`run_calls`] does both.
    pub fn finish(mut self, progress: &mut dyn FnMut(Progress)) -> Result<CallReport> {
        let mut last = Progress::default();
        let left = self.options.deadline.saturating_sub(self.started.elapsed());
        let ended = poll(left, || {
            let ended = self.process.ended()?;
            let now = self.progress();
            if now != last {
                progress(now);
                last = now;
            }
            Ok(ended)
        })?;
        let seconds = self.started.elapsed().as_secs_f64();
        match ended {
            Some(status) => self.check_exit(status)?,
            None => self.process.kill()?,
        }
        let end = self.progress();
        Ok(CallReport {
            created: end.created,
            successful: end.successful,
            failed: u64::from(self.options.calls).saturating_sub(end.successful),
            retransmissions: end.retransmissions,
            split_calls: 0,
            backends: Vec::new(),
            seconds,
            elapsed: end.elapsed,
            timed_out: ended.is_none(),
        })
    }

    fn check_exit(&self, status: ExitStatus) -> Result<()> {
        if status.code().is_some_and(|code| RAN.contains(&code)) {
            return Ok(());
        }
        let errors = fs::read_to_string(&self.errors).unwrap_or_default();
        bail!(
            "the SIPp UAC did not run ({status}); its output ends with\n{}\n{}",
            self.process.log_tail(),
            errors.lines().take(5).collect::<Vec<_>>().join("\n")
        )
    }
}

/// Makes calls to `target` and afterwards reads in the backends' logs who got them.
pub fn run_calls(
    lab: &Lab,
    options: &CallOptions,
    target: SocketAddr,
    backends: &[CallLog],
    progress: &mut dyn FnMut(Progress),
) -> Result<CallReport> {
    let report = Uac::start(lab, options, target)?.finish(progress)?;
    report.with_backends(backends)
}

impl CallReport {
    /// The same report with what the backends' logs say.
    pub fn with_backends(mut self, backends: &[CallLog]) -> Result<Self> {
        let seen = backends
            .iter()
            .map(CallLog::read)
            .collect::<Result<Vec<_>>>()?;
        self.split_calls = calls::split(&seen).len() as u64;
        self.backends = calls::per_backend(&seen);
        Ok(self)
    }
}

/// Tells `SIPp` by what it speaks to whom; starts a stunnel if that is TLS.
fn connect(
    lab: &Lab,
    options: &CallOptions,
    target: &Target,
    command: &mut Command,
) -> Result<Option<Stunnel>> {
    let (socket, stream) = match options.sockets {
        Sockets::One => ("u1", "t1"),
        Sockets::PerCall => ("un", "tn"),
    };
    match target.transport {
        Transport::Udp => command.args(["-t", socket]),
        Transport::Tcp | Transport::Tls => {
            // One socket for each of many calls; SIPp's own limit is lower.
            command.args(["-t", stream, "-max_socket", "50000"])
        }
        Transport::Ws | Transport::Wss => bail!("SIPp speaks no WebSocket"),
    };
    let Some(tls) = target
        .tls
        .as_ref()
        .filter(|_| target.transport == Transport::Tls)
    else {
        return Ok(None);
    };
    let port = options.local_port + 1_000;
    let near = lab.socket(Host::Client, options.family, port);
    let side = Side::Client {
        authority: &tls.authority,
    };
    let stunnel = Stunnel::start(lab, Host::Client, side, near, target.address)?;
    // Its URIs stay those of the target.
    command.arg("-rsa").arg(near.to_string());
    Ok(Some(stunnel))
}

/// Makes calls by any transport that `SIPp` speaks, and afterwards reads in the backends' logs who got them.
pub fn run_calls_by(
    lab: &Lab,
    options: &CallOptions,
    target: &Target,
    backends: &[CallLog],
    progress: &mut dyn FnMut(Progress),
) -> Result<CallReport> {
    let report = Uac::start_by(lab, options, target)?.finish(progress)?;
    report.with_backends(backends)
}

/// A number for the files of one start, so that a restarted backend does not write over what it saw before.
pub(crate) fn unique() -> u32 {
    static STARTS: AtomicU32 = AtomicU32::new(0);
    STARTS.fetch_add(1, Ordering::Relaxed)
}

/// `SIPp` with what both ends have in common.
fn sipp(lab: &Lab, host: Host, stem: &str, scenario: &str, own: SocketAddr) -> Result<Command> {
    let file = lab.dir().join(format!("{stem}.xml"));
    let first = pace::limit(RETRANSMISSION).as_millis();
    let scenario = scenario.replace("retrans=\"500\"", &format!("retrans=\"{first}\""));
    fs::write(&file, scenario).with_context(|| format!("cannot write {}", file.display()))?;
    let mut command = lab.command(host, "sipp")?;
    command
        .current_dir(lab.dir())
        .env("TERM", "dumb")
        .arg("-sf")
        .arg(&file)
        .args(["-i", &own.ip().to_string()])
        .args(["-mi", &own.ip().to_string()])
        .args(["-p", &own.port().to_string()])
        .args(["-buff_size", SOCKET_BUFFER])
        .args(["-nostdin", "-skip_rlimit"]);
    if pace::slowdown() > 1 {
        // A request that is sent again because its answer came late must not end the call.
        command.args(["-default_behaviors", "all,-abortunexp"]);
    }
    Ok(command)
}

/// The last full line of `SIPp`'s statistics, by the names in the first.
fn parse_statistics(csv: &str) -> Option<Progress> {
    // What follows the last line break is being written.
    let (full, _) = csv.rsplit_once('\n')?;
    let mut lines = full.lines();
    let names: Vec<_> = lines.next()?.split(';').collect();
    let values: Vec<_> = lines.next_back()?.split(';').collect();
    let text = |name| -> Option<&str> {
        let column = names.iter().position(|known| *known == name)?;
        values.get(column).copied()
    };
    let field = |name| -> Option<u64> { text(name)?.parse().ok() };
    // Date, time, and the seconds since 1970.
    let clock = |name| -> Option<f64> { text(name)?.rsplit('\t').next()?.parse().ok() };
    let elapsed = clock("CurrentTime")? - clock("StartTime")?;
    Some(Progress {
        elapsed: Duration::try_from_secs_f64(elapsed).ok()?,
        created: field("TotalCallCreated")?,
        successful: field("SuccessfulCall(C)")?,
        failed: field("FailedCall(C)")?,
        retransmissions: field("Retransmissions(C)")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_are_read_by_name_from_the_last_full_line() {
        let csv = "StartTime;CurrentTime;TotalCallCreated;SuccessfulCall(C);FailedCall(C);Retransmissions(C);\n\
                   d\tt\t1.0;d\tt\t1.5;5;2;1;0;\nd\tt\t1.0;d\tt\t2.5;9;7;1;3;\nd\tt\t1.0;d\tt";
        let expected = Progress {
            created: 9,
            successful: 7,
            failed: 1,
            retransmissions: 3,
            elapsed: Duration::from_millis(1_500),
        };
        assert_eq!(parse_statistics(csv), Some(expected));
        assert_eq!(parse_statistics("Time;Total"), None);
    }
}
