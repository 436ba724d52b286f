//! Processes that run in a lab, and waiting for a condition with a deadline.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::{Host, Lab};
use crate::pace;

const POLL: Duration = Duration::from_millis(10);
const LOG_TAIL_LINES: usize = 20;

/// A process in one namespace of a lab, with its output in a file. It is killed when the value is dropped.
#[derive(Debug)]
pub struct Process {
    what: String,
    child: Child,
    log: PathBuf,
    lab: Lab,
}

impl Process {
    /// Starts `command` (from [`Lab::command`]) without a terminal; stdout and stderr are appended to `log`.
    pub fn start(lab: &Lab, host: Host, mut command: Command, log: &Path) -> Result<Self> {
        let program = Path::new(command.get_program())
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let what = format!("{program} in {host}");
        let file = append(log)?;
        let child = command
            .stdin(Stdio::null())
            .stderr(file.try_clone().context("cannot share a log file")?)
            .stdout(file)
            .spawn()
            .with_context(|| format!("cannot start {what}; is {program} installed?"))?;
        lab.track(child.id());
        Ok(Self {
            what,
            child,
            log: log.to_owned(),
            lab: lab.clone(),
        })
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has written to stdout and stderr.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// The last lines it has written, for an error message.
    #[must_use]
    pub fn log_tail(&self) -> String {
        tail(&self.log)
    }

    /// How it ended, or `None` while it runs.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        let status = self
            .child
            .try_wait()
            .with_context(|| format!("waiting for {} failed", self.what))?;
        if status.is_some() {
            self.lab.untrack(self.pid());
        }
        Ok(status)
    }

    /// Waits until it ends by itself; `None` if it still runs at the deadline.
    pub fn wait(&mut self, deadline: Duration) -> Result<Option<ExitStatus>> {
        poll(deadline, || self.ended())
    }

    /// Waits for `condition`; fails with the end of the log if the process ends first or the deadline passes.
    pub fn wait_until(
        &mut self,
        condition: &str,
        deadline: Duration,
        mut holds: impl FnMut() -> Result<bool>,
    ) -> Result<()> {
        let outcome = poll(deadline, || {
            if let Some(status) = self.ended()? {
                return Ok(Some(Err(status)));
            }
            Ok(holds()?.then_some(Ok(())))
        })?;
        let fault = match outcome {
            Some(Ok(())) => return Ok(()),
            Some(Err(status)) => format!("ended ({status}) before"),
            None => format!("was given {} s until", deadline.as_secs_f32()),
        };
        bail!(
            "{} {fault} it {condition}; its log ends with\n{}",
            self.what,
            self.log_tail()
        )
    }

    /// Waits until a UDP socket of its namespace is bound to `port`.
    pub fn wait_for_udp_port(&mut self, port: u16, deadline: Duration) -> Result<()> {
        let pid = self.pid();
        self.wait_until(&format!("listens on UDP port {port}"), deadline, || {
            Ok(udp_ports(pid).contains(&port))
        })
    }

    /// Waits until a TCP socket of its namespace listens on `port`.
    pub fn wait_for_tcp_port(&mut self, port: u16, deadline: Duration) -> Result<()> {
        let pid = self.pid();
        self.wait_until(&format!("listens on TCP port {port}"), deadline, || {
            Ok(listening_tcp_ports(pid).contains(&port))
        })
    }

    /// SIGKILL, and waits for it.
    pub fn kill(&mut self) -> Result<()> {
        if self.ended()?.is_none() {
            signal(self.pid(), libc::SIGKILL);
            self.child
                .wait()
                .with_context(|| format!("waiting for {} failed", self.what))?;
            self.lab.untrack(self.pid());
        }
        Ok(())
    }

    /// Sends a signal if it still runs.
    pub fn send_signal(&mut self, number: i32) -> Result<()> {
        if self.ended()?.is_none() {
            signal(self.pid(), number);
        }
        Ok(())
    }

    /// SIGTERM, and waits for it; a process that is still there at the deadline is killed, and that is an error.
    pub fn terminate(&mut self, deadline: Duration) -> Result<ExitStatus> {
        self.send_signal(libc::SIGTERM)?;
        if let Some(status) = self.wait(deadline)? {
            return Ok(status);
        }
        self.kill()?;
        bail!(
            "{} did not end within {} s of SIGTERM and was killed; its log ends with\n{}",
            self.what,
            deadline.as_secs_f32(),
            self.log_tail()
        )
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Err(error) = self.kill() {
            eprintln!("lab: {error:#}");
        }
    }
}

/// Asks `step` until it gives something; `None` when the deadline passes first, which is later on a slow machine (see
/// [`pace`]). It is asked at least once.
pub fn poll<T>(
    deadline: Duration,
    mut step: impl FnMut() -> Result<Option<T>>,
) -> Result<Option<T>> {
    let end = Instant::now() + pace::limit(deadline);
    loop {
        if let Some(found) = step()? {
            return Ok(Some(found));
        }
        if Instant::now() >= end {
            return Ok(None);
        }
        thread::sleep(POLL);
    }
}

/// Runs a command to its end and returns its output; kills it at the deadline.
pub fn output_within(mut command: Command, deadline: Duration) -> Result<Output> {
    let what = format!("{command:?}");
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {what}"))?;
    let pid = child.id();
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || sender.send(child.wait_with_output()));
    if let Ok(output) = receiver.recv_timeout(pace::limit(deadline)) {
        return output.with_context(|| format!("waiting for {what} failed"));
    }
    signal(pid, libc::SIGKILL);
    bail!("{what} took longer than {} s", deadline.as_secs_f32())
}

/// The last lines of a text file; says so if it cannot be read.
#[must_use]
pub fn tail(path: &Path) -> String {
    let text = match fs::read(path) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) => return format!("({} cannot be read: {error})", path.display()),
    };
    let lines: Vec<_> = text.lines().collect();
    if lines.is_empty() {
        return format!("({} is empty)", path.display());
    }
    lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n")
}

/// Opens a file for appending, and makes it if need be.
fn append(path: &Path) -> Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .with_context(|| format!("cannot write {}", path.display()))
}

/// Sends a signal to one process. A process that is gone is no fault.
pub(super) fn signal(pid: u32, number: i32) {
    if let Ok(pid @ 1..) = i32::try_from(pid) {
        // SAFETY: kill takes plain numbers; a positive pid means one process.
        unsafe { libc::kill(pid, number) };
    }
}

/// The UDP ports bound in the namespace of a process.
fn udp_ports(pid: u32) -> Vec<u16> {
    lines_of(pid, ["udp", "udp6"])
        .iter()
        .filter_map(|line| local_port(line))
        .collect()
}

/// The TCP ports that somebody in the namespace of a process listens on.
fn listening_tcp_ports(pid: u32) -> Vec<u16> {
    lines_of(pid, ["tcp", "tcp6"])
        .iter()
        .filter(|line| line.split_whitespace().nth(3) == Some(LISTENING))
        .filter_map(|line| local_port(line))
        .collect()
}

/// The state of a listening socket in `/proc/net/tcp`.
const LISTENING: &str = "0A";

/// The lines of these tables of the namespace of a process.
fn lines_of(pid: u32, tables: [&str; 2]) -> Vec<String> {
    tables
        .iter()
        .filter_map(|table| fs::read_to_string(format!("/proc/{pid}/net/{table}")).ok())
        .flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>())
        .collect()
}

/// `  12: 0201D20A:13C4 00000000:0000 07 …` → 5060
fn local_port(line: &str) -> Option<u16> {
    let (_address, port) = line.split_whitespace().nth(1)?.rsplit_once(':')?;
    u16::from_str_radix(port, 16).ok()
}
