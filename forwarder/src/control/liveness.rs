//! Whether a backend lives, by the heartbeats of the agent beside it.
//!
//! This is the state of one backend. What silence means depends on the others too, and is judged in
//! [`super::suspicion`].

use std::{fmt, time::Duration};

use super::Now;
use crate::config::Heartbeats;

/// How long a backend that was not heard yet is waited for after a start, beyond the usual silence:
/// its agent must find out first that the forwarder is there again.
pub const GRACE: Duration = Duration::from_secs(1);

/// The rhythm of heartbeats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// How often an agent reports.
    pub interval: Duration,
    /// After how many reports that did not come a backend is dead.
    pub missed: u32,
}

impl Timing {
    /// The silence after which a backend is dead.
    #[must_use]
    pub const fn silence(&self) -> Duration {
        self.interval.saturating_mul(self.missed)
    }

    /// A silence that means a missed heartbeat, and not one that is a little late.
    #[must_use]
    pub fn jitter(&self) -> Duration {
        self.interval.saturating_mul(3) / 2
    }
}

impl From<&Heartbeats> for Timing {
    fn from(heartbeats: &Heartbeats) -> Self {
        Self {
            interval: heartbeats.interval,
            missed: heartbeats.missed,
        }
    }
}

/// Why a backend is dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    /// It was dead when the forwarder stopped, and was not heard since.
    Remembered,
    /// Its heartbeats ended so long ago.
    Silent(Duration),
    /// It was never heard since the forwarder started.
    NeverHeard,
    /// All heartbeats ended at once, and it does not answer OPTIONS either.
    Unanswered,
    /// Its agent says that the proxy's process ended.
    Stopped,
    /// Its agent says that the process is there but does not answer.
    Unwell,
    /// So many OPTIONS in a row had no answer.
    NoAnswer(u32),
    /// So many OPTIONS in a row failed, and the network says that nobody listens there.
    Unreachable(u32),
}

impl fmt::Display for Death {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Remembered => f.write_str("it was before the forwarder started"),
            Self::Silent(time) => write!(f, "no heartbeat for {} ms", time.as_millis()),
            Self::NeverHeard => f.write_str("no heartbeat since the forwarder started"),
            Self::Unanswered => f.write_str("no heartbeat, and no answer to OPTIONS"),
            Self::Stopped => f.write_str("its agent says that the proxy stopped"),
            Self::Unwell => f.write_str("its agent says that the proxy does not answer"),
            Self::NoAnswer(times) => write!(f, "no answer to OPTIONS, {times} times in a row"),
            Self::Unreachable(times) => {
                write!(f, "unreachable by OPTIONS, {times} times in a row")
            }
        }
    }
}

/// How a backend stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Alive,
    /// Alive, but asked by OPTIONS, because all heartbeats ended at once.
    Asked {
        /// Dead at this moment unless it answers.
        deadline: Now,
        /// When it is asked next.
        due: Now,
    },
    Dead(Death),
}

/// The liveness of one backend.
#[derive(Clone, Debug)]
pub struct Liveness {
    /// What its silence is counted from: when it was heard last, and later during the grace or
    /// after a stall of our own.
    since: Now,
    heard: Option<Now>,
    standing: Standing,
}

impl Liveness {
    /// How long one that is asked is waited for.
    pub const PATIENCE: Duration = Duration::from_secs(1);
    /// How often one that is asked is asked again: a lost packet must not kill it.
    pub const ASKING: Duration = Duration::from_millis(300);

    /// A backend not heard yet: alive for a grace, unless it is known to be dead.
    #[must_use]
    pub fn new(now: Now, death: Option<Death>) -> Self {
        Self {
            since: now + GRACE,
            heard: None,
            standing: death.map_or(Standing::Alive, Standing::Dead),
        }
    }

    /// Does it live?
    #[must_use]
    pub const fn is_alive(&self) -> bool {
        !matches!(self.standing, Standing::Dead(_))
    }

    /// Why it is dead.
    #[must_use]
    pub const fn death(&self) -> Option<Death> {
        match self.standing {
            Standing::Dead(death) => Some(death),
            _ => None,
        }
    }

    /// When its agent was heard last.
    #[must_use]
    pub const fn heard(&self) -> Option<Now> {
        self.heard
    }

    /// Is it asked by OPTIONS, because the forwarder suspects itself?
    #[must_use]
    pub const fn is_asked(&self) -> bool {
        matches!(self.standing, Standing::Asked { .. })
    }

    /// Its agent says that it lives, or how it died.
    pub const fn heartbeat(&mut self, now: Now, death: Option<Death>) {
        self.since = now;
        self.heard = Some(now);
        self.standing = match death {
            None => Standing::Alive,
            Some(death) => Standing::Dead(death),
        };
    }

    /// Alive by its heartbeats alone, and silent for too long?
    pub(super) fn is_overdue(&self, now: Now, timing: Timing) -> bool {
        self.standing == Standing::Alive && now >= self.since.saturating_add(timing.silence())
    }

    /// Alive, heard at least once, and not silent for too long yet?
    pub(super) fn may_still_speak(&self, now: Now, timing: Timing) -> bool {
        self.standing == Standing::Alive && self.heard.is_some() && !self.is_overdue(now, timing)
    }

    /// When its time is over, if it is not heard.
    pub(super) const fn deadline(&self, timing: Timing) -> Option<Now> {
        match self.standing {
            Standing::Alive => Some(self.since.saturating_add(timing.silence())),
            Standing::Asked { deadline, .. } => Some(deadline),
            Standing::Dead(_) => None,
        }
    }

    /// Does it prove this one's silence that another was heard at `other`? Only if that was after
    /// this one had missed a heartbeat.
    pub(super) fn is_outlived_by(&self, other: Now, timing: Timing) -> bool {
        other > self.since.saturating_add(timing.jitter())
    }

    /// It is dead by silence.
    pub(super) const fn die_of_silence(&mut self, now: Now) {
        self.standing = Standing::Dead(match self.heard {
            Some(_) => Death::Silent(now.saturating_sub(self.since)),
            None => Death::NeverHeard,
        });
    }

    /// It is asked by OPTIONS from now on.
    pub(super) fn ask(&mut self, now: Now) {
        self.standing = Standing::Asked {
            deadline: now + Self::PATIENCE,
            due: now,
        };
    }

    /// Heartbeats of others are back: it is given the usual time for its own.
    pub(super) const fn release(&mut self, now: Now) {
        if self.is_asked() {
            self.since = now;
            self.standing = Standing::Alive;
        }
    }

    /// It answered OPTIONS, which counts only while it is asked.
    pub fn answered(&mut self, now: Now) {
        if let Standing::Asked { deadline, .. } = &mut self.standing {
            *deadline = now + Self::PATIENCE;
        }
    }

    /// Dies if it was asked and did not answer in time. Did it?
    pub(super) fn die_unanswered(&mut self, now: Now) -> bool {
        match self.standing {
            Standing::Asked { deadline, .. } if now >= deadline => {
                self.standing = Standing::Dead(Death::Unanswered);
                true
            }
            _ => false,
        }
    }

    /// When it must be asked.
    #[must_use]
    pub const fn probe_due(&self) -> Option<Now> {
        match self.standing {
            Standing::Asked { due, .. } => Some(due),
            _ => None,
        }
    }

    /// Must it be asked now? Says so once.
    pub fn take_probe(&mut self, now: Now) -> bool {
        match &mut self.standing {
            Standing::Asked { due, .. } if now >= *due => {
                *due = now + Self::ASKING;
                true
            }
            _ => false,
        }
    }

    /// The forwarder itself did not look for `excess` longer than it should: nobody's fault.
    pub(super) fn excuse(&mut self, now: Now, excess: Duration) {
        let later = self.since + excess;
        self.since = if self.heard.is_some() {
            // One that was heard meanwhile has no silence to excuse.
            later.min(now).max(self.since)
        } else {
            later
        };
        if let Standing::Asked { deadline, .. } = &mut self.standing {
            *deadline += excess;
        }
    }
}
