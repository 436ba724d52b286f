//! A server around the product's step, in one of the architectures.
//!
//! Everything but the architecture is the same: batches are received by the product's own code, each message goes
//! through the whole step of mode `proxy` over the product's tables, and what comes of a batch leaves by one `sendmmsg`.

use std::{
    convert::Infallible,
    io::{self, IoSlice},
    net::SocketAddr,
    os::fd::{AsFd, OwnedFd},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, PoisonError, mpsc::channel},
    thread,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::Context as _;
use clap::ValueEnum;
use rustix::{
    event::{PollFd, PollFlags, epoll, poll},
    net::{
        MMsgHdr, SendAncillaryBuffer, SendFlags, SocketAddrAny, addr::SocketAddrArg as _, sendmmsg,
    },
    process::{Signal, set_parent_process_death_signal},
};
use serde::Serialize;
use sip_forwarder::{
    sip::{
        proxy::{Patch, Proxy},
        transport::Flow,
    },
    slowpath::{
        flows::{Sender, Unconnected},
        placement::Tables,
        proxying::{Proxied, ProxyStep},
        receive::{BATCH, Batch},
    },
};
use sip_forwarder_tests::flood::pin_thread;
use socket2::{Domain, Protocol, Socket, Type};

use super::{
    steering,
    tables::{SERVICE, proxy, tables},
};

/// Room for what waits to be read, in bytes: as much as the product asks for.
const ROOM: usize = 4 << 20;

/// How the work is divided: table 1 of Singh & Schulzrinne, "Failover, Load Sharing and Server Architecture in SIP
/// Telephony" (2007), and what Linux has got since.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Architecture {
    /// One thread, one socket.
    EventLoop,
    /// Threads take turns at one socket: one receives at a time.
    ThreadPool,
    /// Processes share one socket, each with tables of its own; the kernel wakes one of them.
    ProcessPool,
    /// A thread and a socket per core; the kernel spreads by a hash of addresses and ports. The product's.
    ReusePort,
    /// The same, but each core's packets go to that core's socket.
    ReusePortCpu,
}

impl Architecture {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::EventLoop => "event-loop",
            Self::ThreadPool => "thread-pool",
            Self::ProcessPool => "process-pool",
            Self::ReusePort => "reuse-port",
            Self::ReusePortCpu => "reuse-port-cpu",
        }
    }
}

/// What a server needs to know.
#[derive(Clone, Debug)]
pub(super) struct Task {
    pub(super) architecture: Architecture,
    pub(super) vip: SocketAddr,
    pub(super) backends: Vec<SocketAddr>,
    pub(super) cores: usize,
    /// Of a process pool: which process this is. The first has the socket, the others have it as their stdin.
    pub(super) process: usize,
}

/// Serves until it is killed.
pub(super) fn serve(task: &Task) -> anyhow::Result<Infallible> {
    match task.architecture {
        Architecture::EventLoop => run(task, vec![(bind(task)?, Waiting::Alone)]),
        Architecture::ThreadPool => {
            let socket = bind(task)?;
            let turn = Arc::new(Mutex::new(()));
            let workers = (0..task.cores)
                .map(|_| Ok((socket.try_clone()?, Waiting::Turn(Arc::clone(&turn)))))
                .collect::<io::Result<_>>()?;
            run(task, workers)
        }
        Architecture::ProcessPool => process_pool(task),
        Architecture::ReusePort | Architecture::ReusePortCpu => {
            let sockets = (0..task.cores)
                .map(|_| bind(task))
                .collect::<anyhow::Result<Vec<_>>>()?;
            if task.architecture == Architecture::ReusePortCpu {
                steering::by_cpu(&sockets)?;
            }
            let alone = |socket| (socket, Waiting::Alone);
            run(task, sockets.into_iter().map(alone).collect())
        }
    }
}

fn bind(task: &Task) -> anyhow::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(task.vip),
        Type::DGRAM,
        Some(Protocol::UDP),
    )?;
    socket.set_reuse_port(true)?;
    socket.set_recv_buffer_size(ROOM)?;
    socket.set_nonblocking(true)?;
    socket
        .bind(&task.vip.into())
        .with_context(|| format!("cannot bind {}", task.vip))?;
    Ok(socket)
}

/// One worker in this process, and the others in processes that end with it.
fn process_pool(task: &Task) -> anyhow::Result<Infallible> {
    let socket = if task.process == 0 {
        bind(task)?
    } else {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        Socket::from(io::stdin().as_fd().try_clone_to_owned()?)
    };
    let _others = if task.process == 0 {
        (1..task.cores)
            .map(|number| sibling(task, number, &socket))
            .collect::<anyhow::Result<Vec<_>>>()?
    } else {
        Vec::new()
    };
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let wanted = epoll::EventFlags::IN | epoll::EventFlags::EXCLUSIVE;
    epoll::add(&epoll, &socket, epoll::EventData::new_u64(0), wanted)?;
    run(task, vec![(socket, Waiting::Exclusive(epoll))])
}

fn sibling(task: &Task, number: usize, socket: &Socket) -> anyhow::Result<Child> {
    let mut next = task.clone();
    next.process = number;
    command(&next)?
        .stdin(Stdio::from(OwnedFd::from(socket.try_clone()?)))
        .spawn()
        .context("cannot start another process of the pool")
}

/// The command that serves.
pub(super) fn command(task: &Task) -> anyhow::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(arguments(task));
    Ok(command)
}

/// What `cargo xtask` is to be told to serve.
pub(super) fn arguments(task: &Task) -> Vec<String> {
    let mut words: Vec<String> = [
        "bench",
        "architectures",
        "--serve",
        task.architecture.name(),
    ]
    .map(str::to_owned)
    .to_vec();
    words.extend([
        format!("--vip={}", task.vip),
        format!("--cores={}", task.cores),
        format!("--process={}", task.process),
    ]);
    words.extend(task.backends.iter().map(|b| format!("--backend={b}")));
    words
}

/// How a worker waits for input.
enum Waiting {
    /// Nobody else has the socket.
    Alone,
    /// Whoever has the lock receives.
    Turn(Arc<Mutex<()>>),
    /// Others wait for the same socket, and the kernel wakes one.
    Exclusive(OwnedFd),
}

/// One worker for each socket, the first on core 0 (or, in a pool of processes, on the process' core).
fn run(task: &Task, sockets: Vec<(Socket, Waiting)>) -> anyhow::Result<Infallible> {
    let tables = tables(task.vip, &task.backends)?;
    let proxy = Arc::new(proxy(task.vip));
    let (failed, failure) = channel();
    for (core, (socket, waiting)) in (task.process..).zip(sockets) {
        let mut worker = Worker {
            socket,
            waiting,
            proxy: Arc::clone(&proxy),
            tables: Arc::clone(&tables),
            batch: Batch::default(),
            patch: Patch::default(),
            leaving: Leaving::default(),
        };
        let failed = failed.clone();
        thread::spawn(move || {
            let Err(error) = worker.run(core);
            // Whoever waits for it has ended then.
            let _ = failed.send(error);
        });
    }
    drop(failed);
    Err(failure.recv().context("all workers panicked")?)
}

struct Worker {
    socket: Socket,
    waiting: Waiting,
    proxy: Arc<Proxy>,
    tables: Arc<dyn Tables>,
    batch: Batch,
    patch: Patch,
    leaving: Leaving,
}

impl Worker {
    fn run(&mut self, core: usize) -> anyhow::Result<Infallible> {
        pin_thread(0, core)?;
        loop {
            self.turn()?;
        }
    }

    /// Waits for a batch and sends it on.
    fn turn(&mut self) -> anyhow::Result<()> {
        let count = match &self.waiting {
            Waiting::Alone => {
                wait(&self.socket)?;
                self.batch.receive(self.socket.as_fd())?
            }
            Waiting::Turn(turn) => {
                let _mine = turn.lock().unwrap_or_else(PoisonError::into_inner);
                wait(&self.socket)?;
                self.batch.receive(self.socket.as_fd())?
            }
            Waiting::Exclusive(epoll) => {
                let mut events = [const { std::mem::MaybeUninit::uninit() }; 1];
                epoll::wait(epoll, &mut events, None)?;
                self.batch.receive(self.socket.as_fd())?
            }
        };
        self.pass_on(count);
        self.leaving.send(&self.socket)
    }

    fn pass_on(&mut self, count: usize) {
        let proxied = Proxied {
            service: SERVICE,
            proxy: &self.proxy,
            tables: &*self.tables,
            flows: &Unconnected,
            now: unix_seconds(),
        };
        for slot in 0..count {
            let Some(sender) = self.batch.client(slot) else {
                continue;
            };
            let datagram = self.batch.datagram(slot);
            let sender = Sender {
                flow: Flow::udp(sender),
                is_backend: self.tables.is_backend(SERVICE, sender),
            };
            let (step, verdict) = proxied.step(datagram, sender, &mut self.patch);
            if let ProxyStep::Forward(next) = step
                && let Some(to) = next.by_datagram()
            {
                self.leaving.push(to, &self.patch, datagram);
            }
            self.tables.count(verdict);
        }
    }
}

fn wait(socket: &Socket) -> anyhow::Result<()> {
    let mut wanted = [PollFd::new(socket, PollFlags::IN)];
    poll(&mut wanted, None)?;
    Ok(())
}

/// Messages that leave together.
struct Leaving {
    bytes: [Vec<u8>; BATCH],
    to: Vec<SocketAddrAny>,
}

impl Default for Leaving {
    fn default() -> Self {
        Self {
            bytes: [const { Vec::new() }; BATCH],
            to: Vec::with_capacity(BATCH),
        }
    }
}

impl Leaving {
    /// Adds a message as the patch changes it. There are never more than a batch.
    fn push(&mut self, to: SocketAddr, patch: &Patch, original: &[u8]) {
        let bytes = &mut self.bytes[self.to.len()];
        bytes.clear();
        patch.write_to(original, bytes);
        self.to.push(to.as_any());
    }

    /// Sends them all. What the kernel does not take is lost, which the sinks tell.
    fn send(&mut self, socket: &Socket) -> anyhow::Result<()> {
        let slices: Vec<_> = self.bytes.iter().map(|b| [IoSlice::new(b)]).collect();
        let mut nothing: Vec<_> = self
            .to
            .iter()
            .map(|_| SendAncillaryBuffer::default())
            .collect();
        let mut headers: Vec<_> = self
            .to
            .iter()
            .zip(&slices)
            .zip(&mut nothing)
            .map(|((to, slice), nothing)| MMsgHdr::new_with_addr(to, slice, nothing))
            .collect();
        let mut at = 0;
        while at < headers.len() {
            at += match sendmmsg(socket, &mut headers[at..], SendFlags::empty()) {
                Ok(sent) => sent,
                Err(rustix::io::Errno::INTR) => 0,
                Err(rustix::io::Errno::CONNREFUSED | rustix::io::Errno::AGAIN) => 1,
                Err(error) => return Err(error).context("cannot send"),
            };
        }
        drop(headers);
        self.to.clear();
        Ok(())
    }
}

fn unix_seconds() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_secs()
}
