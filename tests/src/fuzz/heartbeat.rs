//! Heartbeats that were made up, damaged or played again.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use sip_forwarder::heartbeat::{
    Announcer, MasterKey, State,
    counters::Counters,
    sessions::{Outcome, Sessions},
    wire,
};

const SERVICE: &str = "lab";
const BACKEND: &str = "p1";
const FORWARDER: &str = "sfw1";

/// Bytes from nowhere are never believed and never answered; nor are those of a true heartbeat after
/// any change, nor that heartbeat once more.
///
/// # Panics
/// If they are, or if a true heartbeat is not believed.
pub fn heartbeat(data: &[u8]) {
    let now = Instant::now();
    let (mut sessions, mut announcer) = session(now);
    // A signature is 32 bytes under a key drawn a moment ago: nobody guesses it.
    refused(&mut sessions, data, now);
    let read = wire::read(data);
    assert!(read.is_err() || data.len() <= wire::LONGEST, "too long");

    let honest = announcer.heartbeat(Some(0.5), State::Running);
    let changed = change(&honest, data);
    if changed != honest {
        refused(&mut sessions, &changed, now);
    }
    believed(&mut sessions, &honest, now);
    refused(&mut sessions, &honest, now + Duration::from_mins(1));
}

/// A forwarder and an agent that trust each other.
fn session(now: Instant) -> (Sessions, Announcer) {
    let master = MasterKey::random().expect("the system has random bytes");
    let key = master.agent_key(SERVICE, BACKEND);
    let mut announcer = Announcer::new(SERVICE, BACKEND, &key, 7, FORWARDER);
    let mut sessions = Sessions::new(FORWARDER, vec![master], Arc::new(Counters::default()))
        .expect("the system has random bytes");
    sessions.set_known([(SERVICE, BACKEND)]);
    let first = announcer.heartbeat(None, State::Running);
    let Outcome::Challenge(challenge) = sessions.receive(&first, now) else {
        panic!("a first heartbeat is not challenged");
    };
    announcer.heed(&challenge).expect("a true challenge");
    let second = announcer.heartbeat(None, State::Running);
    believed(&mut sessions, &second, now);
    (sessions, announcer)
}

fn believed(sessions: &mut Sessions, datagram: &[u8], now: Instant) {
    let outcome = sessions.receive(datagram, now);
    assert!(matches!(outcome, Outcome::Accepted(_)), "{outcome:?}");
}

fn refused(sessions: &mut Sessions, datagram: &[u8], now: Instant) {
    let outcome = sessions.receive(datagram, now);
    assert!(
        matches!(outcome, Outcome::Ignored(_)),
        "{outcome:?} came of {}",
        datagram.escape_ascii()
    );
}

/// Changes a datagram as `data` says: pairs of a place and what to add to the byte there, then a last
/// byte that says how much to cut off or to append.
fn change(datagram: &[u8], data: &[u8]) -> Vec<u8> {
    let mut changed = datagram.to_vec();
    let mut pairs = data.chunks_exact(2);
    for pair in &mut pairs {
        let at = usize::from(pair[0]) % changed.len();
        changed[at] = changed[at].wrapping_add(pair[1]);
    }
    match pairs.remainder() {
        [length @ 0..128] => changed.truncate(usize::from(*length)),
        [more] => changed.resize(changed.len() + usize::from(*more) - 127, 0),
        _ => {}
    }
    changed
}
