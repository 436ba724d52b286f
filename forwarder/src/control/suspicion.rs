//! What silence means: that a backend died, or that the forwarder does not hear.
//!
//! One backend that falls silent while others are heard is dead. If all of them fall silent, it is
//! more likely that the forwarder lost its network, or its socket, than that all proxies died in
//! the same instant; then nobody is declared dead by silence, and all are asked by OPTIONS.
//!
//! To tell the two apart, a backend whose time is over is judged by the others:
//!
//! 1. If an agent was heard *after* this one had missed a heartbeat, and within the last 1.5
//!    intervals, our ears work: it is dead at once. With three missed heartbeats or more and any
//!    other agent up, this is so at the very deadline, and detection is not delayed.
//! 2. Else, if there are live backends whose time is not over, they have missed heartbeats too: it
//!    waits until one of them is heard (rule 1) or the time of all is over.
//! 3. Else the last live ones fell silent, within one window: the forwarder suspects itself.
//!
//! Reports that a proxy stopped are no silence, and raise no suspicion; they prove our ears as well
//! as any other. While the forwarder suspects itself, those that answer OPTIONS stay alive, and the
//! others die after [`Liveness::PATIENCE`]. The first heartbeat of anybody ends it: whoever is still
//! asked then has the usual time for a heartbeat of its own.

use super::{
    Now,
    liveness::{Liveness, Timing},
};

/// What came of judging.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Judgement {
    /// Those that died just now.
    pub died: Vec<usize>,
    /// Those that must be asked by OPTIONS from now on.
    pub asked: Vec<usize>,
    /// Those whose time is over, and who wait for what is heard of others.
    pub undecided: Vec<usize>,
}

/// Judges every backend that an agent watches.
pub fn judge(now: Now, timing: Timing, watched: &mut [&mut Liveness]) -> Judgement {
    let mut judgement = Judgement::default();
    let ears = watched.iter().filter_map(|w| w.heard()).max();
    let witness = ears.filter(|&heard| now.saturating_sub(heard) <= timing.jitter());
    let mut undecided = Vec::new();
    for (index, one) in watched.iter_mut().enumerate() {
        if one.die_unanswered(now) {
            judgement.died.push(index);
        } else if one.is_overdue(now, timing) {
            if witness.is_some_and(|heard| one.is_outlived_by(heard, timing)) {
                one.die_of_silence(now);
                judgement.died.push(index);
            } else {
                undecided.push(index);
            }
        }
    }
    if watched.iter().any(|w| w.may_still_speak(now, timing)) {
        judgement.undecided = undecided;
    } else {
        for &index in &undecided {
            watched[index].ask(now);
        }
        judgement.asked = undecided;
    }
    judgement
}

/// Somebody was heard: nobody is asked any more.
pub fn heard_again<'a>(now: Now, watched: impl Iterator<Item = &'a mut Liveness>) {
    for one in watched {
        one.release(now);
    }
}

/// The caller looked `excess` later than it should: nobody's silence counts for that time.
pub fn excuse<'a>(
    now: Now,
    excess: std::time::Duration,
    watched: impl Iterator<Item = &'a mut Liveness>,
) {
    for one in watched {
        one.excuse(now, excess);
    }
}

#[cfg(test)]
mod tests;
