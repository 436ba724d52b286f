//! Where threads meet: a message is handed to the connection that it goes by, whoever owns it.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use dashmap::DashMap;
use sip_forwarder_ebpf::{
    abi::ServiceId,
    verdict::{Outcome, Verdict},
};
use socket2::Socket;
use tokio::sync::mpsc::UnboundedSender;

use super::{
    counters::Counters,
    link::{Link, LinkKey},
    reach::Reach,
    registry::{Registry, Unsent},
    service::Service,
    streams::Task,
    tls::Expiry,
    whole,
};
use crate::config::Connections;
use crate::{
    sip::{
        answer,
        headers::{Sip, StartLine},
        proxy::{Patch, Refusal},
        transport::{Flow, Transport},
    },
    slowpath::{
        flows::{Flows, Next, Outbound, Sender},
        placement::Tables,
        proxying::{Proxied, ProxyStep},
        worker::unix_seconds,
    },
};

/// How long a request is tried that backends do not take.
const TRY_FOR: Duration = Duration::from_secs(3);
/// Messages that are tried again at a time; what is beyond is refused at once.
const MOST_TRIED: usize = 10_000;
/// Time between two tries.
const TRY_AGAIN: Duration = Duration::from_millis(30);

thread_local! {
    static PATCH: std::cell::RefCell<Patch> = std::cell::RefCell::default();
}

/// The connections of all services, and what they need to know.
pub struct Hub {
    pub(super) registry: Arc<Registry>,
    pub(super) tables: Arc<dyn Tables>,
    pub(super) counters: Counters,
    services: ArcSwap<HashMap<ServiceId, Arc<Service>>>,
    links: DashMap<LinkKey, Arc<Link>>,
    reach: Arc<Reach>,
    /// Of each worker: the sockets of all VIPs.
    sockets: ArcSwap<Vec<HashMap<ServiceId, Socket>>>,
    /// Messages that wait to be tried again.
    tried: AtomicUsize,
    /// Of each thread: what it is to do.
    threads: OnceLock<Vec<UnboundedSender<Task>>>,
}

/// How many connections there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Picture {
    /// All of them.
    pub open: usize,
    /// Clients' that have sent no message yet.
    pub half_open: usize,
}

impl Hub {
    /// Without services. `first` should be random, see [`Registry::new`].
    #[must_use]
    pub fn new(
        limits: Connections,
        tables: Arc<dyn Tables>,
        reach: Arc<Reach>,
        first: u64,
    ) -> Self {
        Self {
            registry: Arc::new(Registry::new(limits, first)),
            tables,
            counters: Counters::default(),
            services: ArcSwap::default(),
            links: DashMap::new(),
            reach,
            sockets: ArcSwap::default(),
            tried: AtomicUsize::new(0),
            threads: OnceLock::new(),
        }
    }

    /// What became of connections.
    #[must_use]
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// How many there are now.
    #[must_use]
    pub fn picture(&self) -> Picture {
        Picture {
            open: self.registry.count(),
            half_open: self.registry.half_open(),
        }
    }

    /// The sockets to send datagrams from, of each worker.
    pub fn set_sockets(&self, sockets: Vec<HashMap<ServiceId, Socket>>) {
        self.sockets.store(Arc::new(sockets));
    }

    pub(super) fn set_services(&self, services: HashMap<ServiceId, Arc<Service>>) {
        self.services.store(Arc::new(services));
        self.links.retain(|key, _| {
            let services = self.services.load();
            services.get(&key.service).is_some_and(|s| key.is_of(s))
        });
    }

    pub(super) fn set_threads(&self, threads: Vec<UnboundedSender<Task>>) {
        // Only `Streams` does, once.
        let _ = self.threads.set(threads);
    }

    pub(super) fn limits(&self) -> &Connections {
        &self.registry.limits
    }

    /// When the certificates of a service's listeners end.
    #[must_use]
    pub fn certificates(&self, service: ServiceId) -> Vec<Expiry> {
        let service = self.service(service);
        let tls = service.as_ref().and_then(|s| s.server_tls.as_ref());
        tls.map(|tls| tls.expires()).unwrap_or_default()
    }

    pub(super) fn service(&self, id: ServiceId) -> Option<Arc<Service>> {
        self.services.load().get(&id).map(Arc::clone)
    }

    /// Gives a thread something to do. Nothing is done once they end.
    pub(super) fn run(&self, worker: usize, task: Task) {
        let Some(threads) = self.threads.get() else {
            return;
        };
        if let Some(thread) = threads.get(worker % threads.len().max(1)) {
            let _ = thread.send(task);
        }
    }

    /// Handles a message that came by a connection. What is returned is the answer to whoever sent it.
    pub(super) fn handle(
        &self,
        worker: usize,
        service: ServiceId,
        message: &[u8],
        sender: Sender,
    ) -> Option<Bytes> {
        let services = self.services.load();
        let Some(known) = services.get(&service) else {
            self.tables.count(Verdict::DroppedFlowGone);
            return None;
        };
        PATCH.with_borrow_mut(|patch| {
            let proxied = self.proxied(known);
            let (step, verdict) = proxied.step(message, sender, patch);
            match step {
                ProxyStep::Forward(next) => {
                    let outbound = Outbound {
                        service,
                        sender,
                        next,
                        bytes: patch.to_vec(message).into(),
                        verdict,
                        since: Instant::now(),
                    };
                    self.send(worker, outbound);
                    None
                }
                ProxyStep::Reply(answer) => {
                    self.tables.count(verdict);
                    Some(answer.bytes.into())
                }
                ProxyStep::Absorb => {
                    self.tables.count(verdict);
                    None
                }
            }
        })
    }

    fn proxied<'a>(&'a self, service: &'a Service) -> Proxied<'a> {
        Proxied {
            service: service.id,
            proxy: &service.proxy,
            tables: &*self.tables,
            flows: self,
            now: unix_seconds(),
        }
    }

    fn send_datagram(&self, worker: usize, to: SocketAddr, message: &Outbound) {
        let sockets = self.sockets.load();
        let socket = sockets
            .get(worker % sockets.len().max(1))
            .and_then(|of_worker| of_worker.get(&message.service));
        let sent = match socket {
            Some(socket) => socket.send_to(&message.bytes, &to.into()).map(drop),
            None => Err(io::ErrorKind::NotConnected.into()),
        };
        self.tables.count(match sent {
            Ok(()) => message.verdict,
            Err(_) => Verdict::DroppedSend,
        });
    }

    fn send_by_connection(&self, worker: usize, mut message: Outbound) {
        let Some(whole) = whole::for_stream(&message.bytes) else {
            return self.give_up(worker, &message, Refusal::BadLength);
        };
        message.bytes = whole;
        match message.next {
            Next::Backend { address, transport } => {
                self.send_by_link(worker, address, transport, message);
            }
            Next::Flow(flow) => match self.registry.find(message.service, &flow) {
                Some(handle) => match handle.send(message.bytes.clone()) {
                    Ok(()) => self.tables.count(message.verdict),
                    Err(Unsent::Gone) => self.give_up(worker, &message, Refusal::FlowFailed),
                    Err(Unsent::Backlog) => self.tables.count(Verdict::DroppedBacklog),
                },
                None if flow.transport == Transport::Tcp && flow.connection.is_none() => {
                    self.send_by_link(worker, flow.peer, flow.transport, message);
                }
                None => self.give_up(worker, &message, Refusal::FlowFailed),
            },
        }
    }

    fn send_by_link(
        &self,
        worker: usize,
        peer: SocketAddr,
        transport: Transport,
        message: Outbound,
    ) {
        let key = LinkKey {
            worker,
            service: message.service,
            peer,
            transport,
        };
        let link = Arc::clone(self.links.entry(key).or_default().value());
        link.send(self, key, message);
    }

    /// Forgets a link that is over, unless it leads to a backend: there may be many carriers, and clients
    /// that ask to be called back.
    pub(super) fn forget_link(&self, key: &LinkKey) {
        let leads_to_backend = self.service(key.service).is_some_and(|s| key.is_of(&s));
        if !leads_to_backend {
            self.links.remove(key);
        }
    }

    /// A message that a peer could not be given: for a backend, it is tried again for a while, wherever
    /// the rule says by then.
    pub(super) fn undelivered(&self, worker: usize, message: Outbound) {
        match message.next {
            Next::Backend { .. } if self.may_try_again(&message) => {
                self.tried.fetch_add(1, Ordering::Relaxed);
                self.run(worker, Task::TryAgain(message, TRY_AGAIN));
            }
            Next::Backend { .. } => self.give_up(worker, &message, Refusal::Unreachable),
            Next::Flow(_) => self.give_up(worker, &message, Refusal::NextHopUnreachable),
        }
    }

    fn may_try_again(&self, message: &Outbound) -> bool {
        message.since.elapsed() < TRY_FOR && self.tried.load(Ordering::Relaxed) < MOST_TRIED
    }

    /// A message for a backend that does not read what waits for it.
    pub(super) fn overflowed(&self, worker: usize, message: &Outbound) {
        self.tables.count(Verdict::DroppedBacklog);
        if let Some(answer) = self.answer_to(message, Refusal::Unreachable) {
            self.send(worker, answer);
        }
    }

    /// Asks the rule once more.
    pub(super) fn try_again(&self, worker: usize, mut message: Outbound) {
        self.tried.fetch_sub(1, Ordering::Relaxed);
        let Some(service) = self.service(message.service) else {
            self.tables.count(Verdict::DroppedFlowGone);
            return;
        };
        let Next::Backend { transport, .. } = message.next else {
            return self.give_up(worker, &message, Refusal::NextHopUnreachable);
        };
        let (step, verdict) =
            self.proxied(&service)
                .place_again(&message.bytes, message.sender, transport);
        match step {
            ProxyStep::Forward(next) => {
                self.counters.repeat();
                message.next = next;
                message.verdict = verdict;
                self.send(worker, message);
            }
            // Nobody takes it now: that may pass.
            ProxyStep::Reply(_) | ProxyStep::Absorb => self.undelivered(worker, message),
        }
    }

    /// Drops a message, and tells whoever sent it if it is a request.
    fn give_up(&self, worker: usize, message: &Outbound, refusal: Refusal) {
        if let Some(answer) = self.answer_to(message, refusal) {
            self.tables.count(Verdict::AnsweredFault);
            self.send(worker, answer);
            return;
        }
        let verdict = match message.verdict.entry().outcome {
            Outcome::Forwarded => Verdict::DroppedNoBackend,
            _ => Verdict::DroppedFlowGone,
        };
        self.tables.count(verdict);
    }

    /// A refusal of a request that was prepared to leave, as if its next hop had made it: so it finds
    /// back as any response does.
    fn answer_to(&self, message: &Outbound, refusal: Refusal) -> Option<Outbound> {
        let sip = Sip::cut(&message.bytes)?;
        match sip.start {
            StartLine::Request { method, .. } if method != b"ACK" => {}
            _ => return None,
        }
        let peer = match message.next {
            Next::Backend { address, .. } => address,
            Next::Flow(flow) => flow.peer,
        };
        let (code, reason) = (refusal.code(), refusal.reason());
        let response = answer::refuse(&sip, peer, code, reason, None)?.bytes;
        let response_sip = Sip::cut(&response)?;
        let service = self.service(message.service)?;
        let mut patch = Patch::default();
        let way_back = service
            .proxy
            .response(&response_sip, peer.ip(), true, unix_seconds(), &mut patch)
            .ok()?;
        Some(Outbound {
            service: message.service,
            sender: message.sender,
            next: Next::Flow(way_back),
            bytes: patch.to_vec(&response).into(),
            verdict: Verdict::ReturnedResponse,
            since: message.since,
        })
    }
}

impl Flows for Hub {
    fn is_open(&self, service: ServiceId, flow: &Flow) -> bool {
        match (flow.transport, flow.connection) {
            (Transport::Udp, _) | (Transport::Tcp, None) => true,
            _ => self.registry.find(service, flow).is_some(),
        }
    }

    fn takes_large_by_tcp(&self, backend: SocketAddr) -> bool {
        let rests = |link: &Link, peer| peer == backend && link.is_resting();
        self.reach.takes_large_by_tcp(backend)
            && !self.links.iter().any(|l| rests(l.value(), l.key().peer))
    }

    fn send(&self, worker: usize, message: Outbound) {
        match message.next.by_datagram() {
            Some(to) => self.send_datagram(worker, to, &message),
            None => self.send_by_connection(worker, message),
        }
    }
}
