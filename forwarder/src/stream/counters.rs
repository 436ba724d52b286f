//! What became of connections.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::sip::transport::Transport;

/// Why a connection ended, or did not come about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The peer closed it.
    Peer,
    /// The network or the peer broke it.
    Broken,
    /// Nothing came or went for `idle_timeout`.
    Idle,
    /// No handshake or first message in `handshake_timeout`.
    Handshake,
    /// A message began and was not complete in `message_timeout`.
    Slow,
    /// The peer took nothing of what waited for it in `write_timeout`.
    Stalled,
    /// More than `write_buffer` waited for the peer.
    Backlog,
    /// What came was no SIP, or a message whose end cannot be known.
    Malformed,
    /// A message over a limit of size.
    TooLarge,
    /// The daemon ends, or the listener is no longer configured.
    Shutdown,
    /// There were `total` connections.
    RefusedTotal,
    /// There were `per_source` connections from its address.
    RefusedSource,
    /// There were `half_open` connections without a message.
    RefusedHalfOpen,
}

impl Ending {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::Peer,
        Self::Broken,
        Self::Idle,
        Self::Handshake,
        Self::Slow,
        Self::Stalled,
        Self::Backlog,
        Self::Malformed,
        Self::TooLarge,
        Self::Shutdown,
        Self::RefusedTotal,
        Self::RefusedSource,
        Self::RefusedHalfOpen,
    ];

    /// The word for it in `status`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Peer => "peer",
            Self::Broken => "broken",
            Self::Idle => "idle",
            Self::Handshake => "handshake",
            Self::Slow => "slow",
            Self::Stalled => "stalled",
            Self::Backlog => "backlog",
            Self::Malformed => "malformed",
            Self::TooLarge => "too-large",
            Self::Shutdown => "shutdown",
            Self::RefusedTotal => "refused-total",
            Self::RefusedSource => "refused-source",
            Self::RefusedHalfOpen => "refused-half-open",
        }
    }
}

/// Counts connections of all services together.
#[derive(Debug, Default)]
pub struct Counters {
    accepted: [AtomicU64; Transport::ALL.len()],
    opened: AtomicU64,
    failed: AtomicU64,
    repeated: AtomicU64,
    endings: [AtomicU64; Ending::ALL.len()],
}

impl Counters {
    pub(super) fn accept(&self, transport: Transport) {
        self.accepted[transport as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn open(&self) {
        self.opened.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn fail(&self) {
        self.failed.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn repeat(&self) {
        self.repeated.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn end(&self, ending: Ending) {
        self.endings[ending as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Connections that clients opened over this transport.
    #[must_use]
    pub fn of_accepted(&self, transport: Transport) -> u64 {
        self.accepted[transport as usize].load(Ordering::Relaxed)
    }

    /// Connections that the forwarder opened.
    #[must_use]
    pub fn of_opened(&self) -> u64 {
        self.opened.load(Ordering::Relaxed)
    }

    /// Connections that the forwarder tried to open in vain.
    #[must_use]
    pub fn of_failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    /// Requests that were sent again because the connection they went by broke.
    #[must_use]
    pub fn of_repeated(&self) -> u64 {
        self.repeated.load(Ordering::Relaxed)
    }

    /// Connections that ended so.
    #[must_use]
    pub fn of_ending(&self, ending: Ending) -> u64 {
        self.endings[ending as usize].load(Ordering::Relaxed)
    }
}
