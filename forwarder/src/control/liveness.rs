//! Whether a backend lives, by the heartbeats of the agent beside it.
//!
//! This is the state of one backend. What silence means depends on the others too, and is judged in
//! [`super::suspicion`].

use std::{fmt, time::Duration};

use super::{Now, probing::Answer};
use crate::config::{BackendTransport, Heartbeats};

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
    /// It was never heard since the forwarder started, and does not answer OPTIONS either.
    NeverHeard,
    /// It came with a reload, and has to be heard before it is given anything.
    Unproven,
    /// Its silence alone says nothing, and it does not answer OPTIONS either.
    Unanswered,
    /// Its agent says that the proxy's process ended.
    Stopped,
    /// Its agent says that the process is there but does not answer.
    Unwell,
    /// So many OPTIONS in a row had no answer.
    NoAnswer(u32),
    /// So many OPTIONS in a row failed, and the network says that nobody listens there.
    Unreachable(u32),
    /// So many OPTIONS in a row had no answer by this transport.
    NoAnswerBy(BackendTransport, u32),
    /// So many connections in a row failed.
    NoConnection(BackendTransport, u32),
}

impl Death {
    /// The same of a backend that was asked by this transport.
    pub(super) const fn by(self, transport: BackendTransport) -> Self {
        match (transport, self) {
            (BackendTransport::Udp, _) => self,
            (_, Self::NoAnswer(times)) => Self::NoAnswerBy(transport, times),
            (_, Self::Unreachable(times)) => Self::NoConnection(transport, times),
            _ => self,
        }
    }
}

impl fmt::Display for Death {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Remembered => f.write_str("it was before the forwarder started"),
            Self::Silent(time) => write!(f, "no heartbeat for {} ms", time.as_millis()),
            Self::NeverHeard => {
                f.write_str("no heartbeat since the forwarder started, and no answer to OPTIONS")
            }
            Self::Unproven => f.write_str("new, and not heard yet"),
            Self::Unanswered => f.write_str("no heartbeat, and no answer to OPTIONS"),
            Self::Stopped => f.write_str("its agent says that the proxy stopped"),
            Self::Unwell => f.write_str("its agent says that the proxy does not answer"),
            Self::NoAnswer(times) => write!(f, "no answer to OPTIONS, {times} times in a row"),
            Self::Unreachable(times) => {
                write!(f, "unreachable by OPTIONS, {times} times in a row")
            }
            Self::NoAnswerBy(transport, times) => {
                let transport = transport.name();
                write!(
                    f,
                    "no answer to OPTIONS by {transport}, {times} times in a row"
                )
            }
            Self::NoConnection(transport, times) => {
                let transport = transport.name();
                write!(f, "no connection by {transport}, {times} times in a row")
            }
        }
    }
}

/// How a backend stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Alive,
    /// Alive without heartbeats, and asked by OPTIONS.
    Asked(Asked),
    Dead(Death),
}

/// Why a backend is asked, and how long it is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Asked {
    why: Why,
    /// From when on its answers are worth a remark.
    from: Now,
    /// Dead at this moment unless it answers: set by the first question without an answer.
    deadline: Option<Now>,
}

/// Why a backend is asked by OPTIONS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// All heartbeats ended at once.
    AllSilent,
    /// Others are heard. Its own silence says nothing yet: it was never heard, or its agent told that
    /// it would end.
    Itself,
}

/// Keeps a proxy that stops again and again from flapping: once it stopped twice within
/// [`WINDOW`](Self::WINDOW), it must be reported as running for [`PROOF`](Self::PROOF), without any
/// other report in between, before it lives again. A single stop costs nothing.
#[derive(Clone, Copy, Debug, Default)]
struct Steadiness {
    /// The last report said that it stopped.
    stopped: bool,
    /// When it stopped last.
    last: Option<Now>,
    /// It stopped twice and has proved nothing since.
    doubted: bool,
    /// Since when it is reported as running, while it is doubted.
    running: Option<Now>,
}

impl Steadiness {
    const WINDOW: Duration = Duration::from_secs(10);
    const PROOF: Duration = Duration::from_secs(1);

    /// Takes note of a report. May it live, as far as this goes?
    fn take(&mut self, now: Now, death: Option<Death>) -> bool {
        let stopped = death == Some(Death::Stopped);
        if stopped && !self.stopped {
            let last = self.last.replace(now);
            self.doubted = last.is_some_and(|last| now.saturating_sub(last) <= Self::WINDOW);
        }
        self.stopped = stopped;
        if death.is_some() {
            self.running = None;
            return false;
        }
        if self.doubted {
            let running = *self.running.get_or_insert(now);
            self.doubted = now.saturating_sub(running) < Self::PROOF;
        }
        !self.doubted
    }
}

/// The liveness of one backend.
#[derive(Clone, Debug)]
pub struct Liveness {
    /// What its silence is counted from: when it was heard last, and later during the grace or
    /// after a stall of our own.
    since: Now,
    heard: Option<Now>,
    /// When it answered OPTIONS last.
    answered: Option<Now>,
    standing: Standing,
    /// Its agent's last report was that it drains, as an agent does that is about to end.
    drains: bool,
    steadiness: Steadiness,
    /// How long an OPTIONS may take.
    timeout: Duration,
    /// When the question under way was asked.
    under_way: Option<Now>,
    /// When it is asked next, if it is asked.
    due: Now,
}

impl Liveness {
    /// How long one that is asked is waited for, at least.
    pub const PATIENCE: Duration = Duration::from_secs(1);
    /// How often one that is asked is asked again: a lost packet must not kill it.
    pub const ASKING: Duration = Duration::from_millis(300);
    /// How often one that died without an answer is asked whether it is back.
    pub const RETURNING: Duration = Duration::from_secs(1);
    /// What is added to the time an OPTIONS may take, so that its outcome is there in time.
    const MARGIN: Duration = Duration::from_millis(100);

    /// A backend not heard yet: alive for a grace, unless it is known to be dead. An OPTIONS may take
    /// `timeout`.
    #[must_use]
    pub fn new(now: Now, timeout: Duration, death: Option<Death>) -> Self {
        Self {
            since: now + GRACE,
            heard: None,
            answered: None,
            standing: death.map_or(Standing::Alive, Standing::Dead),
            drains: false,
            steadiness: Steadiness::default(),
            timeout,
            under_way: None,
            due: now,
        }
    }

    /// Follows a changed configuration. A question under way may have been forgotten over it: the
    /// patience begins anew.
    pub fn configure(&mut self, timeout: Duration) {
        self.timeout = timeout;
        self.under_way = None;
        if let Standing::Asked(asked) = &mut self.standing {
            asked.deadline = None;
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

    /// When it answered OPTIONS last, while it was asked.
    #[must_use]
    pub const fn answered(&self) -> Option<Now> {
        self.answered
    }

    /// Is it alive without heartbeats, and asked by OPTIONS?
    #[must_use]
    pub const fn is_asked(&self) -> bool {
        matches!(self.standing, Standing::Asked(_))
    }

    /// Is it asked because all heartbeats ended at once?
    #[must_use]
    pub const fn is_suspecting(&self) -> bool {
        matches!(
            self.standing,
            Standing::Asked(Asked {
                why: Why::AllSilent,
                ..
            })
        )
    }

    /// Does it live by its answers to OPTIONS alone, while the agents of others are heard?
    #[must_use]
    pub fn lives_by_answers(&self) -> bool {
        match self.standing {
            Standing::Asked(Asked {
                why: Why::Itself,
                from,
                ..
            }) => self.answered.is_some_and(|answered| answered >= from),
            _ => false,
        }
    }

    /// Its agent says that it lives, or how it died. Whoever comes back after it stopped lives at
    /// once, unless it stopped again and again.
    pub fn heartbeat(&mut self, now: Now, death: Option<Death>) {
        self.since = now;
        self.heard = Some(now);
        let is_steady = self.steadiness.take(now, death);
        match death {
            Some(death) => self.standing = Standing::Dead(death),
            None if is_steady => self.standing = Standing::Alive,
            None => {}
        }
    }

    /// Whether its agent's last report was that it drains. An agent that ends announces its silence by
    /// this; what the proxy does then is asked by OPTIONS.
    pub const fn note_draining(&mut self, drains: bool) {
        self.drains = drains;
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
            Standing::Asked(asked) => asked.deadline,
            Standing::Dead(_) => None,
        }
    }

    /// Does it prove this one's silence that another was heard at `other`? Only if that was after
    /// this one had missed a heartbeat.
    pub(super) fn is_outlived_by(&self, other: Now, timing: Timing) -> bool {
        other > self.since.saturating_add(timing.jitter())
    }

    /// Should it be heard, as far as is known? Not before its agent was heard once, nor when that
    /// told that it would end.
    pub(super) const fn should_speak(&self) -> bool {
        self.heard.is_some() && !self.drains
    }

    /// It is dead by silence.
    pub(super) const fn die_of_silence(&mut self, now: Now) {
        self.standing = Standing::Dead(Death::Silent(now.saturating_sub(self.since)));
    }

    /// It is asked by OPTIONS from now on.
    pub(super) const fn ask(&mut self, now: Now, why: Why) {
        self.standing = Standing::Asked(Asked {
            why,
            from: now,
            deadline: None,
        });
        self.due = now;
    }

    /// Heartbeats of others are back. It is asked until its own is there, which should be within the
    /// usual time.
    pub(super) fn trust(&mut self, now: Now, timing: Timing) {
        if let Standing::Asked(asked) = &mut self.standing
            && asked.why == Why::AllSilent
        {
            asked.why = Why::Itself;
            asked.from = now + timing.silence();
        }
    }

    fn patience(&self) -> Duration {
        Self::PATIENCE.max(self.timeout + Self::MARGIN)
    }

    /// How often it is asked, if it is. Those that died without an answer are asked on: whoever has no
    /// agent could not return otherwise.
    const fn pace(&self) -> Option<Duration> {
        match self.standing {
            Standing::Asked(_) => Some(Self::ASKING),
            Standing::Dead(Death::NeverHeard | Death::Unproven | Death::Unanswered) => {
                Some(Self::RETURNING)
            }
            _ => None,
        }
    }

    /// What came of asking it by OPTIONS. A failure alone kills nobody: [`judge`](super::suspicion)
    /// does, when the patience is over.
    pub fn answer(&mut self, now: Now, answer: Answer) {
        let question = self.under_way.take();
        if self.pace().is_none() {
            return;
        }
        match (answer, &mut self.standing) {
            (Answer::Ok | Answer::Full { .. }, standing) => {
                self.answered = Some(now);
                match standing {
                    Standing::Asked(asked) => asked.deadline = None,
                    _ => self.ask(now, Why::Itself),
                }
                self.due = self.due.max(question.unwrap_or(now) + Self::ASKING);
            }
            // The time in which nobody asked does not count.
            (Answer::NotAsked, Standing::Asked(asked)) => {
                if let (Some(deadline), Some(question)) = (&mut asked.deadline, question) {
                    *deadline += self.due.max(now).saturating_sub(question);
                }
            }
            _ => {}
        }
    }

    /// Dies if it was asked and did not answer in time. Did it?
    pub(super) fn die_unanswered(&mut self, now: Now) -> bool {
        match self.standing {
            Standing::Asked(Asked {
                deadline: Some(deadline),
                ..
            }) if now >= deadline => {
                self.standing = Standing::Dead(match self.heard {
                    Some(_) => Death::Unanswered,
                    None => Death::NeverHeard,
                });
                true
            }
            _ => false,
        }
    }

    /// When it must be asked. One question is open at a time; should its outcome never be told, it is
    /// given up after twice the timeout.
    #[must_use]
    pub fn probe_due(&self) -> Option<Now> {
        let free = self.under_way.map(|asked| asked + self.timeout * 2);
        self.pace().map(|_| self.due.max(free.unwrap_or(Now::ZERO)))
    }

    /// Must it be asked now? Says so once.
    pub fn take_probe(&mut self, now: Now) -> bool {
        let Some(pace) = self.pace() else {
            return false;
        };
        if self.probe_due().is_none_or(|due| now < due) {
            return false;
        }
        self.under_way = Some(now);
        self.due = now + pace;
        let patience = self.patience();
        if let Standing::Asked(asked) = &mut self.standing {
            asked.deadline.get_or_insert(now + patience);
        }
        true
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
        if let Standing::Asked(Asked {
            deadline: Some(deadline),
            ..
        }) = &mut self.standing
        {
            *deadline += excess;
        }
    }
}
