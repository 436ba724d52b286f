//! Asks backends by OPTIONS whether they live: the messages and the sockets. When to ask, and what
//! follows from an answer, is decided in `control`.

mod conversation;
mod message;
#[cfg(test)]
mod tests;

use std::{
    collections::{HashMap, hash_map::Entry},
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::{sync::mpsc::Sender, task::AbortHandle};
use tracing::{debug, warn};

use conversation::Line;

pub use crate::control::probing::Answer;

/// The outcome of one ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probed {
    /// The service.
    pub service: String,
    /// The backend of that service.
    pub backend: String,
    /// What it said.
    pub answer: Answer,
}

/// Asks backends, each from a socket of its own. Lives on a current-thread runtime; whatever is under
/// way ends when it is dropped.
#[derive(Debug)]
pub struct Prober {
    results: Sender<Probed>,
    backends: HashMap<(String, String), Target>,
    faults: Arc<Faults>,
}

#[derive(Debug)]
struct Target {
    address: SocketAddr,
    line: Arc<Line>,
    /// The ask under way, or the last one.
    ask: Option<AbortHandle>,
}

impl Prober {
    /// One that tells `results`.
    #[must_use]
    pub fn new(results: Sender<Probed>) -> Self {
        Self {
            results,
            backends: HashMap::new(),
            faults: Arc::default(),
        }
    }

    /// Sends one OPTIONS, once more after half of `timeout` in case a datagram was lost, and tells
    /// the outcome after `timeout` at the latest: exactly one for each ask that begins. While one is
    /// under way none begins, and the outcome of that one will do. Only an ask at another address
    /// ends one that is under way; as after [`forget`](Self::forget), its outcome is not told.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn ask(&mut self, service: &str, backend: &str, address: SocketAddr, timeout: Duration) {
        let key = (service.to_owned(), backend.to_owned());
        let outcome = |answer| Probed {
            service: service.to_owned(),
            backend: backend.to_owned(),
            answer,
        };
        if self.is_under_way(&key, address) {
            return;
        }
        let (results, faults) = (self.results.clone(), Arc::clone(&self.faults));
        match self.target(key, address) {
            Ok(target) => {
                let (line, mut probed) = (Arc::clone(&target.line), outcome(Answer::Silent));
                let ask = tokio::spawn(async move {
                    let answer = line.converse(timeout).await;
                    probed.answer = answer.unwrap_or_else(|error| faults.answer(address, &error));
                    tell(&results, probed).await;
                });
                target.ask = Some(ask.abort_handle());
            }
            Err(error) => {
                let probed = outcome(faults.answer(address, &error));
                tokio::spawn(async move { tell(&results, probed).await });
            }
        }
    }

    fn is_under_way(&self, key: &(String, String), address: SocketAddr) -> bool {
        self.backends.get(key).is_some_and(|target| {
            let ask = target.ask.as_ref();
            target.address == address && ask.is_some_and(|ask| !ask.is_finished())
        })
    }

    /// Stops asking a backend that is no longer configured. An outcome that was told before may
    /// still wait in the channel.
    pub fn forget(&mut self, service: &str, backend: &str) {
        self.backends
            .remove(&(service.to_owned(), backend.to_owned()));
    }

    /// The backend, with a socket that is good for another ask, and no ask under way.
    fn target(&mut self, key: (String, String), address: SocketAddr) -> io::Result<&mut Target> {
        match self.backends.entry(key) {
            Entry::Occupied(known) => {
                let target = known.into_mut();
                target.stop();
                if target.address != address || target.line.is_worn() {
                    target.line = Arc::new(Line::open(address)?);
                    target.address = address;
                }
                Ok(target)
            }
            Entry::Vacant(new) => Ok(new.insert(Target {
                address,
                line: Arc::new(Line::open(address)?),
                ask: None,
            })),
        }
    }
}

/// Faults on this side, told at most once in a while: they concern all backends, and come with every
/// ask.
#[derive(Debug, Default)]
struct Faults {
    told: Mutex<Option<Instant>>,
}

impl Faults {
    const PAUSE: Duration = Duration::from_mins(1);

    /// What an error means: the network's word, or a fault on this side.
    fn answer(&self, address: SocketAddr, error: &io::Error) -> Answer {
        if conversation::says_unreachable(error) {
            debug!(%address, %error, "a backend cannot be reached");
            return Answer::Unreachable;
        }
        if self.may_tell(Instant::now()) {
            warn!(%address, %error, "cannot ask backends by OPTIONS, a fault on this side; until it is mended nobody is found dead or alive by that");
        }
        Answer::NotAsked
    }

    fn may_tell(&self, now: Instant) -> bool {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let may = told.is_none_or(|told| now.saturating_duration_since(told) >= Self::PAUSE);
        if may {
            *told = Some(now);
        }
        may
    }
}

impl Target {
    fn stop(&mut self) {
        if let Some(ask) = self.ask.take() {
            ask.abort();
        }
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A receiver that is gone wants to know nothing.
async fn tell(results: &Sender<Probed>, probed: Probed) {
    let _ = results.send(probed).await;
}
