//! Many messages, and somebody who counts those that arrive: a generator and sinks for benchmarks.
//!
//! Requests of some 500 bytes from many ports, each with a Call-ID of its own. Nothing is answered.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    os::fd::AsRawFd,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, ensure};
use rustix::process::Pid;

use crate::{
    lab::{Family, Host, Lab},
    messages::{Message, line_offset},
};

/// Messages handed to the kernel at once.
const BATCH: usize = 32;
/// Messages that are made up for at once after a pause; a veth's queue holds 256.
const BURST: u64 = 128;
/// Ports that messages come from.
const PORTS: u16 = 64;
const FIRST_PORT: u16 = 20_000;
/// Room for what waits to be read, in bytes: what is lost is to be lost in the box, not in a sink.
const ROOM: libc::c_int = 64 << 20;
/// Call-IDs of one generator.
const CALLS: u64 = 10_000_000_000;
/// Digits of the number in a Call-ID.
const DIGITS: usize = 12;

/// Counts datagrams at a proxy's port, until dropped.
#[derive(Debug)]
pub struct Sink {
    arrived: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Sink {
    /// Listens on a host and counts, on this core.
    pub fn start(lab: &Lab, host: Host, family: Family, port: u16, core: usize) -> Result<Self> {
        let socket = bind(lab, host, host.socket(family, port))?;
        enlarge(&socket, libc::SO_RCVBUFFORCE)?;
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        let (arrived, stop) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let (counter, stopped) = (Arc::clone(&arrived), Arc::clone(&stop));
        let thread = thread::Builder::new()
            .name(format!("sink-{host}"))
            .spawn(move || {
                // Where it runs matters little if it cannot be chosen.
                let _ = pin_thread(0, core);
                // A shorter buffer than the message: the rest need not be copied.
                let mut byte = [0; 1];
                while !stopped.load(Ordering::Relaxed) {
                    if socket.recv(&mut byte).is_ok() {
                        counter.fetch_add(1, Ordering::Relaxed);
                    }
                }
            })
            .context("cannot start a sink's thread")?;
        Ok(Self {
            arrived,
            stop,
            thread: Some(thread),
        })
    }

    /// How many arrived so far.
    #[must_use]
    pub fn arrived(&self) -> u64 {
        self.arrived.load(Ordering::Relaxed)
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Sends messages from the client to one address.
#[derive(Debug)]
pub struct Generator {
    sockets: Vec<UdpSocket>,
    template: Vec<u8>,
    /// Where the Call-ID's number stands.
    number_at: usize,
    next: u64,
}

impl Generator {
    /// Opens its sockets; nothing is sent yet.
    pub fn new(lab: &Lab, family: Family, to: SocketAddr) -> Result<Self> {
        Self::numbered(lab, family, to, 0)
    }

    /// One of several, with ports and Call-IDs of its own.
    pub fn numbered(lab: &Lab, family: Family, to: SocketAddr, number: u16) -> Result<Self> {
        let first = FIRST_PORT + number * PORTS;
        let sockets = (first..first + PORTS)
            .map(|port| {
                let socket = bind(lab, Host::Client, Host::Client.socket(family, port))?;
                socket
                    .connect(to)
                    .with_context(|| format!("cannot connect to {to}"))?;
                enlarge(&socket, libc::SO_SNDBUFFORCE)?;
                Ok(socket)
            })
            .collect::<Result<_>>()?;
        let call_id = format!("{}@client", "0".repeat(DIGITS));
        let template = Message::invite().call_id(&call_id).build();
        let line = line_offset(&template, "Call-ID: ").context("the message has no Call-ID")?;
        Ok(Self {
            sockets,
            template,
            number_at: line + "Call-ID: ".len(),
            next: u64::from(number) * CALLS,
        })
    }

    /// Sends `rate` messages a second for so long, from this core, and tells how many were sent: fewer
    /// if this machine cannot send as many.
    pub fn send(&mut self, rate: f64, time: Duration, core: usize) -> Result<u64> {
        thread::scope(|scope| {
            scope
                .spawn(|| {
                    pin_thread(0, core)?;
                    self.send_paced(rate, time)
                })
                .join()
                .map_err(|_| anyhow!("the generator panicked"))?
        })
    }

    fn send_paced(&mut self, rate: f64, time: Duration) -> Result<u64> {
        let start = Instant::now();
        let (mut sent, mut forgiven) = (0, 0);
        let mut turn = 0;
        let mut batch = vec![self.template.clone(); BATCH];
        while start.elapsed() < time {
            let due = (start.elapsed().as_secs_f64() * rate) as u64;
            let owed = due.saturating_sub(sent + forgiven);
            if owed < BATCH as u64 {
                thread::sleep(Duration::from_micros(20));
                continue;
            }
            // What a pause of this machine kept from being sent would fill a veth's queue at once.
            forgiven += owed.saturating_sub(BURST);
            for message in &mut batch {
                self.next += 1;
                let number = format!("{:0DIGITS$}", self.next);
                message[self.number_at..self.number_at + DIGITS].copy_from_slice(number.as_bytes());
            }
            sent += send_batch(&self.sockets[turn % self.sockets.len()], &batch)? as u64;
            turn += 1;
        }
        Ok(sent)
    }
}

/// Hands messages to the kernel at once. Returns how many it took.
fn send_batch(socket: &UdpSocket, batch: &[Vec<u8>]) -> Result<usize> {
    let mut parts: Vec<libc::iovec> = batch
        .iter()
        .map(|message| libc::iovec {
            iov_base: message.as_ptr().cast_mut().cast(),
            iov_len: message.len(),
        })
        .collect();
    let mut headers: Vec<libc::mmsghdr> = parts
        .iter_mut()
        .map(|part| {
            // SAFETY: a header of zeros is one without name, parts and ancillary data.
            let mut header: libc::mmsghdr = unsafe { std::mem::zeroed() };
            header.msg_hdr.msg_iov = part;
            header.msg_hdr.msg_iovlen = 1;
            header
        })
        .collect();
    // SAFETY: each header has one part, which lives in `parts` and points to a whole message of
    // `batch`; the kernel only reads them.
    let sent = unsafe {
        libc::sendmmsg(
            socket.as_raw_fd(),
            headers.as_mut_ptr(),
            headers.len() as libc::c_uint,
            0,
        )
    };
    match usize::try_from(sent) {
        Ok(sent) => Ok(sent),
        // The box is not there, or its queue is full: that is a loss, which the sinks tell.
        Err(_) if is_loss(&io::Error::last_os_error()) => Ok(batch.len()),
        Err(_) => Err(io::Error::last_os_error()).context("cannot send"),
    }
}

fn is_loss(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ECONNREFUSED | libc::ENOBUFS)
    )
}

/// Lets one thread (0: this one) run on this core only.
pub fn pin_thread(thread: u32, core: usize) -> Result<()> {
    // SAFETY: a set of zeros is the empty one; the call reads the set it is given.
    let result = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(core, &mut set);
        libc::sched_setaffinity(
            thread.cast_signed(),
            size_of::<libc::cpu_set_t>(),
            &raw const set,
        )
    };
    ensure!(
        result == 0,
        "cannot run thread {thread} on core {core} only: {}",
        io::Error::last_os_error()
    );
    Ok(())
}

/// Lets all threads of these processes run on this core only.
pub fn pin_processes(pids: &[u32], core: usize) -> Result<()> {
    for thread in threads(pids)? {
        pin_thread(thread, core)?;
    }
    Ok(())
}

/// Who runs first where several want to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precedence {
    /// What a network card would interrupt a program for.
    Card,
    /// The programs that are measured or that measure.
    Program,
}

/// Lets one thread (0: this one) run before all others on this machine. What it starts inherits that.
pub fn take_precedence(thread: u32, precedence: Precedence) -> Result<()> {
    let nice = match precedence {
        Precedence::Card => -20,
        Precedence::Program => -10,
    };
    rustix::process::setpriority_process(Pid::from_raw(thread.cast_signed()), nice)
        .with_context(|| format!("cannot raise the priority of thread {thread}"))
}

/// All threads of these processes.
fn threads(pids: &[u32]) -> Result<Vec<u32>> {
    let mut threads = Vec::new();
    for pid in pids {
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task"))
            .with_context(|| format!("process {pid} has ended"))?;
        for task in tasks {
            let name = task?.file_name();
            threads.push(name.to_string_lossy().parse().context("a thread's id")?);
        }
    }
    Ok(threads)
}

fn bind(lab: &Lab, host: Host, address: SocketAddr) -> Result<UdpSocket> {
    lab.enter(host, move || UdpSocket::bind(address))?
        .with_context(|| format!("cannot bind {address}"))
}

fn enlarge(socket: &UdpSocket, option: libc::c_int) -> Result<()> {
    let room = ROOM;
    // SAFETY: the option's value is an int that lives until the call returns.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            (&raw const room).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    ensure!(
        result == 0,
        "cannot enlarge a socket's buffer: {}",
        io::Error::last_os_error()
    );
    Ok(())
}
