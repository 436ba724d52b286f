//! `baresip`, a phone without screen or sound. What it does is told by what it prints.

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::kamailio::{InUri, write};
use crate::lab::{Family, Host, Lab, Process};
use crate::sipp::unique;
use crate::stream::Transport;

/// Registering and calling take milliseconds here; a request that is sent again takes seconds.
const DONE: Duration = Duration::from_secs(15);
/// How long it may take to take leave of its peer and of the registrar.
const END: Duration = Duration::from_secs(10);

/// The end of `200 OK (server) [1 binding]`.
const REGISTERED: &str = "binding]";
const ESTABLISHED: &str = "Call established: ";
const CLOSED: &str = "session closed";

/// A phone's owner and what the phone does by itself.
#[derive(Clone, Copy, Debug)]
pub struct Line<'a> {
    /// The user who is registered at the VIP.
    pub user: &'a str,
    /// The phone's port.
    pub port: u16,
    /// Whom it calls as soon as it runs. One that calls nobody answers at once.
    pub calls: Option<&'a str>,
    /// Where it is.
    pub host: Host,
    /// By what it speaks to the VIP: UDP, TCP or TLS. (TLS has the next port.)
    pub transport: Transport,
    /// With TLS, the authority that it trusts.
    pub authority: Option<&'a Path>,
}

impl Default for Line<'_> {
    fn default() -> Self {
        Self {
            user: "alice",
            port: 5070,
            calls: None,
            host: Host::Client,
            transport: Transport::Udp,
            authority: None,
        }
    }
}

/// A phone, until dropped.
#[derive(Debug)]
pub struct Baresip {
    process: Process,
}

impl Baresip {
    /// Starts a phone that registers at the VIP, and waits until it is registered.
    pub fn start(lab: &Lab, line: &Line<'_>) -> Result<Self> {
        let stem = format!("baresip-{}-{}", unique(), line.user);
        let folder = lab.dir().join(&stem);
        configure(lab, line, &folder)?;
        let mut command = lab.command(line.host, "baresip")?;
        command.arg("-4").arg("-f").arg(&folder);
        if let Some(called) = line.calls {
            let dial = format!("/dial {}", uri(lab, called, line.transport));
            command.arg("-e").arg(dial);
        }
        let log = lab.dir().join(format!("{stem}.log"));
        let process = Process::start(lab, line.host, command, &log)?;
        let mut phone = Self { process };
        phone.wait_for_words(REGISTERED)?;
        Ok(phone)
    }

    /// Waits until its call is up; fails at once if the call is refused.
    pub fn wait_established(&mut self) -> Result<()> {
        self.wait_for_words(ESTABLISHED)
    }

    /// Waits until its call is over.
    pub fn wait_closed(&mut self) -> Result<()> {
        self.wait_for_words(CLOSED)
    }

    /// Ends the phone: it hangs up, takes back its registration and goes.
    pub fn hang_up(&mut self) -> Result<()> {
        let status = self.process.terminate(END)?;
        ensure!(
            status.success(),
            "baresip ended with {status}; its log ends with\n{}",
            self.process.log_tail()
        );
        Ok(())
    }

    /// What became of its calls, in its own words.
    pub fn outcome(&self) -> Result<Vec<String>> {
        let text = read(self.process.log())?;
        Ok(text.lines().filter_map(event).collect())
    }

    fn wait_for_words(&mut self, words: &str) -> Result<()> {
        let log = self.process.log().to_owned();
        self.process
            .wait_until(&format!("says `{words}`"), DONE, || {
                let text = read(&log)?;
                ensure!(
                    words == CLOSED || !text.contains(CLOSED),
                    "the call ended before the phone says `{words}`:\n{text}"
                );
                Ok(text.contains(words))
            })
    }
}

/// The event that a line tells of, without what differs from run to run (the duration, the colours).
fn event(line: &str) -> Option<String> {
    let found = [ESTABLISHED, CLOSED]
        .iter()
        .find_map(|words| line.find(words))?;
    let text = &line[found..];
    let end = text.find('\u{1b}').unwrap_or(text.len());
    Some(text[..end].trim_end().to_owned())
}

fn read(log: &Path) -> Result<String> {
    let bytes = fs::read(log).with_context(|| format!("cannot read {}", log.display()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn uri(lab: &Lab, user: &str, transport: Transport) -> String {
    let vip = InUri(lab.vip(Family::V4));
    match transport {
        Transport::Udp => format!("sip:{user}@{vip}"),
        other => format!("sip:{user}@{vip};transport={other}"),
    }
}

fn configure(lab: &Lab, line: &Line<'_>, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let own = lab.socket(line.host, Family::V4, line.port);
    let mut text = config(line.user, own);
    if let Some(authority) = line.authority {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "sip_cafile {}", authority.display());
    }
    write(&folder.join("config"), &text)?;
    let answers = if line.calls.is_some() {
        "manual"
    } else {
        "auto"
    };
    // Without a password it would ask for one; no one asks for it in turn.
    let account = format!(
        "<{}>;regint=600;auth_pass=none;answermode={answers}\n",
        uri(lab, line.user, line.transport)
    );
    write(&folder.join("accounts"), &account)?;
    // If it is missing, baresip writes one with examples in it.
    write(&folder.join("contacts"), "")
}

/// A bridge named after the user hands the phone's own sound back to it, so no sound card is needed.
fn config(user: &str, own: SocketAddr) -> String {
    format!(
        "sip_listen {own}\n\
         module_path /usr/lib/baresip/modules\n\
         module g711.so\n\
         module aubridge.so\n\
         module_tmp account.so\n\
         module_app menu.so\n\
         audio_source aubridge,{user}\n\
         audio_player aubridge,{user}\n\
         audio_alert aubridge,{user}-alert\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_told_without_colours_and_durations() {
        let line = "\u{1b}[32msip:bob@192.0.2.1: Call established: sip:bob@192.0.2.1\u{1b}[;m";
        assert_eq!(
            event(line).as_deref(),
            Some("Call established: sip:bob@192.0.2.1")
        );
        assert_eq!(
            event("Call with sip:a@b terminated (duration: 2 secs)"),
            None
        );
    }
}
