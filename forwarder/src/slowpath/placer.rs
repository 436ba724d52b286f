//! The rule, asked over a store: what a worker needs of the tables.

mod look;

use std::{
    collections::HashMap,
    io::Write as _,
    net::SocketAddr,
    sync::{Arc, OnceLock},
};

use arc_swap::ArcSwap;
use sip_forwarder_ebpf::{
    abi::{BackendId, BackendRef, SentByKey, ServiceId},
    hash::{self, Digest},
    scan::REFUSAL_TAG,
    verdict::Verdict,
};
use tokio::sync::mpsc::Sender;
use tracing::warn;

use self::look::Look;
use super::{
    counters::Counters,
    placement::{Message, Placed, Tables},
    store::{Store, View},
};
use crate::{
    config::Overload,
    sip::address::{self, Text},
};

/// What the workers must know of a service beyond the maps.
#[derive(Clone, Debug, Default)]
pub struct Manners {
    /// What happens to new calls when nobody takes them.
    pub overload: Overload,
    /// `Retry-After` of a refusal, in seconds.
    pub retry_after: u16,
    /// Users of Request-URIs that are emergency calls.
    pub emergency: Vec<String>,
    /// All its backends.
    pub backends: Vec<BackendId>,
}

/// A store, the rule over it, and the slow path's counters.
pub struct Placer<S> {
    store: S,
    counters: Arc<Counters>,
    hash_key: [u64; 2],
    /// Key of the hash in To-tags of refusals, which strangers see and must not learn slots from.
    refusal_key: [u64; 2],
    recent_mask: u32,
    manners: ArcSwap<HashMap<ServiceId, Manners>>,
    /// Where unreachable backends are told.
    unreachable: OnceLock<Sender<BackendRef>>,
}

impl<S: Store> Placer<S> {
    /// Over this store, whose recent table has so many lines (a power of two).
    pub fn new(store: S, counters: Arc<Counters>, hash_key: [u64; 2], recent_lines: u32) -> Self {
        Self {
            store,
            counters,
            hash_key,
            refusal_key: [&b"refusal 1"[..], b"refusal 2"]
                .map(|label| hash::digest(hash_key, label).0),
            recent_mask: recent_lines - 1,
            manners: ArcSwap::default(),
            unreachable: OnceLock::new(),
        }
    }

    /// The store.
    #[must_use]
    pub const fn store(&self) -> &S {
        &self.store
    }

    /// The tables as they are now.
    fn look(&self) -> Look<'_, S> {
        Look {
            placer: self,
            tables: self.store.look(),
        }
    }
}

/// Tables whose manners the daemon sets.
pub trait Managed: Tables {
    /// Tells how services behave when nobody takes new calls. Those not named drop them.
    fn set_manners(&self, manners: HashMap<ServiceId, Manners>);

    /// Tells here from now on which backends messages did not reach.
    fn tell_unreachable(&self, to: Sender<BackendRef>);
}

impl<S: Store> Managed for Placer<S> {
    fn set_manners(&self, manners: HashMap<ServiceId, Manners>) {
        self.manners.store(Arc::new(manners));
    }

    fn tell_unreachable(&self, to: Sender<BackendRef>) {
        // Only the daemon asks for it, once.
        let _ = self.unreachable.set(to);
    }
}

impl<S: Store> Tables for Placer<S> {
    fn place(&self, service: ServiceId, message: &Message<'_>) -> Placed {
        self.look().place(service, message).unwrap_or_else(|error| {
            warn!(%error, "a message could not be placed");
            Placed::Dropped(Verdict::DroppedTableFault)
        })
    }

    fn refusal_tag(&self, call_id: &[u8]) -> String {
        let digest = hash::digest(self.refusal_key, call_id).0;
        format!("{}{digest:016x}", String::from_utf8_lossy(&REFUSAL_TAG))
    }

    fn is_backend(&self, service: ServiceId, source: SocketAddr) -> bool {
        matches!(self.store.look().origin(source), Ok(Some(origin)) if origin.service == service)
    }

    fn spiral_source(&self, source: SocketAddr) -> Option<SocketAddr> {
        let tables = self.store.look();
        let origin = tables.origin(source).ok()??;
        Some(tables.service(origin.service).ok()?.vip.into())
    }

    fn unreachable(&self, service: ServiceId, destination: SocketAddr) {
        if let (Some(told), Ok(Some(origin))) = (
            self.unreachable.get(),
            self.store.look().origin(destination),
        ) && origin.service == service
        {
            // Where there is no room, others have told of it.
            let _ = told.try_send(origin);
        }
    }

    fn takes_calls(&self, service: ServiceId) -> bool {
        let look = self.look();
        let Ok(service) = look.tables.service(service) else {
            return false;
        };
        // Any slot that admits somebody will do; with somebody open, all of them admit somebody.
        look.slot(&service, Digest(0))
            .is_ok_and(|slot| look.live(&service, slot.admit()).is_some())
    }

    fn is_own_name(&self, service: ServiceId, host: &[u8], port: u16) -> bool {
        let key = SentByKey::new(hash::digest(self.hash_key, &canonical(host)).0, port);
        matches!(self.store.look().named(&key), Ok(Some(name)) if name.service == service && !name.backend.is_some())
    }

    fn count(&self, verdict: Verdict) {
        self.counters.verdict(verdict);
    }
}

/// A host's text as the sent-by map knows it: lower case, and an IPv6 address in its one canonical
/// form (RFC 5952) whatever way it was written.
#[must_use]
pub fn canonical(host: &[u8]) -> Text {
    let inner = host.strip_prefix(b"[").and_then(|h| h.strip_suffix(b"]"));
    let address = inner.and_then(|text| {
        std::str::from_utf8(text)
            .ok()?
            .parse::<std::net::Ipv6Addr>()
            .ok()
    });
    let Some(address) = address else {
        return address::lower_case(host);
    };
    let mut text = Text::new();
    // Memory takes everything.
    drop(write!(text, "[{address}]"));
    text
}

/// Seconds of the monotonic clock, as the program reads it.
#[must_use]
pub fn seconds() -> u32 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the clock exists and the time is ours to write.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &raw mut time) };
    time.tv_sec as u32
}
