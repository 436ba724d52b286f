//! A connection to a backend, or to a carrier that a backend names: opened when something is to be
//! sent, kept, and opened again.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use sip_forwarder_ebpf::abi::ServiceId;
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::client::TlsStream;

use super::{
    connection::Connection,
    framed::Framed,
    hub::Hub,
    registry::{Handle, Registered, Unsent},
    service::Service,
    socket,
    streams::Task,
    wire::Wire,
};
use crate::{
    sip::{
        headers::{Sip, StartLine},
        transport::Transport,
    },
    slowpath::flows::{Next, Outbound},
};

/// How long a peer may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(3);
/// After a failure, so long nothing is tried; each further failure doubles it.
const FIRST_REST: Duration = Duration::from_millis(50);
/// It never gets longer than this.
const LONGEST_REST: Duration = Duration::from_secs(1);
/// Messages that wait for a connection to open.
const MOST_WAITING: usize = 10_000;
/// Bytes that wait for a backend that reads slowly: it serves many clients.
const BACKLOG: usize = 4 * 1024 * 1024;

/// Whose link it is, and where it leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct LinkKey {
    pub(super) worker: usize,
    pub(super) service: ServiceId,
    pub(super) peer: SocketAddr,
    pub(super) transport: Transport,
}

impl LinkKey {
    /// Is it a link to one of this service's backends, by the transport that leads there?
    pub(super) fn is_of(&self, service: &Service) -> bool {
        service.backends.contains_key(&self.peer)
    }
}

/// A link.
#[derive(Default)]
pub(super) struct Link {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    stage: Stage,
    /// Failures since the last success.
    failures: u32,
}

#[derive(Default)]
enum Stage {
    #[default]
    Closed,
    /// What waits for it to open.
    Opening(Vec<Outbound>),
    Open(Arc<Handle>),
    /// It could not be opened; until then nothing is tried.
    Resting(Instant),
}

impl Link {
    /// Sends a message, opening the connection first if need be. One lock keeps messages in order.
    pub(super) fn send(self: &Arc<Self>, hub: &Hub, key: LinkKey, message: Outbound) {
        let mut state = self.lock();
        match &mut state.stage {
            Stage::Open(handle) => match send(hub, handle, &message) {
                Ok(()) => return,
                Err(Unsent::Backlog) => {
                    drop(state);
                    return hub.overflowed(key.worker, &message);
                }
                Err(Unsent::Gone) => {}
            },
            Stage::Opening(waiting) if waiting.len() < MOST_WAITING => {
                waiting.push(message);
                return;
            }
            Stage::Opening(_) => {
                drop(state);
                return hub.overflowed(key.worker, &message);
            }
            Stage::Resting(until) if Instant::now() < *until => {
                drop(state);
                hub.undelivered(key.worker, message);
                return;
            }
            Stage::Closed | Stage::Resting(_) => {}
        }
        state.stage = Stage::Opening(vec![message]);
        drop(state);
        hub.run(key.worker, Task::Open(key, Arc::clone(self)));
    }

    /// Could the peer not be reached lately?
    pub(super) fn is_resting(&self) -> bool {
        matches!(self.lock().stage, Stage::Resting(_))
    }

    /// Sends what waited, and from now on at once.
    fn opened(&self, hub: &Hub, worker: usize, handle: &Arc<Handle>) {
        let mut state = self.lock();
        state.failures = 0;
        let before = std::mem::replace(&mut state.stage, Stage::Open(Arc::clone(handle)));
        let Stage::Opening(mut waiting) = before else {
            return;
        };
        waiting.retain(|message| send(hub, handle, message).is_err());
        drop(state);
        for message in waiting {
            hub.overflowed(worker, &message);
        }
    }

    /// Rests, and gives back what waited.
    fn failed(&self) -> Vec<Outbound> {
        let mut state = self.lock();
        let rest = FIRST_REST.saturating_mul(1 << state.failures.min(8));
        state.failures += 1;
        let until = Instant::now() + rest.min(LONGEST_REST);
        match std::mem::replace(&mut state.stage, Stage::Resting(until)) {
            Stage::Opening(waiting) => waiting,
            _ => Vec::new(),
        }
    }

    /// The connection is no more. There may be another by now.
    fn closed(&self, handle: &Arc<Handle>) {
        let mut state = self.lock();
        if matches!(&state.stage, Stage::Open(open) if Arc::ptr_eq(open, handle)) {
            state.stage = Stage::Closed;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn send(hub: &Hub, handle: &Handle, message: &Outbound) -> Result<(), Unsent> {
    if is_repeatable(message) {
        handle.unanswered.sent(message, Instant::now());
    }
    handle
        .send(message.bytes.clone())
        .inspect_err(|_| handle.unanswered.forget(&message.bytes))?;
    hub.tables.count(message.verdict);
    Ok(())
}

/// Must this forwarder send it again if the backend dies before it answers? Requests of clients that do
/// so themselves, over UDP, and those that nobody answers or that belong to another need it not.
fn is_repeatable(message: &Outbound) -> bool {
    let by_connection = message.sender.flow.transport.has_connections();
    matches!(message.next, Next::Backend { .. })
        && by_connection
        && Sip::cut(&message.bytes).is_some_and(|sip| match sip.start {
            StartLine::Request { method, .. } => !matches!(method, b"ACK" | b"CANCEL"),
            StartLine::Response { .. } => false,
        })
}

/// Opens a link and serves it to its end.
pub(super) async fn run(hub: Arc<Hub>, key: LinkKey, link: Arc<Link>) {
    open(&hub, key, &link).await;
    hub.forget_link(&key);
}

async fn open(hub: &Arc<Hub>, key: LinkKey, link: &Arc<Link>) {
    let Some(service) = hub.service(key.service) else {
        link.failed();
        return;
    };
    let opened = timeout(CONNECT, socket::connect(service.vip, key.peer)).await;
    let Ok(Ok(stream)) = opened else {
        return fail(hub, key, link);
    };
    match key.transport {
        Transport::Tls => {
            let Some(stream) = secure(&service, key.peer, stream).await else {
                return fail(hub, key, link);
            };
            serve(hub, key, link, Framed::new(stream, hub.limits())).await;
        }
        _ => serve(hub, key, link, Framed::new(stream, hub.limits())).await,
    }
}

/// Makes sure of a backend by its certificate.
async fn secure(
    service: &Service,
    peer: SocketAddr,
    stream: TcpStream,
) -> Option<TlsStream<TcpStream>> {
    let tls = service.client_tls.as_ref()?;
    let name = service.backends.get(&peer)?;
    match timeout(CONNECT, tls.connect(name, peer, stream))
        .await
        .ok()?
    {
        Ok(stream) => Some(stream),
        Err(error) => {
            tracing::warn!(%peer, %error, "no TLS with a backend; see whether its certificate is for its server_name, and signed by backend_ca");
            None
        }
    }
}

fn fail(hub: &Arc<Hub>, key: LinkKey, link: &Link) {
    hub.counters.fail();
    hub.tables.unreachable(key.service, key.peer);
    for message in link.failed() {
        hub.undelivered(key.worker, message);
    }
}

async fn serve<W: Wire>(hub: &Arc<Hub>, key: LinkKey, link: &Arc<Link>, wire: W) {
    let LinkKey {
        worker,
        service,
        peer,
        transport,
    } = key;
    hub.counters.open();
    let registered: Registered = hub.registry.register(service, transport, peer, BACKLOG);
    let handle = Arc::clone(&registered.handle);
    let is_backend = hub
        .service(service)
        .is_some_and(|s| s.backends.contains_key(&peer));
    link.opened(hub, worker, &handle);
    Connection::new(wire, hub, worker, is_backend, registered, None)
        .run()
        .await;
    link.closed(&handle);
    let unanswered = handle.unanswered.take();
    if !unanswered.is_empty() {
        hub.tables.unreachable(service, peer);
    }
    for message in unanswered {
        hub.undelivered(worker, message);
    }
}
