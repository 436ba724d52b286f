//! The forwarder's socket and thread for heartbeats.

use std::{
    fmt,
    io::{self, PipeReader, PipeWriter},
    mem,
    net::SocketAddr,
    os::fd::{AsFd as _, AsRawFd as _},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};
use socket2::{Domain, Protocol, Socket, Type};
use thiserror::Error;

use super::{
    counters::{Counters, Counts},
    keys::{KeyError, MasterKey},
    sessions::{Outcome, Report, Sessions},
};
use crate::slowpath::receive::{BATCH, Batch};

/// Room for what comes while the thread does not run: some 300 ms of 10,000 small datagrams a second,
/// which the kernel counts as 768 bytes or more each.
const BUFFER: usize = 4 << 20;
/// How long more is waited for after all that was there was taken. A wake-up costs several times what a
/// heartbeat does; with many agents, this makes a thousand of them a second at most, and adds at most
/// this much to the age of a report. Measured with 1,000 backends at 10 reports a second: 3.0 % of a
/// core, against 6.4 % without; and 8.6 % against 20 % with 100,000 forged ones a second besides.
const GATHER: Duration = Duration::from_millis(1);
/// Pause after a fault that does not end by itself.
const FAULT_PAUSE: Duration = Duration::from_secs(1);

/// Why heartbeats are not received.
#[derive(Debug, Error)]
pub enum ReceiverError {
    /// The socket cannot be opened or bound.
    #[error(
        "cannot receive heartbeats on {listen}: {source}; set heartbeats.listen to a free port of an address of this machine"
    )]
    Listen {
        /// The address.
        listen: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// No secret could be drawn.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The pipe or the thread cannot be made.
    #[error(
        "cannot start the thread for heartbeats: {0}; raise the limits on open files and threads"
    )]
    Thread(io::Error),
}

/// Receives heartbeats until dropped.
pub struct Receiver {
    sessions: Arc<Mutex<Sessions>>,
    counters: Arc<Counters>,
    address: SocketAddr,
    /// The thread waits for its end.
    stop: Option<PipeWriter>,
    thread: Option<JoinHandle<()>>,
}

impl fmt::Debug for Receiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiver")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl Receiver {
    /// Listens on `listen` (`[::]` takes IPv4 too) as the forwarder named `name`, and gives the reports
    /// of backends `known` (service, backend) to `deliver`, in the order they came, some at a time.
    /// `deliver` runs on the thread that receives: it should not take long.
    pub fn start(
        listen: SocketAddr,
        name: &str,
        masters: Vec<MasterKey>,
        known: &[(String, String)],
        deliver: impl FnMut(&mut Vec<Report>) + Send + 'static,
    ) -> Result<Self, ReceiverError> {
        let fault = |source| ReceiverError::Listen { listen, source };
        let socket = open(listen).map_err(fault)?;
        let address = socket.local_addr().map_err(fault)?;
        let address = address.as_socket().unwrap_or(listen);
        let counters = Arc::new(Counters::default());
        let mut sessions = Sessions::new(name, masters, counters.clone())?;
        sessions.set_known(pairs(known));
        let sessions = Arc::new(Mutex::new(sessions));
        let (end, stop) = io::pipe().map_err(ReceiverError::Thread)?;
        let work = Work {
            socket,
            end,
            sessions: sessions.clone(),
            reports: Vec::with_capacity(BATCH),
            deliver,
        };
        let thread = thread::Builder::new()
            .name("heartbeats".into())
            .spawn(move || work.run())
            .map_err(ReceiverError::Thread)?;
        Ok(Self {
            sessions,
            counters,
            address,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// Where it listens; the port is that of the kernel's choice if 0 was asked for.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// What became of the datagrams so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counters.read()
    }

    /// Knows these backends (service, backend) from now on; the sessions of those that stay go on.
    pub fn set_known(&self, known: &[(String, String)]) {
        lock(&self.sessions).set_known(pairs(known));
    }

    /// Believes heartbeats under these master keys from now on; sessions go on.
    pub fn set_masters(&self, masters: Vec<MasterKey>) {
        lock(&self.sessions).set_masters(masters);
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread for heartbeats had panicked; the log above says where");
        }
    }
}

fn pairs(known: &[(String, String)]) -> impl Iterator<Item = (&str, &str)> {
    known
        .iter()
        .map(|(service, backend)| (&**service, &**backend))
}

/// A panic of the other side leaves sessions that are whole: each step ends before the next begins.
fn lock(sessions: &Mutex<Sessions>) -> MutexGuard<'_, Sessions> {
    sessions.lock().unwrap_or_else(PoisonError::into_inner)
}

fn open(listen: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(listen),
        Type::DGRAM,
        Some(Protocol::UDP),
    )?;
    if listen.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_nonblocking(true)?;
    // Beyond `net.core.rmem_max` only where this process may; else as much as that allows.
    socket.set_recv_buffer_size(BUFFER)?;
    force_buffer(&socket);
    socket.bind(&listen.into())?;
    Ok(socket)
}

fn force_buffer(socket: &Socket) {
    let size = BUFFER as libc::c_int;
    // SAFETY: the value is an integer of the length that is told. A refusal changes nothing.
    let _ = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVBUFFORCE,
            (&raw const size).cast(),
            mem::size_of_val(&size) as libc::socklen_t,
        )
    };
}

/// What the thread owns.
struct Work<D> {
    socket: Socket,
    end: PipeReader,
    sessions: Arc<Mutex<Sessions>>,
    reports: Vec<Report>,
    deliver: D,
}

impl<D: FnMut(&mut Vec<Report>)> Work<D> {
    fn run(mut self) {
        let mut batch = Batch::default();
        while self.wait() {
            let full = match batch.receive(self.socket.as_fd()) {
                Ok(count) => {
                    self.handle(&batch, count);
                    count == BATCH
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot receive heartbeats");
                    self.pause(FAULT_PAUSE);
                    continue;
                }
            };
            if !full {
                self.pause(GATHER);
            }
        }
    }

    fn handle(&mut self, batch: &Batch, count: usize) {
        let now = Instant::now();
        let mut sessions = lock(&self.sessions);
        for slot in 0..count {
            match sessions.receive(batch.datagram(slot), now) {
                Outcome::Accepted(report) => self.reports.push(report),
                Outcome::Challenge(challenge) => {
                    if let Some(agent) = batch.client(slot) {
                        // One that is lost is made good by the next heartbeat.
                        let _ = self.socket.send_to(&challenge, &agent.into());
                    }
                }
                Outcome::Ignored(_) => {}
            }
        }
        drop(sessions);
        if !self.reports.is_empty() {
            (self.deliver)(&mut self.reports);
            self.reports.clear();
        }
    }

    /// Waits for a datagram. False if the thread is to stop.
    fn wait(&self) -> bool {
        let mut waits = [
            PollFd::new(&self.end, PollFlags::IN),
            PollFd::new(&self.socket, PollFlags::IN),
        ];
        match poll(&mut waits, None) {
            Ok(_) => waits[0].revents().is_empty(),
            Err(Errno::INTR) => true,
            Err(error) => {
                tracing::warn!(%error, "cannot wait for heartbeats");
                thread::sleep(FAULT_PAUSE);
                true
            }
        }
    }

    /// Lets time pass, or less if the thread is to stop.
    fn pause(&self, time: Duration) {
        let time = Timespec {
            tv_sec: time.as_secs() as i64,
            tv_nsec: time.subsec_nanos().into(),
        };
        let _ = poll(&mut [PollFd::new(&self.end, PollFlags::IN)], Some(&time));
    }
}

#[cfg(test)]
#[path = "receiver_tests.rs"]
mod tests;
