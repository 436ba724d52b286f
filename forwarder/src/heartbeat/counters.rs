//! What became of the datagrams that came.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

/// Why a datagram was not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It is no heartbeat at all, or a damaged one.
    Malformed,
    /// It is of another version of the protocol.
    WrongVersion,
    /// No such backend is configured.
    UnknownBackend,
    /// It is meant for another forwarder.
    WrongForwarder,
    /// The signature is wrong: another key.
    Forged,
    /// Of this session, but not newer than what came before.
    Replayed,
    /// Of no session, and this backend had its challenges for now.
    Unchallenged,
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {
        /// Counters that one thread writes and any reads.
        #[derive(Debug, Default)]
        pub struct Counters {
            $(pub(super) $name: AtomicU64,)+
        }

        /// What the counters say, since the receiver started.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(default)]
        pub struct Counts {
            $($(#[$doc])* pub $name: u64,)+
        }

        impl Counters {
            /// What they say now.
            #[must_use]
            pub fn read(&self) -> Counts {
                Counts { $($name: self.$name.load(Ordering::Relaxed),)+ }
            }
        }
    };
}

counters! {
    /// Heartbeats that were believed.
    accepted,
    /// Heartbeats under the right key, but of no session: answered by a challenge.
    challenged,
    /// No heartbeats at all, or damaged ones.
    malformed,
    /// Of another version of the protocol.
    wrong_version,
    /// Of backends that are not configured.
    unknown_backend,
    /// For another forwarder.
    wrong_forwarder,
    /// With a wrong signature.
    forged,
    /// Not newer than what came before.
    replayed,
    /// Of no session, beyond the rate at which challenges are given.
    unchallenged,
    /// Times that a backend's reports changed back to an agent seen before: two agents speak for one
    /// backend.
    rivalries,
}

impl Counters {
    pub(super) fn ignored(&self, reason: Reason) {
        count(match reason {
            Reason::Malformed => &self.malformed,
            Reason::WrongVersion => &self.wrong_version,
            Reason::UnknownBackend => &self.unknown_backend,
            Reason::WrongForwarder => &self.wrong_forwarder,
            Reason::Forged => &self.forged,
            Reason::Replayed => &self.replayed,
            Reason::Unchallenged => &self.unchallenged,
        });
    }
}

pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
