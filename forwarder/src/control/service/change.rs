//! What happened, for the log: one line each.

use std::{fmt, time::Duration};

use crate::control::{
    liveness::Death,
    overrides::{Admin, Override},
};

/// How loudly a change is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Good to know.
    Info,
    /// Somebody should look.
    Warn,
}

/// Something that happened to a service.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "the text of each is its documentation")]
pub enum Change {
    /// A backend died.
    Dead { backend: String, why: Death },
    /// It lives again.
    Alive { backend: String },
    /// Its gate closed.
    GateClosed {
        backend: String,
        cpu: f64,
        alpha: f64,
    },
    /// Its gate opened; without a CPU figure because there are none any more.
    GateOpened { backend: String, cpu: Option<f64> },
    /// It says that it is full, and is left alone for so long.
    Full { backend: String, time: Duration },
    /// It takes new calls again.
    NotFull { backend: String },
    /// Its agent says that it drains, or no longer.
    AgentDrains { backend: String, drains: bool },
    /// The operator ordered something; `weight` is the one in force.
    Ordered {
        backend: String,
        order: Override,
        weight: u16,
    },
    /// It lives by its answers to OPTIONS, because no heartbeat came since the start (or, `ever`, no
    /// more of them).
    NoHeartbeat { backend: String, ever: bool },
    /// By TCP, which is for large messages, it answers again, or no longer.
    LargeByTcp { backend: String, answers: bool },
    /// Its heartbeats are there.
    Heartbeat { backend: String },
    /// All heartbeats ended at once, or all answers to OPTIONS.
    SuspectsItself { backends: usize, heartbeats: bool },
    /// Somebody is `heard` again, or nobody is left to wait for.
    TrustsItself { heard: bool },
    /// The configuration changed, and slots began to settle.
    Settling { slots: usize, time: Duration },
    /// Homes followed the configuration.
    Settled { slots: usize, left: usize },
    /// Nobody takes new calls.
    NobodyOpen,
    /// Somebody does again.
    SomebodyOpen,
}

impl Change {
    /// How loudly it is told.
    #[must_use]
    pub const fn level(&self) -> Level {
        match self {
            Self::Dead { .. }
            | Self::GateClosed { .. }
            | Self::Full { .. }
            | Self::NoHeartbeat { .. }
            | Self::LargeByTcp { answers: false, .. }
            | Self::SuspectsItself { .. }
            | Self::NobodyOpen => Level::Warn,
            _ => Level::Info,
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dead { backend, why } => write!(f, "backend {backend} is dead: {why}"),
            Self::Alive { backend } => write!(f, "backend {backend} is alive again"),
            Self::GateClosed {
                backend,
                cpu,
                alpha,
            } => write!(f, "gate of {backend} closed: CPU {cpu:.2} > {alpha:.2}"),
            Self::GateOpened {
                backend,
                cpu: Some(cpu),
            } => write!(f, "gate of {backend} opened: CPU {cpu:.2}"),
            Self::GateOpened { backend, cpu: None } => {
                write!(f, "gate of {backend} opened: its CPU is no longer reported")
            }
            Self::Full { backend, time } => write!(
                f,
                "backend {backend} is full: it answered 503, no new calls for {} ms",
                time.as_millis()
            ),
            Self::NotFull { backend } => write!(f, "backend {backend} is no longer full"),
            Self::AgentDrains {
                backend,
                drains: true,
            } => write!(f, "backend {backend} drains: its agent says so"),
            Self::AgentDrains { backend, .. } => {
                write!(f, "backend {backend} no longer drains: its agent says so")
            }
            Self::Ordered {
                backend,
                order,
                weight,
            } => {
                let admin = match order.admin {
                    Admin::Enabled => "enabled",
                    Admin::Draining => "draining",
                    Admin::Disabled => "disabled",
                };
                write!(f, "by order, backend {backend} is {admin}, weight {weight}")
            }
            Self::NoHeartbeat {
                backend,
                ever: false,
            } => write!(
                f,
                "no heartbeat of {backend} yet; it answers OPTIONS and lives by that: is its agent there?"
            ),
            Self::NoHeartbeat { backend, .. } => write!(
                f,
                "no heartbeat of {backend} any more; it answers OPTIONS and lives by that: is its agent there?"
            ),
            Self::LargeByTcp {
                backend,
                answers: true,
            } => write!(
                f,
                "backend {backend} answers by tcp: large messages go that way"
            ),
            Self::LargeByTcp { backend, .. } => write!(
                f,
                "backend {backend} does not answer by tcp: large messages go by udp"
            ),
            Self::Heartbeat { backend } => write!(f, "heartbeats of {backend} are there"),
            Self::SuspectsItself {
                backends,
                heartbeats: false,
            } => write!(
                f,
                "all answers to OPTIONS ended at once ({backends} backends): the forwarder suspects itself, nobody is dead for it before another second"
            ),
            Self::SuspectsItself { backends, .. } => write!(
                f,
                "all heartbeats ended at once ({backends} backends): the forwarder suspects itself, nobody is dead for it, all are asked by OPTIONS"
            ),
            Self::TrustsItself { heard: false } => {
                f.write_str("no heartbeats and no answers to OPTIONS: nobody is alive")
            }
            Self::TrustsItself { .. } => {
                f.write_str("backends are heard again: the forwarder no longer suspects itself")
            }
            Self::Settling { slots, time } => write!(
                f,
                "{slots} slots settle: their calls stay where they are for up to {} s",
                time.as_secs_f64()
            ),
            Self::Settled { slots, left: 0 } => {
                write!(f, "{slots} slots settled; none is settling now")
            }
            Self::Settled { slots, left } => {
                write!(f, "{slots} slots settled; {left} are settling still")
            }
            Self::NobodyOpen => f.write_str("no backend takes new calls"),
            Self::SomebodyOpen => f.write_str("new calls are taken again"),
        }
    }
}
