//! Which backends take large messages by TCP, as the daemon's questions found.

use std::{collections::HashSet, net::SocketAddr};

use arc_swap::ArcSwap;

/// The backends that answer by TCP, of services with `large_by_tcp`. Replaced whole; read without a lock.
#[derive(Debug, Default)]
pub struct Reach {
    by_tcp: ArcSwap<HashSet<SocketAddr>>,
}

impl Reach {
    /// May large messages go to this backend by TCP? Not before it answered that way.
    #[must_use]
    pub fn takes_large_by_tcp(&self, backend: SocketAddr) -> bool {
        self.by_tcp.load().contains(&backend)
    }

    /// From now on it is these.
    pub fn set(&self, backends: HashSet<SocketAddr>) {
        if **self.by_tcp.load() != backends {
            self.by_tcp.store(backends.into());
        }
    }
}
