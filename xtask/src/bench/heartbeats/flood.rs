//! Bad heartbeats, as many as are asked for, from a thread of their own.

use std::{
    net::UdpSocket,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow, ensure};

/// What is due by then goes out at once.
const STEP: Duration = Duration::from_millis(1);

/// A flood, until it is stopped or dropped.
pub(super) struct Flood {
    sent: Arc<AtomicU64>,
    start: Instant,
    stop: Sender<()>,
    thread: JoinHandle<()>,
}

/// What a flood came to.
#[derive(Clone, Copy)]
pub(super) struct Flooded {
    pub(super) sent: u64,
    pub(super) per_second: f64,
}

impl Flood {
    /// Sends these datagrams in turn, so many a second.
    pub(super) fn start(
        socket: UdpSocket,
        datagrams: Vec<Vec<u8>>,
        per_second: u32,
    ) -> anyhow::Result<Self> {
        ensure!(!datagrams.is_empty(), "a flood of nothing");
        let sent = Arc::new(AtomicU64::new(0));
        let (stop, stopped) = channel();
        let count = Arc::clone(&sent);
        let thread = thread::Builder::new()
            .name("flood".to_owned())
            .spawn(move || pour(&socket, &datagrams, per_second, &count, &stopped))
            .context("cannot start the thread of the flood")?;
        Ok(Self {
            sent,
            start: Instant::now(),
            stop,
            thread,
        })
    }

    /// Ends it.
    pub(super) fn stop(self) -> anyhow::Result<Flooded> {
        drop(self.stop);
        self.thread
            .join()
            .map_err(|_| anyhow!("the thread of the flood panicked"))?;
        let sent = self.sent.load(Ordering::Relaxed);
        Ok(Flooded {
            sent,
            per_second: sent as f64 / self.start.elapsed().as_secs_f64(),
        })
    }
}

fn pour(
    socket: &UdpSocket,
    datagrams: &[Vec<u8>],
    per_second: u32,
    sent: &AtomicU64,
    stopped: &Receiver<()>,
) {
    let start = Instant::now();
    let mut turns = datagrams.iter().cycle();
    let mut tried = 0;
    while stopped.recv_timeout(STEP) == Err(RecvTimeoutError::Timeout) {
        let due = (start.elapsed().as_secs_f64() * f64::from(per_second)) as u64;
        let good = turns
            .by_ref()
            .take((due - tried) as usize)
            .filter(|datagram| socket.send(datagram).is_ok())
            .count();
        tried = due;
        sent.fetch_add(good as u64, Ordering::Relaxed);
    }
}
