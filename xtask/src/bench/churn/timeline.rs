//! What happens when.

use std::time::{Duration, Instant};

use serde::Serialize;
use sip_forwarder_tests::{history::Death, lab::Host};

use super::room::{Room, SERVICE};
use crate::shell::say;

/// The proxy whose gate flips all the time.
const GATED: u8 = 1;
const DRAINED: u8 = 2;
const KILLED: u8 = 3;
const JOINING: u8 = 4;
/// A CPU that closes a gate, and one that opens it.
const BUSY: f64 = 0.97;
const IDLE: f64 = 0.10;

/// One change.
#[derive(Clone, Copy, Debug)]
enum Change {
    Weight(u8, u16),
    Drain,
    Enable,
    Kill,
    Return,
    Join,
    RestartDaemon,
}

/// The changes, each after so many hundredths of the time. Between them the gate flips. Never are a drain and a death at
/// the same time: with the gate closed, nobody would be left.
const CHANGES: [(u32, Change); 12] = [
    (5, Change::Weight(DRAINED, 3)),
    (12, Change::Weight(KILLED, 2)),
    (20, Change::Drain),
    (32, Change::Enable),
    (38, Change::Weight(GATED, 2)),
    (44, Change::Kill),
    (55, Change::Return),
    (62, Change::Weight(DRAINED, 1)),
    (68, Change::Join),
    (76, Change::Weight(JOINING, 2)),
    (82, Change::RestartDaemon),
    (92, Change::Weight(KILLED, 1)),
];

/// How often what happened.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Counts {
    /// The gate closed, or opened.
    pub(super) gate_flips: u32,
    pub(super) weight_pushes: u32,
    /// Drained and enabled again.
    pub(super) drains: u32,
    /// Killed and returned.
    pub(super) deaths: u32,
    pub(super) joins: u32,
    pub(super) daemon_restarts: u32,
}

/// What happened.
#[derive(Debug, Default)]
pub(super) struct Timeline {
    pub(super) counts: Counts,
    pub(super) deaths: Vec<Death>,
}

impl Timeline {
    /// Makes the changes while calls begin for this long, and flips the gate in between.
    pub(super) fn play(room: &mut Room, time: Duration) -> anyhow::Result<Self> {
        let start = Instant::now();
        let mut timeline = Self::default();
        let mut changes = CHANGES.iter().peekable();
        let mut closed = false;
        while start.elapsed() < time {
            if let Some((_, change)) =
                changes.next_if(|(at, _)| start.elapsed() >= time * *at / 100)
            {
                say(&format!(
                    "{:>5.1} s: {change:?}",
                    start.elapsed().as_secs_f64()
                ));
                timeline.make(room, *change)?;
            } else {
                closed = !closed;
                timeline.flip(room, closed)?;
            }
        }
        for (_, change) in changes {
            say(&format!("not in time, made late: {change:?}"));
            timeline.make(room, *change)?;
        }
        room.set_load(GATED, IDLE);
        Ok(timeline)
    }

    /// Moves the CPU of the gated proxy and waits until its gate has followed.
    fn flip(&mut self, room: &Room, closed: bool) -> anyhow::Result<()> {
        room.set_load(GATED, if closed { BUSY } else { IDLE });
        let condition = if closed {
            "has its gate closed"
        } else {
            "has its gate open"
        };
        room.wait(GATED, condition, |backend| backend["gate_closed"] == closed)?;
        self.counts.gate_flips += 1;
        Ok(())
    }

    fn make(&mut self, room: &mut Room, change: Change) -> anyhow::Result<()> {
        match change {
            Change::Weight(n, weight) => {
                let (name, text) = (Host::Proxy(n).to_string(), weight.to_string());
                room.daemon.run(&["weight", SERVICE, &name, &text])?;
                room.wait(n, "has its weight", |backend| backend["weight"] == weight)?;
                self.counts.weight_pushes += 1;
            }
            Change::Drain => {
                let name = Host::Proxy(DRAINED).to_string();
                room.daemon.run(&["drain", SERVICE, &name])?;
                room.wait(DRAINED, "takes no new calls", |backend| {
                    backend["open"] == false
                })?;
            }
            Change::Enable => {
                let name = Host::Proxy(DRAINED).to_string();
                room.daemon.run(&["enable", SERVICE, &name])?;
                room.wait(DRAINED, "takes new calls", |backend| {
                    backend["open"] == true
                })?;
                self.counts.drains += 1;
            }
            Change::Kill => {
                self.deaths.push(room.kill_proxy(KILLED)?);
                room.wait(KILLED, "is dead", |backend| backend["state"] == "dead")?;
            }
            Change::Return => {
                room.start_proxy(KILLED)?;
                room.wait_in_use(KILLED)?;
                self.counts.deaths += 1;
            }
            Change::Join => {
                room.join()?;
                self.counts.joins += 1;
            }
            Change::RestartDaemon => {
                room.daemon.terminate()?;
                room.daemon.start_again()?;
                for n in [GATED, DRAINED, KILLED, JOINING] {
                    room.wait_in_use(n)?;
                }
                self.counts.daemon_restarts += 1;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_in_order_and_leave_time_at_the_end() {
        assert!(CHANGES.is_sorted_by_key(|(at, _)| *at));
        assert!(CHANGES.iter().all(|(at, _)| *at < 95));
    }
}
