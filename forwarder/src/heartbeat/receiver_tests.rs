//! Over loopback: a receiver, and agents' pieces.

use std::{
    net::{SocketAddr, UdpSocket},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use super::Receiver;
use crate::heartbeat::{Announcer, MasterKey, Report, State};

fn start(listen: &str, master: &MasterKey) -> (Receiver, mpsc::Receiver<Report>) {
    let (sender, reports) = mpsc::channel();
    let known = [("carrier".to_owned(), "p1".to_owned())];
    let listen: SocketAddr = listen.parse().unwrap();
    let receiver = Receiver::start(listen, "sfw1", vec![master.clone()], &known, move |batch| {
        for report in batch.drain(..) {
            let _ = sender.send(report);
        }
    })
    .unwrap();
    (receiver, reports)
}

struct Agent {
    announcer: Announcer,
    socket: UdpSocket,
}

impl Agent {
    fn new(master: &MasterKey, boot: u64, to: SocketAddr) -> Self {
        let key = master.agent_key("carrier", "p1");
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(("127.0.0.1", to.port())).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(1)))
            .unwrap();
        Self {
            announcer: Announcer::new("carrier", "p1", &key, boot, "sfw1"),
            socket,
        }
    }

    fn send(&mut self) -> Vec<u8> {
        let heartbeat = self.announcer.heartbeat(Some(0.5), State::Running);
        self.socket.send(&heartbeat).unwrap();
        heartbeat
    }

    /// Heartbeat, challenge, heartbeat.
    fn join(&mut self) -> [Vec<u8>; 2] {
        let first = self.send();
        let mut room = [0; 512];
        let length = self.socket.recv(&mut room).unwrap();
        self.announcer.heed(&room[..length]).unwrap();
        [first, self.send()]
    }
}

/// Waits until `done`, or fails.
fn until(done: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(5);
    while !done() {
        assert!(Instant::now() < end, "not in time");
        thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn heartbeats_are_believed_within_a_second_over_both_families() {
    let master = MasterKey::random().unwrap();
    for listen in ["127.0.0.1:0", "[::]:0"] {
        let (receiver, reports) = start(listen, &master);
        Agent::new(&master, 1, receiver.local_addr()).join();
        let report = reports.recv_timeout(Duration::from_secs(1)).unwrap();
        assert_eq!((&*report.backend, report.cpu), ("p1", Some(0.5)));
    }
}

#[test]
fn recorded_heartbeats_are_never_believed_not_even_after_restarts() {
    let master = MasterKey::random().unwrap();
    let (receiver, reports) = start("127.0.0.1:0", &master);
    let address = receiver.local_addr();
    let mut agent = Agent::new(&master, 1, address);
    let mut recorded = agent.join().to_vec();
    recorded.extend(Agent::new(&master, 2, address).join());
    until(|| receiver.counts().accepted == 2);
    drop(receiver);
    let (receiver, again) = start(&address.to_string(), &master);
    for old in &recorded {
        agent.socket.send(old).unwrap();
    }
    until(|| receiver.counts().challenged == 4);
    // Those challenges are no good to anybody but the agent that waits for one.
    let mut agent = Agent::new(&master, 3, address);
    agent.join();
    until(|| receiver.counts().accepted == 1);
    assert_eq!(reports.try_iter().count(), 2);
    assert_eq!(again.try_iter().count(), 1);
}

#[test]
fn whatever_else_comes_is_counted() {
    let master = MasterKey::random().unwrap();
    let (receiver, reports) = start("127.0.0.1:0", &master);
    let mut agent = Agent::new(&master, 1, receiver.local_addr());
    let [_, good] = agent.join();
    let next = agent.announcer.heartbeat(None, State::Running);
    let with = |at: usize, byte: u8| {
        let mut changed = next.clone();
        changed[at] = byte;
        changed
    };
    let send = |bytes: &[u8]| agent.socket.send(bytes).unwrap();
    send(&with(4, 2));
    send(&with(next.len() - 1, next[next.len() - 1] ^ 1));
    send(&next[..next.len() - 1]);
    send(&[&next[..], b"!"].concat());
    send(&vec![0; 60_000]);
    send(b"");
    send(&good);
    let key = master.agent_key("carrier", "p1");
    let mut elsewhere = Announcer::new("carrier", "p1", &key, 1, "sfw2");
    send(&elsewhere.heartbeat(None, State::Running));
    let mut stranger = Announcer::new("carrier", "p9", &key, 1, "sfw1");
    send(&stranger.heartbeat(None, State::Running));
    until(|| receiver.counts().unknown_backend == 1);
    let counts = receiver.counts();
    assert_eq!(
        (counts.wrong_version, counts.forged, counts.malformed),
        (1, 1, 4)
    );
    assert_eq!((counts.replayed, counts.wrong_forwarder), (1, 1));
    assert_eq!((counts.accepted, counts.challenged), (1, 1));
    assert_eq!(reports.try_iter().count(), 1);
}
