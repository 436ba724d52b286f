//! The agent's side of one session, without I/O.

use super::{
    keys::{AgentKey, KeyError, Signer},
    wire::{self, Kind, Message, Share, State},
};

/// Why a datagram was no challenge to this agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotForUs;

/// Makes heartbeats for one forwarder and heeds its challenges.
#[derive(Clone)]
pub struct Announcer {
    agent: Vec<u8>,
    forwarder: Vec<u8>,
    signer: Signer,
    boot: u64,
    nonce: u64,
    /// Of the last heartbeat.
    sequence: u64,
    /// The last heartbeat when a challenge was last heeded. Challenges to it or to an older one are
    /// old themselves: recorded and sent again, they would end the session.
    heeded: u64,
}

impl std::fmt::Debug for Announcer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Announcer")
            .field("forwarder", &String::from_utf8_lossy(&self.forwarder))
            .field("sequence", &self.sequence)
            .finish_non_exhaustive()
    }
}

/// A boot id: random, one for each start of an agent.
pub fn new_boot_id() -> Result<u64, KeyError> {
    getrandom::u64().map_err(KeyError::Random)
}

impl Announcer {
    /// Speaks for `backend` of `service` to the forwarder of this name. Names have 1 to 63 bytes and
    /// no `/`.
    #[must_use]
    pub fn new(service: &str, backend: &str, key: &AgentKey, boot: u64, forwarder: &str) -> Self {
        Self {
            agent: format!("{service}/{backend}").into_bytes(),
            forwarder: forwarder.into(),
            signer: Signer::of(key),
            boot,
            nonce: 0,
            sequence: 0,
            heeded: 0,
        }
    }

    /// The next heartbeat. `cpu` is from 0 to 1, and cut to that; `None` is unknown.
    #[must_use]
    pub fn heartbeat(&mut self, cpu: Option<f64>, state: State) -> Vec<u8> {
        self.sequence += 1;
        let message = Message {
            kind: Kind::Heartbeat {
                state,
                cpu: cpu.map(Share::of),
            },
            boot: self.boot,
            nonce: self.nonce,
            sequence: self.sequence,
            agent: &self.agent,
            forwarder: &self.forwarder,
        };
        message.sign(&self.signer)
    }

    /// Heeds a challenge. When it is one, the next heartbeat should follow at once.
    pub fn heed(&mut self, datagram: &[u8]) -> Result<(), NotForUs> {
        let received = wire::read(datagram).map_err(|_| NotForUs)?;
        let message = received.message;
        let ours = message.kind == Kind::Challenge
            && message.agent == self.agent
            && message.forwarder == self.forwarder
            && message.boot == self.boot
            && (self.heeded + 1..=self.sequence).contains(&message.sequence);
        if !ours || !received.is_signed_by(&self.signer) {
            return Err(NotForUs);
        }
        self.nonce = message.nonce;
        self.heeded = self.sequence;
        Ok(())
    }
}
