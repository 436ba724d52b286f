//! One message and one look at the tables: what the rule is asked, and what it wants remembered.

use sip_forwarder_ebpf::{
    abi::{
        Affinity, Backend, BackendFlags, BackendId, Event, Key, Policy, RING_SLOTS, SentByKey,
        Service, ServiceId, Slot,
    },
    hash::{self, Digest},
    rule::{self, Decision, Entry, Found},
    verdict::Verdict,
};

use super::{
    super::{
        placement::{Message, Placed, Placement, Starting},
        recent::Line,
        store::{Store, View},
    },
    Manners, Placer, canonical, seconds,
};
use crate::{config::Overload, sip::address};

/// The rule, asked over one look at the tables.
pub(super) struct Look<'a, S: Store + 'a> {
    pub(super) placer: &'a Placer<S>,
    pub(super) tables: S::View<'a>,
}

impl<S: Store> Look<'_, S> {
    /// Decides on a message, writes down what the rule wants remembered, and counts it.
    pub(super) fn place(&self, id: ServiceId, message: &Message<'_>) -> Result<Placed, S::Error> {
        let service = self.tables.service(id)?;
        let call = hash::digest(self.placer.hash_key, message.call_id);
        let (mut found, unfit) = self.find(&service, message, call)?;
        let mut decision = rule::decide(&found);
        if !decision.backend.is_some() {
            let manners = self.placer.manners.load();
            let manners = manners.get(&id);
            found.admit = self.last_resort(&service, message, call, manners);
            decision = rule::decide(&found);
            if !decision.backend.is_some() {
                return Ok(refusal(message, manners));
            }
            if message.start.is_some() {
                decision.verdict = Verdict::ForwardedEmergency;
            }
        }
        if decision.remember_start {
            let winner = self.claim(&service, call, decision.backend, unfit)?;
            if winner != decision.backend {
                decision = rule::follow(&found, winner);
            }
        }
        let backend = self.tables.backend(decision.backend)?;
        self.remember(&service, call, decision, found.entry, &backend)?;
        self.placer.counters.to_backend(decision.backend);
        Ok(Placed::To(Placement {
            backend: backend.endpoint.into(),
            verdict: decision.verdict,
        }))
    }

    /// Who gets what is never refused while a backend lives, though none takes new calls: emergency
    /// calls, and messages of calls whose home is dead. The home if it lives, else anybody.
    fn last_resort(
        &self,
        service: &Service,
        message: &Message<'_>,
        call: Digest,
        manners: Option<&Manners>,
    ) -> BackendId {
        let Some(manners) = manners else {
            return BackendId::NONE;
        };
        let may_be_refused =
            |start: Starting<'_>| !address::is_emergency(start.uri, &manners.emergency);
        if message.start.is_some_and(may_be_refused) {
            return BackendId::NONE;
        }
        let home = self
            .slot(service, call)
            .map_or(BackendId::NONE, |slot| self.live(service, slot.home()));
        let live = || {
            let all = manners.backends.iter().copied();
            all.filter(|&id| self.live(service, id).is_some())
        };
        let turn = call.0 as usize % live().count().max(1);
        // One may have died since they were counted.
        let other = live().nth(turn).or_else(|| live().next());
        home.or(other.unwrap_or(BackendId::NONE))
    }

    /// Returns everything the rule wants to know, and the backend that the recent table names if that
    /// one may not have the message.
    fn find(
        &self,
        service: &Service,
        message: &Message<'_>,
        call: Digest,
    ) -> Result<(Found, BackendId), S::Error> {
        let slot = self.slot(service, call)?;
        let (entry, known) = self.entry(service, call)?;
        let seen = if message.role.starts() {
            self.recent_line(service, call)?
                .find(call.fingerprint(service.id))
        } else {
            BackendId::NONE
        };
        let recent = self.live(service, seen);
        let unfit = if recent.is_some() {
            BackendId::NONE
        } else {
            seen
        };
        // A turn is taken only by a call that the policy places.
        let chosen = match message.start {
            Some(start) if !recent.is_some() => self.chosen_slot(service, &start, slot)?,
            _ => slot,
        };
        let found = Found {
            role: message.role,
            entry,
            known,
            named: self.named(service, message.host)?,
            recent,
            admit: self.live(service, chosen.admit()),
            home: self.live(service, slot.home()),
            slot,
        };
        Ok((found, unfit))
    }

    /// The slot whose `admit` a new call gets, by the service's policy and key.
    fn chosen_slot(
        &self,
        service: &Service,
        start: &Starting<'_>,
        own: Slot,
    ) -> Result<Slot, S::Error> {
        if service.policy == Policy::ROUND_ROBIN {
            let turn = self.tables.next_turn(service)? % u64::from(RING_SLOTS);
            return self.tables.slot(service, turn as u32);
        }
        let key = if start.method == b"REGISTER" {
            service.register_key
        } else {
            service.key
        };
        let value = match key {
            Key::TO => start.to,
            Key::FROM => start.from,
            Key::REQUEST_URI => start.uri,
            _ => return Ok(own),
        };
        let record = address::address_of_record(value);
        self.slot(service, hash::digest(self.placer.hash_key, &record))
    }

    pub(super) fn slot(&self, service: &Service, call: Digest) -> Result<Slot, S::Error> {
        self.tables.slot(service, call.slot())
    }

    pub(super) fn live(&self, service: &Service, id: BackendId) -> BackendId {
        match self.tables.backend(id) {
            Ok(b) if b.flags.has(BackendFlags::ALIVE) && b.service == service.id => id,
            _ => BackendId::NONE,
        }
    }

    fn entry(&self, service: &Service, call: Digest) -> Result<(Entry, BackendId), S::Error> {
        let Some(entry) = self.tables.call(service, call)? else {
            return Ok((Entry::Absent, BackendId::NONE));
        };
        let same = self
            .tables
            .backend(entry.backend)
            .is_ok_and(|b| b.incarnation == entry.incarnation);
        let known = self.live(service, entry.backend);
        Ok(if same && known.is_some() {
            (Entry::Live, known)
        } else {
            (Entry::Stale, BackendId::NONE)
        })
    }

    fn named(&self, service: &Service, host: Option<(&[u8], u16)>) -> Result<BackendId, S::Error> {
        let Some((text, port)) = host else {
            return Ok(BackendId::NONE);
        };
        let key = SentByKey::new(hash::digest(self.placer.hash_key, &canonical(text)).0, port);
        Ok(match self.tables.named(&key)? {
            Some(name) if name.service == service.id => self.live(service, name.backend),
            _ => BackendId::NONE,
        })
    }

    fn recent_line(&self, service: &Service, call: Digest) -> Result<&Line, S::Error> {
        let line = call.recent_line(service.id, self.placer.recent_mask);
        self.tables.recent(line)
    }

    /// Writes down that an out-of-dialog request goes to `backend`, unless another worker or the XDP
    /// program was first. Returns the backend that it goes to.
    fn claim(
        &self,
        service: &Service,
        call: Digest,
        backend: BackendId,
        unfit: BackendId,
    ) -> Result<BackendId, S::Error> {
        let line = self.recent_line(service, call)?;
        let claim = line.claim(call.fingerprint(service.id), backend, unfit);
        if claim.evicted {
            self.placer.counters.event(Event::RECENT_EVICTED);
        }
        Ok(claim.backend)
    }

    fn remember(
        &self,
        service: &Service,
        call: Digest,
        decision: Decision,
        entry: Entry,
        backend: &Backend,
    ) -> Result<(), S::Error> {
        if decision.remember_call {
            if entry == Entry::Absent {
                self.placer.counters.event(Event::AFFINITY_ADDED);
            }
            let entry = Affinity {
                backend: decision.backend,
                incarnation: backend.incarnation,
                second: seconds(),
            };
            self.tables.remember_call(service, call, entry)?;
        }
        Ok(())
    }
}

/// What becomes of a message that no backend may have.
fn refusal(message: &Message<'_>, manners: Option<&Manners>) -> Placed {
    match manners {
        Some(manners) if message.start.is_some() => match manners.overload {
            Overload::Reject => Placed::Refused {
                retry_after: manners.retry_after,
            },
            Overload::Drop => Placed::Dropped(Verdict::DroppedOverload),
        },
        _ => Placed::Dropped(Verdict::DroppedNoBackend),
    }
}
