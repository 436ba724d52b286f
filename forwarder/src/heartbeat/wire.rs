//! The datagram, the same for both directions. All numbers are big-endian.
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 4 | `SFHB` |
//! | 4 | 1 | version, 1 |
//! | 5 | 1 | kind: 1 heartbeat (agent to forwarder), 2 challenge (forwarder to agent) |
//! | 6 | 1 | state: 1 running, 2 draining, 3 stopped, 4 unwell; 0 in a challenge |
//! | 7 | 1 | *a*, length of the agent's name |
//! | 8 | 1 | *f*, length of the forwarder's name |
//! | 9 | 1 | 0 |
//! | 10 | 2 | CPU in 1/10,000; 0xffff unknown; 0 in a challenge |
//! | 12 | 8 | boot id: random, of this start of the agent |
//! | 20 | 8 | nonce, given by the forwarder; 0: none yet |
//! | 28 | 8 | sequence; in a challenge, of the heartbeat it answers |
//! | 36 | *a* | the agent's name: `SERVICE/BACKEND`, each 1 to 63 bytes |
//! | 36 + *a* | *f* | the forwarder's name, 1 to 63 bytes |
//! | 36 + *a* + *f* | 32 | HMAC-SHA256 over all before |
//!
//! 73 to 258 bytes, and not one more. Version and magic stay where they are in every later version.

use super::{
    counters::Reason,
    keys::{LENGTH as SIGNATURE, Signer},
};

const MAGIC: [u8; 4] = *b"SFHB";
const VERSION: u8 = 1;
const HEADER: usize = 36;
/// Longest name of a service, a backend or a forwarder, in bytes.
pub const NAME_LIMIT: usize = 63;
/// Longest datagram, in bytes.
pub const LONGEST: usize = HEADER + 3 * NAME_LIMIT + 1 + SIGNATURE;
/// Shortest datagram, in bytes.
const SHORTEST: usize = HEADER + 4 + SIGNATURE;
/// The CPU that nobody knows.
const UNKNOWN: u16 = 0xffff;
/// The whole CPU.
const WHOLE: u16 = 10_000;

/// What an agent says of its proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
#[repr(u8)]
pub enum State {
    /// It runs and takes calls.
    Running = 1,
    /// It keeps the calls it has and wants no new ones.
    Draining = 2,
    /// Its process has ended.
    Stopped = 3,
    /// It runs, but does not answer.
    Unwell = 4,
}

impl State {
    fn from_byte(byte: u8) -> Option<Self> {
        [Self::Running, Self::Draining, Self::Stopped, Self::Unwell]
            .into_iter()
            .find(|&state| state as u8 == byte)
    }
}

/// A part of the CPU, in 1/10,000, at most the whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share(u16);

impl Share {
    /// The nearest to `part`, which is cut to 0 … 1.
    #[must_use]
    pub fn of(part: f64) -> Self {
        Self((part.clamp(0.0, 1.0) * f64::from(WHOLE)).round() as u16)
    }

    /// From 0 to 1.
    #[must_use]
    pub fn part(self) -> f64 {
        f64::from(self.0) / f64::from(WHOLE)
    }
}

/// What only one of the directions says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// From an agent.
    Heartbeat {
        /// How its proxy is.
        state: State,
        /// How busy, if that is known.
        cpu: Option<Share>,
    },
    /// From a forwarder.
    Challenge,
}

/// A datagram without its signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// Which direction, and what it says.
    pub kind: Kind,
    /// Which start of the agent.
    pub boot: u64,
    /// What the forwarder gave; 0: nothing yet.
    pub nonce: u64,
    /// Counts the agent's heartbeats.
    pub sequence: u64,
    /// `SERVICE/BACKEND`.
    pub agent: &'a [u8],
    /// The forwarder's name.
    pub forwarder: &'a [u8],
}

/// A datagram in the right form, whose signature is not checked yet.
#[derive(Debug)]
pub struct Unverified<'a> {
    /// What it claims.
    pub message: Message<'a>,
    signed: &'a [u8],
    signature: &'a [u8; SIGNATURE],
}

impl Unverified<'_> {
    /// Was it signed with this key?
    pub(super) fn is_signed_by(&self, signer: &Signer) -> bool {
        signer.verify(self.signed, self.signature)
    }
}

/// Reads a datagram: its form only, whatever the signature.
pub fn read(datagram: &[u8]) -> Result<Unverified<'_>, Reason> {
    let (magic, rest) = datagram.split_first_chunk().ok_or(Reason::Malformed)?;
    match rest.first() {
        _ if *magic != MAGIC => return Err(Reason::Malformed),
        None => return Err(Reason::Malformed),
        Some(&VERSION) => {}
        Some(_) => return Err(Reason::WrongVersion),
    }
    if !(SHORTEST..=LONGEST).contains(&datagram.len()) {
        return Err(Reason::Malformed);
    }
    form(datagram).ok_or(Reason::Malformed)
}

fn form(datagram: &[u8]) -> Option<Unverified<'_>> {
    let (signed, signature) = datagram.split_last_chunk()?;
    let (header, names) = signed.split_first_chunk::<HEADER>()?;
    let &[
        _,
        _,
        _,
        _,
        _,
        kind,
        state,
        agent_length,
        forwarder_length,
        0,
        cpu_high,
        cpu_low,
        ..,
    ] = header
    else {
        return None;
    };
    let (agent, forwarder) = names.split_at_checked(agent_length.into())?;
    if forwarder.len() != usize::from(forwarder_length) || !is_name(forwarder) || !is_label(agent) {
        return None;
    }
    let kind = match (kind, state, u16::from_be_bytes([cpu_high, cpu_low])) {
        (1, state, cpu) => Kind::Heartbeat {
            state: State::from_byte(state)?,
            cpu: match cpu {
                UNKNOWN => None,
                0..=WHOLE => Some(Share(cpu)),
                _ => return None,
            },
        },
        (2, 0, 0) => Kind::Challenge,
        _ => return None,
    };
    Some(Unverified {
        message: Message {
            kind,
            boot: number(header, 12)?,
            nonce: number(header, 20)?,
            sequence: number(header, 28)?,
            agent,
            forwarder,
        },
        signed,
        signature,
    })
}

fn number(header: &[u8; HEADER], at: usize) -> Option<u64> {
    header[at..].first_chunk().copied().map(u64::from_be_bytes)
}

fn is_name(name: &[u8]) -> bool {
    (1..=NAME_LIMIT).contains(&name.len()) && !name.contains(&b'/')
}

/// `SERVICE/BACKEND`, split by the only `/`.
fn is_label(label: &[u8]) -> bool {
    label
        .iter()
        .position(|&byte| byte == b'/')
        .is_some_and(|at| is_name(&label[..at]) && is_name(&label[at + 1..]))
}

impl Message<'_> {
    /// The datagram, signed. Names must be within their limits, which the configuration sees to.
    #[must_use]
    pub(super) fn sign(&self, signer: &Signer) -> Vec<u8> {
        let (kind, state, cpu) = match self.kind {
            Kind::Heartbeat { state, cpu } => (1, state as u8, cpu.map_or(UNKNOWN, |cpu| cpu.0)),
            Kind::Challenge => (2, 0, 0),
        };
        let mut datagram = Vec::with_capacity(LONGEST);
        datagram.extend(MAGIC);
        let lengths = [self.agent.len() as u8, self.forwarder.len() as u8];
        datagram.extend([VERSION, kind, state, lengths[0], lengths[1], 0]);
        datagram.extend(cpu.to_be_bytes());
        for number in [self.boot, self.nonce, self.sequence] {
            datagram.extend(number.to_be_bytes());
        }
        datagram.extend(self.agent);
        datagram.extend(self.forwarder);
        let signature = signer.sign([&*datagram]);
        datagram.extend(signature);
        datagram
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name() -> impl Strategy<Value = String> {
        "[A-Za-z0-9._:-]{1,63}"
    }

    fn kind() -> impl Strategy<Value = Kind> {
        let state = prop_oneof![
            Just(State::Running),
            Just(State::Draining),
            Just(State::Stopped),
            Just(State::Unwell)
        ];
        let cpu = proptest::option::of((0..=WHOLE).prop_map(Share));
        prop_oneof![
            (state, cpu).prop_map(|(state, cpu)| Kind::Heartbeat { state, cpu }),
            Just(Kind::Challenge)
        ]
    }

    fn signer() -> Signer {
        Signer::random().unwrap()
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            kind in kind(), numbers: [u64; 3], service in name(), backend in name(), forwarder in name(),
        ) {
            let signer = signer();
            let agent = format!("{service}/{backend}");
            let [boot, nonce, sequence] = numbers;
            let (agent, forwarder) = (agent.as_bytes(), forwarder.as_bytes());
            let message = Message { kind, boot, nonce, sequence, agent, forwarder };
            let datagram = message.sign(&signer);
            prop_assert!(datagram.len() <= LONGEST);
            let read = read(&datagram).unwrap();
            prop_assert_eq!(read.message, message);
            prop_assert!(read.is_signed_by(&signer));
            prop_assert!(!read.is_signed_by(&self::signer()));
        }

        #[test]
        fn no_damaged_datagram_is_believed(
            kind in kind(), numbers: [u64; 3], cut in 0..100usize, bit in 0..8u32, more in 1..9usize,
        ) {
            let signer = signer();
            let [boot, nonce, sequence] = numbers;
            let (agent, forwarder) = (&b"carrier/p1"[..], &b"sfw1"[..]);
            let datagram = Message { kind, boot, nonce, sequence, agent, forwarder }.sign(&signer);
            let believed = |bytes: &[u8]| read(bytes).is_ok_and(|read| read.is_signed_by(&signer));
            prop_assert!(believed(&datagram));
            prop_assert!(!believed(&datagram[..cut.min(datagram.len() - 1)]));
            let mut flipped = datagram.clone();
            let at = cut % flipped.len();
            flipped[at] ^= 1 << bit;
            prop_assert!(!believed(&flipped));
            prop_assert!(!believed(&[&datagram[..], &vec![0; more]].concat()));
        }

        #[test]
        fn strange_bytes_do_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = read(&bytes);
            let _ = read(&[&b"SFHB\x01\x01"[..], &bytes].concat());
        }
    }

    #[test]
    fn other_versions_are_told_from_damage() {
        assert_eq!(read(b"SFHB\x02").unwrap_err(), Reason::WrongVersion);
        assert_eq!(read(b"SFHB").unwrap_err(), Reason::Malformed);
        assert_eq!(read(b"SFHX\x01").unwrap_err(), Reason::Malformed);
    }

    #[test]
    fn a_share_is_cut_to_the_whole() {
        for (part, share) in [(0.5, 5_000), (1.7, WHOLE), (-0.1, 0), (f64::NAN, 0)] {
            assert_eq!(Share::of(part), Share(share));
        }
    }
}
