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
    sync::Arc,
    time::Duration,
};

use tokio::{sync::mpsc::Sender, task::AbortHandle};
use tracing::debug;

use conversation::Line;

/// What a backend had to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Any response but 503: whoever refuses lives too.
    Ok,
    /// 503: it lives, and wants no new calls.
    Full {
        /// For how long, by its `Retry-After` (RFC 3261 section 20.33), uncapped.
        retry_after: Option<Duration>,
    },
    /// Nothing within the time it was given.
    Silent,
    /// The network says that nobody is there: an ICMP error, or no route.
    Unreachable,
}

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
        }
    }

    /// Sends one OPTIONS, once more after half of `timeout` in case a datagram was lost, and tells
    /// the outcome after `timeout` at the latest: exactly one for each ask, but none for an ask that
    /// a newer one of the same backend finds under way. So ask again only when the outcome is there:
    /// whoever asks more often than `timeout` never hears that a backend is silent.
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
        let results = self.results.clone();
        match self.target(key, address) {
            Ok(target) => {
                let (line, mut probed) = (Arc::clone(&target.line), outcome(Answer::Silent));
                let ask = tokio::spawn(async move {
                    probed.answer = line.converse(timeout).await;
                    tell(&results, probed).await;
                });
                target.ask = Some(ask.abort_handle());
            }
            Err(error) => {
                debug!(service, backend, %address, %error, "cannot open a socket towards it");
                let probed = outcome(Answer::Unreachable);
                tokio::spawn(async move { tell(&results, probed).await });
            }
        }
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
