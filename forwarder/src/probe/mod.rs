//! Asks backends by OPTIONS whether they live: the messages and the sockets. When to ask, and what
//! follows from an answer, is decided in `control`.

mod conversation;
mod message;
mod stream;
#[cfg(test)]
mod stream_tests;
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
use stream::{Security, StreamLine};

pub use crate::control::probing::{Answer, Question};
use crate::stream::tls::ClientTls;

/// The outcome of one ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probed {
    /// The service.
    pub service: String,
    /// The backend of that service.
    pub backend: String,
    /// What was asked.
    pub question: Question,
    /// What it said.
    pub answer: Answer,
}

/// How a backend is asked.
#[derive(Clone, Debug)]
pub enum Way {
    /// In datagrams.
    Udp,
    /// Over a connection.
    Tcp,
    /// Over TLS.
    Tls {
        /// Whom to believe.
        tls: Arc<ClientTls>,
        /// The name in the backend's certificate.
        name: String,
    },
}

impl Way {
    /// Would what was asked that way do for this one?
    fn is_like(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Udp, Self::Udp) | (Self::Tcp, Self::Tcp) => true,
            (Self::Tls { tls, name }, Self::Tls { tls: t, name: n }) => {
                Arc::ptr_eq(tls, t) && name == n
            }
            _ => false,
        }
    }
}

/// What is asked of whom.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Subject {
    /// The service.
    pub service: String,
    /// The backend of that service.
    pub backend: String,
    /// The question.
    pub question: Question,
}

/// Asks backends, each from a socket of its own, for each question. Lives on a current-thread runtime; whatever is under
/// way ends when it is dropped.
#[derive(Debug)]
pub struct Prober {
    results: Sender<Probed>,
    targets: HashMap<Subject, Target>,
    faults: Arc<Faults>,
}

#[derive(Debug)]
struct Target {
    address: SocketAddr,
    way: Way,
    line: Arc<AnyLine>,
    /// The ask under way, or the last one.
    ask: Option<AbortHandle>,
}

/// A socket or connection towards one backend.
#[derive(Debug)]
enum AnyLine {
    Datagrams(Line),
    Stream(StreamLine),
}

impl AnyLine {
    fn open(address: SocketAddr, way: &Way) -> io::Result<Self> {
        Ok(match way {
            Way::Udp => Self::Datagrams(Line::open(address)?),
            Way::Tcp => Self::Stream(StreamLine::new(address, None)),
            Way::Tls { tls, name } => {
                let security = Security {
                    tls: Arc::clone(tls),
                    name: name.clone(),
                };
                Self::Stream(StreamLine::new(address, Some(security)))
            }
        })
    }

    async fn converse(&self, timeout: Duration) -> io::Result<Answer> {
        match self {
            Self::Datagrams(line) => line.converse(timeout).await,
            Self::Stream(line) => line.converse(timeout).await,
        }
    }

    fn is_worn(&self) -> bool {
        match self {
            Self::Datagrams(line) => line.is_worn(),
            // It opens another connection by itself.
            Self::Stream(_) => false,
        }
    }

    /// Does an error say that the backend cannot be reached?
    fn says_unreachable(&self, error: &io::Error) -> bool {
        match self {
            Self::Datagrams(_) => conversation::says_unreachable(error),
            Self::Stream(_) => stream::is_backends(error),
        }
    }
}

impl Prober {
    /// One that tells `results`.
    #[must_use]
    pub fn new(results: Sender<Probed>) -> Self {
        Self {
            results,
            targets: HashMap::new(),
            faults: Arc::default(),
        }
    }

    /// Sends one OPTIONS and tells the outcome after `timeout` at the latest: exactly one for each ask
    /// that begins. In case a datagram was lost, it is sent once more after half of that time; a
    /// connection is kept for the next ask. While one is under way none begins, and the outcome of that
    /// one will do. Only an ask at another address or by another way ends one that is under way; as after
    /// [`forget`](Self::forget), its outcome is not told.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn ask(&mut self, subject: &Subject, address: SocketAddr, way: &Way, timeout: Duration) {
        let outcome = |answer| Probed {
            service: subject.service.clone(),
            backend: subject.backend.clone(),
            question: subject.question,
            answer,
        };
        if self.is_under_way(subject, address, way) {
            return;
        }
        let (results, faults) = (self.results.clone(), Arc::clone(&self.faults));
        match self.target(subject, address, way) {
            Ok(target) => {
                let (line, mut probed) = (Arc::clone(&target.line), outcome(Answer::Silent));
                let ask = tokio::spawn(async move {
                    let answer = line.converse(timeout).await;
                    probed.answer = answer.unwrap_or_else(|error| {
                        faults.answer(address, &error, line.says_unreachable(&error))
                    });
                    tell(&results, probed).await;
                });
                target.ask = Some(ask.abort_handle());
            }
            Err(error) => {
                let unreachable = conversation::says_unreachable(&error);
                let probed = outcome(faults.answer(address, &error, unreachable));
                tokio::spawn(async move { tell(&results, probed).await });
            }
        }
    }

    fn is_under_way(&self, subject: &Subject, address: SocketAddr, way: &Way) -> bool {
        self.targets.get(subject).is_some_and(|target| {
            let ask = target.ask.as_ref();
            target.is_at(address, way) && ask.is_some_and(|ask| !ask.is_finished())
        })
    }

    /// Stops asking a backend that is no longer configured. An outcome that was told before may
    /// still wait in the channel.
    pub fn forget(&mut self, service: &str, backend: &str) {
        self.targets
            .retain(|subject, _| subject.service != service || subject.backend != backend);
    }

    /// The backend, with a socket that is good for another ask, and no ask under way.
    fn target(
        &mut self,
        subject: &Subject,
        address: SocketAddr,
        way: &Way,
    ) -> io::Result<&mut Target> {
        let open = || {
            Ok::<_, io::Error>(Target {
                address,
                way: way.clone(),
                line: Arc::new(AnyLine::open(address, way)?),
                ask: None,
            })
        };
        match self.targets.entry(subject.clone()) {
            Entry::Occupied(known) => {
                let target = known.into_mut();
                target.stop();
                if !target.is_at(address, way) || target.line.is_worn() {
                    *target = open()?;
                }
                Ok(target)
            }
            Entry::Vacant(new) => Ok(new.insert(open()?)),
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

    /// What an error means: the network's or the backend's word, or a fault on this side.
    fn answer(&self, address: SocketAddr, error: &io::Error, says_unreachable: bool) -> Answer {
        if says_unreachable {
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
    fn is_at(&self, address: SocketAddr, way: &Way) -> bool {
        self.address == address && self.way.is_like(way)
    }

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
