//! Heartbeats that are not a proxy's own and newest are ignored and counted, and keep no dead proxy alive.

use std::{net::UdpSocket, time::Duration};

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use serde_json::Value;
use sip_forwarder::heartbeat;
use sip_forwarder_tests::{
    agent::MasterKey,
    heartbeats::{self, Chorus, Flaw, Voices},
    lab::{Daemon, DaemonSpec, Family, Host, Lab, daemon, process::poll},
};

use crate::support::{as_root, daemon_file};

const FAMILY: Family = Family::V4;
const SERVICE: &str = "lab";
const INTERVAL: Duration = Duration::from_millis(100);
/// How long anything may take to show in the status.
const SOON: Duration = Duration::from_secs(10);
/// Of each bad one.
const REPEAT: u64 = 5;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        as_root("heartbeats::bad_ones_are_ignored_and_counted", bad_ones),
        as_root(
            "heartbeats::replayed_ones_keep_no_dead_proxy_alive",
            replayed_ones,
        ),
    ]
}

/// Two proxies that are heard, and a third host's socket to send bad ones from.
struct Room {
    p1: Chorus,
    _p2: Chorus,
    stranger: UdpSocket,
    key: heartbeat::MasterKey,
    daemon: Daemon,
}

impl Room {
    fn start() -> Result<Self> {
        let lab = Lab::new(2)?;
        let key = MasterKey::new(&lab, &daemon_file()?)?;
        let mut spec = DaemonSpec::of_lab(daemon_file()?, &lab, FAMILY);
        spec.forwarder_extra = key.heartbeats();
        spec.services[0].health = "agent";
        let daemon = Daemon::start(&lab, &spec)?;
        let key = key.load()?;
        let chorus = |n| {
            let host = Host::Proxy(n);
            let voices = Voices {
                key: &key,
                service: SERVICE,
                backends: &[host.to_string()],
                interval: INTERVAL,
            };
            Chorus::start(&lab, host, FAMILY, voices)
        };
        let room = Self {
            p1: chorus(1)?,
            _p2: chorus(2)?,
            stranger: heartbeats::socket(&lab, Host::Client, FAMILY)?,
            key,
            daemon,
        };
        room.daemon
            .wait_for("had both proxies heard and alive", SOON, |status| {
                daemon::backends(status)
                    .iter()
                    .all(|b| b["state"] == "alive" && b["heard_ms_ago"].is_u64())
            })?;
        Ok(room)
    }

    /// Sends these again and again until the status says so.
    fn repeat_until(
        &self,
        datagrams: &[Vec<u8>],
        condition: &str,
        holds: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        let found = poll(SOON, || {
            for datagram in datagrams {
                // Nobody may be there for a moment.
                let _ = self.stranger.send(datagram);
            }
            let status = self.daemon.status()?;
            Ok(holds(&status).then_some(status))
        })?;
        found.with_context(|| format!("the daemon's status never {condition}"))
    }

    /// How often the daemon's log says this.
    fn told(&self, what: &str) -> Result<usize> {
        let log = std::fs::read_to_string(self.daemon.log())?;
        Ok(log.lines().filter(|line| line.contains(what)).count())
    }
}

fn counted(status: &Value, counter: &str) -> u64 {
    status["heartbeats"][counter].as_u64().unwrap_or(0)
}

fn state<'a>(status: &'a Value, name: &str) -> &'a Value {
    daemon::backends(status)
        .into_iter()
        .find(|b| b["name"] == name)
        .map_or(&Value::Null, |b| &b["state"])
}

fn bad_ones() -> Result<()> {
    let room = Room::start()?;
    let before = room.daemon.status()?;
    let newest = room.p1.recorded().pop().context("p1 sent nothing")?;
    for _ in 0..REPEAT {
        for flaw in Flaw::ALL {
            room.stranger
                .send(&flaw.datagram(&room.key, SERVICE, "p1")?)?;
        }
        room.stranger.send(&newest)?;
    }
    let reasons = Flaw::ALL.iter().map(|flaw| flaw.counter());
    let mut expected: Vec<(&str, u64)> = Vec::new();
    for reason in reasons.chain(["replayed"]) {
        match expected.iter_mut().find(|(known, _)| *known == reason) {
            Some((_, count)) => *count += REPEAT,
            None => expected.push((reason, counted(&before, reason) + REPEAT)),
        }
    }
    let status = room.daemon.wait_for("counted them all", SOON, |status| {
        expected
            .iter()
            .all(|(reason, count)| counted(status, reason) == *count)
    })?;
    for name in ["p1", "p2"] {
        ensure!(
            state(&status, name) == "alive",
            "{name} is {}",
            state(&status, name)
        );
    }
    ensure!(
        room.told("is dead")? == 0,
        "a bad heartbeat killed a proxy for a moment"
    );
    Ok(())
}

fn replayed_ones() -> Result<()> {
    let mut room = Room::start()?;
    let recorded = room.p1.recorded();
    room.p1.stop();
    room.repeat_until(&recorded, "had p1 dead", |status| {
        state(status, "p1") == "dead"
    })?;
    let many = REPEAT * recorded.len() as u64;
    let replayed = counted(&room.daemon.status()?, "replayed");
    let status = room.repeat_until(&recorded, "counted them", |status| {
        counted(status, "replayed") >= replayed + many
    })?;
    ensure!(
        state(&status, "p1") == "dead",
        "p1 is {}",
        state(&status, "p1")
    );

    room.daemon.terminate()?;
    room.daemon.start_again()?;
    // Of no session now: answered by challenges that nobody can heed, and then not at all.
    let status = room.repeat_until(&recorded, "counted them after a restart", |status| {
        counted(status, "challenged") >= 1
            && counted(status, "challenged") + counted(status, "unchallenged") >= many
            && state(status, "p2") == "alive"
    })?;
    ensure!(
        state(&status, "p1") == "dead",
        "p1 is {} after a restart",
        state(&status, "p1")
    );
    ensure!(
        room.told("p1 is alive")? == 0,
        "a recorded heartbeat brought p1 back to life"
    );
    Ok(())
}
