//! Noticing what changed: the version that says so, and the lines for the log.

use super::{Backend, Change, ServiceControl};
use crate::control::gate;

impl ServiceControl {
    pub(super) fn tell_of_settling(&mut self) {
        let slots = self.homes.settling();
        if slots > 0 {
            let time = self.spread.settle;
            self.changes.push(Change::Settling { slots, time });
        }
    }

    pub(super) fn tell_of_gate(&mut self, index: usize, moved: Option<gate::Move>) {
        let Some(moved) = moved else {
            return;
        };
        let backend = self.backends[index].name.clone();
        let alpha = self.backends[index].gate.alpha();
        self.changes.push(match moved {
            gate::Move::Closed(cpu) => Change::GateClosed {
                backend,
                cpu,
                alpha,
            },
            gate::Move::Opened(cpu) => Change::GateOpened { backend, cpu },
        });
    }

    pub(super) fn notice_all(&mut self) {
        for index in 0..self.backends.len() {
            self.notice(index);
        }
    }

    /// Compares what is seen of a backend with what was, and tells the difference.
    pub(super) fn notice(&mut self, index: usize) {
        let shown = self.backends[index].shown(self.now);
        let before = std::mem::replace(&mut self.shown[index], shown);
        if before == shown {
            return;
        }
        self.version += 1;
        if shown.is_saved_otherwise(&before) {
            self.saved_version += 1;
        }
        let backend = &self.backends[index];
        self.changes
            .extend(shown.changes_since(&before, backend, self.now));
        if before.open != shown.open {
            self.notice_open();
        }
    }

    pub(super) fn notice_open(&mut self) {
        let open = self.shown.iter().any(|shown| shown.open);
        if std::mem::replace(&mut self.somebody_open, open) != open {
            self.changes.push(if open {
                Change::SomebodyOpen
            } else {
                Change::NobodyOpen
            });
        }
    }

    /// Tells when the forwarder begins or ceases to suspect itself; `heard`: because of a heartbeat or
    /// an answer.
    pub(super) fn notice_suspicion(&mut self, heard: bool) {
        let suspecting = || self.backends.iter().filter(|b| b.is_suspecting());
        let backends = suspecting().count();
        let heartbeats = suspecting().any(Backend::misses_all_heartbeats);
        let suspects = backends > 0;
        if std::mem::replace(&mut self.suspects_itself, suspects) == suspects {
            return;
        }
        self.version += 1;
        self.changes.push(if suspects {
            Change::SuspectsItself {
                backends,
                heartbeats,
            }
        } else {
            let heard = heard || self.backends.iter().any(Backend::is_alive);
            Change::TrustsItself { heard }
        });
    }
}
