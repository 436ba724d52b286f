//! Who is believed, and who never is.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{Outcome, Report, Sessions};
use crate::heartbeat::{
    Announcer, MasterKey, State,
    counters::{Counters, Reason},
};

struct Side {
    sessions: Sessions,
    now: Instant,
}

impl Side {
    fn new(name: &str, masters: &[&MasterKey]) -> Self {
        let masters = masters.iter().map(|&key| key.clone()).collect();
        let mut sessions = Sessions::new(name, masters, Arc::new(Counters::default())).unwrap();
        sessions.set_known([("carrier", "p1"), ("carrier", "p2")]);
        Self {
            sessions,
            now: Instant::now(),
        }
    }

    /// A moment later each time, so that challenges are not what is short.
    fn receive(&mut self, datagram: &[u8]) -> Outcome {
        self.now += Duration::from_millis(100);
        self.sessions.receive(datagram, self.now)
    }

    /// A heartbeat, and what follows, until it is believed. Returns all the agent sent.
    fn join(&mut self, agent: &mut Announcer) -> Vec<Vec<u8>> {
        let mut sent = vec![agent.heartbeat(None, State::Running)];
        let Outcome::Challenge(challenge) = self.receive(&sent[0]) else {
            panic!("no challenge");
        };
        assert_eq!(challenge.len(), sent[0].len());
        agent.heed(&challenge).unwrap();
        sent.push(agent.heartbeat(Some(0.25), State::Running));
        assert!(matches!(self.receive(&sent[1]), Outcome::Accepted(_)));
        sent
    }

    fn believes(&mut self, datagram: &[u8]) -> bool {
        matches!(self.receive(datagram), Outcome::Accepted(_))
    }
}

fn agent(master: &MasterKey, boot: u64) -> Announcer {
    Announcer::new(
        "carrier",
        "p1",
        &master.agent_key("carrier", "p1"),
        boot,
        "sfw1",
    )
}

#[test]
fn a_session_takes_one_challenge_and_then_counts_up() {
    let master = MasterKey::random().unwrap();
    let (mut side, mut agent) = (Side::new("sfw1", &[&master]), agent(&master, 1));
    let sent = side.join(&mut agent);
    let report = Report {
        service: "carrier".into(),
        backend: "p1".into(),
        cpu: Some(0.5),
        state: State::Draining,
    };
    let next = agent.heartbeat(Some(0.5), State::Draining);
    assert_eq!(side.receive(&next), Outcome::Accepted(report));
    assert_eq!(side.receive(&next), Outcome::Ignored(Reason::Replayed));
    assert_eq!(side.receive(&sent[1]), Outcome::Ignored(Reason::Replayed));
    assert!(matches!(side.receive(&sent[0]), Outcome::Challenge(_)));
    assert!(side.believes(&agent.heartbeat(None, State::Stopped)));
}

#[test]
fn restarts_of_either_side_cost_one_challenge_and_revive_nothing() {
    let master = MasterKey::random().unwrap();
    let (mut side, mut first) = (Side::new("sfw1", &[&master]), agent(&master, 1));
    let mut recorded = side.join(&mut first);
    recorded.push(first.heartbeat(None, State::Running));

    let mut second = agent(&master, 2);
    recorded.extend(side.join(&mut second));
    for old in &recorded {
        assert!(!side.believes(old), "of an agent that is gone");
    }
    assert!(
        side.believes(&second.heartbeat(None, State::Running)),
        "unharmed by them"
    );

    let mut restarted = Side::new("sfw1", &[&master]);
    for old in &recorded {
        assert!(!restarted.believes(old), "after a restart of the forwarder");
    }
    restarted.join(&mut second);
    let mut other = Side::new("sfw2", &[&master]);
    for old in &recorded {
        assert_eq!(other.receive(old), Outcome::Ignored(Reason::WrongForwarder));
    }
}

#[test]
fn a_backend_taken_away_and_brought_back_starts_anew() {
    let master = MasterKey::random().unwrap();
    let (mut side, mut agent) = (Side::new("sfw1", &[&master]), agent(&master, 1));
    let recorded = side.join(&mut agent);
    side.sessions.set_known([("carrier", "p2")]);
    let unknown = Outcome::Ignored(Reason::UnknownBackend);
    assert_eq!(
        side.receive(&agent.heartbeat(None, State::Running)),
        unknown
    );
    side.sessions
        .set_known([("carrier", "p1"), ("carrier", "p2")]);
    for old in &recorded {
        assert!(!side.believes(old));
    }
    side.join(&mut agent);
    side.sessions.set_known([("carrier", "p1")]);
    assert!(
        side.believes(&agent.heartbeat(None, State::Running)),
        "those that stay go on"
    );
}

#[test]
fn either_of_two_master_keys_will_do_while_they_are_exchanged() {
    let (old, new) = (MasterKey::random().unwrap(), MasterKey::random().unwrap());
    let mut side = Side::new("sfw1", &[&old]);
    let (mut before, mut after) = (agent(&old, 1), agent(&new, 2));
    side.join(&mut before);
    let late = before.heartbeat(None, State::Running);
    assert_eq!(
        side.receive(&after.heartbeat(None, State::Running)),
        Outcome::Ignored(Reason::Forged)
    );
    side.sessions.set_masters(vec![new.clone(), old.clone()]);
    assert!(side.believes(&late), "the session goes on");
    side.join(&mut after);
    side.join(&mut before);
    side.sessions.set_masters(vec![new]);
    assert_eq!(
        side.receive(&before.heartbeat(None, State::Running)),
        Outcome::Ignored(Reason::Forged)
    );
}

#[test]
fn one_agents_key_does_not_speak_for_another() {
    let master = MasterKey::random().unwrap();
    let mut side = Side::new("sfw1", &[&master]);
    let key = master.agent_key("carrier", "p2");
    let mut thief = Announcer::new("carrier", "p1", &key, 1, "sfw1");
    let forged = Outcome::Ignored(Reason::Forged);
    assert_eq!(side.receive(&thief.heartbeat(None, State::Running)), forged);
}

#[test]
fn challenges_are_rationed_and_sessions_do_not_suffer() {
    let master = MasterKey::random().unwrap();
    let (mut side, mut agent) = (Side::new("sfw1", &[&master]), agent(&master, 1));
    let recorded = side.join(&mut agent);
    side.now += Duration::from_secs(10);
    let now = side.now;
    let mut challenges = |now| {
        (0..1_000)
            .filter(|_| {
                matches!(
                    side.sessions.receive(&recorded[0], now),
                    Outcome::Challenge(_)
                )
            })
            .count()
    };
    assert_eq!(challenges(now), 200);
    assert_eq!(challenges(now + Duration::from_millis(100)), 20);
    assert!(side.believes(&agent.heartbeat(None, State::Running)));
    let counts = side.sessions.counters.read();
    assert_eq!(
        (counts.challenged, counts.unchallenged, counts.accepted),
        (221, 1_780, 2)
    );
}

#[test]
fn an_agent_gets_in_beside_repeated_heartbeats() {
    let master = MasterKey::random().unwrap();
    let (mut side, mut old) = (Side::new("sfw1", &[&master]), agent(&master, 1));
    let recorded = side.join(&mut old);
    let mut restarted = agent(&master, 2);
    // A hundred a second: what is left is enough for one that starts.
    for n in 0..1_000 {
        side.now += Duration::from_millis(10);
        let now = side.now;
        side.sessions.receive(&recorded[n % 2], now);
    }
    side.join(&mut restarted);
}

#[test]
fn challenges_to_all_together_are_rationed_too() {
    let master = MasterKey::random().unwrap();
    let mut side = Side::new("sfw1", &[&master]);
    let names: Vec<String> = (0..60).map(|n| format!("p{n}")).collect();
    side.sessions
        .set_known(names.iter().map(|name| ("carrier", name.as_str())));
    let hello = |name: &String| {
        let key = master.agent_key("carrier", name);
        Announcer::new("carrier", name, &key, 1, "sfw1").heartbeat(None, State::Running)
    };
    let hellos: Vec<Vec<u8>> = names.iter().map(hello).collect();
    let now = side.now;
    let mut challenges = |now| {
        (0..200)
            .flat_map(|_| &hellos)
            .filter(|hello| matches!(side.sessions.receive(hello, now), Outcome::Challenge(_)))
            .count()
    };
    assert_eq!(challenges(now), 10_000);
    assert_eq!(challenges(now), 0);
    assert_eq!(challenges(now + Duration::from_millis(10)), 100);
}

#[test]
fn an_old_challenge_does_not_end_a_session() {
    let master = MasterKey::random().unwrap();
    let (mut side, mut agent) = (Side::new("sfw1", &[&master]), agent(&master, 1));
    let hello = agent.heartbeat(None, State::Running);
    let Outcome::Challenge(recorded) = side.receive(&hello) else {
        panic!("no challenge");
    };
    agent.heed(&recorded).unwrap();
    for _ in 0..3 {
        assert!(side.believes(&agent.heartbeat(None, State::Running)));
        agent.heed(&recorded).unwrap_err();
    }
    let mut restarted = self::agent(&master, 2);
    let _ = restarted.heartbeat(None, State::Running);
    restarted.heed(&recorded).unwrap_err();
    restarted.heed(&hello).unwrap_err();
}

#[test]
fn two_agents_for_one_backend_are_noticed() {
    let master = MasterKey::random().unwrap();
    let mut side = Side::new("sfw1", &[&master]);
    let mut agents = [1, 2].map(|boot| agent(&master, boot));
    side.join(&mut agents[0]);
    side.join(&mut agents[1]);
    assert_eq!(
        side.sessions.counters.read().rivalries,
        0,
        "a restart is none"
    );
    for _ in 0..2 {
        for agent in &mut agents {
            let Outcome::Challenge(challenge) =
                side.receive(&agent.heartbeat(None, State::Running))
            else {
                panic!("no challenge");
            };
            agent.heed(&challenge).unwrap();
            assert!(side.believes(&agent.heartbeat(None, State::Running)));
        }
    }
    assert_eq!(side.sessions.counters.read().rivalries, 4);
}
