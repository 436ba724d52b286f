//! Which backend saw a call when, and whether it had to move.
//!
//! Kamailio's log has the time behind each request. A call that goes on at another backend has *moved* if the backend
//! that it was at had died in between; else it was *split*.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Result;

use crate::calls::CallLog;
use crate::lab::Host;

/// A backend saw a request of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Visit {
    /// When, since 1970.
    pub at: Duration,
    /// The backend.
    pub host: Host,
}

/// A backend died.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Death {
    /// The backend.
    pub host: Host,
    /// The last moment at which it lived for certain, since 1970.
    pub after: Duration,
    /// The first at which it was dead for certain.
    pub before: Duration,
}

/// The calls that more than one backend saw.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Torn {
    /// Those that left a backend that lived.
    pub split: BTreeSet<String>,
    /// Those that left only backends that had died.
    pub moved: BTreeSet<String>,
}

impl Death {
    /// Notes the death of a backend that `kill` brings about.
    pub fn by(host: Host, kill: impl FnOnce() -> Result<()>) -> Result<Self> {
        let after = now()?;
        kill()?;
        Ok(Self {
            host,
            after,
            before: now()?,
        })
    }
}

fn now() -> Result<Duration> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?)
}

/// Reads the logs and sorts the calls that more than one backend saw.
pub fn torn(logs: &[CallLog], deaths: &[Death]) -> Result<Torn> {
    let mut calls: HashMap<String, Vec<Visit>> = HashMap::new();
    for log in logs {
        for (call_id, at) in log.times()? {
            let host = log.host();
            calls.entry(call_id).or_default().push(Visit { at, host });
        }
    }
    let mut torn = Torn::default();
    for (call_id, mut visits) in calls {
        visits.sort_unstable();
        match fate(&visits, deaths) {
            Fate::Whole => {}
            Fate::Moved => drop(torn.moved.insert(call_id)),
            Fate::Split => drop(torn.split.insert(call_id)),
        }
    }
    Ok(torn)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Whole,
    Moved,
    Split,
}

/// What became of a call, by its visits in order.
fn fate(visits: &[Visit], deaths: &[Death]) -> Fate {
    let mut fate = Fate::Whole;
    for pair in visits.windows(2) {
        let [last, next] = pair else { continue };
        if last.host == next.host {
            continue;
        }
        let died = deaths.iter().any(|death| {
            death.host == last.host && last.at <= death.before && death.after <= next.at
        });
        if !died {
            return Fate::Split;
        }
        fate = Fate::Moved;
    }
    fate
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEATH: Death = Death {
        host: Host::Proxy(1),
        after: Duration::from_secs(10),
        before: Duration::from_secs(11),
    };

    fn fate_of(visits: &[(u8, u64)]) -> Fate {
        let visits: Vec<_> = visits
            .iter()
            .map(|&(proxy, at)| Visit {
                at: Duration::from_secs(at),
                host: Host::Proxy(proxy),
            })
            .collect();
        fate(&visits, &[DEATH])
    }

    #[test]
    fn a_call_may_leave_a_backend_that_died() {
        assert_eq!(fate_of(&[(1, 8), (1, 9)]), Fate::Whole);
        assert_eq!(fate_of(&[(1, 9), (2, 12), (2, 13)]), Fate::Moved);
    }

    #[test]
    fn a_call_may_not_leave_one_that_lives() {
        assert_eq!(fate_of(&[(1, 8), (2, 9)]), Fate::Split);
        assert_eq!(fate_of(&[(2, 9), (1, 12)]), Fate::Split);
        // Moved to 2 for good reason, and back for none.
        assert_eq!(fate_of(&[(1, 9), (2, 12), (1, 13)]), Fate::Split);
        // It died before the call came.
        assert_eq!(fate_of(&[(1, 12), (2, 13)]), Fate::Split);
    }
}
