//! The tables' contents, wherever they lie: in the kernel's maps beside the XDP program, or in this
//! process.

use std::{fmt::Display, net::SocketAddr, sync::Arc};

use sip_forwarder_ebpf::{
    abi::{Affinity, Backend, BackendId, BackendRef, SentByKey, Service, ServiceId, Slot},
    hash::Digest,
};

use super::recent::Line;

/// Tables that all workers read and write at once.
pub trait Store: Send + Sync {
    /// What may go wrong.
    type Error: Display;
    /// The tables, looked at.
    type View<'a>: View<Error = Self::Error>
    where
        Self: 'a;

    /// A look at the tables: to be taken for each message, and not to be held beyond it.
    fn look(&self) -> Self::View<'_>;
}

/// What the rule's questions are answered from.
pub trait View {
    /// What may go wrong.
    type Error: Display;

    /// A service.
    fn service(&self, id: ServiceId) -> Result<Service, Self::Error>;

    /// A slot of a service's live ring.
    fn slot(&self, service: &Service, slot: u32) -> Result<Slot, Self::Error>;

    /// A backend.
    fn backend(&self, id: BackendId) -> Result<Backend, Self::Error>;

    /// What is known of a call that is not at its home.
    fn call(&self, service: &Service, call: Digest) -> Result<Option<Affinity>, Self::Error>;

    /// Writes down where a call is that is not at its home, and that there is something to look for.
    fn remember_call(
        &self,
        service: &Service,
        call: Digest,
        entry: Affinity,
    ) -> Result<(), Self::Error>;

    /// Returns a line of the recent table.
    fn recent(&self, line: u32) -> Result<&Line, Self::Error>;

    /// Takes the next turn of a service under policy `round-robin`; turns count up from 0.
    fn next_turn(&self, service: &Service) -> Result<u64, Self::Error>;

    /// Whom a host and port in Via or Route stand for.
    fn named(&self, key: &SentByKey) -> Result<Option<BackendRef>, Self::Error>;

    /// Which backend sends from this address.
    fn origin(&self, source: SocketAddr) -> Result<Option<BackendRef>, Self::Error>;
}

/// A store is shared by workers and control.
impl<S: Store> Store for Arc<S> {
    type Error = S::Error;
    type View<'a>
        = S::View<'a>
    where
        Self: 'a;

    fn look(&self) -> S::View<'_> {
        (**self).look()
    }
}
