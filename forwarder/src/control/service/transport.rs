//! Whether a backend is reached by a transport, where that says something beside what its watch says.

use std::time::Duration;

use super::backend::Asking;
use crate::{
    config::{self, BackendTransport, Health},
    control::{Now, liveness::Death, probing::Probing},
};

/// What follows if a transport does not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bearing {
    /// The backend is dead, whatever its agent says.
    Life,
    /// Large messages do not go by it.
    LargeMessages,
}

/// A transport that is asked by itself.
#[derive(Clone, Debug)]
pub(super) struct TransportCheck {
    pub(super) probing: Probing,
    pub(super) transport: BackendTransport,
    pub(super) bearing: Bearing,
}

impl TransportCheck {
    /// The check that a backend needs, if it does. An agent knows nothing of connections, so they are
    /// asked beside it; who is watched by OPTIONS is asked by the transport in use anyway.
    pub(super) fn new(
        now: Now,
        health: Health,
        asking: Asking,
        death: Option<Death>,
    ) -> Option<Self> {
        let (transport, bearing) = kind(health, asking)?;
        // Until TCP was found to work, large messages go as all others do.
        let death = match bearing {
            Bearing::Life => death,
            Bearing::LargeMessages => Some(Death::Unproven),
        };
        Some(Self {
            probing: Probing::new(now, asking.delay, probe(asking), death),
            transport,
            bearing,
        })
    }

    /// What is left of a check after a change of the configuration, or a new one. Whoever lives goes on
    /// living until the other transport is found dead.
    pub(super) fn configured(
        check: Option<Self>,
        now: Now,
        health: Health,
        asking: Asking,
        death: Option<Death>,
    ) -> Option<Self> {
        match check {
            Some(mut same) if kind(health, asking) == Some((same.transport, same.bearing)) => {
                same.probing.configure(now, probe(asking));
                Some(same)
            }
            _ => {
                let at_once = Asking {
                    delay: Duration::ZERO,
                    ..asking
                };
                Self::new(now, health, at_once, death)
            }
        }
    }
}

const fn kind(health: Health, asking: Asking) -> Option<(BackendTransport, Bearing)> {
    match (asking.transport, health) {
        (_, Health::None) => None,
        (BackendTransport::Udp, _) if asking.large_by_tcp => {
            Some((BackendTransport::Tcp, Bearing::LargeMessages))
        }
        (BackendTransport::Tcp | BackendTransport::Tls, Health::Agent) => {
            Some((asking.transport, Bearing::Life))
        }
        _ => None,
    }
}

/// One answer is proof enough: for the backend's life there is its agent's word as well, and large
/// messages have another way.
const fn probe(asking: Asking) -> config::Probe {
    config::Probe {
        up: 1,
        ..asking.probe
    }
}
