//! What a service's control decided, for the data plane and for people.

use std::{net::SocketAddr, time::Duration};

use serde::Serialize;

use crate::{
    config::BackendTransport,
    control::{Now, liveness::Death},
};

/// A backend's state in one word: the first that applies, from the bottom up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It takes new calls.
    Alive,
    /// It said that it is full.
    Full,
    /// Its gate is closed.
    Gated,
    /// It takes no new calls, by order or because its agent says so.
    Draining,
    /// It is dead.
    Dead,
    /// It is given nothing, by order.
    Disabled,
}

impl State {
    /// The word.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Alive => "alive",
            Self::Full => "full",
            Self::Gated => "gated",
            Self::Draining => "draining",
            Self::Dead => "dead",
            Self::Disabled => "disabled",
        }
    }
}

/// One backend.
#[derive(Clone, Debug, PartialEq)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "a table row: each is shown by itself"
)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// Where it listens.
    pub address: SocketAddr,
    /// How messages get to it.
    pub transport: BackendTransport,
    /// By which transports it was asked, and does not answer.
    pub transports_down: Vec<BackendTransport>,
    /// May large messages go to it by TCP? `None` if the configuration does not want them to.
    pub large_by_tcp: Option<bool>,
    /// The weight in force: the configured one, or that of an order.
    pub weight: u16,
    /// May messages of its calls be sent to it?
    pub alive: bool,
    /// May new calls be given to it?
    pub open: bool,
    /// Everything in one word.
    pub state: State,
    /// Is its gate closed?
    pub gate_closed: bool,
    /// Its smoothed CPU, from 0 to 1, if it reports any.
    pub cpu: Option<f64>,
    /// Does its agent say that it drains?
    pub agent_drains: bool,
    /// Why it is dead.
    pub death: Option<Death>,
    /// Alive on probation: without heartbeats, and asked by OPTIONS; or watched by OPTIONS, and
    /// silent like everybody.
    pub suspected: bool,
    /// How long ago it was heard: its agent's heartbeat, or its answer to OPTIONS. `None`: never
    /// since the start, or nobody asks.
    pub heard: Option<Duration>,
}

/// One service.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Its backends, in the order of the configuration.
    pub members: Vec<Member>,
    /// Did all heartbeats, or all answers to OPTIONS, end at once, so that the forwarder doubts its
    /// own ears?
    pub suspects_itself: bool,
    /// Slots whose home is not what the configuration says.
    pub settling: usize,
    /// When the next of them follow.
    pub next_settled: Option<Now>,
}
