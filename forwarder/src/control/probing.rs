//! Whether a backend lives, by its answers to OPTIONS.

use std::time::Duration;

use super::{Now, liveness::Death};
use crate::config::Probe;

/// The shortest time between two questions, however many ICMP errors ask for one.
const SHORTEST: Duration = Duration::from_millis(50);

/// What came of an OPTIONS request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Any response but 503. A refusal proves life too.
    Ok,
    /// 503: alive, but it wants no new calls.
    Full {
        /// For how long, if it said so.
        retry_after: Option<Duration>,
    },
    /// Nothing within the timeout.
    Silent,
    /// The network says that nobody listens there.
    Unreachable,
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
}

impl Probing {
    /// A backend not asked yet: alive, unless it is known to be dead.
    #[must_use]
    pub const fn new(now: Now, config: Probe, death: Option<Death>) -> Self {
        Self {
            config,
            death,
            failures: 0,
            answers: 0,
            asked: None,
            last_asked: None,
            due: now,
            full_until: None,
            heard: None,
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
                self.heard = Some(now);
                self.failures = 0;
                self.full_until = None;
                self.answers = self.answers.saturating_add(1);
                if self.answers >= self.config.up {
                    self.death = None;
                }
            }
            Answer::Full { retry_after } => {
                self.heard = Some(now);
                self.failures = 0;
                // Without a figure it lasts until the next answer, so that a backend that says 503
                // every time does not open for a moment in between.
                let wish = retry_after.unwrap_or(self.config.interval + self.config.timeout);
                self.full_until = Some(now + wish.min(self.config.retry_after_cap));
            }
            Answer::Silent => {
                let pause = (self.config.interval / 4).max(self.config.timeout);
                self.failed(asked + pause, Death::NoAnswer);
            }
            // There is no late answer to wait for.
            Answer::Unreachable => {
                self.failed(now + self.config.interval / 4, Death::Unreachable);
            }
        }
    }

    /// One more failure. As long as it is not known to be dead, the next question comes soon.
    fn failed(&mut self, again: Now, death: impl FnOnce(u32) -> Death) {
        self.answers = 0;
        self.failures = self.failures.saturating_add(1);
        if self.death.is_some() {
            return;
        }
        if self.failures >= self.config.down {
            self.death = Some(death(self.failures));
            self.full_until = None;
        } else {
            self.due = self.due.min(again);
        }
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
