//! What a forwarder believes. No I/O, no clock: the time is an argument.
//!
//! A heartbeat counts only if it carries a nonce this forwarder gave: to this boot id, in this
//! generation. A nonce is good for one session; the generation that made it is over as soon as the
//! session begins. So nothing recorded before a session began is ever believed again, whichever side
//! started anew since.
//!
//! # Challenges
//!
//! Whoever repeats recorded heartbeats of a backend gets challenges for them, as its agent does when it
//! starts. They are no weapon: a challenge is exactly as large as the heartbeat it answers and goes to
//! whom that came from, so nothing is amplified, and it is of use to nobody but the agent. Their number
//! is limited, to bound the signatures computed: 200 in a second for each backend, which repeated
//! heartbeats at a moderate rate do not exhaust, so its agent gets in beside them, and 10,000 in a
//! second for all together. There is no allowance for each boot id: those that were recorded are as many
//! as the agent had starts, and would have to be remembered without bound.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    counters::{Counters, Reason, count},
    keys::{KeyError, MasterKey, Signer},
    wire::{self, Kind, Message, State, Unverified},
};

/// Challenges to one backend in a second, or in a row.
const CHALLENGES_EACH: u32 = 200;
/// Challenges to all backends in a second, or in a row.
const CHALLENGES: u32 = 10_000;

/// A heartbeat that is believed.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// The service, as configured.
    pub service: Arc<str>,
    /// The backend, as configured.
    pub backend: Arc<str>,
    /// How busy its CPU was, from 0 to 1, if the agent knows.
    pub cpu: Option<f64>,
    /// How it is.
    pub state: State,
}

/// What is to be done about a datagram.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// Believe it.
    Accepted(Report),
    /// Send this back.
    Challenge(Vec<u8>),
    /// Nothing.
    Ignored(Reason),
}

/// The sessions of all backends.
pub struct Sessions {
    forwarder: Vec<u8>,
    /// Makes nonces. Random and never told, so those of an earlier start are worth nothing.
    secret: Signer,
    masters: Vec<MasterKey>,
    peers: HashMap<Box<[u8]>, Peer>,
    /// The last generation that was given out. Never used twice, not even for a backend that was
    /// taken away and came back.
    generation: u64,
    challenges: Allowance,
    counters: Arc<Counters>,
}

struct Peer {
    service: Arc<str>,
    backend: Arc<str>,
    /// One for each master key.
    signers: Vec<Signer>,
    session: Option<Session>,
    /// The boot id of the session before.
    previous: Option<u64>,
    generation: u64,
    challenges: Allowance,
    rivalry_told: bool,
}

#[derive(Clone, Copy)]
struct Session {
    boot: u64,
    nonce: u64,
    /// Of the newest heartbeat.
    sequence: u64,
}

/// Lets so much pass in a second, or in a row.
struct Allowance {
    /// The time that each takes.
    pause: Duration,
    /// When all that was taken is made up for.
    full: Option<Instant>,
}

impl Allowance {
    fn of(rate: u32) -> Self {
        Self {
            pause: Duration::from_secs(1) / rate,
            full: None,
        }
    }

    /// Is there any left?
    fn is_left(&self, now: Instant) -> bool {
        let taken = self
            .full
            .map_or(Duration::ZERO, |full| full.saturating_duration_since(now));
        taken + self.pause <= Duration::from_secs(1)
    }

    fn take(&mut self, now: Instant) {
        let full = self.full.map_or(now, |full| full.max(now));
        self.full = Some(full + self.pause);
    }
}

impl Sessions {
    /// No session yet, and no backend known. A heartbeat under any of `masters` counts.
    pub fn new(
        forwarder: &str,
        masters: Vec<MasterKey>,
        counters: Arc<Counters>,
    ) -> Result<Self, KeyError> {
        Ok(Self {
            forwarder: forwarder.into(),
            secret: Signer::random()?,
            masters,
            peers: HashMap::new(),
            generation: 0,
            challenges: Allowance::of(CHALLENGES),
            counters,
        })
    }

    /// Knows these backends (service, backend) from now on, and no others. Sessions of those that
    /// stay go on.
    pub fn set_known<'a>(&mut self, known: impl IntoIterator<Item = (&'a str, &'a str)>) {
        let mut old = std::mem::take(&mut self.peers);
        for (service, backend) in known {
            let label = format!("{service}/{backend}")
                .into_bytes()
                .into_boxed_slice();
            let peer = match old.remove(&label) {
                Some(peer) => peer,
                None => self.peer(service, backend),
            };
            self.peers.insert(label, peer);
        }
    }

    /// Believes heartbeats under these keys from now on. Sessions go on.
    pub fn set_masters(&mut self, masters: Vec<MasterKey>) {
        for peer in self.peers.values_mut() {
            peer.signers = signers(&masters, &peer.service, &peer.backend);
        }
        self.masters = masters;
    }

    fn peer(&mut self, service: &str, backend: &str) -> Peer {
        self.generation += 1;
        Peer {
            service: service.into(),
            backend: backend.into(),
            signers: signers(&self.masters, service, backend),
            session: None,
            previous: None,
            generation: self.generation,
            challenges: Allowance::of(CHALLENGES_EACH),
            rivalry_told: false,
        }
    }

    /// What is to be done about a datagram that came at `now`. What is cheap to check comes first; the
    /// signature is computed only for a backend that is known.
    pub fn receive(&mut self, datagram: &[u8], now: Instant) -> Outcome {
        let outcome = self.judge(datagram, now).unwrap_or_else(Outcome::Ignored);
        match &outcome {
            Outcome::Accepted(_) => count(&self.counters.accepted),
            Outcome::Challenge(_) => count(&self.counters.challenged),
            Outcome::Ignored(reason) => self.counters.ignored(*reason),
        }
        outcome
    }

    fn judge(&mut self, datagram: &[u8], now: Instant) -> Result<Outcome, Reason> {
        let received = wire::read(datagram)?;
        let message = received.message;
        let Kind::Heartbeat { state, cpu } = message.kind else {
            return Err(Reason::Malformed);
        };
        let peer = self
            .peers
            .get_mut(message.agent)
            .ok_or(Reason::UnknownBackend)?;
        if message.forwarder != self.forwarder {
            return Err(Reason::WrongForwarder);
        }
        let signer = peer.signer_of(&received).ok_or(Reason::Forged)?;
        if peer.continues(&message)? {
            // The usual case: nothing more to compute.
        } else if message.nonce == nonce(&self.secret, &message, peer.generation) {
            self.generation += 1;
            if peer.begin(&message, self.generation) {
                count(&self.counters.rivalries);
            }
        } else if peer.challenges.is_left(now) && self.challenges.is_left(now) {
            peer.challenges.take(now);
            self.challenges.take(now);
            let challenge = Message {
                kind: Kind::Challenge,
                nonce: nonce(&self.secret, &message, peer.generation),
                ..message
            };
            return Ok(Outcome::Challenge(challenge.sign(&peer.signers[signer])));
        } else {
            return Err(Reason::Unchallenged);
        }
        Ok(Outcome::Accepted(Report {
            service: peer.service.clone(),
            backend: peer.backend.clone(),
            cpu: cpu.map(wire::Share::part),
            state,
        }))
    }
}

fn signers(masters: &[MasterKey], service: &str, backend: &str) -> Vec<Signer> {
    masters
        .iter()
        .map(|master| Signer::of(&master.agent_key(service, backend)))
        .collect()
}

/// The nonce that begins a session of this agent's boot id in `generation`. It needs no memory: asked
/// twice, it is the same. Never 0, which means none.
fn nonce(secret: &Signer, message: &Message<'_>, generation: u64) -> u64 {
    let parts = [
        message.agent,
        b"\0",
        &message.boot.to_be_bytes(),
        &generation.to_be_bytes(),
    ];
    let start = secret.sign(parts).first_chunk().copied();
    u64::from_be_bytes(start.unwrap_or_default()).max(1)
}

impl Peer {
    /// Which of the keys a datagram was signed with.
    fn signer_of(&self, received: &Unverified<'_>) -> Option<usize> {
        self.signers
            .iter()
            .position(|signer| received.is_signed_by(signer))
    }

    /// Does a heartbeat belong to the session? Then it must be newer than all before.
    fn continues(&mut self, message: &Message<'_>) -> Result<bool, Reason> {
        let Some(session) = &mut self.session else {
            return Ok(false);
        };
        if (session.boot, session.nonce) != (message.boot, message.nonce) {
            return Ok(false);
        }
        if message.sequence <= session.sequence {
            return Err(Reason::Replayed);
        }
        session.sequence = message.sequence;
        Ok(true)
    }

    /// Begins a session, and with it a generation. True if an agent took the backend back from another
    /// one that took it from it: both run.
    fn begin(&mut self, message: &Message<'_>, generation: u64) -> bool {
        let last = self.session.map(|session| session.boot);
        let changed = last.is_some_and(|boot| boot != message.boot);
        let rivalry = changed && self.previous == Some(message.boot);
        if changed {
            self.previous = last;
        }
        self.generation = generation;
        self.session = Some(Session {
            boot: message.boot,
            nonce: message.nonce,
            sequence: message.sequence,
        });
        if rivalry && !self.rivalry_told {
            self.rivalry_told = true;
            tracing::warn!(
                service = %self.service,
                backend = %self.backend,
                "two agents report for one backend; stop one, or give it the name and key of its own backend"
            );
        }
        rivalry
    }
}

#[cfg(test)]
#[path = "sessions_tests.rs"]
mod tests;
