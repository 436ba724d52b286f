//! What silence means: that a backend died, or that the forwarder does not hear.
//!
//! One backend that falls silent while others are heard is dead. If all of them fall silent, it is
//! more likely that the forwarder lost its network, or its socket, than that all proxies died in
//! the same instant; then nobody is declared dead by silence, and all are asked by OPTIONS.
//!
//! # Heartbeats
//!
//! A backend whose time is over is judged by the others:
//!
//! 1. If an agent was heard *after* this one had missed a heartbeat, and within the last 1.5
//!    intervals, our ears work: it is dead at once. With three missed heartbeats or more and any
//!    other agent up, this is so at the very deadline, and detection is not delayed. Agents of other
//!    services are as good.
//! 2. Else, if there are live backends whose time is not over, they have missed heartbeats too: it
//!    waits until one of them is heard (rule 1) or the time of all is over.
//! 3. Else the last live ones fell silent, within one window: the forwarder suspects itself.
//!
//! Reports that a proxy stopped are no silence, and raise no suspicion; they prove our ears as well
//! as any other. While the forwarder suspects itself, those that answer OPTIONS stay alive, and the
//! others die when the first question without an answer is as old as the patience: one second, or
//! the time an OPTIONS may take and a little more, if that is longer. The first heartbeat of anybody
//! ends the suspicion; but it says nothing of the others, so whoever is asked is asked on, and lives
//! while it answers, until its own heartbeat is there.
//!
//! The same goes, without any suspicion, for a backend whose silence was to be expected: it was not
//! heard since the start (its agent may not be there yet), or its agent drained it last (an agent
//! that ends does so, and is silent then; the proxy may live on). It is asked before it is dead.
//! One that died without an answer is asked on, and lives again when it answers.
//!
//! # OPTIONS
//!
//! A backend that is watched by OPTIONS alone, and fails too often in a row, is judged likewise:
//!
//! 1. If the network says that nobody listens there, it is dead: that is no silence.
//! 2. If another was heard between this one's first question and the last repetition of its last one,
//!    our ears work: it is dead at once. Others are asked as soon as one is silent, so that this is
//!    known in time, and detection is not delayed.
//! 3. Else, if there are live ones that have not failed as often, it waits for what becomes of them,
//!    for as long as it takes to find one dead.
//! 4. Else all failed within one window: the forwarder suspects itself. Each is dead when it failed
//!    once more, by a question asked later, another second after that moment.

use super::{
    Now,
    liveness::{Liveness, Timing, Why},
    probing::Probing,
};

/// Judges every backend that an agent watches. `elsewhere` is when an agent of another service was
/// heard last. True if somebody's time is over who waits for what is heard of others.
pub fn judge(
    now: Now,
    timing: Timing,
    elsewhere: Option<Now>,
    watched: &mut [&mut Liveness],
) -> bool {
    let ears = watched.iter().filter_map(|w| w.heard()).chain(elsewhere);
    let recent = |heard: &Now| now.saturating_sub(*heard) <= timing.jitter();
    let witness = ears.max().filter(recent);
    let mut undecided = Vec::new();
    for (index, one) in watched.iter_mut().enumerate() {
        if one.die_unanswered(now) || !one.is_overdue(now, timing) {
            continue;
        }
        if witness.is_none_or(|heard| !one.is_outlived_by(heard, timing)) {
            undecided.push(index);
        } else if one.should_speak() {
            one.die_of_silence(now);
        } else {
            one.ask(now, Why::Itself);
        }
    }
    if watched.iter().any(|w| w.may_still_speak(now, timing)) {
        return !undecided.is_empty();
    }
    for index in undecided {
        let one = &mut *watched[index];
        // Nothing ended if nothing was ever heard.
        let ended = one.heard().is_some();
        one.ask(now, if ended { Why::AllSilent } else { Why::Itself });
    }
    false
}

/// Somebody was heard: our ears work. Whoever is asked is asked on.
pub fn heard_again<'a>(now: Now, timing: Timing, watched: impl Iterator<Item = &'a mut Liveness>) {
    for one in watched {
        one.trust(now, timing);
    }
}

/// Judges every backend that is watched by OPTIONS.
pub fn judge_answers(now: Now, watched: &mut [&mut Probing]) {
    let Some(failing) = watched.iter().filter_map(|w| w.wants_proof()).max() else {
        return;
    };
    let ears: Vec<Now> = watched.iter().filter_map(|w| w.heard()).collect();
    for one in watched.iter_mut() {
        if ears.iter().any(|&heard| one.is_outlived_by(heard)) {
            one.die_of_silence();
        }
    }
    if ears.iter().all(|&heard| heard < failing) {
        for one in watched.iter_mut() {
            one.hurry(now, failing);
        }
    }
    let open = watched.iter().any(|w| w.may_still_answer());
    for one in watched.iter_mut() {
        one.wait_or_suspect(now, open);
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
