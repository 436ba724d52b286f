//! What the API asks of the daemon.

use std::fmt;

use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::status::Status;

/// The daemon, as the API sees it. Whatever a future has begun must be finished even if it is
/// dropped: a caller may hang up.
pub trait Operator: Send + Sync + 'static {
    /// The whole picture.
    fn status(&self) -> BoxFuture<'_, Result<Status, Refusal>>;

    /// Changes a backend; returns once the change is in the ring.
    fn change(
        &self,
        service: &str,
        backend: &str,
        change: Change,
    ) -> BoxFuture<'_, Result<Changed, Refusal>>;

    /// Reads the configuration file again; returns once it is in force.
    fn reload(&self) -> BoxFuture<'_, Result<Reloaded, Refusal>>;
}

/// What an operator may do to a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Another weight than the configured one, 1 to [`crate::config::WEIGHT_LIMIT`].
    Weight(u16),
    /// No new calls; those that are up stay.
    Drain,
    /// New calls again, after a drain or a disable.
    Enable,
    /// No calls at all.
    Disable,
}

/// What is now the case of a backend. Keys of the JSON form stay once published.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changed {
    /// Its service.
    pub service: String,
    /// Its name.
    pub backend: String,
    /// Its state, in the words of [`super::status::Backend::state`].
    pub state: String,
    /// Its weight, in effect as soon as it takes calls.
    pub weight: u16,
}

impl fmt::Display for Changed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            service,
            backend,
            state,
            weight,
        } = self;
        write!(f, "{service}: {backend} is {state}, weight {weight}")
    }
}

/// What a reload changed. Keys of the JSON form stay once published.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// One line for each difference; none if the file says what was in force already.
    pub changes: Vec<String>,
}

impl fmt::Display for Reloaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.changes.is_empty() {
            f.write_str("reloaded: nothing changed")
        } else {
            write!(f, "reloaded: {}", self.changes.join("; "))
        }
    }
}

/// Why something asked for was not done. Each is one line for the operator.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// There is no such service or backend: 404.
    #[error("{0}")]
    NotFound(String),
    /// What was asked for is not allowed, or the configuration file is not valid: 400.
    #[error("{0}")]
    Invalid(String),
    /// The daemon could not do it: 500.
    #[error("{0}")]
    Failed(String),
}
