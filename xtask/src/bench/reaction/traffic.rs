//! New calls without a pause, and which proxy had the last of them.

use std::{
    io::ErrorKind,
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use sip_forwarder_tests::{
    lab::{Host, Lab, process::poll, vip},
    messages::Message,
};

use super::room::{FAMILY, PROXIES};

const SIP_PORT: u16 = 5060;
const CLIENT_PORT: u16 = 5061;
/// New calls a second.
pub(super) const RATE: u32 = 2_000;
/// How often a thread looks whether it is to end.
const LOOK: Duration = Duration::from_millis(100);
/// So many new calls in a row at one proxy: all go there now. They take 100 ms.
const ALL: u64 = 200;
/// How long that may take.
const SOON: Duration = Duration::from_secs(5);

/// New calls to one callee, for which the service's key gives them all to one proxy; until dropped.
pub(super) struct Traffic {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    stop: AtomicBool,
    start: Instant,
    /// By proxy.
    seen: Vec<Seen>,
}

/// What a proxy saw.
#[derive(Default)]
struct Seen {
    calls: AtomicU64,
    /// Nanoseconds after the start.
    last: AtomicU64,
}

impl Traffic {
    /// Begins to call.
    pub(super) fn start(lab: &Lab) -> anyhow::Result<Self> {
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            start: Instant::now(),
            seen: (0..PROXIES).map(|_| Seen::default()).collect(),
        });
        let mut traffic = Self {
            shared: Arc::clone(&shared),
            threads: Vec::new(),
        };
        for n in 1..=PROXIES {
            let socket = bind(lab, Host::Proxy(n), SIP_PORT)?;
            socket.set_read_timeout(Some(LOOK))?;
            let shared = Arc::clone(&shared);
            traffic.spawn("proxy", move || {
                shared.receive(&socket, usize::from(n) - 1);
            })?;
        }
        let socket = bind(lab, Host::Client, CLIENT_PORT)?;
        traffic.spawn("caller", move || shared.call(&socket))?;
        Ok(traffic)
    }

    /// Waits until all new calls go to one proxy, and says to which.
    pub(super) fn settled(&self) -> anyhow::Result<u8> {
        let mut before = self.calls();
        let found = poll(SOON, || {
            let now = self.calls();
            let news: Vec<u64> = now
                .iter()
                .zip(&before)
                .map(|(now, old)| now - old)
                .collect();
            let had: Vec<usize> = (0..news.len()).filter(|&at| news[at] > 0).collect();
            match had[..] {
                [only] if news[only] >= ALL => return Ok(Some(only as u8 + 1)),
                [] | [_] => {}
                _ => before = now,
            }
            Ok(None)
        })?;
        found.context("new calls never came to one proxy alone; look into the daemon's log")
    }

    /// The time from `event` until the last new call at a proxy, once all go elsewhere.
    pub(super) fn left_after(&self, proxy: u8, event: Instant) -> anyhow::Result<Duration> {
        let found = poll(SOON, || Ok(Some(self.settled()?).filter(|to| *to != proxy)))?;
        if found.is_none() {
            bail!("new calls never left p{proxy}");
        }
        let last = self.shared.seen[usize::from(proxy) - 1]
            .last
            .load(Ordering::Acquire);
        let last = self.shared.start + Duration::from_nanos(last);
        Ok(last.saturating_duration_since(event))
    }

    fn calls(&self) -> Vec<u64> {
        let calls = |seen: &Seen| seen.calls.load(Ordering::Acquire);
        self.shared.seen.iter().map(calls).collect()
    }

    fn spawn(&mut self, name: &str, work: impl FnOnce() + Send + 'static) -> anyhow::Result<()> {
        let thread = thread::Builder::new().name(name.to_owned()).spawn(work);
        self.threads
            .push(thread.context("cannot start a thread of the traffic")?);
        Ok(())
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                eprintln!("xtask: a thread of the traffic panicked");
            }
        }
    }
}

impl Shared {
    fn receive(&self, socket: &UdpSocket, proxy: usize) {
        let mut room = [0; 2_048];
        while !self.stop.load(Ordering::Acquire) {
            match socket.recv(&mut room) {
                Ok(_) => {
                    let seen = &self.seen[proxy];
                    let now = self.start.elapsed().as_nanos() as u64;
                    seen.last.store(now, Ordering::Release);
                    seen.calls.fetch_add(1, Ordering::Release);
                }
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(error) => {
                    eprintln!("xtask: a proxy's socket failed: {error}");
                    return;
                }
            }
        }
    }

    fn call(&self, socket: &UdpSocket) {
        let vip = SocketAddr::new(vip(FAMILY), SIP_PORT);
        let pause = Duration::from_secs(1) / RATE;
        let mut sent = 0;
        while !self.stop.load(Ordering::Acquire) {
            let due = (self.start.elapsed().as_nanos() / pause.as_nanos()) as u64;
            while sent < due {
                sent += 1;
                let call_id = format!("reaction-{sent}@{}", Host::Client);
                let invite = Message::invite().call_id(&call_id).build();
                // One that is refused for the moment is one call less.
                let _ = socket.send_to(&invite, vip);
            }
            thread::sleep(pause);
        }
    }
}

fn bind(lab: &Lab, host: Host, port: u16) -> anyhow::Result<UdpSocket> {
    let address = host.socket(FAMILY, port);
    lab.enter(host, move || UdpSocket::bind(address))?
        .with_context(|| format!("cannot bind {address} in {host}"))
}
