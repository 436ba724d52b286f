//! A proxy whose behaviour a test decides: it answers OPTIONS as it is told, and keeps all else that
//! reaches it for the test.

use std::{
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU16, Ordering},
        mpsc::{Receiver, channel},
    },
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context as _, Result};

use crate::{
    lab::{Family, Host, Lab},
    messages::answer_to,
};

/// How often the thread looks whether it is to end.
const LOOK: Duration = Duration::from_millis(50);
/// Says nothing at all.
pub const SILENT: u16 = 0;

/// A datagram that reached a proxy.
#[derive(Clone, Debug)]
pub struct Arrived {
    /// Who it says it is from.
    pub from: SocketAddr,
    /// Its bytes.
    pub payload: Vec<u8>,
}

/// The proxy, until dropped.
#[derive(Debug)]
pub struct ScriptedProxy {
    socket: UdpSocket,
    arrived: Receiver<Arrived>,
    status: Arc<AtomicU16>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl ScriptedProxy {
    /// Listens on port 5060 of a lab's proxy, and answers OPTIONS with 200.
    pub fn start(lab: &Lab, host: Host, family: Family) -> Result<Self> {
        let address = host.socket(family, 5060);
        let socket = lab
            .enter(host, move || UdpSocket::bind(address))?
            .with_context(|| format!("cannot bind {address}"))?;
        socket.set_read_timeout(Some(LOOK))?;
        let (deliver, arrived) = channel();
        let status = Arc::new(AtomicU16::new(200));
        let stop = Arc::new(AtomicBool::new(false));
        let (shown, told, end) = (socket.try_clone()?, Arc::clone(&status), Arc::clone(&stop));
        let thread = std::thread::Builder::new()
            .name(format!("proxy-{host}"))
            .spawn(move || {
                let mut buffer = vec![0; 65_536];
                while !end.load(Ordering::Relaxed) {
                    let Ok((length, from)) = shown.recv_from(&mut buffer) else {
                        continue;
                    };
                    let payload = buffer[..length].to_vec();
                    if payload.starts_with(b"OPTIONS ") {
                        answer(&shown, &payload, from, told.load(Ordering::Relaxed));
                    } else if deliver.send(Arrived { from, payload }).is_err() {
                        return;
                    }
                }
            })?;
        Ok(Self {
            socket,
            arrived,
            status,
            stop,
            thread: Some(thread),
        })
    }

    /// One on every proxy of a lab.
    pub fn start_all(lab: &Lab, family: Family) -> Result<Vec<Self>> {
        (1..=lab.proxies())
            .map(|n| Self::start(lab, Host::Proxy(n), family))
            .collect()
    }

    /// Answers OPTIONS with this status from now on; [`SILENT`] for nothing.
    pub fn answer_options(&self, status: u16) {
        self.status.store(status, Ordering::Relaxed);
    }

    /// What came since the last look.
    #[must_use]
    pub fn take(&self) -> Vec<Arrived> {
        self.arrived.try_iter().collect()
    }

    /// Sends a datagram from the proxy's address.
    pub fn send(&self, payload: &[u8], to: SocketAddr) -> Result<()> {
        self.socket.send_to(payload, to)?;
        Ok(())
    }
}

impl Drop for ScriptedProxy {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has said so itself.
            let _ = thread.join();
        }
    }
}

fn answer(socket: &UdpSocket, request: &[u8], to: SocketAddr, status: u16) {
    if status == SILENT {
        return;
    }
    let more = if status == 503 {
        "Retry-After: 1\r\n"
    } else {
        ""
    };
    // The asker may be gone.
    let _ = socket.send_to(&answer_to(request, &format!("{status} So"), more), to);
}
