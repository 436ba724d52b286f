//! Peers that mean no good: many connections that each take what they can and give as little as they can. One that is
//! closed comes again.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::lab::{Host, Lab};
use crate::messages::Message;

/// The pause before one that was closed comes again.
const AGAIN: Duration = Duration::from_millis(100);
/// How often the thread looks whether it is to end.
const LOOK: Duration = Duration::from_millis(50);

/// What such a peer does with its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attack {
    /// A head that grows by one character now and then and never ends.
    Slowloris,
    /// Nothing at all, or half a handshake with TLS and WebSocket: these first bytes, then silence.
    HalfOpen(&'static [u8]),
    /// A head that announces a gigabyte, and bytes without end.
    HugeBody,
    /// Bytes that are no SIP, without end.
    Garbage,
    /// Requests for which answers come, and nobody who reads them.
    NeverReads,
}

/// The first bytes of a TLS handshake, of which more is announced.
pub const HALF_HELLO: &[u8] = &[22, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];
/// The first line of a WebSocket handshake.
pub const HALF_UPGRADE: &[u8] = b"GET / HTTP/1.1\r\nHost: ";

/// Attackers at work, until dropped.
#[derive(Debug)]
pub struct Attackers {
    counts: Arc<Counts>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Counts {
    opened: AtomicU64,
    closed: AtomicU64,
    bytes: AtomicU64,
}

impl Attackers {
    /// Lets so many connections of a host have at an address.
    pub fn start(
        lab: &Lab,
        host: Host,
        address: SocketAddr,
        attack: Attack,
        connections: usize,
    ) -> Result<Self> {
        super::flood::allow_files(connections as u64 + 1_024)?;
        let (counts, stop) = (Arc::<Counts>::default(), Arc::<AtomicBool>::default());
        let (lab, shared, stopped) = (lab.clone(), Arc::clone(&counts), Arc::clone(&stop));
        let work = move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            runtime.block_on(async {
                for _ in 0..connections {
                    tokio::spawn(again_and_again(address, attack, Arc::clone(&shared)));
                }
                while !stopped.load(Ordering::Relaxed) {
                    tokio::time::sleep(LOOK).await;
                }
            });
            anyhow::Ok(())
        };
        let thread = thread::Builder::new()
            .name("attackers".to_owned())
            .spawn(move || {
                if let Err(error) = lab.enter(host, work).and_then(|done| done) {
                    eprintln!("lab: {error:#}");
                }
            })
            .context("cannot start the attackers' thread")?;
        Ok(Self {
            counts,
            stop,
            thread: Some(thread),
        })
    }

    /// Connections that were opened so far.
    #[must_use]
    pub fn opened(&self) -> u64 {
        self.counts.opened.load(Ordering::Relaxed)
    }

    /// Connections that the other side closed so far.
    #[must_use]
    pub fn closed(&self) -> u64 {
        self.counts.closed.load(Ordering::Relaxed)
    }

    /// Bytes that the other side's kernel took so far.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.counts.bytes.load(Ordering::Relaxed)
    }
}

impl Drop for Attackers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has said so itself.
            let _ = thread.join();
        }
    }
}

async fn again_and_again(address: SocketAddr, attack: Attack, counts: Arc<Counts>) {
    loop {
        if let Ok(stream) = TcpStream::connect(address).await {
            counts.opened.fetch_add(1, Ordering::Relaxed);
            // It ends with an error when the other side closes, which is what is counted.
            let _ = attack_once(stream, attack, &counts).await;
            counts.closed.fetch_add(1, Ordering::Relaxed);
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// Ends once the other side has closed.
async fn attack_once(
    mut stream: TcpStream,
    attack: Attack,
    counts: &Counts,
) -> std::io::Result<()> {
    let (head, more, pause) = plan(attack);
    if attack == Attack::NeverReads {
        return pour(&mut stream, &head, &more, pause, counts).await;
    }
    let (mut read, mut write) = stream.split();
    tokio::select! {
        result = pour(&mut write, &head, &more, pause, counts) => result,
        result = read_to_end(&mut read) => result,
    }
}

/// What is sent first, what is sent again and again, and the pause before each.
fn plan(attack: Attack) -> (Vec<u8>, Vec<u8>, Duration) {
    let request = String::from_utf8_lossy(&Message::invite().build()).into_owned();
    let head = request.split("Content-Length").next().unwrap_or(&request);
    match attack {
        Attack::Slowloris => (
            format!("{head}X-Slow: ").into_bytes(),
            b"x".to_vec(),
            Duration::from_millis(200),
        ),
        Attack::HalfOpen(first) => (first.to_vec(), Vec::new(), Duration::from_hours(1)),
        Attack::HugeBody => (
            format!("{head}Content-Length: 1000000000\r\n\r\n").into_bytes(),
            vec![b'x'; 64 * 1024],
            Duration::ZERO,
        ),
        Attack::Garbage => (
            Vec::new(),
            (0..64 * 1024_u32)
                .map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8)
                .collect(),
            Duration::from_millis(10),
        ),
        Attack::NeverReads => {
            let ask = Message::request("OPTIONS")
                .start_line("OPTIONS sip:10.210.255.1 SIP/2.0")
                .vias(&["SIP/2.0/TCP 10.210.0.2:5061;branch=z9hG4bK-never"])
                .build();
            (Vec::new(), ask.repeat(50), Duration::ZERO)
        }
    }
}

async fn pour(
    to: &mut (impl AsyncWriteExt + Unpin),
    head: &[u8],
    more: &[u8],
    pause: Duration,
    counts: &Counts,
) -> std::io::Result<()> {
    to.write_all(head).await?;
    loop {
        tokio::time::sleep(pause).await;
        to.write_all(more).await?;
        counts.bytes.fetch_add(more.len() as u64, Ordering::Relaxed);
    }
}

async fn read_to_end(from: &mut (impl AsyncReadExt + Unpin)) -> std::io::Result<()> {
    let mut piece = [0; 4_096];
    while from.read(&mut piece).await? > 0 {}
    Ok(())
}
