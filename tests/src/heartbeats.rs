//! Heartbeats without agents: any number of backends that report from one socket, and datagrams that no forwarder may
//! believe.

use std::net::UdpSocket;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use sip_forwarder::heartbeat::{Announcer, MasterKey, State, announcer, wire};

use crate::agent::PORT;
use crate::lab::{Family, Host, Lab};

/// What the forwarder of the lab is called.
pub const FORWARDER: &str = "lab";
/// How busy every backend of a [`Chorus`] says it is.
const CPU: f64 = 0.25;
/// Heartbeats of a [`Chorus`] that are recorded, from the first on.
const RECORDED: usize = 4_096;
/// A [`Chorus`] wakes at most so often; what is due by then goes out at once.
const STEP: Duration = Duration::from_millis(1);

/// A UDP socket in a host of the lab, connected to where the forwarder takes heartbeats.
pub fn socket(lab: &Lab, host: Host, family: Family) -> Result<UdpSocket> {
    let (from, to) = (host.socket(family, 0), (host.gateway(family), PORT));
    lab.enter(host, move || {
        let socket = UdpSocket::bind(from)?;
        socket.connect(to)?;
        Ok::<_, std::io::Error>(socket)
    })?
    .with_context(|| format!("cannot open a socket for heartbeats in {host}"))
}

/// Whose heartbeats a [`Chorus`] sends.
#[derive(Clone, Copy, Debug)]
pub struct Voices<'a> {
    /// The key that the forwarder has.
    pub key: &'a MasterKey,
    /// The service of all of them.
    pub service: &'a str,
    /// The backends.
    pub backends: &'a [String],
    /// How often each of them reports.
    pub interval: Duration,
}

/// What a [`Chorus`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spoken {
    /// Heartbeats sent.
    pub sent: u64,
    /// Challenges heeded: so many of the heartbeats began no session.
    pub heeded: u64,
}

/// Backends that report, running, in turn and evenly spread over the interval; until dropped.
#[derive(Debug)]
pub struct Chorus {
    shared: Arc<Shared>,
    /// Dropping it ends the thread.
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    sent: AtomicU64,
    heeded: AtomicU64,
    recorded: Mutex<Vec<Vec<u8>>>,
}

impl Chorus {
    /// Begins to report from a host of the lab.
    pub fn start(lab: &Lab, host: Host, family: Family, voices: Voices<'_>) -> Result<Self> {
        ensure!(!voices.backends.is_empty(), "nobody to speak for");
        let socket = socket(lab, host, family)?;
        socket.set_nonblocking(true)?;
        let shared = Arc::new(Shared::default());
        let speakers = voices
            .backends
            .iter()
            .map(|backend| Ok(announcer(voices.key, voices.service, backend, FORWARDER)?))
            .collect::<Result<Vec<_>>>()?;
        let labels = voices
            .backends
            .iter()
            .map(|backend| format!("{}/{backend}", voices.service).into_bytes())
            .collect();
        let work = Work {
            socket,
            speakers,
            labels,
            interval: voices.interval,
            shared: Arc::clone(&shared),
        };
        let (stop, stopped) = channel();
        let thread = thread::Builder::new()
            .name("chorus".to_owned())
            .spawn(move || work.run(&stopped))
            .context("cannot start the thread of the heartbeats")?;
        Ok(Self {
            shared,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// What it did so far.
    #[must_use]
    pub fn spoken(&self) -> Spoken {
        Spoken {
            sent: self.shared.sent.load(Ordering::Relaxed),
            heeded: self.shared.heeded.load(Ordering::Relaxed),
        }
    }

    /// The first heartbeats it sent: those before its sessions began, and then those that were believed.
    #[must_use]
    pub fn recorded(&self) -> Vec<Vec<u8>> {
        let recorded = self.shared.recorded.lock();
        recorded.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Falls silent.
    pub fn stop(&mut self) -> Spoken {
        self.end();
        self.spoken()
    }

    fn end(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            eprintln!("lab: the thread of the heartbeats panicked");
        }
    }
}

impl Drop for Chorus {
    fn drop(&mut self) {
        self.end();
    }
}

/// What the thread owns.
struct Work {
    socket: UdpSocket,
    speakers: Vec<Announcer>,
    labels: Vec<Vec<u8>>,
    interval: Duration,
    shared: Arc<Shared>,
}

impl Work {
    fn run(mut self, stopped: &Receiver<()>) {
        let count = self.speakers.len();
        let pace = self.interval / count as u32;
        let start = Instant::now();
        let mut turn = 0;
        while stopped.recv_timeout(pace.max(STEP)) == Err(RecvTimeoutError::Timeout) {
            let due = start.elapsed().as_nanos() / pace.as_nanos().max(1);
            while (turn as u128) < due {
                self.beat(turn % count);
                turn += 1;
            }
            self.heed();
        }
    }

    fn beat(&mut self, index: usize) {
        let datagram = self.speakers[index].heartbeat(Some(CPU), State::Running);
        // A forwarder that does not run hears nothing.
        if self.socket.send(&datagram).is_ok() {
            self.shared.sent.fetch_add(1, Ordering::Relaxed);
        }
        let recorded = self.shared.recorded.lock();
        let mut recorded = recorded.unwrap_or_else(PoisonError::into_inner);
        if recorded.len() < RECORDED {
            recorded.push(datagram);
        }
    }

    /// Heeds the challenges that came, and reports at once, as an agent does.
    fn heed(&mut self) {
        let mut room = [0; wire::LONGEST + 1];
        while let Ok(length) = self.socket.recv(&mut room) {
            let challenge = &room[..length];
            let Ok(received) = wire::read(challenge) else {
                continue;
            };
            let whose = received.message.agent;
            let index = self.labels.iter().position(|label| label == whose);
            if let Some(index) = index
                && self.speakers[index].heed(challenge).is_ok()
            {
                self.shared.heeded.fetch_add(1, Ordering::Relaxed);
                self.beat(index);
            }
        }
    }
}

fn announcer(
    key: &MasterKey,
    service: &str,
    backend: &str,
    forwarder: &str,
) -> Result<Announcer, sip_forwarder::heartbeat::keys::KeyError> {
    let key = key.agent_key(service, backend);
    let boot = announcer::new_boot_id()?;
    Ok(Announcer::new(service, backend, &key, boot, forwarder))
}

/// What may be wrong with a datagram for the forwarder's ears.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// Signed with another key.
    Forged,
    /// No heartbeat at all.
    Garbage,
    /// A good one without its last byte.
    Truncated,
    /// A good one with more behind it.
    Oversized,
    /// Of another version of the protocol.
    WrongVersion,
    /// For another forwarder.
    WrongForwarder,
    /// Of a backend that is not configured, under its right key.
    UnknownBackend,
}

impl Flaw {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Forged,
        Self::Garbage,
        Self::Truncated,
        Self::Oversized,
        Self::WrongVersion,
        Self::WrongForwarder,
        Self::UnknownBackend,
    ];

    /// Which of the `heartbeats` in the status counts it.
    #[must_use]
    pub const fn counter(self) -> &'static str {
        match self {
            Self::Forged => "forged",
            Self::Garbage | Self::Truncated | Self::Oversized => "malformed",
            Self::WrongVersion => "wrong_version",
            Self::WrongForwarder => "wrong_forwarder",
            Self::UnknownBackend => "unknown_backend",
        }
    }

    /// A datagram with this flaw, which says that `backend` stopped: believed, it would kill it.
    pub fn datagram(self, key: &MasterKey, service: &str, backend: &str) -> Result<Vec<u8>> {
        let said = |key: &MasterKey, backend, forwarder| -> Result<Vec<u8>> {
            Ok(announcer(key, service, backend, forwarder)?.heartbeat(None, State::Stopped))
        };
        if self == Self::WrongForwarder {
            return said(key, backend, "elsewhere");
        }
        if self == Self::UnknownBackend {
            return said(key, "nobody", FORWARDER);
        }
        if self == Self::Forged {
            return said(&MasterKey::random()?, backend, FORWARDER);
        }
        let mut datagram = said(key, backend, FORWARDER)?;
        match self {
            Self::Garbage => datagram.fill(0x5a),
            Self::Truncated => datagram.truncate(datagram.len() - 1),
            Self::Oversized => datagram.resize(1_400, 0),
            Self::WrongVersion => datagram[4] = 2,
            Self::Forged | Self::WrongForwarder | Self::UnknownBackend => {}
        }
        Ok(datagram)
    }
}
