//! Which backend saw which call, from the logs that `SIPp` and Kamailio keep.
//!
//! Each backend appends one line per request: `METHOD Call-ID`, and Kamailio the time behind it. Reading them afterwards says how many calls each
//! backend got and how many calls were torn, that is seen by more than one.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::lab::Host;

/// The log of one backend.
#[derive(Clone, Debug)]
pub struct CallLog {
    host: Host,
    path: PathBuf,
    /// What stands before `METHOD Call-ID` in a line that counts.
    marker: &'static str,
}

/// What one backend's log says.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The backend.
    pub host: Host,
    /// Call-IDs of which it saw an INVITE.
    pub started: HashSet<String>,
    /// Call-IDs of which it saw any request.
    pub touched: HashSet<String>,
}

/// The calls of one backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BackendCalls {
    /// The backend, as in `p1`.
    pub name: String,
    /// Distinct Call-IDs of which it saw an INVITE.
    pub calls: usize,
}

impl CallLog {
    pub(crate) fn new(host: Host, path: PathBuf, marker: &'static str) -> Self {
        Self { host, path, marker }
    }

    /// The backend this is the log of.
    #[must_use]
    pub fn host(&self) -> Host {
        self.host
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads it. A log that does not exist yet is empty.
    pub fn read(&self) -> Result<Seen> {
        Ok(self.parse(&self.text()?))
    }

    /// The Call-ID and the time of every request in it. Only Kamailio's log has times.
    pub fn times(&self) -> Result<Vec<(String, Duration)>> {
        let text = self.text()?;
        let timed = |entry: Entry<'_>| Some((entry.call_id.to_owned(), entry.at?));
        Ok(self.entries(&text).filter_map(timed).collect())
    }

    /// The methods it saw of every Call-ID.
    pub fn methods(&self) -> Result<BTreeMap<String, BTreeSet<String>>> {
        let text = self.text()?;
        let mut methods: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for entry in self.entries(&text) {
            let of_call = methods.entry(entry.call_id.to_owned()).or_default();
            of_call.insert(entry.method.to_owned());
        }
        Ok(methods)
    }

    fn text(&self) -> Result<String> {
        match fs::read(&self.path) {
            Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(String::new()),
            Err(error) => Err(error)
                .with_context(|| format!("cannot read the call log {}", self.path.display())),
        }
    }

    fn parse(&self, text: &str) -> Seen {
        let mut seen = Seen {
            host: self.host,
            started: HashSet::new(),
            touched: HashSet::new(),
        };
        for entry in self.entries(text) {
            if entry.method == "INVITE" {
                seen.started.insert(entry.call_id.to_owned());
            }
            seen.touched.insert(entry.call_id.to_owned());
        }
        seen
    }

    fn entries<'a>(&self, text: &'a str) -> impl Iterator<Item = Entry<'a>> {
        let marker = self.marker;
        text.lines()
            .filter_map(move |line| Entry::parse(line.split_once(marker)?.1))
    }
}

/// One request in a log.
struct Entry<'a> {
    method: &'a str,
    call_id: &'a str,
    /// When, since 1970.
    at: Option<Duration>,
}

impl<'a> Entry<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let mut words = text.split_whitespace();
        Some(Self {
            method: words.next()?,
            call_id: words.next()?,
            at: words.next().and_then(seconds),
        })
    }
}

/// `1700000000.000123` → as much since 1970. The microseconds are always six digits.
fn seconds(text: &str) -> Option<Duration> {
    let (seconds, micros) = text.split_once('.')?;
    let micros: u32 = micros.parse().ok()?;
    Some(Duration::new(
        seconds.parse().ok()?,
        micros.checked_mul(1_000)?,
    ))
}

/// The calls per backend. Several logs of one backend, from before and after a restart, count as one.
#[must_use]
pub fn per_backend(seen: &[Seen]) -> Vec<BackendCalls> {
    let mut calls: BTreeMap<Host, HashSet<&str>> = BTreeMap::new();
    for seen in seen {
        let of_host = calls.entry(seen.host).or_default();
        of_host.extend(seen.started.iter().map(String::as_str));
    }
    calls
        .into_iter()
        .map(|(host, calls)| BackendCalls {
            name: host.to_string(),
            calls: calls.len(),
        })
        .collect()
}

/// The Call-IDs seen by more than one backend.
#[must_use]
pub fn split(seen: &[Seen]) -> BTreeSet<&str> {
    let mut backends: HashMap<&str, HashSet<Host>> = HashMap::new();
    for seen in seen {
        for call_id in &seen.touched {
            backends.entry(call_id).or_default().insert(seen.host);
        }
    }
    backends
        .into_iter()
        .filter_map(|(call_id, hosts)| (hosts.len() > 1).then_some(call_id))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_to_the_microsecond() {
        assert_eq!(
            seconds("1700000000.000123"),
            Some(Duration::from_micros(1_700_000_000_000_123))
        );
        assert_eq!(seconds("now"), None);
    }

    #[test]
    fn a_call_is_split_when_any_request_went_elsewhere() {
        let log = |n| CallLog::new(Host::Proxy(n), PathBuf::new(), "CALL ");
        let seen = [
            log(1)
                .parse("CALL INVITE a@x\nnoise\nCALL ACK a@x\nCALL INVITE b@x\nCALL INVITE b@x\n"),
            log(2).parse("12:00 CALL INVITE c@x\n12:00 CALL BYE a@x\n"),
        ];
        assert_eq!(split(&seen), BTreeSet::from(["a@x"]));
        let calls: Vec<_> = per_backend(&seen).iter().map(|one| one.calls).collect();
        assert_eq!(calls, [2, 1]);
    }
}
