//! Judging silence, following changed targets and moving gates.

use super::{Backend, ServiceControl, shares};
use crate::control::{Now, liveness::Liveness, probing::Probing, suspicion};

impl ServiceControl {
    /// Heartbeats that came while we did not look are not missing.
    pub(super) fn excuse_own_stall(&mut self, now: Now) {
        let gap = now.saturating_sub(self.last_tick);
        self.last_tick = self.last_tick.max(now);
        let excess = gap.saturating_sub(self.timing.interval);
        if !excess.is_zero() {
            let watched = self.backends.iter_mut().filter_map(Backend::liveness);
            suspicion::excuse(now, excess, watched);
        }
    }

    pub(super) fn judge(&mut self, now: Now) {
        let mut watched: Vec<&mut Liveness> = self
            .backends
            .iter_mut()
            .filter_map(Backend::liveness)
            .collect();
        self.undecided = suspicion::judge(now, self.timing, self.elsewhere, &mut watched);
        self.judge_answers(now);
        self.notice_suspicion(false);
    }

    /// Was there anybody to judge?
    pub(super) fn judge_answers(&mut self, now: Now) -> bool {
        // By another transport, others say nothing of this one.
        let life = self.judge_answers_of(now, Backend::life_probing);
        let large = self.judge_answers_of(now, Backend::large_probing);
        life || large
    }

    fn judge_answers_of(&mut self, now: Now, of: fn(&mut Backend) -> Option<&mut Probing>) -> bool {
        let open = |b: &mut Backend| of(b).and_then(|p| p.wants_proof()).is_some();
        if !self.backends.iter_mut().any(open) {
            return false;
        }
        let mut watched: Vec<&mut Probing> = self.backends.iter_mut().filter_map(of).collect();
        suspicion::judge_answers(now, &mut watched);
        true
    }

    pub(super) fn trust_again(&mut self, now: Now) {
        let watched = self.backends.iter_mut().filter_map(Backend::liveness);
        suspicion::heard_again(now, self.timing, watched);
        self.notice_all();
        self.notice_suspicion(true);
    }

    pub(super) fn retarget(&mut self, now: Now) {
        let before = self.homes.settling();
        let members = shares(&self.backends);
        if self.homes.retarget(members, self.spread.settle, now) {
            self.version += 1;
            self.saved_version += 1;
            if self.homes.settling() != before {
                self.tell_of_settling();
            }
        }
    }

    /// Opens or closes a gate after a new CPU figure.
    pub(super) fn move_gate(&mut self, index: usize) {
        let backends = &self.backends;
        let mean = || {
            let live = backends.iter().filter(|b| b.is_alive());
            let cpus: Vec<f64> = live.filter_map(|b| b.gate.cpu()).collect();
            cpus.iter().sum::<f64>() / cpus.len().max(1) as f64
        };
        let mut gate = backends[index].gate.clone();
        let moved = gate.decide(mean);
        self.backends[index].gate = gate;
        self.tell_of_gate(index, moved);
    }
}
