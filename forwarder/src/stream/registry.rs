//! All connections: how a message finds the one that it goes by, from whatever thread.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    num::NonZeroU64,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use dashmap::{DashMap, Entry};
use sip_forwarder_ebpf::abi::ServiceId;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::{counters::Ending, unanswered::Unanswered};
use crate::config::Connections;
use crate::sip::transport::{ConnectionId, Flow, Transport};

/// What a connection is told.
#[derive(Debug)]
pub(super) enum Order {
    /// Send this.
    Send(Bytes),
    /// End.
    Close(Ending),
}

/// Why a message cannot be sent by a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unsent {
    /// It is gone.
    Gone,
    /// Too much waits for its peer already. It is being closed.
    Backlog,
}

/// A connection, to whoever has something for it.
#[derive(Debug)]
pub(super) struct Handle {
    pub(super) service: ServiceId,
    pub(super) flow: Flow,
    orders: UnboundedSender<Order>,
    /// Bytes that wait for the peer.
    waiting: AtomicUsize,
    most_waiting: usize,
    /// Requests to a backend that has not answered them.
    pub(super) unanswered: Unanswered,
}

impl Handle {
    /// Has the connection send a message.
    pub(super) fn send(&self, message: Bytes) -> Result<(), Unsent> {
        let length = message.len();
        if self.waiting.fetch_add(length, Ordering::Relaxed) + length > self.most_waiting {
            self.waiting.fetch_sub(length, Ordering::Relaxed);
            // A stream with a message missing is worth nothing.
            return match self.orders.send(Order::Close(Ending::Backlog)) {
                Ok(()) => Err(Unsent::Backlog),
                Err(_) => Err(Unsent::Gone),
            };
        }
        self.orders
            .send(Order::Send(message))
            .map_err(|_| Unsent::Gone)
    }

    /// Has it end.
    pub(super) fn close(&self, ending: Ending) {
        // One that is gone need not be told.
        let _ = self.orders.send(Order::Close(ending));
    }

    /// Bytes that wait for the peer.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// More wait.
    pub(super) fn add_waiting(&self, bytes: usize) {
        self.waiting.fetch_add(bytes, Ordering::Relaxed);
    }

    /// So many were sent.
    pub(super) fn sent(&self, bytes: usize) {
        self.waiting.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// The peer's end of a connection, as `by_peer` knows it.
type Peer = (ServiceId, Transport, SocketAddr);

/// The connections of all services.
pub(super) struct Registry {
    open: DashMap<ConnectionId, Arc<Handle>>,
    by_peer: DashMap<Peer, ConnectionId>,
    sources: DashMap<IpAddr, usize>,
    admitted: AtomicUsize,
    half_open: AtomicUsize,
    next: AtomicU64,
    pub(super) limits: Connections,
}

impl Registry {
    /// Without connections. Their ids go up from `first`, which should be random, so that those of an
    /// earlier run mean nothing.
    pub(super) fn new(limits: Connections, first: u64) -> Self {
        Self {
            open: DashMap::new(),
            by_peer: DashMap::new(),
            sources: DashMap::new(),
            admitted: AtomicUsize::new(0),
            half_open: AtomicUsize::new(0),
            next: AtomicU64::new(first),
            limits,
        }
    }

    /// Lets a client's connection in, if the limits do.
    pub(super) fn admit(self: &Arc<Self>, source: IpAddr) -> Result<Admitted, Ending> {
        let source = source_of(source);
        if self.admitted.load(Ordering::Relaxed) >= self.limits.total {
            return Err(Ending::RefusedTotal);
        }
        if self.half_open.load(Ordering::Relaxed) >= self.limits.half_open {
            return Err(Ending::RefusedHalfOpen);
        }
        let mut count = self.sources.entry(source).or_insert(0);
        if *count >= self.limits.per_source {
            return Err(Ending::RefusedSource);
        }
        *count += 1;
        drop(count);
        self.admitted.fetch_add(1, Ordering::Relaxed);
        self.half_open.fetch_add(1, Ordering::Relaxed);
        Ok(Admitted {
            registry: Arc::clone(self),
            source,
            half_open: true,
        })
    }

    /// Makes a connection known.
    pub(super) fn register(
        self: &Arc<Self>,
        service: ServiceId,
        transport: Transport,
        peer: SocketAddr,
        most_waiting: usize,
    ) -> Registered {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let id = ConnectionId(NonZeroU64::new(number).unwrap_or(NonZeroU64::MAX));
        let (orders, inbox) = unbounded_channel();
        let handle = Arc::new(Handle {
            service,
            flow: Flow {
                transport,
                peer,
                connection: Some(id),
            },
            orders,
            waiting: AtomicUsize::new(0),
            most_waiting,
            unanswered: Unanswered::default(),
        });
        self.open.insert(id, Arc::clone(&handle));
        self.by_peer.insert((service, transport, peer), id);
        Registered {
            registry: Arc::clone(self),
            handle,
            inbox,
        }
    }

    /// The connection that a flow of this service goes by, if it is open.
    pub(super) fn find(&self, service: ServiceId, flow: &Flow) -> Option<Arc<Handle>> {
        let id = match flow.connection {
            Some(id) => id,
            None => *self.by_peer.get(&(service, flow.transport, flow.peer))?,
        };
        let handle = Arc::clone(self.open.get(&id)?.value());
        (handle.service == service).then_some(handle)
    }

    /// Is everything over, farewells included?
    pub(super) fn is_quiet(&self) -> bool {
        self.open.is_empty() && self.admitted.load(Ordering::Relaxed) == 0
    }

    /// How many connections there are.
    pub(super) fn count(&self) -> usize {
        self.open.len()
    }

    /// How many of the clients' have not sent a message yet.
    pub(super) fn half_open(&self) -> usize {
        self.half_open.load(Ordering::Relaxed)
    }

    /// Has those end of which `ends` is true.
    pub(super) fn close(&self, ending: Ending, ends: impl Fn(&Handle) -> bool) {
        for handle in &self.open {
            if ends(&handle) {
                handle.close(ending);
            }
        }
    }
}

/// What is counted as one source: an IPv4 address, or the /64 that an IPv6 host has to itself.
fn source_of(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => {
            let [a, b, c, d, ..] = ip.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        ip @ IpAddr::V4(_) => ip,
    }
}

/// A client's connection counts while this lives.
pub(super) struct Admitted {
    registry: Arc<Registry>,
    source: IpAddr,
    half_open: bool,
}

impl Admitted {
    /// Has the client said nothing yet?
    pub(super) const fn is_half_open(&self) -> bool {
        self.half_open
    }

    /// The client has said something.
    pub(super) fn set_open(&mut self) {
        if std::mem::take(&mut self.half_open) {
            self.registry.half_open.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.set_open();
        self.registry.admitted.fetch_sub(1, Ordering::Relaxed);
        if let Entry::Occupied(mut count) = self.registry.sources.entry(self.source) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

/// A connection is known while this lives.
pub(super) struct Registered {
    registry: Arc<Registry>,
    pub(super) handle: Arc<Handle>,
    pub(super) inbox: UnboundedReceiver<Order>,
}

impl Drop for Registered {
    fn drop(&mut self) {
        let Handle { service, flow, .. } = &*self.handle;
        if let Some(id) = flow.connection {
            self.registry.open.remove(&id);
            self.registry
                .by_peer
                .remove_if(&(*service, flow.transport, flow.peer), |_, of| *of == id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVICE: ServiceId = ServiceId(1);

    fn registry(limits: Connections) -> Arc<Registry> {
        Arc::new(Registry::new(limits, 7))
    }

    fn peer(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn refused(registry: &Arc<Registry>, source: &str) -> Option<Ending> {
        registry.admit(source.parse().unwrap()).err()
    }

    #[test]
    fn limits_hold_and_what_ends_makes_room() {
        let registry = registry(Connections {
            total: 4,
            per_source: 2,
            half_open: 3,
            ..Connections::default()
        });
        let admit = |source: &str| registry.admit(source.parse().unwrap()).unwrap();
        let mut first = admit("192.0.2.1");
        let second = admit("192.0.2.1");
        assert_eq!(refused(&registry, "192.0.2.1"), Some(Ending::RefusedSource));
        assert_eq!(
            refused(&registry, "::ffff:192.0.2.1"),
            Some(Ending::RefusedSource)
        );
        let third = admit("2001:db8::1");
        assert_eq!(
            refused(&registry, "192.0.2.9"),
            Some(Ending::RefusedHalfOpen)
        );
        first.set_open();
        first.set_open();
        let fourth = admit("2001:db8::2");
        first.set_open();
        assert_eq!(refused(&registry, "192.0.2.9"), Some(Ending::RefusedTotal));
        drop((first, second, fourth));
        let fifth = admit("2001:db8:0:0:7::3");
        assert_eq!(
            refused(&registry, "2001:db8::4"),
            Some(Ending::RefusedSource)
        );
        drop((third, fifth));
        assert_eq!(registry.half_open(), 0);
        assert!(registry.sources.is_empty());
    }

    #[test]
    fn a_connection_is_found_by_id_and_by_peer_within_its_service() {
        let registry = registry(Connections::default());
        let peer = peer("192.0.2.1:4000");
        let registered = registry.register(SERVICE, Transport::Tcp, peer, 10);
        let flow = registered.handle.flow;
        let by_peer = Flow {
            connection: None,
            ..flow
        };
        for flow in [flow, by_peer] {
            assert!(registry.find(SERVICE, &flow).is_some());
            assert!(registry.find(ServiceId(2), &flow).is_none());
        }
        // A newer one from the same port takes its place, and keeps it when the older one ends.
        let newer = registry.register(SERVICE, Transport::Tcp, peer, 10);
        drop(registered);
        assert!(registry.find(SERVICE, &flow).is_none());
        let found = registry.find(SERVICE, &by_peer).unwrap();
        assert_eq!(found.flow, newer.handle.flow);
    }

    #[test]
    fn what_a_peer_does_not_take_is_bounded() {
        let registry = registry(Connections::default());
        let mut registered = registry.register(SERVICE, Transport::Tcp, peer("192.0.2.1:1"), 10);
        let handle = Arc::clone(&registered.handle);
        assert_eq!(handle.send(Bytes::from_static(b"12345678")), Ok(()));
        assert_eq!(
            handle.send(Bytes::from_static(b"123")),
            Err(Unsent::Backlog)
        );
        assert_eq!(handle.waiting(), 8);
        let order = registered.inbox.try_recv().unwrap();
        assert!(matches!(order, Order::Send(_)), "{order:?}");
        let order = registered.inbox.try_recv().unwrap();
        assert!(matches!(order, Order::Close(Ending::Backlog)), "{order:?}");
        handle.sent(8);
        assert_eq!(handle.send(Bytes::from_static(b"123")), Ok(()));
        drop(registered);
        assert_eq!(handle.send(Bytes::new()), Err(Unsent::Gone));
    }
}
