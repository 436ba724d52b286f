//! A proxy behind the forwarder that takes TCP: it answers OPTIONS, and keeps all else for the test.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, Result};

use super::framing::{Framer, Unit};
use crate::{
    lab::{Host, Lab},
    messages::answer_to,
};

/// How often its threads look whether they are to end.
const LOOK: Duration = Duration::from_millis(20);

/// The proxy. Dropped, it closes its connections and takes no more.
#[derive(Debug)]
pub struct StreamProxy {
    arrived: Receiver<Vec<u8>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl StreamProxy {
    /// Listens at an address of a lab's host.
    pub fn start(lab: &Lab, host: Host, address: SocketAddr) -> Result<Self> {
        let listener = lab
            .enter(host, move || TcpListener::bind(address))?
            .with_context(|| format!("cannot listen on {address}"))?;
        listener.set_nonblocking(true)?;
        let (deliver, arrived) = channel();
        let stop = Arc::new(AtomicBool::new(false));
        let end = Arc::clone(&stop);
        let thread = thread::Builder::new()
            .name(format!("stream-proxy-{host}"))
            .spawn(move || accept(&listener, &deliver, &end))?;
        Ok(Self {
            arrived,
            stop,
            thread: Some(thread),
        })
    }

    /// What came since the last look.
    #[must_use]
    pub fn take(&self) -> Vec<Vec<u8>> {
        self.arrived.try_iter().collect()
    }
}

impl Drop for StreamProxy {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has said so itself.
            let _ = thread.join();
        }
    }
}

fn accept(listener: &TcpListener, deliver: &Sender<Vec<u8>>, end: &Arc<AtomicBool>) {
    thread::scope(|scope| {
        while !end.load(Ordering::Relaxed) {
            match listener.accept() {
                Ok((stream, _)) => drop(scope.spawn(|| serve(stream, deliver, end))),
                Err(_) => thread::sleep(LOOK),
            }
        }
    });
}

/// Ends with the connection, or with the proxy.
fn serve(mut stream: TcpStream, deliver: &Sender<Vec<u8>>, end: &AtomicBool) {
    let (mut framer, mut room) = (Framer::default(), [0; 16 * 1024]);
    if stream.set_read_timeout(Some(LOOK)).is_err() {
        return;
    }
    while !end.load(Ordering::Relaxed) {
        match stream.read(&mut room) {
            Ok(0) => return,
            Ok(length) => framer.push(&room[..length]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(_) => return,
        }
        while let Ok(Some(unit)) = framer.next_unit() {
            let Unit::Message(message) = unit else {
                continue;
            };
            let done = if message.starts_with(b"OPTIONS ") {
                let answer = answer_to(&message, "200 OK", "");
                stream.write_all(&answer).is_ok()
            } else {
                deliver.send(message).is_ok()
            };
            if !done {
                return;
            }
        }
    }
}
