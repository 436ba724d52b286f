//! Whether a backend lives, by its answers to OPTIONS.

use std::time::Duration;

use super::{Now, liveness::Death};
use crate::config::Probe;

/// The shortest time between two questions, however many ICMP errors ask for one.
const SHORTEST: Duration = Duration::from_millis(50);

/// What an OPTIONS request is to find out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Question {
    /// Whether the backend lives.
    Life,
    /// Whether one of its transports works, beside what says that it lives.
    Transport,
}

/// What came of an OPTIONS request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Any response but 503. A refusal proves life too.
    Ok,
    /// 503: alive, but it wants no new calls.
    Full {
        /// For how long, by its `Retry-After` (RFC 3261 section 20.33), uncapped.
        retry_after: Option<Duration>,
    },
    /// Nothing within the timeout.
    Silent,
    /// The network says that nobody listens there.
    Unreachable,
    /// A fault on this side: nothing was asked, and nothing is known.
    NotAsked,
}

/// How a backend stands that failed too often in a row, but is not dead for it yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Doubt {
    /// Since this moment it waits for what becomes of the others.
    Open(Now),
    /// At this moment all had failed, and the forwarder began to suspect itself.
    AllFailed(Now),
}

/// The liveness of one backend that is asked.
#[derive(Clone, Debug)]
pub struct Probing {
    config: Probe,
    death: Option<Death>,
    failures: u32,
    answers: u32,
    asked: Option<Now>,
    last_asked: Option<Now>,
    due: Now,
    full_until: Option<Now>,
    heard: Option<Now>,
    /// The row of silences it is in: when the first question was asked, and when the last.
    row: Option<(Now, Now)>,
    doubt: Option<Doubt>,
}

impl Probing {
    /// What all are given beyond their failures when all fail at once.
    const SECOND_ROUND: Duration = Duration::from_secs(1);

    /// A backend not asked yet: alive, unless it is known to be dead. It is asked first after
    /// `delay`, so that not all are asked at the same moment.
    #[must_use]
    pub fn new(now: Now, delay: Duration, config: Probe, death: Option<Death>) -> Self {
        Self {
            config,
            death,
            failures: 0,
            answers: 0,
            asked: None,
            last_asked: None,
            due: now + delay,
            full_until: None,
            heard: None,
            row: None,
            doubt: None,
        }
    }

    /// Follows a changed configuration.
    pub fn configure(&mut self, now: Now, config: Probe) {
        self.config = config;
        self.due = self.due.min(now + config.interval);
        if let Some(until) = &mut self.full_until {
            *until = (*until).min(now + config.retry_after_cap);
        }
    }

    /// Does it live?
    #[must_use]
    pub const fn is_alive(&self) -> bool {
        self.death.is_none()
    }

    /// Why it is dead.
    #[must_use]
    pub const fn death(&self) -> Option<Death> {
        self.death
    }

    /// Does it want no new calls now?
    #[must_use]
    pub fn is_full(&self, now: Now) -> bool {
        self.full_until.is_some_and(|until| now < until)
    }

    /// Until when it wants no new calls.
    #[must_use]
    pub const fn full_until(&self) -> Option<Now> {
        self.full_until
    }

    /// When it answered last.
    #[must_use]
    pub const fn heard(&self) -> Option<Now> {
        self.heard
    }

    /// When it must be asked next. One question is open at a time; should its outcome never be told,
    /// it is given up after twice the timeout.
    #[must_use]
    pub fn probe_due(&self) -> Now {
        let free = match self.asked {
            Some(asked) => asked + self.config.timeout * 2,
            None => self.last_asked.map_or(Now::ZERO, |asked| asked + SHORTEST),
        };
        self.due.max(free)
    }

    /// Must it be asked now? Says so once.
    pub fn take_probe(&mut self, now: Now) -> bool {
        if now < self.probe_due() {
            return false;
        }
        self.asked = Some(now);
        self.last_asked = Some(now);
        self.due = now + self.config.interval;
        true
    }

    /// Takes note of what came of asking.
    pub fn answer(&mut self, now: Now, answer: Answer) {
        let asked = self.asked.take().unwrap_or(now);
        match answer {
            Answer::Ok => {
                self.lives(now);
                self.full_until = None;
            }
            // It lives as well: it wants no calls, but keeps those it has.
            Answer::Full { retry_after } => {
                self.lives(now);
                // Without a figure it lasts until the next answer, so that a backend that says 503
                // every time does not open for a moment in between.
                let wish = retry_after.unwrap_or(self.config.interval + self.config.timeout);
                self.full_until = Some(now + wish.min(self.config.retry_after_cap));
            }
            Answer::Silent => {
                let pause = (self.config.interval / 4).max(self.config.timeout);
                self.row = Some((self.row.map_or(asked, |(first, _)| first), asked));
                if self.failed(asked + pause) {
                    self.condemn(asked, now);
                }
            }
            // There is no late answer to wait for.
            Answer::Unreachable => {
                self.row = None;
                if self.failed(now + self.config.interval / 4) {
                    self.die(Death::Unreachable(self.failures));
                }
            }
            Answer::NotAsked => self.due = self.due.max(asked + self.config.interval),
        }
    }

    fn lives(&mut self, now: Now) {
        self.heard = Some(now);
        self.failures = 0;
        self.row = None;
        self.doubt = None;
        self.answers = self.answers.saturating_add(1);
        if self.answers >= self.config.up {
            self.death = None;
        }
    }

    /// One more failure. As long as it is not known to be dead, the next question comes soon. Is it
    /// alive although it failed too often?
    fn failed(&mut self, again: Now) -> bool {
        self.answers = 0;
        self.failures = self.failures.saturating_add(1);
        if self.death.is_some() {
            return false;
        }
        self.due = self.due.min(again);
        self.failures >= self.config.down
    }

    /// It was silent too often: the others say what that means.
    fn condemn(&mut self, asked: Now, now: Now) {
        match self.doubt {
            None => self.doubt = Some(Doubt::Open(now)),
            Some(Doubt::AllFailed(since)) => {
                if asked >= since && now >= since + Self::SECOND_ROUND {
                    self.die_of_silence();
                }
            }
            Some(Doubt::Open(_)) => {}
        }
    }

    fn die(&mut self, death: Death) {
        self.death = Some(death);
        self.full_until = None;
        self.doubt = None;
        // A dead one is asked at the usual pace.
        if let Some(asked) = self.last_asked {
            self.due = asked + self.config.interval;
        }
    }

    /// It is dead by silence.
    pub(super) fn die_of_silence(&mut self) {
        self.die(Death::NoAnswer(self.failures));
    }

    /// From when on the answer of another may prove that it is this one that is silent; if it is,
    /// lives, and is not judged yet. Before its first question was repeated, another may have answered
    /// just before all fell silent.
    pub(super) fn wants_proof(&self) -> Option<Now> {
        let judged = matches!(self.doubt, Some(Doubt::AllFailed(_)));
        let (first, _) = self.row.filter(|_| self.is_alive() && !judged)?;
        Some(first + self.config.timeout / 2)
    }

    /// Is it dead because another was heard at `other`? What was heard after its last question was
    /// repeated proves nothing: if we have just begun to hear again, it will be heard, too.
    pub(super) fn is_outlived_by(&self, other: Now) -> bool {
        let repeated = |asked: Now| asked + self.config.timeout / 2;
        let proves = |(first, last): (Now, Now)| {
            // One question alone must do where one failure is enough.
            (repeated(first).min(last)..=repeated(last)).contains(&other)
        };
        matches!(self.doubt, Some(Doubt::Open(_))) && self.row.is_some_and(proves)
    }

    /// Alive, and not failed too often?
    pub(super) const fn may_still_answer(&self) -> bool {
        self.is_alive() && self.doubt.is_none()
    }

    /// Another one fails, and its proof counts from `failing`: it must be asked at once, unless it
    /// was since.
    pub(super) fn hurry(&mut self, now: Now, failing: Now) {
        let was_asked = self.last_asked.is_some_and(|asked| asked >= failing);
        if self.may_still_answer() && self.failures == 0 && self.asked.is_none() && !was_asked {
            self.due = self.due.min(now);
        }
    }

    /// Failed too often, it waits as long as others are `open`, but no longer than it takes to find
    /// one dead.
    pub(super) fn wait_or_suspect(&mut self, now: Now, open: bool) {
        if let Some(Doubt::Open(_)) = self.doubt
            && (!open || self.judge_due().is_some_and(|due| now >= due))
        {
            self.doubt = Some(Doubt::AllFailed(now));
        }
    }

    /// When it waited long enough for what becomes of the others.
    pub(super) fn judge_due(&self) -> Option<Now> {
        match self.doubt {
            Some(Doubt::Open(since)) => {
                let rounds = self.config.interval.saturating_mul(self.config.down);
                Some(since + rounds + self.config.timeout)
            }
            _ => None,
        }
    }

    /// Did all fail at once, so that it is given another second?
    #[must_use]
    pub const fn is_suspecting(&self) -> bool {
        matches!(self.doubt, Some(Doubt::AllFailed(_)))
    }

    /// Somebody was told that nobody listens there: it must be asked at once.
    pub fn unreachable(&mut self, now: Now) {
        self.due = self.due.min(now);
    }

    /// Forgets that it was full when that time is over. Was it just now?
    pub fn forget_full(&mut self, now: Now) -> bool {
        let over = self.full_until.is_some_and(|until| now >= until);
        if over {
            self.full_until = None;
        }
        over
    }
}

#[cfg(test)]
mod tests;
