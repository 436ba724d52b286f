//! The workers: one pinned thread per core, each with its own socket for every VIP.

use std::{
    collections::HashMap,
    fmt,
    io::{self, PipeReader, PipeWriter},
    iter,
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd},
    sync::Arc,
    thread::{self, JoinHandle},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use core_affinity::CoreId;
use sip_forwarder_ebpf::{abi::ServiceId, verdict::Verdict};
use socket2::{Domain, Protocol, Socket, Type};

use super::{
    errors,
    flows::{Flows, Outbound, Sender},
    options,
    patched::{Leaving, Patched},
    placement::Tables,
    proxying::{Proxied, ProxyStep},
    receive::{BATCH, Batch},
    step::{Step, step},
    transparent::{Outgoing, Transparent, TransparentError},
};
use crate::sip::{
    answer::Answer,
    proxy::{Patch, Proxy},
    transport::Flow,
};

/// Time between two lines of log about failures of one worker.
const LOG_PAUSE: Duration = Duration::from_secs(1);

/// Why the workers do not start.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// A VIP's socket cannot be opened or set up.
    #[error("cannot set up a UDP socket for {vip}: {source}")]
    Socket {
        /// The VIP.
        vip: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// A VIP cannot be bound to.
    #[error("cannot listen on {vip}: {source}; {advice}")]
    Bind {
        /// The VIP.
        vip: SocketAddr,
        /// What the kernel said.
        source: io::Error,
        /// What to do.
        advice: &'static str,
    },
    /// Messages could not be sent on.
    #[error(transparent)]
    Transparent(#[from] TransparentError),
    /// The pipe that stops the workers cannot be made.
    #[error("cannot make the pipe that stops the workers: {0}; raise the limit on open files")]
    Stop(io::Error),
    /// A thread cannot be started.
    #[error("cannot start worker thread {number}: {source}; raise the limit on threads")]
    Spawn {
        /// Which worker.
        number: usize,
        /// What the system said.
        source: io::Error,
    },
}

/// The running workers. Dropped without [`Workers::stop`], they stop by themselves, unawaited.
pub struct Workers {
    threads: Vec<JoinHandle<()>>,
    /// Of each worker: the sockets it sends from, by service.
    sockets: Vec<HashMap<ServiceId, Socket>>,
    /// The workers wait for its end.
    stop: PipeWriter,
}

impl fmt::Debug for Workers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Workers")
            .field("threads", &self.threads.len())
            .finish_non_exhaustive()
    }
}

/// A service's VIP, and how its messages are sent on.
#[derive(Clone)]
pub struct Listen {
    /// The service.
    pub service: ServiceId,
    /// The VIP and its port.
    pub vip: SocketAddr,
    /// How.
    pub manner: Manner,
}

/// How messages are sent on.
#[derive(Clone)]
pub enum Manner {
    /// As they are, with their sender's address.
    Transparent,
    /// Changed as a stateless proxy does, with the VIP's address.
    Proxy(Arc<Proxy>),
}

impl Workers {
    /// Listens on the VIPs with `threads` workers (at least one). All sockets are open when this
    /// returns.
    pub fn start(
        vips: &[Listen],
        threads: usize,
        tables: &Arc<dyn Tables>,
        flows: &Arc<dyn Flows>,
    ) -> Result<Self, WorkerError> {
        let (end, stop) = io::pipe().map_err(WorkerError::Stop)?;
        let workers = (0..threads.max(1))
            .map(|number| Worker::new(number, vips, &end, (Arc::clone(tables), Arc::clone(flows))))
            .collect::<Result<Vec<_>, _>>()?;
        let sockets = workers
            .iter()
            .map(Worker::sockets)
            .collect::<Result<_, _>>()?;
        let cores = core_affinity::get_core_ids().unwrap_or_default();
        let mut running = Self {
            threads: Vec::new(),
            sockets,
            stop,
        };
        for (number, worker) in workers.into_iter().enumerate() {
            let core = cores.get(number % cores.len().max(1)).copied();
            let thread = thread::Builder::new()
                .name(format!("sip-worker-{number}"))
                .spawn(move || worker.run(core))
                .map_err(|source| WorkerError::Spawn { number, source })?;
            running.threads.push(thread);
        }
        Ok(running)
    }

    /// Of each worker, the sockets of all VIPs, to send from beside it.
    #[must_use]
    pub fn take_sockets(&mut self) -> Vec<HashMap<ServiceId, Socket>> {
        std::mem::take(&mut self.sockets)
    }

    /// Stops the workers and waits for their end.
    pub fn stop(self) {
        drop(self.stop);
        for thread in self.threads {
            if thread.join().is_err() {
                tracing::error!("a worker had panicked; the log above says where");
            }
        }
    }
}

/// A VIP's socket.
struct Vip {
    service: ServiceId,
    address: SocketAddr,
    manner: Manner,
    socket: Socket,
}

impl Vip {
    fn open(listen: &Listen) -> Result<Self, WorkerError> {
        let (service, address) = (listen.service, listen.vip);
        let socket = unbound(address).map_err(|source| WorkerError::Socket {
            vip: address,
            source,
        })?;
        if matches!(listen.manner, Manner::Proxy(_)) {
            errors::keep(&socket, address).map_err(|source| WorkerError::Socket {
                vip: address,
                source,
            })?;
        }
        socket
            .bind(&address.into())
            .map_err(|source| WorkerError::Bind {
                vip: address,
                advice: advice(&source),
                source,
            })?;
        Ok(Self {
            service,
            address,
            manner: listen.manner.clone(),
            socket,
        })
    }
}

/// A socket of the address' family, ready to be bound beside those of the other workers.
fn unbound(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::DGRAM,
        Some(Protocol::UDP),
    )?;
    socket.set_reuse_port(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    options::large_receive_buffer(&socket)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn advice(bind: &io::Error) -> &'static str {
    match bind.kind() {
        io::ErrorKind::AddrInUse => {
            "another program has the port (see `ss -ulpn`): stop it, or give the service another port"
        }
        io::ErrorKind::AddrNotAvailable => {
            "no interface has the address: add it with `ip address add`, or correct the configuration"
        }
        io::ErrorKind::PermissionDenied => "a port below 1024 wants root or CAP_NET_BIND_SERVICE",
        _ => "see whether address and port are right",
    }
}

/// What one thread owns.
struct Worker {
    number: usize,
    flows: Arc<dyn Flows>,
    vips: Vec<Vip>,
    end: PipeReader,
    transparent: Transparent,
    tables: Arc<dyn Tables>,
    outgoing: Vec<Outgoing>,
    patched: Vec<Patched>,
    patches: Vec<Patch>,
    leaving: Leaving,
    log: Pause,
}

impl Worker {
    fn new(
        number: usize,
        vips: &[Listen],
        end: &PipeReader,
        (tables, flows): (Arc<dyn Tables>, Arc<dyn Flows>),
    ) -> Result<Self, WorkerError> {
        Ok(Self {
            number,
            flows,
            transparent: Transparent::open(
                vips.iter()
                    .filter(|listen| matches!(listen.manner, Manner::Transparent))
                    .map(|listen| listen.vip),
            )?,
            vips: vips.iter().map(Vip::open).collect::<Result<_, _>>()?,
            end: end.try_clone().map_err(WorkerError::Stop)?,
            tables,
            outgoing: Vec::with_capacity(BATCH),
            patched: Vec::with_capacity(BATCH),
            patches: iter::repeat_with(Patch::default).take(BATCH).collect(),
            leaving: Leaving::default(),
            log: Pause::default(),
        })
    }

    /// The sockets it sends from, once more.
    fn sockets(&self) -> Result<HashMap<ServiceId, Socket>, WorkerError> {
        let again = |vip: &Vip| {
            let socket = vip
                .socket
                .try_clone()
                .map_err(|source| WorkerError::Socket {
                    vip: vip.address,
                    source,
                })?;
            Ok((vip.service, socket))
        };
        self.vips.iter().map(again).collect()
    }

    fn run(mut self, core: Option<CoreId>) {
        if let Some(core) = core
            && !core_affinity::set_for_current(core)
        {
            tracing::warn!(
                core = core.id,
                "cannot pin a worker to its core; it runs on any"
            );
        }
        let mut batch = Batch::default();
        let vips = std::mem::take(&mut self.vips);
        let mut waits: Vec<libc::pollfd> = [self.end.as_raw_fd()]
            .into_iter()
            .chain(vips.iter().map(|vip| vip.socket.as_raw_fd()))
            .map(wait_for_input)
            .collect();
        while self.wait(&mut waits) {
            for (vip, wait) in vips.iter().zip(&waits[1..]) {
                if wait.revents & libc::POLLERR != 0 {
                    self.heed_errors(vip);
                }
                if wait.revents != 0 {
                    self.serve(vip, &mut batch);
                }
            }
        }
        // Others have the sockets' port already, if the daemon goes on: what came to these is not lost.
        for vip in &vips {
            while self.serve(vip, &mut batch) == BATCH {}
        }
    }

    /// Waits for input. False if the worker is to stop.
    fn wait(&mut self, waits: &mut [libc::pollfd]) -> bool {
        // SAFETY: the pointer and the length are those of one slice.
        let ready = unsafe { libc::poll(waits.as_mut_ptr(), waits.len() as libc::nfds_t, -1) };
        if ready < 0 {
            // Nothing is said of any socket then.
            for wait in waits.iter_mut() {
                wait.revents = 0;
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                self.log
                    .warn(|| tracing::warn!(%error, "cannot wait for messages"));
                thread::sleep(LOG_PAUSE);
            }
        }
        waits[0].revents == 0
    }

    /// Handles one batch of a VIP's datagrams, and tells how many there were.
    fn serve(&mut self, vip: &Vip, batch: &mut Batch) -> usize {
        let count = match batch.receive(vip.socket.as_fd()) {
            Ok(count) => count,
            Err(error) => {
                let vip = vip.address;
                self.log
                    .warn(|| tracing::warn!(%vip, %error, "cannot receive"));
                return 0;
            }
        };
        match &vip.manner {
            Manner::Transparent => {
                for slot in 0..count {
                    if let Some(client) = batch.client(slot) {
                        self.handle(vip, batch.datagram(slot), client, slot);
                    }
                }
                self.send_on(batch);
            }
            Manner::Proxy(proxy) => self.serve_proxy(vip, proxy, batch, count),
        }
        count
    }

    fn handle(&mut self, vip: &Vip, datagram: &[u8], client: SocketAddr, slot: usize) {
        let (step, verdict) = step(datagram, client, vip.service, &*self.tables);
        match step {
            Step::Forward { backend, source } => {
                let outgoing = Outgoing {
                    source,
                    backend,
                    slot,
                    verdict,
                };
                self.outgoing.push(outgoing);
            }
            Step::Reply(answer) => self.reply(vip, &answer, verdict),
            Step::Absorb => self.tables.count(verdict),
        }
    }

    /// Tells whom messages did not reach.
    fn heed_errors(&self, vip: &Vip) {
        while let Some(destination) = errors::next(vip.socket.as_fd()) {
            self.tables.unreachable(vip.service, destination);
        }
    }

    /// A batch of a service in mode `proxy`.
    fn serve_proxy(&mut self, vip: &Vip, proxy: &Proxy, batch: &Batch, count: usize) {
        let tables = Arc::clone(&self.tables);
        let flows = Arc::clone(&self.flows);
        let proxied = Proxied {
            service: vip.service,
            proxy,
            tables: &*tables,
            flows: &*flows,
            now: unix_seconds(),
        };
        for slot in 0..count {
            let Some(sender) = batch.client(slot) else {
                continue;
            };
            let sender = Sender {
                flow: Flow::udp(sender),
                is_backend: tables.is_backend(vip.service, sender),
            };
            let patch = &mut self.patches[slot];
            let (step, verdict) = proxied.step(batch.datagram(slot), sender, patch);
            match step {
                ProxyStep::Forward(next) => {
                    if let Some(to) = next.by_datagram() {
                        self.patched.push(Patched { to, slot, verdict });
                    } else {
                        let message = Outbound {
                            service: vip.service,
                            sender,
                            next,
                            bytes: patch.to_vec(batch.datagram(slot)).into(),
                            verdict,
                            since: Instant::now(),
                        };
                        flows.send(self.number, message);
                    }
                }
                ProxyStep::Reply(answer) => self.reply(vip, &answer, verdict),
                ProxyStep::Absorb => tables.count(verdict),
            }
        }
        let Self {
            leaving,
            patched,
            patches,
            log,
            ..
        } = self;
        leaving.send(
            &vip.socket,
            patched,
            patches,
            |slot| batch.datagram(slot),
            |sent, result| match result {
                Ok(()) => tables.count(sent.verdict),
                Err(error) => {
                    tables.count(Verdict::DroppedSend);
                    let to = sent.to;
                    log.warn(|| tracing::warn!(%to, %error, "cannot send on"));
                }
            },
        );
        patched.clear();
    }

    fn reply(&mut self, vip: &Vip, answer: &Answer, verdict: Verdict) {
        match vip.socket.send_to(&answer.bytes, &answer.to.into()) {
            Ok(_) => self.tables.count(verdict),
            Err(error) => {
                self.tables.count(Verdict::DroppedSend);
                let (vip, to) = (vip.address, answer.to);
                self.log
                    .warn(|| tracing::warn!(%vip, %to, %error, "cannot answer"));
            }
        }
    }

    fn send_on(&mut self, batch: &Batch) {
        let Self {
            transparent,
            tables,
            outgoing,
            log,
            ..
        } = self;
        transparent.send(
            outgoing,
            |slot| batch.datagram(slot),
            |sent, result| match result {
                Ok(()) => tables.count(sent.verdict),
                Err(error) => {
                    tables.count(Verdict::DroppedSend);
                    let Outgoing {
                        source, backend, ..
                    } = sent;
                    log.warn(|| tracing::warn!(%source, %backend, %error, "cannot send on"));
                }
            },
        );
        outgoing.clear();
    }
}

/// Seconds since 1970.
pub(crate) fn unix_seconds() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

fn wait_for_input(fd: libc::c_int) -> libc::pollfd {
    libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    }
}

/// Lets a line of log pass only so often.
#[derive(Default)]
struct Pause {
    last: Option<Instant>,
}

impl Pause {
    fn warn(&mut self, line: impl FnOnce()) {
        let now = Instant::now();
        if self
            .last
            .is_none_or(|last| now.duration_since(last) >= LOG_PAUSE)
        {
            self.last = Some(now);
            line();
        }
    }
}
